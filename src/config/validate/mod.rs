//! File to [`Config`]: everything that can be known without starting, all problems at once. A value that is wrong is
//! reported and replaced by a harmless one, so that what follows can be checked too; the result counts if nothing was.

mod clients;
mod ends;
mod files;
mod global;
mod listen;
mod login;
mod request;
mod rotate;
mod route;
mod store;
mod tls;
mod token;
mod unfilled;
mod url;

pub(super) use global::operator;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::document::{Document, Part};
use super::file::{File, SecretFile};
use super::problem::{Problem, nearest};
use super::{Certificates, Config, Report, shape};
use crate::expiry::Expiring;
use crate::identity::Identity;
use crate::oauth::builtin;
use crate::oauth::dialect::Dialect;
use crate::secret::Secret;
use crate::secret::source::SecretSource;
use crate::units::Span;

/// Among more names than these, nobody looks for the one that was meant.
const NAMES_MAX: usize = 100;

/// Checks `text`, which was read from `path`.
///
/// With `before`, the text is known to be good, and what is wrong is wrong with the files that it names: what they held
/// before counts instead.
pub(super) fn run(path: &Path, text: &str, now: Timestamp, before: Option<&Certificates>) -> (Option<Config>, Report) {
    let mut document = Document::parse(path, text);
    let file = shape::check(&mut document);
    let mut check = Check { before, ..Check::new(document, path, now) };
    check.placeholders();
    let config = file.map(|file| check.config(file));
    check.private(path, &[]);
    let mut report = check.document.report;
    report.sort();
    (config.filter(|_| report.problems.is_empty() || before.is_some()), report)
}

/// The state of one check: what was found, and what names can be resolved to.
pub(super) struct Check<'t> {
    document: Document<'t>,
    /// Relative paths of the file start here.
    directory: PathBuf,
    now: Timestamp,
    before: Option<&'t Certificates>,
    certificates: Certificates,
    expiring: Vec<Expiring>,
    files: BTreeSet<PathBuf>,
    /// Keys of which something was said already; no more is said of what follows from it.
    said: BTreeSet<String>,
    /// Tables that others name, such as `token.api`.
    used: BTreeSet<String>,
    /// Does the file itself hold a secret?
    literal: bool,
    /// Does anything outlive the process?
    durable: bool,
}

/// What tokens and routes refer to by name.
pub(super) struct Named {
    /// `None` for one that could not be loaded, which was reported already.
    identities: BTreeMap<String, Option<Arc<Identity>>>,
    dialects: BTreeMap<String, Option<Dialect>>,
}

