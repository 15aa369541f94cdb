//! What the outcome of a call means for the rotation; where nothing came of it: `failure`.

use std::time::Duration;

use jiff::Timestamp;

use super::entries::TRIES_MAX;
use super::mark::Mark;
use super::{Action, Event, Held, Problem, Rotation, State, Style, Which, serves};
use crate::secret::Secret;

/// A new secret may be refused until every replica knows it: pauses between tries, 20 min together.
const PROPAGATION: [i64; 6] = [15, 45, 90, 150, 300, 600];
/// Refusals in that time that make the old one serve again.
const REFUSALS_MAX: usize = 3;
const REFUSALS_WINDOW: i64 = 600;
/// The old one serves again so often, then the new one is given up.
const BACKS_MAX: u32 = 3;

impl Rotation {
    /// Takes note of what happened. An answer that was not asked for changes nothing.
    pub fn on(&mut self, event: Event, now: Timestamp) {
        let now = now.as_second();
        let asked = self.asked.take();
        match (event, asked) {
            (Event::Saved, Some(Action::Save)) => {
                (self.dirty, self.saves_failed) = (false, 0);
                self.fresh &= self.record.state != State::Created;
            }
            (Event::SaveFailed, Some(Action::Save)) => self.save_failed(now),
            (Event::Listed(entries), Some(Action::List)) => self.listed(&entries, now),
            (Event::Created { id, secret }, Some(Action::Create { .. })) => self.created(id, &secret),
            (Event::Replaced, Some(Action::Replace)) => self.enter(State::Verifying { passed: 0 }),
            (Event::Accepted, Some(Action::Verify(which))) => self.accepted(which, now),
            (Event::Refused, Some(Action::Verify(which))) => self.refused(which, now),
            (Event::Deleted, Some(Action::Delete { id })) => self.deleted(&id, now),
            (Event::Failed(failure), Some(asked)) => self.failed(&asked, failure, now),
            (Event::Swapped, _) => self.published = serves(&self.record),
            (event @ (Event::ServingRefused | Event::Resume | Event::Daily | Event::Chosen(_)), asked) => {
                self.asked = asked;
                match event {
                    Event::ServingRefused => self.serving_refused(now),
                    Event::Chosen(id) => self.chosen(id),
                    event => self.resumed(matches!(event, Event::Resume)),
                }
            }
            _ => {}
        }
    }

    /// The record changes while a call is under way: what is being saved is not what it says then.
    pub(super) fn changes(&mut self) {
        self.asked.take_if(|asked| *asked == Action::Save);
    }

    pub(super) fn enter(&mut self, state: State) {
        self.record.state = state;
        (self.dirty, self.fails, self.looks, self.probe_old, self.checks) = (true, 0, 0, false, 0);
    }

    pub(super) fn wait(&mut self, now: i64, seconds: i64) {
        (self.record.until, self.dirty) = (Some(now.saturating_add(seconds.max(1))), true);
    }

    pub(super) fn settle(&mut self, now: i64) {
        self.wait(now, whole(self.policy.settle));
    }

    pub(super) fn park(&mut self, problem: Problem) {
        (self.record.problem, self.dirty) = (Some(problem), true);
    }

    /// All is as before; `problem` says why.
    pub(super) fn back_to_stable(&mut self, problem: Problem) {
        (self.record.new, self.record.doomed, self.record.kept, self.record.room) = (None, None, None, None);
        self.loose = false;
        self.record.problem = Some(problem);
        self.enter(State::Stable);
    }

    /// The new secret is the only one from now on.
    pub(super) fn finish(&mut self) {
        if let Some(new) = self.record.new.take() {
            self.record.old = new;
        }
        (self.record.doomed, self.record.cutting, self.record.problem) = (None, false, None);
        (self.record.kept, self.record.room) = (None, None);
        self.enter(State::Stable);
        self.published = Which::Old;
    }

    fn save_failed(&mut self, now: i64) {
        self.saves_failed += 1;
        self.save_after = Some(now + (1 << self.saves_failed.min(6)));
        if self.record.state == State::Created && self.fresh {
            // What cannot be kept must not be left at the vendor. The durable record says that it was asked for.
            self.loose = true;
            let what_to_do = "nothing was changed: make the store writable, then rotate again";
            self.abort(Problem::new("the new secret could not be saved", what_to_do));
        }
    }

