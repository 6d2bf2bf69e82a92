//! A plan for each table: how many rows, and how every column of a row follows from the row's number.
//!
//! Called by `fill`; `row` evaluates a plan. `references` and `roles` make the parts that concern keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Request;
use super::catalog::{Catalog, Check, Column as CatalogColumn, Relation};
use super::checks::{Conjunction, alternatives};
use super::demand::{Beside, Case, Columns, cases};
use super::expression::{constants, parse, words};
use super::generate::Maker;
use super::keys::column_keys;
use super::order;
use super::partitions;
use super::references::{self, Reference};
use super::roles::{self, Role};
use super::types::{Resolved, Types, condition};
use super::value::{Shape, Value};

/// Per cent of the values of a nullable column that are null: from the first, up to this many more.
const NULLS_MIN: u64 = 3;
const NULLS_SPREAD: u64 = 30;

/// What is known of the tables before their rows are planned.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Which tables are to be filled, in the catalog's order.
    pub(super) empty: Vec<bool>,
    /// Keys of tables that are not, by the table that refers to them and its constraint.
    pub(super) keys: BTreeMap<(i64, String), Arc<[Vec<String>]>>,
}

impl State {
    /// Whether a table is to be filled.
    pub(super) fn is_to_fill(&self, catalog: &Catalog, oid: i64) -> bool {
        let place = catalog.relations.iter().position(|relation| relation.oid == oid);
        place.is_some_and(|place| self.empty[place])
    }
}

/// Plans of all tables.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the catalog's order; absent for tables that are left alone.
    pub(super) tables: Vec<Option<Table>>,
    /// Tables to fill, those that others refer to first.
    pub(super) order: Vec<usize>,
}

/// A table's plan.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    /// Rows to write.
    pub(super) rows: u64,
    /// Why there are fewer than asked for.
    pub(super) shortfall: Option<String>,
    pub(super) columns: Vec<Column>,
    pub(super) references: Vec<Reference>,
    /// Ways to meet the conditions; each row takes one.
    pub(super) cases: usize,
    /// Constraints that are only tried.
    pub(super) uncertain: Vec<String>,
    /// Decides cases.
    pub(super) key: u64,
    pub(super) partitioned: bool,
}

/// A column that is written.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) quoted: String,
    pub(super) number: i16,
    pub(super) shape: Shape,
    pub(super) not_null: bool,
    pub(super) source: Source,
    pub(super) role: Role,
    pub(super) key: u64,
    /// Of 100 values.
    pub(super) nulls: u64,
    /// Case by case.
    pub(super) makers: Vec<Maker>,
    pub(super) null: Vec<Option<bool>>,
    pub(super) beside: Vec<Option<Beside>>,
    /// Has one case, no hint, and depends on no other column or row.
    pub(super) is_plain: bool,
    /// Constants of conditions that were not understood; worth a try.
    pub(super) hints: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// From here on in steps; the sequence is set past them.
    Sequence {
        name: String,
        first: i64,
        step: i64,
    },
    /// A part of a foreign key.
    Reference {
        reference: usize,
        part: usize,
    },
    Made,
}

impl Table {
    /// Whether every value has a binary form.
    pub(super) fn is_binary(&self) -> bool {
        self.columns.iter().all(|column| column.shape.is_binary() && !column.is_literal(&self.references))
    }

    pub(super) fn column_of(&self, number: i16) -> Option<usize> {
        self.columns.iter().position(|column| column.number == number)
    }

    fn none(relation: &Relation, why: String) -> Self {
        Self {
            name: relation.name.clone(),
            rows: 0,
            shortfall: Some(why),
            columns: Vec::new(),
            references: Vec::new(),
            cases: 1,
            uncertain: Vec::new(),
            key: 0,
            partitioned: relation.partitioned,
        }
    }
}

impl Column {
    /// Whether a key comes as text, and stays so.
    fn is_literal(&self, references: &[Reference]) -> bool {
        let Source::Reference { reference, part } = self.source else { return false };
        references[reference].is_literal(part)
    }
}

/// Plans every table that is to be filled.
pub(super) fn plan(catalog: &Catalog, state: &State, request: &Request) -> Plan {
    let types = Types::new(catalog);
    let order = order::order(catalog, &state.empty);
    let mut builder = Builder { catalog, types, state, request, tables: vec![None; state.empty.len()] };
    for &place in &order {
        let table = builder.table(place);
        builder.tables[place] = Some(table);
    }
    let mut tables = builder.tables;
    references::settle(&mut tables, &order);
    Plan { tables, order }
}

/// Plans one table after the other.
pub(super) struct Builder<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) types: Types<'a>,
    pub(super) state: &'a State,
    pub(super) request: &'a Request,
    pub(super) tables: Vec<Option<Table>>,
}

