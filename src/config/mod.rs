//! The configuration that the program runs on: validated, with every default filled in.
//!
//! `file` is what a person types; `document`, `schema`, `shape` and `validate` turn it into a [`Config`], with all problems at once. Secrets are
//! not in here, only where they are read from.

mod document;
pub mod file;
mod listen;
mod not_yet;
pub mod problem;
pub mod schema;
mod shape;
mod syntax;
mod token;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

pub use file::Authorization;
pub use listen::{Clients, Listen, let_others_in};
pub use problem::{Problem, Report};
pub use token::{Rotate, Token};

use crate::connect::Endpoint;
use crate::expiry::Expiring;
use crate::identity::{Identity, ServerTls};
use crate::oauth::template::Template;
use crate::secret::source::SecretSource;
use crate::store::Redis;

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// `None`: everything is kept in memory.
    pub store: Option<Store>,
    pub admin: Admin,
    pub limits: Limits,
    pub tokens: BTreeMap<String, Arc<Token>>,
    pub routes: BTreeMap<String, Arc<Route>>,
    pub certificates: Certificates,
    /// What ends, as far as the configuration and its files tell.
    pub expiring: Vec<Expiring>,
    /// Every file that was read for this or that holds a secret, but for the configuration itself.
    pub files: BTreeSet<PathBuf>,
    /// The one route that is served; `None`: all.
    pub only: Option<String>,
}

impl Config {
    /// Leaves only that route, its token, and the one whose access token may manage the secrets of that.
    pub fn narrow(&mut self, only: Option<&str>) {
        let Some(only) = only else { return };
        self.routes.retain(|name, _| name == only);
        let mut kept = BTreeSet::new();
        let mut next = self.routes.values().find_map(|route| route.token.clone());
        while let Some(name) = next.filter(|name| !kept.contains(name)) {
            next = self.tokens.get(&name).and_then(|token| token.rotate.admin.clone());
            kept.insert(name);
        }
        self.tokens.retain(|name, _| kept.contains(name));
        self.only = Some(only.to_owned());
    }
}

/// What the files of certificates and keys held.
#[derive(Debug, Default)]
pub struct Certificates {
    pub identities: BTreeMap<String, Arc<Identity>>,
    /// By file.
    authorities: BTreeMap<PathBuf, Vec<CertificateDer<'static>>>,
    /// By route.
    listeners: BTreeMap<String, ServerTls>,
}

/// What outlives the process, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub place: Place,
    /// What records are sealed with.
    pub key: SecretSource,
}

/// Where records are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A directory of this process alone.
    Directory(PathBuf),
    /// A Redis that replicas share, and perhaps a directory of this process alone, for what it knows of that.
    Redis(Box<Redis>, Option<PathBuf>),
}

impl Store {
    /// That of this process alone, if there is one.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(directory) => Some(directory),
            Place::Redis(_, directory) => directory.as_deref(),
        }
    }
}

/// The operator's listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    pub listen: Listen,
    /// `None`: made at start.
    pub key: Option<SecretSource>,
    /// Where the probes are answered besides, to whoever asks.
    pub probes: Option<Listen>,
    /// Where spans are exported to.
    pub otlp: Option<Upstream>,
    /// Are the heads of the last exchanges kept to be looked at?
    pub inspector: bool,
}

impl Admin {
    /// Both listeners, with their keys in `[admin]`.
    pub fn listeners(&self) -> impl Iterator<Item = (&'static str, &Listen)> {
        [("listen", &self.listen)].into_iter().chain(self.probes.iter().map(|probes| ("probes", probes)))
    }
}

/// Bounds of the process as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub connections: usize,
    /// Bytes.
    pub head_max: usize,
    pub headers_max: usize,
    pub head_timeout: Duration,
    pub drain_timeout: Duration,
    pub threads: usize,
}

