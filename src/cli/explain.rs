//! `explain`: what a class, a state or a code means and what to do. Its pages are `docs/errors.md`, and nothing else is.

use std::process::ExitCode;

use super::{complain, print};
use crate::config::problem::nearest;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A class or state of a token, the code of an answer, or a token server's own code; all of them when not given
    code: Option<String>,
}

const PAGES: &str = include_str!("../../docs/errors.md");

/// What is between the headings `### `.
struct Page<'p> {
    codes: Vec<&'p str>,
    /// Heading and introduction of its part.
    part: (&'p str, &'p str),
    text: &'p str,
}

fn pages() -> impl Iterator<Item = Page<'static>> {
    PAGES.split("\n## ").skip(1).flat_map(|part| {
        let mut pages = part.split("\n### ");
        let (title, about) = pages.next().and_then(|head| head.split_once('\n')).unwrap_or_default();
        pages.filter_map(move |page| {
            let (heading, text) = page.split_once('\n')?;
            Some(Page {
                codes: heading.split('`').skip(1).step_by(2).collect(),
                part: (title, about.trim()),
                text: text.trim(),
            })
        })
    })
}

pub(super) fn main(args: &Args) -> ExitCode {
    let Some(code) = &args.code else { return print(&list()) };
    let wanted = code.trim();
    match pages().find(|page| page.codes.iter().any(|known| known.eq_ignore_ascii_case(wanted))) {
        Some(page) => print(&shown(&page)),
        None => {
            let hint = near(wanted).map_or(String::new(), |near| format!("did you mean `{near}`? "));
            complain(&format!("there is no page on {wanted:?}; {hint}`tokenbroker explain` lists them all"));
            ExitCode::from(2)
        }
    }
}

/// What to do about it, on one line; `None` if there is no page on it.
pub(super) fn fix(code: &str) -> Option<String> {
    let page = pages().find(|page| page.codes.contains(&code))?;
    let fix = page.text.split("**What to do.** ").nth(1)?.split("\n\n").next()?;
    Some(fix.replace('\n', " "))
}

/// As it is written in its page.
fn near(wanted: &str) -> Option<&'static str> {
    let known: Vec<_> = pages().flat_map(|page| page.codes).map(|code| (code.to_lowercase(), code)).collect();
    let found = nearest(wanted, known.iter().map(|(lower, _)| lower.as_str()))?;
    known.iter().find(|(lower, _)| lower == found).map(|(_, code)| *code)
}

fn shown(page: &Page<'_>) -> String {
    format!("{} ({})\n\n{}\n", page.codes.join(", "), page.part.0, page.text.replace("**", ""))
}

/// Part by part, each code with the first sentence of its page.
fn list() -> String {
    let mut text = String::new();
    let mut last = "";
    for page in pages() {
        let (title, about) = page.part;
        if title != last {
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{title}\n{}\n\n", about.replace('\n', " ")));
            last = title;
        }
        let what = page.text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let what = what.strip_prefix("**What happened.** ").unwrap_or(&what);
        let first = what.split_inclusive(". ").next().unwrap_or_default().trim_end();
        text.push_str(&format!("  {}\n      {first}\n", page.codes.join(", ")));
    }
    text
}
