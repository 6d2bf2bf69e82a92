//! Snapshots of every rendering, and what hostile text must not become.

use super::terminal::{Style, text};
use super::{Html, Junit, Markdown, RENDERERS, Renderer, Sarif};
use crate::evidence::Evidence;
use crate::report::Report;
use crate::sample::{self, TODAY};

fn hazardous() -> Report {
    Report::build(sample::hazardous(), TODAY)
}

fn rendered(renderer: &dyn Renderer, report: &Report) -> String {
    String::from_utf8(renderer.render(report).unwrap()).unwrap()
}

#[test]
fn renderings_keep_their_text() {
    let report = hazardous();
    insta::assert_snapshot!("html", rendered(&Html, &report));
    insta::assert_snapshot!("markdown", rendered(&Markdown, &report));
    insta::assert_snapshot!("junit", rendered(&Junit, &report));
    insta::assert_snapshot!("sarif", rendered(&Sarif, &report));
    insta::assert_snapshot!("terminal", text(&report, Style::default()));
    let safe = Report::build(sample::safe(), TODAY);
    insta::assert_snapshot!("terminal_safe", text(&safe, Style { colour: true, columns: 80 }));
    insta::assert_snapshot!("markdown_safe", rendered(&Markdown, &safe));
}

#[test]
fn every_rendering_copes_with_no_evidence_and_repeats_itself() {
    for evidence in [Evidence::default(), sample::safe(), sample::hazardous()] {
        let report = Report::build(evidence, TODAY);
        for renderer in RENDERERS {
            let first = renderer.render(&report).unwrap();
            assert_eq!(first, renderer.render(&report).unwrap(), "{}", renderer.name());
            assert!(first.len() < 500_000, "{} has {} bytes", renderer.name(), first.len());
        }
        assert!(text(&report, Style::default()).contains(&report.verdict.outcome.name().to_uppercase()));
    }
}

/// A report whose every foreign text is an attack.
fn hostile() -> Report {
    const ATTACK: &str =
        "<script>alert(1)</script>\"'><img src=\"http://evil.invalid/x\">|`*[a](http://b)\u{1b}[2J\u{0}";
    let mut evidence = sample::hazardous();
    let locks = evidence.locks.as_mut().unwrap();
    locks.records[0].statement = ATTACK.into();
    locks.records[0].relation = ATTACK.into();
    locks.records[0].victims[0].statement = ATTACK.into();
    locks.leftovers.push(crate::lock::LockLeftover {
        phase: crate::phase::Phase::Upgrade,
        kind: "invalid index".into(),
        object: ATTACK.into(),
    });
    evidence.steps[0].id = ATTACK.into();
    evidence.steps[0].error = Some(ATTACK.into());
    evidence.rehearsal.name = ATTACK.into();
    evidence.package.as_mut().unwrap().name = ATTACK.into();
    evidence.package.as_mut().unwrap().signature_note = ATTACK.into();
    evidence.notices.push(ATTACK.into());
    evidence.dependents.as_mut().unwrap().outages[0].reason = ATTACK.into();
    evidence.traffic.as_mut().unwrap().routes[0].route = ATTACK.into();
    evidence.schema.as_mut().unwrap().drift.push(sample::difference("table", ATTACK, None, Some(ATTACK)));
    Report::build(evidence, TODAY)
}

#[test]
fn hostile_text_stays_text() {
    let report = hostile();
    let html = rendered(&Html, &report);
    assert!(html.contains("&lt;script&gt;alert(1)"));
    for forbidden in ["<script", "<img", "src=\"http", "href=\"http"] {
        assert!(!html.contains(forbidden), "{forbidden} in report.html");
    }
    let markdown = rendered(&Markdown, &report);
    for forbidden in ["<script", "<img", "[a](", "http://", "\u{1b}"] {
        assert!(!markdown.contains(forbidden), "{forbidden:?} in summary.md");
    }
    // Every row of the tables keeps its number of cells.
    for row in markdown.lines().filter(|line| line.starts_with("| PKG") || line.starts_with("| LOCK")) {
        assert_eq!(row.replace("\\|", "").matches('|').count(), 7, "{row}");
    }
    let junit = rendered(&Junit, &report);
    assert!(!junit.contains("<script") && !junit.contains('\u{0}') && !junit.contains('\u{1b}'));
    let terminal = text(&report, Style::default());
    assert!(!terminal.contains('\u{1b}') && !terminal.contains('\u{0}'));
}

#[test]
fn the_page_needs_no_network() {
    for evidence in [sample::hazardous(), sample::safe()] {
        let html = rendered(&Html, &Report::build(evidence, TODAY));
        for attribute in ["src=", "href=", "url(", "@import"] {
            assert!(!html.contains(attribute), "{attribute}");
        }
        assert!(html.contains("default-src 'none'"));
    }
}

#[test]
fn no_terminal_line_is_wider_than_asked() {
    for columns in [40, 80, 100, 200] {
        for report in [hazardous(), Report::build(Evidence::default(), TODAY)] {
            for line in text(&report, Style { colour: false, columns }).lines() {
                let most = columns.clamp(80, 100);
                let width = line.chars().count();
                assert!(width <= most, "{width} > {most}: {line}");
            }
        }
    }
}

#[test]
fn sarif_points_at_files_and_keeps_waived_findings_apart() {
    let mut evidence = sample::hazardous();
    evidence.rehearsal.limits.waivers.push(crate::finding::Waiver {
        check: crate::check::CheckId::RollFlag,
        object: "express_checkout".into(),
        bound: None,
        reason: "flag is dead".into(),
        owner: "ada".into(),
        expires: TODAY.into(),
    });
    let report = Report::build(evidence, TODAY);
    let sarif: serde_json::Value = serde_json::from_str(&rendered(&Sarif, &report)).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), report.findings.len());
    let suppressed: Vec<_> =
        results.iter().filter(|result| result.get("suppressions").is_some()).map(|r| &r["ruleId"]).collect();
    assert_eq!(suppressed, ["ROLL-FLAG"]);
    let hold = results.iter().find(|result| result["ruleId"] == "LOCK-HOLD").unwrap();
    let location = &hold["locations"][0]["physicalLocation"];
    assert_eq!(location["artifactLocation"]["uri"], "scripts/020-migrate.sh");
    assert_eq!(location["region"]["startLine"], 14);
    assert_eq!(
        hold["partialFingerprints"]["fulldressFinding/v1"],
        "LOCK-HOLD|scripts/020-migrate.sh|public.orders"
    );
}
