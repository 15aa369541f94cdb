//! What the vendor's list means: which entry is whose, which may be deleted, and what is done next; and what a person says of
//! it.

use super::record::{Mark, TAG, live};
use super::{Asks, Entry, Policy, Problem, Record, Rotation, SAVES_MAX, State};

/// A tag of another broker that is younger means that it is at work.
const FRESH: i64 = 86_400;
/// Creations that are remembered because one of them may still appear.
const MARKS_MAX: usize = 4;
/// Creations of one rotation whose answers may be lost.
pub(super) const TRIES_MAX: u32 = 3;
/// Looks at a list that may not show yet what is new.
const LOOKS_MAX: u32 = 2;

impl Rotation {
    /// Takes note of what the vendor has.
    pub(super) fn listed(&mut self, entries: &[Entry], now: i64) {
        self.fails = 0;
        self.record.learn(entries);
        match self.record.state {
            State::Planned => self.plan(entries, now),
            State::Creating | State::Aborting(_) => self.clean(entries, now),
            State::Created => {
                self.looks += 1;
                if self.record.new.as_ref().is_some_and(|new| new.id.is_none()) && self.looks < LOOKS_MAX {
                    self.settle(now);
                } else {
                    // Without an id it serves as well; who has to delete it will be asked.
                    self.enter(State::Verifying { passed: 0 });
                }
            }
            State::Deleting => self.cut(entries, now),
            _ => {}
        }
    }

    /// The old one is known, there is a place: another one is asked for.
    fn plan(&mut self, entries: &[Entry], now: i64) {
        if self.cleans(entries, now) {
            return;
        }
        match self.record.current(entries, now) {
            Err(problem) => return self.park(problem),
            Ok(id) => self.record.old.id = id,
        }
        self.record.learn(entries);
        match self.record.room(&self.policy, entries, now) {
            Err(problem) => return self.park(problem),
            Ok(Some(id)) => return self.doom(&id, entries, now),
            Ok(None) => {}
        }
        let mark = Mark::new(&self.policy, entries, now, &mut self.rng);
        self.record.marks.push(mark);
        if self.record.marks.len() > MARKS_MAX {
            self.record.marks.remove(0);
        }
        self.enter(State::Creating);
        self.fresh = true;
    }

    /// Whatever of ours nobody knows the value of goes; then it is as before.
    fn clean(&mut self, entries: &[Entry], now: i64) {
        if self.cleans(entries, now) {
            return;
        }
        self.looks += 1;
        if self.looks < LOOKS_MAX && !self.found {
            return self.settle(now);
        }
        self.found = false;
        if let State::Aborting(problem) = &self.record.state {
            return self.back_to_stable(problem.clone());
        }
        self.record.tries += 1;
        if self.record.tries >= TRIES_MAX {
            let why = "the answer to the creation of a secret was lost again and again";
            return self.back_to_stable(Problem::new(why, "nothing was changed: look at the connection"));
        }
        self.enter(State::Planned);
    }

    /// Is there something to be deleted first, or asked for, because its value is lost?
    fn cleans(&mut self, entries: &[Entry], now: i64) -> bool {
        match self.record.orphan(entries) {
            Ok(None) => {
                let lost = match self.record.state {
                    State::Creating | State::Aborting(_) => !self.found,
                    _ => self.record.tries > 0 && self.record.new.as_ref().is_none_or(|new| new.id.is_some()),
                };
                let strangers = if lost { self.record.strangers(entries) } else { Vec::new() };
                if strangers.is_empty() {
                    return false;
                }
                self.ask_which_is_ours(strangers);
            }
            Ok(Some(id)) => {
                self.found = true;
                self.doom(&id, entries, now);
            }
            Err(ids) => self.ask_which_is_ours(ids),
        }
        true
    }

    fn ask_which_is_ours(&mut self, ids: Vec<String>) {
        let why = format!("a secret may have been made whose value is lost; it would be one of: {}", ids.join(", "));
        self.shown = ids;
        self.park(Problem::new(why, "say which one it is, or resume if it is none").asking(Asks::Ours));
    }

    /// The old one is deleted.
    fn cut(&mut self, entries: &[Entry], now: i64) {
        if self.cleans(entries, now) {
            return;
        }
        let new = self.record.new.as_ref();
        if !new.is_some_and(|new| new.id.is_none() || live(entries).any(|entry| new.is(entry))) {
            self.looks += 1;
            if self.looks < LOOKS_MAX {
                return self.settle(now);
            }
            let why = "the secret in use is not in the vendor's list";
            return self.park(Problem::new(why, "the old one was not deleted: look at the vendor's list"));
        }
        match live(entries).find(|entry| self.record.old.is(entry)) {
            None => self.finish(),
            Some(entry) => {
                self.record.cutting = true;
                self.doom(&entry.id, entries, now);
            }
        }
    }

    /// A person has acted, or a day has passed: everything is tried again.
    pub(super) fn resumed(&mut self) {
        let store = self.saves_failed >= SAVES_MAX && !self.loose;
        (self.saves_failed, self.save_after, self.fails, self.deletes, self.looks) = (0, None, 0, 0, 0);
        (self.record.refused, self.record.backs) = (0, 0);
        // What else there is to say is said when it is saved.
        if !store && self.record.problem.take().is_some() {
            self.dirty = true;
            // They have seen what was listed: it is not ours.
            let shown = std::mem::take(&mut self.shown);
            for mark in &mut self.record.marks {
                mark.before.extend(shown.iter().cloned());
            }
        }
    }

