use super::{Action, Manifest, OnFailure, RollbackAction, RollbackMethod};

const GOOD: &str = r#"schema = "fulldress/package/1"
name = "storefront"
from = "2.3"
to = "2.4"
via = ["2.3.5"]

[rollback]
method = "restore"

[[config_key]]
key = "checkout.legacy_tax"
deprecated_in = "2.4"

[[step]]
id = "10-schema"
kind = "sql"
file = "migrations/10.up.sql"
retries = 5
retry_pause_ms = 100
timeout_s = 60
rollback = { file = "migrations/10.down.sql" }

[[step]]
id = "20-config"
kind = "config"
on_failure = "continue"
file = "/etc/storefront/storefront.toml"
set = { checkout.tax_mode = "inclusive", "limits.cart" = 20 }
unset = ["checkout.legacy_tax"]
rollback = { restore = true }

[[step]]
id = "30-web"
kind = "service"
service = "storefront"
version = "2.4"
rollback = { version = "2.3", timeout_s = 20 }
"#;

#[test]
fn steps_mean_what_they_say() {
    let manifest = Manifest::parse(GOOD, "manifest.toml").unwrap();
    assert_eq!(manifest.rollback, RollbackMethod::Restore);
    let [schema, config, web] = &manifest.steps[..] else { panic!("three steps") };
    assert_eq!((schema.timeout.as_secs(), schema.on_failure, schema.line), (60, OnFailure::Rollback, 15));
    assert_eq!(schema.rollback_file(), Some("migrations/10.down.sql"));
    let Action::Sql { retries, retry_pause, .. } = &schema.action else { panic!("sql") };
    assert_eq!((*retries, retry_pause.as_millis()), (5, 100));
    let Action::Config { set, .. } = &config.action else { panic!("config") };
    assert_eq!(set.keys().collect::<Vec<_>>(), ["checkout.tax_mode", "limits.cart"]);
    let restored = &config.rollback.as_ref().unwrap().action;
    assert_eq!(
        *restored,
        RollbackAction::RestoreConfig { file: "/etc/storefront/storefront.toml".to_owned() }
    );
    let back = web.rollback.as_ref().unwrap();
    assert_eq!(back.timeout.as_secs(), 20);
    let expected = Action::Service { service: "storefront".to_owned(), version: "2.3".to_owned() };
    assert_eq!(back.action, RollbackAction::Run(expected));
}

#[test]
fn faults_name_file_line_and_a_way_out() {
    let cases = [
        ("package/1", "package/2"),
        ("schema = \"fulldress/package/1\"\n", ""),
        ("from = \"2.3\"", "from = \"2.3; rm\""),
        ("via =", "vias ="),
        ("method = \"restore\"", "method = \"undo\""),
        ("kind = \"sql\"", "kind = \"perl\""),
        ("\"20-config\"", "\"10-schema\""),
        ("\"10-schema\"", "\"10 Schema\""),
        ("timeout_s = 60", "timeout_s = 0"),
        ("retries = 5", "retries = -1"),
        ("retries = 5", "service = \"storefront\""),
        ("\"migrations/10.up.sql\"", "\"../10.up.sql\""),
        ("\"/etc/storefront/storefront.toml\"", "\"etc/storefront.toml\""),
        ("restore = true", "restore = true, unset = [\"a\"]"),
        ("file = \"migrations/10.down.sql\"", "restore = true"),
        ("version = \"2.4\"\n", ""),
        ("set = {", "sets = {"),
    ];
    let mut report = String::new();
    for (find, replace) in cases {
        let text = GOOD.replacen(find, replace, 1);
        assert_ne!(text, GOOD, "{find}");
        let error = Manifest::parse(&text, "manifest.toml").unwrap_err();
        report.push_str(&format!("{error}\n    {}\n", error.hint.as_deref().unwrap_or("-")));
    }
    insta::assert_snapshot!(report);
}

#[test]
fn a_digest_that_is_none_is_refused() {
    let text = format!("{GOOD}[entries]\n\"migrations/10.up.sql\" = \"md5:00\"\n");
    let error = Manifest::parse(&text, "manifest.toml").unwrap_err();
    assert!(error.to_string().starts_with("manifest.toml:39: the digest of"), "{error}");
}

#[test]
fn the_diagnostic_shows_the_place() {
    let error =
        Manifest::parse(&GOOD.replacen("retries = 5", "retries = -1", 1), "manifest.toml").unwrap_err();
    let mut shown = String::new();
    let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor());
    handler.render_report(&mut shown, &error).unwrap();
    assert!(shown.contains("manifest.toml:18:11"), "{shown}");
}
