//! Solves conditions: which combinations of simple demands on single columns make a CHECK, or a partition's bounds, true.
//!
//! Called by `plan`, `partitions` and `types` with what `expression` read; `demand` takes the atoms per column. A combination with a
//! part that is not understood is marked uncertain, and its constraint left to the server's word.

use super::expression::Expression;
use super::samples::Letters;

/// Combinations that are followed for one condition.
const ALTERNATIVES_MAX: usize = 64;

/// A condition on one column, or between two.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Atom {
    Null(String, bool),
    Compare(String, Comparison, Constant),
    /// Equal to one of them, or to none.
    Among(String, Vec<Constant>, bool),
    /// Items of an array are among these.
    Items(String, Vec<Constant>),
    Length(String, Comparison, i64),
    /// A regular expression or LIKE.
    Match {
        column: String,
        pattern: String,
        like: bool,
        ignores_case: bool,
        matches: bool,
    },
    /// What functions of case and bytes leave as it is, or count one by one.
    Letters(String, Letters),
    /// `jsonb_typeof`.
    Json(String, String),
    Columns(String, Comparison, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    Text(String),
    /// The server's clock.
    Now,
}

/// Atoms that together make a condition true.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conjunction {
    pub(super) atoms: Vec<Atom>,
    /// Nothing in it was skipped.
    pub(super) certain: bool,
}

impl Conjunction {
    const fn holds() -> Self {
        Self { atoms: Vec::new(), certain: true }
    }

    fn of(atom: Atom) -> Vec<Self> {
        vec![Self { atoms: vec![atom], certain: true }]
    }

    fn unknown() -> Vec<Self> {
        vec![Self { atoms: Vec::new(), certain: false }]
    }
}

