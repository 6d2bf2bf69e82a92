//! Foreign keys: which parent each row belongs to, by the parent's row number or by keys that the server gave.
//!
//! Called by `plan`; `row` draws parents. A key that shares columns with another one is drawn from the parents that agree with it.

use std::collections::HashMap;
use std::sync::Arc;

use super::catalog::ForeignKey;
use super::encode;
use super::keys::{Permutation, mix};
use super::plan::{Builder, Source, Table};
use super::roles::Role;
use super::row::Rows;
use super::value::Value;

/// Parents that are looked through for keys that share columns.
const INDEXED_MAX: u64 = 200_000;

/// A foreign key of a table.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) parent: Parent,
    /// Own columns by place.
    pub(super) columns: Vec<usize>,
    /// The parent's columns by number, and by place where its plan knows them.
    target_numbers: Vec<i16>,
    pub(super) target_places: Vec<usize>,
    pub(super) nullable: bool,
    pub(super) key: u64,
    pub(super) role: Role,
    /// Parents to choose from.
    pub(super) count: u64,
    pub(super) permutation: Permutation,
    pub(super) is_own: bool,
    /// Parts whose columns another reference gives.
    pub(super) shared: Vec<usize>,
    /// Parents by the text of their shared columns.
    pub(super) index: Option<Arc<HashMap<String, Vec<u64>>>>,
    /// Parents that another reference can agree with; all of them where absent.
    pub(super) allowed: Option<Arc<[u64]>>,
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub(super) enum Parent {
    /// A planned table: keys follow from the row's number.
    Table(usize),
    /// Read from the server.
    Keys(Arc<[Vec<Value>]>),
    /// There is no key.
    Nothing,
}

impl Reference {
    /// Different keys for a unit of a unique key; none where another reference has a say.
    pub(super) fn choices(&self, rows: u64) -> u64 {
        if !self.shared.is_empty() {
            0
        } else if self.is_own {
            rows
        } else {
            self.count
        }
    }

    /// Whether a part's keys are known only as text.
    pub(super) fn is_literal(&self, part: usize) -> bool {
        match &self.parent {
            Parent::Keys(keys) => keys.iter().any(|key| matches!(key[part], Value::Literal(_))),
            _ => false,
        }
    }
}

/// Adds the references of a table; an error is the sentence why the table cannot have rows.
pub(super) fn add(builder: &Builder<'_>, place: usize, table: &mut Table) -> Result<(), String> {
    let relation = &builder.catalog.relations[place];
    let mut keys: Vec<(&ForeignKey, Vec<usize>)> = Vec::new();
    for key in builder.catalog.foreign_keys.iter().filter(|key| key.relation == relation.oid) {
        let columns: Option<Vec<usize>> = key.columns.iter().map(|number| table.column_of(*number)).collect();
        // A column that is not written has nothing to refer to either.
        keys.extend(columns.map(|columns| (key, columns)));
    }
    let can_be_null = |key: &ForeignKey, columns: &[usize], table: &Table| {
        let mut nullable = columns.iter().map(|column| !table.columns[*column].not_null);
        if key.full { nullable.all(|nullable| nullable) } else { nullable.any(|nullable| nullable) }
    };
    // Those that must have a parent choose first, and of them those that give most columns.
    keys.sort_by_key(|(key, columns)| (can_be_null(key, columns, table), std::cmp::Reverse(columns.len())));
    for (key, columns) in keys {
        let is_given = |column: &usize| matches!(table.columns[*column].source, Source::Reference { .. });
        let shared: Vec<usize> = (0..columns.len()).filter(|part| is_given(&columns[*part])).collect();
        if shared.len() == columns.len() {
            continue;
        }
        let nullable = can_be_null(key, &columns, table);
        let parent = builder.parent(key, &columns, table);
        let count = builder.count(&parent);
        if count == 0 && !nullable {
            let why = format!(
                "{} needs a row of {} for {}, and there is none",
                table.name, key.target_name, key.name
            );
            return Err(why);
        }
        let seed = mix(table.key ^ table.columns[columns[columns.len() - 1]].key);
        let reference = table.references.len();
        for (part, column) in columns.iter().enumerate().filter(|(part, _)| !shared.contains(part)) {
            table.columns[*column].source = Source::Reference { reference, part };
        }
        table.references.push(Reference {
            name: key.name.clone(),
            is_own: matches!(parent, Parent::Table(target) if target == place),
            parent,
            columns,
            target_numbers: key.target_columns.clone(),
            target_places: Vec::new(),
            nullable,
            key: seed,
            role: Role::Free,
            count,
            permutation: Permutation::new(count, seed),
            shared,
            index: None,
            allowed: None,
        });
    }
    Ok(())
}

impl Builder<'_> {
    fn parent(&self, key: &ForeignKey, columns: &[usize], table: &Table) -> Parent {
        let target = self.catalog.relations.iter().position(|relation| relation.oid == key.target);
        if let Some(target) = target.filter(|target| self.state.empty[*target]) {
            return Parent::Table(target);
        }
        let keys = self.state.keys.get(&(key.relation, key.name.clone()));
        keys.map_or(Parent::Nothing, |keys| keys_of(keys, columns, table))
    }

    fn count(&self, parent: &Parent) -> u64 {
        match parent {
            Parent::Table(target) => {
                self.tables[*target].as_ref().map_or(self.request.rows, |table| table.rows)
            }
            Parent::Keys(keys) => keys.len() as u64,
            Parent::Nothing => 0,
        }
    }
}

