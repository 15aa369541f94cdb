//! Collects what is wrong while a dialect is compiled, so that all is said at once.

use std::collections::BTreeMap;

use http::HeaderName;

use super::file::OneOrMany;
use super::place::Places;
use super::template::{Template, TemplateError};
use crate::fields;

/// Something wrong in a dialect: which key, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectError {
    pub key: String,
    pub problem: String,
    pub hint: String,
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<DialectError>);

impl Faults {
    pub(super) fn add(&mut self, key: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) {
        self.0.push(DialectError { key: key.into(), problem: problem.into(), hint: hint.into() });
    }

    pub(super) fn template(&mut self, key: &str, text: &str, known: &[&str]) -> Option<Template> {
        match Template::parse(text, known) {
            Ok(template) => Some(template),
            Err(e) => {
                let hint = match &e {
                    TemplateError::Unclosed => "write `{{` for a brace".to_owned(),
                    TemplateError::Unknown { .. } => format!("known here: {}", known.join(", ")),
                };
                self.add(key, e.to_string(), hint);
                None
            }
        }
    }

    pub(super) fn places(&mut self, key: &str, given: Option<OneOrMany<String>>, default: &[&str]) -> Places {
        let texts = given.map_or_else(|| default.iter().map(|&place| place.to_owned()).collect(), OneOrMany::into_vec);
        Places::parse(&texts).unwrap_or_else(|wrong| {
            self.add(
                key,
                format!("{wrong:?} is not understood"),
                "a place is written like json:PATH, header:NAME, cookie:NAME, text or json_string",
            );
            Places::default()
        })
    }

    pub(super) fn headers(
        &mut self,
        key: &str,
        written: &BTreeMap<String, String>,
        known: &[&str],
    ) -> Vec<(HeaderName, Template)> {
        let mut headers = Vec::new();
        for (name, text) in written {
            let key = format!("{key}.{name}");
            if let (Some(header), Some(template)) = (self.header(&key, name), self.template(&key, text, known)) {
                headers.push((header, template));
            }
        }
        headers
    }

    pub(super) fn header(&mut self, key: &str, name: &str) -> Option<HeaderName> {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header) if fields::is_ours(header.as_str().as_bytes()) => {
                self.add(key, "the broker sets this field itself", "remove it");
                None
            }
            Ok(header) => Some(header),
            Err(_) => {
                self.add(key, "is not a header name", "letters, digits and hyphens");
                None
            }
        }
    }
}
