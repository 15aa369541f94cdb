//! The configuration as a person writes it: a mirror for serde, and for the JSON Schema, which has the comments here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

pub use rotate::RotateFile;
pub use route::{Authorization, ClientsFile, RootsFile, RouteFile, TokenRef};
pub use secret::SecretFile;

use crate::oauth::file::{ClientAuth, DialectFile, Grant, OneOrMany};
use crate::units::{Budget, Date, Size, Span};

mod rotate;
mod route;
mod secret;

/// The configuration of tokenbroker: where applications connect, and which token goes to which API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// What outlives the process.
    pub store: StoreFile,
    /// The operator's listener.
    pub admin: AdminFile,
    /// Bounds of the process as a whole.
    pub limits: LimitsFile,
    /// Client certificates, by name.
    pub identity: BTreeMap<String, IdentityFile>,
    /// Ways to get an access token, by name.
    pub token: BTreeMap<String, TokenFile>,
    /// Where applications connect, and the API behind it, by name.
    pub route: BTreeMap<String, RouteFile>,
    /// Dialects of your own, by name.
    #[schemars(with = "BTreeMap<String, DialectFile>")]
    pub dialect: BTreeMap<String, toml::Table>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct StoreFile {
    /// `memory` keeps nothing across restarts, `file` everything, `redis` for all replicas; `memory` when not given.
    pub kind: StoreKind,
    /// The directory of `file`, mode 0700; made at start if it is missing. With `redis`, what this replica keeps beside it.
    pub path: Option<PathBuf>,
    /// What the records are sealed with: at least 32 bytes, such as `openssl rand -base64 32` makes. All replicas have the
    /// same.
    pub key: Option<SecretFile>,
    /// The Redis that replicas share: `redis://` or `rediss://` (TLS), a user name, the host, the port, the database.
    pub url: Option<String>,
    /// The password of that Redis.
    pub password: Option<SecretFile>,
    /// What its keys begin with; `tokenbroker:` when not given.
    pub prefix: Option<String>,
    /// The client certificate for `rediss://`: a name under `[identity]`.
    pub identity: Option<String>,
    /// More roots to trust, PEM.
    pub ca: Option<PathBuf>,
    /// Whom to trust; `system` when not given.
    pub roots: RootsFile,
    /// The name in the server's certificate, where it is not the URL's.
    pub server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum StoreKind {
    #[default]
    Memory,
    File,
    Redis,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct AdminFile {
    /// Loopback address and port, or `unix:/path`; `127.0.0.1:8400` when not given.
    pub listen: Option<String>,
    /// The key that POST requests need; made at start when not given.
    pub key: Option<SecretFile>,
    /// Address and port of a second listener that has only `/livez`, `/readyz` and `/metrics`, for a kubelet: other machines may
    /// reach it. Off when not given.
    pub probes: Option<String>,
    /// The collector that gets traces, by OTLP over HTTP: its URL without `/v1/traces`. Only in a build with the feature `otlp`.
    pub otlp: Option<String>,
    /// Shows the heads of the last 100 exchanges there, secrets masked; `false` when not given.
    pub inspector: Option<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct LimitsFile {
    /// Client connections at a time; more wait in the kernel's queue. 1024 when not given.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u32>,
    /// Longest request or response head; `64KiB` when not given.
    pub head: Option<Size>,
    /// Most fields in a head; 100 when not given.
    #[schemars(range(min = 8, max = 1000))]
    pub headers: Option<u16>,
    /// How long a client may take to send a head, and how long an idle connection is kept; `10s` when not given.
    pub head_timeout: Option<Span>,
    /// How long requests in flight have after SIGTERM; `20s` when not given.
    pub drain_timeout: Option<Span>,
    /// Threads that serve requests; one per core, up to four, when not given.
    #[schemars(range(min = 1, max = 64))]
    pub threads: Option<u16>,
}

/// A client certificate with its key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct IdentityFile {
    /// The client certificate and its chain, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM: PKCS#8, SEC1 or PKCS#1.
    pub key: Option<PathBuf>,
}

/// One way to get an access token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct TokenFile {
    /// A built-in dialect or a `[dialect.NAME]` of this file; `oauth2` when not given.
    pub dialect: Option<String>,
    /// The grant; the dialect's when not given.
    pub grant: Option<Grant>,
    /// The token endpoint.
    pub url: Option<String>,
    /// The vendor's base URL; the dialect's when not given.
    pub base_url: Option<String>,
    /// The page where a person logs in; the dialect's when not given.
    pub authorize_url: Option<String>,
    /// Where a token is ended; the dialect's when not given.
    pub revoke_url: Option<String>,
    /// Where a login comes back to, exactly as it is registered; a free port of 127.0.0.1 when not given.
    pub redirect_uri: Option<String>,
    /// The client's name at the vendor.
    pub client_id: Option<String>,
    /// The client's secret; or two, of which the second is tried when the first is refused.
    pub client_secret: Option<OneOrMany<SecretFile>>,
    /// When the client secret ends: a date, or one for each of two. Warned about, in status and metrics.
    pub secret_expires: Option<OneOrMany<Date>>,
    /// How the client proves who it is; the dialect's when not given.
    pub client_auth: Option<ClientAuth>,
    /// For the `password` grant.
    pub username: Option<String>,
    /// For the `password` grant.
    pub password: Option<SecretFile>,
    /// The first refresh token, for the `refresh_token` grant.
    pub refresh_token: Option<SecretFile>,
    /// The token itself, for the `static` grant.
    pub access_token: Option<SecretFile>,
    /// What the token is to permit, a word each; not sent when empty.
    pub scope: Vec<String>,
    /// Extra request parameters.
    pub params: BTreeMap<String, SecretFile>,
    /// Extra request headers.
    pub headers: BTreeMap<String, SecretFile>,
    /// Values of the dialect's own names in templates; never sent by themselves.
    pub vars: BTreeMap<String, String>,
    /// The client certificate for the token server: a name under `[identity]`.
    pub identity: Option<String>,
    /// More roots to trust, PEM.
    pub ca: Option<PathBuf>,
    /// Whom to trust; `system` when not given.
    pub roots: RootsFile,
    /// The name in the server's certificate, where it is not the URL's.
    pub server_name: Option<String>,
    /// Origins the token may ever be sent to; when not given, those of the routes that name it, and for the management of
    /// secrets that of its own `base_url` and of those of the tokens that have it as `rotate.admin`.
    #[schemars(length(min = 1))]
    pub send_to: Vec<String>,
    /// Fraction of the lifetime at which the background refresh starts, jittered by 5 %; 0.75 when not given.
    #[schemars(range(min = 0.1, max = 0.95))]
    pub refresh_at: Option<f64>,
    /// The lifetime where the server does not tell; `5m` when not given.
    pub default_lifetime: Option<Span>,
    /// One exchange as a whole; `10s` when not given.
    pub timeout: Option<Span>,
    /// The vendor's request budget, such as `5 per 5m`; the dialect's when not given.
    pub limit: Option<Budget>,
    /// Get the token at start; at the first request when false. True when not given.
    pub eager: Option<bool>,
    /// Does it count for readiness? True when not given.
    pub required: Option<bool>,
    /// How its client secret is rotated at the vendor.
    pub rotate: Option<RotateFile>,
}
