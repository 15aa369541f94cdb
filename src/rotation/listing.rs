//! For the commands that show the vendor's secrets and delete one: which is in use, and which may go by a person's order.

use jiff::Timestamp;

use super::entries::named;
use super::mark::live;
use super::{Entry, Held, Policy, Problem, Record, State};

/// Is it the one in use?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUse {
    Yes,
    No,
    /// It cannot be told.
    Unknown,
}

/// Of each entry. Without a record: `Record::new(Held::new(&configured, None))`.
pub fn in_use(record: &Record, policy: &Policy, entries: &[Entry], now: Timestamp) -> Vec<InUse> {
    let mut record = record.clone();
    record.learn(policy, entries);
    entries.iter().map(|entry| record.serving().is_it(entry, entries, now.as_second())).collect()
}

/// May it be deleted, by a person's order? Even then nothing is that may be the last that works, or that a rotation needs.
pub fn may_delete(
    record: &Record,
    policy: &Policy,
    entries: &[Entry],
    id: &str,
    now: Timestamp,
) -> Result<(), Problem> {
    let mut record = record.clone();
    record.learn(policy, entries);
    let shown = named([id].into_iter());
    if !entries.iter().any(|entry| entry.id == id) {
        let why = format!("the vendor's list has no secret {shown}");
        return Err(Problem::new(why, "look at the list: `secret list`"));
    }
    for entry in live(entries).filter(|entry| entry.id == id) {
        if let Some((why, what_to_do)) = record.needs(entry, entries, now) {
            return Err(Problem::new(format!("the secret {shown} is not deleted: {why}"), what_to_do));
        }
    }
    Ok(())
}

impl Held {
    fn is_it(&self, entry: &Entry, entries: &[Entry], now: i64) -> InUse {
        if entry.deleted {
            return InUse::No;
        }
        match self.find(entries, false, now) {
            Ok(one) if one.id == entry.id => InUse::Yes,
            Ok(_) => InUse::No,
            // Where all are excluded, what excluded them is wrong.
            Err(possible) if possible.is_empty() => InUse::Unknown,
            Err(possible) if possible.iter().any(|one| one.id == entry.id) => InUse::Unknown,
            Err(_) => InUse::No,
        }
    }
}

impl Record {
    /// Why it may not be deleted, and what to do.
    fn needs(&self, entry: &Entry, entries: &[Entry], now: Timestamp) -> Option<(&'static str, &'static str)> {
        let under_way = self.state != State::Stable;
        let rotate = "let the rotation come to its end first: `secret rotate`";
        let held = [Some(self.serving()), self.fallback(now), Some(&self.old), self.new.as_ref()];
        let whys = [
            "it is in use",
            "it is used where the new one is refused",
            "the rotation that is under way needs it, or deletes it itself",
            "the rotation that is under way needs it",
        ];
        for (held, why) in held.into_iter().zip(whys) {
            match held.map(|held| held.is_it(entry, entries, now.as_second())) {
                Some(InUse::Yes) if why == whys[0] => return Some((why, "rotate first: `secret rotate`")),
                Some(InUse::Yes) => return Some((why, rotate)),
                Some(InUse::Unknown) => {
                    let why = "which one is in use cannot be told";
                    return Some((why, "say which one it is: `current` in the token's `rotate`"));
                }
                _ => {}
            }
        }
        let ours = self.marks.iter().any(|mark| mark.fits(entry)) || self.strangers(entries).contains(&entry.id);
        (under_way && ours).then_some(("it may be one that the rotation under way has made", rotate))
    }
}
