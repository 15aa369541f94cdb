//! What the vendor's list means: which entry is whose, which may be deleted, and what is done next.

use super::mark::{Mark, TAG, live};
use super::{Asks, Entry, Held, Policy, Problem, Record, Rotation, State};

/// A tag of another broker that is younger means that it is at work.
const FRESH: i64 = 86_400;
/// Creations of one rotation whose answers may be lost.
pub(super) const TRIES_MAX: u32 = 3;
/// Looks at a list that may not show yet what is new.
const LOOKS_MAX: u32 = 2;
/// The same where it is sure that there is something: the vendor's answer came.
const LOOKS_SURE: u32 = 6;

impl Rotation {
    /// Takes note of what the vendor has.
    pub(super) fn listed(&mut self, entries: &[Entry], now: i64) {
        self.fails = 0;
        self.record.learn(&self.policy, entries);
        self.record.marks.retain(|mark| !mark.deleted || live(entries).any(|entry| mark.fits(entry)));
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
        // Security: before anything is deleted, which one is in use is known.
        match self.record.current(entries, now) {
            Err(problem) => return self.park(problem),
            Ok(id) => self.record.old.id = id,
        }
        self.record.learn(&self.policy, entries);
        if self.cleans(entries, now) {
            return;
        }
        match self.record.room(&self.policy, entries, now) {
            Err(problem) => return self.park(problem),
            // Security: that it does not work any more is tried, before it is too late.
            Ok(Some(id)) if self.record.old.id.as_ref() == Some(&id) && !self.old_dead => {
                self.probe_old = true;
                return;
            }
            Ok(Some(id)) => return self.doom(&id, entries, now),
            Ok(None) => {}
        }
        let mark = Mark::new(&self.policy, entries, now, &mut self.rng);
        self.record.marks.push(mark);
        self.record.forget_the_oldest();
        self.enter(State::Creating);
        self.fresh = true;
    }

    /// Whatever of ours nobody knows the value of goes; then it is as before.
    fn clean(&mut self, entries: &[Entry], now: i64) {
        if self.cleans(entries, now) {
            return;
        }
        self.looks += 1;
        let looks = if matches!(self.record.state, State::Aborting(_)) { LOOKS_SURE } else { LOOKS_MAX };
        if self.looks < looks && !self.found {
            return self.settle(now);
        }
        self.found = false;
        if let State::Aborting(problem) = &self.record.state {
            return self.back_to_stable(problem.clone());
        }
        self.record.tries += 1;
        if self.record.tries >= TRIES_MAX {
            let why = "the answer to the creation of a secret was lost again and again";
            let what_to_do = "the old one serves: look at the connection to the vendor, then rotate again";
            return self.back_to_stable(Problem::new(why, what_to_do));
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
            Ok(Some(entry)) => {
                self.found = true;
                for mark in self.record.marks.iter_mut().filter(|mark| mark.fits(entry)) {
                    mark.id = Some(entry.id.clone());
                }
                self.doom(&entry.id, entries, now);
            }
            Err(ids) => self.ask_which_is_ours(ids),
        }
        true
    }

    fn ask_which_is_ours(&mut self, ids: Vec<String>) {
        let why = "a secret may have been made whose value is lost; it would be one of";
        let why = format!("{why}: {}", named(ids.iter().map(String::as_str)));
        self.record.shown = ids;
        let what_to_do =
            "say which one it is, to have it deleted (`--ours ID`), or rotate again without it if it is none";
        self.park(Problem::new(why, what_to_do).asking(Asks::Ours));
    }

    /// The old one is deleted.
    fn cut(&mut self, entries: &[Entry], now: i64) {
        if self.cleans(entries, now) {
            return;
        }
        let old = live(entries).find(|entry| self.record.old.is(entry));
        let another = old.filter(|entry| self.record.old.ends_otherwise(entry));
        let listed = self.record.new.as_ref().is_some_and(|new| self.record.shows(new, entries));
        // The list may show what is new late, and what is old not always.
        if (!listed || old.is_none() && !self.record.cutting) && self.looks + 1 < LOOKS_MAX {
            self.looks += 1;
            return self.settle(now);
        }
        if !listed {
            let why = "the secret in use is not in the vendor's list, so the old one was not deleted";
            return self.park(Problem::new(why, "look at the vendor's list, then rotate again"));
        }
        match old {
            None => self.finish(),
            // It is gone, and its id was given to another.
            Some(_) if another.is_some() && self.record.cutting => self.finish(),
            Some(entry) if another.is_some() => {
                let why = format!("the secret {} ends at another time than the old one did", entry.id);
                let what_to_do = "it was not deleted: look at the vendor's list, and delete there what nobody uses";
                self.finish();
                self.park(Problem::new(why, what_to_do));
            }
            Some(entry) if self.record.keeps(entry) => {
                let why = format!("the vendor gave the new secret the id of the old one, {}", entry.id);
                let what_to_do = "nothing was deleted: look at the vendor's list, and delete there what nobody uses";
                self.finish();
                self.park(Problem::new(why, what_to_do));
            }
            Some(entry) => {
                self.record.cutting = true;
                self.doom(&entry.id, entries, now);
            }
        }
    }

    /// The one place that decides on a deletion.
    fn doom(&mut self, id: &str, entries: &[Entry], now: i64) {
        if live(entries).any(|entry| entry.id == id && self.record.may_delete(entry, now)) {
            (self.record.doomed, self.dirty) = (Some(id.to_owned()), true);
        } else {
            let why = format!("the secret {id} was to be deleted, but may be in use");
            self.park(Problem::new(why, "look at the vendor's list, then rotate again"));
        }
    }
}

