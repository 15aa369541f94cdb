//! A refresh task among others of the same token, in other processes: one works on the record at a time, under its lease; what
//! one learns, all of them go on from. Without the store, nothing is sent that could harm the others.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Refresher, durable};
use crate::oauth::file::Grant;
use crate::oauth::{Class, Outcome, TokenError};
use crate::store::Lease;
use crate::token::Token;
use crate::token::keeper::{Content, Held, Keeper, News};
use crate::token::kept::Kept;
use crate::token::schedule::Next;
use crate::token::source::Exchange;

/// How often the record is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// And where nothing serves, while another is at work.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// The saves before and after an exchange, within its lease.
const SAVES: Duration = Duration::from_secs(5);
/// Without the store, replicas wait for so long at most, by chance, before they do what may be done without it.
const SPREAD: Duration = Duration::from_secs(30);

/// How this task stands to the others. Nothing of it outlives the process.
#[derive(Default)]
pub(super) struct Peers {
    /// When the record is looked at next, since boot.
    look_at: Duration,
    /// Why the store cannot be asked.
    away: Option<String>,
    /// An exchange is due, and waits for the lease.
    pub decided: bool,
    /// Without the store, it is not sent before: since boot.
    not_before: Option<Duration>,
    /// The exchange at work has no lease.
    pub alone: bool,
    /// Grows with each state of another that was taken into account.
    pub heard: u64,
    /// Another has saved something newer than what an exchange of this task brought.
    pub overtaken: bool,
    /// What is shown as the token's error is that of the store.
    shown: bool,
}

/// May work on the record begin?
pub(super) enum Begin {
    Yes,
    /// Not now; look again after so long.
    Later(Duration),
    /// What was due is done, by another.
    Done,
}

impl<E: Exchange> Refresher<E> {
    pub(super) fn is_shared(&self) -> bool {
        self.task.keeper.as_ref().is_some_and(Keeper::is_shared)
    }

    /// Looks whether another has changed the record, and goes on from that; how long to wait at most until the next look.
    pub(super) async fn follow(&mut self) -> Duration {
        let Some(keeper) = self.task.keeper.as_mut().filter(|keeper| keeper.is_shared()) else {
            return super::LOOK_AGAIN;
        };
        let boot = self.task.clock.now().boot;
        if boot < self.peers.look_at {
            return self.peers.look_at - boot;
        }
        let wait = LOOK_EVERY.mul_f64(0.9 + 0.2 * self.task.rng.f64());
        match keeper.news().await {
            Ok(news) => {
                self.store_answers();
                self.hear(news);
            }
            Err(why) => self.store_is_away(why),
        }
        self.peers.look_at = self.task.clock.now().boot + wait;
        wait
    }

    /// Goes on from what another has made of the record; false if that leaves what is here as the newer.
    pub(super) fn hear(&mut self, news: News<Kept>) -> bool {
        match news {
            News::None => true,
            News::Theirs(theirs) if self.unsaved.is_none() => {
                self.adopt(theirs);
                true
            }
            // Neither was written with knowledge of the other.
            News::Theirs(theirs) | News::Back(Some(theirs)) => self.settle(&theirs),
            News::Back(None) => {
                warn!(token = self.task.name, "the shared store has forgotten the record: it is saved again");
                self.unsaved = Some(durable::Unsaved::default());
                false
            }
        }
    }

    /// Which of two states is gone on with, theirs or what is here? True if it is theirs.
    pub(super) fn settle(&mut self, theirs: &Kept) -> bool {
        let error = self.snapshot.error.clone();
        if self.kept(error.as_deref()).is_newer_than(theirs) {
            warn!(token = self.task.name, "the shared store has an older state than is known here: it is saved again");
            let now = self.task.clock.now();
            self.peers.heard += 1;
            self.schedule.learn(theirs, self.task.clock.is_of(&theirs.boot), now);
            self.unsaved.get_or_insert_default();
            return false;
        }
        self.unsaved = None;
        self.adopt(theirs.clone());
        true
    }

