//! `[admin]` and `[limits]`.

use std::path::Path;
use std::sync::LazyLock;

use jiff::Timestamp;

use super::url::Parts;
use super::{Check, Named};
use crate::config::document::Document;
use crate::config::file::{AdminFile, LimitsFile, RootsFile, StoreKind};
use crate::config::{Admin, Limits, Listen, Operator, Upstream, shape};
use crate::connect::Endpoint;
use crate::oauth::client::is_loopback;

/// As many as there were at the start: a reload must not find another number.
static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

const ADMIN_LISTEN: &str = "127.0.0.1:8400";

/// Checks `[admin]`, and whatever else makes it doubtful, alone.
pub(in crate::config) fn operator(path: &Path, text: &str) -> Result<Operator, String> {
    let mut document = Document::parse(path, text);
    let file = shape::check(&mut document);
    if file.is_some() && !document.excused.iter().any(|key| key == "admin") {
        let concerns = |key: &str| key.is_empty() || key == "admin" || key.starts_with("admin.");
        document.report.problems.retain(|problem| concerns(&problem.key));
    }
    let mut check = Check::new(document, path, Timestamp::UNIX_EPOCH);
    let file = file.unwrap_or_default();
    let listen = check.listen(file.admin.listen.as_deref().unwrap_or(ADMIN_LISTEN), &["admin", "listen"]);
    let probes = check.probes(file.admin.probes.as_deref(), &listen);
    let key = file.admin.key.map(|key| check.source(key));
    let admin = Admin { listen, key, probes, otlp: None, inspector: file.admin.inspector.unwrap_or_default() };
    let store = file.store.path.filter(|_| file.store.kind != StoreKind::Memory).map(|path| check.path(&path));
    let report = check.document.report;
    match report.problems.first() {
        None => Ok(Operator { admin, store }),
        Some(problem) => Err(report.line(problem)),
    }
}

impl Check<'_> {
    pub(super) fn admin(&mut self, file: AdminFile, named: &Named) -> Admin {
        let listen = file.listen.as_deref().unwrap_or(ADMIN_LISTEN);
        let listen = self.listen(listen, &["admin", "listen"]);
        let probes = self.probes(file.probes.as_deref(), &listen);
        let otlp = file.otlp.as_deref().and_then(|url| self.collector(url, named));
        let key = file.key.map(|key| self.secret(key, &["admin", "key"], true));
        Admin { listen, key, probes, otlp, inspector: file.inspector.unwrap_or_default() }
    }

    /// Where the probes are answered besides: any address, because nothing there is secret and nothing can be changed.
    fn probes(&mut self, text: Option<&str>, operator: &Listen) -> Option<Listen> {
        let key = ["admin", "probes"];
        let probes = self.listen_for(text?, &key, true);
        if probes.overlaps(operator) {
            self.problem(&key, &format!("{operator} is the operator's listener"), "choose another port");
        }
        Some(probes)
    }

    /// Security: what is wrong with it is said without the URL, which may hold credentials.
    fn collector(&mut self, url: &str, named: &Named) -> Option<Upstream> {
        let key = ["admin", "otlp"];
        if cfg!(not(feature = "otlp")) {
            let hint = "remove it, or build the program with: cargo build --release --features otlp";
            self.problem(&key, "this build exports no traces", hint);
            return None;
        }
        let parts = Parts::parse(url).map_err(|help| self.problem(&key, "is not a usable URL", help)).ok()?;
        if !parts.https && !is_loopback(&parts.host) {
            let hint = "use https://, or a collector on this machine";
            self.problem(&key, "the traces would cross the network unencrypted", hint);
            return None;
        }
        let secured = parts.https.then(|| self.secured(&["admin"], named, None, (None, RootsFile::System), None));
        let tls = secured.and_then(|secured| secured.to(parts.host.clone()));
        let (authority, base_path) = (parts.authority(), parts.path);
        Some(Upstream { endpoint: Endpoint { host: parts.host, port: parts.port, tls }, authority, base_path })
    }

    pub(super) fn limits(&mut self, file: &LimitsFile) -> Limits {
        let head_max = file.head.map_or(64 * 1024, |size| size.0);
        if !(8 * 1024..=1024 * 1024).contains(&head_max) {
            self.problem(&["limits", "head"], "is out of range", "from 8KiB to 1MiB");
        }
        let cores = *CORES;
        Limits {
            connections: file.connections.map_or(1024, |n| n as usize),
            head_max: usize::try_from(head_max).unwrap_or(64 * 1024),
            headers_max: file.headers.map_or(100, usize::from),
            head_timeout: self.timeout(file.head_timeout, 10, &["limits", "head_timeout"]),
            drain_timeout: self.timeout(file.drain_timeout, 20, &["limits", "drain_timeout"]),
            threads: file.threads.map_or(cores.min(4), usize::from),
        }
    }
}
