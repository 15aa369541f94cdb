//! A rotation of the client secret that nobody asks for.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, warn};

use super::Refresher;
use super::orders::policy;
use super::rotate::Rotating;
use crate::oauth::Class;
use crate::rotation::{Event, InUse, State, in_use, plan};
use crate::secret::Secret;
use crate::token::secrets::{Asked, Verb, Work};
use crate::token::source::Exchange;

const DAY: i64 = 24 * 3600;

impl<E: Exchange> Refresher<E> {
    /// Without being asked: a rotation is begun when the end of the secret comes near, and what waits for a person is tried
    /// again once a day.
    pub(super) async fn plan_rotation(&mut self, rotating: &Rotating, work: &mut Work) {
        let Some(before) = rotating.config.rotate.before.filter(|_| work.keeper.is_some()) else { return };
        let now = self.task.clock.now().wall;
        let seconds = now.as_second();
        let retry_at = work.kept.as_ref().and_then(|kept| kept.retry_at).or(work.retry_at);
        if retry_at.is_some_and(|at| at > seconds) {
            return;
        }
        let waits = self.machine(rotating, work).map(|machine| machine.record().clone());
        if let Some(record) = waits.filter(|record| record.state != State::Stable) {
            if record.problem.is_some() {
                self.retry_tomorrow(work, seconds);
                work.machine.iter_mut().for_each(|machine| machine.on(Event::Daily, now));
            }
            return;
        }
        let dead = self.snapshot.error.as_ref().is_some_and(|error| error.class == Class::SecretExpired);
        let end = match self.known_end(rotating, work) {
            Some(end) => end,
            None if dead => now,
            None => match self.learn_end(rotating, work).await {
                Some(end) => end,
                None => return self.retry_tomorrow(work, seconds),
            },
        };
        if !dead && now < self.rotates_at(work, end, before) {
            return;
        }
        self.retry_tomorrow(work, seconds);
        if let Err(why) = self.begin(rotating, work, Verb::Rotate, Asked::default()).await {
            let days = end.duration_since(now).as_secs().div_euclid(DAY);
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

    fn retry_tomorrow(&mut self, work: &mut Work, now: i64) {
        let at = Some(now + DAY - self.task.rng.i64(0..DAY / 12));
        work.retry_at = at;
        work.kept.iter_mut().for_each(|kept| kept.retry_at = at);
    }

    fn known_end(&self, rotating: &Rotating, work: &Work) -> Option<Timestamp> {
        let kept = work.kept.as_ref().filter(|kept| !rotating.secrets.is_overruled(kept));
        let end = kept.and_then(|kept| Timestamp::from_second(kept.record.serving().expires?).ok());
        end.or_else(|| rotating.config.secret_expires.first().copied()).or(work.learned)
    }

    /// As the vendor's list tells of the secret in use.
    async fn learn_end(&mut self, rotating: &Rotating, work: &mut Work) -> Option<Timestamp> {
        match self.entries(rotating, work).await {
            Ok((record, entries)) => {
                let used = in_use(&record, &policy(rotating, ""), &entries, self.task.clock.now().wall);
                let mut own = entries.iter().zip(used).filter(|(_, used)| *used == InUse::Yes);
                work.learned = own.next().and_then(|(entry, _)| entry.expires);
                if work.learned.is_none() {
                    let fix = "set secret_expires, or rotate.current";
                    warn!(token = self.task.name, "the vendor's list does not tell when the client secret ends; {fix}");
                }
            }
            Err(why) => warn!(token = self.task.name, "when the client secret ends is not known: {why}"),
        }
        work.learned
    }
}