    fn created(&mut self, id: Option<String>, secret: &Secret) {
        let record = &mut self.record;
        if *secret == record.old.secret() {
            let why = "the vendor gave the old secret again";
            return self.back_to_stable(Problem::new(why, "nothing was changed: look at the vendor's list"));
        }
        let mark = record.marks.pop();
        // Security: an id that was there before is not that of something new; but if it is, who deletes it has nothing left.
        let before = |id: &String| {
            record.old.id.as_ref() == Some(id) || mark.as_ref().is_some_and(|mark| mark.before.contains(id))
        };
        let (kept, id) = if id.as_ref().is_some_and(before) { (id, None) } else { (None, id) };
        record.kept = kept;
        record.new = Some(Held { mark, ..Held::new(secret, id) });
        self.enter(State::Created);
    }

    /// Gives up the new secret: it is deleted, unless it may be the last one that works.
    fn abort(&mut self, problem: Problem) {
        match (self.record.style, self.record.new.take()) {
            (Style::Create, Some(Held { mark: Some(mark), id, .. })) => {
                self.record.marks.push(Mark { id: id.or_else(|| mark.id.clone()), ..mark });
                self.found = false;
                self.enter(State::Aborting(problem));
            }
            _ => self.back_to_stable(problem),
        }
    }

    fn give_up(&mut self, problem: Problem, now: i64) {
        let old_gone = self.record.emergency || self.record.old.over(now) || self.record.cutting;
        let last = old_gone || self.record.style == Style::Replace;
        if last { self.park(problem) } else { self.abort(problem) }
    }

    fn accepted(&mut self, which: Which, now: i64) {
        self.fails = 0;
        let emergency = self.record.emergency;
        match (&mut self.record.state, which) {
            (State::Verifying { passed }, Which::New) => {
                *passed += 1;
                if *passed >= self.policy.times || emergency {
                    self.record.refusals.clear();
                    self.record.refused = 0;
                    self.enter(State::Swapped { since: now });
                } else {
                    self.wait(now, whole(self.policy.every));
                }
            }
            // The vendor has not taken the new one.
            (State::Verifying { .. }, Which::Old) if self.record.tries < TRIES_MAX => {
                self.record.tries += 1;
                self.enter(State::Creating);
                self.fresh = true;
            }
            (State::Verifying { .. }, Which::Old) => {
                (self.probe_old, self.record.tries) = (false, 0);
                self.park(Problem::new(
                    "the vendor does not take the new secret",
                    "both are kept: rotate again to try again",
                ));
            }
            // It works all the same: the clock was wrong, or the vendor.
            (State::Planned, _) => (self.probe_old, self.record.emergency, self.dirty) = (false, false, true),
            _ => {
                self.checks += 1;
                if self.checks < self.needed {
                    self.wait(now, whole(self.policy.every));
                }
            }
        }
    }

    fn refused(&mut self, which: Which, now: i64) {
        self.fails = 0;
        match &mut self.record.state {
            State::Verifying { passed } => *passed = 0,
            State::Planned => {
                (self.probe_old, self.old_dead) = (false, true);
                return;
            }
            // The deletion has not begun: the old one may go on.
            State::Deleting if !self.record.cutting && !self.record.old.over(now) => return self.swap_back(now),
            // Whether there is still another one is not known: this one has to prove itself again.
            _ => (self.checks, self.needed) = (0, self.policy.times),
        }
        self.dirty = true;
        if which == Which::New && self.record.unsure {
            self.probe_old = true;
            return;
        }
        self.probe_old = false;
        match PROPAGATION.get(self.record.refused as usize) {
            Some(pause) => {
                self.record.refused += 1;
                self.wait(now, *pause);
            }
            None => {
                let what_to_do = "look at the vendor's settings, then rotate again";
                self.give_up(Problem::new("the new secret is refused", what_to_do), now);
            }
        }
    }

    fn serving_refused(&mut self, now: i64) {
        if !self.record.may_go_back() || self.record.old.over(now) || self.record.emergency {
            return;
        }
        self.changes();
        let refusals = &mut self.record.refusals;
        refusals.retain(|at| now - REFUSALS_WINDOW < *at && *at <= now);
        refusals.push(now);
        if refusals.len() >= REFUSALS_MAX {
            self.swap_back(now);
        }
    }

    fn swap_back(&mut self, now: i64) {
        (self.record.refused, self.record.backs) = (0, self.record.backs + 1);
        self.record.refusals.clear();
        self.enter(State::Verifying { passed: 0 });
        if self.record.backs > BACKS_MAX {
            let what_to_do = "the old one serves: ask the vendor, then rotate again";
            self.give_up(Problem::new("the new secret is refused again and again", what_to_do), now);
        } else {
            self.wait(now, PROPAGATION[0]);
        }
    }
}

pub(super) fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
