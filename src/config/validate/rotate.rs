//! A token's `rotate`: could its client secret be rotated that way, and nothing be lost?

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Check;
use super::url::Parts;
use crate::config::file::{RotateFile, TokenFile};
use crate::config::{Rotate, Route, Token};
use crate::oauth::dialect::Dialect;
use crate::oauth::file::Grant;
use crate::oauth::request::escaped;
use crate::oauth::rules::PAUSE_MAX;
use crate::units::{Life, Span};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// No old secret is kept longer beside a new one.
const GRACE_MAX: Duration = DAY.saturating_mul(90);
/// No rotation begins longer before the end.
const BEFORE_MAX: Duration = DAY.saturating_mul(2 * 365);

impl Check<'_> {
    /// With the dialect's values and the defaults filled in.
    pub(super) fn rotate(&mut self, name: &str, file: &TokenFile, dialect: &Dialect) -> Rotate {
        let nothing = RotateFile::default();
        let rotate = file.rotate.as_ref().unwrap_or(&nothing);
        let vendor = &dialect.rotate;
        let Life(text, length) =
            rotate.lifetime.clone().or_else(|| vendor.lifetime.clone()).unwrap_or_else(|| Life("2y".into(), 730 * DAY));
        if rotate.current.as_deref().is_some_and(str::is_empty) {
            let path = ["token", name, "rotate", "current"];
            self.problem(&path, "is empty", "write the id that the vendor's list shows, or remove it");
        }
        self.before(name, rotate.before, length);
        let mut bounded = |keys: &[&str], span: Option<Span>, default: Duration, max: (Duration, &str)| {
            let span = span.map_or(default, |span| span.0);
            if span > max.0 {
                let path: Vec<_> = ["token", name, "rotate"].iter().chain(keys).copied().collect();
                self.problem(&path, "is too long", &format!("at most {}", max.1));
            }
            span
        };
        let hour = (PAUSE_MAX, "1h");
        Rotate {
            told: file.rotate.is_some(),
            before: rotate.before.map(|span| span.0),
            admin: rotate.admin.clone(),
            current: rotate.current.clone(),
            lifetime: (text, length),
            grace: bounded(&["grace"], rotate.grace, DAY, (GRACE_MAX, "90d")),
            times: rotate.verify.times.or(vendor.verify.times).unwrap_or(3),
            every: bounded(
                &["verify", "every"],
                rotate.verify.every.or(vendor.verify.every),
                Duration::from_secs(1),
                hour,
            ),
            settle: bounded(&["settle"], rotate.settle.or(vendor.settle), Duration::from_secs(2), hour),
            write: rotate.write.as_ref().map(|path| self.written(name, path)),
            slots: vendor.slots.map(usize::from),
        }
    }

    fn before(&mut self, name: &str, before: Option<Span>, lifetime: Duration) {
        let path = ["token", name, "rotate", "before"];
        match before.map(|span| span.0) {
            Some(before) if before.is_zero() => {
                self.problem(&path, "must not be zero", "such as \"30d\", so that there is time when something fails");
            }
            Some(before) if before > BEFORE_MAX => self.problem(&path, "is too long", "at most 730d"),
            Some(before) if before >= lifetime => {
                let problem = "is as long as a new secret lives, or longer: one would follow the other without end";
                self.problem(&path, problem, "make it shorter, such as \"30d\", or `lifetime` longer");
            }
            _ => {}
        }
    }

    /// The file that a new secret is written to as well.
    fn written(&mut self, name: &str, path: &Path) -> PathBuf {
        let key = ["token", name, "rotate", "write"];
        let path = self.path(path);
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let shown = directory.display();
        match directory.metadata() {
            Ok(meta) if !meta.is_dir() => {
                self.problem(
                    &key,
                    &format!("{shown} is not a directory"),
                    "name a file in a directory of the broker's",
                );
            }
            // Security: who may change the directory could put something else in the file's place.
            Ok(meta) if meta.permissions().mode() & 0o022 != 0 => {
                let mode = meta.permissions().mode() & 0o7777;
                let problem = format!("the directory {shown} can be changed by others (mode {mode:04o})");
                self.problem(&key, &problem, "chmod go-w, or name a file in another directory");
            }
            Ok(_) if path.is_dir() => {
                self.problem(&key, &format!("{} is a directory", path.display()), "name a file in it");
            }
            Ok(_) if !self.files.contains(&path) => {
                self.private(&path, &key);
            }
            Ok(_) => {}
            Err(e) => {
                let problem = format!("the directory {shown} cannot be used: {e}");
                self.problem(&key, &problem, "make it, for the broker's user alone");
            }
        }
        path
    }

    /// What a rotation needs of the store, the dialect and other tokens.
    pub(super) fn rotations(
        &mut self,
        files: &BTreeMap<String, TokenFile>,
        tokens: &BTreeMap<String, Arc<Token>>,
        routes: &BTreeMap<String, Arc<Route>>,
    ) {
        let mut clients = BTreeMap::new();
        let mut written = BTreeSet::new();
        for (name, file) in files.iter().filter(|(_, file)| file.rotate.is_some()) {
            let admin = self.admin_token(name, file, files);
            let Some(token) = tokens.get(name).filter(|token| token.grant != Grant::Static) else { continue };
            self.rotatable(token, file);
            if let Some(first) = clients.insert(token.client(), name).filter(|_| token.client_id.is_some()) {
                let problem = format!("[token.{first}] has the same client and a `rotate` of its own");
                self.wrong_key(&["token", name, "rotate"], &problem, "remove one of them: the other one is for both");
                continue;
            }
            self.write_to(token, tokens, &mut written);
            if let Some(holder) = admin.map_or(Some(token), |admin| tokens.get(admin)) {
                self.managed_by(token, holder, routes);
            }
        }
    }

    /// The token whose access token manages the secrets, where another one is named.
    fn admin_token<'f>(
        &mut self,
        name: &str,
        file: &'f TokenFile,
        files: &BTreeMap<String, TokenFile>,
    ) -> Option<&'f str> {
        let admin = file.rotate.as_ref()?.admin.as_deref()?;
        let path = ["token", name, "rotate", "admin"];
        if admin == name {
            self.problem(&path, "is this token itself", "remove it: its own access token is used anyway");
            return None;
        }
        self.using("token", admin);
        if !files.contains_key(admin) {
            self.unknown(&path, "token", admin, files.keys().filter(|other| *other != name));
        }
        Some(admin)
    }

    fn rotatable(&mut self, token: &Token, file: &TokenFile) {
        let name = token.name.as_str();
        let path = ["token", name, "rotate"];
        if token.client_secrets.is_empty() && !self.refused(&["token", name, "client_secret"]) {
            self.wrong_key(&path, "there is no `client_secret` that could be rotated", "add it, or remove this");
        }
        if !self.durable && !self.refused(&["store"]) {
            let problem = "a rotated secret would be lost at a restart: the store is in memory";
            self.wrong_key(&path, problem, "set [store] kind = \"file\", with path and key");
        }
        let before = ["token", name, "rotate", "before"];
        if token.rotate.before.is_none() || self.refused(&before) {
            return;
        }
        let secrets = &token.dialect.secrets;
        if !secrets.contains_key("create") && !secrets.contains_key("replace") {
            let problem = format!("the dialect {} has no request that makes a new secret", token.dialect.name);
            let hint = "remove it: a person makes one at the vendor, and `tokenbroker secret import` takes it";
            self.wrong_key(&before, &problem, hint);
        } else if file.secret_expires.is_none()
            && secrets.get("list").is_none_or(|list| !list.fields.contains_key("expires"))
        {
            let problem = "nothing tells when the configured secret ends: the vendor has no list that does";
            self.warning(&before, problem, "add secret_expires to this token");
        }
    }

    /// A new secret must not take the place of something else.
    fn write_to(&mut self, token: &Token, tokens: &BTreeMap<String, Arc<Token>>, written: &mut BTreeSet<PathBuf>) {
        let Some(write) = &token.rotate.write else { return };
        let client = token.client();
        let same = tokens.values().filter(|other| other.client() == client);
        let own = same.flat_map(|other| &other.client_secrets).any(|source| source.path().as_ref() == Some(write));
        let named = self.files.contains(write) || *write == self.document.report.file;
        if !written.insert(write.clone()) || (named && !own) {
            let problem = "a new secret would be written over what this file holds for something else";
            let hint = "name the file of this token's client_secret, or one that nothing else names";
            self.problem(&["token", &token.name, "rotate", "write"], problem, hint);
        }
    }

    /// Security: an access token goes only where its own table says, to manage secrets too.
    fn managed_by(&mut self, token: &Token, holder: &Token, routes: &BTreeMap<String, Arc<Route>>) {
        let origin =
            |url: &str| Parts::parse(url.split('?').next().unwrap_or_default()).ok().map(|parts| parts.origin());
        if self.refused(&["token", &holder.name, "send_to"]) {
            return;
        }
        let mut allowed: BTreeSet<_> = holder.send_to.iter().cloned().collect();
        if allowed.is_empty() {
            let upstreams = routes.values().filter(|route| route.token.as_ref() == Some(&holder.name));
            allowed.extend(upstreams.map(|route| route.upstream.origin()));
            allowed.extend([token, holder].into_iter().filter_map(|token| origin(token.base_url.as_deref()?)));
        }
        let name = token.name.as_str();
        let value = |key: &str| match key {
            "url" => token.url.as_deref().map(Cow::Borrowed),
            "base_url" => token.base_url.as_deref().map(|url| url.trim_end_matches('/').into()),
            key => token.vars.get(key).map_or(Some("x".into()), |value| Some(escaped(value).into())),
        };
        let mut refused = BTreeSet::new();
        for (request, managed) in &token.dialect.secrets {
            let url = &managed.request.url;
            for key in ["url", "base_url"].into_iter().filter(|key| url.uses(key) && value(key).is_none()) {
                let problem =
                    format!("the secrets.{request} request of the dialect {} needs `{key}`", token.dialect.name);
                self.lacks(name, key, &problem, "add it to this table");
            }
            let to = url.render(value).and_then(|url| origin(&url));
            refused.extend(to.filter(|to| !allowed.contains(to)));
        }
        for to in refused {
            let problem = format!("the token {} may not be sent to {to}, where the secrets are managed", holder.name);
            let hint = format!("add the origin to the send_to of [token.{}]", holder.name);
            let admin = ["token", name, "rotate", "admin"];
            self.problem(if holder.name == name { &admin[..3] } else { &admin }, &problem, &hint);
        }
    }
}
