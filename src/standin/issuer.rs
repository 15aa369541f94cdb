//! Tokens that a stand-in has issued, and whether they are still good.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Moment};

/// Issues access tokens and one-time refresh tokens.
pub struct Issuer {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lifetime: Duration,
    access: HashMap<String, Moment>,
    /// Refresh token to its family and when it was used; a used one stays, so that its reuse is noticed.
    refresh: HashMap<String, (u64, Option<Moment>)>,
    issued: u64,
    /// How long after its use a refresh token may be used again, if none that came of it was: the answer may have been lost.
    leeway: Duration,
    /// By family.
    used_last: HashMap<u64, String>,
    /// Families that reuse has ended.
    ended: u64,
}

impl Issuer {
    pub fn new(clock: Clock, lifetime: Duration) -> Self {
        Self { clock, state: Mutex::new(State { lifetime, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lifetime(&self) -> Duration {
        self.lock().lifetime
    }

    pub fn set_lifetime(&self, lifetime: Duration) {
        self.lock().lifetime = lifetime;
    }

    /// How many access tokens there were.
    pub fn issued(&self) -> u64 {
        self.lock().issued
    }

    /// A new access token.
    pub fn access_token(&self) -> String {
        let token = random();
        let mut state = self.lock();
        let expires = Moment::after(self.clock.now(), state.lifetime);
        state.access.insert(token.clone(), expires);
        state.issued += 1;
        token
    }

    /// A new refresh token, of a new family or in place of the one that was just used.
    pub fn refresh_token(&self, family: Option<u64>) -> String {
        let token = random();
        let mut state = self.lock();
        let family = family.unwrap_or(state.issued);
        state.refresh.insert(token.clone(), (family, None));
        token
    }

    /// Uses a refresh token up: its family; or `None` if it is not known or was used before, and then its family is dead.
    pub fn use_refresh_token(&self, token: &str) -> Option<u64> {
        let now = self.clock.now();
        let mut state = self.lock();
        let (family, used) = *state.refresh.get(token)?;
        let followed = state.used_last.get(&family).is_some_and(|last| last != token);
        if used.is_some_and(|until| followed || until.reached(now)) {
            state.refresh.retain(|_, (other, _)| *other != family);
            state.ended += 1;
            return None;
        }
        let until = used.unwrap_or_else(|| Moment::after(now, state.leeway));
        state.refresh.insert(token.to_owned(), (family, Some(until)));
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

    pub fn is_good(&self, token: &str) -> bool {
        let now = self.clock.now();
        self.lock().access.get(token).is_some_and(|expires| !expires.reached(now))
    }
}

fn random() -> String {
    (0..40).map(|_| char::from(b"0123456789abcdef"[fastrand::usize(..16)])).collect()
}
