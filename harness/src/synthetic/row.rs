//! Evaluates plans: any value of any row, from the row's number alone.
//!
//! Called by `copy` and `trial`, which write rows, and by `references`, which looks at parents.

use super::checks::Comparison;
use super::demand::Beside;
use super::generate::Number;
use super::keys::{below, mix, popular};
use super::plan::{Column, Source, Table};
use super::references::{Parent, Reference, index_key};
use super::roles::Role;
use super::value::{DAY_US, Scalar, Shape, Value};

/// The first rows have no null that nothing asks for, so that a change to any column meets a value.
const FULL_ROWS: u64 = 4;
/// Keys that follow from keys.
const DEPTH_MAX: u32 = 24;

/// Plans, by the catalog's order.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) tables: &'a [Option<Table>],
}

/// A row: its number, and how often it was tried before.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) row: u64,
    pub(super) attempt: u64,
}

impl At {
    /// A random number for a key.
    const fn random(self, key: u64) -> u64 {
        mix(key ^ mix(self.row ^ (self.attempt << 44)))
    }

    /// A number that no other row has, in no attempt.
    const fn unique(self, rows: u64) -> u64 {
        match self.attempt {
            0 => self.row,
            attempt => rows + self.row * 256 + attempt - 1,
        }
    }

    /// Whether texts are kept plain, in case that an unknown condition wants them so.
    const fn is_plain(self) -> bool {
        self.attempt > 0 && (self.attempt / 2).is_multiple_of(2)
    }

    /// Whether roles are given up for random choices: every other attempt, once the first ones failed.
    const fn is_free(self) -> bool {
        self.attempt > 3 && self.attempt % 2 == 1
    }
}

impl Rows<'_> {
    /// All values of a row in the order of the table's columns.
    pub(super) fn row(&self, table: &Table, at: At, out: &mut Vec<Value>) {
        out.clear();
        out.extend((0..table.columns.len()).map(|column| self.value(table, column, at, 0)));
    }

    /// A value of a row by its column's place; `depth` counts keys that follow from keys.
    pub(super) fn value(&self, table: &Table, place: usize, at: At, depth: u32) -> Value {
        if depth > DEPTH_MAX {
            return Value::Null;
        }
        let column = &table.columns[place];
        match &column.source {
            Source::Sequence { first, step, .. } => {
                let row = at.unique(table.rows);
                Value::Units(first.wrapping_add(step.wrapping_mul(row as i64)))
            }
            Source::Reference { reference, part } => {
                let reference = &table.references[*reference];
                if !column.not_null && self.is_null(table, reference, at) {
                    return Value::Null;
                }
                self.parent_row(table, reference, at, depth)
                    .map_or(Value::Null, |parent| self.part_of_parent(reference, *part, parent, depth))
            }
            Source::Made => self.made(table, column, at, depth),
        }
    }

    fn made(&self, table: &Table, column: &Column, at: At, depth: u32) -> Value {
        if column.is_plain {
            // Most columns of most tables, and the way that has to be short.
            if column.role == Role::Distinct {
                let value = at.unique(table.rows);
                let is_plain = at.is_plain();
                return column.makers[0].make(Number { value, distinct: true, salt: column.key, is_plain });
            }
            let random = at.random(column.key);
            if column.nulls > 0 && at.row >= FULL_ROWS && below(mix(random), 100) < column.nulls {
                return Value::Null;
            }
            let is_plain = at.is_plain();
            return column.makers[0].make(Number { value: random, distinct: false, salt: 0, is_plain });
        }
        let case = case(table, at);
        let random = at.random(column.key);
        let may_be_null = !column.not_null && column.null[case].is_none() && column.role == Role::Free;
        if may_be_null && at.row >= FULL_ROWS && below(mix(random), 100) < column.nulls {
            return Value::Null;
        }
        if at.attempt > 0 && !column.hints.is_empty() && random & 1 == 0 {
            return column.hints[below(mix(random ^ 1), column.hints.len() as u64) as usize].clone();
        }
        if let Some(beside) = column.beside[case]
            && let Some(value) = self.beside(table, column, beside, at, depth)
        {
            return value;
        }
        column.makers[case].make(number(table, column, at, random))
    }

    /// A value that follows from another of the row; none where that is null or not a number.
    fn beside(&self, table: &Table, column: &Column, beside: Beside, at: At, depth: u32) -> Option<Value> {
        let other = self.value(table, beside.other, at, depth + 1);
        if beside.comparison == Comparison::Equal {
            return (other != Value::Null).then_some(other);
        }
        let (Value::Units(units), Shape::Scalar { scalar, low, high }) = (other, &column.shape) else {
            return None;
        };
        let close = table.columns[beside.other].role == Role::Distinct;
        let distance = below(at.random(column.key ^ 0x6265), spread(*scalar, close)) as i64;
        let moved = match beside.comparison {
            Comparison::Greater | Comparison::Unequal => units.saturating_add(1 + distance),
            Comparison::GreaterOrEqual => units.saturating_add(distance),
            Comparison::Less => units.saturating_sub(1 + distance),
            _ => units.saturating_sub(distance),
        };
        let maker = &column.makers[case(table, at)];
        let (low, high) = maker.bounds(*low, *high);
        Some(Value::Units(moved.clamp(low, high.max(low))))
    }

    /// Whether a row refers to nothing though it could.
    fn is_null(&self, table: &Table, reference: &Reference, at: At) -> bool {
        if !reference.nullable {
            return false;
        }
        let case = case(table, at);
        let demanded = reference.columns.iter().map(|column| table.columns[*column].null[case]);
        let demanded: Vec<Option<bool>> = demanded.collect();
        if demanded.contains(&Some(true)) {
            return true;
        }
        let share = reference.columns.iter().map(|column| table.columns[*column].nulls).max().unwrap_or(0);
        let wants = demanded.contains(&Some(false)) || at.row < FULL_ROWS && !reference.is_own;
        !wants && below(at.random(reference.key ^ 0x6e75), 100) < share
    }

    /// The parent of a row by its number.
    fn parent_row(&self, table: &Table, reference: &Reference, at: At, depth: u32) -> Option<u64> {
        if reference.count == 0 {
            return None;
        }
        let random = at.random(reference.key);
        if let Some(index) = &reference.index {
            let own = reference.shared.iter().map(|part| reference.columns[*part]);
            let values = own.map(|column| (column, self.value(table, column, at, depth + 1)));
            let parents = index.get(&index_key(table, values))?;
            let chosen = parents[popular(random, parents.len() as u64) as usize];
            return Some(chosen);
        }
        let size = reference.count;
        let place = match reference.role {
            Role::Distinct if reference.is_own => {
                return at.row.checked_sub(1).or((!reference.nullable).then_some(size - 1));
            }
            Role::Distinct if at.row >= size => return None,
            Role::Distinct => reference.permutation.at(at.row),
            Role::Lead(deal) if !at.is_free() => reference.permutation.at(deal.at(at.row).0),
            Role::Rank { deal, divisor, radix } if !at.is_free() => {
                let (lead, rank) = deal.at(at.row);
                reference.permutation.at((rank / divisor % radix).wrapping_add(mix(lead) % size))
            }
            // Rows refer to earlier ones of their own table, so that there is no cycle among them.
            _ if reference.is_own => {
                let earlier = popular(random, at.row.max(1));
                return (at.row > 0 || !reference.nullable).then_some(earlier);
            }
            _ => reference.permutation.at(popular(random, size)),
        };
        Some(reference.allowed.as_ref().map_or(place, |allowed| allowed[place as usize]))
    }

    fn part_of_parent(&self, reference: &Reference, part: usize, parent: u64, depth: u32) -> Value {
        match &reference.parent {
            Parent::Keys(keys) => keys[parent as usize][part].clone(),
            Parent::Table(target) => match &self.tables[*target] {
                Some(table) => self.value(
                    table,
                    reference.target_places[part],
                    At { row: parent, attempt: 0 },
                    depth + 1,
                ),
                None => Value::Null,
            },
            Parent::Nothing => Value::Null,
        }
    }

    /// The shared columns of a parent as an index holds them.
    pub(super) fn shared_of_parent(&self, table: &Table, reference: &Reference, parent: u64) -> String {
        self.parts_of_parent(table, reference, &reference.shared, parent)
    }

    /// Some parts of a parent as an index holds them.
    pub(super) fn parts_of_parent(
        &self,
        table: &Table,
        reference: &Reference,
        parts: &[usize],
        parent: u64,
    ) -> String {
        let values = parts
            .iter()
            .map(|part| (reference.columns[*part], self.part_of_parent(reference, *part, parent, 0)));
        index_key(table, values)
    }
}

