//! What becomes of a call that brought nothing, and of a deletion: again later, looked up in the list, or a person is told.

use super::outcome::whole;
use super::{Action, Failure, Problem, Rotation, State};

/// Failed calls in a row, and deletions, after which a person looks at it.
const FAILS_MAX: u32 = 12;
const DELETES_MAX: u32 = 10;
const AGAIN: i64 = 15;
const AGAIN_MAX: i64 = 3600;

impl Rotation {
    pub(super) fn failed(&mut self, asked: &Action, failure: Failure, now: i64) {
        // Security: what was to be deleted may be in use when that is tried again, so it is looked up again.
        self.record.doomed = None;
        let words = match failure {
            Failure::Busy(wait) => return self.again(now, whole(wait).min(AGAIN_MAX)),
            _ if matches!(asked, Action::Verify(_)) => return self.again(now, AGAIN),
            Failure::AdminExpired => {
                let why = format!("{}: the vendor refused the administrator's token", self.doing());
                return self.ends(asked, why, "give another administrator's token (`--admin-token-stdin`)");
            }
            Failure::NotSent => return self.again(now, AGAIN),
            Failure::Lost => match asked {
                Action::Create { .. } => {
                    (self.fresh, self.looks, self.found) = (false, 0, false);
                    return;
                }
                Action::Replace => {
                    self.record.unsure = true;
                    return self.enter(State::Verifying { passed: 0 });
                }
                // Perhaps it was done: the list will tell.
                Action::Delete { .. } => return self.again(now, whole(self.policy.settle).max(AGAIN)),
                _ => return self.again(now, AGAIN),
            },
            Failure::Refused(words) => words,
        };
        if let Action::Delete { id } = asked {
            return self.deletion_over(id, now);
        }
        let why = format!("{}: the vendor refuses: {words}", self.doing());
        self.ends(asked, why, "do what the vendor says");
    }

    /// It was not done, and will not be. Where nothing was made yet, all is as before; else it goes on from here.
    fn ends(&mut self, asked: &Action, why: String, fix: &str) {
        let record = &mut self.record;
        if matches!(asked, Action::Create { .. }) {
            // What was refused does not exist.
            record.marks.pop();
            self.enter(State::Planned);
        } else if *asked == Action::Replace && record.unsure {
            self.enter(State::Verifying { passed: 0 });
            let what_to_do =
                format!("both are kept, because it may have taken the new one before: {fix}, then rotate again");
            return self.park(Problem::new(why, what_to_do));
        }
        let record = &self.record;
        let may_exist = record.tries > 0 || !record.marks.is_empty();
        if *asked == Action::Replace || record.state == State::Planned && !may_exist {
            return self.back_to_stable(Problem::new(why, format!("nothing was changed: {fix}, then rotate again")));
        }
        self.park(Problem::new(why, format!("{fix}, then rotate again")));
    }

    pub(super) fn deleted(&mut self, id: &str, now: i64) {
        self.fails = 0;
        if self.record.state == State::Deleting && self.record.old.id.as_deref() == Some(id) {
            return self.finish();
        }
        self.deletion_over(id, now);
    }

    /// The list tells whether it is gone.
    fn deletion_over(&mut self, id: &str, now: i64) {
        for mark in self.record.marks.iter_mut().filter(|mark| mark.id.as_deref() == Some(id)) {
            mark.deleted = true;
        }
        (self.record.doomed, self.record.room, self.deletes) = (None, None, self.deletes + 1);
        self.settle(now);
        if self.deletes >= DELETES_MAX {
            let why = format!("{}: the vendor does not delete it", self.doing());
            self.park(Problem::new(why, "delete it there by hand, then rotate again"));
        }
    }

    /// The same call again, later.
    fn again(&mut self, now: i64, at_least: i64) {
        self.fails += 1;
        if self.fails >= FAILS_MAX {
            let why = format!("{}: the vendor cannot be reached or does not answer", self.doing());
            return self.park(Problem::new(why, "look at the connection to the vendor, then rotate again"));
        }
        self.checks = 0;
        self.wait(now, (AGAIN << (self.fails - 1).min(8)).min(AGAIN_MAX).max(at_least));
    }

    fn doing(&self) -> &'static str {
        match self.record.state {
            State::Stable => "before the rotation begins",
            State::Planned => "before the new secret is made",
            State::Creating | State::Created => "while the new secret is made",
            State::Verifying { .. } => "while the new secret is tried",
            State::Swapped { .. } | State::Deleting => "while the old secret is deleted",
            State::Aborting(_) => "while the new secret is deleted",
        }
    }
}
