use super::Workload;
use crate::template::Session;

const HEAD: &str = "schema = \"fulldress/workload/1\"\nname = \"t\"\n";

fn refusal(source: &str) -> String {
    Workload::parse("w.toml", &format!("{HEAD}{source}")).map(|_| ()).unwrap_err().to_string()
}

/// An arrivals scenario whose only step has these lines.
fn step(lines: &str) -> String {
    format!(
        "[[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\nrate_per_s = 10\n[[scenario.step]]\nroute = \"r\"\n{lines}"
    )
}

#[test]
fn the_storefront_workload_is_valid() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("storefront.toml");
    let workload = Workload::load(&path).unwrap();
    assert_eq!(workload.scenarios().map(|(name, _)| name).collect::<Vec<_>>(), ["shop", "desk", "shoppers"]);
    assert!(workload.has_users() && workload.has_arrivals());
    assert!((workload.rate_per_s() - 160.0).abs() < f64::EPSILON);
    let shop = workload.select(&["shop".to_owned()]).unwrap();
    assert!(!shop.has_users());
    let error = workload.select(&["shopp".to_owned()]).unwrap_err().to_string();
    assert!(error.ends_with("no scenario `shopp`; it has: shop, desk, shoppers"), "{error}");
}

#[test]
fn faults_name_file_line_and_remedy() {
    for (source, expected) in [
        ("[[scenario]]\nname = 3\n", "workload w.toml:4: invalid type: integer `3`"),
        ("colour = 1\n", "workload w.toml:3: unknown field `colour`"),
        ("[[scenario]\n", "workload w.toml:3"),
        ("", "no [[scenario]]"),
        (
            "[[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\n",
            "w.toml:4: scenario `a`: the model `arrivals` needs",
        ),
        ("[[scenario]]\nname = \"a\"\nmodel = \"users\"\nrate_per_s = 1\n", "`rate_per_s` means nothing"),
    ] {
        let error = refusal(source);
        assert!(error.contains(expected), "{error}\nshould contain {expected}");
    }
    let error = Workload::parse("w.toml", "schema = \"other\"\nname = \"x\"\n").unwrap_err().to_string();
    assert!(error.contains("w.toml:1: schema `other` is not known"), "{error}");
}

#[test]
fn faulty_steps_are_refused_at_their_line() {
    for (lines, expected) in [
        (
            "method = \"GET\"\npath = \"/x/{{ id }}\"\n",
            "w.toml:8: scenario `a`, step `r`: path `/x/{{ id }}`: undefined variable `id`",
        ),
        ("method = \"GET\"\npath = \"/x/{{ random(1 }}\"\n", "syntax error"),
        ("method = \"GET\"\npath = \"/x/{{ random(5, 1) }}\"\n", "empty range"),
        ("method = \"GET\"\npath = \"x\"\n", "does not begin with `/`"),
        ("method = \"GET\"\npath = \"/x y\"\n", "path `/x y`"),
        ("method = \"FETCH\"\npath = \"/\"\n", "method `FETCH`"),
        ("method = \"GET\"\npath = \"/\"\nweight = 0\n", "weight 0 never arrives"),
        ("method = \"POST\"\npath = \"/\"\nbody = '{\"a\": }'\n", "no JSON"),
        ("method = \"GET\"\npath = \"/\"\nextract = { a = \"/id\" }\n", "needs a journey"),
        (
            "method = \"GET\"\npath = \"/\"\nexpect = { json = { \"id\" = \"present\" } }\n",
            "must begin with `/`",
        ),
        ("method = \"GET\"\npath = \"/\"\nexpect = { json = { \"/id\" = \"maybe\" } }\n", "present"),
        ("method = \"GET\"\npath = \"/\"\nwhen = \"true\"\n", "`when` needs a journey"),
        (
            "method = \"GET\"\npath = \"/\"\nexpect = { latency_ms = 5000 }\n",
            "latency_ms = 5000 is outside 1 to 4999",
        ),
    ] {
        let error = refusal(&step(lines));
        assert!(error.contains(expected), "{error}\nshould contain {expected}");
    }
}