    pub(super) fn chosen(&mut self, id: String) {
        let Some(problem) = self.record.problem.take() else { return };
        let record = &mut self.record;
        match problem.asks {
            Some(Asks::Current) => record.old.id = Some(id),
            Some(Asks::Room) => record.room = Some(id),
            Some(Asks::Ours) if self.shown.contains(&id) => {
                if let Some(mark) = record.marks.last_mut() {
                    mark.id = Some(id);
                }
            }
            _ => {
                record.problem = Some(problem);
                return;
            }
        }
        (self.dirty, self.looks) = (true, 0);
    }

    /// The one place that decides on a deletion.
    fn doom(&mut self, id: &str, entries: &[Entry], now: i64) {
        if live(entries).any(|entry| entry.id == id && self.record.may_delete(entry, now)) {
            (self.record.doomed, self.dirty) = (Some(id.to_owned()), true);
        } else {
            let why = format!("the secret {id} would be deleted, but may be in use");
            self.park(Problem::new(why, "look at the vendor's list"));
        }
    }
}

impl Record {
    fn learn(&mut self, entries: &[Entry]) {
        self.old.learn(entries);
        if let Some(new) = &mut self.new {
            new.learn(entries);
        }
    }

    /// May it be deleted? Security: nothing is but what passed here, whoever asks for it. What is in use is not, nor what may
    /// come into use.
    fn may_delete(&self, entry: &Entry, now: i64) -> bool {
        let gone = self.emergency && entry.expired(now);
        let old = self.old.is(entry) && self.state != State::Deleting && !gone;
        !old && !self.new.as_ref().is_some_and(|new| new.is(entry))
    }

    /// Something that was created, and whose value nobody knows. `Err`: it is one of those.
    fn orphan(&self, entries: &[Entry]) -> Result<Option<String>, Vec<String>> {
        let others = || live(entries).filter(|entry| !self.held(entry));
        if let Some(entry) = others().find(|entry| self.marks.iter().any(|mark| mark.names(entry))) {
            return Ok(Some(entry.id.clone()));
        }
        for mark in &self.marks {
            match others().filter(|entry| mark.ends_like(entry)).collect::<Vec<_>>()[..] {
                [] => {}
                [entry] => return Ok(Some(entry.id.clone())),
                ref several => return Err(several.iter().map(|entry| entry.id.clone()).collect()),
            }
        }
        Ok(None)
    }

    fn held(&self, entry: &Entry) -> bool {
        self.old.is(entry) || self.new.as_ref().is_some_and(|new| new.is(entry))
    }

    /// What has appeared since a creation whose answer was lost, and tells not whose it is.
    fn strangers(&self, entries: &[Entry]) -> Vec<String> {
        let listed = |entry: &Entry| self.marks.iter().all(|mark| mark.before.contains(&entry.id));
        let new = live(entries).filter(|entry| !listed(entry) && !self.held(entry));
        new.filter(|entry| entry.tag.is_none()).map(|entry| entry.id.clone()).collect()
    }

    /// The entry of the secret in use; `Ok(None)` if it has expired and is gone.
    fn current(&self, entries: &[Entry], now: i64) -> Result<Option<String>, Problem> {
        let possible: Vec<_> = match &self.old.id {
            Some(_) => live(entries).filter(|entry| self.old.is(entry)).collect(),
            None => live(entries)
                .filter(|entry| self.emergency || !entry.expired(now))
                .filter(|entry| self.old.hinted(entry) != Some(false))
                .collect(),
        };
        let hinted = || possible.iter().filter(|entry| self.old.hinted(entry) == Some(true));
        match possible[..] {
            [one] => return Ok(Some(one.id.clone())),
            [] if self.emergency => return Ok(None),
            _ if hinted().count() == 1 => return Ok(hinted().next().map(|entry| entry.id.clone())),
            _ => {}
        }
        let ids = named(live(entries));
        let why = format!("which secret at the vendor is the one in use cannot be told; it has: {ids}");
        Err(Problem::new(why, "say which one it is: `current`").asking(Asks::Current))
    }

    /// What has to be deleted to make a place for another one.
    fn room(&self, policy: &Policy, entries: &[Entry], now: i64) -> Result<Option<String>, Problem> {
        let other_broker = live(entries).find(|entry| {
            let tagged = entry.tag.as_ref().is_some_and(|tag| tag.starts_with(TAG) && !own(tag, policy));
            let fresh = entry.started.is_some_and(|started| started.as_second() > now - FRESH);
            tagged && fresh && !self.old.is(entry)
        });
        if let Some(entry) = other_broker {
            let why = format!("another broker has just made the secret {} of this client", entry.id);
            return Err(Problem::new(why, "let one broker rotate it, and only one"));
        }
        if policy.slots.is_none_or(|slots| live(entries).count() < slots) {
            return Ok(None);
        }
        let free = || live(entries).filter(|entry| self.may_delete(entry, now));
        let own = free().find(|entry| entry.tag.as_ref().is_some_and(|tag| own(tag, policy)));
        let expired = || free().find(|entry| entry.expired(now));
        let given_up = || free().find(|entry| self.room.as_ref() == Some(&entry.id));
        if let Some(entry) = own.or_else(expired).or_else(given_up) {
            return Ok(Some(entry.id.clone()));
        }
        let ids = named(free());
        let why = format!("the vendor has no place for another secret, and others made: {ids}");
        Err(Problem::new(why, "delete one that nobody uses, or say which one may be deleted").asking(Asks::Room))
    }
}

fn own(tag: &str, policy: &Policy) -> bool {
    tag.strip_prefix(TAG)
        .and_then(|rest| rest.strip_prefix(policy.instance.as_str()))
        .is_some_and(|r| r.starts_with('/'))
}

/// For people.
fn named<'e>(entries: impl Iterator<Item = &'e Entry>) -> String {
    let ids: Vec<_> = entries.take(10).map(|entry| entry.id.as_str()).collect();
    if ids.is_empty() { "nothing".to_owned() } else { ids.join(", ") }
}
