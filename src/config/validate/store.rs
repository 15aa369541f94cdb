//! `[store]`: where what outlives the process is kept.

use http::Uri;
use percent_encoding::percent_decode_str;

use super::{Check, Named};
use crate::config::file::{RootsFile, StoreFile, StoreKind};
use crate::config::{Place, Store};
use crate::connect::Endpoint;
use crate::oauth::client::{host_and_port, is_loopback};
use crate::store::{KEY_MIN, Redis};

const PORT: u16 = 6379;
const PREFIX: &str = "tokenbroker:";
const PREFIX_MAX: usize = 64;

impl Check<'_> {
    /// `None` for memory, or if it cannot be used, which was reported.
    pub(super) fn store(&mut self, file: StoreFile, named: &Named) -> Option<Store> {
        self.durable = file.kind != StoreKind::Memory;
        self.belongs(&file);
        let (main, there, hint) = match file.kind {
            StoreKind::Memory => return None,
            StoreKind::File => ("path", file.path.is_some(), "path is a directory, such as \"/var/lib/tokenbroker\""),
            StoreKind::Redis => ("url", file.url.is_some(), "url is written like \"rediss://redis.example.com:6379\""),
        };
        let given = [(main, there), ("key", file.key.is_some())];
        let missing = given.into_iter().filter(|(key, given)| !given && !self.refused(&["store", key]));
        let missing: Vec<_> = missing.map(|(key, _)| format!("`{key}`")).collect();
        if !missing.is_empty() {
            let hint = format!("{hint}; key is a secret, made with: openssl rand -base64 32");
            self.problem(&["store"], &format!("needs {}", missing.join(" and ")), &hint);
        }
        let redis = (file.kind == StoreKind::Redis).then(|| self.redis(&file, named)).flatten();
        let path = file.path.map(|path| self.path(&path));
        let (key, value) = self.secret_and_bytes(file.key?, &["store", "key"], true);
        if value.is_some_and(|value| value.len() < KEY_MIN) {
            let problem = format!("is shorter than {KEY_MIN} bytes");
            self.problem(&["store", "key"], &problem, "make one with: openssl rand -base64 32");
        }
        if path.as_ref().is_some_and(|path| path.exists() && !path.is_dir()) {
            self.problem(&["store", "path"], "is not a directory", "name a directory, or one that is still to be made");
        }
        let place = match file.kind {
            StoreKind::Redis => Place::Redis(Box::new(redis?), path),
            _ => Place::Directory(path?),
        };
        Some(Store { place, key })
    }

    /// Keys of another kind of store.
    fn belongs(&mut self, file: &StoreFile) {
        let shared = [
            ("url", file.url.is_some()),
            ("password", file.password.is_some()),
            ("prefix", file.prefix.is_some()),
            ("identity", file.identity.is_some()),
            ("ca", file.ca.is_some()),
            ("roots", file.roots != RootsFile::System),
            ("server_name", file.server_name.is_some()),
        ];
        let any = [("path", file.path.is_some()), ("key", file.key.is_some())];
        let (kind, odd) = match file.kind {
            StoreKind::Redis => return,
            StoreKind::File => ("file", shared.to_vec()),
            StoreKind::Memory => ("memory", any.into_iter().chain(shared).collect()),
        };
        for (key, _) in odd.into_iter().filter(|(_, given)| *given) {
            let meant = if any.iter().any(|(known, _)| *known == key) { "file" } else { "redis" };
            let hint = format!("set kind = \"{meant}\", or remove it");
            self.wrong_key(&["store", key], &format!("is not used by the kind {kind}"), &hint);
        }
    }

    fn redis(&mut self, file: &StoreFile, named: &Named) -> Option<Redis> {
        let table = ["store"];
        let (identity, trusted) = (file.identity.as_deref(), (file.ca.as_ref(), file.roots));
        let secured = self.secured(&table, named, identity, trusted, file.server_name.as_deref());
        let password = file.password.clone().map(|password| self.secret(password, &["store", "password"], true));
        let prefix = file.prefix.clone().unwrap_or_else(|| PREFIX.to_owned());
        if prefix.is_empty() || prefix.len() > PREFIX_MAX || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = "is not a usable prefix";
            self.problem(&["store", "prefix"], problem, "up to 64 letters, digits and signs, such as \"tokenbroker:\"");
        }
        let url = ["store", "url"];
        let parts = RedisUrl::parse(file.url.as_deref()?);
        let parts = parts.map_err(|(problem, hint)| self.problem(&url, problem, hint)).ok()?;
        if parts.user.is_some() && password.is_none() && !self.refused(&["store", "password"]) {
            self.problem(&url, "has a user name, and there is no password", "set password = { file = \"…\" }");
        }
        let mut endpoint = Endpoint { host: parts.host.clone(), port: parts.port, tls: None };
        if parts.tls {
            endpoint.tls = secured.to(parts.host);
            if endpoint.tls.is_none() {
                self.problem(&url, "its host is no valid name", HELP);
            }
        } else {
            if secured.identity.is_some() {
                self.wrong_key(&["store", "identity"], "a client certificate needs a rediss:// url", "remove it");
            }
            if password.is_some() && !is_loopback(&parts.host) {
                let problem = "the password crosses the network unencrypted (what is kept is sealed)";
                self.warning(&url, problem, "use rediss://");
            }
        }
        Some(Redis { endpoint, username: parts.user, password, database: parts.database, prefix })
    }
}

const HELP: &str = "written like redis://127.0.0.1:6379 or rediss://user@redis.example.com:6379/0";

struct RedisUrl {
    tls: bool,
    user: Option<String>,
    host: String,
    port: u16,
    database: u32,
}

impl RedisUrl {
    /// Or what is wrong with it, and what to do. Security: nothing of it is said, it may hold a password.
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let unusable = |hint| ("is not a usable URL", hint);
        let (scheme, rest) = text.split_once("://").ok_or(unusable(HELP))?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(unusable(HELP)),
        };
        if rest.contains(|c: char| c.is_whitespace() || matches!(c, '?' | '#' | '\\' | '{' | '}')) {
            return Err(unusable(HELP));
        }
        let (rest, user) = rest.rsplit_once('@').map_or((rest, None), |(user, rest)| (rest, Some(user)));
        if user.is_some_and(|user| user.contains(':')) {
            let problem = "holds a password, and a URL is shown in many places";
            return Err((problem, "remove it there, and set password = { file = \"…\" }"));
        }
        let named = |user| {
            percent_decode_str(user).decode_utf8().ok().filter(|user: &std::borrow::Cow<'_, str>| !user.is_empty())
        };
        let user = match user.map(named) {
            Some(None) => return Err(unusable("its user name is empty or wrongly encoded")),
            user => user.flatten().map(std::borrow::Cow::into_owned),
        };
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = if database.is_empty() { "0" } else { database };
        let database =
            database.parse().map_err(|_| unusable("only the number of a database may follow the host, such as /0"))?;
        let uri: Option<Uri> = format!("http://{authority}").parse().ok();
        let found = uri.as_ref().and_then(host_and_port);
        let (host, port) = found.ok_or(unusable("its host is missing, or its port is not from 1 to 65535"))?;
        Ok(Self { tls, user, host, port: port.unwrap_or(PORT), database })
    }
}
