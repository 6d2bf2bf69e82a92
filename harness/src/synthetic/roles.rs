//! Unique keys without a retry: which columns or references of a table count through their values, and which of them together.
//!
//! Called by `plan` once a table's columns and references are known. A key is met when one of its units takes a different value in
//! every row, or when the rows are dealt out to one unit and the others count within each share.

use super::catalog::{Catalog, Unique};
use super::expression::{Expression, parse, words};
use super::keys::Deal;
use super::plan::{Source, Table};
use super::value::{Scalar, Shape};

/// How the values of a column, or the keys of a reference, are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// At random, the popular ones more often.
    Free,
    /// Each row another one.
    Distinct,
    /// Rows are dealt out to it.
    Lead(Deal),
    /// Counts within a share of the leading unit: the rank there, divided, modulo.
    Rank { deal: Deal, divisor: u64, radix: u64 },
}

/// A column, or all columns of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Column(usize),
    Reference(usize),
}

/// Gives every unit its role, and lowers the number of rows where a key has no room for more.
pub(super) fn assign(catalog: &Catalog, relation: i64, table: &mut Table) {
    let mut keys: Vec<(&Unique, Vec<usize>)> = Vec::new();
    for unique in catalog.unique.iter().filter(|unique| unique.relation == relation) {
        if let Some(columns) = columns_of(unique, table) {
            keys.push((unique, columns));
        }
    }
    for (place, column) in table.columns.iter_mut().enumerate() {
        let is_nulls_key = |(unique, columns): &(&Unique, Vec<usize>)| {
            columns.contains(&place) && (unique.nulls_equal || unique.expressions.is_some())
        };
        if keys.iter().any(is_nulls_key) {
            column.nulls = 0;
        }
    }
    // Single columns first: what differs by itself serves every wider key.
    keys.sort_by_key(|(_, columns)| columns.len());
    for (unique, columns) in &keys {
        meet(unique, columns, table);
    }
}

/// Columns whose values decide; none for keys that nothing here can help.
fn columns_of(unique: &Unique, table: &mut Table) -> Option<Vec<usize>> {
    let mut columns: Vec<usize> =
        unique.columns.iter().filter_map(|number| table.column_of(*number)).collect();
    if let Some(expressions) = &unique.expressions {
        if unique.operators.is_some() {
            spread_range(expressions, table);
        }
        let words = words(expressions);
        columns.extend((0..table.columns.len()).filter(|place| words.contains(&table.columns[*place].name)));
    }
    if let Some(operators) = &unique.operators {
        // Of an exclusion constraint, one range that never overlaps is enough.
        let is_range = |place: &usize| {
            matches!(table.columns[*place].shape, Shape::Range { .. } | Shape::Multirange { .. })
        };
        if let Some(place) = columns.iter().copied().find(is_range) {
            columns = vec![place];
        } else if !operators.iter().all(|operator| operator == "=") && unique.expressions.is_none() {
            return None;
        }
    }
    columns.sort_unstable();
    columns.dedup();
    (!columns.is_empty()).then_some(columns)
}

/// `tstzrange(a, b)` in an exclusion constraint: `a` differs in every row, and `b` follows close behind.
fn spread_range(expressions: &str, table: &mut Table) {
    let Expression::Call(name, arguments) = parse(expressions) else { return };
    let [Expression::Column(low), Expression::Column(high), ..] = arguments.as_slice() else { return };
    let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
    let (Some(low), Some(high)) = (place(low), place(high)) else { return };
    let are_made = [low, high].iter().all(|place| table.columns[*place].source == Source::Made);
    if name.ends_with("range") && are_made {
        table.columns[low].role = Role::Distinct;
        table.columns[low].nulls = 0;
        table.columns[high].nulls = 0;
        let beside = super::demand::Beside { other: low, comparison: super::checks::Comparison::Greater };
        table.columns[high].beside.iter_mut().for_each(|slot| *slot = Some(beside));
    }
}

fn meet(unique: &Unique, columns: &[usize], table: &mut Table) {
    let mut units: Vec<Unit> = Vec::new();
    for &column in columns {
        let unit = match table.columns[column].source {
            Source::Reference { reference, .. } => Unit::Reference(reference),
            _ => Unit::Column(column),
        };
        if !units.contains(&unit) {
            units.push(unit);
        }
    }
    let differs = |table: &Table, unit: &Unit| match unit {
        Unit::Column(place) => {
            let column = &table.columns[*place];
            column.role == Role::Distinct || matches!(column.source, Source::Sequence { .. })
        }
        Unit::Reference(place) => table.references[*place].role == Role::Distinct,
    };
    if units.iter().any(|unit| differs(table, unit)) {
        return;
    }
    let rows = table.rows;
    let roomy = units
        .iter()
        .filter(|unit| matches!(unit, Unit::Column(_)) && table.role(**unit) == Role::Free)
        .max_by_key(|unit| table.capacity(**unit))
        .copied();
    let is_of_parent =
        units.iter().any(|unit| matches!(unit, Unit::Reference(_)) && table.capacity(*unit) > 0);
    // `(order, line)`: lines count within their order, though they could count through the table.
    let counts = |unit: &Unit| is_of_parent && table.is_integer(*unit);
    if let Some(unit) = roomy.filter(|unit| table.capacity(*unit) >= rows && !counts(unit)) {
        table.set_role(unit, Role::Distinct);
        return;
    }
    let usable: Vec<Unit> = units.into_iter().filter(|unit| table.capacity(*unit) > 0).collect();
    match usable.as_slice() {
        [] => {}
        [unit] => single(unique, *unit, table),
        _ => deal(unique, &usable, table),
    }
}

