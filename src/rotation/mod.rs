//! The rotation of a client secret at its vendor. A pure state machine: it does no I/O and
//! reads no clock, `now` and the answers are arguments, chance comes from a seeded generator. [`Rotation::next`] says what to
//! do, [`Rotation::on`] takes what came of it; the [`Record`] is saved before each remote call, so that a crash at any point
//! loses nothing. It must never delete a secret that is in use, one that somebody else made, or the last that works.

mod entries;
mod failure;
mod listing;
mod mark;
mod outcome;
mod person;
pub mod plan;
mod record;
mod step;

use fastrand::Rng;
use jiff::Timestamp;

pub use self::listing::{InUse, in_use, may_delete};
pub use self::mark::Entry;
pub use self::record::{Asks, Held, Problem, Record, State, Style};
pub use self::step::{Action, Begin, Event, Failure, Policy, Which};

/// A record that cannot be saved so often waits for a person.
const SAVES_MAX: u32 = 5;
/// No pause is longer, whatever a server asks for or a clock that was set back makes of it.
const PAUSE_MAX: i64 = 3600;

/// A rotation in a running process.
pub struct Rotation {
    policy: Policy,
    record: Record,
    rng: Rng,
    /// The record has changed since it was saved.
    dirty: bool,
    saves_failed: u32,
    save_after: Option<i64>,
    /// What the store cannot take is cleaned up all the same: what it holds says enough for a successor.
    loose: bool,
    /// The creation was not sent before, neither by this process nor by another.
    fresh: bool,
    /// The process before may have deleted something: the list does not show it yet.
    stale: bool,
    /// The call that is under way.
    asked: Option<Action>,
    /// Does the driver use what the record says?
    published: Which,
    /// Is the old one to be tried? Was it, and refused, as in an emergency it has to be?
    probe_old: bool,
    old_dead: bool,
    /// How often in a row the new one has worked since the old one is to be deleted, and how often it has to.
    checks: u32,
    needed: u32,
    /// Since the last call that went well.
    fails: u32,
    deletes: u32,
    /// Looks at the list for something that may still appear there.
    looks: u32,
    found: bool,
}

impl Rotation {
    /// Goes on from the newest durable record.
    pub fn resume(policy: Policy, mut record: Record, rng: Rng) -> Self {
        // Whether these calls were made is not known: the list or a try will tell.
        let stale = record.doomed.take().is_some();
        if let State::Verifying { passed } = &mut record.state {
            *passed = 0;
        }
        if record.state == State::Creating && record.style == Style::Replace {
            (record.unsure, record.state) = (true, State::Verifying { passed: 0 });
        }
        let (published, needed) = (serves(&record), policy.times.max(1));
        Self {
            policy,
            record,
            rng,
            dirty: false,
            saves_failed: 0,
            save_after: None,
            loose: false,
            fresh: false,
            stale,
            asked: None,
            published,
            probe_old: false,
            old_dead: false,
            checks: 0,
            // What the process before saw is not known.
            needed,
            fails: 0,
            deletes: 0,
            looks: 0,
            found: false,
        }
    }

