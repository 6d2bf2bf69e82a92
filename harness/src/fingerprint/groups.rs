//! Differences as a person reads them: what came or went with an object is folded under it.
//!
//! Called by whoever reports differences; the exact list stays with [`SchemaFingerprint::differences`].

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::evidence::Difference;

use super::SchemaFingerprint;
use super::catalog;

/// A difference and those that follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What differs.
    pub head: Difference,
    /// What is missing, or there, because the head is: the columns of a table, its privileges, its comments.
    pub folded: Vec<Difference>,
}

impl Group {
    /// Class of the head.
    #[must_use]
    pub fn class(&self) -> &'static str {
        class(&self.head.kind)
    }
}

/// Class of a kind in a report: `table`, `column`, `constraint`, `index`, `sequence`, `view`, `function`, `trigger`,
/// `type`, `extension`, `policy`, `privilege`, `comment`, `setting`, and further ones where none of these fits.
/// `other` for what is no kind.
#[must_use]
pub fn class(kind: &str) -> &'static str {
    catalog::queries().find(|query| query.kind == kind).map_or("other", |query| query.class)
}

/// Parent of each object that is on one side alone.
type Links<'a> = BTreeMap<String, Option<&'a str>>;

impl SchemaFingerprint {
    /// The differences, folded. An object that is missing takes with it what fell with it, one that is left over what
    /// came with it; an object that is there on both sides folds nothing.
    #[must_use]
    pub fn groups(&self, after: &Self) -> Vec<Group> {
        let differences = self.differences(after);
        let missing = self.links(differences.iter().filter(|one| one.after.is_none()));
        let left_over = after.links(differences.iter().filter(|one| one.before.is_none()));
        let mut groups: Vec<Group> = Vec::new();
        let mut folded: BTreeMap<String, Vec<Difference>> = BTreeMap::new();
        for difference in differences {
            let top = match (&difference.before, &difference.after) {
                (Some(_), None) => top(&missing, &key(&difference)),
                (None, Some(_)) => top(&left_over, &key(&difference)),
                _ => None,
            };
            match top {
                Some(top) => folded.entry(top).or_default().push(difference),
                None => groups.push(Group { head: difference, folded: Vec::new() }),
            }
        }
        for group in &mut groups {
            group.folded = folded.remove(&key(&group.head)).unwrap_or_default();
        }
        groups
    }

    /// Classes of what differs; what only fell with something else does not count.
    #[must_use]
    pub fn classes(&self, after: &Self) -> BTreeSet<&'static str> {
        self.groups(after).iter().map(Group::class).collect()
    }

    fn links<'a, 'b>(&'a self, differences: impl Iterator<Item = &'b Difference>) -> Links<'a> {
        let mut links = Links::new();
        for one in differences {
            let entry = self.objects.get(&(one.kind.clone(), one.object.clone()));
            links.insert(key(one), entry.and_then(|entry| entry.parent.as_deref()));
        }
        links
    }
}

/// An object as its children name it.
fn key(difference: &Difference) -> String {
    format!("{} {}", difference.kind, difference.object)
}

/// The outermost object around one that is on the same side alone.
fn top(links: &Links<'_>, key: &str) -> Option<String> {
    let mut top = None;
    let mut at = key;
    // No chain is longer than all links.
    for _ in 0..links.len() {
        match links.get(at).copied().flatten() {
            Some(parent) if links.contains_key(parent) => {
                top = Some(parent.to_owned());
                at = parent;
            }
            _ => break,
        }
    }
    top
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;

    fn schema(objects: &[(&str, &str, &str, Option<&str>)]) -> SchemaFingerprint {
        let mut schema = SchemaFingerprint::default();
        for (kind, object, definition, parent) in objects {
            let entry = Entry {
                definition: (*definition).to_owned(),
                compared: None,
                parent: parent.map(str::to_owned),
            };
            schema.objects.insert(((*kind).to_owned(), (*object).to_owned()), entry);
        }
        schema
    }

    /// Heads, and how many are folded under each.
    fn told(before: &SchemaFingerprint, after: &SchemaFingerprint) -> Vec<(String, usize)> {
        before.groups(after).iter().map(|group| (key(&group.head), group.folded.len())).collect()
    }

    const FULL: [(&str, &str, &str, Option<&str>); 6] = [
        ("schema", "s", "schema", None),
        ("table", "s.t", "table", Some("schema s")),
        ("column", "s.t.a", "integer", Some("table s.t")),
        ("constraint", "s.t.p", "PRIMARY KEY (a)", Some("table s.t")),
        ("index", "s.p", "CREATE INDEX", Some("constraint s.t.p")),
        ("comment", "index s.p", "x", Some("index s.p")),
    ];

    #[test]
    fn what_fell_with_an_object_is_folded_under_the_outermost() {
        let full = schema(&FULL);
        let without_table = schema(&FULL[..1]);
        assert_eq!(told(&full, &without_table), [("table s.t".to_owned(), 4)]);
        assert_eq!(told(&without_table, &full), [("table s.t".to_owned(), 4)]);
        assert_eq!(told(&full, &schema(&[])), [("schema s".to_owned(), 5)]);
        assert_eq!(full.classes(&schema(&FULL[..3])), BTreeSet::from(["constraint"]));
    }

    #[test]
    fn an_object_that_is_there_on_both_sides_folds_nothing() {
        let full = schema(&FULL);
        let mut changed = FULL;
        changed[1].2 = "unlogged table";
        let changed = schema(&changed[..3]);
        let expected = [("constraint s.t.p".to_owned(), 2), ("table s.t".to_owned(), 0)];
        assert_eq!(told(&full, &changed), expected);
    }

    #[test]
    fn what_is_missing_and_what_is_left_over_are_not_folded_together() {
        let left = [("column", "s.t.b", "text", Some("table s.t"))];
        let expected = [("column s.t.b".to_owned(), 0), ("schema s".to_owned(), 5)];
        assert_eq!(told(&schema(&FULL), &schema(&left)), expected);
    }

    #[test]
    fn a_kind_has_one_class_and_the_classes_of_a_report_are_there() {
        let mut classes = BTreeSet::new();
        for query in catalog::queries() {
            assert_eq!(class(query.kind), query.class, "{}", query.kind);
            classes.insert(query.class);
        }
        for wanted in "table column constraint index sequence view function trigger type extension policy privilege comment setting"
            .split(' ')
        {
            assert!(classes.contains(wanted), "{wanted}");
        }
        assert_eq!(class("nonsense"), "other");
    }
}
