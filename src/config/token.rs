//! `[token.NAME]`, checked: one configured way to get an access token.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use jiff::Timestamp;
use rustls_pki_types::ServerName;

use crate::identity::{ClientTls, Leaf};
use crate::oauth::dialect::Dialect;
use crate::oauth::file::{ClientAuth, Grant};
use crate::secret::source::{EXEC_TIMEOUT, SecretSource};
use crate::units::Budget;

/// One configured way to get an access token.
#[derive(Debug, PartialEq)]
pub struct Token {
    pub name: String,
    pub dialect: Dialect,
    pub grant: Grant,
    pub client_auth: ClientAuth,
    pub url: Option<String>,
    pub base_url: Option<String>,
    pub authorize_url: Option<String>,
    pub revoke_url: Option<String>,
    pub redirect_uri: Option<String>,
    pub client_id: Option<String>,
    /// At most two; the second is tried when the first is refused.
    pub client_secrets: Vec<SecretSource>,
    /// When each of them ends; empty where that is not known.
    pub secret_expires: Vec<Timestamp>,
    pub username: Option<String>,
    pub password: Option<SecretSource>,
    pub refresh_token: Option<SecretSource>,
    pub access_token: Option<SecretSource>,
    /// Joined with the dialect's separator.
    pub scope: Option<String>,
    pub params: BTreeMap<String, SecretSource>,
    pub headers: Vec<(HeaderName, SecretSource)>,
    /// Values of the dialect's own names in templates; those of the dialect where the token has none.
    pub vars: BTreeMap<String, String>,
    /// Name of the identity and what its certificate says.
    pub identity: Option<(String, Leaf)>,
    pub tls: ClientTls,
    pub server_name: Option<ServerName<'static>>,
    /// The origins it may be sent to; empty for those of the routes that name it.
    pub send_to: Vec<String>,
    /// Fraction of the lifetime, before jitter.
    pub refresh_at: f64,
    pub default_lifetime: Duration,
    pub timeout: Duration,
    /// The vendor's request budget, the dialect's where the token names none.
    pub limit: Option<Budget>,
    pub eager: bool,
    pub required: bool,
    pub rotate: Rotate,
}

/// How a token's client secret is rotated at the vendor.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotate {
    /// Does the token say anything of it?
    pub told: bool,
    /// Without being asked, so long before its end; `None`: only when a person asks.
    pub before: Option<Duration>,
    /// The token whose access token may manage secrets; `None`: this token's own.
    pub admin: Option<String>,
    /// The vendor's id of the configured secret.
    pub current: Option<String>,
    /// As the vendor takes it, such as `2y`, and as a length of time.
    pub lifetime: (String, Duration),
    /// How long the old one is kept beside the new one.
    pub grace: Duration,
    /// So many successes in a row, this far apart, before a new one is used.
    pub times: u32,
    pub every: Duration,
    /// After so long, the vendor's list shows what was done before.
    pub settle: Duration,
    /// Where a new one is written as well.
    pub write: Option<PathBuf>,
    /// How many secrets the vendor allows at once, where it says so.
    pub slots: Option<usize>,
}

impl Token {
    /// Everything that is read for an exchange.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
        let single = [&self.password, &self.refresh_token, &self.access_token];
        let headers = self.headers.iter().map(|(_, source)| source);
        self.client_secrets.iter().chain(single.into_iter().flatten()).chain(self.params.values()).chain(headers)
    }

    /// Stands for whose refresh token it is: with another of these, one that was kept must not be sent.
    pub fn account(&self) -> String {
        let given = [&self.url, &self.base_url, &self.client_id, &self.username];
        let given = given.into_iter().map(|text| text.as_deref().unwrap_or_default());
        let vars = self.vars.iter().flat_map(|(name, value)| [name.as_str(), value]);
        [&*self.dialect.name, self.grant.as_str()].into_iter().chain(given).chain(vars).collect::<Vec<_>>().join("\0")
    }

    /// Stands for the client at the vendor: tokens for which it is the same have the same client secret.
    pub fn client(&self) -> String {
        let base_url = self.base_url.as_deref().unwrap_or_default().trim_end_matches('/');
        let given = [&self.url, &self.client_id].map(|text| text.as_deref().unwrap_or_default());
        let vars = self.vars.iter().flat_map(|(name, value)| [name.as_str(), value]);
        [&*self.dialect.name, base_url].into_iter().chain(given).chain(vars).collect::<Vec<_>>().join("\0")
    }

    /// Stands for what an access token was obtained with and for, as far as the configuration itself tells.
    pub fn purpose(&self) -> String {
        // A certificate that was renewed is still the same client's.
        let identity = self.identity.as_ref().map(|(_, leaf)| &leaf.subject);
        let told = (&self.dialect, self.client_auth, &self.scope, &self.send_to, identity, &self.server_name);
        format!("{}\0{told:?}", self.account())
    }

    /// What one exchange may take, with the reading of its secrets before it.
    pub fn exchange_max(&self) -> Duration {
        self.timeout + 2 * EXEC_TIMEOUT
    }

    /// What somebody who asks for a token waits for: an exchange in flight, a refused renewal, and the login after it.
    pub fn row_max(&self) -> Duration {
        self.exchange_max() * 3 + Duration::from_secs(1)
    }
}
