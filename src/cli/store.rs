//! `store`: what is kept, and how to be rid of it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::{CONFIG, Cli, block_on, complain, print};
use crate::clock::{Clock, rfc3339};
use crate::config::Store;
use crate::store::{FileStore, KEY_MIN, Seal, StoreError, Stores};
use crate::token::kept::Kept;
use crate::token::secrets::{KeptSecrets, Progress};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What is kept: names, times, fingerprints, no values
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove the records of a token, which is then obtained anew; a running broker does it
    Forget {
        /// Such as token.api
        name: String,
    },
    /// Write everything, secrets included and not encrypted, into a new private file
    Export { file: PathBuf },
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let (_, _, config, _) = match cli.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let Some(store) = &config.store else {
        complain("nothing is kept: the store is in memory; set [store] kind = \"file\", with path and key");
        return ExitCode::from(CONFIG);
    };
    let seal = match seal(store) {
        Ok(seal) => seal,
        Err(text) => {
            complain(&text);
            return ExitCode::from(CONFIG);
        }
    };
    let Some(path) = &store.path else {
        complain("this store has no directory");
        return ExitCode::FAILURE;
    };
    let done = match &args.command {
        Command::List { json } => list(path, seal, *json),
        Command::Forget { name } => forget(cli, path, seal, name),
        Command::Export { file } => export(path, seal, file),
    };
    done.unwrap_or_else(|text| {
        complain(&text);
        ExitCode::FAILURE
    })
}

/// Reads the key of the store.
pub(super) fn seal(store: &Store) -> Result<Seal, String> {
    let key = block_on(store.key.read_bytes())?.map_err(|e| format!("store.key: {e}"))?;
    Seal::new(&key)
        .ok_or_else(|| format!("store.key: is shorter than {KEY_MIN} bytes; make one with: openssl rand -base64 32"))
}

fn list(directory: &Path, seal: Seal, as_json: bool) -> Result<ExitCode, String> {
    let store = FileStore::look(directory, seal).map_err(|e| e.to_string())?;
    let newest = store.newest().map_err(|e| e.to_string())?;
    let (mut shown, mut text, mut sound) = (Map::new(), String::new(), true);
    for (name, entry) in &newest {
        let read = |plain: &[u8]| match serde_json::from_slice(plain) {
            Ok(kept) if name.starts_with("secret.") => Some(described(&kept)),
            _ if name.starts_with("secret.") => None,
            _ => Kept::read(plain).map(|kept| describe(&kept)),
        };
        let (fields, line) = match store.load(name).map(|record| record.and_then(|record| read(&record.plain))) {
            Ok(Some(described)) => described,
            Ok(None) => {
                sound = false;
                (json!({}), "was written by another version of this program".to_owned())
            }
            Err(error) => {
                sound = false;
                (json!({ "damaged": error.to_string() }), error.to_string())
            }
        };
        text.push_str(&format!("{name}  generation {}: {line}\n", entry.version));
        shown.insert(name.clone(), json!({ "generation": entry.version, "file": entry.file, "kept": fields }));
    }
    let printed = if as_json { print(&format!("{:#}\n", Value::Object(shown))) } else { print(&text) };
    Ok(if sound { printed } else { ExitCode::FAILURE })
}

/// What may be shown of a token's record.
fn describe(kept: &Kept) -> (Value, String) {
    let now = Clock::system().now();
    let access = kept.access.as_ref();
    let fingerprint = access.map(|access| access.secret().fingerprint().to_string());
    let expires = access.and_then(|access| access.expires).map(|expires| rfc3339(expires.moment(false, now).wall));
    let refresh = kept.refresh_token.is_some();
    let fields = json!({
        "access_token": fingerprint,
        "expires_at": expires,
        "refresh_token": refresh,
        "refused": kept.refused.len(),
        "failures": kept.failures,
    });
    let line = format!(
        "access token {}{}, {} refresh token",
        fingerprint.as_deref().unwrap_or("none"),
        expires.map(|expires| format!(" until {expires}")).unwrap_or_default(),
        if refresh { "with a" } else { "no" },
    );
    (fields, line)
}

/// What may be shown of a client's secrets.
fn described(kept: &KeptSecrets) -> (Value, String) {
    let progress = Progress::of(&kept.record);
    let rotated = kept.is_rotated();
    let which = if rotated { "a rotated client secret is in use" } else { "the configured client secret is in use" };
    let id = progress.in_use.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
    let fields = json!({ "rotated": rotated, "in_use": progress.in_use, "state": progress.state });
    (fields, format!("{which}{id}, rotation: {}", progress.state))
}

fn forget(cli: &Cli, directory: &Path, seal: Seal, name: &str) -> Result<ExitCode, String> {
    let none = |known: String| format!("there is no record {name}; there are: {known}");
    let forgotten = match FileStore::open(directory, seal) {
        Ok(store) => {
            if name.starts_with("secret.") && matches!(store.load(name), Ok(Some(_))) {
                return Err(StoreError::Kept(name.to_owned()).to_string());
            }
            let known = store.newest().map_err(|e| e.to_string())?.into_keys().collect::<Vec<_>>().join(", ");
            let stores = Stores::directory(store.into());
            let forgotten = block_on(stores.forget_all(name))?.map_err(|e| e.to_string())?;
            if forgotten.is_empty() {
                return Err(none(known));
            }
            forgotten
        }
        Err(StoreError::Owned { .. }) => {
            let Ok(operator) = cli.operator() else { return Ok(ExitCode::from(CONFIG)) };
            let answer = operator.post(&format!("/api/store/{name}/forget"), None).map_err(|e| e.text)?;
            let answer: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let names = answer["forgotten"].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        }
        Err(other) => return Err(other.to_string()),
    };
    Ok(print(&format!("forgotten: {}\n", forgotten.join(", "))))
}

fn export(directory: &Path, seal: Seal, file: &Path) -> Result<ExitCode, String> {
    let store = FileStore::look(directory, seal).map_err(|e| e.to_string())?;
    let mut all = Map::new();
    for name in store.newest().map_err(|e| e.to_string())?.into_keys() {
        if let Some(record) = store.load(&name).map_err(|e| e.to_string())? {
            all.insert(name, serde_json::from_slice(&record.plain).map_err(|e| e.to_string())?);
        }
    }
    let failed = |e: std::io::Error| format!("{}: {e}", file.display());
    // Security: private from its first instant, and nobody's file is written over.
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    out.write_all(format!("{:#}\n", Value::Object(all)).as_bytes()).and_then(|()| out.sync_all()).map_err(failed)?;
    Ok(print(&format!("{}: all secrets of the store, readable; remove it when it has served\n", file.display())))
}
