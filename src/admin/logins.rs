//! What a person does with a token: logs in, out, and takes it.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::api::token_status;
use super::body::Unread;
use super::{Admin, Answer, Order, TokenView, body, json as answer, nothing_here};
use crate::clock::rfc3339;
use crate::oauth::TokenError;
use crate::oauth::file::Grant;
use crate::problem::Problem;
use crate::secret::Secret;
use crate::token::absence::token_or_why;
use crate::token::cache::{State, Unavailable};
use crate::token::refresh::{Code, LoggedOut};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginBody {
    code: String,
    redirect_uri: String,
    code_verifier: Option<String>,
}

impl Admin {
    /// The token of that name.
    pub(super) fn token(&self, name: &str) -> Result<TokenView, Problem> {
        let shown = self.shown.load();
        shown.tokens.iter().find(|token| token.config.name == name).cloned().ok_or_else(nothing_here)
    }

    /// Has the code of a login exchanged.
    pub(super) async fn login(&self, name: &str, body: Unread<'_>) -> Result<Answer, Problem> {
        let token = self.token(name)?;
        if token.config.grant != Grant::AuthorizationCode {
            let detail = format!("the grant {} needs no login", token.config.grant.as_str());
            return Err(Problem::new(StatusCode::CONFLICT, "login_refused", detail));
        }
        let LoginBody { code, redirect_uri, code_verifier } = body::read(body).await?;
        let code = Code { code: Secret::new(code), redirect_uri, code_verifier: code_verifier.map(Secret::new) };
        let done = self.order(|reply| Order::Login(name.to_owned(), code, reply)).await?.ok_or_else(nothing_here)?;
        done.map_err(|error| Problem::new(StatusCode::BAD_GATEWAY, "login_failed", error.to_string()))?;
        Ok(answer(StatusCode::OK, &token_status(&token, (self.now)())))
    }

    /// Gives up what there is of a token, at once, and has the vendor end it.
    pub(super) async fn logout(&self, name: &str) -> Result<Answer, Problem> {
        if self.token(name)?.config.grant == Grant::Static {
            let detail = "this token was made by hand: end it where it was made";
            return Err(Problem::new(StatusCode::CONFLICT, "logout_refused", detail));
        }
        let done = self.order(|reply| Order::Logout(name.to_owned(), reply)).await?.ok_or_else(nothing_here)?;
        let failed = |error: TokenError| Problem::new(StatusCode::BAD_GATEWAY, "logout_failed", error.to_string());
        let LoggedOut { revoked, refused, queued } = done.map_err(failed)?;
        Ok(answer(StatusCode::OK, &json!({ "revoked": revoked, "refused": refused, "queued": queued })))
    }

    /// The token itself, after one exchange if there is none: the one answer that holds it.
    pub(super) async fn access_token(&self, name: &str) -> Result<Answer, Problem> {
        let token = self.token(name)?;
        let found = token_or_why(&token.slot, token.config.limit, token.config.row_max()).await.map_err(|none| {
            let Unavailable { state, retry_after } = none.unavailable;
            let retry_after = Some(retry_after);
            Problem { retry_after, ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, code(state), none.why) }
        })?;
        let expires_at = found.expires.map(|expires| rfc3339(expires.wall));
        // Security: the admin key was shown, and the answer is not to be stored.
        Ok(answer(StatusCode::OK, &json!({ "access_token": found.secret().expose(), "expires_at": expires_at })))
    }
}

/// As an application is told.
fn code(state: State) -> &'static str {
    match state {
        State::NeedsLogin => "login_required",
        State::Rejected => "credentials_rejected",
        _ => "token_unavailable",
    }
}
