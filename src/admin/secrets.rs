//! `/api/secrets/NAME/…`: client secrets at the vendor.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::body::Unread;
use super::{Admin, Answer, body, json as answer};
use crate::problem::Problem;
use crate::token::secrets::{Asked, Verb};

/// What is asked for waits for an exchange in flight, and for the vendor.
const WAIT: Duration = Duration::from_secs(300);

/// What can be asked for: `None` is how a rotation stands.
pub(super) fn verb(name: &str) -> Option<Option<Verb>> {
    if name == "progress" { Some(None) } else { Verb::parse(name).map(Some) }
}

impl Admin {
    pub(super) async fn secrets(&self, name: &str, verb: Option<Verb>, body: Unread<'_>) -> Result<Answer, Problem> {
        let token = self.token(name)?;
        let Some(verb) = verb else { return Ok(answer(StatusCode::OK, &json!(*token.secrets.progress()))) };
        if token.config.client_secrets.is_empty() {
            return Err(Problem::new(StatusCode::CONFLICT, "secrets_refused", "this token has no client secret"));
        }
        let asked: Asked = body::read(body).await?;
        let not_now = |detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
        let reply = token.secrets.ask(verb, asked).map_err(not_now)?;
        let late = || not_now("it was not done within 5 minutes: see how it stands later");
        let done = tokio::time::timeout(WAIT, reply).await.map_err(|_| late())?.map_err(|_| late())?;
        let failed = |detail| Problem::new(StatusCode::BAD_GATEWAY, "secrets_failed", detail);
        Ok(answer(StatusCode::OK, &done.map_err(failed)?))
    }
}
