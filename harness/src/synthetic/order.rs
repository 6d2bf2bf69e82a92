//! The order in which tables are planned and filled: those that others refer to first.
//!
//! Called by `plan`. In a cycle the table goes first that can do best without the others.

use std::collections::{BTreeSet, HashMap};

use super::catalog::Catalog;

/// Places of the tables to fill.
pub(super) fn order(catalog: &Catalog, empty: &[bool]) -> Vec<usize> {
    let places: HashMap<i64, usize> =
        catalog.relations.iter().enumerate().map(|(place, relation)| (relation.oid, place)).collect();
    let mut waiting: BTreeSet<usize> = (0..empty.len()).filter(|place| empty[*place]).collect();
    // What each table waits for, and whether it could be null.
    let mut needs: HashMap<usize, Vec<(usize, bool)>> = HashMap::new();
    let nullable: HashMap<(i64, i16), bool> =
        catalog.columns.iter().map(|column| ((column.relation, column.number), !column.not_null)).collect();
    for key in &catalog.foreign_keys {
        let (Some(&from), Some(&to)) = (places.get(&key.relation), places.get(&key.target)) else { continue };
        let can_be_null =
            key.columns.iter().any(|column| nullable.get(&(key.relation, *column)) == Some(&true));
        if from != to {
            needs.entry(from).or_default().push((to, can_be_null));
        }
    }
    let mut order = Vec::new();
    while !waiting.is_empty() {
        let unmet = |place: &usize| {
            let needs = needs.get(place).map_or(&[][..], Vec::as_slice);
            let unmet = needs.iter().filter(|(to, _)| waiting.contains(to));
            let optional = unmet.clone().filter(|(_, can_be_null)| *can_be_null).count();
            (unmet.count() - optional, optional)
        };
        let ready: Vec<usize> = waiting.iter().copied().filter(|place| unmet(place) == (0, 0)).collect();
        let next = if ready.is_empty() {
            waiting.iter().copied().min_by_key(unmet).into_iter().collect()
        } else {
            ready
        };
        for place in next {
            waiting.remove(&place);
            order.push(place);
        }
    }
    order
}
