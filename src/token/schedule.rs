//! When the next exchange starts, which one it is, and what its outcome means for the one after. Pure: every method takes
//! `now`, chance comes from a seeded generator.

use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;

use super::cache::Wishes;
use super::{Token, backoff};
use crate::clock::{Moment, Now};
use crate::oauth::file::{Grant, Op};
use crate::oauth::response::Answer;
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;

/// No two exchanges start closer together, whatever lifetimes a server claims.
const SPACING: Duration = Duration::from_secs(1);
/// After a refusal that a person has to mend.
const REJECTED_RETRY: Duration = Duration::from_secs(600);
/// A refused password or refresh token is sent at most this often.
const REFUSALS_MAX: u8 = 2;
/// Refused values that are remembered.
const REFUSED_MAX: usize = 64;
/// Refreshes that refused tokens may cause in a window.
const SUSPECTS: usize = 2;
const SUSPECT_WINDOW: Duration = Duration::from_secs(60);
/// The refresh starts this much earlier or later, as a fraction of the lifetime.
const JITTER: f64 = 0.05;

/// What does not change: how a token is configured.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub grant: Grant,
    /// Can a refresh token be used?
    pub renews: bool,
    pub refresh_at: f64,
    /// For answers that do not tell; `None`: such a token does not expire.
    pub default_lifetime: Option<Duration>,
    pub eager: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Exchange,
    /// Nothing for so long, unless woken.
    Wait(Duration),
}

/// What follows on a failed exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Another one, at once.
    Now(Op),
    Later,
}

struct RefreshToken {
    secret: Secret,
    expires: Option<Moment>,
}

/// The state of one token's refreshing.
pub struct Schedule {
    policy: Policy,
    due: Option<Moment>,
    refresh_token: Option<RefreshToken>,
    /// The configured refresh token that was taken over last.
    seed: Option<[u8; 32]>,
    failures: u32,
    not_before: Option<Duration>,
    started: Option<Duration>,
    suspects: [Option<Duration>; SUSPECTS],
    /// How often a password or refresh token was refused, by digest; the oldest goes first.
    refused: Vec<([u8; 32], u8)>,
    /// A lost answer was followed up already.
    repeated: bool,
}

