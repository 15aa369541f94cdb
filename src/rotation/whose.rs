//! Which of the vendor's secrets are in use here, for a person who looks at the list or deletes one.

use jiff::Timestamp;

use super::Entry;
use super::record::{Held, Record, State, live};

impl Record {
    /// Is it the secret in use? `None`: the list does not tell.
    pub fn is_in_use(&self, entry: &Entry, entries: &[Entry]) -> Option<bool> {
        if entry.deleted {
            return Some(false);
        }
        let held = self.serving();
        if let Some(found) = found(held, entries) {
            return Some(found.id == entry.id);
        }
        match held.hinted(entry) {
            Some(false) => Some(false),
            _ => None,
        }
    }

    /// May a person have it deleted? `Err` says why not.
    pub fn may_be_deleted(&self, id: &str, entries: &[Entry], now: Timestamp) -> Result<(), String> {
        let listed = || entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>().join(", ");
        let entry = entries.iter().find(|entry| entry.id == id);
        let entry = entry.ok_or_else(|| format!("the vendor has no secret {id}; it has: {}", listed()))?;
        if entry.deleted {
            return Err(format!("{id} is deleted already"));
        }
        if !matches!(self.state, State::Stable) {
            let both = [Some(&self.old), self.new.as_ref()].into_iter().flatten();
            if both.clone().any(|held| found(held, entries).is_none_or(|found| found.id == id)) {
                return Err(format!("{id} may be one of those that a rotation is about: let it end first"));
            }
        }
        match self.is_in_use(entry, entries) {
            Some(false) => Ok(()),
            Some(true) => Err(format!("{id} is the secret in use")),
            // One that has ended serves nobody.
            None if entry.expired(now.as_second()) => Ok(()),
            None => {
                let hint = "say which one is: rotate.current in the configuration";
                Err(format!("{id} may be the secret in use, which the list does not tell; {hint}"))
            }
        }
    }

    /// Another value was configured: it is all there is from now on. What may exist at the vendor without anybody who knows its
    /// value is remembered.
    pub fn replaced_by(&self, held: Held) -> Self {
        let mut marks = self.marks.clone();
        if let Some(Held { mark: Some(mark), .. }) = &self.new {
            marks.push(mark.clone());
        }
        Self { marks, ..Self::new(held) }
    }
}

/// The one entry that it is.
fn found<'e>(held: &Held, entries: &'e [Entry]) -> Option<&'e Entry> {
    let mut own = live(entries).filter(|entry| held.is(entry));
    if let (Some(one), None) = (own.next(), own.next()) {
        return Some(one);
    }
    if held.id.is_some() {
        return None;
    }
    let mut hinted = live(entries).filter(|entry| held.hinted(entry) == Some(true));
    if let (Some(one), None) = (hinted.next(), hinted.next()) {
        return Some(one);
    }
    // The only one there is.
    let mut all = live(entries).filter(|entry| held.hinted(entry) != Some(false));
    if let (Some(one), None) = (all.next(), all.next()) { Some(one) } else { None }
}
