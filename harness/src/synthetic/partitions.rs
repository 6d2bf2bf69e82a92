//! Partition bounds as a condition on the rows of a partitioned table: each row goes where some partition takes it.
//!
//! Called by `plan`. The server states the bounds of a leaf, those of its ancestors included, as a condition.

use super::catalog::Relation;
use super::checks::{Conjunction, alternatives};
use super::expression::parse;

/// One condition whose alternatives are the leaves; none where some leaf takes every row.
pub(super) fn condition(relation: &Relation) -> Option<(String, Vec<Conjunction>)> {
    if !relation.partitioned || relation.partitions.iter().any(Option::is_none) {
        return None;
    }
    let leaves = relation.partitions.iter().flatten();
    // A default partition takes what the others do not; beside others it is not needed.
    let (defaults, bounded): (Vec<&String>, Vec<&String>) =
        leaves.partition(|bounds| bounds.trim_start().starts_with("(NOT"));
    let used = if bounded.is_empty() { defaults } else { bounded };
    let ways = used.into_iter().flat_map(|bounds| alternatives(&parse(bounds), true)).collect();
    Some((format!("the bounds of the partitions of {}", relation.name), ways))
}

#[cfg(test)]
mod tests {
    use super::condition;
    use crate::synthetic::catalog::Relation;

    fn ways(partitions: &[Option<&str>]) -> Option<usize> {
        let relation = Relation {
            oid: 1,
            name: "public.t".to_owned(),
            partitioned: true,
            may_have_rows: true,
            partitions: partitions.iter().map(|bounds| bounds.map(str::to_owned)).collect(),
        };
        condition(&relation).map(|(_, ways)| {
            assert!(ways.iter().all(|way| way.certain), "{ways:?}");
            ways.len()
        })
    }

    #[test]
    fn each_leaf_is_a_way_and_the_default_only_where_it_is_alone() {
        let january = "((at IS NOT NULL) AND (at >= '2024-01-01'::date) AND (at < '2024-02-01'::date))";
        let listed = "((at IS NOT NULL) AND (at = '2024-03-01'::date))";
        let other = "(NOT ((at IS NOT NULL) AND (at = '2024-03-01'::date)))";
        assert_eq!(ways(&[Some(january), Some(listed), Some(other)]), Some(2));
        assert_eq!(ways(&[Some(other)]), Some(2));
        assert_eq!(ways(&[None]), None);
    }
}
