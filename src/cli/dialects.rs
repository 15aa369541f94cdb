//! `dialects`: the built-in ones, and the file of each as a start for one's own.

use std::process::ExitCode;

use super::{complain, print};
use crate::config::problem::nearest;
use crate::oauth::builtin::{BUILT_IN, built_in};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print this one, as a table to copy into the configuration and change
    name: Option<String>,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let Some(name) = &args.name else { return print(&list()) };
    match BUILT_IN.iter().find(|(known, _)| known == name) {
        Some((name, text)) => print(&to_copy(name, text)),
        None => {
            complain(&unknown(name));
            ExitCode::from(2)
        }
    }
}

/// That there is none of that name.
pub(super) fn unknown(name: &str) -> String {
    let hint = nearest(name, BUILT_IN.iter().map(|(known, _)| *known));
    let hint = hint.map_or(String::new(), |near| format!("did you mean {near:?}? "));
    format!("there is no built-in dialect {name:?}; {hint}`tokenbroker dialects` lists them all")
}

/// What it is, in a line, as the file of a built-in says.
pub(super) fn about(file: &str) -> &str {
    file.lines().find_map(|line| line.strip_prefix("about = \"")?.strip_suffix('"')).unwrap_or_default()
}

/// A line for each: its name, what it is, and the keys of a token that it needs.
fn list() -> String {
    let width = BUILT_IN.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, file) in BUILT_IN {
        let about = about(file);
        let needs = built_in(name).map(|dialect| dialect.needs.join(", ")).unwrap_or_default();
        text.push_str(&format!("{name:width$}  {about}; needs {needs}\n"));
    }
    text
}

/// The file without its examples, each table under `dialect.my-NAME`: a configuration has dialects there, and the name of a
/// built-in is taken.
fn to_copy(name: &str, file: &str) -> String {
    let own = format!("dialect.my-{name}");
    let file = file.split("\n[[example]]").next().unwrap_or_default().trim_end();
    let head = file.lines().take_while(|line| line.starts_with('#')).count();
    let mut text = String::new();
    for (at, line) in file.lines().enumerate() {
        if at == head {
            text.push_str(&format!("[{own}]\n"));
        }
        match line.strip_prefix("[[").or_else(|| line.strip_prefix('[')) {
            Some(rest) if line.starts_with("[[") => text.push_str(&format!("[[{own}.{rest}\n")),
            Some(rest) => text.push_str(&format!("[{own}.{rest}\n")),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    text
}