#[test]
fn a_journey_may_use_only_what_earlier_steps_extracted() {
    let journey = |first: &str, second: &str| {
        format!(
            "[[scenario]]\nname = \"u\"\nmodel = \"users\"\nusers = 1\nthink_ms = {{ min = 1, max = 2 }}\n\
             [[scenario.step]]\nroute = \"one\"\nmethod = \"GET\"\npath = \"{first}\"\nextract = {{ id = \"/id\" }}\n\
             [[scenario.step]]\nroute = \"two\"\nmethod = \"GET\"\npath = \"{second}\"\n"
        )
    };
    assert!(Workload::parse("w.toml", &format!("{HEAD}{}", journey("/", "/{{ id }}"))).is_ok());
    assert!(refusal(&journey("/{{ id }}", "/")).contains("step `one`: path `/{{ id }}`: undefined variable"));
    // A condition may ask for what an earlier journey has left.
    let when =
        |condition: &str| journey("/", "/").replacen("path", &format!("when = \"{condition}\"\npath"), 1);
    assert!(Workload::parse("w.toml", &format!("{HEAD}{}", when("id is not defined"))).is_ok());
    assert!(
        refusal(&when("no > 1"))
            .contains("w.toml:9: scenario `u`, step `one`: when `no > 1`: undefined variable `no`")
    );
    let place = |text: &str| journey("/", "/").replace("\"/id\"", text);
    assert!(refusal(&place("{ regex = \"(\" }")).contains("extract `id`: regex `(`"));
    assert!(
        refusal(&place("{ cookie = \"a\" }"))
            .contains("a JSON pointer, or { header = NAME, regex = PATTERN }")
    );
}

#[test]
fn rates_are_stated_once_and_within_reason() {
    let with = |rates: &str| step("method = \"GET\"\npath = \"/\"\n").replace("rate_per_s = 10", rates);
    for (rates, expected) in [
        (
            "",
            "w.toml:4: scenario `a`: the model `arrivals` needs a rate: state one of `rate_per_s`, `rates` and `profile = true`",
        ),
        ("rate_per_s = 1\nprofile = true", "it has several rates"),
        ("rates = []", "nothing ever arrives"),
        ("rates = [{ for_s = 5, rate_per_s = 0 }]", "nothing ever arrives"),
        ("rates = [{ for_s = 0, rate_per_s = 1 }]", "for_s = 0 is outside"),
        ("rates = [{ for_s = 1, rate_per_s = 1, to_per_s = -1 }]", "-1 requests a second are outside"),
        ("rates = [{ for_s = 1, rate = 1 }]", "a list of { for_s, rate_per_s, to_per_s }, or"),
        ("rates = { file = \"no.csv\" }", "rates: no.csv cannot be read"),
        ("profile = true", "needs a table [profile]"),
    ] {
        let error = refusal(&with(rates));
        assert!(error.contains(expected), "{error}\nshould contain {expected}");
    }
    let profile = format!("[profile]\nfile = \"no.csv\"\n{}", with("profile = true"));
    assert!(refusal(&profile).contains("profile: no.csv cannot be read"), "{}", refusal(&profile));
    let once = "[[feeder]]\nname = \"o\"\nfile = \"o.csv\"\norder = \"once\"\npopularity = 1\n";
    assert!(
        refusal(&format!("{once}{}", with("rate_per_s = 1"))).contains("`popularity` means nothing where")
    );
}

/// A scenario of SQL with a feeder, whose only step has these lines.
fn sql_step(lines: &str) -> String {
    format!(
        "[[feeder]]\nname = \"orders\"\ndatabase = \"app\"\nquery = \"SELECT id FROM orders\"\n\
         [[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\nrate_per_s = 10\ndatabase = \"app\"\n\
         [[scenario.step]]\nroute = \"r\"\n{lines}"
    )
}

