//! A refresh task among others of the same token, in other processes: one works on the record at a time, under its lease; what
//! one learns, all of them go on from. Without the store, nothing is sent that could harm the others.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::logout::{QUEUE_MAX, Revocation};
use super::{LOOK_EVERY, Refresher, durable};
use crate::oauth::TokenError;
use crate::token::Token;
use crate::token::keeper::{Content, Keeper, News};
use crate::token::kept::{Kept, KeptAccess};
use crate::token::source::Exchange;

/// How this task stands to the others. Nothing of it outlives the process.
#[derive(Default)]
pub(super) struct Peers {
    /// When the record is looked at next, since boot.
    pub look_at: Duration,
    /// Why the store cannot be asked.
    pub away: Option<String>,
    /// It answers, and takes nothing.
    pub unwritable: bool,
    /// An exchange is due, and waits for the lease.
    pub decided: bool,
    /// Without the store, it is not sent before: since boot.
    pub not_before: Option<Duration>,
    /// The exchange at work has no lease.
    pub alone: bool,
    /// Grows with each state of another that was gone on from; and with each that was looked at for that.
    pub adopted: u64,
    pub heard: u64,
    /// The copy in the directory of this process is not what was gone on from.
    pub uncopied: bool,
    /// Another has saved something newer than what an exchange of this task brought.
    pub overtaken: bool,
    /// What is shown as the token's error is that of the store.
    pub shown: bool,
}

impl<E: Exchange> Refresher<E> {
    pub(super) fn is_shared(&self) -> bool {
        self.task.keeper.as_ref().is_some_and(Keeper::is_shared)
    }

    /// Looks whether another has changed the record, and goes on from that; how long to wait at most until the next look.
    pub(super) async fn follow(&mut self) -> Duration {
        if !self.is_shared() {
            return super::LOOK_AGAIN;
        }
        let boot = self.task.clock.now().boot;
        if boot < self.peers.look_at {
            return self.peers.look_at - boot;
        }
        if std::mem::take(&mut self.peers.uncopied) {
            let error = self.snapshot.error.clone();
            let kept = self.kept(error.as_deref());
            if let Some(keeper) = &mut self.task.keeper {
                keeper.copy(&kept).await;
            }
        }
        let Some(keeper) = &mut self.task.keeper else { return super::LOOK_AGAIN };
        let wait = LOOK_EVERY.mul_f64(0.9 + 0.2 * self.task.rng.f64());
        match keeper.news().await {
            Ok(news) => {
                if !self.peers.unwritable {
                    self.store_answers();
                }
                self.hear(news);
            }
            Err(why) => self.store_is_away(why),
        }
        self.peers.look_at = self.task.clock.now().boot + wait;
        wait
    }

    /// Goes on from what another has made of the record, unless what is here is newer: the store may have gone back to an older
    /// state.
    pub(super) fn hear(&mut self, news: News<Kept>) {
        match news {
            News::None => {}
            News::Theirs(theirs) => {
                self.settle(&theirs);
            }
            News::Gone => {
                warn!(token = self.task.name, "the shared store has no record any more: it is saved again");
                self.peers.heard += 1;
                self.unsaved.get_or_insert_default();
            }
        }
    }

    /// Which of two states is gone on with, theirs or what is here? True if it is theirs. What was refused and what was spent
    /// counts whichever it is.
    pub(super) fn settle(&mut self, theirs: &Kept) -> bool {
        let now = self.task.clock.now();
        let error = self.snapshot.error.clone();
        let mut ours = self.kept(error.as_deref());
        self.peers.heard += 1;
        if ours.is_newer_than(theirs) {
            warn!(token = self.task.name, "the shared store has an older state than is known here: it is saved again");
            let same_boot = self.task.clock.is_of(&theirs.boot);
            self.schedule.learn(theirs, same_boot, now);
            if ours.recall(theirs) {
                self.schedule.recall(&ours, now);
            }
            self.learn_revocations(theirs);
            self.unsaved.get_or_insert_default();
            return false;
        }
        // What the others do not know of.
        let back = self.task.keeper.as_ref().is_some_and(Keeper::went_back);
        let unsaved = self.unsaved.take().is_some() || back;
        let (mut theirs, given_up, empty) = (theirs.clone(), theirs.given_up, theirs.access.is_none());
        let mut more = theirs.recall(&ours);
        more |= self.adopt(theirs);
        if unsaved {
            more |= self.schedule.learn(&ours, true, now);
            more |= self.learn_revocations(&ours);
            more |= empty && self.access.is_some();
            if given_up && !ours.given_up {
                // It came while a person gave up what there was.
                more |= self.learn_revocations(&ours.to_revoke());
            }
        }
        if more {
            self.unsaved.get_or_insert_default();
        }
        true
    }

