//! A broker and a vendor played by hand, one call after the other.

use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use tokenbroker::rotation::{
    Action, Begin, Entry, Event, Failure, Held, Policy, Problem, Record, Rotation, State, Which,
};
use tokenbroker::secret::Secret;

use super::{A, START};

pub const B: &str = "bbb-the-new";

pub struct Desk {
    pub machine: Rotation,
    pub t: i64,
    /// What a process that starts now would find.
    pub saved: Record,
    pub policy: Policy,
}

pub fn policy() -> Policy {
    Policy {
        instance: "here".into(),
        current: None,
        slots: Some(2),
        lifetime: Duration::from_secs(180 * 86_400),
        grace: Duration::from_secs(3600),
        times: 3,
        every: Duration::from_secs(60),
        settle: Duration::from_secs(120),
    }
}

pub fn secret(value: &str) -> Secret {
    Secret::new(value.to_owned())
}

pub fn stamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// With an end of its own.
pub fn entry(id: &str) -> Entry {
    let end = START + 90 * 86_400 + id.bytes().map(i64::from).sum::<i64>();
    Entry { id: id.into(), tag: None, hint: None, started: None, expires: Some(stamp(end)), deleted: false }
}

pub fn tagged(id: &str, tag: &str) -> Entry {
    Entry { tag: Some(tag.into()), ..entry(id) }
}

pub fn hinted(id: &str, hint: &str) -> Entry {
    Entry { hint: Some(hint.into()), ..entry(id) }
}

pub fn expired(id: &str) -> Entry {
    Entry { expires: Some(stamp(START - 86_400)), ..entry(id) }
}

impl Desk {
    /// The secret in use is `A`, which has that id.
    pub fn new(id: Option<&str>) -> Self {
        Self::with(Record::new(Held::new(&secret(A), id.map(str::to_owned))), policy())
    }

    pub fn with(record: Record, policy: Policy) -> Self {
        let machine = Rotation::resume(policy.clone(), record.clone(), Rng::with_seed(7));
        Self { machine, t: START, saved: record, policy }
    }

    pub fn begun(id: Option<&str>) -> Self {
        let mut desk = Self::new(id);
        assert!(desk.machine.begin(Begin::Create, false));
        desk
    }

    pub fn now(&self) -> Timestamp {
        stamp(self.t)
    }

    pub fn state(&self) -> &State {
        &self.machine.record().state
    }

    pub fn crash(&mut self) {
        *self = Self { t: self.t, ..Self::with(self.saved.clone(), self.policy.clone()) };
    }

    /// What is to be done next; what is saved, swapped and waited for is done.
    pub fn next(&mut self) -> Action {
        for _ in 0..100 {
            if let Some(action) = self.step() {
                return action;
            }
        }
        panic!("it goes round in a circle");
    }

    /// One thing is done, unless it is a call or the end.
    pub fn step(&mut self) -> Option<Action> {
        match self.machine.next(self.now()) {
            Action::Save => {
                self.saved = self.machine.record().clone();
                self.tell(Event::Saved);
            }
            Action::Swap => self.tell(Event::Swapped),
            Action::Wait(until) => self.t = until.as_second(),
            action => return Some(action),
        }
        None
    }

    pub fn tell(&mut self, event: Event) {
        let now = self.now();
        self.machine.on(event, now);
    }

    pub fn lists(&mut self, entries: &[Entry]) {
        assert_eq!(self.next(), Action::List);
        self.tell(Event::Listed(entries.to_vec()));
    }

    /// The tag that it is asked for with, and its end.
    pub fn asks_for_another(&mut self) -> (String, Timestamp) {
        match self.next() {
            Action::Create { tag, expires } => (tag, expires),
            other => panic!("{other:?}"),
        }
    }

    /// The new one, as the list shows it.
    pub fn creates(&mut self, id: &str) -> Entry {
        let (tag, expires) = self.asks_for_another();
        self.tell(Event::Created { id: Some(id.into()), secret: secret(B) });
        Entry { expires: Some(expires), ..tagged(id, &tag) }
    }

    /// It works, so often.
    pub fn works(&mut self, times: usize) {
        for _ in 0..times {
            assert_eq!(self.next(), Action::Verify(Which::New));
            self.tell(Event::Accepted);
        }
    }

    pub fn deletes(&mut self, id: &str) {
        assert_eq!(self.next(), Action::Delete { id: id.into() });
        self.tell(Event::Deleted);
    }

    pub fn parks(&mut self) -> Problem {
        match self.next() {
            Action::Park(problem) => problem,
            other => panic!("{other:?}"),
        }
    }

    pub fn fails(&mut self, failure: Failure) {
        self.tell(Event::Failed(failure));
    }

    pub fn refused(&mut self) {
        self.fails(Failure::Refused("no".into()));
    }
}

pub fn value(held: &Held) -> String {
    held.secret().expose().to_owned()
}
