//! File to [`Config`]: everything that can be known without starting, all problems at once. A value that is wrong is
//! reported and replaced by a harmless one, so that what follows can be checked too; the result counts only if nothing
//! was reported.

mod files;
mod listen;
mod route;
mod token;
mod url;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;

use super::document::Document;
use super::file::{AdminFile, File, IdentityFile, LimitsFile, RootsFile, SecretFile};
use super::problem::{Problem, nearest};
use super::{Admin, Config, Limits, Report};
use crate::identity::{Identity, IdentityError, Roots};
use crate::oauth::builtin;
use crate::oauth::dialect::Dialect;
use crate::secret::source::SecretSource;
use crate::units::Span;

const ADMIN_LISTEN: &str = "127.0.0.1:8400";

/// Checks `text`, which was read from `path`.
pub(super) fn run(path: &Path, text: &str, now: Timestamp) -> (Option<Config>, Report) {
    let mut document = Document::parse(path, text);
    let file = document.check();
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let mut check = Check { document, directory, now, certificates: BTreeMap::new() };
    check.private(path, &[]);
    let config = check.config(file);
    let mut report = check.document.report;
    report.sort();
    (report.problems.is_empty().then_some(config), report)
}

/// Checks `[admin] listen` alone.
pub(super) fn admin_listen(path: &Path, text: &str) -> Result<super::Listen, String> {
    let mut document = Document::parse(path, text);
    let file = document.check();
    document.report.problems.clear();
    let mut check =
        Check { document, directory: PathBuf::new(), now: Timestamp::UNIX_EPOCH, certificates: BTreeMap::new() };
    let listen = check.listen(file.admin.listen.as_deref().unwrap_or(ADMIN_LISTEN), &["admin", "listen"]);
    let report = check.document.report;
    match report.problems.first() {
        None => Ok(listen),
        Some(problem) => Err(report.line(problem)),
    }
}

/// The state of one check: what was found, and what names can be resolved to.
pub(super) struct Check<'t> {
    document: Document<'t>,
    /// Relative paths of the file start here.
    directory: PathBuf,
    now: Timestamp,
    certificates: BTreeMap<String, crate::identity::Leaf>,
}

/// What tokens and routes refer to by name.
pub(super) struct Named {
    /// `None` for one that could not be loaded, which was reported already.
    identities: BTreeMap<String, Option<Rc<Identity>>>,
    dialects: BTreeMap<String, Option<Dialect>>,
}

