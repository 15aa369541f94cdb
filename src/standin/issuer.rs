//! Tokens that a stand-in has issued, and whether they are still good.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::mint;
use crate::clock::{Clock, Moment};

/// Issues access tokens and refresh tokens. Those that come of one login are a family.
pub struct Issuer {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lifetime: Duration,
    access: HashMap<String, Access>,
    /// A used one stays, so that its reuse is noticed.
    refresh: HashMap<String, Refresh>,
    issued: u64,
    families: u64,
    /// How long after its use a refresh token may be used again, if none that came of it was: the answer may have been lost.
    leeway: Duration,
    /// By family.
    used_last: HashMap<u64, String>,
    /// Families that reuse has ended.
    ended: u64,
    revoked: Vec<String>,
}

struct Access {
    family: Option<u64>,
    expires: Moment,
}

struct Refresh {
    family: u64,
    /// `None` for never.
    expires: Option<Moment>,
    /// Until when it may be used again.
    used: Option<Moment>,
}

/// What a refresh token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be used, and is of that family.
    Good(u64),
    /// Its time is over.
    Expired,
    /// It was never issued, or it was revoked or used up.
    Unknown,
}

impl Issuer {
    pub fn new(clock: Clock, lifetime: Duration) -> Self {
        Self { clock, state: Mutex::new(State { lifetime, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn lifetime(&self) -> Duration {
        self.lock().lifetime
    }

    pub fn set_lifetime(&self, lifetime: Duration) {
        self.lock().lifetime = lifetime;
    }

    /// Every token that was issued, access tokens and refresh tokens.
    pub fn tokens(&self) -> Vec<String> {
        let state = self.lock();
        state.access.keys().chain(state.refresh.keys()).cloned().collect()
    }

    /// How many access tokens there were.
    pub fn issued(&self) -> u64 {
        self.lock().issued
    }

    /// A new access token.
    pub fn access_token(&self) -> String {
        let token = mint::hex(40);
        self.issue(&token, self.lifetime(), None);
        token
    }

    /// Makes that text an access token.
    pub fn issue(&self, token: &str, lifetime: Duration, family: Option<u64>) {
        let mut state = self.lock();
        let expires = Moment::after(self.clock.now(), lifetime);
        state.access.insert(token.to_owned(), Access { family, expires });
        state.issued += 1;
    }

    /// What is left of an access token; `None` if it is not good.
    pub fn left(&self, token: &str) -> Option<Duration> {
        let now = self.clock.now();
        let state = self.lock();
        let access = state.access.get(token)?;
        (!access.expires.reached(now)).then(|| access.expires.left(now))
    }

    pub fn is_good(&self, token: &str) -> bool {
        self.left(token).is_some()
    }

    /// Was this access token good before its time was over?
    pub fn has_expired(&self, token: &str) -> bool {
        let known = self.lock().access.contains_key(token);
        known && !self.is_good(token)
    }

    /// Begins a family.
    pub fn family(&self) -> u64 {
        let mut state = self.lock();
        state.families += 1;
        state.families
    }

    /// A new refresh token, of a new family or in place of the one that was just used.
    pub fn refresh_token(&self, family: Option<u64>) -> String {
        let token = mint::hex(40);
        self.issue_refresh(&token, None, family.unwrap_or_else(|| self.family()));
        token
    }

    /// Makes that text a refresh token.
    pub fn issue_refresh(&self, token: &str, lifetime: Option<Duration>, family: u64) {
        let expires = lifetime.map(|lifetime| Moment::after(self.clock.now(), lifetime));
        self.lock().refresh.insert(token.to_owned(), Refresh { family, expires, used: None });
    }

    /// Looks at a refresh token without using it up.
    pub fn standing(&self, token: &str) -> Standing {
        let now = self.clock.now();
        let state = self.lock();
        match state.refresh.get(token) {
            Some(refresh) if refresh.expires.is_some_and(|expires| expires.reached(now)) => Standing::Expired,
            Some(refresh) if refresh.used.is_none() => Standing::Good(refresh.family),
            _ => Standing::Unknown,
        }
    }

    /// Uses a refresh token, up if it can be used `once`: its family.
    pub fn redeem(&self, token: &str, once: bool) -> Option<u64> {
        match self.standing(token) {
            Standing::Good(family) if !once => Some(family),
            _ => self.use_refresh_token(token),
        }
    }

    /// Uses a refresh token up: its family; or `None` if it is not good, and where it was used before its family is dead.
    pub fn use_refresh_token(&self, token: &str) -> Option<u64> {
        let now = self.clock.now();
        let mut state = self.lock();
        let leeway = state.leeway;
        let (family, used) = state.refresh.get(token).map(|refresh| (refresh.family, refresh.used))?;
        let followed = state.used_last.get(&family).is_some_and(|last| last != token);
        if used.is_some_and(|until| followed || until.reached(now)) {
            state.refresh.retain(|_, other| other.family != family);
            state.ended += 1;
            return None;
        }
        let refresh = state.refresh.get_mut(token)?;
        if refresh.expires.is_some_and(|expires| expires.reached(now)) {
            return None;
        }
        refresh.used.get_or_insert_with(|| Moment::after(now, leeway));
        state.used_last.insert(family, token.to_owned());
        Some(family)
    }

    pub fn set_leeway(&self, leeway: Duration) {
        self.lock().leeway = leeway;
    }

    /// How many families reuse has ended.
    pub fn ended(&self) -> u64 {
        self.lock().ended
    }

    /// Ends every refresh token.
    pub fn forget_refresh_tokens(&self) {
        self.lock().refresh.clear();
    }

    /// Ends every access token before its time.
    pub fn revoke_access_tokens(&self) {
        self.lock().access.clear();
    }

    /// Ends the access tokens of a family: a newer one takes their place.
    pub fn supersede(&self, family: u64) {
        self.lock().access.retain(|_, access| access.family != Some(family));
    }

    /// Ends an access token and all of its family, as its owner asked; was it there?
    pub fn revoke(&self, token: &str) -> bool {
        let mut state = self.lock();
        let Some(Access { family, .. }) = state.access.remove(token) else { return false };
        if let Some(family) = family {
            state.access.retain(|_, access| access.family != Some(family));
            state.refresh.retain(|_, refresh| refresh.family != family);
        }
        state.revoked.push(token.to_owned());
        true
    }

    /// The access tokens that [`Self::revoke`] ended.
    pub fn revoked(&self) -> Vec<String> {
        self.lock().revoked.clone()
    }
}
