//! What a person starts and a refresh task sees through: the exchange of a login's code. It runs between two tasks of the
//! token, so that it is never beside another exchange.

use tracing::warn;

use super::Refresher;
use crate::oauth::file::{Grant, Op};
use crate::oauth::inputs::Given;
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;
use crate::token::source::Exchange;

/// What a login brought back, and what proves that it is the one that was begun.
#[derive(Clone)]
pub struct Code {
    pub code: Secret,
    pub redirect_uri: String,
    /// `None` where the dialect knows no PKCE (RFC 7636).
    pub code_verifier: Option<Secret>,
}

impl Code {
    pub(super) fn values(&self) -> impl Iterator<Item = (&'static str, Given)> {
        let verifier = self.code_verifier.clone().map(|verifier| ("code_verifier", Given::Secret(verifier)));
        let code = [("code", Given::Secret(self.code.clone())), ("redirect_uri", Given::text(&*self.redirect_uri))];
        code.into_iter().chain(verifier)
    }
}

impl<E: Exchange> Refresher<E> {
    /// Exchanges the code of a login. What comes of it is durable before it serves; a failure leaves everything as it was.
    pub async fn login(&mut self, code: &Code) -> Result<(), TokenError> {
        self.begin_now().await?;
        let done = self.log_in(code).await;
        self.release().await;
        done
    }

    async fn log_in(&mut self, code: &Code) -> Result<(), TokenError> {
        if let Some(error) = self.schedule.over_budget(self.task.clock.now(), false) {
            return Err(error);
        }
        self.with = self.exchange.with();
        self.snapshot.exchanging = true;
        self.task.slot.publish(self.snapshot.clone());
        let done = self.once(Op::Exchange, Some(code), None).await.map_err(|(error, _)| error);
        match &done {
            Ok(()) => {
                if self.schedule.refresh_token().is_none() {
                    let ends = self.snapshot.token.as_ref().and_then(|token| token.expires);
                    let expires_at = ends.map(|ends| crate::clock::rfc3339(ends.wall));
                    warn!(token = self.task.name, expires_at, "access for one time: then somebody has to log in again");
                }
                self.publish(None);
            }
            Err(error) => {
                warn!(token = self.task.name, %error, "a login brought no token");
                self.snapshot.finished += 1;
                let before = self.snapshot.error.clone();
                self.show(before);
            }
        }
        done
    }

    /// A token that nobody has logged in for says so from the first, and asks nobody.
    pub(super) fn show_if_nobody_logged_in(&mut self) {
        let nothing = self.snapshot.token.is_none() && self.schedule.refresh_token().is_none();
        if self.task.policy.grant == Grant::AuthorizationCode && nothing && self.snapshot.error.is_none() {
            self.show(Some(self.nothing_to_renew().into()));
        }
    }

    /// Why a token that only a refresh token brings cannot be had.
    pub(super) fn nothing_to_renew(&self) -> TokenError {
        match self.task.policy.grant {
            Grant::AuthorizationCode => {
                let fix = format!("log in: tokenbroker login {}", self.task.name);
                TokenError::new(Class::GrantRejected, "there is no refresh token: nobody is logged in", fix)
            }
            _ if self.schedule.had_seed() => {
                TokenError::new(Class::GrantRejected, "the refresh token was logged out", "set another refresh_token")
            }
            _ => TokenError::new(Class::Config, "there is no refresh token", "set refresh_token"),
        }
    }
}
