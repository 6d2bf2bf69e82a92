//! Where a journey finds values in an answer: at a JSON pointer, in a header, or by a regular expression.
//!
//! `file` reads it from a step's `extract`; [`judge`](crate::answer::judge) asks it.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::header::HeaderName;
use regex::Regex;
use serde_json::Value;

use crate::file::{RawExtract, check_pointer};

/// Where one value stands.
#[derive(Debug, Clone)]
pub(crate) enum Extraction {
    /// At a JSON pointer of the body.
    Pointer(String),
    /// In the body: the pattern's first group, or all that it matches where it has none.
    Body(Regex),
    /// In a header: all of it, or what the pattern matches in it.
    Header(HeaderName, Option<Regex>),
}

impl Extraction {
    /// Reads what a person wrote.
    ///
    /// # Errors
    /// A sentence about a pointer, a header or an expression that is none.
    pub(crate) fn read(raw: &RawExtract) -> Result<Self, String> {
        let pattern = |text: &String| {
            Regex::new(text).map_err(|error| {
                // Before its last line the library draws where the fault is.
                let drawn = error.to_string();
                let why = drawn.lines().last().unwrap_or_default().trim_start_matches("error: ");
                format!("regex `{text}`: {why}")
            })
        };
        match raw {
            RawExtract::Pointer(pointer) => {
                check_pointer(pointer)?;
                Ok(Self::Pointer(pointer.clone()))
            }
            RawExtract::Where(place) => match (&place.header, &place.regex) {
                (Some(header), regex) => {
                    let name = header.parse().map_err(|error| format!("header `{header}`: {error}"))?;
                    Ok(Self::Header(name, regex.as_ref().map(pattern).transpose()?))
                }
                (None, Some(regex)) => Ok(Self::Body(pattern(regex)?)),
                (None, None) => Err("it names neither a JSON pointer nor a `header` or `regex`".to_owned()),
            },
        }
    }

    /// Whether the body must be JSON.
    pub(crate) const fn needs_json(&self) -> bool {
        matches!(self, Self::Pointer(_))
    }

    /// The value; nothing where it does not stand there.
    pub(crate) fn find<'a>(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        json: Option<&'a Value>,
    ) -> Option<Cow<'a, Value>> {
        match self {
            Self::Pointer(pointer) => json?.pointer(pointer).map(Cow::Borrowed),
            Self::Body(pattern) => matched(pattern, &String::from_utf8_lossy(body)),
            Self::Header(name, pattern) => {
                let text = headers.get(name)?.to_str().ok()?;
                match pattern {
                    Some(pattern) => matched(pattern, text),
                    None => Some(Cow::Owned(Value::from(text))),
                }
            }
        }
    }
}

fn matched(pattern: &Regex, text: &str) -> Option<Cow<'static, Value>> {
    let found = pattern.captures(text)?;
    let part = found.get(if found.len() > 1 { 1 } else { 0 })?;
    Some(Cow::Owned(Value::from(part.as_str())))
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;
    use serde_json::json;

    use super::Extraction;
    use crate::file::RawExtract;

    fn read(text: &str) -> Result<Extraction, String> {
        #[derive(serde::Deserialize)]
        struct One {
            x: RawExtract,
        }
        Extraction::read(&toml::from_str::<One>(&format!("x = {text}")).unwrap().x)
    }

    #[test]
    fn values_are_found_where_they_stand() {
        let mut headers = HeaderMap::new();
        headers.insert("location", "/carts/77?new".parse().unwrap());
        let body = json!({"id": 5, "form": "<input name=\"csrf\" value=\"ab-c\">"});
        let text = body.to_string();
        for (place, expected) in [
            ("\"/id\"", Some(json!(5))),
            ("\"/no\"", None),
            ("{ header = \"Location\" }", Some(json!("/carts/77?new"))),
            ("{ header = \"Location\", regex = '/carts/(\\d+)' }", Some(json!("77"))),
            ("{ header = \"Location\", regex = 'orders' }", None),
            ("{ header = \"X-No\" }", None),
            ("{ regex = 'value=\\\\\"([^\\\\]+)' }", Some(json!("ab-c"))),
            ("{ regex = 'cs.f' }", Some(json!("csrf"))),
            ("{ regex = '(no)?csrf' }", None),
        ] {
            let found = read(place)
                .unwrap()
                .find(&headers, text.as_bytes(), Some(&body))
                .map(|found| found.into_owned());
            assert_eq!(found, expected, "{place}");
        }
        for (place, expected) in [
            ("\"id\"", "must begin with `/`"),
            ("{ regex = '(' }", "regex `(`: unclosed group"),
            ("{ header = \"a b\" }", "header `a b`"),
            ("{}", "names neither"),
        ] {
            let error = read(place).unwrap_err();
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }
}
