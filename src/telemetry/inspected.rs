//! What may be shown of the last exchanges: no body, and nothing that could be a secret.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;

use super::metrics::Origin;
use super::ring::Ring;

/// The last exchanges.
pub type Exchanges = Ring<Inspected>;

/// So many are kept; each has at most 18 KiB.
pub const EXCHANGES_MAX: usize = 100;

/// An exchange.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub at: Timestamp,
    pub route: Option<String>,
    /// Where the client connected: an address or `unix:/path`.
    pub listen: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    pub method: String,
    /// As the client sent it, values masked.
    pub target: String,
    /// `None`: the client went before there was an answer.
    pub answer: Option<(StatusCode, Origin)>,
    /// To the head of the answer.
    pub took: Duration,
    /// Times that it was sent again.
    pub retries: u32,
    /// Has the request a body?
    pub has_body: bool,
    /// As the client sent them; those of a trace are the broker's where it exports spans.
    pub request: Vec<Shown>,
    /// The names of those that the broker added.
    pub added: Vec<String>,
    /// As they came, from the API or from the broker.
    pub response: Vec<Shown>,
}

/// A field, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub value: String,
    /// Is something of the value not shown?
    pub masked: bool,
}
