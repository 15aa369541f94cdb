//! The rotation of a client secret at its vendor; not wired into the program yet. A pure state machine: it does no I/O and
//! reads no clock, `now` and the answers are arguments, chance comes from a seeded generator. [`Rotation::next`] says what to
//! do, [`Rotation::on`] takes what came of it; the [`Record`] is saved before each remote call, so that a crash at any point
//! loses nothing. It must never delete a secret that is in use, one that somebody else made, or the last that works.

mod entries;
mod outcome;
pub mod plan;
mod record;
mod whose;

use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;

pub use self::record::{Asks, Entry, Held, Problem, Record, State, Style};
use crate::secret::Secret;

/// A record that cannot be saved so often waits for a person.
const SAVES_MAX: u32 = 5;
/// No pause is longer, whatever a server asks for or a clock that was set back makes of it.
const PAUSE_MAX: i64 = 3600;

/// What does not change: how rotation is configured.
#[derive(Clone, Debug)]
pub struct Policy {
    /// A name that no other store has, for the tags of what is created.
    pub instance: String,
    /// How many secrets the vendor allows at once.
    pub slots: Option<usize>,
    pub lifetime: Duration,
    /// How long the old one is kept beside the new one; taken literally.
    pub grace: Duration,
    /// So many successes in a row, this far apart, before a new one is used.
    pub times: u32,
    pub every: Duration,
    /// After so long, the vendor's list shows what was done before.
    pub settle: Duration,
}

/// What a rotation begins with.
pub enum Begin {
    Create,
    /// With a value that was made up here.
    Replace(Secret),
    Import(Held),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record durably.
    Save,
    /// Ask the vendor which secrets there are.
    List,
    /// Ask it for another one, with this name, that ends then.
    Create {
        tag: String,
        expires: Timestamp,
    },
    /// Give it the new one's value.
    Replace,
    /// Get a token with it, over a new connection.
    Verify(Which),
    /// Use [`Record::serving`] from now on.
    Swap,
    Delete {
        id: String,
    },
    Wait(Timestamp),
    /// Nothing until a person has acted.
    Park(Problem),
    Done,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Old,
    New,
}

/// What came of it, or of something else.
pub enum Event {
    Saved,
    SaveFailed,
    Listed(Vec<Entry>),
    Created {
        id: Option<String>,
        secret: Secret,
    },
    Replaced,
    Accepted,
    Refused,
    Deleted,
    Swapped,
    Failed(Failure),
    /// The new one serves, and was refused where the old one was not.
    ServingRefused,
    /// A person has acted, or a day has passed.
    Resume,
    /// A person chose what a [`Problem`] asks for.
    Chosen(String),
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may have been done or not: no answer, half of one, or one of a server in trouble.
    Lost,
    /// It did not leave.
    NotSent,
    /// It was not done, in the vendor's words.
    Refused(String),
    /// It was not done; again after that.
    Busy(Duration),
    /// The management token is not valid any more.
    AdminExpired,
}

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
    /// The call that is under way.
    asked: Option<Action>,
    /// Does the driver use what the record says?
    published: Which,
    /// Is the old one to be tried?
    probe_old: bool,
    /// Was the new one tried before the old one is deleted?
    checked: bool,
    /// Since the last call that went well.
    fails: u32,
    deletes: u32,
    /// Looks at the list for something that may still appear there.
    looks: u32,
    found: bool,
    /// Entries that a person was told of.
    shown: Vec<String>,
}

impl Rotation {
    /// Goes on from the newest durable record.
    pub fn resume(policy: Policy, mut record: Record, rng: Rng) -> Self {
        // Whether these calls were made is not known: the list or a try will tell.
        record.doomed = None;
        if let State::Verifying { passed } = &mut record.state {
            *passed = 0;
        }
        if record.state == State::Creating && record.style == Style::Replace {
            (record.unsure, record.state) = (true, State::Verifying { passed: 0 });
        }
        let published = serves(&record);
        Self {
            policy,
            record,
            rng,
            dirty: false,
            saves_failed: 0,
            save_after: None,
            loose: false,
            fresh: false,
            asked: None,
            published,
            probe_old: false,
            checked: false,
            fails: 0,
            deletes: 0,
            looks: 0,
            found: false,
            shown: Vec::new(),
        }
    }

    /// Starts another rotation, unless one is under way. `emergency`: the old secret does not work any more.
    pub fn begin(&mut self, begin: Begin, emergency: bool, now: Timestamp) -> bool {
        if self.record.state != State::Stable {
            return false;
        }
        let (style, new) = match begin {
            Begin::Create => (Style::Create, None),
            Begin::Replace(secret) => (Style::Replace, Some(Held::new(&secret, None))),
            Begin::Import(held) => (Style::Import, Some(held)),
        };
        let (old, marks) = (self.record.old.clone(), std::mem::take(&mut self.record.marks));
        let state = if style == Style::Import { State::Created } else { State::Planned };
        let new = new.map(|held| Held { since: Some(now.as_second()), ..held });
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
            return Action::Park(Problem::new(why, "make the store writable, then resume"));
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
                self.checked = false;
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
            State::Deleting if !self.checked => Action::Verify(Which::New),
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
