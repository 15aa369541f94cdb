//! What a failed token exchange means: one of eight classes, decided once, in `response`.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Decides whether an exchange is tried again, by itself or by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Class {
    /// The network, or the server for now. Tried again with back-off.
    Transient,
    /// Too many requests. Tried again when the server says.
    RateLimited,
    /// Not understood. Tried again with back-off.
    Unknown,
    /// The client secret has ended.
    SecretExpired,
    /// The client id, secret or password is wrong.
    ClientRejected,
    /// The request itself is wrong: URL, scope, grant.
    Config,
    /// A person has to do something at the vendor: a certificate, consent.
    UserAction,
    /// The refresh token, code or password is dead. Falls back to the login, if there is one.
    GrantRejected,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::RateLimited => "rate_limited",
            Self::Unknown => "unknown",
            Self::SecretExpired => "secret_expired",
            Self::ClientRejected => "client_rejected",
            Self::Config => "config",
            Self::UserAction => "user_action",
            Self::GrantRejected => "grant_rejected",
        }
    }

    /// Is it worth trying again soon, without anything having changed?
    pub fn passes(self) -> bool {
        matches!(self, Self::Transient | Self::RateLimited | Self::Unknown)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of the request, whatever the class: it decides how often a password or refresh token may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It never left.
    NotSent,
    /// It left, and its answer did not come back whole: the server may have acted on it.
    Lost,
    /// The server did not look at it: 5xx, too many requests.
    NotJudged,
    /// An answer that is none: a web page, a redirect. A login form may be behind it.
    Unclear,
    /// The server looked at it and said no.
    Refused,
}

/// A failed exchange, in words for the operator. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TokenError {
    pub class: Class,
    /// What happened; our words.
    pub problem: String,
    /// What to do about it; our words.
    pub fix: String,
    /// The vendor's own message: control characters out, secrets masked, at most 200 characters.
    pub vendor: Option<String>,
    /// What the server asked for, not yet held to any bound.
    pub retry_after: Option<Duration>,
    pub outcome: Outcome,
}

impl TokenError {
    pub fn new(class: Class, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        let outcome = Outcome::NotSent;
        Self { class, problem: problem.into(), fix: fix.into(), vendor: None, retry_after: None, outcome }
    }

    /// The same of a request that had this outcome.
    pub fn of(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.class, self.problem, self.fix)?;
        match &self.vendor {
            Some(vendor) => write!(f, ". The server says: {vendor}"),
            None => Ok(()),
        }
    }
}
