//! What the outcome of a call, the list, or a word of an operator means for the rotation.

use std::time::Duration;

use jiff::Timestamp;

use super::entries::TRIES_MAX;
use super::record::Mark;
use super::{Action, Event, Failure, Held, Problem, Rotation, State, Style, Which, serves};
use crate::secret::Secret;

/// A new secret may be refused until every replica knows it: pauses between tries, 20 min together.
const PROPAGATION: [i64; 6] = [15, 45, 90, 150, 300, 600];
/// Refusals in that time that make the old one serve again.
const REFUSALS_MAX: usize = 3;
const REFUSALS_WINDOW: i64 = 600;
/// The old one serves again so often, then the new one is given up.
const BACKS_MAX: u32 = 3;
/// Failed calls in a row, and deletions, after which a person looks at it.
const FAILS_MAX: u32 = 12;
const DELETES_MAX: u32 = 10;
const AGAIN: i64 = 15;
const AGAIN_MAX: i64 = 3600;

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
            (Event::Created { id, secret }, Some(Action::Create { .. })) => self.created(id, &secret, now),
            (Event::Replaced, Some(Action::Replace)) => self.enter(State::Verifying { passed: 0 }),
            (Event::Accepted, Some(Action::Verify(which))) => self.accepted(which, now),
            (Event::Refused, Some(Action::Verify(which))) => self.refused(which, now),
            (Event::Deleted, Some(Action::Delete { id })) => self.deleted(&id, now),
            (Event::Failed(failure), Some(asked)) => self.failed(&asked, failure, now),
            (Event::Swapped, _) => self.published = serves(&self.record),
            (Event::ServingRefused, asked) => {
                self.asked = asked;
                self.serving_refused(now);
            }
            (Event::Resume, _) => self.resumed(),
            (Event::Chosen(id), _) => self.chosen(id),
            _ => {}
        }
    }

    pub(super) fn enter(&mut self, state: State) {
        self.record.state = state;
        (self.dirty, self.fails, self.looks, self.probe_old, self.checked) = (true, 0, 0, false, false);
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

    /// The same call again, later.
    fn again(&mut self, now: i64, at_least: i64) {
        self.fails += 1;
        if self.fails >= FAILS_MAX {
            let why = format!("the vendor cannot be reached or does not answer ({})", self.doing());
            return self.park(Problem::new(why, "look at the connection, then resume"));
        }
        self.wait(now, (AGAIN << (self.fails - 1).min(8)).min(AGAIN_MAX).max(at_least));
    }

    fn doing(&self) -> &'static str {
        match self.record.state {
            State::Stable => "nothing to do",
            State::Planned => "before the new secret is made",
            State::Creating | State::Created => "while the new secret is made",
            State::Verifying { .. } => "while the new secret is tried",
            State::Swapped { .. } | State::Deleting => "while the old secret is deleted",
            State::Aborting(_) => "while the new secret is deleted",
        }
    }

    /// All is as before; `problem` says why.
    pub(super) fn back_to_stable(&mut self, problem: Problem) {
        (self.record.new, self.record.doomed, self.loose) = (None, None, false);
        self.record.problem = Some(problem);
        self.enter(State::Stable);
    }

    /// The new secret is the only one from now on.
    pub(super) fn finish(&mut self) {
        if let Some(new) = self.record.new.take() {
            self.record.old = new;
        }
        (self.record.doomed, self.record.cutting, self.record.problem) = (None, false, None);
        self.enter(State::Stable);
        self.published = Which::Old;
    }

    fn save_failed(&mut self, now: i64) {
        self.saves_failed += 1;
        self.save_after = Some(now + (1 << self.saves_failed.min(6)));
        if self.record.state == State::Created && self.fresh {
            // What cannot be kept must not be left at the vendor. The durable record says that it was asked for.
            self.loose = true;
            self.abort(Problem::new("the new secret could not be saved", "make the store writable, then resume"));
        }
    }

    fn created(&mut self, id: Option<String>, secret: &Secret, now: i64) {
        let record = &mut self.record;
        if *secret == record.old.secret() {
            let why = "the vendor gave the old secret again";
            return self.back_to_stable(Problem::new(why, "look at the vendor's list"));
        }
        let mark = record.marks.pop();
        // An id that was there before is not that of something new.
        let id = id.filter(|id| record.old.id.as_ref() != Some(id));
        let id = id.filter(|id| !mark.as_ref().is_some_and(|mark| mark.before.contains(id)));
        record.new = Some(Held { mark, since: Some(now), ..Held::new(secret, id) });
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
        let last = self.record.emergency || self.record.old.over(now) || self.record.style == Style::Replace;
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
                    "both are kept: resume to try again",
                ));
            }
            _ => self.checked = true,
        }
    }

    fn refused(&mut self, which: Which, now: i64) {
        self.fails = 0;
        match &mut self.record.state {
            State::Verifying { passed } => *passed = 0,
            // The deletion has not begun: the old one may go on.
            State::Deleting if !self.record.cutting && !self.record.old.over(now) => return self.swap_back(now),
            _ => return self.again(now, AGAIN),
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
                self.give_up(Problem::new("the new secret is refused", "look at it, then resume to try again"), now)
            }
        }
    }

    fn serving_refused(&mut self, now: i64) {
        if !matches!(self.record.state, State::Swapped { .. }) || self.record.old.over(now) || self.record.emergency {
            return;
        }
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
            self.give_up(Problem::new("the new secret is refused again and again", "the old one serves"), now);
        } else {
            self.wait(now, PROPAGATION[0]);
        }
    }

    fn failed(&mut self, asked: &Action, failure: Failure, now: i64) {
        let words = match failure {
            Failure::Busy(wait) => return self.again(now, whole(wait).min(AGAIN_MAX)),
            _ if matches!(asked, Action::Verify(_)) => return self.again(now, AGAIN),
            Failure::AdminExpired => {
                let why = format!("the vendor refused the management token ({})", self.doing());
                return self.park(Problem::new(why, "give another one, then resume"));
            }
            Failure::NotSent => return self.again(now, AGAIN),
            Failure::Lost => match asked {
                Action::Create { .. } => {
                    (self.fresh, self.looks, self.found) = (false, 0, false);
                    return;
                }
                Action::Replace => {
                    self.record.unsure = true;
                    return self.enter(State::Verifying { passed: 0 });
                }
                _ => {
                    // Perhaps it was done: the list tells.
                    self.record.doomed = None;
                    return self.again(now, AGAIN);
                }
            },
            Failure::Refused(words) => words,
        };
        match asked {
            Action::Create { .. } => {
                self.back_to_stable(Problem::new(
                    format!("the vendor makes no secret: {words}"),
                    "nothing was changed",
                ));
            }
            Action::Replace if !self.record.unsure => {
                self.back_to_stable(Problem::new(
                    format!("the vendor takes no secret: {words}"),
                    "nothing was changed",
                ));
            }
            Action::Replace => {
                self.enter(State::Verifying { passed: 0 });
                let why = format!("the vendor takes no secret: {words}");
                self.park(Problem::new(
                    why,
                    "both are kept, because an earlier try may have been taken: resume to try",
                ));
            }
            Action::Delete { .. } => self.deletion_over(now),
            _ => self.park(Problem::new(format!("the vendor refuses ({}): {words}", self.doing()), "then resume")),
        }
    }

    fn deleted(&mut self, id: &str, now: i64) {
        self.fails = 0;
        if self.record.state == State::Deleting && self.record.old.id.as_deref() == Some(id) {
            return self.finish();
        }
        self.deletion_over(now);
    }

    /// The list tells whether it is gone.
    fn deletion_over(&mut self, now: i64) {
        (self.record.doomed, self.record.room, self.deletes) = (None, None, self.deletes + 1);
        self.settle(now);
        if self.deletes >= DELETES_MAX {
            let why = format!("the vendor does not delete a secret ({})", self.doing());
            self.park(Problem::new(why, "delete it there by hand, then resume"));
        }
    }
}

fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
