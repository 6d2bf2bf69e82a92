//! Request templates: compiled once from a workload file, rendered once a request.
//!
//! `file` compiles and probes them, both pumps render them. Randomness comes from the session's own seeded dice,
//! so that a run can be replayed; an undefined variable is an error and never an empty string.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::Object;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::feeder::Feed;

/// Names that every template may use beside the session's variables.
const BUILT_IN: [&str; 5] = ["key", "uuid", "random", "popular", "null"];
/// Variable that holds the rows of feeders.
const FEED: &str = "feed";
/// What `null` and a feeder's NULL render to: no text of a database has this character.
pub(crate) const NULL: &str = "\0";

/// The compiled templates of one scenario.
#[derive(Debug, Clone)]
pub(crate) struct Templates {
    environment: Environment<'static>,
    feeders: Vec<String>,
    /// Feeders' columns that some template uses.
    columns: BTreeSet<(String, String)>,
}

/// One template of a scenario's [`Templates`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateId(String);

impl Templates {
    /// An empty set.
    pub(crate) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        Self { environment, feeders: Vec::new(), columns: BTreeSet::new() }
    }

    /// Lets the templates that are added from now on take values from these feeders.
    pub(crate) fn feed_from(&mut self, names: impl Iterator<Item = String>) {
        self.feeders = names.collect();
    }

    /// The columns of a feeder that some template uses.
    pub(crate) fn columns_of(&self, feeder: &str) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(move |(of, _)| of == feeder).map(|(_, column)| column.as_str())
    }

    /// Compiles a template whose variables are all among `known`, the built-in names, and minijinja's own.
    ///
    /// # Errors
    /// A sentence for the workload's author: a syntax error, or the variable or feeder that nothing defines.
    pub(crate) fn add(&mut self, name: String, source: &str, known: &[String]) -> Result<TemplateId, String> {
        self.environment
            .add_template_owned(name.clone(), source.to_owned())
            .map_err(|error| explain(&error))?;
        let template = self.environment.get_template(&name).map_err(|error| explain(&error))?;
        let mut undefined: Vec<String> = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|variable| {
                (variable != FEED || self.feeders.is_empty())
                    && !BUILT_IN.contains(&variable.as_str())
                    && !known.contains(variable)
                    && !self.environment.globals().any(|(global, _)| global == variable.as_str())
            })
            .collect();
        undefined.sort();
        for path in template.undeclared_variables(true) {
            let mut parts = path.split('.');
            if parts.next() != Some(FEED) || !undefined.is_empty() {
                continue;
            }
            let (Some(feeder), Some(column), None) = (parts.next(), parts.next(), parts.next()) else {
                return Err(format!("`{path}` is no value of a feeder: write `feed.NAME.COLUMN`"));
            };
            if !self.feeders.iter().any(|known| known == feeder) {
                return Err(format!("no feeder `{feeder}`; defined here: {}", self.feeders.join(", ")));
            }
            self.columns.insert((feeder.to_owned(), column.to_owned()));
        }
        match undefined.first() {
            None => Ok(TemplateId(name)),
            Some(variable) => Err(format!(
                "undefined variable `{variable}`; defined here: {}",
                BUILT_IN
                    .iter()
                    .copied()
                    .chain(known.iter().map(String::as_str))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        }
    }

    /// Compiles a condition: an expression as it stands between `{% if` and `%}`.
    ///
    /// # Errors
    /// As [`Templates::add`]; besides, a filter, test or function that there is not.
    pub(crate) fn add_condition(
        &mut self,
        name: String,
        source: &str,
        known: &[String],
    ) -> Result<TemplateId, String> {
        if source.contains("%}") {
            return Err("it is an expression alone, without `%}`".to_owned());
        }
        let id = self.add(name, &format!("{{% if {source} %}}1{{% endif %}}"), known)?;
        let tried = self.environment.get_template(&id.0);
        let variables = Session::probing(known).variables();
        match tried.and_then(|template| template.render(variables)) {
            Err(error) if is_unknown(&error) => Err(explain(&error)),
            // Values of another kind than those tried here may well do.
            _ => Ok(id),
        }
    }

    /// Whether a condition holds.
    ///
    /// # Errors
    /// A sentence: it needs a variable that is not there, or one of another kind.
    pub(crate) fn holds(&self, id: &TemplateId, context: &Value) -> Result<bool, String> {
        self.render(id, context).map(|text| !text.is_empty())
    }

    /// Renders a template with a session's variables.
    ///
    /// # Errors
    /// A sentence that names the template's fault.
    pub(crate) fn render(&self, id: &TemplateId, context: &Value) -> Result<String, String> {
        self.environment
            .get_template(&id.0)
            .and_then(|template| template.render(context.clone()))
            .map_err(|error| explain(&error))
    }
}

fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction)
}

fn explain(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// What one client remembers between requests: its dice and its variables.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    dice: Dice,
    run: u64,
    feeds: Vec<Feed>,
    variables: BTreeMap<String, Value>,
}

impl Session {
    /// A session whose random choices follow from `seed`. Keys begin with `run`, so that two runs with one seed
    /// against one database never share an idempotency key.
    pub(crate) fn new(seed: u64, run: u64) -> Self {
        let dice = Dice::new(seed);
        let mut variables = BTreeMap::new();
        let rolling = dice.clone();
        variables.insert(
            "random".to_owned(),
            Value::from_function(move |low: i64, high: i64| rolling.random(low, high)),
        );
        let rolling = dice.clone();
        variables
            .insert("popular".to_owned(), Value::from_function(move |count: i64| rolling.popular(count)));
        variables.insert("null".to_owned(), Value::from(NULL));
        Self { dice, run, feeds: Vec::new(), variables }
    }

    /// A session for trying templates out: each of these variables, and every column of a feeder, stands at 1.
    pub(crate) fn probing(known: &[String]) -> Self {
        let mut session = Self::new(0, 0);
        session.variables.insert(FEED.to_owned(), Value::from_object(AnyFeed));
        session.variables.extend(known.iter().map(|name| (name.clone(), Value::from(1))));
        session
    }

    /// The same session with rows from these feeds.
    pub(crate) fn fed(mut self, feeds: Vec<Feed>) -> Self {
        self.feeds = feeds;
        self
    }

    /// Goes to request number `number` of the schedule, counted from 0: its choices and rows follow from the seed and this
    /// number alone, whatever was sent before, so that parts of a schedule send what the whole would.
    pub(crate) fn go_to(&mut self, number: u64) {
        self.dice.go_to(number);
        for feed in &mut self.feeds {
            feed.go_to(number);
        }
    }

    /// Whether a feeder has no row left for the next request.
    pub(crate) fn is_dry(&self) -> bool {
        self.feeds.iter().any(Feed::is_dry)
    }

    /// The variables of the next request; `key` is fresh, and so is the row of each feeder.
    pub(crate) fn context(&mut self) -> Value {
        if !self.feeds.is_empty() {
            let dice = &self.dice;
            let rows =
                self.feeds.iter_mut().map(|feed| feed.next_row(|| dice.with(|dice| dice.random::<f64>())));
            let rows: BTreeMap<String, Value> = rows.collect();
            self.variables.insert(FEED.to_owned(), Value::from(rows));
        }
        let fresh = self.dice.with(Rng::random::<u64>);
        self.variables.insert("key".to_owned(), Value::from(format!("{:x}-{fresh:016x}", self.run)));
        self.variables.insert("uuid".to_owned(), Value::from(uuid(self.run, fresh)));
        Value::from(self.variables.clone())
    }

    /// The variables as they stand, with nothing fresh.
    pub(crate) fn variables(&self) -> Value {
        Value::from(self.variables.clone())
    }

    /// Remembers a scalar out of a response; anything but a string, number or boolean is refused.
    pub(crate) fn remember(&mut self, name: &str, value: &serde_json::Value) -> bool {
        let Some(value) = scalar(value) else { return false };
        self.variables.insert(name.to_owned(), value);
        true
    }

