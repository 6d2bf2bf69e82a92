//! The catalog's types as shapes.
//!
//! Called by `plan`. A type is known by its kind (enum, domain, range, composite, array) or by its name.

use std::collections::HashMap;

use super::catalog::{Catalog, Check, Type};
use super::checks::{Conjunction, alternatives};
use super::demand::{Columns, Demand, cases};
use super::expression::parse;
use super::samples::sample;
use super::value::{DAY_US, Scalar, Shape};

/// Decimals of numerics that are used.
const SCALE_MAX: u8 = 4;
/// Domains and arrays inside each other that are followed.
const DEPTH_MAX: u32 = 16;
/// The header that a modifier of a character or numeric type counts in.
const HEADER: i32 = 4;

/// The types of a catalog by their identifiers.
pub(super) struct Types<'a> {
    by_oid: HashMap<i64, &'a Type>,
}

/// A column's type: its shape, and the checks of the domains that it is.
pub(super) struct Resolved<'a> {
    pub(super) shape: Shape,
    pub(super) checks: Vec<&'a Check>,
    pub(super) not_null: bool,
}

impl<'a> Types<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { by_oid: catalog.types.iter().map(|one| (one.oid, one)).collect() }
    }

    /// The type of a column.
    pub(super) fn resolve(&self, oid: i64, modifier: i32) -> Resolved<'a> {
        let mut checks = Vec::new();
        let mut not_null = false;
        let (mut oid, mut modifier) = (oid, modifier);
        let mut depth = 0;
        while let Some(domain) = self.by_oid.get(&oid).filter(|one| one.kind == "d" && depth < DEPTH_MAX) {
            checks.extend(domain.checks.iter().flatten());
            not_null |= domain.not_null;
            (oid, modifier) = (domain.base, domain.modifier);
            depth += 1;
        }
        Resolved { shape: self.shape(oid, modifier, 0), checks, not_null }
    }

    fn shape(&self, oid: i64, modifier: i32, depth: u32) -> Shape {
        let unknown = |name: &str| Shape::Unknown { name: name.to_owned() };
        let Some(one) = self.by_oid.get(&oid).filter(|_| depth < DEPTH_MAX) else {
            return unknown("unknown");
        };
        let inner = |oid: i64, modifier: i32| Box::new(self.shape(oid, modifier, depth + 1));
        match one.kind.as_str() {
            "e" => Shape::Enum(one.labels.clone().unwrap_or_default().into()),
            "d" => self.narrowed(one, depth),
            "r" | "m" => match inner(one.subtype, -1) {
                bound if matches!(*bound, Shape::Scalar { .. }) => {
                    if one.kind == "r" {
                        Shape::Range { bound }
                    } else {
                        Shape::Multirange { bound }
                    }
                }
                // A range over anything else: the empty one always is.
                _ => Shape::Sample {
                    name: if one.kind == "r" { "range" } else { "multirange" }.to_owned(),
                    modifier,
                },
            },
            "c" => {
                let fields = one.fields.iter().flatten();
                let field = |oid: i64, modifier| (oid as u32, self.shape(oid, modifier, depth + 1));
                Shape::Record(fields.map(|one| field(one.type_oid, one.modifier)).collect())
            }
            _ if one.category == "A" && one.element != 0 && sample(&one.name, modifier, 1).is_none() => {
                Shape::Array { element: inner(one.element, modifier), oid: one.element as u32 }
            }
            _ => named(&one.name, modifier).unwrap_or_else(|| match sample(&one.name, modifier, 1) {
                Some(_) => Shape::Sample { name: one.name.clone(), modifier },
                None => unknown(&one.name),
            }),
        }
    }

    /// A domain that is no column's own type.
    fn narrowed(&self, domain: &Type, depth: u32) -> Shape {
        let shape = self.shape(domain.base, domain.modifier, depth + 1);
        let conditions: Vec<(String, Vec<Conjunction>)> =
            domain.checks.iter().flatten().map(condition).collect();
        let columns = Columns {
            names: vec!["value"],
            shapes: vec![&shape],
            is_given: vec![false],
            not_null: vec![true],
        };
        let demand =
            cases(&columns, &conditions).0.into_iter().next().and_then(|case| case.into_iter().next());
        match demand {
            Some(demand) if demand != Demand::default() => {
                Shape::Narrowed { shape: Box::new(shape), demand: Box::new(demand) }
            }
            _ => shape,
        }
    }
}

/// The alternatives of a domain's check, in which the value is called `value`.
pub(super) fn condition(check: &Check) -> (String, Vec<Conjunction>) {
    (check.name.clone(), alternatives(&parse(&check.condition), true))
}