impl Record {
    pub(super) fn learn(&mut self, policy: &Policy, entries: &[Entry]) {
        let old = &mut self.old;
        if old.id.is_none() && old.since.is_none() {
            old.id.clone_from(&policy.current);
        }
        // While it is being replaced, it has to stay what it was: an id may be given to another.
        if old.expires.is_none() || matches!(self.state, State::Stable | State::Planned) {
            old.learn(entries);
        }
        if let Some(new) = &mut self.new {
            new.learn(entries);
        }
    }

    /// May it be deleted? Security: nothing is but what passed here, whoever asks for it. What is in use is not, nor what may
    /// come into use.
    fn may_delete(&self, entry: &Entry, now: i64) -> bool {
        let old = self.old.is(entry) && self.state != State::Deleting && !(self.emergency && self.gone(entry, now));
        !old && !self.keeps(entry)
    }

    /// Is it the new one, or may it be?
    fn keeps(&self, entry: &Entry) -> bool {
        self.kept.as_ref() == Some(&entry.id) || self.new.as_ref().is_some_and(|new| new.is(entry))
    }

    /// It has expired: surely, or the vendor refuses it as well.
    fn gone(&self, entry: &Entry, now: i64) -> bool {
        let refused = self.emergency && self.old.is(entry);
        entry.expired(now) || refused && entry.end().is_some_and(|end| end <= now)
    }

    /// Is it in the list, or, where it has no name there, something that was not there before? A list that does not show it
    /// is not to be believed.
    fn shows(&self, new: &Held, entries: &[Entry]) -> bool {
        let appeared = |entry: &Entry| new.mark.as_ref().is_some_and(|mark| !mark.before.contains(&entry.id));
        live(entries).any(|entry| new.is(entry) || new.id.is_none() && appeared(entry) && !self.old.is(entry))
    }

    /// Something that was created, and whose value nobody knows. `Err`: it is one of those.
    fn orphan<'e>(&self, entries: &'e [Entry]) -> Result<Option<&'e Entry>, Vec<String>> {
        let others = || live(entries).filter(|entry| !self.held(entry));
        if let Some(entry) = others().find(|entry| self.marks.iter().any(|mark| mark.names(entry))) {
            return Ok(Some(entry));
        }
        for mark in &self.marks {
            match others().filter(|entry| mark.ends_like(entry)).collect::<Vec<_>>()[..] {
                [] => {}
                [entry] => return Ok(Some(entry)),
                ref several => return Err(several.iter().map(|entry| entry.id.clone()).collect()),
            }
        }
        Ok(None)
    }

    fn held(&self, entry: &Entry) -> bool {
        self.old.is(entry) || self.new.as_ref().is_some_and(|new| new.is(entry))
    }

    /// What has appeared since a creation whose answer was lost, and tells not whose it is.
    pub(super) fn strangers(&self, entries: &[Entry]) -> Vec<String> {
        let listed = |entry: &Entry| self.marks.iter().all(|mark| mark.before.contains(&entry.id));
        let new = live(entries).filter(|entry| !listed(entry) && !self.held(entry));
        new.filter(|entry| entry.tag.is_none()).map(|entry| entry.id.clone()).collect()
    }

    /// The entry of the secret in use; `Ok(None)` if it has expired and is gone.
    fn current(&self, entries: &[Entry], now: i64) -> Result<Option<String>, Problem> {
        match self.old.find(entries, self.emergency, now) {
            Ok(entry) => Ok(Some(entry.id.clone())),
            Err(possible) if possible.is_empty() && self.emergency => Ok(None),
            Err(_) => {
                let ids = named(live(entries).map(|entry| entry.id.as_str()));
                let why = format!("which secret at the vendor is the one in use cannot be told; it has: {ids}");
                Err(Problem::new(why, "say which one it is: `--current ID`").asking(Asks::Current))
            }
        }
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
            return Err(Problem::new(why, "let one broker rotate it, and only one; in a day this one may go on"));
        }
        if policy.slots.is_none_or(|slots| live(entries).count() < slots) {
            return Ok(None);
        }
        let free = || live(entries).filter(|entry| self.may_delete(entry, now));
        let own = free().find(|entry| entry.tag.as_ref().is_some_and(|tag| own(tag, policy)));
        let expired = || free().find(|entry| self.gone(entry, now));
        let given_up = || free().find(|entry| self.room.as_ref() == Some(&entry.id));
        if let Some(entry) = own.or_else(expired).or_else(given_up) {
            return Ok(Some(entry.id.clone()));
        }
        let (used, free) = live(entries).partition::<Vec<_>, _>(|entry| !self.may_delete(entry, now));
        let ids = |entries: Vec<&Entry>| named(entries.iter().map(|entry| entry.id.as_str()));
        let why =
            format!("the vendor has no place for another secret: in use is {}, others made {}", ids(used), ids(free));
        let what_to_do = "delete one that nobody uses, or say which one may be deleted: `--remove ID`";
        Err(Problem::new(why, what_to_do).asking(Asks::Room))
    }
}

fn own(tag: &str, policy: &Policy) -> bool {
    tag.strip_prefix(TAG)
        .and_then(|rest| rest.strip_prefix(policy.instance.as_str()))
        .is_some_and(|r| r.starts_with('/'))
}

/// For people; the vendor's words, without what a terminal would obey.
pub(super) fn named<'e>(ids: impl Iterator<Item = &'e str>) -> String {
    let clean = |id: &str| id.chars().filter(|c| !c.is_control()).take(100).collect::<String>();
    let ids: Vec<_> = ids.take(10).map(clean).collect();
    if ids.is_empty() { "nothing".to_owned() } else { ids.join(", ") }
}
