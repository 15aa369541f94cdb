//! Which refresh token is used, and when it is of no more use.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Hold, OTHERS_MAX, RefreshToken, Schedule};
use crate::clock::{Moment, Now};
use crate::oauth::file::{Grant, Op};
use crate::oauth::response::Answer;
use crate::oauth::{Class, Outcome, TokenError};
use crate::secret::Secret;
use crate::token::refusals::Credential;

/// So many are remembered that a refresh token came after.
const REPLACED_MAX: usize = 8;
/// An end that moved by less is the same: answers count in seconds, and take a while.
const MOVED: SignedDuration = SignedDuration::from_secs(15);

impl Schedule {
    /// Puts another one in its place, or none, and remembers what it comes after.
    fn replace(&mut self, token: Option<RefreshToken>) -> Option<RefreshToken> {
        let secret = token.as_ref().map(|token| token.secret.clone());
        let former = std::mem::replace(&mut self.refresh_token, token);
        if let Some(former) = former.as_ref().filter(|former| Some(&former.secret) != secret.as_ref()) {
            self.replaced.push(former.secret.digest());
            let over = self.replaced.len().saturating_sub(REPLACED_MAX);
            self.replaced.drain(..over);
        }
        if let Some(secret) = secret {
            // One that is used again comes after the others.
            let digest = secret.digest();
            self.replaced.retain(|replaced| *replaced != digest);
        }
        former
    }

    /// Another refresh token was configured.
    pub(super) fn take_over(&mut self, configured: &Secret) {
        let digest = configured.digest();
        let known = self.others.iter().position(|(seed, _)| *seed == digest).map(|at| self.others.remove(at).1);
        let token = known.unwrap_or_else(|| RefreshToken { secret: configured.clone(), expires: None, fixed: false });
        if let (Some(seed), Some(former)) = (self.seed.replace(digest), self.replace(Some(token))) {
            self.others.push((seed, former));
            if self.others.len() > OTHERS_MAX {
                self.others.remove(0);
            }
        }
    }

    /// Keeps the refresh token of an answer, before anything else of it is judged. The one before may be dead already.
    pub fn took(&mut self, answer: &Answer, sent: Now, op: Op) {
        if op == Op::Exchange && answer.access.is_ok() {
            // Security: another person may have logged in; what is left of the one before must not come back.
            self.replace(None);
        }
        if let Some(secret) = &answer.refresh_token
            && (self.policy.renews || self.policy.grant == Grant::RefreshToken)
        {
            let expires = answer.refresh_lifetime.map(|lifetime| Moment::after(sent, lifetime));
            let before = self.refresh_token.as_ref().and_then(|token| token.expires);
            let fixed = expires
                .zip(before)
                .is_some_and(|(new, old)| new.wall < old.wall.saturating_add(MOVED).unwrap_or(old.wall));
            self.replace(Some(RefreshToken { secret: secret.clone(), expires, fixed }));
        } else if let Some(token) = &mut self.refresh_token {
            token.fixed = true;
        }
    }

    /// Is the refresh token of no more use? A refusal that does not name it counts after the second time, unless it is about
    /// the client; an answer that makes no sense counts too where a login can take its place.
    pub(super) fn renewal_is_dead(&mut self, by: Credential, error: &TokenError) -> bool {
        let client = matches!(error.class, Class::ClientRejected | Class::SecretExpired | Class::UserAction);
        // Where a login can take its place, a request that the server will never take is a reason for that.
        let client = client || (error.class == Class::Config && self.policy.only_renews());
        let unclear = error.outcome == Outcome::Unclear && !self.policy.only_renews();
        if error.class == Class::GrantRejected {
            self.refusals.note(by, error, true);
        } else if (error.outcome == Outcome::Refused || unclear) && !client {
            self.refusals.note(by, error, false);
        }
        self.barred(&by).is_some()
    }

    /// What can be done without the current refresh token: a login, or, when a person asked, the configured one.
    pub(super) fn instead(&mut self) -> Option<Op> {
        if !self.policy.only_renews() {
            return Some(Op::Acquire);
        }
        let seed = self.configured.clone().filter(|seed| self.refresh_token() != Some(seed))?;
        if !std::mem::take(&mut self.pardoned) || self.barred(&Credential::refresh_token(&seed)).is_some() {
            return None;
        }
        self.replace(Some(RefreshToken { secret: seed, expires: None, fixed: false }));
        Some(Op::Renew)
    }

    /// Gives up every refresh token, the configured one too, and sends nothing before something changes or a person asks.
    /// The one that there was.
    pub fn logged_out(&mut self, configured: Option<&Secret>) -> Option<Secret> {
        if let Some(configured) = configured.filter(|configured| Some(configured.digest()) != self.seed) {
            self.take_over(configured);
        }
        self.others.clear();
        (self.due, self.failures) = (None, 0);
        self.hold = Some(Hold { until: Duration::MAX, mendable: true, barred: true });
        self.replace(None).map(|token| token.secret)
    }

    /// Was a configured refresh token taken over once?
    pub fn had_seed(&self) -> bool {
        self.seed.is_some()
    }
}