/// Types of the server and of well-known extensions that have a binary form here.
fn named(name: &str, modifier: i32) -> Option<Shape> {
    let scalar = |scalar, low, high| Shape::Scalar { scalar, low, high };
    let characters = (modifier > HEADER).then(|| (modifier - HEADER) as u64);
    Some(match name {
        "bool" => Shape::Bool,
        "int2" => scalar(Scalar::Int2, i64::from(i16::MIN), i64::from(i16::MAX)),
        "int4" => scalar(Scalar::Int4, i64::from(i32::MIN), i64::from(i32::MAX)),
        "int8" => scalar(Scalar::Int8, i64::MIN, i64::MAX),
        "oid" => scalar(Scalar::Oid, 1, i64::from(i32::MAX)),
        "numeric" => numeric(modifier),
        // As many thousandths as the type keeps.
        "float4" => scalar(Scalar::Float4, -9_999_999, 9_999_999),
        "float8" => scalar(Scalar::Float8, -(1 << 50), 1 << 50),
        "money" => scalar(Scalar::Money, -(1 << 60), 1 << 60),
        "date" => scalar(Scalar::Date, -700_000, 2_000_000),
        "time" => scalar(Scalar::Time, 0, DAY_US - 1),
        "timetz" => scalar(Scalar::TimeTz, 0, DAY_US - 1),
        "timestamp" => scalar(Scalar::Timestamp, -700_000 * DAY_US, 2_000_000 * DAY_US),
        "timestamptz" => scalar(Scalar::TimestampTz, -700_000 * DAY_US, 2_000_000 * DAY_US),
        "interval" => scalar(Scalar::Interval, -700_000 * DAY_US, 700_000 * DAY_US),
        "pg_lsn" => scalar(Scalar::Lsn, 1, i64::MAX),
        "text" | "citext" => Shape::Text { max: None, fixed: false },
        "varchar" => Shape::Text { max: characters, fixed: false },
        "bpchar" => Shape::Text { max: characters, fixed: true },
        // 63 bytes, of which a letter may have two.
        "name" => Shape::Text { max: Some(31), fixed: false },
        "uuid" => Shape::Uuid,
        "bytea" => Shape::Bytea,
        "inet" => Shape::Network { cidr: false },
        "cidr" => Shape::Network { cidr: true },
        "macaddr" => Shape::Mac { length: 6 },
        "macaddr8" => Shape::Mac { length: 8 },
        "bit" => Shape::Bit { length: Some(modifier.max(1) as u32), varying: false },
        "varbit" => Shape::Bit { length: (modifier > 0).then_some(modifier as u32), varying: true },
        "json" => Shape::Json { binary: false },
        "jsonb" => Shape::Json { binary: true },
        _ => return None,
    })
}

fn numeric(modifier: i32) -> Shape {
    if modifier < HEADER {
        let high = 1_000_000_000_000_000;
        return Shape::Scalar { scalar: Scalar::Numeric { scale: 2 }, low: -high, high };
    }
    let (precision, scale) = ((modifier - HEADER) >> 16, (modifier - HEADER) & 0x7ff);
    // Eleven bits with a sign.
    let scale = (scale ^ 1024) - 1024;
    let used = scale.clamp(0, i32::from(SCALE_MAX));
    let digits = (precision - scale + used).clamp(0, 17);
    let high = 10_i64.pow(digits as u32) - 1;
    Shape::Scalar { scalar: Scalar::Numeric { scale: used as u8 }, low: -high, high }
}

#[cfg(test)]
mod tests {
    use super::{Scalar, Shape, named};

    fn numeric(precision: i32, scale: i32) -> Shape {
        named("numeric", ((precision << 16) | (scale & 0x7ff)) + 4).unwrap()
    }

    #[test]
    fn numerics_keep_their_limits() {
        let shape = |scale, high: i64| Shape::Scalar { scalar: Scalar::Numeric { scale }, low: -high, high };
        assert_eq!(numeric(5, 2), shape(2, 99_999));
        assert_eq!(numeric(3, 3), shape(3, 999));
        assert_eq!(numeric(6, 6), shape(4, 9_999));
        assert_eq!(numeric(2, -3), shape(0, 99_999));
        assert_eq!(numeric(2, 5), shape(4, 9));
        assert_eq!(named("varchar", 24), Some(Shape::Text { max: Some(20), fixed: false }));
        assert_eq!(named("bpchar", 5), Some(Shape::Text { max: Some(1), fixed: true }));
        assert_eq!(named("no such type", -1), None);
    }
}
