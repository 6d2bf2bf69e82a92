//! PRE-CREDENTIAL: literal credentials in any file of the package. A value is never shown, only its length.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::document::line_of;
use crate::package::MANIFEST;

use super::{Report, Scene};

/// The record of one kind of credential.
#[derive(Debug, Clone, Copy)]
struct Secret {
    /// Stable for ever; findings name it.
    id: &'static str,
    /// What it is, a noun.
    meaning: &'static str,
    /// Some of these must occur, in lower case, before the expression is tried.
    keywords: &'static [&'static str],
    /// The first group that takes part is the value.
    expression: &'static str,
    /// Smallest entropy of the value, bits per character; words and placeholders have less.
    entropy_min: f64,
    /// Whether a value without any digit is taken for a name.
    needs_digit: bool,
}

const SECRETS: &[Secret] = &[
    Secret {
        id: "private-key",
        meaning: "a private key",
        keywords: &["private key"],
        expression: r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----\s*([A-Za-z0-9+/=\s:,-]*)",
        entropy_min: 0.0,
        needs_digit: false,
    },
    Secret {
        id: "pgpassword",
        meaning: "a password of PostgreSQL",
        keywords: &["pgpassword"],
        expression: r#"\bPGPASSWORD["']?\s*[:=]\s*(?:"([^"\n]+)"|'([^'\n]+)'|([^\s"';&|]+))"#,
        entropy_min: 0.0,
        needs_digit: false,
    },
    Secret {
        id: "sql-role-password",
        meaning: "a password of a database role",
        keywords: &["password"],
        expression: r"(?is)\b(?:alter|create)\s+(?:role|user|group)\b[^;]*?\bpassword\s+e?'((?:[^']|'')+)'",
        entropy_min: 0.0,
        needs_digit: false,
    },
    Secret {
        id: "url-password",
        meaning: "a password in a URL",
        keywords: &["://"],
        expression: r#"(?i)\b[a-z][a-z0-9+.-]*://[^\s:/@"'<>]*:([^\s/@"'<>]+)@"#,
        entropy_min: 0.0,
        needs_digit: false,
    },
    Secret {
        id: "aws-access-key",
        meaning: "an access key of AWS",
        keywords: &["akia", "asia", "abia", "acca"],
        expression: r"\b((?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16})\b",
        entropy_min: 2.5,
        needs_digit: false,
    },
    Secret {
        id: "aws-secret-key",
        meaning: "a secret key of AWS",
        keywords: &["secret_access_key", "secretaccesskey"],
        expression: r#"(?i)secret_?access_?key["']?\s*[:=]\s*["']?([A-Za-z0-9/+]{40})\b"#,
        entropy_min: 3.5,
        needs_digit: false,
    },
    Secret {
        id: "service-token",
        meaning: "a token of a known service",
        keywords: &[
            "ghp_",
            "gho_",
            "ghu_",
            "ghs_",
            "ghr_",
            "github_pat_",
            "glpat-",
            "xox",
            "sk_live_",
            "rk_live_",
        ],
        expression: concat!(
            r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[A-Za-z0-9_-]{20,}",
            r"|xox[abprs]-[A-Za-z0-9-]{10,}|[sr]k_live_[A-Za-z0-9]{16,})"
        ),
        entropy_min: 3.0,
        needs_digit: false,
    },
    Secret {
        id: "json-web-token",
        meaning: "a signed token (JWT)",
        keywords: &["eyj"],
        expression: r"\b(eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})",
        entropy_min: 3.0,
        needs_digit: false,
    },
    Secret {
        id: "authorization-header",
        meaning: "a credential in an Authorization header",
        keywords: &["authorization"],
        expression: r"(?i)\bauthorization\b[\x22']?\s*[:=]\s*[\x22']?(?:bearer|token|basic)\s+([A-Za-z0-9._~+/=-]{8,})",
        entropy_min: 2.5,
        needs_digit: false,
    },
    Secret {
        id: "user-option",
        meaning: "a password on a command line",
        keywords: &["curl", "wget"],
        expression: r#"\b(?:curl|wget)\b[^\n#]*?\s(?:-u|--user)[ =]?["']?[^\s:"'$]+:([^\s"']+)"#,
        entropy_min: 0.0,
        needs_digit: false,
    },
    Secret {
        id: "password-option",
        meaning: "a password on a command line",
        keywords: &["--pass", "--token", "--secret", "--api-key", "--apikey", "--http-password"],
        expression: r#"(?i)--(?:(?:http-|db-)?password|passwd|pass|token|secret|api-?key)[= ](?:"([^"\n]+)"|'([^'\n]+)'|([^\s"';&|-][^\s"';&|]*))"#,
        entropy_min: 0.0,
        needs_digit: false,
    },
    Secret {
        id: "password-assignment",
        meaning: "a password in an assignment",
        keywords: &["passw", "_pwd"],
        expression: r#"(?i)(?:^|[\s"'{(\[,;?&.])(?:\w+[_.-])?(?:password|passwd|pwd)(?:=(?:"([^"\n]+)"|'([^'\n]+)'|([^\s"',;&|)(\]]+))|(?:["']?\s*=|["']?:|["']\s*:)\s*(?:"([^"\n]+)"|'([^'\n]+)'))"#,
        entropy_min: 0.0,
        needs_digit: false,
    },
    Secret {
        id: "token-assignment",
        meaning: "a token or key in an assignment",
        keywords: &["token", "secret", "api_key", "apikey", "api-key"],
        expression: r#"(?i)(?:^|[\s"'{(\[,;?&.])(?:\w+[_.-])?(?:token|secret|api[_-]?key|secret[_-]key)["']?\s*[:=]\s*["']?([A-Za-z0-9._~+/=-]{12,})"#,
        entropy_min: 3.2,
        needs_digit: true,
    },
];