fn keys_of(keys: &[Vec<String>], columns: &[usize], table: &Table) -> Parent {
    let read = |key: &Vec<String>| {
        let values = columns.iter().zip(key);
        values
            .map(|(column, text)| {
                table.columns[*column].shape.read(text).unwrap_or_else(|| Value::Literal(text.clone()))
            })
            .collect()
    };
    if keys.is_empty() { Parent::Nothing } else { Parent::Keys(keys.iter().map(read).collect()) }
}

/// Completes references once every table is planned: numbers of parents, where their columns stand, and who agrees with whom.
pub(super) fn settle(tables: &mut [Option<Table>], order: &[usize]) {
    while empty_children(tables) {}
    let heads: Vec<(u64, Vec<i16>)> = tables
        .iter()
        .map(|table| match table {
            Some(table) => (table.rows, table.columns.iter().map(|column| column.number).collect()),
            None => (0, Vec::new()),
        })
        .collect();
    for &place in order {
        let Some(table) = tables[place].as_mut() else { continue };
        for reference in &mut table.references {
            if let Parent::Table(target) = reference.parent {
                let (rows, numbers) = &heads[target];
                let find = |number: &i16| numbers.iter().position(|one| one == number);
                match reference.target_numbers.iter().map(find).collect::<Option<Vec<usize>>>() {
                    Some(places) => (reference.target_places, reference.count) = (places, *rows),
                    None => (reference.parent, reference.count) = (Parent::Nothing, 0),
                }
            }
            reference.permutation = Permutation::new(reference.count, reference.key);
        }
        agree(tables, place);
    }
}

/// Takes the rows from tables that must refer to a table without any; whether there was one.
fn empty_children(tables: &mut [Option<Table>]) -> bool {
    let is_empty: Vec<bool> =
        tables.iter().map(|table| table.as_ref().is_some_and(|table| table.rows == 0)).collect();
    let names: Vec<String> =
        tables.iter().map(|table| table.as_ref().map_or(String::new(), |table| table.name.clone())).collect();
    let mut changed = false;
    for table in tables.iter_mut().flatten().filter(|table| table.rows > 0) {
        let orphan = table.references.iter().find_map(|reference| match reference.parent {
            Parent::Table(target) if is_empty[target] && !reference.nullable => {
                Some((target, reference.name.clone()))
            }
            _ => None,
        });
        if let Some((target, constraint)) = orphan {
            let why = format!(
                "{} needs a row of {} for {constraint}, and there is none",
                table.name, names[target]
            );
            (table.rows, table.shortfall) = (0, Some(why));
            changed = true;
        }
    }
    changed
}

/// Indexes the parents of references that share columns with others, and leaves the others only parents that have a match.
fn agree(tables: &mut [Option<Table>], place: usize) {
    let count = tables[place].as_ref().map_or(0, |table| table.references.len());
    for number in 0..count {
        let rows = Rows { tables: &*tables };
        let Some(table) = tables[place].as_ref() else { return };
        let reference = &table.references[number];
        if reference.shared.is_empty() {
            continue;
        }
        let mut index: HashMap<String, Vec<u64>> = HashMap::new();
        for parent in 0..reference.count.min(INDEXED_MAX) {
            let key = rows.shared_of_parent(table, reference, parent);
            index.entry(key).or_default().push(parent);
        }
        let allowed = allowed(&rows, table, reference, &index);
        let index = Arc::new(index);
        let Some(table) = tables[place].as_mut() else { return };
        table.references[number].index = Some(index);
        if let Some((other, allowed)) = allowed {
            let other = &mut table.references[other];
            other.count = allowed.len() as u64;
            other.permutation = Permutation::new(other.count, other.key);
            other.allowed = Some(allowed);
        }
    }
}

/// The one other reference that gives all shared columns, and those of its parents that have a match. A reference that may be null
/// is null where there is no match.
fn allowed(
    rows: &Rows<'_>,
    table: &Table,
    reference: &Reference,
    index: &HashMap<String, Vec<u64>>,
) -> Option<(usize, Arc<[u64]>)> {
    if reference.nullable {
        return None;
    }
    let mut givers =
        reference.shared.iter().map(|part| match table.columns[reference.columns[*part]].source {
            Source::Reference { reference, part } => Some((reference, part)),
            _ => None,
        });
    let first = givers.next()??;
    let mut parts = vec![first.1];
    for giver in givers {
        let giver = giver.filter(|giver| giver.0 == first.0)?;
        parts.push(giver.1);
    }
    let giver = &table.references[first.0];
    let matches = |parent: &u64| index.contains_key(&rows.parts_of_parent(table, giver, &parts, *parent));
    let parents: Vec<u64> = match &giver.allowed {
        Some(allowed) => allowed.iter().copied().filter(matches).collect(),
        None => (0..giver.count.min(INDEXED_MAX)).filter(matches).collect(),
    };
    Some((first.0, parents.into()))
}

/// Values as one text, for an index.
pub(super) fn index_key(table: &Table, columns: impl Iterator<Item = (usize, Value)>) -> String {
    let texts =
        columns.map(|(column, value)| encode::text(&table.columns[column].shape, &value).unwrap_or_default());
    texts.collect::<Vec<_>>().join("\u{1f}")
}
