//! `/api/login/NAME`: what a person's login brings.

use http::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;

use super::api::token_status;
use super::{Admin, Answer, Order, TokenView, body, json, nothing_here};
use crate::oauth::file::Grant;
use crate::problem::Problem;
use crate::secret::Secret;
use crate::token::refresh::Code;

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
    pub(super) async fn login(&self, name: &str, body: Incoming) -> Result<Answer, Problem> {
        let token = self.token(name)?;
        if token.config.grant != Grant::AuthorizationCode {
            let detail = format!("nobody logs in for the grant {}", token.config.grant.as_str());
            return Err(Problem::new(StatusCode::CONFLICT, "login_refused", detail));
        }
        let LoginBody { code, redirect_uri, code_verifier } = body::read(body).await?;
        let code = Code { code: Secret::new(code), redirect_uri, code_verifier: code_verifier.map(Secret::new) };
        let done = self.order(|reply| Order::Login(name.to_owned(), code, reply)).await?.ok_or_else(nothing_here)?;
        done.map_err(|error| Problem::new(StatusCode::BAD_GATEWAY, "login_failed", error.to_string()))?;
        Ok(json(StatusCode::OK, &token_status(&token, (self.now)())))
    }
}