impl Check<'_> {
    fn config(&mut self, file: File) -> Config {
        for (table, names) in [
            ("identity", file.identity.keys().collect::<Vec<_>>()),
            ("token", file.token.keys().collect()),
            ("route", file.route.keys().collect()),
            ("dialect", file.dialect.keys().collect()),
        ] {
            for name in names {
                self.name(table, name);
            }
        }
        if file.route.is_empty() {
            self.problem(&[], "there is no [route]", "add one: [route.NAME] with listen and upstream");
        }
        let named = Named {
            identities: file
                .identity
                .into_iter()
                .map(|(name, f)| (name.clone(), self.identity(&name, &f).map(Rc::new)))
                .collect(),
            dialects: file.dialect.iter().map(|(name, table)| (name.clone(), self.dialect(name, table))).collect(),
        };
        for (name, identity) in &named.identities {
            if let Some(identity) = identity {
                self.certificates.insert(name.clone(), identity.leaf.clone());
            }
        }
        let admin = self.admin(file.admin);
        let limits = self.limits(&file.limits);
        let tokens = self.tokens(&file.token, &named, &file.route);
        let token_names: Vec<_> = file.token.keys().cloned().collect();
        let routes = self.routes(file.route, &tokens, &named, &admin, &token_names);
        Config { admin, limits, tokens, routes, certificates: std::mem::take(&mut self.certificates) }
    }

    fn admin(&mut self, file: AdminFile) -> Admin {
        let listen = file.listen.as_deref().unwrap_or(ADMIN_LISTEN);
        let listen = self.listen(listen, &["admin", "listen"]);
        Admin { listen, key: file.key.map(|key| self.secret(key, &["admin", "key"], true)) }
    }

    fn limits(&mut self, file: &LimitsFile) -> Limits {
        let head_max = file.head.map_or(64 * 1024, |size| size.0);
        if !(8 * 1024..=1024 * 1024).contains(&head_max) {
            self.problem(&["limits", "head"], "is out of range", "from 8KiB to 1MiB");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Limits {
            connections: file.connections.map_or(1024, |n| n as usize),
            head_max: usize::try_from(head_max).unwrap_or(64 * 1024),
            headers_max: file.headers.map_or(100, usize::from),
            head_timeout: self.timeout(file.head_timeout, 10, &["limits", "head_timeout"]),
            drain_timeout: self.timeout(file.drain_timeout, 20, &["limits", "drain_timeout"]),
            threads: file.threads.map_or(cores.min(4), usize::from),
        }
    }

    fn identity(&mut self, name: &str, file: &IdentityFile) -> Option<Identity> {
        let (Some(cert), Some(key)) = (&file.cert, &file.key) else {
            if !self.refused(&["identity", name]) {
                self.problem(&["identity", name], "needs `cert` and `key`", "two PEM files");
            }
            return None;
        };
        let (cert, key) = (self.path(cert), self.path(key));
        self.private(&key, &["identity", name, "key"]);
        let loaded = Identity::load(&cert, &key, self.now);
        self.loaded(loaded, &["identity", name])
    }

    fn dialect(&mut self, name: &str, table: &toml::Table) -> Option<Dialect> {
        if builtin::BUILT_IN.iter().any(|(built_in, _)| *built_in == name) {
            self.problem(
                &["dialect", name],
                "there is a built-in of that name",
                "choose another, and extend the built-in",
            );
            return None;
        }
        match builtin::extended(name, table) {
            Ok(dialect) => Some(dialect),
            Err(faults) => {
                for fault in faults {
                    let path: Vec<_> = ["dialect", name].into_iter().chain(fault.key.split(['.', '[', ']'])).collect();
                    self.problem(&path, &fault.problem, &fault.hint);
                }
                None
            }
        }
    }

    /// Whom a token or a route trusts.
    fn trust(&mut self, table: [&str; 2], ca: Option<&PathBuf>, roots: RootsFile) -> Roots {
        if roots == RootsFile::Ca && ca.is_none() {
            self.problem(
                &[table[0], table[1], "roots"],
                "`roots = \"ca\"` needs `ca`",
                "name the file with the CA's certificates",
            );
        }
        let ca = ca.map(|ca| self.path(ca));
        let loaded = Roots::load(roots == RootsFile::System, ca.as_ref());
        self.loaded(loaded, &[table[0], table[1], "ca"]).unwrap_or_default()
    }

    fn loaded<T>(&mut self, result: Result<T, IdentityError>, path: &[&str]) -> Option<T> {
        result.map_err(|e| self.problem(path, &e.problem, e.hint)).ok()
    }

    /// A secret's source with its path made absolute; `sensitive` ones are warned about when written inline.
    fn secret(&mut self, written: SecretFile, path: &[&str], sensitive: bool) -> SecretSource {
        let source = match written.0 {
            SecretSource::File(file) => SecretSource::File(self.path(&file)),
            other => other,
        };
        match &source {
            SecretSource::Inline(_) if sensitive => {
                self.warning(
                    path,
                    "the secret stands in this file",
                    "use { file = \"…\" }, and keep it out of version control",
                );
            }
            SecretSource::Env(_) => {
                self.warning(
                    path,
                    "a secret in the environment can be read in /proc and is inherited",
                    "use { file = \"…\" }",
                );
            }
            _ => {}
        }
        if let Some(file) = source.path() {
            self.private(&file, path);
        }
        if let Err(e) = source.look() {
            self.problem(path, &e.problem, e.hint);
        }
        source
    }

    fn timeout(&mut self, span: Option<Span>, default_seconds: u64, path: &[&str]) -> Duration {
        let span = span.map_or(Duration::from_secs(default_seconds), |span| span.0);
        if span.is_zero() {
            self.problem(path, "must not be zero", "everything has a bound, and none is immediate");
        }
        span
    }

    fn name(&mut self, table: &str, name: &str) {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
            self.problem(&[table, name], "is not a usable name", "up to 64 letters, digits, - and _");
        }
    }

    /// A reference to something that is not there.
    fn unknown(&mut self, path: &[&str], what: &str, wanted: &str, known: &[&str]) {
        let hint = match nearest(wanted, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if known.is_empty() => "add it".to_owned(),
            None => format!("known here: {}", known.join(", ")),
        };
        self.problem(path, &format!("there is no {what}"), &hint);
    }

    /// Was something there that was refused already? Then it is not missing as well.
    fn refused(&self, path: &[&str]) -> bool {
        let key = path.join(".");
        self.document.report.problems.iter().any(|problem| {
            problem.key.strip_prefix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    fn problem(&mut self, path: &[&str], problem: &str, hint: &str) {
        let problem = self.entry(path, problem, hint);
        self.document.report.problems.push(problem);
    }

    fn warning(&mut self, path: &[&str], problem: &str, hint: &str) {
        let problem = self.entry(path, problem, hint);
        self.document.report.warnings.push(problem);
    }

    fn entry(&self, path: &[&str], problem: &str, hint: &str) -> Problem {
        let place = self.document.locate(path);
        let key = path.iter().filter(|step| !step.is_empty()).copied().collect::<Vec<_>>().join(".");
        Problem { place, key, problem: problem.into(), hint: hint.into() }
    }
}