    /// A weighted choice: the index of the weight hit. One of the weights is above 0.
    pub(crate) fn choose(&self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut left = self.dice.with(|dice| dice.random_range(0..total.max(1)));
        for (index, weight) in weights.iter().enumerate() {
            let weight = u64::from(*weight);
            if left < weight {
                return index;
            }
            left -= weight;
        }
        weights.len().saturating_sub(1)
    }

    /// A whole number between two bounds, both included.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.dice.with(|dice| dice.random_range(low..=high.max(low)))
    }
}

/// A key as a UUID of version 8, whose bits are its maker's: the run in front, what is fresh behind.
fn uuid(run: u64, fresh: u64) -> String {
    let run = run & 0x0fff_ffff_ffff_ffff;
    let (front, middle, last) = (run >> 28, (run >> 12) & 0xffff, run & 0xfff);
    let (variant, node) = (0x8000 | ((fresh >> 48) & 0x3fff), fresh & 0xffff_ffff_ffff);
    format!("{front:08x}-{middle:04x}-8{last:03x}-{variant:04x}-{node:012x}")
}

/// Feeders and rows in which every name stands.
#[derive(Debug)]
struct AnyFeed;

/// A row that has every column.
#[derive(Debug)]
struct AnyRow;

impl Object for AnyFeed {
    fn get_value(self: &Arc<Self>, _name: &Value) -> Option<Value> {
        Some(Value::from_object(AnyRow))
    }
}

impl Object for AnyRow {
    fn get_value(self: &Arc<Self>, _column: &Value) -> Option<Value> {
        Some(Value::from("1"))
    }
}

fn scalar(value: &serde_json::Value) -> Option<Value> {
    match value {
        serde_json::Value::Bool(value) => Some(Value::from(*value)),
        serde_json::Value::String(value) => Some(Value::from(value.as_str())),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Some(Value::from(whole)),
            (None, Some(real)) => Some(Value::from(real)),
            (None, None) => None,
        },
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    }
}

/// A seeded random generator that template functions share.
#[derive(Debug, Clone)]
struct Dice {
    rolling: Arc<Mutex<ChaCha8Rng>>,
    /// Never rolled: the beginning of every stream.
    fresh: Arc<ChaCha8Rng>,
}

impl Dice {
    fn new(seed: u64) -> Self {
        let fresh = ChaCha8Rng::seed_from_u64(seed);
        Self { rolling: Arc::new(Mutex::new(fresh.clone())), fresh: Arc::new(fresh) }
    }

    fn with<T>(&self, roll: impl FnOnce(&mut ChaCha8Rng) -> T) -> T {
        // A generator is valid in every state: a panic elsewhere cannot have left it half changed.
        roll(&mut self.rolling.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The stream of its own that a number has; the first one is the schedule's.
    fn go_to(&self, number: u64) {
        let mut stream = ChaCha8Rng::clone(&self.fresh);
        stream.set_stream(number.wrapping_add(1));
        self.with(|rolling| *rolling = stream);
    }

    fn random(&self, low: i64, high: i64) -> Result<i64, Error> {
        if low > high {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("random({low}, {high}) is an empty range"),
            ));
        }
        Ok(self.with(|dice| dice.random_range(low..=high)))
    }

    /// 1 to `count`, the small numbers more often: rank k with a share near 1/k, as Zipf's law has it.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "counts of a shop's things are far below 2^52"
    )]
    fn popular(&self, count: i64) -> Result<i64, Error> {
        if count < 1 {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("popular({count}) has nothing to choose"),
            ));
        }
        let position = self.with(|dice| dice.random::<f64>());
        Ok((((count + 1) as f64).powf(position).floor() as i64).clamp(1, count))
    }
}

#[cfg(test)]
mod tests {
    use super::{Session, Templates};

    fn render(source: &str, session: &mut Session) -> Result<String, String> {
        let mut templates = Templates::new();
        let id = templates.add("t".to_owned(), source, &["cart_id".to_owned()])?;
        templates.render(&id, &session.context())
    }

