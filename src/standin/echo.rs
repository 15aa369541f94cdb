//! An API that demands a token and tells what reached it.

use std::ops::Deref;
use std::sync::Arc;

use http::StatusCode;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use serde_json::{Map, json};

use super::http::Handler;
use super::issuer::Issuer;
use super::message::{Call, Reply};
use super::state::State;
use crate::secret::Secret;

/// Fields whose values nobody needs to see.
const SECRET: &[&str] = &["authorization", "comap-key", "x-auth-token"];

/// How an API of a vendor refuses a call; the issuer knows the tokens.
type Gate = dyn Fn(&Issuer, &Call) -> Result<(), Reply> + Send + Sync;

/// The API. Its answer shows only a fingerprint of the credential; tests see everything in [`State::seen`].
pub struct Echo {
    state: State,
    gate: Option<Box<Gate>>,
}

/// A request that arrived, whatever became of it.
pub type Seen = Call;

impl Deref for Echo {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl Echo {
    /// Demands `Authorization: Bearer`.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self { state: State::new(issuer), gate: None }
    }

    /// Refuses as the vendor does.
    pub fn behind(
        issuer: &Arc<Issuer>,
        gate: impl Fn(&Issuer, &Call) -> Result<(), Reply> + Send + Sync + 'static,
    ) -> Self {
        Self { gate: Some(Box::new(gate)), ..Self::new(Arc::clone(issuer)) }
    }
}

/// The scheme, and the first digits of the SHA-256 of what follows.
fn fingerprint(credential: &str) -> String {
    let (scheme, value) = credential.split_once(' ').unwrap_or(("", credential));
    format!("{scheme} {}", Secret::new(value.to_owned()).fingerprint()).trim_start().to_owned()
}

impl Handler for Echo {
    fn answer(&self, call: &Call) -> Result<Reply, Reply> {
        if let Some(gate) = &self.gate {
            gate(&self.issuer, call)?;
        }
        let credential = call.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = credential.and_then(|value| value.strip_prefix("Bearer "));
        let good = self.gate.is_some() || token.is_some_and(|token| self.issuer.is_good(token));
        let headers: Map<_, _> = call
            .headers
            .iter()
            .map(|(name, value)| {
                let text = value.to_str().unwrap_or("(not text)");
                let shown = if SECRET.contains(&name.as_str()) { fingerprint(text) } else { text.to_owned() };
                (name.to_string(), shown.into())
            })
            .collect();
        let body = json!({
            "method": call.method.as_str(),
            "target": call.uri.to_string(),
            "headers": headers,
            "body": String::from_utf8_lossy(&call.body),
            "token_accepted": good,
        });
        let body = format!("{body:#}\n");
        if good {
            return Ok(Reply::json(StatusCode::OK, body));
        }
        Err(Reply::json(StatusCode::UNAUTHORIZED, body).with(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\""))
    }
}
