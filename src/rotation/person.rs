//! What a person says, or the next day: what stood still goes on. Nobody's word deletes what is in use.

use super::{Asks, Rotation, SAVES_MAX, State};

impl Rotation {
    /// Everything is tried again. `person`: they have seen what was listed, and it is not ours.
    pub(super) fn resumed(&mut self, person: bool) {
        self.changes();
        let store = self.saves_failed >= SAVES_MAX && !self.loose;
        (self.saves_failed, self.save_after) = (0, None);
        // What else there is to say is said when it is saved.
        if !store && self.record.problem.take().is_some() {
            let shown = std::mem::take(&mut self.record.shown);
            for mark in self.record.marks.iter_mut().filter(|_| person) {
                mark.before.extend(shown.iter().cloned());
            }
        }
        self.afresh();
    }

    /// What was found out before is found out again: much may have happened since.
    fn afresh(&mut self) {
        (self.fails, self.deletes, self.looks, self.checks, self.dirty) = (0, 0, 0, 0, true);
        (self.record.refused, self.record.backs, self.record.doomed, self.old_dead) = (0, 0, None, false);
    }

    /// Takes what a person chose, asked or not: once a rotation has begun, which secret is in use, or which one may go to make a
    /// place; and which one is ours, of those that they were told of. False: that cannot be chosen now.
    pub fn choose(&mut self, asks: Asks, id: String) -> bool {
        self.changes();
        let record = &mut self.record;
        match asks {
            Asks::Current if record.state == State::Planned => record.old.id = Some(id),
            Asks::Room if record.state == State::Planned => record.room = Some(id),
            Asks::Ours if record.shown.contains(&id) => {
                let Some(mark) = record.marks.last_mut() else { return false };
                mark.id = Some(id);
                record.shown.clear();
            }
            _ => return false,
        }
        if record.problem.as_ref().is_some_and(|problem| problem.asks == Some(asks)) {
            record.problem = None;
        }
        self.afresh();
        true
    }

    pub(super) fn chosen(&mut self, id: String) {
        if let Some(asks) = self.record.problem.as_ref().and_then(|problem| problem.asks) {
            self.choose(asks, id);
        }
    }
}
