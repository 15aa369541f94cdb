//! What the application sees when the broker cannot serve: the one place where the data path makes error answers.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use http::StatusCode;

use crate::connect::{self, ConnectError, Endpoint};
use crate::problem::Problem;
use crate::token::cache::{State, Unavailable};

/// Why a request was not answered by the API. The texts are for the log; the application gets [`Self::problem`].
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Refused before anything reached the API.
    #[error("{}: {}", .0.code, .0.detail)]
    Refused(Problem),
    #[error("no usable token: {}", .0.state.as_str())]
    Token(Unavailable),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Tls(String),
    #[error("an idle connection had been closed: {0}")]
    Stale(String),
    #[error("{0}")]
    Protocol(String),
    #[error("{0}")]
    Timeout(String),
    /// The client's own request body broke off.
    #[error("the request body broke off: {0}")]
    Client(String),
    #[error("the client is gone")]
    Gone,
    /// A second try without a body that can be sent again.
    #[error("the request's body is not at hand any more")]
    Unheld,
}

impl From<Problem> for ProxyError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl ProxyError {
    /// Classifies what broke an exchange with the API.
    pub fn of_exchange(error: &io::Error, with: &Endpoint, reused: bool) -> Self {
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the API ended the connection before its answer was whole".to_owned(),
            _ => format!("the connection to the API: {}", connect::chain(error)),
        };
        if let Some(tls) = connect::tls_error(error) {
            let (what, fix) = with.explain(tls);
            return Self::Tls(format!("no TLS with {}: {what}; {fix}", with.host));
        }
        let cut = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
        );
        if reused && cut { Self::Stale(text) } else { Self::Protocol(text) }
    }

    /// The answer for the application.
    pub fn problem(&self) -> Problem {
        let bad_gateway = |code, proxy_status, detail: &str| Problem {
            proxy_status,
            ..Problem::new(StatusCode::BAD_GATEWAY, code, detail)
        };
        let timeout = |proxy_status, detail: &str| Problem {
            proxy_status,
            ..Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", detail)
        };
        match self {
            Self::Refused(problem) => problem.clone(),
            Self::Token(unavailable) => no_token(*unavailable),
            Self::Connect(ConnectError::Dns { .. }) => {
                bad_gateway("upstream_unreachable", "dns_error", "the API's name could not be resolved")
            }
            Self::Connect(ConnectError::Tcp { .. }) => {
                bad_gateway("upstream_unreachable", "connection_refused", "the API could not be reached")
            }
            Self::Connect(ConnectError::Timeout { .. }) => {
                timeout("connection_timeout", "no connection to the API in time")
            }
            Self::Connect(ConnectError::Tls { .. }) | Self::Tls(_) => {
                bad_gateway("upstream_tls", "tls_protocol_error", "no TLS connection to the API: see the broker's log")
            }
            Self::Stale(_) | Self::Protocol(_) => bad_gateway(
                "upstream_protocol",
                "http_protocol_error",
                "the API's answer was not valid HTTP, or broke off",
            ),
            Self::Timeout(_) => timeout("http_response_timeout", "the API sent no answer in time"),
            Self::Client(_) | Self::Gone | Self::Unheld => Problem {
                proxy_status: "http_request_error",
                close: true,
                ..Problem::new(
                    StatusCode::BAD_REQUEST,
                    "bad_request",
                    "the request's body broke off, or its chunks are broken",
                )
            },
        }
    }
}

fn no_token(unavailable: Unavailable) -> Problem {
    let (code, detail) = match unavailable.state {
        State::Rejected => (
            "credentials_rejected",
            "the token server refuses the broker, or its configuration is wrong: see the broker's status",
        ),
        State::NeedsLogin => ("login_required", "a person has to log in again: see the broker's status"),
        State::Pending | State::Valid | State::Degraded | State::Expired => {
            ("token_unavailable", "there is no usable access token right now: see the broker's status")
        }
    };
    Problem {
        retry_after: Some(unavailable.retry_after),
        proxy_status: "proxy_internal_response",
        ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }
}

/// What the broker last could not do for a route. A log tells when it begins, changes and ends, not once a request.
#[derive(Default)]
pub struct Trouble {
    any: AtomicBool,
    code: Mutex<&'static str>,
}

impl Trouble {
    /// Is it another than the last?
    pub fn begins(&self, code: &'static str) -> bool {
        let mut last = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(true, Ordering::Relaxed);
        std::mem::replace(&mut *last, code) != code
    }

    /// The API answered: was there any?
    pub fn ends(&self) -> bool {
        // The hot path: a load that is shared by all workers.
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut last = self.code.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Relaxed);
        !std::mem::take(&mut *last).is_empty()
    }
}