#[test]
fn statements_and_transactions_are_read_with_their_feeders() {
    let lines = r#"statement = "SELECT $1, $2, $3"
        parameters = ["{{ feed.orders.id }}", 5, "{{ null }}"]
        expect = { rows = 1 }
        acknowledged = { key = "{{ key }}", value = ["a"], read_back = "SELECT a FROM t WHERE key = $1" }
        [[scenario.step]]
        route = "s"
        transaction = [
            { statement = "SELECT 1" },
            { statement = "UPDATE t SET a = $1", parameters = [true], expect = { rows_min = 1 } },
        ]
        "#;
    let workload = Workload::parse("w.toml", &format!("{HEAD}{}", sql_step(lines))).unwrap();
    assert!(!workload.has_http() && workload.has_arrivals());
    assert_eq!(workload.databases().into_iter().collect::<Vec<_>>(), ["app"]);
    assert_eq!(workload.feeders_in_use().count(), 1);
    let scenario = &workload.scenarios[0];
    assert_eq!((scenario.routes(), scenario.mixes()), (vec!["r", "s"], vec![(0, vec![1, 1])]));
    let [first, second] = scenario.sql_steps() else { panic!("two steps") };
    assert!(!first.is_transaction && second.is_transaction);
    assert!(first.statements[0].rows.holds(1) && !first.statements[0].rows.holds(2));
    assert!(second.statements[1].rows.holds(9) && !second.statements[1].rows.holds(0));
    let rendered = first.render(&scenario.templates, &mut Session::probing(&[])).unwrap();
    assert_eq!(rendered.parameters, [[Some("1".to_owned()), Some("5".to_owned()), None]]);
    assert!(rendered.key.is_some());
}

#[test]
fn faulty_steps_of_sql_are_refused_at_their_line() {
    for (lines, expected) in [
        (
            "statement = \"SELECT 1\"\nmethod = \"GET\"\n",
            "w.toml:13: scenario `a`, step `r`: `method` means nothing",
        ),
        ("statement = \"SELECT 1; SELECT 2\"\n", "not one statement; several make a `transaction`"),
        ("statement = \"\"\n", "not one statement"),
        ("statement = \"SELECT 1\"\ntransaction = [{ statement = \"SELECT 1\" }]\n", "exclude each other"),
        (
            "statement = \"SELECT $1\"\nparameters = [\"{{ id }}\"]\n",
            "parameter $1 `{{ id }}`: undefined variable `id`",
        ),
        (
            "statement = \"SELECT $1\"\nparameters = [\"{{ feed.customers.id }}\"]\n",
            "no feeder `customers`; defined here: orders",
        ),
        ("statement = \"SELECT $1\"\nparameters = [\"{{ feed.orders }}\"]\n", "write `feed.NAME.COLUMN`"),
        ("statement = \"SELECT 1\"\nexpect = { status = 200 }\n", "mean nothing for SQL"),
        ("statement = \"SELECT 1\"\nexpect = { rows = 1, rows_max = 2 }\n", "exact"),
        ("statement = \"SELECT 1\"\nexpect = { rows_min = 3, rows_max = 2 }\n", "above"),
        ("transaction = [{ statement = \"SELECT 1\" }]\nexpect = { rows = 1 }\n", "inside `transaction`"),
        ("statement = \"SELECT 1\"\nextract = { a = \"/id\" }\n", "`extract` means nothing"),
        ("statement = \"SELECT 1\"\nwhen = \"true\"\n", "`when` means nothing"),
        ("statement = \"SELECT 1\"\nexpect = { latency_ms = 0 }\n", "latency_ms = 0 is outside"),
        (
            "transaction = [{ statement = \"SELECT 1\", expect = { latency_ms = 9 } }]\n",
            "belongs to the step",
        ),
    ] {
        let error = refusal(&sql_step(lines));
        assert!(error.contains(expected), "{error}\nshould contain {expected}");
    }
    let no_database = step("statement = \"SELECT 1\"\n");
    assert!(refusal(&no_database).contains("statements need `database"), "{}", refusal(&no_database));
    let order = "[[feeder]]\nname = \"o\"\ndatabase = \"a\"\nquery = \"SELECT 1\"\norder = \"sequence\"\npopularity = 1\n";
    let error = refusal(&format!("{order}{}", step("method = \"GET\"\npath = \"/\"\n")));
    assert!(error.contains("w.toml:4: feeder `o`: `popularity` means nothing"), "{error}");
}
