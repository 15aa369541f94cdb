//! A parsed configuration file that remembers where everything stands.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::File;
use super::problem::{Problem, Report};
use super::shape;

/// A parsed file that remembers where everything stands.
pub struct Document<'t> {
    text: &'t str,
    pub(super) root: Spanned<DeValue<'t>>,
    pub report: Report,
}

impl<'t> Document<'t> {
    /// Parses the text; syntax errors and duplicate keys go into the report.
    pub fn parse(file: &Path, text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let span = root.span();
        let root = Spanned::new(span, DeValue::Table(root.into_inner()));
        let report = Report { file: file.to_owned(), problems: Vec::new(), warnings: Vec::new() };
        let mut document = Self { text, root, report };
        for error in errors {
            let place = error.span().map(|span| document.place(span));
            // Security: only the message; toml's own rendering would quote the line.
            let problem = error.message().trim().replace('\n', ", ");
            document.report.problems.push(Problem { place, key: String::new(), problem, hint: String::new() });
        }
        document
    }

    /// Checks the shape and returns what is well-formed.
    pub fn check(&mut self) -> File {
        let (kept, mut found) = shape::check(self);
        self.report.problems.append(&mut found);
        match File::deserialize(kept) {
            Ok(file) => file,
            Err(e) => {
                let problem = format!("cannot be read: {}", e.message());
                self.report.problems.push(Problem { place: None, key: String::new(), problem, hint: String::new() });
                File::default()
            }
        }
    }

    pub(super) fn place(&self, span: Range<usize>) -> (usize, usize) {
        let before = &self.text[..span.start.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Where a key stands, or the nearest table above it that does.
    pub fn locate(&self, path: &[&str]) -> Option<(usize, usize)> {
        let mut value = self.root.get_ref();
        let mut span = None;
        for step in path {
            let next = match value {
                DeValue::Table(table) => {
                    table.iter().find(|(key, _)| key.get_ref() == step).map(|(k, v)| (k.span(), v))
                }
                DeValue::Array(list) => step.parse::<usize>().ok().and_then(|i| list.get(i)).map(|v| (v.span(), v)),
                _ => None,
            };
            let Some((at, found)) = next else { break };
            span = Some(at);
            value = found.get_ref();
        }
        span.map(|span| self.place(span))
    }
}
