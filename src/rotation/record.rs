//! What of a rotation is durable: which secrets are held, how far it has come, what was asked for.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::mark::Mark;
use crate::secret::Secret;

/// Creations that are remembered because one of them may still appear.
const MARKS_MAX: usize = 4;
/// How the vendor replaces a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// It makes another one, which has an id in its list; the old one is deleted later.
    Create,
    /// It takes a value of ours in the place of the old one.
    Replace,
    /// A person brings another one.
    Import,
}

/// A secret that we hold the value of.
#[derive(Clone, Serialize, Deserialize)]
pub struct Held {
    pub(super) value: Zeroizing<String>,
    /// The vendor's name for it.
    pub id: Option<String>,
    pub(super) mark: Option<Mark>,
    /// Its end as the list shows it, in seconds since 1970. What an answer to a creation says of it is not believed.
    pub expires: Option<i64>,
    /// When it was made or brought by a rotation, in seconds since 1970; not known of a configured one.
    pub since: Option<i64>,
}

impl Held {
    pub fn new(secret: &Secret, id: Option<String>) -> Self {
        Self { value: Zeroizing::new(secret.expose().to_owned()), id, mark: None, expires: None, since: None }
    }

    /// How long it has been there; nothing where the clock was set back since.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        let seconds = now.as_second().saturating_sub(self.since?);
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// Its end, as far as it is known.
    pub fn ends(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.expires?).ok()
    }

    pub fn secret(&self) -> Secret {
        Secret::new(self.value.as_str().to_owned())
    }

    pub(super) fn over(&self, now: i64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// One secret, and nothing to do.
    Stable,
    /// The old one is looked for in the list, and a place for another is made.
    Planned,
    /// Another one may have been asked for; its mark is the last one.
    Creating,
    /// It is held, its id is looked for.
    Created,
    /// It is tried; the old one serves.
    Verifying { passed: u32 },
    /// It serves since then; the old one is there for those who refuse it.
    Swapped { since: i64 },
    /// The old one is deleted.
    Deleting,
    /// What was created is deleted, for that reason; the old one serves.
    Aborting(Problem),
}

/// Why a person has to look at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub why: String,
    pub what_to_do: String,
    pub asks: Option<Asks>,
}

/// What a person is asked to choose, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asks {
    /// The entry of the secret in use.
    Current,
    /// The entry that may be deleted to make a place.
    Room,
    /// The entry that we made and whose answer was lost.
    Ours,
}

impl Problem {
    pub(super) fn new(why: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { why: why.into(), what_to_do: what_to_do.into(), asks: None }
    }

    pub(super) fn asking(self, asks: Asks) -> Self {
        Self { asks: Some(asks), ..self }
    }
}

/// What is durable: one for each credential.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    pub style: Style,
    pub state: State,
    pub old: Held,
    pub new: Option<Held>,
    /// Of all that may exist at the vendor without anybody who knows its value.
    pub(super) marks: Vec<Mark>,
    /// What a person was told of: one of them may be ours.
    pub(super) shown: Vec<String>,
    /// About to be deleted.
    pub(super) doomed: Option<String>,
    /// Never deleted in this rotation: the vendor gave the new one an id that was there before.
    pub(super) kept: Option<String>,
    /// The deletion of the old one was begun.
    pub(super) cutting: bool,
    /// What the operator gave up to make a place.
    pub(super) room: Option<String>,
    /// The old one does not work any more, as the vendor says.
    pub emergency: bool,
    /// The vendor may have taken the new value, but did not say so.
    pub(super) unsure: bool,
    pub(super) tries: u32,
    pub(super) refused: u32,
    pub(super) backs: u32,
    /// When the new one was refused while it served.
    pub(super) refusals: Vec<i64>,
    pub(super) until: Option<i64>,
    pub problem: Option<Problem>,
}

impl Record {
    pub fn new(serving: Held) -> Self {
        Self {
            style: Style::Create,
            state: State::Stable,
            old: serving,
            new: None,
            marks: Vec::new(),
            shown: Vec::new(),
            doomed: None,
            kept: None,
            cutting: false,
            room: None,
            emergency: false,
            unsure: false,
            tries: 0,
            refused: 0,
            backs: 0,
            refusals: Vec::new(),
            until: None,
            problem: None,
        }
    }

    /// The secret that is used first.
    pub fn serving(&self) -> &Held {
        match (&self.state, &self.new) {
            (State::Swapped { .. } | State::Deleting, Some(new)) => new,
            _ => &self.old,
        }
    }

    /// The one that is tried once where the first is refused.
    pub fn fallback(&self, now: Timestamp) -> Option<&Held> {
        match self.state {
            _ if self.may_go_back() => Some(&self.old).filter(|old| !old.over(now.as_second())),
            State::Creating | State::Verifying { .. } if self.style == Style::Replace => self.new.as_ref(),
            _ => None,
        }
    }

    /// The new one serves, and the old one is still there.
    pub(super) fn may_go_back(&self) -> bool {
        matches!(self.state, State::Swapped { .. }) || self.state == State::Deleting && !self.cutting
    }

    /// For a configuration that has another value now: that one serves, and what was made here before and is still at the
    /// vendor is remembered, so that the next rotation deletes it.
    pub fn replaced_by(&self, configured: &Secret, id: Option<String>) -> Self {
        let held = || [Some(&self.old), self.new.as_ref()].into_iter().flatten();
        let mut record = match held().find(|held| held.secret() == *configured) {
            // It was taken from here.
            Some(held) => Self::new(Held { id: held.id.clone().or(id), ..held.clone() }),
            None => Self::new(Held::new(configured, id)),
        };
        record.marks.clone_from(&self.marks);
        let dropped = held().filter(|held| held.secret() != *configured);
        record.marks.extend(dropped.filter_map(|held| {
            let mark = held.mark.clone()?;
            Some(Mark { id: held.id.clone().or_else(|| mark.id.clone()), ..mark })
        }));
        record.forget_the_oldest();
        record
    }

    pub(super) fn forget_the_oldest(&mut self) {
        let over = self.marks.len().saturating_sub(MARKS_MAX);
        self.marks.drain(..over);
    }
}
