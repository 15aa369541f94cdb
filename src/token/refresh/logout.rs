//! The end of a login: nothing of the token is used from then on, and the vendor is told. What could not be told is kept, and
//! told again later, by whichever task the token has then.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tracing::{info, warn};

use super::{LOOK_AGAIN, LOOK_EVERY, Refresher, busy, own_task};
use crate::oauth::file::Grant;
use crate::oauth::{Class, Outcome, TokenError};
use crate::secret::Secret;
use crate::token::kept::{KeptRefresh, KeptRevocation, next_epoch};
use crate::token::source::Exchange;

/// Tokens that wait to be ended; the oldest goes first.
pub(super) const QUEUE_MAX: usize = 16;
/// From a second, doubling to an hour: four days in all.
const TRIES_MAX: u32 = 100;
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// What became of the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoggedOut {
    /// Those that the vendor ended.
    pub revoked: usize,
    /// Those that it did not know any more.
    pub refused: usize,
    /// Those of which it will be told later.
    pub queued: usize,
}

/// A token that the vendor is to end.
pub(super) struct Revocation {
    token: Secret,
    /// Else it is an access token.
    refresh: bool,
    tries: u32,
    /// Since boot.
    next: Duration,
}

impl From<KeptRevocation> for Revocation {
    fn from(kept: KeptRevocation) -> Self {
        Self { token: kept.token.secret(), refresh: kept.refresh, tries: kept.tries, next: Duration::ZERO }
    }
}

impl Revocation {
    /// As known here, unless another has tried it since.
    pub(super) fn go_on(&mut self, known: &[Self], boot: Duration, rng: &mut Rng) {
        match known.iter().find(|known| known.is(self) && known.tries == self.tries) {
            Some(known) => self.next = known.next,
            None => self.put_off(boot, rng),
        }
    }

    /// Is it about the same token?
    pub(super) fn is(&self, other: &Self) -> bool {
        self.token == other.token
    }

    /// Until it is tried again: not at all before the first time.
    pub(super) fn put_off(&mut self, boot: Duration, rng: &mut Rng) {
        let Some(doublings) = self.tries.checked_sub(1) else { return };
        let most = Duration::from_secs(1 << doublings.min(12)).min(DELAY_MAX);
        self.next = boot + most.mul_f64(0.5 + 0.5 * rng.f64());
    }
}

impl From<&Revocation> for KeptRevocation {
    fn from(of: &Revocation) -> Self {
        Self { token: KeptRefresh::new(&of.token, None), refresh: of.refresh, tries: of.tries }
    }
}

impl<E: Exchange> Refresher<E> {
    /// Gives up the refresh token and the access token, and has the vendor end them, in this order.
    pub async fn logout(&mut self) -> Result<LoggedOut, TokenError> {
        // Another replica must not be at work with what is given up here.
        self.begin_now().await?;
        let done = self.give_up().await;
        self.release().await;
        // Another has saved something newer meanwhile: that goes on.
        if self.given_up { Ok(done) } else { Err(busy()) }
    }

    async fn give_up(&mut self) -> LoggedOut {
        let exchange = Arc::clone(&self.exchange);
        let seed = own_task(Outcome::NotSent, async move { exchange.seed().await }).await.ok().flatten();
        let refresh = self.schedule.logged_out(seed.as_ref()).map(|token| (token, true));
        let access = self.access.take().map(|access| (access.secret(), false));
        for (token, refresh) in refresh.into_iter().chain(access) {
            if self.revocations.len() >= QUEUE_MAX {
                self.revocations.remove(0);
            }
            self.revocations.push(Revocation { token, refresh, tries: 0, next: Duration::ZERO });
        }
        let error = logged_out(self.task.policy.grant, &self.task.name);
        info!(token = self.task.name, "logged out");
        (self.snapshot.token, self.given_up) = (None, true);
        self.epoch = next_epoch(self.epoch, self.task.clock.now().wall);
        self.cleared = self.epoch;
        self.show(Some(Arc::new(error.clone())));
        // Durable before it is tried: a crash in between does not leave a token alive.
        self.save(Some(&error)).await;
        self.revoke_due().await
    }

    /// Tells the vendor again, when it is time; how long to wait at most.
    pub(super) async fn revoke_again(&mut self) -> Duration {
        let boot = self.task.clock.now().boot;
        if self.revocations.iter().any(|one| one.next <= boot) {
            if self.begin_step().await.is_err() {
                // One of the others is at it.
                return LOOK_EVERY;
            }
            self.revoke_due().await;
            self.release().await;
        }
        let boot = self.task.clock.now().boot;
        self.revocations.iter().map(|one| one.next.saturating_sub(boot)).min().unwrap_or(LOOK_AGAIN)
    }

    async fn revoke_due(&mut self) -> LoggedOut {
        let (mut told, boot) = (LoggedOut::default(), self.task.clock.now().boot);
        let (due, mut later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.revocations).into_iter().partition(|one| one.next <= boot);
        for mut one in due {
            // Some vendors give the same token again: then it is in use.
            let access = self.access.as_ref().is_some_and(|access| access.secret() == one.token);
            if access || self.schedule.refresh_token() == Some(&one.token) {
                continue;
            }
            let (exchange, token, refresh) = (Arc::clone(&self.exchange), one.token.clone(), one.refresh);
            let done = own_task(Outcome::Lost, async move { Ok(exchange.revoke(&token, refresh).await) }).await;
            let (name, fingerprint) = (&self.task.name, one.token.fingerprint());
            let error = match done.unwrap_or_else(|error| Some(Err(error))) {
                None => continue,
                Some(Ok(())) => {
                    info!(token = name, %fingerprint, refresh, "revoked");
                    told.revoked += 1;
                    continue;
                }
                Some(Err(error)) => error,
            };
            one.tries += 1;
            // It looked at it, and does not have it.
            let unknown = matches!(error.class, Class::GrantRejected | Class::Unknown);
            if (error.outcome == Outcome::Refused && unknown) || one.tries >= TRIES_MAX {
                warn!(token = name, %fingerprint, refresh, %error, "not revoked, and not tried again");
                told.refused += 1;
                continue;
            }
            one.put_off(self.task.clock.now().boot, &mut self.task.rng);
            warn!(token = name, %fingerprint, refresh, tries = one.tries, %error, "not revoked yet");
            told.queued += 1;
            later.push(one);
        }
        self.revocations = later;
        let error = self.snapshot.error.clone();
        self.save(error.as_deref()).await;
        told
    }
}

fn logged_out(grant: Grant, name: &str) -> TokenError {
    let fix = match grant {
        Grant::AuthorizationCode => format!("log in: tokenbroker login {name}"),
        Grant::RefreshToken => "set another refresh_token".to_owned(),
        _ => format!("POST /api/tokens/{name}/refresh obtains it again"),
    };
    TokenError::new(Class::GrantRejected, "a person logged it out", fix)
}
