//! Which of the replicas makes the steps of a rotation, where they share a store: the one that has the lease of the client's
//! secrets, as long as something is under way. The others use what it saves.

use std::time::Duration;

use tracing::debug;

use super::rotate::{ADMIN_KEPT, Rotating};
use super::{LOOK_AGAIN, LOOK_EVERY, Refresher};
use crate::rotation::Action;
use crate::store::Lease;
use crate::token::keeper::{Held, Unsaved};
use crate::token::secrets::Work;
use crate::token::source::Exchange;

/// Of the client's secrets: renewed at its half, while something is under way.
const STEP_LEASE: Duration = Duration::from_secs(180);
/// What a step may take beside two requests.
const STEP_MAX: Duration = Duration::from_secs(60);

impl<E: Exchange> Refresher<E> {
    /// Another replica goes on with what is under way.
    pub(super) async fn stop_leading(&mut self) {
        let Some(rotating) = self.task.rotating.clone() else { return };
        let now = self.task.clock.now().wall;
        if let Some(mut work) = rotating.secrets.steps(&self.task.name)
            && !work.machine.as_mut().is_some_and(|machine| machine.next(now) == Action::Save)
        {
            work.release().await;
        }
    }

    /// Looks what another replica has made of the client's secrets.
    pub(super) async fn follow_secrets(&mut self, rotating: &Rotating, work: &mut Work) {
        let boot = self.task.clock.now().boot;
        let Some(keeper) = work.keeper.as_mut().filter(|keeper| keeper.is_shared() && work.follow_at <= boot) else {
            return;
        };
        work.follow_at = boot + LOOK_EVERY;
        if std::mem::take(&mut work.uncopied)
            && let Some(kept) = &work.kept
        {
            keeper.copy(kept).await;
        }
        if work.unsaved
            && let Some(kept) = &work.kept
        {
            match keeper.save(kept).await {
                Ok(()) => work.unsaved = false,
                Err(Unsaved::Stale(news)) => rotating.secrets.hear(work, *news),
                Err(Unsaved::Failed(why)) => debug!(token = self.task.name, why, "the client's secrets are not saved"),
            }
            return;
        }
        match keeper.news().await {
            Ok(news) => rotating.secrets.hear(work, news),
            // The token's own record says so.
            Err(why) => debug!(token = self.task.name, why, "the client's secrets were not looked at"),
        }
    }

    /// Is the lease of the client's secrets this task's, for as long as a step may take? Another replica makes the steps
    /// otherwise.
    pub(super) async fn leads(&mut self, rotating: &Rotating, work: &mut Work) -> bool {
        let Some(keeper) = work.keeper.as_mut().filter(|keeper| keeper.is_shared()) else { return true };
        if keeper.leased() > STEP_LEASE / 2 {
            return true;
        }
        let after = 2 * self.task.policy.timeout + STEP_MAX;
        let lease = Lease { lasts: STEP_LEASE, after, force: true };
        match keeper.take(lease).await {
            Ok(Held::Ours(news)) => {
                rotating.secrets.hear(work, news);
                true
            }
            Ok(_) => false,
            Err(why) => {
                work.said = Some(format!("the shared store: {why}"));
                false
            }
        }
    }

    /// Is that another replica's to do? Then this one looks again after so long. One makes the steps, and keeps the lease where it
    /// waits for a while.
    pub(super) async fn leaves_it(
        &mut self,
        rotating: &Rotating,
        work: &mut Work,
        action: &Action,
        left: Duration,
    ) -> Option<Duration> {
        let rests = matches!(action, Action::Done | Action::Park(_)) || left > ADMIN_KEPT;
        let led = work.keeper.as_ref().is_some_and(|keeper| !keeper.leased().is_zero());
        if rests || (left > Duration::ZERO && !led) {
            return None;
        }
        if !self.leads(rotating, work).await {
            return Some(LOOK_AGAIN);
        }
        // What was learned with the lease may have changed everything.
        work.machine.is_none().then_some(Duration::ZERO)
    }
}
