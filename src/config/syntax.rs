//! What the TOML parser complains of, in the words of this program. Never quotes the text: it may be a secret.

use std::ops::Range;

/// What is wrong with the text, and what to do; `rest` is the line from there on.
pub(super) fn words(message: &str, rest: &str) -> (String, &'static str) {
    const LINE: &str = "a line is `key = value`, and comments begin with #";
    let starts = |words: &[&str]| words.iter().any(|word| message.starts_with(word));
    let (problem, hint) = if starts(&["string values must be quoted", "invalid value", "missing value"]) {
        if rest.trim().is_empty() {
            ("the value is missing", LINE)
        } else {
            ("this is not a value", "text stands in \"quotes\"; numbers, true, false and lists do not")
        }
    } else if starts(&["key with no value", "missing assignment", "invalid key-value pair"]) {
        ("`=` is missing", LINE)
    } else if starts(&["extra `=`", "extra assignment", "unexpected key or value", "unexpected content"]) {
        ("nothing more belongs on this line", LINE)
    } else if starts(&["invalid basic string", "invalid literal string", "invalid multi-line"]) {
        ("this text is not closed", "end it with the quote it begins with, on the same line")
    } else if starts(&["unclosed table", "unclosed array table"]) {
        ("the name of this table is not closed", "write [NAME], or [[NAME]] for a list of tables")
    } else if starts(&["unclosed array", "missing comma between array", "extra comma in array"]) {
        ("this list is not well formed", "write [\"one\", \"two\"]")
    } else if starts(&["unclosed inline table", "missing comma between key", "extra comma in inline"]) {
        ("this table is not well formed", "write { key = \"value\", other = \"value\" }")
    } else if starts(&["missing escaped value", "too few unicode"]) {
        ("a backslash is not understood in \"…\"", "double it, or use 'single quotes'")
    } else if starts(&["unquoted keys", "invalid unquoted key", "keys cannot be"]) {
        ("this is not a key", "letters, digits, _ and -; anything else in quotes")
    } else if starts(&["invalid boolean"]) {
        ("this is not a value", "true or false, in lower case")
    } else {
        return (format!("is not TOML: {}", message.trim().replace('\n', ", ")), "see https://toml.io");
    };
    (problem.to_owned(), hint)
}

/// Something that stands there twice.
pub(super) struct Duplicate {
    pub key: String,
    /// The line of the first, where that could be found.
    pub first: Option<usize>,
}

/// Beyond these, nobody looks for the first.
const SEARCHES_MAX: usize = 100;

/// The duplicates at these places of the text. What is doubled only because its table is doubled is none of them.
pub(super) fn duplicates(text: &str, spans: &[Range<usize>]) -> Vec<(Range<usize>, Duplicate)> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let line_of = |span: &Range<usize>| text[..text.floor_char_boundary(span.start)].matches('\n').count();
    let header = |line: usize| (0..=line).rev().find(|line| lines.get(*line).is_some_and(|line| line.starts_with('[')));
    let (spans, rest) = spans.split_at(spans.len().min(SEARCHES_MAX));
    let doubled: Vec<_> = spans.iter().map(line_of).filter(|line| header(*line) == Some(*line)).collect();
    let unsearched = |span: &Range<usize>| {
        let key = text.get(span.clone()).unwrap_or_default().to_owned();
        (span.clone(), Duplicate { key, first: None })
    };
    let mut found: Vec<_> = rest.iter().map(unsearched).collect();
    for span in spans {
        let line = line_of(span);
        let above = header(line);
        let name = text.get(span.clone()).unwrap_or_default();
        if above == Some(line) {
            let table = named(lines[line]);
            let first = (0..line).find(|other| lines[*other].starts_with('[') && named(lines[*other]) == table);
            found.push((span.clone(), Duplicate { key: table.to_owned(), first: first.map(|line| line + 1) }));
        } else if above.is_none_or(|above| !doubled.contains(&above)) {
            let same = |line: &usize| lines[*line].strip_prefix(name).is_some_and(|rest| rest.trim().starts_with('='));
            let first = (above.map_or(0, |above| above + 1)..line).find(same);
            let table = above.map(|above| format!("{}.", named(lines[above]))).unwrap_or_default();
            let key = format!("{table}{name}");
            found.push((span.clone(), Duplicate { key, first: first.map(|line| line + 1) }));
        }
    }
    found
}

/// `a.b` of `[a.b]` and `[[a.b]]`.
fn named(header: &str) -> &str {
    header.trim_start_matches('[').split(']').next().unwrap_or_default().trim()
}