    /// Starts another rotation, unless one is under way. `emergency`: the old secret does not work any more; one that is
    /// under way takes note of it as long as the old one serves.
    pub fn begin(&mut self, begin: Begin, emergency: bool) -> bool {
        self.changes();
        self.old_dead = false;
        if self.record.state != State::Stable {
            let old_serves = serves(&self.record) == Which::Old && !matches!(self.record.state, State::Aborting(_));
            if emergency && old_serves && !self.record.emergency {
                (self.record.emergency, self.dirty) = (true, true);
            }
            return false;
        }
        let (style, new) = match begin {
            Begin::Create => (Style::Create, None),
            Begin::Replace(secret) => (Style::Replace, Some(Held::new(&secret, None))),
            Begin::Import(held) => (Style::Import, Some(held)),
        };
        let (old, marks) = (self.record.old.clone(), std::mem::take(&mut self.record.marks));
        let state = if style == Style::Import { State::Created } else { State::Planned };
        self.record = Record { style, state, new, marks, emergency, ..Record::new(old) };
        (self.dirty, self.fails, self.deletes, self.looks, self.found) = (true, 0, 0, 0, false);
        true
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What to do now. Asked again without an event in between, it says the same.
    pub fn next(&mut self, now: Timestamp) -> Action {
        self.asked = None;
        let second = now.as_second();
        if self.saves_failed >= SAVES_MAX && !self.loose {
            let why = "the record of the rotation cannot be saved";
            return Action::Park(Problem::new(why, "make the store writable, then rotate again"));
        }
        if let Some(new) = &mut self.record.new {
            new.since.get_or_insert(second);
        }
        if std::mem::take(&mut self.stale) {
            self.settle(second);
        }
        self.move_on(second);
        if self.dirty && !self.loose {
            return match pause(&mut self.save_after, second) {
                Some(until) => Action::Wait(at(until)),
                None => self.ask(Action::Save),
            };
        }
        if serves(&self.record) != self.published {
            return Action::Swap;
        }
        if let Some(problem) = &self.record.problem {
            return Action::Park(problem.clone());
        }
        if let Some(until) = pause(&mut self.record.until, second) {
            return Action::Wait(at(until));
        }
        let action = self.call(second);
        self.ask(action)
    }

    /// Takes note of a list that was read for another purpose: when the secret in use ends.
    pub fn seen(&mut self, entries: &[Entry]) {
        self.changes();
        if self.record.state == State::Stable {
            let before = (self.record.old.id.clone(), self.record.old.expires);
            self.record.learn(&self.policy, entries);
            self.dirty |= before != (self.record.old.id.clone(), self.record.old.expires);
        }
    }

    fn ask(&mut self, action: Action) -> Action {
        self.asked = Some(action.clone());
        action
    }

    /// Steps that need no answer.
    fn move_on(&mut self, now: i64) {
        let record = &mut self.record;
        let next = match &mut record.state {
            _ if record.problem.is_some() => return,
            State::Planned if record.style == Style::Replace => {
                self.fresh = true;
                State::Creating
            }
            // Nothing is built on it before it is safe.
            State::Created if self.dirty => return,
            State::Created if record.style != Style::Create => State::Verifying { passed: 0 },
            State::Created if record.new.as_ref().is_some_and(|new| new.id.is_some()) => State::Verifying { passed: 0 },
            State::Swapped { since } => {
                // After a clock that was set back, the grace begins again.
                *since = (*since).min(now);
                let grace = i64::try_from(self.policy.grace.as_secs()).unwrap_or(i64::MAX);
                if now < since.saturating_add(grace) {
                    return;
                }
                (self.checks, self.needed) = (0, 1);
                State::Deleting
            }
            _ => return,
        };
        (record.state, self.dirty, self.looks) = (next, true, 0);
        // Where a creation was lost, the list is looked at once more.
        let lists = self.record.style == Style::Create && (self.record.old.id.is_some() || self.record.tries > 0);
        if self.record.state == State::Deleting && !lists {
            self.finish();
        }
    }

    /// The call of this state.
    fn call(&mut self, now: i64) -> Action {
        if let Some(id) = &self.record.doomed {
            return Action::Delete { id: id.clone() };
        }
        match &self.record.state {
            State::Stable => Action::Done,
            State::Planned if self.probe_old => Action::Verify(Which::Old),
            State::Planned | State::Created | State::Aborting(_) => Action::List,
            State::Creating => match self.record.marks.last() {
                _ if self.record.style == Style::Replace => Action::Replace,
                Some(mark) if self.fresh => Action::Create { tag: mark.tag.clone(), expires: at(mark.expires) },
                _ => Action::List,
            },
            State::Verifying { .. } => Action::Verify(if self.probe_old { Which::Old } else { Which::New }),
            State::Swapped { since } => {
                let grace = i64::try_from(self.policy.grace.as_secs()).unwrap_or(i64::MAX);
                Action::Wait(at(since.saturating_add(grace).min(now.saturating_add(PAUSE_MAX))))
            }
            State::Deleting if self.checks < self.needed => Action::Verify(Which::New),
            State::Deleting => Action::List,
        }
    }
}

fn serves(record: &Record) -> Which {
    if matches!(record.state, State::Swapped { .. } | State::Deleting) { Which::New } else { Which::Old }
}

/// Until when to wait; after a clock that was set back, no longer than the longest pause.
fn pause(until: &mut Option<i64>, now: i64) -> Option<i64> {
    *until = until.filter(|until| *until > now).map(|until| until.min(now + PAUSE_MAX));
    *until
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}
