//! `check`: everything that can be known without starting.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::online::{self, Proof};
use super::store::seal;
use super::{CONFIG, Cli, DEFAULT_FILES, complain, count, lines, print};
use crate::clock::Clock;
use crate::config::{self, Config, Problem, Report, Store};
use crate::store::{FileStore, StoreError};
use crate::token::kept::Kept;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON, on stdout
    #[arg(long)]
    json: bool,
    /// Try each route: read its secrets, get a token, connect to the API and ask it once
    #[arg(long)]
    online: bool,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let (config, report) = match cli.file() {
        Ok(file) => look(&file, args.online),
        Err(text) if args.json => {
            let problem = Problem { place: None, key: String::new(), problem: text, hint: String::new() };
            (None, Report { problems: vec![problem], ..Report::of(DEFAULT_FILES[0].as_ref()) })
        }
        Err(text) => {
            complain(&text);
            return ExitCode::from(CONFIG);
        }
    };
    if !args.json {
        complain(&lines(&report));
    }
    let Some(config) = config else {
        if args.json {
            print(&format!("{:#}\n", as_json(&report, None)));
        }
        return ExitCode::from(CONFIG);
    };
    let sound = config.store.as_ref().map_or(Ok(()), sound);
    // Whoever sees a damaged store needs no token.
    let proofs = (args.online && sound.is_ok()).then(|| online::prove(cli, &config));
    let printed = if args.json {
        print(&format!("{:#}\n", as_json(&report, proofs.as_deref())))
    } else {
        print(&text(&config, &report, proofs.as_deref().unwrap_or_default()))
    };
    if let Err(text) = sound {
        complain(&text);
        return ExitCode::FAILURE;
    }
    if proofs.is_none_or(|proofs| proofs.iter().all(Proof::is_good)) { printed } else { ExitCode::FAILURE }
}

/// Something that is still to be filled in is no mistake, unless the file is put to use.
fn look(file: &Path, used: bool) -> (Option<Config>, Report) {
    let (config, report) = config::load(file, Clock::system().now().wall);
    if !used {
        return (config, report);
    }
    let report = report.strict();
    (config.filter(|_| report.problems.is_empty()), report)
}

fn text(config: &Config, report: &Report, proofs: &[Proof]) -> String {
    let counts = format!("{}, {}", count(config.routes.len(), "route"), count(config.tokens.len(), "token"));
    let unfilled = match report.unfilled.len() {
        0 => String::new(),
        n => format!("; {} still to be filled in", count(n, "value")),
    };
    let proofs: String = proofs.iter().map(Proof::text).collect();
    format!("{}: ok ({counts}){unfilled}\n{proofs}", report.file.display())
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

fn as_json(report: &Report, proofs: Option<&[Proof]>) -> serde_json::Value {
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
    let warnings = [&report.unfilled, &report.warnings, &report.ending];
    let mut json = json!({
        "file": report.file,
        "ok": report.problems.is_empty() && proofs.unwrap_or_default().iter().all(Proof::is_good),
        "problems": entries(&mut report.problems.iter()),
        "warnings": entries(&mut warnings.into_iter().flatten()),
    });
    if let Some(proofs) = proofs {
        json["routes"] = proofs.iter().map(Proof::json).collect();
    }
    json
}
