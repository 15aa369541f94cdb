//! The files of a session that is kept: the configuration, what it names, and nothing that was there before.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::Value;

use super::draft::Draft;
use super::{Asked, Never, environment};
use crate::config::Listen;
use crate::oauth::file::Grant;
use crate::secret::Secret;
use crate::secret::file::create;
use crate::server;
use crate::store::FileStore;

/// Files that were made; removed again unless they are kept.
pub(super) struct Saved {
    pub file: PathBuf,
    made: Vec<PathBuf>,
    /// What the session brings is in there.
    store: Option<PathBuf>,
    pub kept: bool,
}

impl Saved {
    /// What the token server gave may be in its store, and cannot be had again.
    pub fn is_needed(&self) -> bool {
        self.store.as_deref().is_some_and(FileStore::holds)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if !self.kept {
            if let Some(store) = &self.store {
                // Without records, there is only who owned it.
                let _ = std::fs::remove_file(store.join("lock")).and_then(|()| std::fs::remove_dir(store));
            }
            // They are of this process, and of no use.
            self.made.iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
    }
}

/// Writes the configuration and beside it, each into a private file, the secrets that were asked for. A login and a refresh token
/// that changes outlive the session in a store of their own. Nothing is written if anything is in the way.
pub(super) fn write(file: &Path, draft: &mut Draft, asked: &[Asked]) -> Result<Saved, Never> {
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
    let lives_on = [Grant::RefreshToken, Grant::AuthorizationCode].iter().any(|grant| grant.as_str() == draft.grant);
    let store = lives_on.then(|| directory.join(beside("store")));
    let mut in_the_way: Vec<_> = Vec::new();
    if store.is_some() {
        let key = Secret::random().map_err(|e| Never::Failed(e.to_string()))?;
        texts.push((directory.join(beside("store_key")), Some(key)));
        in_the_way.extend(store.clone());
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
        let names = names.join(", ");
        return Err(Never::Wrong(format!("--save: there already, and left as it is: {names}; choose another name")));
    }
    if draft.route.get("listen").and_then(Value::as_str) == Some("127.0.0.1:0") {
        draft.route.insert("listen".to_owned(), Value::from(free().map_err(Never::Failed)?));
    }
    let text = draft
        .text(|key| asked.iter().find(|one| one.key == key).map_or_else(|| environment(key), |_| named(last(key))));
    let mut saved = Saved { file: file.to_owned(), made: Vec::new(), store, kept: false };
    for (path, secret) in texts {
        let text = secret.unwrap_or_else(|| Secret::new(text.to_string()));
        let failed = |error| Never::Failed(format!("--save: {} cannot be written: {error}", path.display()));
        create(&path, &text).map_err(failed)?;
        saved.made.push(path);
    }
    Ok(saved)
}

/// A port that is free now, and with luck still is when the file is used.
fn free() -> Result<String, String> {
    let any = Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    server::bind(&any, false).map(|bound| bound.listen.to_string()).map_err(|error| format!("no port is free: {error}"))
}