/// A key of one unit: no more rows than it has values, unless the others may be null.
fn single(unique: &Unique, unit: Unit, table: &mut Table) {
    if table.role(unit) != Role::Free {
        return;
    }
    let capacity = table.capacity(unit);
    let may_be_null = table.may_be_null(unit) && !unique.nulls_equal && unique.expressions.is_none();
    if unique.predicate.is_some() && capacity < table.rows && !may_be_null {
        // Only rows of the predicate must differ: left to trial.
        table.uncertain.push(unique.name.clone());
        return;
    }
    table.set_role(unit, Role::Distinct);
    if !may_be_null {
        table.lower(capacity, &unique.name);
    }
}

/// A key of several units, none of which has enough values alone.
fn deal(unique: &Unique, units: &[Unit], table: &mut Table) {
    // The unit with most values leads, unless one leads already.
    let leads = |unit: &&Unit| matches!(table.role(**unit), Role::Lead(_));
    let lead = units.iter().find(leads).or_else(|| {
        let free = units.iter().filter(|unit| table.role(**unit) == Role::Free);
        free.max_by_key(|unit| (matches!(unit, Unit::Reference(_)), table.capacity(**unit)))
    });
    let Some(&lead) = lead else {
        table.uncertain.push(unique.name.clone());
        return;
    };
    let rest: Vec<Unit> = units.iter().copied().filter(|unit| *unit != lead).collect();
    let ranks_max = rest.iter().fold(1_u64, |product, unit| product.saturating_mul(table.capacity(*unit)));
    let leaders = table.capacity(lead);
    let deal = match table.role(lead) {
        Role::Lead(deal) => deal,
        _ => {
            table.lower(leaders.saturating_mul(ranks_max), &unique.name);
            Deal::new(table.rows, leaders, ranks_max)
        }
    };
    if rest.iter().any(|unit| !matches!(table.role(*unit), Role::Free | Role::Rank { .. })) {
        table.uncertain.push(unique.name.clone());
        return;
    }
    table.set_role(lead, Role::Lead(deal));
    let mut divisor = 1_u64;
    for unit in rest {
        let radix = table.capacity(unit);
        if table.role(unit) == Role::Free {
            table.set_role(unit, Role::Rank { deal, divisor, radix });
        }
        divisor = divisor.saturating_mul(radix);
    }
}

impl Table {
    fn role(&self, unit: Unit) -> Role {
        match unit {
            Unit::Column(place) => self.columns[place].role,
            Unit::Reference(place) => self.references[place].role,
        }
    }

    fn set_role(&mut self, unit: Unit, role: Role) {
        match unit {
            Unit::Column(place) => self.columns[place].role = role,
            Unit::Reference(place) => self.references[place].role = role,
        }
    }

    /// Different values of a unit in every case; none where they follow from elsewhere.
    fn capacity(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Column(place) => {
                let column = &self.columns[place];
                if column.beside.iter().any(Option::is_some) {
                    return 0;
                }
                column.makers.iter().map(super::generate::Maker::capacity).min().unwrap_or(0)
            }
            Unit::Reference(place) => self.references[place].choices(self.rows),
        }
    }

    fn is_integer(&self, unit: Unit) -> bool {
        let Unit::Column(place) = unit else { return false };
        let Shape::Scalar { scalar, .. } = &self.columns[place].shape else { return false };
        scalar.has_units_of(Scalar::Int8)
    }

    fn may_be_null(&self, unit: Unit) -> bool {
        match unit {
            Unit::Column(_) => false,
            Unit::Reference(place) => self.references[place].nullable,
        }
    }

    /// No more rows than this, because of a constraint.
    pub(super) fn lower(&mut self, rows: u64, constraint: &str) {
        if rows < self.rows {
            let most = if rows == 1 { "one row".to_owned() } else { format!("{rows} rows") };
            self.shortfall = Some(format!("the key {constraint} of {} has room for {most} only", self.name));
            self.rows = rows;
        }
    }
}
