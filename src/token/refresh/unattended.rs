//! A rotation of the client secret that nobody asks for.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, warn};

use super::Refresher;
use super::orders::policy;
use super::rotate::Rotating;
use crate::expiry::days_left;
use crate::rotation::{Begin, Event, InUse, State, in_use, plan};
use crate::secret::Secret;
use crate::token::secrets::{Asked, Verb, Work};
use crate::token::source::Exchange;

/// Between two looks at what is configured, in seconds: a command may have to be run for it.
const LOOK_EVERY: i64 = 600;

impl<E: Exchange> Refresher<E> {
    /// Without being asked: a rotation is begun when the end of the secret comes near, and what waits for a person is tried
    /// again once a day.
    pub(super) async fn plan_rotation(&mut self, rotating: &Rotating, work: &mut Work) {
        let Some(before) = rotating.config.rotate.before.filter(|_| work.keeper.is_some()) else { return };
        let now = self.task.clock.now().wall;
        let seconds = now.as_second();
        // What could not be made durable holds all the same.
        let retry_at = work.kept.as_ref().and_then(|kept| kept.retry_at).max(work.retry_at);
        if retry_at.is_some_and(|at| at > seconds) {
            return;
        }
        let dead = self.is_dead();
        if !dead && work.look_at.is_some_and(|at| at > seconds) {
            return;
        }
        work.look_at = Some(seconds + LOOK_EVERY);
        if !self.leads(rotating, work).await {
            return;
        }
        let (_, overruled) = self.look(rotating, work).await;
        let waits = self.machine(rotating, work).map(|machine| machine.record().clone());
        if let Some(record) = waits.filter(|record| record.state != State::Stable && !overruled) {
            if record.problem.is_some() {
                let end = self.known_end(rotating, work);
                self.retry_later(work, now, end);
                if let Some(machine) = &mut work.machine {
                    if dead {
                        // It takes note of that.
                        machine.begin(Begin::Create, true);
                    }
                    machine.on(Event::Daily, now);
                }
            }
            return;
        }
        let end = match self.known_end(rotating, work) {
            Some(end) => end,
            None if dead => now,
            None => match self.learn_end(rotating, work).await {
                Some(end) => end,
                None => return self.retry_later(work, now, None),
            },
        };
        if !dead && now < self.rotates_at(work, end, before) {
            return;
        }
        self.retry_later(work, now, Some(end));
        if let Err(why) = self.begin_rotation(rotating, work, Verb::Rotate, Asked::default()).await {
            let days = days_left(now, end);
            error!(
                token = self.task.name,
                days_left = days,
                "the client secret ends soon, and cannot be rotated: {why}"
            );
        }
        if let Some(kept) = &mut work.kept {
            kept.retry_at = work.retry_at;
        }
    }

    fn rotates_at(&self, work: &Work, end: Timestamp, before: Duration) -> Timestamp {
        let since = work.kept.as_ref().and_then(|kept| kept.record.serving().since);
        let life = since.and_then(|since| u64::try_from(end.as_second().saturating_sub(since)).ok());
        let digest = Secret::new(self.task.name.clone()).digest();
        let seed = u64::from_le_bytes(std::array::from_fn(|index| digest[index]));
        plan::due(end, before, life.map(Duration::from_secs), seed)
    }

    /// The next day, or earlier where the end is near.
    fn retry_later(&mut self, work: &mut Work, now: Timestamp, end: Option<Timestamp>) {
        let at = plan::again(now, end.unwrap_or(Timestamp::MAX)).as_second();
        let at = Some(at - self.task.rng.i64(0..600));
        work.retry_at = at;
        work.kept.iter_mut().for_each(|kept| kept.retry_at = at);
    }

    /// When the secret in use ends, as far as that is known.
    pub(super) fn known_end(&self, rotating: &Rotating, work: &Work) -> Option<Timestamp> {
        let overruled = rotating.secrets.is_overruled(work);
        let kept = work.kept.as_ref().filter(|_| !overruled);
        if let Some(kept) = kept.filter(|kept| kept.is_rotated()) {
            let (serving, rotate) = (kept.record.serving(), &rotating.config.rotate);
            // Where a vendor keeps no end, the one that a new secret is meant to have.
            let in_place = rotating.config.dialect.secrets.contains_key("replace");
            let meant = || Timestamp::from_second(serving.since?).ok()?.checked_add(rotate.lifetime.1).ok();
            return serving.ends().or_else(|| meant().filter(|_| in_place));
        }
        let learned = work.learned.filter(|(seed, _)| Some(*seed) == work.seen).map(|(_, end)| end);
        let end = kept.and_then(|kept| kept.record.serving().ends());
        learned.or(end).or_else(|| rotating.config.secret_expires.first().copied())
    }

    /// As the vendor's list tells of the secret in use.
    async fn learn_end(&mut self, rotating: &Rotating, work: &mut Work) -> Option<Timestamp> {
        match self.entries(rotating, work).await {
            Ok((record, entries)) => {
                let used = in_use(&record, &policy(rotating, ""), &entries, self.task.clock.now().wall);
                let mut own = entries.iter().zip(used).filter(|(_, used)| *used == InUse::Yes);
                let end = own.next().and_then(|(entry, _)| entry.expires);
                work.learned = work.seen.zip(end);
                if work.learned.is_none() {
                    let fix = "set secret_expires, or rotate.current";
                    warn!(token = self.task.name, "the vendor's list does not tell when the client secret ends; {fix}");
                }
            }
            Err(why) => warn!(token = self.task.name, "when the client secret ends is not known: {why}"),
        }
        work.learned.map(|(_, end)| end)
    }
}