/// The expressions, compiled once; the tests show that every one compiles.
static EXPRESSIONS: LazyLock<Vec<(&'static Secret, Regex)>> = LazyLock::new(|| {
    SECRETS
        .iter()
        .filter_map(|secret| Some((secret, Regex::new(&format!("(?m){}", secret.expression)).ok()?)))
        .collect()
});

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    let package = scene.input.package;
    let files = package.files.iter().map(|(name, file)| (name.as_str(), &file.bytes[..]));
    for (name, bytes) in files.chain([(MANIFEST, package.manifest_text.as_bytes())]) {
        for hit in search(&String::from_utf8_lossy(bytes)) {
            let what = format!(
                "{} is written into the file: {} characters, not shown (rule {})",
                hit.secret.meaning, hit.length, hit.secret.id
            );
            report.add(format!("{} in {name}", hit.secret.id), (name, hit.line), what);
        }
    }
}

struct Hit {
    secret: &'static Secret,
    line: u32,
    /// Characters of the value.
    length: usize,
}

fn search(text: &str) -> Vec<Hit> {
    let lower = text.to_lowercase();
    let mut taken: Vec<Range<usize>> = Vec::new();
    let mut hits = Vec::new();
    for (secret, expression) in EXPRESSIONS.iter() {
        if !secret.keywords.iter().any(|keyword| lower.contains(keyword)) {
            continue;
        }
        for captures in expression.captures_iter(text) {
            let Some(value) = captures.iter().skip(1).flatten().next() else { continue };
            let overlaps = taken.iter().any(|range| range.start < value.end() && value.start() < range.end);
            // A value that an earlier, more exact rule has named is not named twice.
            if overlaps || !is_literal(value.as_str(), secret) {
                continue;
            }
            taken.push(value.range());
            let length = value.as_str().trim().chars().count();
            hits.push(Hit { secret, line: line_of(text, value.start()), length });
        }
    }
    hits.sort_by_key(|hit| hit.line);
    hits
}

/// Whether a value is a credential and not a variable, a placeholder or a switch.
fn is_literal(value: &str, secret: &Secret) -> bool {
    const PLACEHOLDERS: &[&str] = &[
        "true", "false", "yes", "no", "on", "off", "null", "none", "nil", "redacted", "required", "optional",
        "password", "token", "secret", "string", "text", "prompt", "stdin", "env",
    ];
    let plain = value.trim();
    let verifier = plain.starts_with("SCRAM-SHA-256$");
    let mut characters = plain.chars();
    let first = characters.next();
    let expands = |at: usize| {
        let next = plain[at + 1..].chars().next();
        next.is_some_and(|next| next.is_ascii_alphanumeric() || "_{(".contains(next))
    };
    let variable = plain.match_indices('$').any(|(at, _)| expands(at)) || plain.contains('`');
    let template = ["{{", "}}", "@@", "%(", "<%", "..."].iter().any(|mark| plain.contains(mark))
        || plain.starts_with(['<', '%', ':'])
        || plain.starts_with('{');
    let uniform = first.is_some_and(|first| characters.all(|other| other == first));
    let listed = PLACEHOLDERS.iter().any(|placeholder| plain.eq_ignore_ascii_case(placeholder));
    // The vendor's documentation uses keys that end so; they open nothing.
    let documented = plain.ends_with("EXAMPLE") || plain.ends_with("EXAMPLEKEY");
    let name = secret.needs_digit && !plain.contains(|character: char| character.is_ascii_digit());
    let excused = name || (variable && !verifier) || template || uniform || listed || documented;
    // A private key's value is its body, which may be elsewhere; its header alone says what it is.
    secret.id == "private-key" || (!plain.is_empty() && !excused && entropy(plain) >= secret.entropy_min)
}

