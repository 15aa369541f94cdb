//! The files of a session that is kept: the configuration, what it names, and nothing that was there before.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::Value;

use super::draft::Draft;
use super::{Asked, environment};
use crate::config::Listen;
use crate::oauth::file::Grant;
use crate::secret::Secret;
use crate::secret::file::create;
use crate::server;

/// Files that were made; removed again unless they are kept.
pub(super) struct Saved {
    pub file: PathBuf,
    made: Vec<PathBuf>,
    /// Does it hold what the session brings?
    pub store: bool,
    pub kept: bool,
}

impl Drop for Saved {
    fn drop(&mut self) {
        if !self.kept {
            // They are of this process, and of no use.
            self.made.iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
    }
}

/// Writes the configuration and beside it, each into a private file, the secrets that were asked for. A login and a refresh token
/// that changes outlive the session in a store of their own. Nothing is written if anything is in the way.
pub(super) fn write(file: &Path, draft: &mut Draft, asked: &[Asked]) -> Result<Saved, String> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).filter(|_| file.extension().is_some());
    let stem =
        stem.ok_or_else(|| format!("--save: {} is no name of a configuration, such as api.toml", file.display()))?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let beside = |what: &str| format!("{stem}.{what}");
    let named =
        |name: String| Value::from([("file".to_owned(), Value::from(name))].into_iter().collect::<toml::Table>());
    let last = |key: &[String]| beside(key.last().map_or("secret", String::as_str));
    let mut texts: Vec<(PathBuf, Option<Secret>)> = vec![(file.to_owned(), None)];
    texts.extend(asked.iter().map(|one| (directory.join(last(&one.key)), Some(one.secret.clone()))));
    let store = [Grant::RefreshToken, Grant::AuthorizationCode].iter().any(|grant| grant.as_str() == draft.grant);
    let mut in_the_way: Vec<_> = Vec::new();
    if store {
        let key = Secret::random().map_err(|e| e.to_string())?;
        texts.push((directory.join(beside("store_key")), Some(key)));
        in_the_way.push(directory.join(beside("store")));
        draft.store.extend([
            ("kind".to_owned(), Value::from("file")),
            ("path".to_owned(), Value::from(beside("store"))),
            ("key".to_owned(), named(beside("store_key"))),
        ]);
    }
    in_the_way.extend(texts.iter().map(|(path, _)| path.clone()));
    in_the_way.retain(|path| path.symlink_metadata().is_ok());
    if !in_the_way.is_empty() {
        let names: Vec<_> = in_the_way.iter().map(|path| path.display().to_string()).collect();
        return Err(format!("--save: there already, and left as it is: {}; choose another name", names.join(", ")));
    }
    if draft.route.get("listen").and_then(Value::as_str) == Some("127.0.0.1:0") {
        draft.route.insert("listen".to_owned(), Value::from(free()?));
    }
    let text = draft
        .text(|key| asked.iter().find(|one| one.key == key).map_or_else(|| environment(key), |_| named(last(key))));
    let mut saved = Saved { file: file.to_owned(), made: Vec::new(), store, kept: false };
    for (path, secret) in texts {
        let text = secret.unwrap_or_else(|| Secret::new(text.to_string()));
        create(&path, &text).map_err(|error| format!("--save: {} cannot be written: {error}", path.display()))?;
        saved.made.push(path);
    }
    Ok(saved)
}

/// A port that is free now, and with luck still is when the file is used.
fn free() -> Result<String, String> {
    let any = Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    server::bind(&any, false).map(|bound| bound.listen.to_string()).map_err(|error| format!("no port is free: {error}"))
}
