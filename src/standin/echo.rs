//! An API that demands a token and tells what reached it.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::http::{Call, Dropped, Handler, Payload};
use super::issuer::Issuer;
use crate::secret::Secret;

/// The API. Its answer shows only a fingerprint of the credential; tests see everything in [`Echo::seen`].
pub struct Echo {
    issuer: Arc<Issuer>,
    seen: Mutex<Vec<Seen>>,
}

/// A request that arrived, whatever became of it.
pub type Seen = Call;

impl Echo {
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self { issuer, seen: Mutex::default() }
    }

    /// The requests so far, at most the last thousand.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The scheme, and the first digits of the SHA-256 of what follows.
fn fingerprint(credential: &str) -> String {
    let (scheme, value) = credential.split_once(' ').unwrap_or(("", credential));
    format!("{scheme} {}", Secret::new(value.to_owned()).fingerprint()).trim_start().to_owned()
}

impl Handler for Echo {
    async fn handle(&self, call: Call) -> Result<Response<Payload>, Dropped> {
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() >= 1000 {
                seen.remove(0);
            }
            seen.push(call.clone());
        }
        let credential = call.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = credential.and_then(|value| value.strip_prefix("Bearer "));
        let good = token.is_some_and(|token| self.issuer.is_good(token));
        let headers: serde_json::Map<_, _> = call
            .headers
            .iter()
            .map(|(name, value)| {
                let text = value.to_str().unwrap_or("(not text)");
                let shown = if *name == AUTHORIZATION { fingerprint(text) } else { text.to_owned() };
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
        let mut answer = Response::new(Payload::from(format!("{body:#}\n")));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !good {
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
        }
        Ok(answer)
    }
}
