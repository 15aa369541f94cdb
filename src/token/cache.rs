//! Where requests find the token: an arc-swap slot that one refresh task writes. Never does I/O.
//!
//! A request reads the slot without a lock. Only when there is no usable token, or the API refused the one there is, does
//! it wait, for one exchange and within a bound; it cannot start, cancel or repeat one by anything but a wish.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Token;
use crate::clock::{Clock, Now};
use crate::oauth::{Class, TokenError};

/// What the refresh task last said.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub token: Option<Arc<Token>>,
    /// Grows with each new token.
    pub generation: u64,
    /// Is an exchange in flight?
    pub exchanging: bool,
    /// Exchanges that have ended, well or not.
    pub finished: u64,
    /// Why the last exchange failed; `None` after a success.
    pub error: Option<Arc<TokenError>>,
    /// No exchange starts before this time since boot, unless a person asks; `Duration::MAX` for never.
    pub not_before: Option<Duration>,
    /// What was refused is not sent again before it changes or a person asks.
    pub barred: bool,
    /// No exchange starts because of a refused token before this time since boot.
    pub suspects_from: Option<Duration>,
    /// Which of the client secrets is used, and why each was last refused.
    pub secrets: (usize, [Option<Class>; 2]),
    /// Another slot has taken the place of this one.
    pub retired: bool,
    pub refreshes_at: Option<Timestamp>,
    pub refresh_expires_at: Option<Timestamp>,
    /// Does a person have to get the next refresh token by then?
    pub refresh_ends: bool,
    /// Failed exchanges since the last success.
    pub attempts: u32,
}

/// How a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Valid,
    Degraded,
    Expired,
    Rejected,
    NeedsLogin,
}

impl State {
    pub const ALL: [&str; 6] = ["pending", "valid", "degraded", "expired", "rejected", "needs_login"];

    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize]
    }
}

impl Snapshot {
    pub fn usable(&self, now: Now) -> bool {
        self.token.as_ref().is_some_and(|token| token.usable(now))
    }

    pub fn state(&self, now: Now) -> State {
        match (self.error.as_ref().map(|error| error.class), self.usable(now)) {
            (Some(Class::GrantRejected), _) => State::NeedsLogin,
            (None, true) => State::Valid,
            (Some(_), true) => State::Degraded,
            (None, false) if self.token.is_none() => State::Pending,
            (None, false) => State::Expired,
            // Where nothing is sent any more, nothing but a person mends it.
            (Some(class), false) if class.passes() && !self.barred => State::Expired,
            (Some(_), false) => State::Rejected,
        }
    }
}

/// A token ready to be sent, and which one it is.
#[derive(Clone, Debug)]
pub struct Credential {
    pub value: HeaderValue,
    pub generation: u64,
}

/// There is no usable token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    pub state: State,
    /// To the next attempt, at least a second.
    pub retry_after: Duration,
}

/// What an application is told where no attempt is planned.
const NO_ATTEMPT: Duration = Duration::from_secs(60);

/// What requests and the operator wish from the refresh task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Some request has no token.
    pub wanted: bool,
    /// The operator asked.
    pub forced: bool,
    /// The API refused the current token.
    pub suspect: bool,
    /// What a person had to mend may be mended.
    pub mended: bool,
}

impl Wishes {
    pub(super) fn merge(&mut self, more: Self) {
        self.wanted |= more.wanted;
        self.forced |= more.forced;
        self.suspect |= more.suspect;
        self.mended |= more.mended;
    }
}

/// One token's place in the cache.
pub struct Slot {
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<()>,
    clock: Clock,
    wake: Notify,
    wanted: AtomicBool,
    forced: AtomicBool,
    mended: AtomicBool,
    /// The generation that an API refused, 0 for none.
    suspect: AtomicU64,
}

