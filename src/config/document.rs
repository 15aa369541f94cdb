//! A parsed configuration file that remembers where everything stands.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Report};
use super::syntax;

/// A parsed file that remembers where everything stands.
pub struct Document<'t> {
    text: &'t str,
    /// Where each line starts.
    lines: Vec<usize>,
    pub(super) root: Spanned<DeValue<'t>>,
    pub report: Report,
    /// Is the text TOML? If not, what seems to be missing may only have been misread.
    pub sound: bool,
    /// From this line on, the text may have been read as something else than was meant.
    misread_from: usize,
    /// Keys that are not there but were meant by something that is, and was reported.
    pub excused: Vec<String>,
}

/// Which part of `key = value` is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Key,
    /// For a table: its name.
    Value,
}

impl<'t> Document<'t> {
    /// Parses the text; syntax errors and duplicate keys go into the report.
    pub fn parse(file: &Path, text: &'t str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let span = root.span();
        let root = Spanned::new(span, DeValue::Table(root.into_inner()));
        let report = Report::of(file);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut document =
            Self { text, lines, root, report, sound: true, misread_from: usize::MAX, excused: Vec::new() };
        let mut twice = Vec::new();
        for error in errors {
            match error.span() {
                Some(span) if error.message().starts_with("duplicate key") => twice.push(span),
                span => {
                    document.sound = false;
                    if ["unclosed", "invalid multi-line"].iter().any(|word| error.message().starts_with(word)) {
                        let line = span.clone().map_or(1, |span| document.place(span).0);
                        document.misread_from = document.misread_from.min(line);
                    }
                    let rest = span.as_ref().and_then(|span| text.get(span.start..)).unwrap_or_default();
                    // Security: only the message; toml's own rendering would quote the line.
                    let (problem, hint) = syntax::words(error.message(), rest.lines().next().unwrap_or_default());
                    document.add(span, String::new(), problem, hint);
                }
            }
        }
        for (span, duplicate) in syntax::duplicates(text, &twice) {
            let first = duplicate.first.map(|line| format!(", first in line {line}")).unwrap_or_default();
            document.add(Some(span), duplicate.key, format!("stands here twice{first}"), "remove one of them");
        }
        document
    }

    pub(super) fn add(&mut self, span: Option<Range<usize>>, key: String, problem: String, hint: &str) {
        let place = span.map(|span| self.place(span));
        self.report.problems.push(Problem { place, key, problem, hint: hint.to_owned() });
    }

    /// Takes over what a check of the shape found, but nothing that follows from text that was misread.
    pub(super) fn found(&mut self, problems: Vec<Problem>, excused: Vec<String>) {
        let unread: Vec<_> = self.report.problems.iter().filter_map(|p| p.place).map(|(line, _)| line).collect();
        let misread = |problem: &Problem| {
            problem.place.is_some_and(|(line, _)| line >= self.misread_from || unread.contains(&line))
        };
        self.report.problems.extend(problems.into_iter().filter(|problem| self.sound || !misread(problem)));
        self.excused = excused;
    }

    /// Line and column, from 1.
    pub(super) fn place(&self, span: Range<usize>) -> (usize, usize) {
        let at = self.text.floor_char_boundary(span.start);
        let line = self.lines.partition_point(|start| *start <= at).max(1);
        (line, self.text[self.lines[line - 1]..at].chars().count() + 1)
    }

    /// Where a key or its value stands, or the name of the nearest table above it that is there.
    pub fn locate(&self, path: &[&str], part: Part) -> Option<(usize, usize)> {
        let mut value = &self.root;
        let mut at = None;
        let mut whole = true;
        for step in path {
            let next = match value.get_ref() {
                DeValue::Table(table) => table.get_key_value(*step).map(|(key, value)| (key.span(), value)),
                DeValue::Array(list) => step.parse::<usize>().ok().and_then(|i| list.get(i)).map(|v| (v.span(), v)),
                // One value where a list could be is its own first element.
                _ => break,
            };
            let Some((span, found)) = next else {
                whole = false;
                break;
            };
            at = Some(span);
            value = found;
        }
        let inside = part == Part::Value && whole && !matches!(value.get_ref(), DeValue::Table(_));
        at.map(|key| self.place(if inside { value.span() } else { key }))
    }

    /// Does all of this path stand in the file?
    pub fn has(&self, path: &[&str]) -> bool {
        let mut value = self.root.get_ref();
        path.iter().all(|step| match value.as_table().and_then(|table| table.get(*step)) {
            Some(found) => {
                value = found.get_ref();
                true
            }
            None => false,
        })
    }

    /// The path without an index into something that is no list.
    pub fn shown<'p>(&self, path: &'p [&'p str]) -> &'p [&'p str] {
        let Some((last, above)) = path.split_last() else { return path };
        let lists = |value: &DeValue<'_>| matches!(value, DeValue::Array(_) | DeValue::Table(_));
        let mut value = self.root.get_ref();
        for step in above {
            match value.as_table().and_then(|table| table.get(*step)) {
                Some(found) => value = found.get_ref(),
                None => return path,
            }
        }
        if last.parse::<usize>().is_ok() && !lists(value) { above } else { path }
    }
}