    fn adopt(&mut self, mut theirs: Kept) {
        let now = self.task.clock.now();
        let same_boot = self.task.clock.is_of(&theirs.boot);
        theirs.process = Some(self.schedule.process());
        let error = theirs.error.take().map(|error| Arc::new(TokenError::from(error)));
        self.revocations = theirs.revocations.drain(..).map(Into::into).collect();
        for one in &mut self.revocations {
            one.put_off(now.boot, &mut self.task.rng);
        }
        // Security: one that was obtained for something else must never be sent.
        let own = theirs.purpose == self.with.purpose;
        let access = theirs.access.take();
        let due = access.as_ref().and_then(|access| access.due).map(|due| due.moment(same_boot, now));
        let due = if own { due } else { self.schedule.due() };
        let forgotten = theirs.given_up || theirs.saved.is_none();
        self.given_up = theirs.given_up;
        self.peers.heard += 1;
        self.schedule.restore(&mut theirs, due, same_boot, now);
        match access {
            Some(access) if own => {
                let expires = access.expires.map(|expires| expires.moment(same_boot, now));
                let obtained = access.obtained.moment(same_boot, now).wall;
                let token = Token::restored(&access.secret(), &self.task.formats, obtained, expires);
                let known = self.snapshot.token.as_deref();
                if let Some(token) = token.filter(|token| token.usable(now)) {
                    if !known.is_some_and(|known| known.is(&token)) {
                        info!(token = self.task.name, fingerprint = %token.fingerprint, "another replica obtained a token");
                        self.snapshot.generation += 1;
                        self.snapshot.finished += 1;
                        self.pending.suspect = false;
                    }
                    self.pending.wanted = false;
                    self.snapshot.token = Some(Arc::new(token));
                    (self.access, self.purpose) = (Some(access.at(expires, due)), theirs.purpose);
                }
            }
            None if forgotten => (self.access, self.snapshot.token) = (None, None),
            // Of another configuration, or of one that obtained nothing yet: one's own serves as long as it does.
            _ => {}
        }
        (self.peers.decided, self.peers.shown) = (false, false);
        self.show(error);
        self.show_if_nobody_logged_in();
    }

    /// Takes the lease before an exchange, and what is new with it.
    pub(super) async fn begin(&mut self) -> Begin {
        self.peers.alone = false;
        if !self.is_shared() {
            return Begin::Yes;
        }
        self.peers.decided = true;
        match self.take(self.must_hurry()).await {
            Ok(Held::Ours(news)) => {
                self.hear(news);
                // It may not be due any more.
                let now = self.task.clock.now();
                let token = self.snapshot.token.as_deref();
                if !self.peers.decided && self.schedule.next(now, token, self.pending) != Next::Exchange {
                    self.release().await;
                    return Begin::Done;
                }
                self.peers.decided = false;
                Begin::Yes
            }
            Ok(Held::Others(left)) => {
                let usable = self.snapshot.usable(self.task.clock.now());
                let look = if usable { LOOK_EVERY } else { LOOK_SOON };
                Begin::Later(left.clamp(LOOK_SOON / 2, look))
            }
            Ok(Held::Lapsed) => Begin::Later(LOOK_EVERY),
            Err(why) => self.begin_alone(why),
        }
    }

    /// One that let its lease lapse may have an answer in its hands, and only sleep: as long as the token serves, it is waited
    /// for.
    fn must_hurry(&self) -> bool {
        let now = self.task.clock.now();
        let left = self.snapshot.token.as_ref().filter(|token| token.usable(now)).map(|token| token.expires);
        let enough = |expires: Option<crate::clock::Moment>| {
            expires.is_none_or(|expires| expires.left(now) > self.lease(true).lasts)
        };
        let asked = self.pending.forced || self.pending.suspect;
        self.schedule.refresh_token().is_none() || asked || !left.is_some_and(enough)
    }