impl Slot {
    pub fn new(clock: Clock) -> Self {
        Self {
            current: ArcSwap::default(),
            changed: watch::Sender::new(()),
            clock,
            wake: Notify::new(),
            wanted: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            mended: AtomicBool::new(false),
            suspect: AtomicU64::new(0),
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub fn state(&self) -> State {
        self.current.load().state(self.clock.now())
    }

    /// The hot path: the token in the route's format, if there is a usable one.
    pub fn credential(&self, format: usize) -> Option<Credential> {
        let snapshot = self.current.load();
        let token = snapshot.token.as_ref().filter(|token| token.usable(self.clock.now()))?;
        Some(Credential { value: token.value(format)?.clone(), generation: snapshot.generation })
    }

    /// Why [`Self::credential`] has nothing to give.
    pub fn unavailable(&self) -> Unavailable {
        unavailable(&self.current.load(), self.clock.now())
    }

    /// As [`Self::credential`], waiting up to `wait` for an exchange that is in flight or about to start. Fails at once if
    /// one that it waited for failed, or if the next is known to start later.
    pub async fn credential_within(&self, format: usize, wait: Duration) -> Result<Credential, Unavailable> {
        self.within(wait, || self.credential(format)).await
    }

    /// The same of the token itself.
    pub async fn token_within(&self, wait: Duration) -> Result<Arc<Token>, Unavailable> {
        let usable = || self.snapshot().token.clone().filter(|token| token.usable(self.clock.now()));
        self.within(wait, usable).await
    }

    async fn within<T>(&self, wait: Duration, get: impl Fn() -> Option<T>) -> Result<T, Unavailable> {
        if let Some(found) = get() {
            return Ok(found);
        }
        let deadline = Instant::now() + wait;
        let mut changed = self.changed.subscribe();
        let came = self.current.load().finished;
        self.wanted.store(true, Ordering::Release);
        self.wake.notify_one();
        loop {
            if let Some(found) = get() {
                return Ok(found);
            }
            let now = self.clock.now();
            let snapshot = self.snapshot();
            let later = snapshot.not_before.is_some_and(|start| start > now.boot);
            if !snapshot.exchanging && (later || snapshot.finished != came) {
                return Err(unavailable(&snapshot, now));
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(unavailable(&self.snapshot(), self.clock.now()));
            }
        }
    }

    /// The API refused the token of that generation: a newer one, after waiting up to `wait` for one refresh; `None` if
    /// there is none to be had, and the API's refusal should stand.
    pub async fn replacement(&self, format: usize, refused: u64, wait: Duration) -> Option<Credential> {
        let newer = || self.credential(format).filter(|credential| credential.generation != refused);
        if let Some(credential) = newer() {
            return Some(credential);
        }
        let deadline = Instant::now() + wait;
        let mut changed = self.changed.subscribe();
        let came = self.current.load().finished;
        self.suspect.fetch_max(refused, Ordering::AcqRel);
        self.wake.notify_one();
        loop {
            if let Some(credential) = newer() {
                return Some(credential);
            }
            let boot = self.clock.now().boot;
            let snapshot = self.snapshot();
            let barred = [snapshot.not_before, snapshot.suspects_from].into_iter().flatten().any(|start| start > boot);
            if !snapshot.exchanging && (barred || snapshot.finished != came) {
                return None;
            }
            tokio::time::timeout_at(deadline, changed.changed()).await.ok()?.ok()?;
        }
    }

    /// Asks for an exchange now, whatever is planned, and waits for its end, at most `wait`. Returns what is then.
    pub async fn refresh(&self, wait: Duration) -> Arc<Snapshot> {
        let deadline = Instant::now() + wait;
        let mut changed = self.changed.subscribe();
        let before = self.snapshot();
        // One that is in flight began before the operator's change; the next one counts.
        let enough = before.finished + 1 + u64::from(before.exchanging);
        self.forced.store(true, Ordering::Release);
        self.wake.notify_one();
        loop {
            let snapshot = self.snapshot();
            // What another replica brought counts, but not in the midst of what was asked for here.
            let done = snapshot.finished >= enough && !snapshot.exchanging;
            if done || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return snapshot;
            }
        }
    }

    /// Has the refresh task look at its files now.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// What a person had to mend may be mended: it is tried again.
    pub fn reconsider(&self) {
        self.mended.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// No refresh task serves this slot any more: whoever waits here is told at once.
    pub fn retire(&self) {
        let snapshot = self.snapshot();
        let finished = snapshot.finished + 1;
        let not_before = Some(Duration::MAX);
        self.publish(Snapshot { exchanging: false, finished, not_before, retired: true, ..(*snapshot).clone() });
    }

    // The refresh task's side.

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the wishes; each is fulfilled or refused once.
    pub(super) fn wishes(&self) -> Wishes {
        let generation = self.current.load().generation;
        Wishes {
            wanted: self.wanted.swap(false, Ordering::AcqRel),
            forced: self.forced.swap(false, Ordering::AcqRel),
            mended: self.mended.swap(false, Ordering::AcqRel),
            suspect: generation != 0 && self.suspect.swap(0, Ordering::AcqRel) == generation,
        }
    }

    /// Gives back what was not fulfilled, for the next task.
    pub(super) fn give_back(&self, wishes: Wishes) {
        let generation = self.current.load().generation;
        self.wanted.fetch_or(wishes.wanted, Ordering::AcqRel);
        self.forced.fetch_or(wishes.forced, Ordering::AcqRel);
        self.mended.fetch_or(wishes.mended, Ordering::AcqRel);
        if wishes.suspect {
            self.suspect.fetch_max(generation, Ordering::AcqRel);
        }
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
        self.changed.send_replace(());
    }
}

fn unavailable(snapshot: &Snapshot, now: Now) -> Unavailable {
    let left = snapshot.not_before.map_or(Duration::ZERO, |start| start.saturating_sub(now.boot));
    let left = if snapshot.retired { Duration::ZERO } else { left };
    let retry_after = if left > Duration::from_secs(24 * 3600) { NO_ATTEMPT } else { left.max(Duration::from_secs(1)) };
    Unavailable { state: snapshot.state(now), retry_after }
}