    /// Of a state that is not gone on with, the vendor is told all the same. True if that knew of more.
    fn learn_revocations(&mut self, other: &Kept) -> bool {
        let new = other.revocations.iter().cloned().map(Revocation::from);
        let new: Vec<_> = new.filter(|new| !self.revocations.iter().any(|known| known.is(new))).collect();
        let more = !new.is_empty();
        self.revocations.extend(new);
        self.revocations.truncate(QUEUE_MAX);
        more
    }

    /// True if the access token that is here serves longer than theirs.
    fn adopt(&mut self, mut theirs: Kept) -> bool {
        let now = self.task.clock.now();
        let same_boot = self.task.clock.is_of(&theirs.boot);
        theirs.process = Some(self.schedule.process());
        let error = theirs.error.take().map(|error| Arc::new(TokenError::from(error)));
        let known = std::mem::take(&mut self.revocations);
        self.revocations = theirs.revocations.drain(..).map(Into::into).collect();
        for one in &mut self.revocations {
            one.go_on(&known, now.boot, &mut self.task.rng);
        }
        // Security: one that was obtained for something else must never be sent.
        let own = theirs.purpose == self.with.purpose;
        let access = theirs.access.take();
        let due = access.as_ref().and_then(|access| access.due).map(|due| due.moment(same_boot, now));
        // Of two that serve, the one that serves longer: clocks do not tell which of two logins was the later one.
        let lasts = |token: &Token| token.expires.map_or(Duration::MAX, |expires| expires.left(now));
        let left = |access: &KeptAccess| access.expires.map(|expires| expires.moment(same_boot, now).left(now));
        let known = self.snapshot.token.as_deref().filter(|_| own && theirs.cleared == self.cleared);
        let longer = known.zip(access.as_ref()).is_some_and(|(known, access)| {
            *known.secret() != access.secret() && left(access).is_some_and(|left| lasts(known) > left)
        });
        let own = own && !longer;
        let due = if own { due } else { self.schedule.due() };
        let forgotten = theirs.given_up || theirs.saved.is_none();
        // What this task saves next may be the first that another one sees of it.
        self.given_up = forgotten;
        self.peers.adopted += 1;
        (self.cleared, self.epoch, self.peers.uncopied) = (theirs.cleared, theirs.epoch, true);
        // What others have to mend need not hold up what this one sends.
        let differs = !forgotten && theirs.hold.is_some() && theirs.inputs != self.exchange.with().inputs;
        let paused = self.schedule.paused();
        self.schedule.restore(&mut theirs, due, same_boot, now);
        if differs {
            self.schedule.go_on(paused);
        }
        match access {
            Some(access) if own => {
                if let Some((access, token)) = self.serving(access, due, same_boot) {
                    if self.snapshot.token.as_deref().is_none_or(|known| *known.secret() != *token.secret()) {
                        info!(token = self.task.name, fingerprint = %token.fingerprint, "another replica obtained a token");
                        self.snapshot.generation += 1;
                        self.snapshot.finished += 1;
                        self.pending.suspect = false;
                    }
                    self.pending.wanted = false;
                    self.snapshot.token = Some(Arc::new(token));
                    (self.access, self.purpose) = (Some(access), theirs.purpose);
                }
            }
            None if forgotten => (self.access, self.snapshot.token) = (None, None),
            // Of another configuration, or of one that obtained nothing yet: one's own serves as long as it does.
            _ => {}
        }
        (self.peers.decided, self.peers.shown) = (false, false);
        self.show(error);
        self.show_if_nobody_logged_in();
        longer
    }

    pub(super) fn store_answers(&mut self) {
        self.peers.not_before = None;
        if self.peers.away.take().is_some() {
            info!(token = self.task.name, "the shared store answers again");
            self.unsaved.iter_mut().for_each(durable::Unsaved::hurry);
            if std::mem::take(&mut self.peers.shown) {
                self.show(None);
            }
        }
    }

    pub(super) fn store_is_away(&mut self, why: String) {
        if self.peers.away.as_ref() != Some(&why) {
            warn!(token = self.task.name, "the shared store: {why}");
        }
        self.peers.away = Some(why);
    }
}
