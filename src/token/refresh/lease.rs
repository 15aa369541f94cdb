//! The lease of a record that replicas share: taken before anything is sent that another must not send too, and given back.

use std::time::Duration;

use super::{LOOK_EVERY, Refresher, busy};
use crate::clock::Moment;
use crate::oauth::file::Grant;
use crate::oauth::{Class, Outcome, TokenError};
use crate::store::Lease;
use crate::token::cache::Wishes;
use crate::token::keeper::{Held, News};
use crate::token::kept::Kept;
use crate::token::schedule::Next;
use crate::token::source::Exchange;

/// How soon it is looked again where nothing serves, while another is at work.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// The saves before and after an exchange, within its lease.
const SAVES: Duration = Duration::from_secs(5);
/// Without the store, replicas wait for so long at most, by chance, before they do what may be done without it.
const SPREAD: Duration = Duration::from_secs(30);

/// May work on the record begin?
pub(super) enum Begin {
    Yes,
    /// Not now; look again after so long.
    Later(Duration),
    /// What was due is done, by another.
    Done,
}

impl<E: Exchange> Refresher<E> {
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
        let enough = |expires: Option<Moment>| expires.is_none_or(|expires| expires.left(now) > self.lease(true).lasts);
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
                Grant::Password => !usable && self.schedule.refresh_token().is_none(),
                _ => false,
            };
        if !may {
            self.refuse(away(&why));
            self.store_is_away(why);
            return Begin::Later(LOOK_EVERY.mul_f64(1.0 + self.task.rng.f64()));
        }
        self.store_is_away(why);
        let left =
            self.snapshot.token.as_ref().and_then(|token| token.expires).map_or(Duration::ZERO, |end| end.left(now));
        let spread = match policy.grant {
            _ if self.pending.forced => Duration::ZERO,
            _ if usable => SPREAD.min(left / 4),
            // Each of the others may do the same, with a password that may be wrong.
            Grant::Password => SPREAD / 3,
            _ => Duration::ZERO,
        };
        if self.pending.forced {
            self.peers.not_before = None;
        }
        let rng = &mut self.task.rng;
        let from = *self.peers.not_before.get_or_insert_with(|| now.boot + spread.mul_f64(rng.f64()));
        if now.boot < from {
            return Begin::Later((from - now.boot).min(LOOK_EVERY));
        }
        (self.peers.not_before, self.peers.decided, self.peers.alone) = (None, false, true);
        Begin::Yes
    }

    /// Tells whoever waits that nothing is sent now, and the log once.
    fn refuse(&mut self, error: TokenError) {
        (self.pending, self.peers.decided) = (Wishes::default(), false);
        if std::mem::replace(&mut self.peers.shown, true) {
            self.snapshot.finished += 1;
            self.show(Some(error.into()));
        } else {
            self.publish(Some(error));
        }
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
            let error = match self.take(force).await {
                Ok(Held::Ours(news)) => {
                    self.hear(news);
                    return Ok(());
                }
                Ok(_) => busy(),
                Err(why) => away(&why),
            };
            if self.task.clock.now().boot >= until {
                return Err(error);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Before anything is sent: is the lease there for as long as the exchange may take?
    pub(super) async fn holds(&mut self) -> Result<(), TokenError> {
        let needed = self.lease(false).after + Duration::from_secs(2);
        let shared = self.is_shared() && !self.peers.alone;
        if !shared || self.task.keeper.as_ref().is_some_and(|keeper| keeper.leased() >= needed) {
            return Ok(());
        }
        let error = match self.take(false).await {
            Ok(Held::Ours(News::None)) => return Ok(()),
            Ok(Held::Ours(news)) => {
                self.hear(news);
                busy()
            }
            Ok(_) => busy(),
            Err(why) => away(&why),
        };
        self.peers.overtaken = true;
        Err(error)
    }

    /// Gives the lease back; not while the store lacks what an exchange brought: the next one would send what it replaced.
    pub(super) async fn release(&mut self) {
        if let Some(keeper) = self.task.keeper.as_mut().filter(|_| self.unsaved.is_none()) {
            keeper.release().await;
        }
    }

    async fn take(&mut self, force: bool) -> Result<Held<Kept>, String> {
        let lease = self.lease(force);
        let Some(keeper) = &mut self.task.keeper else { return Ok(Held::Ours(News::None)) };
        let held = keeper.take(lease).await;
        self.peers.unwritable = held.is_err();
        if held.is_ok() {
            self.store_answers();
        }
        held
    }

    fn lease(&self, force: bool) -> Lease {
        let after = self.task.policy.timeout;
        Lease { lasts: after + SAVES, after, force }
    }
}

fn away(why: &str) -> TokenError {
    let problem = format!("the shared store: {why}");
    let fix = "mend the store: without it nothing is sent that another replica may send too";
    TokenError::new(Class::Transient, problem, fix).of(Outcome::NotSent)
}