impl Comparison {
    fn parse(operator: &str) -> Option<Self> {
        Some(match operator {
            "=" => Self::Equal,
            "<>" | "!=" => Self::Unequal,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    const fn negated(self) -> Self {
        match self {
            Self::Equal => Self::Unequal,
            Self::Unequal => Self::Equal,
            Self::Less => Self::GreaterOrEqual,
            Self::LessOrEqual => Self::Greater,
            Self::Greater => Self::LessOrEqual,
            Self::GreaterOrEqual => Self::Less,
        }
    }

    /// With its sides exchanged.
    pub(super) const fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }

    fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

/// Ways to make an expression true, or false. None: there is no way.
pub(super) fn alternatives(expression: &Expression, truth: bool) -> Vec<Conjunction> {
    match (expression, truth) {
        (Expression::Bool(value), _) if *value == truth => vec![Conjunction::holds()],
        (Expression::Bool(_), _) => Vec::new(),
        // A CHECK that is null passes.
        (Expression::Null, _) => vec![Conjunction::holds()],
        (Expression::Not(inner), _) => alternatives(inner, !truth),
        (Expression::And(parts), true) | (Expression::Or(parts), false) => {
            product(parts.iter().map(|part| alternatives(part, truth)))
        }
        (Expression::And(parts), false) | (Expression::Or(parts), true) => {
            let mut ways: Vec<_> = parts.iter().flat_map(|part| alternatives(part, truth)).collect();
            ways.truncate(ALTERNATIVES_MAX);
            ways
        }
        (Expression::IsNull(inner), _) => null(inner, truth),
        (Expression::Column(name), _) => {
            let constant = Constant::Text(truth.to_string());
            Conjunction::of(Atom::Compare(name.clone(), Comparison::Equal, constant))
        }
        (Expression::Call(name, arguments), _) => call(name, arguments, truth),
        (Expression::Quantified { operator, left, array, all }, _) => {
            quantified(operator, left, array, *all, truth)
        }
        (Expression::Binary(operator, left, right), _) => binary(operator, left, right, truth),
        _ => Conjunction::unknown(),
    }
}

fn product(parts: impl Iterator<Item = Vec<Conjunction>>) -> Vec<Conjunction> {
    let mut ways = vec![Conjunction::holds()];
    for part in parts {
        let mut longer = Vec::new();
        for way in &ways {
            for next in &part {
                let mut atoms = way.atoms.clone();
                atoms.extend(next.atoms.iter().cloned());
                longer.push(Conjunction { atoms, certain: way.certain && next.certain });
            }
        }
        longer.truncate(ALTERNATIVES_MAX);
        ways = longer;
    }
    ways
}

fn null(inner: &Expression, truth: bool) -> Vec<Conjunction> {
    match inner {
        Expression::Column(name) => Conjunction::of(Atom::Null(name.clone(), truth)),
        Expression::Call(name, arguments) if name == "coalesce" => {
            let parts = arguments.iter().map(|argument| null(argument, truth));
            if truth { product(parts) } else { parts.flatten().collect() }
        }
        // An array of ours holds no null.
        Expression::Call(name, arguments)
            if name == "array_position" && arguments.get(1) == Some(&Expression::Null) =>
        {
            if truth {
                vec![Conjunction::holds()]
            } else {
                Conjunction::unknown()
            }
        }
        _ => Conjunction::unknown(),
    }
}

fn call(name: &str, arguments: &[Expression], truth: bool) -> Vec<Conjunction> {
    match (name, arguments) {
        ("is_true", [inner]) if truth => {
            let mut ways = alternatives(inner, true);
            for way in &mut ways {
                let columns: Vec<String> = way.atoms.iter().filter_map(Atom::compared).collect();
                way.atoms.extend(columns.into_iter().map(|column| Atom::Null(column, false)));
            }
            ways
        }
        ("is_true", [inner]) => alternatives(inner, false),
        ("starts_with", [Expression::Column(column), Expression::Text(prefix)]) => {
            let pattern = format!("{}%", prefix.replace('%', "\\%").replace('_', "\\_"));
            let column = column.clone();
            Conjunction::of(Atom::Match { column, pattern, like: true, ignores_case: false, matches: truth })
        }
        // True of what is made here: times are finite, and all partitions of a hash are there together.
        ("isfinite" | "satisfies_hash_partition", _) if truth => vec![Conjunction::holds()],
        _ => Conjunction::unknown(),
    }
}

impl Atom {
    /// The column that must not be null for the atom to be true rather than null.
    fn compared(&self) -> Option<String> {
        match self {
            Self::Null(..) => None,
            Self::Compare(column, ..)
            | Self::Among(column, ..)
            | Self::Items(column, _)
            | Self::Length(column, ..)
            | Self::Match { column, .. }
            | Self::Letters(column, _)
            | Self::Json(column, _)
            | Self::Columns(column, ..) => Some(column.clone()),
        }
    }
}

fn quantified(
    operator: &str,
    left: &Expression,
    array: &Expression,
    all: bool,
    truth: bool,
) -> Vec<Conjunction> {
    let constants = match array {
        Expression::Array(items) => items.iter().map(constant).collect::<Option<Vec<_>>>(),
        Expression::Text(text) => text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .filter(|text| !text.contains(['"', '{', '\\']))
            .map(|text| text.split(',').map(|item| Constant::Text(item.to_owned())).collect()),
        _ => None,
    };
    let (Some(subject), Some(constants)) = (subject(left), constants) else { return Conjunction::unknown() };
    let column = &subject.column;
    let is_in = match (operator, all) {
        ("=", false) => truth,
        ("<>", true) => !truth,
        ("~~" | "~", _) if all != truth => {
            // One of several patterns.
            let ways = constants.into_iter().filter_map(|constant| match constant {
                Constant::Text(pattern) => Some(Atom::Match {
                    column: column.clone(),
                    pattern,
                    like: operator == "~~",
                    ignores_case: false,
                    matches: truth,
                }),
                Constant::Now => None,
            });
            return ways.flat_map(|atom| subject.asks(atom)).collect();
        }
        _ => return Conjunction::unknown(),
    };
    if is_in && constants.iter().all(|constant| subject.keeps(constant)) {
        return Conjunction::of(Atom::Among(column.clone(), constants, true));
    }
    if is_in { Conjunction::unknown() } else { subject.asks(Atom::Among(column.clone(), constants, false)) }
}

fn binary(operator: &str, left: &Expression, right: &Expression, truth: bool) -> Vec<Conjunction> {
    if let Some(ways) = matching(operator, left, right, truth) {
        return ways;
    }
    if operator == "<@"
        && truth
        && let (Some(subject), Expression::Array(items)) = (subject(left), right)
        && let Some(items) = items.iter().map(constant).collect()
    {
        return subject.asks(Atom::Items(subject.column.clone(), items));
    }
    let Some(comparison) = Comparison::parse(operator) else { return Conjunction::unknown() };
    let comparison = if truth { comparison } else { comparison.negated() };
    if is_condition(left) && is_condition(right) {
        return equivalence(left, right, comparison);
    }
    if let Some(ways) =
        counted(left, right, comparison).or_else(|| counted(right, left, comparison.flipped()))
    {
        return ways;
    }
    if let (Some(first), Some(second)) = (subject(left), subject(right)) {
        return columns(first, comparison, second);
    }
    compared(left, right, comparison)
        .or_else(|| compared(right, left, comparison.flipped()))
        .unwrap_or_else(Conjunction::unknown)
}

/// Two columns, or two views of one.
fn columns(first: Subject, comparison: Comparison, second: Subject) -> Vec<Conjunction> {
    let mut atoms = Vec::new();
    if first.column != second.column {
        atoms.push(Atom::Columns(first.column.clone(), comparison, second.column.clone()));
    } else if !comparison.holds(0, 0) {
        return Conjunction::unknown();
    }
    // `lower(x) = x` holds of lower case, and `lower(a) = b` of two in lower case that are the same. `btrim(x) = x` holds of all that is
    // made here: nothing has blanks around it.
    if let Some(letters) = first.folds.or(second.folds) {
        let folded = [first.column, second.column].into_iter();
        atoms.extend(folded.map(|column| Atom::Letters(column, letters)));
    }
    vec![Conjunction { atoms, certain: true }]
}

/// A column, or a function of it, beside a constant.
fn compared(left: &Expression, right: &Expression, comparison: Comparison) -> Option<Vec<Conjunction>> {
    let constant = constant(right)?;
    if let Some(subject) = subject(left) {
        let equal = comparison == Comparison::Equal;
        if equal && !subject.keeps(&constant) {
            return Some(Conjunction::unknown());
        }
        let atom = Atom::Compare(subject.column.clone(), comparison, constant);
        return Some(if equal { Conjunction::of(atom) } else { subject.asks(atom) });
    }
    let Expression::Call(name, arguments) = left else { return None };
    let Subject { column, folds } = subject(arguments.first()?)?;
    let Constant::Text(text) = &constant else { return None };
    match name.as_str() {
        // A letter's other case is one letter, too.
        "length" | "char_length" | "character_length" | "cardinality" | "array_length"
        | "jsonb_array_length" => Some(Conjunction::of(Atom::Length(column, comparison, text.parse().ok()?))),
        "octet_length" => Some(vec![Conjunction {
            atoms: vec![
                Atom::Length(column.clone(), comparison, text.parse().ok()?),
                Atom::Letters(column, Letters::Ascii),
            ],
            certain: true,
        }]),
        "jsonb_typeof" | "json_typeof" if comparison == Comparison::Equal => {
            Some(Conjunction::of(Atom::Json(column, text.clone())))
        }
        "coalesce" if folds.is_none() => Some(vec![Conjunction {
            atoms: vec![Atom::Compare(column.clone(), comparison, constant), Atom::Null(column, false)],
            certain: true,
        }]),
        _ => None,
    }
}

/// Operators of patterns.
fn matching(operator: &str, left: &Expression, right: &Expression, truth: bool) -> Option<Vec<Conjunction>> {
    let (operator, matches) = match operator.strip_prefix('!') {
        Some(operator) if operator != "=" => (operator, !truth),
        _ => (operator, truth),
    };
    let (like, ignores_case) = match operator {
        "~" => (false, false),
        "~*" => (false, true),
        "~~" => (true, false),
        "~~*" => (true, true),
        _ => return None,
    };
    let (Some(subject), Some(Constant::Text(pattern))) = (subject(left), constant(right)) else {
        return Some(Conjunction::unknown());
    };
    let column = subject.column.clone();
    Some(subject.asks(Atom::Match { column, pattern, like, ignores_case, matches }))
}

/// Whether it is a condition by itself; a boolean column reads as one only beside a condition.
fn is_condition(expression: &Expression) -> bool {
    match expression {
        Expression::IsNull(_) | Expression::Not(_) | Expression::And(_) | Expression::Or(_) => true,
        Expression::Quantified { .. } => true,
        Expression::Binary(operator, ..) => {
            Comparison::parse(operator).is_some() || ["~", "~*", "~~", "~~*"].contains(&operator.as_str())
        }
        _ => false,
    }
}

/// `(a IS NULL) = (b IS NULL)`, and its opposite.
fn equivalence(left: &Expression, right: &Expression, comparison: Comparison) -> Vec<Conjunction> {
    let same = match comparison {
        Comparison::Equal => true,
        Comparison::Unequal => false,
        _ => return Conjunction::unknown(),
    };
    let way =
        |truth: bool| product([alternatives(left, truth), alternatives(right, truth == same)].into_iter());
    let mut ways = way(true);
    ways.extend(way(false));
    ways
}

/// `num_nonnulls(a, b) = 1`, and sums of conditions as integers.
fn counted(left: &Expression, right: &Expression, comparison: Comparison) -> Option<Vec<Conjunction>> {
    let Some(Constant::Text(wanted)) = constant(right) else { return None };
    let wanted: i64 = wanted.parse().ok()?;
    let conditions: Vec<Expression> = match left {
        Expression::Call(name, arguments) if name == "num_nonnulls" || name == "num_nulls" => {
            let nulls = arguments.iter().map(|argument| Expression::IsNull(Box::new(argument.clone())));
            if name == "num_nulls" {
                nulls.collect()
            } else {
                nulls.map(|null| Expression::Not(Box::new(null))).collect()
            }
        }
        Expression::Binary(operator, ..) if operator == "+" => {
            let mut parts = Vec::new();
            summands(left, &mut parts);
            parts.iter().all(is_condition).then_some(parts)?
        }
        _ => return None,
    };
    if conditions.len() > 6 {
        // Too many combinations; the few with one more or one less are enough.
        return Some(few(&conditions, wanted, comparison));
    }
    let mut ways = Vec::new();
    // Most conditions true first: columns with values show more than nulls.
    for chosen in (0..1_u32 << conditions.len()).rev() {
        if comparison.holds(i64::from(chosen.count_ones()), wanted) {
            let parts = conditions.iter().enumerate();
            ways.extend(product(
                parts.map(|(bit, condition)| alternatives(condition, chosen >> bit & 1 == 1)),
            ));
        }
    }
    ways.truncate(ALTERNATIVES_MAX);
    Some(ways)
}

/// As many true as wanted, beginning at each condition in turn.
fn few(conditions: &[Expression], wanted: i64, comparison: Comparison) -> Vec<Conjunction> {
    let count = conditions.len();
    let exact = (0..=count).rev().find(|true_ones| comparison.holds(*true_ones as i64, wanted));
    let Some(exact) = exact else { return Vec::new() };
    (0..count)
        .flat_map(|start| {
            let is_true = move |place: usize| (place + count - start) % count < exact;
            product(conditions.iter().enumerate().map(move |(place, one)| alternatives(one, is_true(place))))
        })
        .collect()
}

fn summands(expression: &Expression, parts: &mut Vec<Expression>) {
    match expression {
        Expression::Binary(operator, left, right) if operator == "+" => {
            summands(left, parts);
            summands(right, parts);
        }
        other => parts.push(other.clone()),
    }
}

/// A column as a condition sees it.
#[derive(Debug)]
struct Subject {
    column: String,
    /// The letters that its functions leave as they are; none where they leave everything.
    folds: Option<Letters>,
}

impl Subject {
    /// An atom on the column, true of what the condition sees where the column has the letters that are left as they are.
    fn asks(&self, atom: Atom) -> Vec<Conjunction> {
        let letters = self.folds.map(|letters| Atom::Letters(self.column.clone(), letters));
        vec![Conjunction { atoms: [atom].into_iter().chain(letters).collect(), certain: true }]
    }

    /// Whether a column that is this constant is seen as it.
    fn keeps(&self, constant: &Constant) -> bool {
        let Constant::Text(text) = constant else { return self.folds.is_none() };
        match self.folds {
            Some(Letters::Lower) => text.to_lowercase() == *text,
            Some(Letters::Upper) => text.to_uppercase() == *text,
            Some(Letters::Ascii) | None => true,
        }
    }
}

/// The column that an expression is, up to functions that change nothing of what is made here, or its case alone.
fn subject(expression: &Expression) -> Option<Subject> {
    match expression {
        Expression::Column(name) => Some(Subject { column: name.clone(), folds: None }),
        Expression::Call(name, arguments) if arguments.len() == 1 => {
            let inner = || subject(&arguments[0]);
            match name.as_str() {
                "lower" => Some(Subject { folds: Some(Letters::Lower), ..inner()? }),
                "upper" => Some(Subject { folds: Some(Letters::Upper), ..inner()? }),
                "btrim" | "trim" | "ltrim" | "rtrim" | "text" | "varchar" | "date" => inner(),
                _ => None,
            }
        }
        _ => None,
    }
}

fn constant(expression: &Expression) -> Option<Constant> {
    match expression {
        Expression::Text(text) | Expression::Number(text) => Some(Constant::Text(text.clone())),
        Expression::Bool(value) => Some(Constant::Text(value.to_string())),
        Expression::Call(name, _)
            if name.starts_with("current_")
                || [
                    "now",
                    "localtimestamp",
                    "statement_timestamp",
                    "clock_timestamp",
                    "transaction_timestamp",
                    "timezone",
                ]
                .contains(&name.as_str()) =>
        {
            Some(Constant::Now)
        }
        Expression::Binary(operator, left, right) => {
            let (left, right) = (constant(left)?, constant(right)?);
            let (Constant::Text(left), Constant::Text(right)) = (left, right) else {
                return Some(Constant::Now);
            };
            let (left, right): (i64, i64) = (left.parse().ok()?, right.parse().ok()?);
            let result = match operator.as_str() {
                "+" => left.checked_add(right),
                "-" => left.checked_sub(right),
                "*" => left.checked_mul(right),
                _ => None,
            };
            Some(Constant::Text(result?.to_string()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Atom, Comparison, Conjunction, Constant, alternatives};
    use crate::synthetic::expression::parse;
    use crate::synthetic::samples::Letters;

    fn solve(text: &str) -> Vec<Conjunction> {
        alternatives(&parse(text), true)
    }

    fn text(constant: &str) -> Constant {
        Constant::Text(constant.to_owned())
    }

    #[test]
    fn common_shapes_are_solved() {
        let between = solve("((a >= 1) AND (a <= (1024 * 2)))");
        assert_eq!(between.len(), 1);
        assert!(between[0].certain);
        let high = Atom::Compare("a".to_owned(), Comparison::LessOrEqual, text("2048"));
        assert_eq!(between[0].atoms[1], high);
        assert_eq!(solve("(NOT (a > 5))")[0].atoms, solve("(a <= 5)")[0].atoms);
        assert_eq!(solve("(5 > a)")[0].atoms, solve("(a < 5)")[0].atoms);
        assert_eq!(
            solve("((s)::text <> ALL (ARRAY['x'::text]))")[0].atoms,
            [Atom::Among("s".to_owned(), vec![text("x")], false)]
        );
        assert_eq!(
            solve("(char_length(n) <= 8)")[0].atoms,
            [Atom::Length("n".to_owned(), Comparison::LessOrEqual, 8)]
        );
        assert!(matches!(
            &solve("(e ~~* '%@%'::text)")[0].atoms[0],
            Atom::Match { like: true, ignores_case: true, .. }
        ));
    }

    #[test]
    fn functions_of_case_and_bytes_ask_for_letters() {
        let lower = |column: &str| Atom::Letters(column.to_owned(), Letters::Lower);
        for folded in ["(lower(e) = e)", "((e)::text = lower(btrim((e)::text)))", "(NOT (lower(e) <> e))"] {
            let ways = solve(folded);
            assert!(ways[0].certain && ways[0].atoms.contains(&lower("e")), "{folded}: {ways:?}");
        }
        assert_eq!(solve("(btrim(e) = e)")[0].atoms, []);
        assert!(!solve("(lower(e) <> e)")[0].certain);
        assert_eq!(solve("(lower(a) = b)")[0].atoms[1..], [lower("a"), lower("b")]);
        let bytes = Atom::Letters("e".to_owned(), Letters::Ascii);
        assert_eq!(solve("(octet_length(e) <= 8)")[0].atoms[1], bytes);
        assert_eq!(solve("(lower(e) !~ 'x'::text)")[0].atoms[1], lower("e"));
        assert_eq!(solve("(lower(e) <> 'x'::text)")[0].atoms[1], lower("e"));
        // A constant is seen as it is, unless it is in the other case.
        let red = |is_certain: bool, text: &str| assert_eq!(solve(text)[0].certain, is_certain, "{text}");
        red(true, "(upper(e) = 'RED'::text)");
        red(true, "(lower(e) = ANY (ARRAY['größe'::text, 'red'::text]))");
        red(false, "(lower(e) = 'RED'::text)");
        red(false, "(lower(e) = ANY (ARRAY['Red'::text]))");
    }

    #[test]
    fn either_null_or_the_other_has_two_ways() {
        let expected = solve("((a IS NULL) <> (b IS NULL))");
        assert_eq!(expected.len(), 2);
        assert_eq!(expected[0].atoms, [Atom::Null("a".to_owned(), true), Atom::Null("b".to_owned(), false)]);
        for same in
            ["(num_nonnulls(a, b) = 1)", "((((a IS NOT NULL))::integer + ((b IS NOT NULL))::integer) = 1)"]
        {
            assert_eq!(solve(same).len(), 2, "{same}");
            assert!(solve(same).iter().all(|way| way.certain && way.atoms.len() == 2), "{same}");
        }
    }

    #[test]
    fn what_is_not_understood_is_uncertain() {
        for unknown in ["is_fine(a)", "((a + b) > 3)", "((a % 2) = 0)", "(j ? 'x'::text)"] {
            assert!(solve(unknown).iter().all(|way| !way.certain), "{unknown}");
        }
        let one_side = solve("((a > 0) OR is_fine(b))");
        assert_eq!(one_side.iter().map(|way| way.certain).collect::<Vec<_>>(), [true, false]);
        assert!(solve("false").is_empty());
    }
}
