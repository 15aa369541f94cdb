//! What of a rotation is durable: which secrets are held, how far it has come, what was asked for; and how a secret is
//! recognised in the vendor's list.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Policy;
use crate::secret::Secret;

/// Another's clock may differ from ours: so long after its end, a secret has expired.
const EXPIRED_AFTER: i64 = 3600;
/// Every tag begins so.
pub(super) const TAG: &str = "tb/";

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

/// How a secret that was asked for is recognised in the vendor's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub(super) tag: String,
    /// A second that ends no other secret, since 1970.
    pub(super) expires: i64,
    /// What was listed before it was asked for.
    pub(super) before: Vec<String>,
    /// As the vendor or a person told.
    pub(super) id: Option<String>,
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
    /// When it was made, in seconds since 1970, where that is known.
    pub since: Option<i64>,
}

impl Held {
    pub fn new(secret: &Secret, id: Option<String>) -> Self {
        Self { value: Zeroizing::new(secret.expose().to_owned()), id, mark: None, expires: None, since: None }
    }

    /// How long ago it was made, where that is known.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        Some(Duration::from_secs(now.as_second().saturating_sub(self.since?).try_into().unwrap_or(0)))
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
    /// About to be deleted.
    pub(super) doomed: Option<String>,
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
            doomed: None,
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
            State::Swapped { .. } => Some(&self.old).filter(|old| !old.over(now.as_second())),
            State::Creating | State::Verifying { .. } if self.style == Style::Replace => self.new.as_ref(),
            _ => None,
        }
    }
}

/// One secret in the vendor's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    /// The name that it was created with, where the vendor keeps one.
    pub tag: Option<String>,
    /// The first characters of its value.
    pub hint: Option<String>,
    pub started: Option<Timestamp>,
    pub expires: Option<Timestamp>,
    /// Deleted, and listed all the same.
    pub deleted: bool,
}

impl Entry {
    pub(super) fn end(&self) -> Option<i64> {
        self.expires.map(Timestamp::as_second)
    }

    pub(super) fn expired(&self, now: i64) -> bool {
        self.end().is_some_and(|end| end.saturating_add(EXPIRED_AFTER) <= now)
    }
}

impl Mark {
    pub(super) fn new(policy: &Policy, entries: &[Entry], now: i64, rng: &mut fastrand::Rng) -> Self {
        let lifetime = i64::try_from(policy.lifetime.as_secs()).unwrap_or(i64::MAX);
        let spread = (lifetime / 10).clamp(1, 3600);
        let mut expires = now.saturating_add(lifetime).saturating_sub(rng.i64(0..spread));
        while entries.iter().any(|entry| entry.end() == Some(expires)) {
            expires -= 1;
        }
        let tag = format!("{TAG}{}/{:016x}", policy.instance, rng.u64(..));
        Self { tag, expires, before: entries.iter().map(|entry| entry.id.clone()).collect(), id: None }
    }

    /// By what was told of it, or by its name.
    pub(super) fn names(&self, entry: &Entry) -> bool {
        self.id.as_ref() == Some(&entry.id) || entry.tag.as_ref() == Some(&self.tag)
    }

    /// By its end, where the vendor keeps no name.
    pub(super) fn ends_like(&self, entry: &Entry) -> bool {
        entry.tag.is_none() && entry.end() == Some(self.expires) && !self.before.contains(&entry.id)
    }

    fn fits(&self, entry: &Entry) -> bool {
        self.names(entry) || self.ends_like(entry)
    }
}

impl Held {
    pub(super) fn is(&self, entry: &Entry) -> bool {
        match &self.id {
            Some(id) => entry.id == *id,
            None => self.mark.as_ref().is_some_and(|mark| mark.fits(entry)),
        }
    }

    /// `None`: the vendor gives no hint.
    pub(super) fn hinted(&self, entry: &Entry) -> Option<bool> {
        let hint = entry.hint.as_ref().filter(|hint| !hint.is_empty())?;
        Some(self.value.starts_with(hint.as_str()))
    }

    /// Takes its id and its end from the list.
    pub(super) fn learn(&mut self, entries: &[Entry]) {
        if !entries.iter().any(|entry| self.is(entry))
            && let Some(mark) = &self.mark
            && let [one] = live(entries).filter(|entry| mark.fits(entry)).collect::<Vec<_>>()[..]
        {
            // An answer may call it otherwise than the list does.
            self.id = Some(one.id.clone());
        }
        let found: Vec<_> = entries.iter().filter(|entry| self.is(entry)).collect();
        if let [one] = found[..] {
            (self.id, self.expires) = (Some(one.id.clone()), one.end());
        }
    }
}

pub(super) fn live(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| !entry.deleted)
}