impl<'t> Check<'t> {
    fn new(document: Document<'t>, path: &Path, now: Timestamp) -> Self {
        let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let mut said: BTreeSet<_> = document.report.problems.iter().map(|problem| problem.key.clone()).collect();
        said.extend(document.excused.iter().cloned());
        Self {
            document,
            directory,
            now,
            before: None,
            certificates: Certificates::default(),
            expiring: Vec::new(),
            files: BTreeSet::new(),
            said,
            used: BTreeSet::new(),
            literal: false,
            durable: false,
        }
    }
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
        if file.route.is_empty() && !self.refused(&["route"]) {
            self.problem(&[], "there is no [route]", "add one: [route.NAME] with listen and upstream");
        }
        let named = Named {
            identities: file.identity.into_iter().map(|(name, f)| (name.clone(), self.identity(&name, &f))).collect(),
            dialects: file.dialect.iter().map(|(name, table)| (name.clone(), self.dialect(name, table))).collect(),
        };
        for (name, identity) in &named.identities {
            if let Some(identity) = identity {
                self.certificates.identities.insert(name.clone(), Arc::clone(identity));
            }
        }
        let store = self.store(file.store, &named);
        let admin = self.admin(file.admin, &named);
        let limits = self.limits(&file.limits);
        let tokens = self.tokens(&file.token, &named);
        let token_names: BTreeSet<_> = file.token.keys().cloned().collect();
        let any_route = !file.route.is_empty();
        let routes = self.routes(file.route, &tokens, &named, &admin, &token_names);
        self.rotations(&file.token, &tokens, &routes);
        self.unused_tables("identity", named.identities.keys(), "name it in a token or a route, or remove it");
        self.unused_tables("dialect", named.dialects.keys(), "name it in a token, or remove it");
        self.unused_tables("token", token_names.iter().filter(|_| any_route), "name it in a route, or remove it");
        let (certificates, files) = (std::mem::take(&mut self.certificates), std::mem::take(&mut self.files));
        let expiring = std::mem::take(&mut self.expiring);
        Config { store, admin, limits, tokens, routes, certificates, expiring, files, only: None }
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
        if let Some(url) = table.get("base_url").and_then(toml::Value::as_str) {
            self.token_url(url, &["dialect", name, "base_url"]);
        }
        match builtin::extended(name, table) {
            Ok(dialect) => Some(dialect),
            Err(faults) => {
                for fault in faults {
                    let path: Vec<_> = ["dialect", name]
                        .into_iter()
                        .chain(fault.key.split(['.', '[', ']']).filter(|step| !step.is_empty()))
                        .collect();
                    self.problem(&path, &fault.problem, &fault.hint);
                }
                None
            }
        }
    }

    /// A secret's source; `sensitive` ones are warned about when written inline.
    fn secret(&mut self, written: SecretFile, path: &[&str], sensitive: bool) -> SecretSource {
        self.secret_and_value(written, path, sensitive).0
    }

    fn source(&self, written: SecretFile) -> SecretSource {
        match written.0 {
            SecretSource::File(file) => SecretSource::File(self.path(&file)),
            other => other,
        }
    }

    /// A secret's source with its path made absolute, and its value, unless a command has it.
    fn secret_and_value(
        &mut self,
        written: SecretFile,
        path: &[&str],
        sensitive: bool,
    ) -> (SecretSource, Option<Secret>) {
        let (source, bytes) = self.secret_and_bytes(written, path, sensitive);
        let value = bytes.map(|bytes| source.text(bytes).map_err(|e| self.problem(path, &e.problem, e.hint)));
        (source, value.and_then(Result::ok))
    }

    /// As [`Self::secret_and_value`], whatever the bytes.
    fn secret_and_bytes(
        &mut self,
        written: SecretFile,
        path: &[&str],
        sensitive: bool,
    ) -> (SecretSource, Option<Zeroizing<Vec<u8>>>) {
        let source = self.source(written);
        match &source {
            SecretSource::Inline(_) if sensitive => {
                self.literal = true;
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
            self.files.insert(file.clone());
            self.private(&file, path);
        }
        let value = source.look_bytes().map_err(|e| self.unreadable(path, &e)).ok();
        let value = value.filter(|_| !matches!(source, SecretSource::Exec(..)));
        (source, value)
    }

    fn timeout(&mut self, span: Option<Span>, default_seconds: u64, path: &[&str]) -> Duration {
        let span = span.map_or(Duration::from_secs(default_seconds), |span| span.0);
        if span.is_zero() {
            self.problem(path, "must not be zero", "write a time, such as \"10s\"");
        }
        span
    }

    fn name(&mut self, table: &str, name: &str) {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
            self.wrong_key(&[table, name], "is not a usable name", "up to 64 letters, digits, - and _");
        }
    }

    /// A reference to a table that is not there; if it was refused, that was said.
    fn unknown<'k>(&mut self, path: &[&str], table: &str, wanted: &str, known: impl IntoIterator<Item = &'k String>) {
        if self.refused(&[table, wanted]) || self.said.contains(table) {
            return;
        }
        let known: Vec<_> = known.into_iter().map(String::as_str).take(NAMES_MAX).collect();
        let hint = match nearest(wanted, known.iter().copied()) {
            Some(near) => {
                self.using(table, near);
                format!("did you mean {near:?}?")
            }
            None if known.is_empty() => "add it".to_owned(),
            None => format!("known here: {}", known.join(", ")),
        };
        let what = if table == "dialect" { format!("dialect {wanted:?}") } else { format!("[{table}.{wanted}]") };
        self.problem(path, &format!("there is no {what}"), &hint);
    }

    fn using(&mut self, table: &str, name: &str) {
        self.used.insert(format!("{table}.{name}"));
    }

    fn unused_tables<'k>(&mut self, table: &str, names: impl IntoIterator<Item = &'k String>, hint: &str) {
        let what = if table == "token" { "no route uses this token" } else { "nothing uses this table" };
        for name in names {
            if !self.used.contains(&format!("{table}.{name}")) {
                self.warning(&[table, name], what, hint);
            }
        }
    }

    /// A key of a token that is missing, unless something was said of it already.
    fn lacks(&mut self, token: &str, key: &str, problem: &str, hint: &str) {
        let path = ["token", token, key];
        if !self.refused(&path) {
            self.problem(&path[..2], problem, hint);
            self.said.insert(path.join("."));
        }
    }

    /// Was something said of it, or of a part of it, already? Then it is not missing as well.
    fn refused(&self, path: &[&str]) -> bool {
        let key = path.join(".");
        let below = format!("{key}.");
        self.said.contains(&key) || self.said.range(below.clone()..).next().is_some_and(|said| said.starts_with(&below))
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// The value is wrong.
    fn problem(&mut self, path: &[&str], problem: &str, hint: &str) {
        let problem = self.entry(path, Part::Value, problem, hint);
        self.said.insert(problem.key.clone());
        self.document.report.problems.push(problem);
    }

    /// The key should not be there.
    fn wrong_key(&mut self, path: &[&str], problem: &str, hint: &str) {
        let problem = self.entry(path, Part::Key, problem, hint);
        self.said.insert(problem.key.clone());
        self.document.report.problems.push(problem);
    }

    fn warning(&mut self, path: &[&str], problem: &str, hint: &str) {
        let problem = self.entry(path, Part::Key, problem, hint);
        self.document.report.warnings.push(problem);
    }

    fn entry(&self, path: &[&str], part: Part, problem: &str, hint: &str) -> Problem {
        let place = self.document.locate(path, part);
        let path = self.document.shown(path);
        let key = path.iter().filter(|step| !step.is_empty()).copied().collect::<Vec<_>>().join(".");
        Problem { place, key, problem: problem.into(), hint: hint.into() }
    }
}
