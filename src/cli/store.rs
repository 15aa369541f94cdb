//! `store`: what is kept, and how to be rid of it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{CONFIG, Cli, block_on, complain, print};
use crate::app;
use crate::clock::{Clock, rfc3339};
use crate::config::{self, Place};
use crate::store::{
    Disk, FileStore, KEY_MIN, Lease, Record, RedisStore, Seal, Store, StoreError, Stores, Taken, is_meant,
};
use crate::token::kept::Kept;
use crate::token::secrets::{KeptSecrets, Progress, may_be_forgotten};

/// While something is forgotten, no replica works on it. Whoever says so means a lease that was never given back, too.
const ALONE: Lease = Lease { lasts: Duration::from_secs(10), after: Duration::ZERO, force: true };

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
    let done = match &args.command {
        Command::List { json } => look(store, seal).and_then(|store| block_on(list(&*store, *json))?),
        Command::Export { file } => look(store, seal).and_then(|store| block_on(export(&*store, file))?),
        Command::Forget { name } => forget(cli, store, seal, name),
    };
    done.unwrap_or_else(|text| {
        complain(&text);
        ExitCode::FAILURE
    })
}

/// Reads the key of the store.
pub(super) fn seal(store: &config::Store) -> Result<Seal, String> {
    let key = block_on(store.key.read_bytes())?.map_err(|e| format!("store.key: {e}"))?;
    Seal::new(&key)
        .ok_or_else(|| format!("store.key: is shorter than {KEY_MIN} bytes; make one with: openssl rand -base64 32"))
}

/// To read in it, whoever owns it.
pub(super) fn look(store: &config::Store, seal: Seal) -> Result<Arc<dyn Store>, String> {
    match &store.place {
        Place::Redis(redis, _) => Ok(Arc::new(RedisStore::new(*redis.clone(), seal, Arc::default(), Clock::system()))),
        Place::Directory(directory) => {
            let files = FileStore::look(directory, seal).map_err(|e| e.to_string())?;
            Ok(Arc::new(Disk::new(Arc::new(files))))
        }
    }
}

async fn list(store: &dyn Store, as_json: bool) -> Result<ExitCode, String> {
    let (mut shown, mut text, mut sound) = (Map::new(), String::new(), true);
    for name in store.names().await.map_err(|e| e.to_string())? {
        let unreadable = |version| StoreError::unreadable(&name, store.place(&name, version));
        let read = |record: &Record| match serde_json::from_slice(&record.plain) {
            Ok(kept) if name.starts_with("secret.") => Ok(described(&kept)),
            _ if name.starts_with("secret.") => Err(unreadable(record.version)),
            _ => Kept::read(&record.plain).map(|kept| describe(&kept)).ok_or_else(|| unreadable(record.version)),
        };
        // Between the names and this, it may have been forgotten.
        let Some(record) = store.load(&name).await.transpose() else { continue };
        let version = record.as_ref().ok().map(|record| record.version);
        let (fields, line) = record.and_then(|record| read(&record)).unwrap_or_else(|error| {
            sound = false;
            (json!({ "damaged": error.to_string() }), error.to_string())
        });
        let mut entry = json!({ "kept": fields });
        match version {
            Some(version) => {
                let place = if store.is_shared() { "place" } else { "file" };
                entry["generation"] = version.number.into();
                entry[place] = store.place(&name, version).into();
                text.push_str(&format!("{name}  generation {}: {line}\n", version.number));
            }
            None => text.push_str(&format!("{line}\n")),
        }
        shown.insert(name, entry);
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

fn forget(cli: &Cli, store: &config::Store, seal: Seal, name: &str) -> Result<ExitCode, String> {
    let stores = match app::stores(store, seal, &Arc::default(), &Clock::system()) {
        Ok(stores) => stores,
        Err(StoreError::Owned { .. }) => return by_broker(cli, name),
        Err(other) => return Err(other.to_string()),
    };
    let forgotten = block_on(forget_in(&stores, name))??;
    Ok(print(&format!("forgotten: {}\n", forgotten.join(", "))))
}

fn by_broker(cli: &Cli, name: &str) -> Result<ExitCode, String> {
    let Ok(operator) = cli.operator() else { return Ok(ExitCode::from(CONFIG)) };
    let answer = operator.post(&format!("/api/store/{name}/forget"), None).map_err(|e| e.text)?;
    let answer: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let names = answer["forgotten"].as_array().into_iter().flatten();
    let forgotten: Vec<_> = names.filter_map(Value::as_str).collect();
    Ok(print(&format!("forgotten: {}\n", forgotten.join(", "))))
}

async fn forget_in(stores: &Stores, name: &str) -> Result<Vec<String>, String> {
    let known = stores.main.names().await.map_err(|e| e.to_string())?;
    let meant: Vec<_> = known.iter().filter(|known| is_meant(name, known)).collect();
    if meant.is_empty() {
        return Err(format!("there is no record {name}; there are: {}", known.join(", ")));
    }
    for known in &meant {
        may_be_forgotten(stores, known).await.map_err(|e| e.to_string())?;
    }
    let owner = fastrand::u128(..);
    let mut taken = Ok(());
    for name in &meant {
        taken = match stores.main.take(name, owner, ALONE).await {
            Ok(Taken::Held(left)) => {
                let left = left.as_secs() + 1;
                Err(format!("another replica works on {name}, for {left} s at most; try again then"))
            }
            // Damaged ones are forgotten, too.
            Ok(_) | Err(StoreError::Record { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        if taken.is_err() {
            break;
        }
    }
    let forgotten = match taken {
        Ok(()) => Kept::forget(stores, name, Clock::system().now().wall).await.map_err(|e| e.to_string()),
        Err(text) => Err(text),
    };
    for name in &meant {
        // Of one that is not given back, the next owner sees that it has lapsed.
        let _ = stores.main.release(name, owner).await;
    }
    forgotten
}

async fn export(store: &dyn Store, file: &Path) -> Result<ExitCode, String> {
    let mut all = Map::new();
    for name in store.names().await.map_err(|e| e.to_string())? {
        if let Some(record) = store.load(&name).await.map_err(|e| e.to_string())? {
            all.insert(name, serde_json::from_slice(&record.plain).map_err(|e| e.to_string())?);
        }
    }
    let failed = |e: std::io::Error| format!("{}: {e}; name a new file", file.display());
    // Security: private from its first instant, and nobody's file is written over.
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    out.write_all(format!("{:#}\n", Value::Object(all)).as_bytes()).and_then(|()| out.sync_all()).map_err(failed)?;
    Ok(print(&format!("{}: all secrets of the store, readable; remove it when it has served\n", file.display())))
}
