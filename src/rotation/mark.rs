//! The vendor's list, and how a secret is recognised there: by its id, by the name or the end that it was asked for with, by
//! the first characters of its value. What is not recognised is somebody else's.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Held, Policy};

/// Another's clock may differ from ours: so long after its end, a secret has expired.
const EXPIRED_AFTER: i64 = 3600;
/// Every tag begins so.
pub(super) const TAG: &str = "tb/";

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
    /// The vendor has answered to its deletion: once it is not listed any more, this mark has done its work.
    pub(super) deleted: bool,
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
        // What is deleted may leave its id to another.
        let before = live(entries).map(|entry| entry.id.clone()).collect();
        Self { tag, expires, before, id: None, deleted: false }
    }

    /// By its name; or by what was told of it, unless it has another name: an id may be given to another.
    pub(super) fn names(&self, entry: &Entry) -> bool {
        match &entry.tag {
            Some(tag) => *tag == self.tag,
            None => self.id.as_ref() == Some(&entry.id),
        }
    }

    /// By its end, where the vendor keeps no name.
    pub(super) fn ends_like(&self, entry: &Entry) -> bool {
        entry.tag.is_none() && entry.end() == Some(self.expires) && !self.before.contains(&entry.id)
    }

    pub(super) fn fits(&self, entry: &Entry) -> bool {
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

    pub(super) fn ends_otherwise(&self, entry: &Entry) -> bool {
        self.expires.is_some() && entry.end().is_some() && self.expires != entry.end()
    }

    /// `None`: the vendor gives no hint.
    pub(super) fn hinted(&self, entry: &Entry) -> Option<bool> {
        let hint = entry.hint.as_ref().filter(|hint| !hint.is_empty())?;
        Some(self.value.starts_with(hint.as_str()))
    }

    /// Its entry. `Err`: those that may be it. An entry that has expired is none, unless it is looked for (`expired_too`).
    pub(super) fn find<'e>(
        &self,
        entries: &'e [Entry],
        expired_too: bool,
        now: i64,
    ) -> Result<&'e Entry, Vec<&'e Entry>> {
        let named: Vec<_> = live(entries).filter(|entry| self.is(entry)).collect();
        if let [one] = named[..] {
            let others = || live(entries).filter(|entry| entry.id != one.id && self.hinted(entry) == Some(true));
            // Security: who named the wrong one would have it deleted.
            let wrong = self.hinted(one) == Some(false) && others().next().is_some();
            return if wrong { Err(others().chain([one]).collect()) } else { Ok(one) };
        }
        if self.id.is_some() {
            return Err(named);
        }
        let possible = live(entries).filter(|entry| expired_too || !entry.expired(now));
        let possible: Vec<_> = possible.filter(|entry| self.hinted(entry) != Some(false)).collect();
        let hinted: Vec<_> = possible.iter().copied().filter(|entry| self.hinted(entry) == Some(true)).collect();
        match (&possible[..], &hinted[..]) {
            ([one], _) | (_, [one]) => Ok(one),
            _ => Err(possible),
        }
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
        let found: Vec<_> = live(entries).filter(|entry| self.is(entry)).collect();
        if let [one] = found[..] {
            (self.id, self.expires) = (Some(one.id.clone()), one.end().or(self.expires));
        }
    }
}

pub(super) fn live(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| !entry.deleted)
}
