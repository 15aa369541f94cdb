//! When the next exchange starts, which one it is, and what its outcome means for the one after. Pure: every method takes
//! `now`, chance comes from a seeded generator.

mod keep;
mod outcome;
mod renewal;

use std::time::Duration;

use jiff::Timestamp;

use super::Token;
use super::budget::Spent;
use super::cache::Wishes;
use super::kept::{OTHERS_MAX, SUSPECTS};
use super::refusals::{Credential, Refusals};
use crate::clock::{Moment, Now};
use crate::oauth::file::{Grant, Op};
use crate::oauth::rules::SameToken;
use crate::oauth::{Class, TokenError};
use crate::secret::Secret;
use crate::units::Budget;

/// No two exchanges start closer together, whatever lifetimes a server claims.
const SPACING: Duration = Duration::from_secs(1);
/// After a refusal that a person has to mend.
const REJECTED_RETRY: Duration = Duration::from_secs(600);
/// After a few logins whose answers made no sense: a login form may be behind them.
const UNCLEAR_RETRY: Duration = Duration::from_secs(3600);
const UNCLEAR_SOON: u32 = 3;
/// After so many logins in a row that a crash cut off: each may have been refused.
const UNANSWERED_MAX: u32 = 2;
/// Refused tokens are counted within it.
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
    /// Client secrets to choose from.
    pub secrets: usize,
    /// Does a login give the token again that is there?
    pub same_token: SameToken,
    /// The vendor's budget of requests.
    pub limit: Option<Budget>,
    /// How long a request may take to arrive.
    pub timeout: Duration,
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
    /// Did the last renewal leave its end where it was? Then it ends there, unless a person logs in.
    fixed: bool,
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
    /// Digests of those that it came after.
    replaced: Vec<[u8; 32]>,
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
    spent: Spent,
    /// Which client secret is used, and what was last said of each.
    secret: usize,
    /// So many has a rotation put in the place of the configured ones.
    rotated: Option<usize>,
    refused_secrets: [Option<Class>; 2],
    /// The other one was tried in this row.
    other_tried: bool,
}

impl Schedule {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            due: None,
            refresh_token: None,
            replaced: Vec::new(),
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
            spent: Spent::new(policy.limit),
            secret: 0,
            rotated: None,
            refused_secrets: [None; 2],
            other_tried: false,
        }
    }

    /// Is it time? `token` is the one in use.
    pub fn next(&mut self, now: Now, token: Option<&Token>, wishes: Wishes) -> Next {
        if wishes.forced {
            (self.hold, self.pardoned) = (None, true);
            self.refusals.pardon();
        }
        let spaced = self.started.map(|started| started + SPACING);
        let urgent = wishes.forced || token.is_none_or(|token| !token.usable(now));
        // Who asks for one is told at once if there is none to be had.
        let free = if wishes.forced { None } else { self.spent.free_at(now, !urgent) };
        let earliest = self.held_until().max(spaced).max(free).filter(|start| *start > now.boot);
        let due = wishes.forced
            || match token {
                None => self.policy.eager || wishes.wanted || self.failures > 0,
                Some(token) => !token.usable(now) || self.failures > 0 || self.due.is_some_and(|due| due.reached(now)),
            };
        let left = |moment: Option<Moment>| moment.map_or(Duration::MAX, |moment| moment.left(now));
        let ends = left(token.filter(|token| token.usable(now)).and_then(|token| token.expires)).max(SPACING);
        let wait = match (earliest, token) {
            (Some(start), _) => (start - now.boot).min(ends),
            (None, _) if due || (wishes.suspect && self.may_suspect(now)) => return Next::Exchange,
            (None, Some(token)) => left(self.due).min(left(token.expires)),
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
        let window = self.suspects.iter().copied().min().flatten().map(|first| first + SUSPECT_WINDOW);
        window.max(self.spent.free_at(now, true)).filter(|earliest| *earliest > now.boot)
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
        self.other_tried = false;
        if self.rotated.is_some() {
            // The one before it is there for those servers that do not know it yet.
            self.secret = 0;
        }
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

    /// Why the vendor's budget does not allow a request now, if it does not.
    pub fn over_budget(&self, now: Now, can_wait: bool) -> Option<TokenError> {
        let (until, limit) = (self.spent.free_at(now, can_wait)?, self.spent.limit()?);
        let mut error = TokenError::new(
            Class::RateLimited,
            limit.used_up(),
            "nothing to do: the next one is sent as soon as the limit allows it",
        );
        error.retry_after = Some(until.saturating_sub(now.boot));
        Some(error)
    }

    /// An exchange is about to be sent. True if that has to be durable first: whoever goes on after a crash must know of it.
    pub fn begins(&mut self, op: Op, now: Now) -> bool {
        self.spent.spend(now, self.policy.timeout);
        let login = op == Op::Acquire && self.policy.grant == Grant::Password;
        self.unanswered = self.unanswered.saturating_add(login.into());
        login || self.spent.limit().is_some()
    }

    /// What became of it is known, or will not be any more; `left` if it was sent at all.
    pub fn answered(&mut self, now: Now, left: bool) {
        self.spent.answered(now, left);
        self.unanswered = 0;
    }

    /// The client secret that was really read; `rotated` is how many there are that a rotation brought, if they are used.
    pub fn uses_secret(&mut self, secret: usize, rotated: Option<usize>) {
        (self.secret, self.rotated) = (secret, rotated);
    }

    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref().map(|token| &token.secret)
    }

    pub fn refresh_expires_at(&self) -> Option<Timestamp> {
        Some(self.refresh_token.as_ref()?.expires?.wall)
    }

    /// Does it end there, whatever is renewed, so that a person has to get the next one?
    pub fn refresh_ends(&self) -> bool {
        self.policy.grant == Grant::RefreshToken && self.refresh_token.as_ref().is_some_and(|token| token.fixed)
    }

    /// When the next exchange may start that cannot wait, since boot; `Duration::MAX` for never.
    pub fn not_before(&self, now: Now) -> Option<Duration> {
        self.held_until().max(self.spent.free_at(now, false))
    }

    fn held_until(&self) -> Option<Duration> {
        self.hold.as_ref().map(|hold| hold.until)
    }

    /// Which of the client secrets is used, and why each was last refused.
    pub fn secrets(&self) -> (usize, [Option<Class>; 2]) {
        (self.secret, self.refused_secrets)
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Why a password or refresh token may not be sent any more.
    pub fn barred(&self, credential: &Credential) -> Option<&TokenError> {
        self.refusals.barred(credential)
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