    /// Without the store, nobody knows what others do: no refresh token is sent, no request of a budget that is shared, and a
    /// password only where nothing serves any more.
    fn begin_alone(&mut self, why: String) -> Begin {
        let now = self.task.clock.now();
        let usable = self.snapshot.usable(now);
        let policy = self.task.policy;
        let may = policy.limit.is_none()
            && match policy.grant {
                Grant::ClientCredentials | Grant::Static => true,
                Grant::Password => !usable,
                _ => false,
            };
        if !may {
            let error = away(&why);
            self.store_is_away(why);
            if !std::mem::replace(&mut self.peers.shown, true) {
                self.publish(Some(error));
            }
            return Begin::Later(LOOK_EVERY.mul_f64(1.0 + self.task.rng.f64()));
        }
        self.store_is_away(why);
        let left =
            self.snapshot.token.as_ref().and_then(|token| token.expires).map_or(Duration::ZERO, |end| end.left(now));
        let spread = if usable && !self.pending.forced { SPREAD.min(left / 4) } else { Duration::ZERO };
        let rng = &mut self.task.rng;
        let from = *self.peers.not_before.get_or_insert_with(|| now.boot + spread.mul_f64(rng.f64()));
        if now.boot < from {
            return Begin::Later((from - now.boot).min(LOOK_EVERY));
        }
        (self.peers.not_before, self.peers.decided, self.peers.alone) = (None, false, true);
        Begin::Yes
    }

    /// Takes the lease for something else than an exchange that is due.
    pub(super) async fn begin_step(&mut self) -> Result<(), TokenError> {
        self.begin_within(self.must_hurry(), Duration::ZERO).await
    }

    /// Takes the lease for what a person asked for: waits until nobody else can have it.
    pub(super) async fn begin_now(&mut self) -> Result<(), TokenError> {
        let Lease { lasts, after, .. } = self.lease(true);
        self.begin_within(true, lasts + after + LOOK_EVERY).await
    }

    async fn begin_within(&mut self, force: bool, wait: Duration) -> Result<(), TokenError> {
        self.peers.alone = false;
        let until = self.task.clock.now().boot + wait;
        loop {
            match self.take(force).await {
                Ok(Held::Ours(news)) => {
                    self.hear(news);
                    return Ok(());
                }
                Ok(_) if self.task.clock.now().boot < until => tokio::time::sleep(LOOK_EVERY).await,
                Ok(_) => return Err(busy()),
                Err(why) => return Err(away(&why)),
            }
        }
    }

    /// Before anything is sent: is the lease there for as long as the exchange may take?
    pub(super) async fn holds(&mut self) -> Result<(), TokenError> {
        let needed = self.lease(false).after + Duration::from_secs(2);
        let shared = self.is_shared() && !self.peers.alone;
        if !shared || self.task.keeper.as_ref().is_some_and(|keeper| keeper.leased() >= needed) {
            return Ok(());
        }
        match self.take(false).await {
            Ok(Held::Ours(News::None)) => Ok(()),
            Ok(Held::Ours(news)) => {
                self.hear(news);
                Err(busy())
            }
            Ok(_) => Err(busy()),
            Err(why) => Err(away(&why)),
        }
    }

    pub(super) async fn release(&mut self) {
        if let Some(keeper) = &mut self.task.keeper {
            keeper.release().await;
        }
    }

    async fn take(&mut self, force: bool) -> Result<Held<Kept>, String> {
        let lease = self.lease(force);
        let Some(keeper) = &mut self.task.keeper else { return Ok(Held::Ours(News::None)) };
        let held = keeper.take(lease).await;
        if held.is_ok() {
            self.store_answers();
        }
        held
    }

    fn lease(&self, force: bool) -> Lease {
        let after = self.task.policy.timeout;
        Lease { lasts: after + SAVES, after, force }
    }

    fn store_answers(&mut self) {
        self.peers.not_before = None;
        if self.peers.away.take().is_some() {
            info!(token = self.task.name, "the shared store answers again");
            if std::mem::take(&mut self.peers.shown) {
                self.show(None);
            }
        }
    }

    fn store_is_away(&mut self, why: String) {
        if self.peers.away.as_ref() != Some(&why) {
            warn!(token = self.task.name, "the shared store: {why}");
        }
        self.peers.away = Some(why);
    }
}

fn away(why: &str) -> TokenError {
    let problem = format!("the shared store: {why}");
    let fix = "mend the store: without it nothing is sent that another replica may send too";
    TokenError::new(Class::Transient, problem, fix).of(Outcome::NotSent)
}

fn busy() -> TokenError {
    let problem = "another replica is at work on this token";
    TokenError::new(Class::Transient, problem, "nothing: what it brings is used here too").of(Outcome::NotSent)
}