impl Schedule {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            due: None,
            refresh_token: None,
            seed: None,
            failures: 0,
            not_before: None,
            started: None,
            suspects: [None; SUSPECTS],
            refused: Vec::new(),
            repeated: false,
        }
    }

    /// Is it time? `token` is the one in use.
    pub fn next(&mut self, now: Now, token: Option<&Token>, wishes: Wishes) -> Next {
        if wishes.forced {
            self.pardon();
            return Next::Exchange;
        }
        let spaced = self.started.map(|started| started + SPACING);
        let earliest = self.not_before.max(spaced).filter(|start| *start > now.boot);
        let usable = token.is_some_and(|token| token.usable(now));
        let due = match token {
            None => self.policy.eager || wishes.wanted || self.failures > 0,
            Some(_) => !usable || self.due.is_some_and(|due| due.reached(now)),
        };
        let wait = match (earliest, token) {
            (Some(start), _) => start - now.boot,
            (None, _) if due || (wishes.suspect && self.may_suspect(now)) => return Next::Exchange,
            (None, Some(token)) => {
                let left = |moment: Option<Moment>| moment.map_or(Duration::MAX, |moment| moment.left(now));
                left(self.due).min(left(token.expires))
            }
            (None, None) => Duration::MAX,
        };
        Next::Wait(wait)
    }

    /// Counts a refused token against the window; false if the window is full.
    fn may_suspect(&mut self, now: Now) -> bool {
        let free = |at: &Option<Duration>| at.is_none_or(|at| now.boot.saturating_sub(at) >= SUSPECT_WINDOW);
        match self.suspects.iter().position(free) {
            Some(index) => {
                self.suspects[index] = Some(now.boot);
                true
            }
            None => false,
        }
    }

    /// Since boot; `None` when a refused token may cause a refresh now.
    pub fn suspects_from(&self, now: Now) -> Option<Duration> {
        let earliest = self.suspects.iter().copied().min().flatten()? + SUSPECT_WINDOW;
        (earliest > now.boot && self.suspects.iter().all(Option::is_some)).then_some(earliest)
    }

    /// A file that holds a secret changed: what was held back may be tried again. What was refused stays remembered.
    pub fn files_changed(&mut self) {
        self.not_before = None;
        if self.policy.grant == Grant::Static {
            self.due = Some(Moment { wall: Timestamp::MIN, boot: Duration::ZERO });
        }
    }

    /// A person asked: even what was refused is tried again, and a dead refresh token gives way to the configured one.
    fn pardon(&mut self) {
        self.not_before = None;
        self.refused.clear();
        if self.refresh_token.is_none() {
            self.seed = None;
        }
    }

    /// The exchange to start with, and its refresh token, given the configured one.
    pub fn start(&mut self, now: Now, configured: Option<&Secret>) -> Op {
        self.started = Some(now.boot);
        let seed = configured.map(Secret::digest);
        if let (Some(configured), true) = (configured, seed != self.seed) {
            self.refresh_token = Some(RefreshToken { secret: configured.clone(), expires: None });
            self.seed = seed;
        }
        let alive = self.refresh_token.as_ref().is_some_and(|token| token.expires.is_none_or(|e| !e.reached(now)));
        if self.policy.grant == Grant::RefreshToken || (self.policy.renews && alive) { Op::Renew } else { Op::Acquire }
    }

    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref().map(|token| &token.secret)
    }

    pub fn refresh_expires_at(&self) -> Option<Timestamp> {
        Some(self.refresh_token.as_ref()?.expires?.wall)
    }

    pub fn due_at(&self) -> Option<Timestamp> {
        Some(self.due?.wall)
    }

    pub fn not_before(&self) -> Option<Duration> {
        self.not_before
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// May a password or refresh token with this digest be sent?
    pub fn may_send(&self, digest: &[u8; 32]) -> bool {
        !self.refused.iter().any(|(refused, times)| refused == digest && *times >= REFUSALS_MAX)
    }

    /// The lifetime that an answer gives its access token.
    pub fn lifetime(&self, answer: &Answer) -> Option<Duration> {
        answer.lifetime.or(self.policy.default_lifetime)
    }

    /// Takes note of a success; `same` if the server gave the token that was there already.
    pub fn succeeded(&mut self, answer: &Answer, sent: Now, now: Now, same: bool, rng: &mut Rng) {
        if let Some(secret) = &answer.refresh_token
            && (self.policy.renews || self.policy.grant == Grant::RefreshToken)
        {
            let expires = answer.refresh_lifetime.map(|lifetime| Moment::after(sent, lifetime));
            self.refresh_token = Some(RefreshToken { secret: secret.clone(), expires });
        }
        self.failures = 0;
        self.not_before = None;
        self.due = self.lifetime(answer).map(|lifetime| {
            let fraction = self.policy.refresh_at + JITTER * (2.0 * rng.f64() - 1.0);
            let due = Moment::after(sent, lifetime.mul_f64(fraction.clamp(0.0, 1.0)));
            if same { Moment::after(now, (Moment::after(sent, lifetime).left(now) / 2).max(10 * SPACING)) } else { due }
        });
    }

    /// Takes note of a failure of `op` with a credential of this digest.
    pub fn failed(&mut self, op: Op, digest: [u8; 32], error: &TokenError, now: Now, rng: &mut Rng) -> Then {
        let class = error.class;
        if op == Op::Renew && error.lost && !self.repeated {
            self.repeated = true;
            return Then::Now(Op::Renew);
        }
        let login = op == Op::Acquire && self.policy.grant == Grant::Password;
        if class == Class::GrantRejected || (login && class == Class::ClientRejected) {
            self.remember(digest);
        }
        if op == Op::Renew && class == Class::GrantRejected {
            self.refresh_token = None;
            if self.policy.grant != Grant::RefreshToken {
                return Then::Now(Op::Acquire);
            }
        }
        self.failures = self.failures.saturating_add(1);
        let delay = match class {
            Class::GrantRejected => Duration::MAX,
            Class::ClientRejected if login && !self.may_send(&digest) => Duration::MAX,
            // An answer nobody understood may be a refused password; asking each minute could lock the account.
            Class::Unknown if login => REJECTED_RETRY,
            class if class.passes() => backoff::delay(self.failures, error.retry_after, rng),
            _ => REJECTED_RETRY,
        };
        self.not_before = Some(now.boot.saturating_add(delay));
        Then::Later
    }

    fn remember(&mut self, digest: [u8; 32]) {
        if let Some((_, times)) = self.refused.iter_mut().find(|(refused, _)| *refused == digest) {
            *times = times.saturating_add(1);
            return;
        }
        if self.refused.len() >= REFUSED_MAX {
            self.refused.remove(0);
        }
        self.refused.push((digest, 1));
    }
}
