//! TOML documents that people write: parsed strictly, with errors that name file, line and a way out.
//!
//! Used by the manifest and the inventory; `miette` shows the span when a command prints the error.

pub use fulldress_reports::sql::line_of;
use std::ops::Range;

use miette::{Diagnostic, MietteError, NamedSource, SourceCode, SourceSpan, SpanContents};
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::Spanned;

/// A document that does not say what it must.
#[derive(Debug, Error, Diagnostic)]
#[error("{file}:{line}: {message}")]
pub struct DocumentError {
    /// The document, as the caller names it.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
    /// What is wrong, a lower-case fragment.
    pub message: String,
    /// What to write instead.
    #[help]
    pub hint: Option<String>,
    #[source_code]
    source_code: Source,
    #[label("here")]
    span: SourceSpan,
}

/// A named text on the heap: errors are returned by value and must stay small.
#[derive(Debug)]
struct Source(Box<NamedSource<String>>);

impl SourceCode for Source {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        self.0.read_span(span, lines_before, lines_after)
    }
}

/// A document's text under its name: makes errors that point into it.
#[derive(Debug, Clone, Copy)]
pub struct Document<'text> {
    /// Name for messages.
    pub file: &'text str,
    /// Whole text.
    pub text: &'text str,
}

/// Just enough of a document to see which format it claims.
#[derive(serde::Deserialize)]
struct SchemaLine {
    schema: Option<Spanned<String>>,
}

impl<'text> Document<'text> {
    /// An error at a span of bytes.
    #[must_use]
    pub fn error(&self, span: Range<usize>, message: impl Into<String>, hint: Option<&str>) -> DocumentError {
        let end = self.text.len();
        let (start, stop) = (span.start.min(end), span.end.min(end));
        DocumentError {
            file: self.file.to_owned(),
            line: line_of(self.text, start),
            message: message.into(),
            hint: hint.map(str::to_owned),
            source_code: Source(Box::new(NamedSource::new(self.file, self.text.to_owned()))),
            span: (start, stop.saturating_sub(start)).into(),
        }
    }

    /// Parses the document after its `schema` line was compared, so that a document of another format
    /// is called that and not a heap of unknown keys.
    ///
    /// # Errors
    /// Returns the first place that is not TOML, has another schema, an unknown key or a wrong type.
    pub fn parse<T: DeserializeOwned>(&self, schema: &str) -> Result<T, DocumentError> {
        let claim: SchemaLine = toml::from_str(self.text).map_err(|error| self.toml_error(&error))?;
        let hint = format!("the first line must be: schema = \"{schema}\"");
        match claim.schema {
            None => return Err(self.error(0..0, "the schema line is missing", Some(&hint))),
            Some(found) if found.get_ref() != schema => {
                let message = format!("schema \"{}\" is not known here", found.get_ref().escape_debug());
                return Err(self.error(found.span(), message, Some(&hint)));
            }
            Some(_) => {}
        }
        toml::from_str(self.text).map_err(|error| self.toml_error(&error))
    }

    fn toml_error(&self, error: &toml::de::Error) -> DocumentError {
        // The parser's sentence may span lines; the first one names the fault.
        let message = error.message().lines().next().unwrap_or("not valid TOML").to_owned();
        let hint = if message.starts_with("unknown field") {
            "remove the key, or correct its spelling: unknown keys are refused so that none is silently ignored"
        } else if message.starts_with("missing field") {
            "add the key; it has no default"
        } else {
            "correct the value or the syntax at this place"
        };
        self.error(error.span().unwrap_or(0..0), message, Some(hint))
    }

    /// Line of the first occurrence of `needle` at or after byte `from`; the line of `from` when there is none.
    #[must_use]
    pub fn line_after(&self, from: usize, needle: &str) -> u32 {
        let from = from.min(self.text.len());
        let found =
            self.text.get(from..).and_then(|rest| rest.find(needle)).map_or(from, |offset| from + offset);
        line_of(self.text, found)
    }
}
