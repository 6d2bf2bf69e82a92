//! Renderings of a report: each a pure function of it, none of which decides anything.
//!
//! Called at the end of a rehearsal and by `fulldress report DIR`. Files implement [`Renderer`]; the terminal
//! is text for a person and stands beside it.

mod chart;
mod html;
pub mod junit;
mod markdown;
pub mod sarif;
pub mod terminal;
#[cfg(test)]
mod tests;
mod ways;

use crate::check::{Check, Unit};
use crate::figures;
use crate::report::Report;
use crate::traffic::Quantiles;

pub use html::Html;
pub use junit::Junit;
pub use markdown::Markdown;
pub use sarif::Sarif;

/// One file of the bundle that follows from `report.json`.
pub trait Renderer {
    /// Name of the file inside the bundle.
    fn name(&self) -> &'static str;

    /// The file's bytes; equal reports give equal bytes.
    ///
    /// # Errors
    /// When the format's encoder refuses a value.
    fn render(&self, report: &Report) -> Result<Vec<u8>, RenderError>;
}

/// Why a rendering failed.
#[derive(Debug, thiserror::Error)]
#[error("render {file}: {reason}")]
pub struct RenderError {
    /// Name of the file.
    pub file: &'static str,
    /// What the encoder says.
    pub reason: String,
}

/// Every rendering that a bundle holds.
pub const RENDERERS: [&(dyn Renderer + Sync); 4] = [&Html, &Markdown, &Junit, &Sarif];

/// The three ways in which a figure of the traffic can be missing or present.
fn quantile(quantile_us: Option<u64>, of: &Quantiles) -> String {
    quantile_us.map_or_else(|| format!("— (n={})", of.count), figures::duration_us)
}

/// `storefront 2.3 → 2.4`, or the rehearsal's name where no package was opened.
fn title(report: &Report) -> String {
    let evidence = &report.evidence;
    evidence.package.as_ref().map_or_else(
        || evidence.rehearsal.name.clone(),
        |package| format!("{} {} → {}", package.name, package.from, package.to),
    )
}

/// `≤ 1.0 s`, or `none` where a check allows nothing.
fn limit(check: &Check) -> String {
    match check.limit {
        0.0 => "none".to_owned(),
        limit => format!("≤ {}", figures::value(check.unit, limit)),
    }
}

/// The observed value, or a dash.
fn observed(check: &Check) -> String {
    check.observed.map_or_else(
        || "—".to_owned(),
        |observed| match check.unit {
            // A bare number would read as what the title says was kept.
            Unit::Count => format!("{} found", figures::value(check.unit, observed)),
            _ => figures::value(check.unit, observed),
        },
    )
}

/// How often the limit was used up, `×4.8`, or nothing where a limit of 0 has no multiples.
fn margin(check: &Check) -> String {
    check.margin.map_or_else(String::new, |margin| match margin {
        0.0 => "×0".to_owned(),
        small if small < 0.01 => "< ×0.01".to_owned(),
        small if small < 1.0 => format!("×{margin:.2}"),
        _ => format!("×{margin:.1}"),
    })
}