/// The case that a row takes: the first rows one each, so that every case has one.
fn case(table: &Table, at: At) -> usize {
    if at.attempt == 0 && at.row < table.cases as u64 {
        return at.row as usize;
    }
    if table.cases == 1 { 0 } else { below(at.random(table.key), table.cases as u64) as usize }
}

fn number(table: &Table, column: &Column, at: At, random: u64) -> Number {
    let is_plain = at.is_plain();
    let distinct = |value| Number { value, distinct: true, salt: column.key, is_plain };
    match column.role {
        Role::Distinct => distinct(at.unique(table.rows)),
        Role::Lead(deal) if !at.is_free() => distinct(deal.at(at.row).0),
        Role::Rank { deal, divisor, radix } if !at.is_free() => {
            let (lead, rank) = deal.at(at.row);
            distinct((rank / divisor % radix).wrapping_add(mix(lead) % radix) % radix)
        }
        _ => Number { value: random, distinct: false, salt: 0, is_plain },
    }
}

/// How far a value may lie from the one it follows, in units; `close` where the other one differs in every row.
const fn spread(scalar: Scalar, close: bool) -> u64 {
    match scalar {
        Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Oid | Scalar::Date | Scalar::Lsn => {
            if close {
                1
            } else {
                20
            }
        }
        Scalar::Numeric { .. } | Scalar::Float4 | Scalar::Float8 | Scalar::Money => {
            if close {
                1
            } else {
                5_000
            }
        }
        Scalar::Time | Scalar::TimeTz => {
            if close {
                900_000
            } else {
                3_600_000_000
            }
        }
        Scalar::Timestamp | Scalar::TimestampTz | Scalar::Interval => {
            if close {
                1_800_000_000
            } else {
                20 * DAY_US as u64
            }
        }
    }
}