/// Shannon entropy, bits per character.
fn entropy(text: &str) -> f64 {
    let mut counts = std::collections::BTreeMap::new();
    for character in text.chars() {
        *counts.entry(character).or_insert(0_u32) += 1;
    }
    let total = f64::from(counts.values().sum::<u32>());
    counts.values().map(|count| f64::from(*count) / total).map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::{EXPRESSIONS, SECRETS, entropy, search};

    #[test]
    fn every_expression_compiles_and_every_id_is_its_own() {
        assert_eq!(EXPRESSIONS.len(), SECRETS.len());
        for secret in SECRETS {
            assert_eq!(SECRETS.iter().filter(|other| other.id == secret.id).count(), 1);
        }
    }

    #[test]
    fn each_rule_fires_on_a_literal_and_is_silent_on_what_is_none() {
        let token = "q7Zk2Vb9xR4mT8wLc1";
        let cases: &[(&str, String, &str)] = &[
            (
                "private-key",
                "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n".into(),
                "-----BEGIN PUBLIC KEY-----\nMIIE\n",
            ),
            (
                "pgpassword",
                "PGPASSWORD=s3cret psql -c 'SELECT 1'".into(),
                "PGPASSWORD=\"${DB_PASSWORD}\" psql",
            ),
            (
                "sql-role-password",
                "ALTER ROLE app\n  WITH PASSWORD 'hunter2';".into(),
                "ALTER ROLE app PASSWORD :'pw'; ALTER ROLE b PASSWORD NULL;",
            ),
            (
                "sql-role-password",
                "CREATE USER a PASSWORD 'SCRAM-SHA-256$4096:c2FsdA==$a:b'".into(),
                "ALTER ROLE app PASSWORD '$PW'",
            ),
            (
                "url-password",
                "curl https://bob:hunter2@partner.example/".into(),
                "curl https://bob:$PW@partner.example/ http://h:80/a@b",
            ),
            ("aws-access-key", "KEY=AKIAQ7ZK2VB5XR4MT6WL".into(), "KEY=AKIAIOSFODNN7EXAMPLE"),
            (
                "aws-secret-key",
                "aws_secret_access_key = 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".into(),
                "aws_secret_access_key = $KEY",
            ),
            ("service-token", format!("x ghp_{token}{token}"), "ghp_short"),
            ("json-web-token", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl".into(), "eyJhbGci.eyJ"),
            (
                "authorization-header",
                format!("-H 'Authorization: Bearer {token}'"),
                "-H \"Authorization: Bearer $TOKEN\"",
            ),
            (
                "user-option",
                "curl -s -u bob:hunter2 https://x.example".into(),
                "curl -u \"bob:$PW\" https://x.example",
            ),
            (
                "password-option",
                "tool --password hunter2".into(),
                "tool --password \"$PW\" --password-file /run/pw --token -",
            ),
            (
                "password-assignment",
                "export SHOP_PASSWORD='hunter2'".into(),
                "SHOP_PASSWORD=$(cat /run/pw)\nRESET_PASSWORD=true\nPASSWORD_FILE=/run/pw",
            ),
            (
                "password-assignment",
                "password = \"hunter2\"".into(),
                "password = \"<set me>\"\nWHERE password = crypt(a, b)",
            ),
            ("password-assignment", "host=db user=a password=hunter2".into(), "host=db user=a password=$PW"),
            ("token-assignment", format!("api_key: {token}"), "token = get_token_from_environment"),
        ];
        for (id, firing, silent) in cases {
            let found: Vec<&str> = search(firing).iter().map(|hit| hit.secret.id).collect();
            assert_eq!(found, [*id], "{firing}");
            let found: Vec<&str> = search(silent).iter().map(|hit| hit.secret.id).collect();
            assert!(found.is_empty(), "{silent}: {found:?}");
        }
    }

    #[test]
    fn entropy_tells_words_from_keys() {
        assert!(entropy("aaaaaaaa") < 0.01);
        assert!((entropy("abcdefgh") - 3.0).abs() < 1e-9);
    }
}
