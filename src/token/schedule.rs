//! When the next exchange starts, which one it is, and what its outcome means for the one after. Pure: every method takes
//! `now`, chance comes from a seeded generator.

mod keep;
mod renewal;

use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;

use super::cache::Wishes;
use super::refusals::{Credential, Refusals};
use super::{Token, backoff};
use crate::clock::{Moment, Now};
use crate::oauth::file::{Grant, Op};
use crate::oauth::{Class, Outcome, TokenError};
use crate::secret::Secret;

/// No two exchanges start closer together, whatever lifetimes a server claims.
const SPACING: Duration = Duration::from_secs(1);
/// After a refusal that a person has to mend.
const REJECTED_RETRY: Duration = Duration::from_secs(600);
/// After a few logins whose answers made no sense: a login form may be behind them.
const UNCLEAR_RETRY: Duration = Duration::from_secs(3600);
const UNCLEAR_SOON: u32 = 3;
/// After so many logins in a row that a crash cut off: each may have been refused.
const UNANSWERED_MAX: u32 = 2;
/// Refreshes that refused tokens may cause in a window.
pub(super) const SUSPECTS: usize = 2;
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
    /// Do its secrets come from commands, so that only reading them again shows that one changed?
    pub rereads: bool,
}

impl Policy {
    /// Is a refresh token all that brings another access token?
    pub(super) fn only_renews(&self) -> bool {
        matches!(self.grant, Grant::RefreshToken | Grant::AuthorizationCode)
    }
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

/// Why nothing is tried for a while.
struct Hold {
    /// Since boot.
    until: Duration,
    /// Might a changed file mend it? Otherwise it is the server that needs time.
    mendable: bool,
    /// Was what it needs refused for good?
    barred: bool,
}

/// The state of one token's refreshing.
pub struct Schedule {
    policy: Policy,
    due: Option<Moment>,
    refresh_token: Option<RefreshToken>,
    /// The configured refresh token …
    configured: Option<Secret>,
    /// … and the digest of the one that was taken over last.
    seed: Option<[u8; 32]>,
    /// What came of former ones: one that comes back must not be sent again itself.
    others: Vec<([u8; 32], RefreshToken)>,
    failures: u32,
    /// Logins since the last success whose answers made no sense.
    unclear: u32,
    /// Logins that were sent, or about to be, and whose outcome is not known.
    unanswered: u32,
    hold: Option<Hold>,
    started: Option<Duration>,
    suspects: [Option<Duration>; SUSPECTS],
    refusals: Refusals,
    /// A lost answer was followed up already: once per process, or a server that loses them all would be hammered.
    repeated: bool,
    /// A person asked: a dead refresh token may give way to the configured one.
    pardoned: bool,
}

impl Schedule {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            due: None,
            refresh_token: None,
            configured: None,
            seed: None,
            others: Vec::new(),
            failures: 0,
            unclear: 0,
            unanswered: 0,
            hold: None,
            started: None,
            suspects: [None; SUSPECTS],
            refusals: Refusals::default(),
            repeated: false,
            pardoned: false,
        }
    }

    /// Is it time? `token` is the one in use.
    pub fn next(&mut self, now: Now, token: Option<&Token>, wishes: Wishes) -> Next {
        if wishes.forced {
            (self.hold, self.pardoned) = (None, true);
            self.refusals.pardon();
        }
        let spaced = self.started.map(|started| started + SPACING);
        let earliest = self.not_before().max(spaced).filter(|start| *start > now.boot);
        let due = wishes.forced
            || match token {
                None => self.policy.eager || wishes.wanted || self.failures > 0,
                Some(token) => !token.usable(now) || self.failures > 0 || self.due.is_some_and(|due| due.reached(now)),
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
        (earliest > now.boot).then_some(earliest)
    }

    /// A file that holds a secret changed: what a person had to mend may be mended. A server that asked for time gets it, and
    /// what was refused stays remembered.
    pub fn files_changed(&mut self) {
        self.hold = self.hold.take().filter(|hold| !hold.mendable);
        if self.policy.grant == Grant::Static {
            self.due = Some(Moment { wall: Timestamp::MIN, boot: Duration::ZERO });
        }
    }

    /// The exchange to start with, given the configured refresh token.
    pub fn start(&mut self, now: Now, configured: Option<&Secret>) -> Op {
        self.started = Some(now.boot);
        self.configured = configured.cloned();
        if let Some(configured) = configured.filter(|configured| Some(configured.digest()) != self.seed) {
            self.take_over(configured);
        }
        let alive = self.refresh_token.as_ref().is_some_and(|token| {
            let over = token.expires.is_some_and(|expires| expires.reached(now));
            !over && self.barred(&Credential::refresh_token(&token.secret)).is_none()
        });
        if self.policy.only_renews() || (self.policy.renews && alive) { Op::Renew } else { Op::Acquire }
    }

    /// An exchange is about to be sent. True if that has to be durable first: whoever goes on after a crash must know of it.
    pub fn begins(&mut self, op: Op) -> bool {
        let login = op == Op::Acquire && self.policy.grant == Grant::Password;
        self.unanswered = self.unanswered.saturating_add(login.into());
        login
    }

    /// The outcome of what was sent is known, or will not be any more.
    pub fn answered(&mut self) {
        self.unanswered = 0;
    }

    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref().map(|token| &token.secret)
    }

    pub fn refresh_expires_at(&self) -> Option<Timestamp> {
        Some(self.refresh_token.as_ref()?.expires?.wall)
    }

    /// Since boot; `Duration::MAX` for never.
    pub fn not_before(&self) -> Option<Duration> {
        self.hold.as_ref().map(|hold| hold.until)
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Why a password or refresh token may not be sent any more.
    pub fn barred(&self, credential: &Credential) -> Option<&TokenError> {
        self.refusals.barred(credential)
    }

    /// The lifetime of an access token, given what its answer tells.
    pub fn lifetime(&self, told: Option<Duration>) -> Option<Duration> {
        told.or(self.policy.default_lifetime)
    }

    /// Takes note of a success; `same` if the server gave the token that was there already.
    pub fn succeeded(&mut self, by: &Credential, lives: Lives, sent: Now, now: Now, same: bool, rng: &mut Rng) {
        self.refusals.forget(by);
        (self.failures, self.unclear, self.hold, self.pardoned) = (0, 0, None, false);
        let fraction = (self.policy.refresh_at + JITTER * (2.0 * rng.f64() - 1.0)).clamp(0.0, 1.0);
        let last = self.policy.only_renews() && self.refresh_token.is_none();
        self.due = lives.access.filter(|_| !last).map(|access| {
            let mut due = access.mul_f64(fraction);
            if let Some(refresh) = lives.refresh {
                due = due.min(refresh.mul_f64(fraction).max(10 * SPACING));
            }
            if same {
                Moment::after(now, (Moment::after(sent, access).left(now) / 2).max(10 * SPACING))
            } else {
                Moment::after(sent, due)
            }
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
        if op == Op::Renew
            && self.renewal_is_dead(by, error)
            && let Some(instead) = self.instead()
        {
            return Then::Now(instead);
        }
        (self.failures, self.pardoned) = (self.failures.saturating_add(1), false);
        let unclear = login && error.outcome == Outcome::Unclear;
        self.unclear = self.unclear.saturating_add(unclear.into());
        let barred = self.barred(&by).is_some();
        let delay = match error.class {
            _ if barred || error.class == Class::GrantRejected => {
                // Nothing is sent then but what has changed.
                if self.policy.rereads && barred { REJECTED_RETRY } else { Duration::MAX }
            }
            _ if refused => REJECTED_RETRY,
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

    /// Is nothing sent any more until something changes?
    pub fn is_barred(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.barred)
    }

    pub fn due(&self) -> Option<Moment> {
        self.due
    }
}

/// What an answer gives: lifetimes of both tokens, as far as known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lives {
    pub access: Option<Duration>,
    pub refresh: Option<Duration>,
}
