//! A refresh task that outlives its process: going on from what was kept, and keeping it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info};

use super::{LOOK_AGAIN, Refresher};
use crate::clock::Moment;
use crate::oauth::TokenError;
use crate::token::Token;
use crate::token::keeper::{self, News};
use crate::token::kept::{Kept, KeptAccess, KeptError, KeptMoment};
use crate::token::source::Exchange;

/// How often a disk that fails is complained of.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// How long it is before a shared store is tried again, at most.
const SHARED_AGAIN: Duration = Duration::from_secs(2);
/// So often is a save that another one came before tried again at once.
const STALE_MAX: u32 = 4;

/// Saves that failed, one after the other.
#[derive(Default)]
pub(super) struct Unsaved {
    times: u32,
    /// Since boot.
    next: Duration,
    told: Duration,
}

impl Unsaved {
    /// It may be that it can be saved now.
    pub(super) fn hurry(&mut self) {
        self.next = Duration::ZERO;
    }
}

impl<E: Exchange> Refresher<E> {
    pub(super) fn restore(&mut self, mut kept: Kept) {
        let now = self.task.clock.now();
        let same_boot = self.task.clock.is_of(&kept.boot);
        // A wall clock that is behind after a boot cannot tell what has ended.
        let knows = same_boot || !kept.saved.is_some_and(|saved| saved.is_ahead(now));
        // Security: one that was obtained for something else must never be sent.
        let access = kept.access.take().filter(|_| knows && kept.purpose == self.with.purpose);
        self.revocations = kept.revocations.drain(..).map(Into::into).collect();
        (self.given_up, self.cleared, self.epoch) = (kept.given_up, kept.cleared, kept.epoch);
        let due = access.as_ref().and_then(|access| access.due).map(|due| due.moment(same_boot, now));
        self.schedule.restore(&mut kept, due, same_boot, now);
        if kept.inputs != self.with.inputs {
            self.schedule.files_changed();
        }
        if let Some((access, token)) = access.and_then(|access| self.serving(access, due, same_boot)) {
            info!(token = self.task.name, fingerprint = %token.fingerprint, "going on with the token of before");
            self.snapshot.token = Some(Arc::new(token));
            self.snapshot.generation = self.snapshot.generation.max(1);
            (self.access, self.purpose) = (Some(access), kept.purpose);
        }
        self.show(kept.error.map(|error| Arc::new(TokenError::from(error))));
    }

    /// The token of a record, if it serves still: and the record of it, at this task's clocks.
    pub(super) fn serving(
        &self,
        access: KeptAccess,
        due: Option<Moment>,
        same_boot: bool,
    ) -> Option<(KeptAccess, Token)> {
        let now = self.task.clock.now();
        let told = access.expires.map(|expires| expires.moment(same_boot, now));
        // What is on its way grows no older: from hand to hand, a token would live longer and longer.
        let known = self.snapshot.token.as_deref().filter(|known| *known.secret() == access.secret());
        let known = known.and_then(|known| known.expires);
        let expires = told.map(|told| known.map_or(told, |known| known.earlier(told)));
        let obtained = access.obtained.moment(same_boot, now).wall;
        let token = Token::restored(&access.secret(), &self.task.formats, obtained, expires)?;
        token.usable(now).then(|| (access.at(expires, due), token))
    }

    /// Tries again to save what could not be, when it is time; how long to wait at most.
    pub(super) async fn save_again(&mut self, now: bool) -> Duration {
        let left = |unsaved: &Unsaved, boot| unsaved.next.saturating_sub(boot);
        let boot = self.task.clock.now().boot;
        if self.unsaved.as_ref().is_some_and(|unsaved| now || left(unsaved, boot).is_zero()) {
            let error = self.snapshot.error.clone();
            self.save(error.as_deref()).await;
        }
        self.release().await;
        let boot = self.task.clock.now().boot;
        self.unsaved.as_ref().map_or(LOOK_AGAIN, |unsaved| left(unsaved, boot))
    }

    /// Everything that another task needs to go on.
    pub(super) fn kept(&self, error: Option<&TokenError>) -> Kept {
        let now = self.task.clock.now();
        Kept {
            purpose: self.purpose.clone(),
            inputs: self.with.inputs.clone(),
            boot: self.task.clock.boot().to_owned(),
            saved: Some(KeptMoment::at(now)),
            access: self.access.clone(),
            given_up: self.given_up,
            cleared: self.cleared,
            epoch: self.epoch,
            error: error.map(KeptError::from),
            revocations: self.revocations.iter().map(Into::into).collect(),
            ..self.schedule.keep(now)
        }
    }

    /// Keeps everything. What cannot be saved is tried again until it can: meanwhile the token serves, and a restart may lose
    /// it.
    ///
    /// True if the store has it. Where another has saved something newer meanwhile, that is gone on with.
    pub(super) async fn save(&mut self, error: Option<&TokenError>) -> bool {
        let mut saved = Err("others save all the time".to_owned());
        for _ in 0..STALE_MAX {
            let kept = self.kept(error);
            let Some(keeper) = &mut self.task.keeper else { return true };
            saved = match keeper.save(&kept).await {
                Ok(()) => Ok(()),
                Err(keeper::Unsaved::Failed(why)) => Err(why),
                Err(keeper::Unsaved::Stale(news)) => {
                    // What this was to bring is nowhere yet.
                    self.unsaved.get_or_insert_default();
                    match *news {
                        News::Theirs(theirs) if self.settle(&theirs) => {
                            self.peers.overtaken = true;
                            return false;
                        }
                        _ => continue,
                    }
                }
            };
            break;
        }
        let (now, before) = (self.task.clock.now().boot, self.unsaved.take());
        let Err(error) = saved else {
            if before.is_some() {
                info!(token = self.task.name, "the store has everything again");
            }
            return true;
        };
        self.task.metrics.unsaved(&self.task.name);
        let (times, told) = before.map_or((1, None), |before| (before.times.saturating_add(1), Some(before.told)));
        let tell = told.is_none_or(|told| now.saturating_sub(told) >= TELL_AGAIN);
        if tell {
            error!(token = self.task.name, %error, "not durable: a restart now could lose the refresh token");
        }
        // What others wait for is tried again soon: they may have nothing that serves.
        let most = if self.is_shared() { SHARED_AGAIN } else { LOOK_AGAIN };
        let next = now + Duration::from_secs(1 << times.min(6) >> 1).min(most);
        self.unsaved = Some(Unsaved { times, next, told: if tell { now } else { told.unwrap_or(now) } });
        false
    }
}
