//! The dialects that come with the program, and how a user's `[dialect.NAME]` changes one.

use serde::Deserialize;
use toml::{Table, Value};

use super::dialect::Dialect;
use super::faults::DialectError;
use super::file::DialectFile;

/// Name and text of every built-in dialect: the files of `dialects/`.
pub const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/dialects.rs"));

/// The compiled built-in of that name.
pub fn built_in(name: &str) -> Option<Dialect> {
    let file = DialectFile::deserialize(table(name)?).ok()?;
    Dialect::compile(name, file).ok()
}

fn table(name: &str) -> Option<Table> {
    BUILT_IN.iter().find(|(n, _)| *n == name).and_then(|(_, text)| text.parse().ok())
}

/// Compiles a user's dialect: what it does not say is as in the built-in that it extends; its error rules come first.
pub fn extended(name: &str, own: &Table) -> Result<Dialect, Vec<DialectError>> {
    let fault = |key: &str, problem: String, hint: String| DialectError { key: key.into(), problem, hint };
    let whole = match own.get("extends").and_then(Value::as_str) {
        None => own.clone(),
        Some(base) => {
            let Some(mut whole) = table(base) else {
                let known: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                let hint = format!("one of {}", known.join(", "));
                return Err(vec![fault("extends", format!("there is no built-in dialect {base:?}"), hint)]);
            };
            overlay(&mut whole, own);
            whole
        }
    };
    let file = DialectFile::deserialize(whole).map_err(|e| vec![fault("", e.message().into(), String::new())])?;
    Dialect::compile(name, file)
}

/// A table that is one value: naming `at` does not leave the built-in's `in` beside it.
const ONE_VALUE: [&str; 2] = ["expires", "refresh_expires"];

/// Lays `top` over `under`: tables are merged, lists of error rules put before those below, an empty table takes a single
/// value away, everything else is replaced.
fn overlay(under: &mut Table, top: &Table) {
    for (key, value) in top {
        match (under.get_mut(key), value) {
            (Some(Value::Table(under)), Value::Table(top)) if !ONE_VALUE.contains(&key.as_str()) => overlay(under, top),
            (Some(Value::Array(rules)), Value::Array(top)) if key == "error" => {
                rules.splice(0..0, top.iter().cloned());
            }
            (Some(under_value), Value::Table(top)) if top.is_empty() && !under_value.is_table() => {
                under.remove(key);
            }
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}