impl<'a> Builder<'a> {
    fn table(&self, place: usize) -> Table {
        let relation = &self.catalog.relations[place];
        let rows = self.request.rows_of.get(&relation.name).copied().unwrap_or(self.request.rows);
        if relation.partitioned && relation.partitions.is_empty() {
            return Table::none(relation, format!("{} has no partition that could take rows", relation.name));
        }
        let columns =
            self.catalog.columns.iter().filter(|column| column.relation == relation.oid && !column.generated);
        let columns: Vec<&CatalogColumn> = columns.collect();
        let resolved: Vec<Resolved<'a>> =
            columns.iter().map(|column| self.types.resolve(column.type_oid, column.modifier)).collect();
        let mut table = Table { shortfall: None, rows, ..Table::none(relation, String::new()) };
        let keys = column_keys(self.request.seed, &relation.name, 1 + columns.len());
        table.key = keys[0];
        let mut checks: Vec<(String, Vec<Conjunction>)> = Vec::new();
        for ((column, resolved), key) in columns.iter().zip(resolved).zip(&keys[1..]) {
            let not_null = column.not_null || resolved.not_null;
            if let Some(unknown) = resolved.shape.unknown() {
                if column.has_default {
                    continue;
                }
                if not_null {
                    let why = format!(
                        "{}.{} has the type {unknown}, of which no value is known",
                        table.name, column.quoted
                    );
                    return Table::none(relation, why);
                }
            }
            checks.extend(resolved.checks.iter().map(|check| of_column(check, &column.name)));
            table.columns.push(self.column(column, resolved.shape, not_null, *key));
        }
        if let Err(why) = references::add(self, place, &mut table) {
            return Table::none(relation, why);
        }
        self.conditions(relation, &mut table, checks);
        roles::assign(self.catalog, relation.oid, &mut table);
        for column in &mut table.columns {
            column.is_plain = column.makers.len() == 1
                && column.null[0].is_none()
                && column.beside[0].is_none()
                && column.hints.is_empty()
                && matches!(column.role, Role::Free | Role::Distinct);
        }
        table
    }

    fn column(&self, column: &CatalogColumn, shape: Shape, not_null: bool, key: u64) -> Column {
        let sequence = self.catalog.sequences.iter();
        let sequence =
            sequence.into_iter().find(|one| one.relation == column.relation && one.column == column.number);
        let source = match sequence {
            Some(one) if matches!(shape, Shape::Scalar { .. }) => {
                Source::Sequence { name: one.name.clone(), first: self.next_of(one), step: one.increment }
            }
            _ => Source::Made,
        };
        Column {
            name: column.name.clone(),
            quoted: column.quoted.clone(),
            number: column.number,
            shape,
            not_null,
            source,
            role: Role::Free,
            key,
            nulls: if not_null { 0 } else { NULLS_MIN + key % NULLS_SPREAD },
            makers: Vec::new(),
            null: Vec::new(),
            beside: Vec::new(),
            is_plain: false,
            hints: Vec::new(),
        }
    }

    /// What a sequence gives next; tables planned before may share it.
    fn next_of(&self, sequence: &super::catalog::Sequence) -> i64 {
        let taken = self.tables.iter().flatten().flat_map(|table| {
            table.columns.iter().filter_map(move |column| match &column.source {
                Source::Sequence { name, step, .. } if *name == sequence.name => {
                    Some(*step * table.rows as i64)
                }
                _ => None,
            })
        });
        sequence.next + taken.sum::<i64>()
    }

    /// Solves checks and partition bounds together.
    fn conditions(&self, relation: &Relation, table: &mut Table, domains: Vec<(String, Vec<Conjunction>)>) {
        let own: Vec<&Check> =
            self.catalog.checks.iter().filter(|check| check.relation == relation.oid).collect();
        let mut conditions = domains;
        conditions.extend(own.iter().map(|check| condition(check)));
        conditions.extend(partitions::condition(relation));
        let columns = Columns {
            names: table.columns.iter().map(|column| column.name.as_str()).collect(),
            shapes: table.columns.iter().map(|column| &column.shape).collect(),
            is_given: table.columns.iter().map(|column| column.source != Source::Made).collect(),
            not_null: table.columns.iter().map(|column| column.not_null).collect(),
        };
        let (cases, uncertain) = cases(&columns, &conditions);
        for check in own.iter().filter(|check| uncertain.contains(&check.name)) {
            give_hints(table, &check.condition);
        }
        table.uncertain = uncertain;
        let rows = table.rows;
        adopt(table, &cases, rows);
    }
}

/// A domain's check as one of the column.
fn of_column(check: &Check, column: &str) -> (String, Vec<Conjunction>) {
    let expression = parse(&check.condition).renamed("value", column);
    (check.name.clone(), alternatives(&expression, true))
}

/// Constants of a condition for the columns that it names.
fn give_hints(table: &mut Table, condition: &str) {
    let (words, constants) = (words(condition), constants(condition));
    for column in table.columns.iter_mut().filter(|column| words.contains(&column.name)) {
        column.hints.extend(constants.iter().filter_map(|constant| column.shape.read(constant)));
    }
}

/// Makes the makers of every column for these cases.
pub(super) fn adopt(table: &mut Table, cases: &[Case], rows: u64) {
    table.cases = cases.len();
    for (place, column) in table.columns.iter_mut().enumerate() {
        let demands = cases.iter().map(|case| &case[place]);
        column.makers = demands
            .clone()
            .map(|demand| Maker::new(&column.name, &column.shape, demand, rows).pooled(rows, column.key))
            .collect();
        column.null = demands.clone().map(|demand| demand.null).collect();
        column.beside = demands.map(|demand| demand.beside).collect();
    }
}
