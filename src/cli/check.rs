//! `check`: everything that can be known without starting.

use std::process::ExitCode;

use serde_json::json;

use super::store::seal;
use super::{CONFIG, Cli, DEFAULT_FILES, complain, count, lines, print};
use crate::clock::Clock;
use crate::config::{self, Problem, Report, Store};
use crate::store::{FileStore, StoreError};
use crate::token::kept::Kept;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON, on stdout
    #[arg(long)]
    json: bool,
    /// Not yet there in this version
    #[arg(long, hide = true)]
    online: bool,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    if args.online {
        complain("`check --online` is not yet there in this version");
        return ExitCode::from(2);
    }
    let (config, report) = match cli.file() {
        Ok(file) => config::load(&file, Clock::system().now().wall),
        Err(text) if args.json => {
            let problem = Problem { place: None, key: String::new(), problem: text, hint: String::new() };
            (None, Report { problems: vec![problem], ..Report::of(DEFAULT_FILES[0].as_ref()) })
        }
        Err(text) => {
            complain(&text);
            return ExitCode::from(CONFIG);
        }
    };
    let printed = if args.json {
        print(&format!("{:#}\n", as_json(&report)))
    } else {
        complain(&lines(&report));
        config.as_ref().map_or(ExitCode::SUCCESS, |config| {
            let counts = format!("{}, {}", count(config.routes.len(), "route"), count(config.tokens.len(), "token"));
            print(&format!("{}: ok ({counts})\n", report.file.display()))
        })
    };
    match config {
        None => ExitCode::from(CONFIG),
        Some(config) => config.store.map_or(Ok(()), |store| sound(&store)).map_or_else(
            |text| {
                complain(&text);
                ExitCode::FAILURE
            },
            |()| printed,
        ),
    }
}

/// Can everything in the directory of the store be opened? Changes nothing, asks no network.
fn sound(store: &Store) -> Result<(), String> {
    let Some(directory) = store.directory().filter(|directory| directory.exists()) else { return Ok(()) };
    let store = FileStore::look(directory, seal(store)?).map_err(|e| e.to_string())?;
    let mut damaged = Vec::new();
    for (name, entry) in store.newest().map_err(|e| e.to_string())? {
        match store.load(&name) {
            Ok(record) if record.as_ref().is_none_or(|record| Kept::read(&record.plain).is_some()) => {}
            Ok(_) => damaged.push(StoreError::unreadable(&name, store.place(&name, entry.version)).to_string()),
            Err(error) => damaged.push(error.to_string()),
        }
    }
    if damaged.is_empty() { Ok(()) } else { Err(damaged.join("\n")) }
}

fn as_json(report: &Report) -> serde_json::Value {
    let entries = |problems: &mut dyn Iterator<Item = &Problem>| -> Vec<_> {
        problems
            .map(|problem| {
                json!({
                    "line": problem.place.map(|(line, _)| line),
                    "column": problem.place.map(|(_, column)| column),
                    "key": problem.key,
                    "problem": problem.problem,
                    "hint": problem.hint,
                })
            })
            .collect()
    };
    json!({
        "file": report.file,
        "ok": report.problems.is_empty(),
        "problems": entries(&mut report.problems.iter()),
        "warnings": entries(&mut report.warnings.iter().chain(&report.ending)),
    })
}
