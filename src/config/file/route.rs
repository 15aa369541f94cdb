//! `[route.NAME]` as a person writes it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::SecretFile;
use crate::oauth::file::OneOrMany;
use crate::units::{Size, Span};

/// Where an application connects, and the API behind it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct RouteFile {
    /// Address and port, loopback unless `unsafe_listen`, or `unix:/path`; one or a list. Required.
    pub listen: Option<OneOrMany<String>>,
    /// Only requests for this host name.
    pub host: Option<String>,
    /// Only paths under this one, on segment boundaries; `/` when not given.
    pub path: Option<String>,
    /// Is the matched path removed before forwarding? True when not given.
    pub strip: Option<bool>,
    /// The API: scheme, host, optional port and base path. Required.
    pub upstream: Option<String>,
    /// Permits `http://` to another machine; false when not given.
    pub unsafe_plain_upstream: bool,
    /// A name under `[token]`, the route's own name when not given; `false` forwards without one.
    pub token: Option<TokenRef>,
    /// The client certificate for the API: a name under `[identity]`.
    pub identity: Option<String>,
    /// More roots to trust, PEM.
    pub ca: Option<PathBuf>,
    /// Whom to trust; `system` when not given.
    pub roots: RootsFile,
    /// The name in the API's certificate, where it is not the URL's.
    pub server_name: Option<String>,
    /// What to do with a credential that the client sent; `replace` when not given.
    pub authorization: Authorization,
    /// The header that carries the token; the dialect's when not given.
    pub header: Option<String>,
    /// How the token is written; the dialect's when not given.
    pub format: Option<String>,
    /// Extra request headers.
    pub headers: BTreeMap<String, SecretFile>,
    /// Allowed methods; all when not given.
    #[schemars(length(min = 1))]
    pub methods: Vec<String>,
    /// Allowed path prefixes, on segment boundaries; all when not given.
    #[schemars(length(min = 1))]
    pub paths: Vec<String>,
    /// How long a request waits for a token exchange in flight; `5s` when not given.
    pub token_wait: Option<Span>,
    /// After a 401 from the API: one refresh and one replay. True when not given.
    pub retry_unauthorized: Option<bool>,
    /// Larger request bodies are not held for a replay; `64KiB` when not given.
    pub replay_body_max: Option<Size>,
    /// Name, TCP and TLS together; `3s` when not given.
    pub connect_timeout: Option<Span>,
    /// To the response head; `60s` when not given.
    pub response_timeout: Option<Span>,
    /// Between the bytes of a body or a tunnel; `5m` when not given.
    pub idle_timeout: Option<Span>,
    /// Is a `Location` that points at the upstream mapped back? True when not given.
    pub rewrite_location: Option<bool>,
    /// `Host` names to answer to; `localhost`, `127.0.0.1` and `[::1]` when not given.
    #[schemars(length(min = 1))]
    pub accept_hosts: Option<Vec<String>>,
    /// Browser origins to answer to; none when not given.
    pub accept_origins: Vec<String>,
    /// Who may connect; everybody who can, when not given.
    pub clients: Option<ClientsFile>,
    /// Permits addresses that other machines can reach, and then needs `clients`; false when not given.
    pub unsafe_listen: bool,
    /// Are `Forwarded` and `Via` added? False when not given.
    pub forwarded: bool,
}

/// Who may connect to a route.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct ClientsFile {
    /// Users of this machine, by number: who connects over a Unix socket or loopback.
    #[schemars(length(min = 1), inner(range(max = 4_294_967_294_u32)))]
    pub uids: Vec<u32>,
    /// Networks, such as `172.16.0.0/12`: from where others connect.
    #[schemars(length(min = 1))]
    pub networks: Vec<String>,
    /// What every request has to bear in `X-Tokenbroker-Key`; with `ca`, the file of the private key of `cert` instead.
    pub key: Option<SecretFile>,
    /// Clients need a certificate of this CA, PEM, with its revocation lists if there are any: the listener speaks TLS.
    pub ca: Option<PathBuf>,
    /// With `ca`: the listener's own certificate and its chain, PEM.
    pub cert: Option<PathBuf>,
}

/// A name under `[token]`, or `false` for none.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum TokenRef {
    Name(String),
    Off(bool),
}

/// Whom to trust.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RootsFile {
    /// The system's roots and Mozilla's, and those of `ca`.
    #[default]
    System,
    /// Those of `ca` alone.
    Ca,
}

/// What to do with a credential that the client sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Authorization {
    /// Ours takes its place.
    #[default]
    Replace,
    /// It wins, and the token is not sent.
    Keep,
    /// The request is refused.
    Reject,
}
