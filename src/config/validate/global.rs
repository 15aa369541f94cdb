//! `[admin]` and `[limits]`.

use std::path::Path;
use std::sync::LazyLock;

use jiff::Timestamp;

use super::Check;
use crate::config::document::Document;
use crate::config::file::{AdminFile, LimitsFile, StoreKind};
use crate::config::{Admin, Limits, Operator, shape};

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
    let inspector = file.admin.inspector.unwrap_or_default();
    let admin = Admin { listen, key: file.admin.key.map(|key| check.source(key)), inspector };
    let store = file.store.path.filter(|_| file.store.kind != StoreKind::Memory).map(|path| check.path(&path));
    let report = check.document.report;
    match report.problems.first() {
        None => Ok(Operator { admin, store }),
        Some(problem) => Err(report.line(problem)),
    }
}

impl Check<'_> {
    pub(super) fn admin(&mut self, file: AdminFile) -> Admin {
        let listen = file.listen.as_deref().unwrap_or(ADMIN_LISTEN);
        let listen = self.listen(listen, &["admin", "listen"]);
        let key = file.key.map(|key| self.secret(key, &["admin", "key"], true));
        Admin { listen, key, inspector: file.inspector.unwrap_or_default() }
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