/// Where an application connects, and the API behind it.
#[derive(Debug, PartialEq)]
pub struct Route {
    pub name: String,
    pub listen: Vec<Listen>,
    /// Lower case.
    pub host: Option<String>,
    /// Without a trailing slash; empty for all paths.
    pub path: String,
    pub strip: bool,
    pub upstream: Upstream,
    pub token: Option<String>,
    pub authorization: Authorization,
    pub header: HeaderName,
    pub format: Template,
    pub headers: Vec<(HeaderName, SecretSource)>,
    /// Empty for all.
    pub methods: Vec<Method>,
    /// Without trailing slashes; empty for all.
    pub paths: Vec<String>,
    pub token_wait: Duration,
    pub retry_unauthorized: bool,
    /// Bytes.
    pub replay_body_max: usize,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    pub idle_timeout: Duration,
    pub rewrite_location: bool,
    /// Lower case.
    pub accept_hosts: Vec<String>,
    /// Lower case.
    pub accept_origins: Vec<String>,
    /// `None`: whoever can connect may.
    pub clients: Option<Clients>,
    /// Are `Forwarded` and `Via` added?
    pub forwarded: bool,
}

impl Route {
    /// The TLS that its listeners speak.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.clients.as_ref()?.tls.as_ref()
    }

    /// How its URLs begin.
    pub fn scheme(&self) -> &'static str {
        if self.tls().is_some() { "https" } else { "http" }
    }
}

/// The API behind a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub endpoint: Endpoint,
    /// As it is written into `Host`: with the port unless it is the scheme's own.
    pub authority: String,
    /// Without a trailing slash; empty for none.
    pub base_path: String,
}

impl Upstream {
    pub fn scheme(&self) -> &'static str {
        if self.endpoint.tls.is_some() { "https" } else { "http" }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority)
    }
}

/// The text of a configuration.
pub fn text(path: &Path) -> Result<Zeroizing<String>, Report> {
    read(path).map(Zeroizing::new).map_err(|problem| Report { problems: vec![problem], ..Report::of(path) })
}

/// Checks the text of a file, and reads every file that it names. The configuration is there exactly if the report has no
/// problem.
pub fn check(path: &Path, text: &str, now: Timestamp) -> (Option<Config>, Report) {
    let (config, report) = validate::run(path, text, now, None);
    let report = report.strict();
    (config.filter(|_| report.problems.is_empty()), report)
}

/// Reads the files anew that a configuration in force names, `text`. Where one cannot be used, what `before` had of it stays,
/// and the report says so.
pub fn reread(path: &Path, text: &str, now: Timestamp, before: &Certificates) -> (Option<Config>, Report) {
    let (config, report) = validate::run(path, text, now, Some(before));
    (config, report.strict())
}

/// Reads and checks a file, for who only looks at it: something may still have to be filled in.
pub fn load(path: &Path, now: Timestamp) -> (Option<Config>, Report) {
    text(path).map_or_else(|report| (None, report), |text| validate::run(path, &text, now, None))
}

/// How to reach a broker with this file as its operator.
#[derive(Debug)]
pub struct Operator {
    pub admin: Admin,
    /// The directory of its store: whoever holds that says where he listens.
    pub store: Option<PathBuf>,
}

/// How to reach a broker with this file, whatever else the file holds. `Err` names the file.
pub fn operator(path: &Path) -> Result<Operator, String> {
    match read(path) {
        Ok(text) => validate::operator(path, &text),
        Err(problem) => Err(Report::of(path).line(&problem)),
    }
}

/// A configuration is at most this long.
const LENGTH_MAX: u64 = 1024 * 1024;

fn read(path: &Path) -> Result<String, Problem> {
    let fatal = |problem: &str, hint: &str| Problem {
        place: None,
        key: String::new(),
        problem: problem.into(),
        hint: hint.into(),
    };
    // Security: a pipe or a device would block, or never end.
    if path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        return Err(fatal("cannot be read: it is not a regular file", "name the configuration with -c FILE"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LENGTH_MAX + 1).read_to_end(&mut bytes)).map_err(|e| {
        match e.kind() {
            ErrorKind::NotFound => {
                fatal("cannot be read: there is no such file", "name the configuration with -c FILE")
            }
            ErrorKind::PermissionDenied => fatal("cannot be read: permission denied", "let the broker's user read it"),
            ErrorKind::IsADirectory => fatal("cannot be read: it is a directory", "name the file in it with -c FILE"),
            _ => fatal(&format!("cannot be read: {e}"), "name the configuration with -c FILE"),
        }
    })?;
    if bytes.len() as u64 > LENGTH_MAX {
        return Err(fatal("is larger than 1 MiB", "is it the configuration? Name it with -c FILE"));
    }
    String::from_utf8(bytes).map_err(|_| fatal("is not UTF-8 text", "TOML is UTF-8; save it again as that"))
}
