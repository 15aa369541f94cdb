//! Nobody adds a message that nobody has read: each text of the sources is in the golden file, or in the list of those that are
//! shown elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;

use super::{GOLDEN, read};
use crate::tidy::{files, production};

/// By where each is shown instead: a file of the tests, or why nobody sees it. A line is a text as it stands in the source.
const ELSEWHERE: &str = "tests/golden/elsewhere.txt";
/// Sources without messages: what metrics are, and what Redis is told to do.
const SILENT: &[&str] = &["src/telemetry/metrics.rs", "src/store/redis/scripts.rs"];
/// A text with fewer is a word of something, or part of a message.
const WORDS_MIN: usize = 4;

/// The string literals of a source, as they are written between their quotes; line breaks behind a backslash are none.
fn literals(source: &str) -> Vec<String> {
    static CODE: LazyLock<Regex> = LazyLock::new(|| {
        let code = r##"(?sx) //[^\n]* | '(?:\\[^']+|[^'\\])' | reason\s=\s"[^"]*"
            | r\#"(?<hashed>.*?)"\# | \br"(?<raw>[^"]*)" | "(?<plain>(?:\\.|[^"\\])*)" "##;
        Regex::new(code).unwrap()
    });
    static CONTINUED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\\\n\s*").unwrap());
    let kinds = ["hashed", "raw", "plain"];
    let texts = CODE.captures_iter(source).filter_map(|found| kinds.iter().find_map(|kind| found.name(kind)));
    let plain = |text: &str| CONTINUED.replace_all(text, "").replace("\\\"", "\"").replace("\\\\", "\\");
    texts.map(|text| plain(text.as_str())).collect()
}

/// What is in a text around the places where something is filled in.
fn pieces(text: &str) -> Vec<String> {
    static FILLED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{[^{}]*\}").unwrap());
    let open = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
    FILLED.split(&open).map(|piece| piece.replace('\u{1}', "{").replace('\u{2}', "}")).collect()
}

fn words(text: &str) -> Vec<&str> {
    let word = |word: &&str| word.chars().any(char::is_alphabetic);
    text.split_whitespace().filter(word).collect()
}

/// The texts of the sources that are long enough to say something, each with the files that it is in.
fn messages() -> BTreeMap<String, BTreeSet<String>> {
    let mut messages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let speaks = |file: &String| !file.starts_with("src/standin") && !SILENT.contains(&file.as_str());
    for file in files("src", ".rs").into_iter().filter(speaks) {
        for text in literals(&production(&file)) {
            if words(&pieces(&text).join(" ")).len() >= WORDS_MIN {
                messages.entry(text.replace('\n', "\\n")).or_default().insert(file.clone());
            }
        }
    }
    messages
}

/// Does a line of the golden file say each line of this, whatever is filled in?
fn is_said(text: &str, golden: &str) -> bool {
    let mut lines = text.split("\\n").filter(|line| !line.is_empty());
    lines.all(|line| {
        let pieces = pieces(line);
        let after = |rest: &str, piece: &String| rest.find(piece).map(|at| at + piece.len());
        golden.lines().any(|said| {
            pieces.iter().try_fold(0, |from, piece| after(&said[from..], piece).map(|at| from + at)).is_some()
        })
    })
}

#[test]
fn every_message_of_the_sources_was_read_or_is_shown_by_a_test() {
    let (golden, elsewhere) = (read(GOLDEN), read(ELSEWHERE));
    let mut listed: BTreeMap<&str, &str> = BTreeMap::new();
    for section in elsewhere.split("\n## ").skip(1) {
        let (place, texts) = section.split_once('\n').unwrap();
        listed.extend(texts.lines().filter(|text| !text.is_empty()).map(|text| (text, place)));
    }
    let messages = messages();
    assert!(messages.len() > 500, "{}", messages.len());
    let mut wrong = Vec::new();
    for (text, files) in &messages {
        match (listed.remove(text.as_str()), is_said(text, &golden)) {
            (None, false) => wrong.push(format!("is shown by no test: {files:?}: {text}")),
            (Some(_), true) => wrong.push(format!("is in {GOLDEN}; take it out of {ELSEWHERE}: {text}")),
            (Some(place), false) if place.starts_with("tests/") && !is_in(text, &read(place)) => {
                wrong.push(format!("is not in {place}: {text}"));
            }
            _ => {}
        }
    }
    wrong.extend(listed.keys().map(|text| format!("is in no source any more; take it out of {ELSEWHERE}: {text}")));
    assert!(
        wrong.is_empty(),
        "{} messages:\n{}\nProvoke what is new in tests/it/errors and read it there, or write it into {ELSEWHERE}, a line as it \
         is above.",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Does a test expect half of its words in a row, four at least?
fn is_in(text: &str, test: &str) -> bool {
    let pieces = pieces(text);
    let half = words(&pieces.join(" ")).len().div_ceil(2).max(WORDS_MIN);
    pieces.iter().any(|piece| words(piece).windows(half).any(|row| test.contains(&row.join(" "))))
}

#[test]
fn literals_are_found_whatever_stands_around_them() {
    let source = r##"a("one \"two\""); // "no"
        b('"', "three {x} {{four}}", r#"five "six""#, "seven \
          eight"); #[expect(x, reason = "no")] c(r"nine\d")"##;
    let found = ["one \"two\"", "three {x} {{four}}", "five \"six\"", "seven eight", "nine\\d"];
    assert_eq!(literals(source), found);
    assert_eq!(pieces(found[1]), ["three ", " {four}"]);
}
