//! What the outcome of an exchange means for the next one.

use std::time::Duration;

use fastrand::Rng;

use super::{Hold, JITTER, Lives, REJECTED_RETRY, SPACING, Schedule, Then, UNCLEAR_RETRY, UNCLEAR_SOON};
use crate::clock::{Moment, Now};
use crate::oauth::file::{Grant, Op};
use crate::oauth::rules::SameToken;
use crate::oauth::{Class, Outcome, TokenError};
use crate::token::backoff;
use crate::token::refusals::Credential;

impl Schedule {
    /// The lifetime of an access token, given what its answer tells.
    pub fn lifetime(&self, told: Option<Duration>) -> Option<Duration> {
        told.or(self.policy.default_lifetime)
    }

    /// Takes note of a success; `same` if the server gave the token that was there already.
    pub fn succeeded(&mut self, by: &Credential, lives: Lives, sent: Now, now: Now, same: bool, rng: &mut Rng) {
        self.refusals.forget(by);
        (self.failures, self.unclear, self.hold, self.pardoned) = (0, 0, None, false);
        let fraction = (self.policy.refresh_at + JITTER * (2.0 * rng.f64() - 1.0)).clamp(0.0, 1.0);
        self.refused_secrets[self.secret] = None;
        let renews = self.refresh_token.is_some() && (self.policy.renews || self.policy.only_renews());
        // After a login that was for once, there is nothing to come.
        let last = self.policy.only_renews() && self.refresh_token.is_none();
        self.due = lives.access.filter(|_| !last).and_then(|access| {
            let mut due = access.mul_f64(fraction);
            if let Some(refresh) = lives.refresh {
                due = due.min(refresh.mul_f64(fraction).max(10 * SPACING));
            }
            match self.policy.same_token {
                // Before its end, there is no other token to be had.
                SameToken::UntilExpiry if !renews => return None,
                SameToken::UntilRemaining(left) if !renews => due = due.max(access.saturating_sub(left)),
                _ => {}
            }
            Some(if same {
                Moment::after(now, (Moment::after(sent, access).left(now) / 2).max(10 * SPACING))
            } else {
                Moment::after(sent, due)
            })
        });
    }

    /// Takes note of a failure of `op` with this credential.
    pub fn failed(&mut self, op: Op, by: Credential, error: &TokenError, now: Now, rng: &mut Rng) -> Then {
        if op == Op::Renew && error.outcome == Outcome::Lost && !self.repeated {
            self.repeated = true;
            return Then::Now(Op::Renew);
        }
        let login = op == Op::Acquire && self.policy.grant == Grant::Password;
        let refused = login && error.outcome == Outcome::Refused;
        // What is wrong with the rest of the request says nothing of the password.
        let elsewhere = matches!(error.class, Class::Config | Class::UserAction | Class::SecretExpired);
        if refused && !elsewhere {
            self.refusals.note(by, error, error.class == Class::GrantRejected);
        }
        if self.other_secret(by, error) {
            return Then::Now(op);
        }
        if op == Op::Renew
            && self.renewal_is_dead(by, error)
            && let Some(instead) = self.instead()
        {
            return Then::Now(instead);
        }
        (self.failures, self.pardoned) = (self.failures.saturating_add(1), false);
        let unclear = login && error.outcome == Outcome::Unclear;
        // A server that is slow to say no may have counted it.
        let lost = login && error.outcome == Outcome::Lost;
        self.unclear = self.unclear.saturating_add((unclear || lost).into());
        let barred = self.barred(&by).is_some();
        let delay = match error.class {
            _ if barred || error.class == Class::GrantRejected => {
                // Nothing is sent then but what has changed.
                if self.policy.rereads && barred { REJECTED_RETRY } else { Duration::MAX }
            }
            _ if refused || (lost && self.unclear >= UNCLEAR_SOON) => REJECTED_RETRY,
            // What was said once of a refresh token, in words that nobody knows, may be a mistake of ten minutes.
            Class::Unknown if op == Op::Renew && error.outcome == Outcome::Refused => REJECTED_RETRY,
            _ if unclear && self.unclear > UNCLEAR_SOON => UNCLEAR_RETRY,
            _ if unclear => REJECTED_RETRY,
            class if class.passes() => backoff::delay(self.failures, error.retry_after, rng),
            _ => REJECTED_RETRY,
        };
        let asked = error.outcome == Outcome::Refused || error.outcome == Outcome::Unclear;
        let mendable = barred || !error.class.passes() || (asked && error.retry_after.is_none());
        self.hold = Some(Hold { until: now.boot.saturating_add(delay), mendable, barred });
        Then::Later
    }

    /// Outside of the rows of exchanges, the password or refresh token was refused. False if that was known.
    pub fn refused(&mut self, by: Credential, error: &TokenError) -> bool {
        let news = error.outcome == Outcome::Refused && self.barred(&by).is_none();
        if news {
            self.refusals.note(by, error, true);
        }
        news
    }

    /// Where there are two client secrets, and the one in use is refused, the other is, at once, and once in a row.
    fn other_secret(&mut self, by: Credential, error: &TokenError) -> bool {
        let secret = matches!(error.class, Class::SecretExpired | Class::ClientRejected);
        if !secret || error.outcome != Outcome::Refused {
            return false;
        }
        self.refused_secrets[self.secret] = Some(error.class);
        let other = self.rotated.unwrap_or(self.policy.secrets) > 1 && !self.other_tried && self.barred(&by).is_none();
        if other {
            (self.secret, self.other_tried) = (1 - self.secret, true);
        }
        other
    }
}