    #[test]
    fn equal_seeds_give_equal_requests_and_fresh_keys() {
        let (mut one, mut two) = (Session::new(7, 1), Session::new(7, 1));
        let source = "{{ random(1, 1000000) }} {{ popular(2000) }} {{ key }}";
        let first = render(source, &mut one).unwrap();
        assert_eq!(first, render(source, &mut two).unwrap());
        assert_ne!(first, render(source, &mut one).unwrap());
    }

    #[test]
    fn a_uuid_is_fresh_and_knows_its_run() {
        let shown = |run: u64, session: &mut Session| {
            assert_eq!(session.run, run);
            render("{{ uuid }}", session).unwrap()
        };
        let run = 0x0006_1c9a_23bc_4def;
        let mut session = Session::new(1, run);
        let (first, second) = (shown(run, &mut session), shown(run, &mut session));
        assert_ne!(first, second);
        assert!(first.starts_with("0061c9a2-3bc4-8def-") && first.len() == 36, "{first}");
        assert!("89ab".contains(first.as_bytes()[19] as char), "{first}");
    }

    #[test]
    fn popular_stays_in_range_and_prefers_the_first() {
        let mut session = Session::new(1, 1);
        let mut first_tenth = 0;
        for _ in 0..1000 {
            let rank: i64 = render("{{ popular(1000) }}", &mut session).unwrap().parse().unwrap();
            assert!((1..=1000).contains(&rank));
            first_tenth += i32::from(rank <= 100);
        }
        assert!(
            (550..800).contains(&first_tenth),
            "log(101)/log(1001) = 67 % expected, got {first_tenth} of 1000"
        );
    }

    #[test]
    fn an_undefined_variable_is_named_at_once() {
        let error = render("{{ basket }}", &mut Session::new(1, 1)).unwrap_err();
        assert!(error.starts_with("undefined variable `basket`"), "{error}");
        let error = render("{{ cart_id }}", &mut Session::new(1, 1)).unwrap_err();
        assert!(error.contains("undefined"), "{error}");
        assert!(render("{{ random(1", &mut Session::new(1, 1)).unwrap_err().contains("syntax error"));
        assert!(render("{{ random(2, 1) }}", &mut Session::new(1, 1)).unwrap_err().contains("empty range"));
    }

    #[test]
    fn conditions_are_asked_of_what_is_remembered() {
        let mut templates = Templates::new();
        let known = ["stock".to_owned(), "token".to_owned()];
        let mut add = |source: &str| templates.add_condition(source.to_owned(), source, &known);
        let [many, none] =
            ["stock > 2 and stock < 10", "token is not defined"].map(|source| add(source).unwrap());
        for (source, expected) in [
            ("stock >", "syntax error"),
            ("price > 1", "undefined variable `price`"),
            ("stock | lenght > 1", "lenght"),
            ("true %}x{% if true", "without `%}`"),
        ] {
            let error = add(source).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
        let mut session = Session::new(1, 1);
        let holds = |id, session: &Session| templates.holds(id, &session.variables());
        assert!(holds(&many, &session).unwrap_err().contains("undefined"));
        assert_eq!(holds(&none, &session), Ok(true));
        for (stock, expected) in [(2, false), (3, true), (10, false)] {
            assert!(session.remember("stock", &serde_json::json!(stock)));
            assert_eq!(holds(&many, &session), Ok(expected), "{stock}");
        }
        session.remember("token", &serde_json::json!("t"));
        assert_eq!(holds(&none, &session), Ok(false));
    }

    #[test]
    fn only_scalars_are_remembered() {
        let mut session = Session::new(1, 1);
        assert!(session.remember("cart_id", &serde_json::json!("c-7")));
        assert_eq!(render("/carts/{{ cart_id }}", &mut session).unwrap(), "/carts/c-7");
        assert!(session.remember("cart_id", &serde_json::json!(12)));
        assert_eq!(render("/carts/{{ cart_id }}", &mut session).unwrap(), "/carts/12");
        assert!(!session.remember("cart_id", &serde_json::json!({"id": 1})));
    }
}
