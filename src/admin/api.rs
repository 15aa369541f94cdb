//! `/api/…`: status as JSON, and the refresh that an operator asks for.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Admin, Answer, RouteView, TokenView, nothing_here};
use crate::clock::{Now, rfc3339};
use crate::problem::Problem;

/// The token that a POST to this path is about: `/api/tokens/NAME/refresh`.
pub(super) fn post(path: &str) -> Option<&str> {
    path.strip_prefix("/api/tokens/")?.strip_suffix("/refresh").filter(|name| !name.is_empty() && !name.contains('/'))
}

impl Admin {
    pub(super) fn status(&self) -> Value {
        let now = (self.now)();
        let tokens: Map<_, _> =
            self.tokens.iter().map(|token| (token.config.name.clone(), token_status(token, now))).collect();
        let routes: Map<_, _> = self.routes.iter().map(|route| (route.name.clone(), route_status(route))).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": rfc3339(self.started_at),
            "config": { "loaded_at": rfc3339(self.started_at), "error": null },
            "tokens": tokens,
            "routes": routes,
        })
    }

    /// An exchange now, whatever is planned; even a refused password is tried again, because a person asked.
    pub(super) async fn refresh(&self, name: &str) -> Result<Answer, Problem> {
        let token = self.tokens.iter().find(|token| token.config.name == name).ok_or_else(nothing_here)?;
        // One in flight, a refused renewal, and the login after it.
        let wait = token.config.exchange_max() * 3 + Duration::from_secs(1);
        let snapshot = token.slot.refresh(wait).await;
        let failed = snapshot.exchanging || snapshot.error.is_some();
        let status = if failed { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        Ok(super::json(status, &token_status(token, (self.now)())))
    }
}

fn token_status(token: &TokenView, now: Now) -> Value {
    let snapshot = token.slot.snapshot();
    let current = snapshot.token.as_ref();
    let error = snapshot.error.as_ref();
    json!({
        "state": snapshot.state(now).as_str(),
        "class": error.map(|error| error.class.as_str()),
        "dialect": token.config.dialect.name,
        "fingerprint": current.map(|token| token.fingerprint.to_string()),
        "obtained_at": current.map(|token| rfc3339(token.obtained_at)),
        "expires_at": current.and_then(|token| token.expires).map(|expires| rfc3339(expires.wall)),
        "refreshes_at": snapshot.refreshes_at.map(rfc3339),
        "refresh_expires_at": snapshot.refresh_expires_at.map(rfc3339),
        "secret_expires_at": null,
        "certificate_expires_at": token.config.identity.as_ref().map(|(_, leaf)| rfc3339(leaf.not_after)),
        "last_error": error.map(std::string::ToString::to_string),
        "attempts": snapshot.attempts,
    })
}

fn route_status(route: &RouteView) -> Value {
    let (requests, errors) = route.metrics.totals();
    json!({
        "listen": route.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "upstream": route.upstream,
        "token": route.token,
        "requests": requests,
        "errors": errors,
    })
}
