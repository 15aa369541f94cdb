//! A vendor in miniature: its slots, its list, its replicas, and the ways in which it is not what one hopes for.

use fastrand::Rng;
use jiff::Timestamp;
use tokenbroker::rotation::Entry;

pub const REPLICAS: usize = 3;
pub const DAY: i64 = 86_400;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Id {
    Told,
    NotTold,
    /// The answer calls it otherwise than the list does.
    Other,
    /// The number of the slot: what is deleted leaves its id to the next one.
    Slot,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ends {
    AsAsked,
    /// To the day.
    Rounded,
    Hidden,
}

#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub slots: Option<usize>,
    pub tags: bool,
    pub hints: bool,
    pub id: Id,
    pub ends: Ends,
    /// Deleted ones stay in the list.
    pub soft: bool,
    /// The list shows what is new so late, and what is deleted.
    pub lag: i64,
    /// A replica knows a new one after so long at most; `None`: never.
    pub propagation: Option<i64>,
    /// It forgets a deleted one after so long at most.
    pub death: i64,
}

#[derive(Clone, Debug)]
pub struct Made {
    pub id: String,
    pub value: String,
    tag: Option<String>,
    started: i64,
    pub end: i64,
    from: [i64; REPLICAS],
    pub deleted: Option<i64>,
    dead: [i64; REPLICAS],
    /// Not ours.
    pub foreign: bool,
    /// The operator said that it may go.
    pub given_up: bool,
}

impl Made {
    pub fn lives(&self, t: i64) -> bool {
        self.deleted.is_none() && t < self.end
    }
}

pub struct Vendor {
    pub model: Model,
    pub made: Vec<Made>,
    /// Values that took the place of others.
    put: Vec<(String, [i64; REPLICAS])>,
    rng: Rng,
}

impl Vendor {
    pub fn new(model: Model, rng: Rng) -> Self {
        Self { model, made: Vec::new(), put: Vec::new(), rng }
    }

    /// Something that was there before; `value` is known to the broker if it is the one in use.
    pub fn has(&mut self, value: &str, tag: Option<&str>, end: i64, foreign: bool) -> String {
        let taken = |id: &String| self.made.iter().any(|one| one.id == *id && one.deleted.is_none());
        let id = match self.model.id {
            Id::Slot => (0..).map(|slot| format!("id-{slot}")).find(|id| !taken(id)).unwrap(),
            _ => format!("id-{}", self.made.len()),
        };
        self.made.push(Made {
            id: id.clone(),
            value: value.to_owned(),
            tag: tag.map(str::to_owned).filter(|_| self.model.tags),
            started: 0,
            end,
            from: [0; REPLICAS],
            deleted: None,
            dead: [0; REPLICAS],
            foreign,
            given_up: false,
        });
        id
    }

    pub fn replica(&mut self) -> usize {
        self.rng.usize(0..REPLICAS)
    }

    fn spread(&mut self, t: i64, most: Option<i64>) -> [i64; REPLICAS] {
        std::array::from_fn(|_| most.map_or(i64::MAX, |most| t + self.rng.i64(0..=most)))
    }

    pub fn accepts(&self, value: &str, replica: usize, t: i64) -> bool {
        if let Some((latest, _)) = self.put.iter().rev().find(|(_, from)| from[replica] <= t) {
            return latest == value;
        }
        self.made.iter().any(|one| {
            let dead = one.deleted.is_some() && t >= one.dead[replica];
            one.value == value && t >= one.from[replica] && t < one.end && !dead
        })
    }

    /// The id as the answer tells it, and the value; `None`: no slot is free.
    pub fn create(&mut self, tag: &str, end: i64, t: i64, foreign: bool) -> Option<(Option<String>, String)> {
        let used = self.made.iter().filter(|one| one.deleted.is_none()).count();
        if self.model.slots.is_some_and(|slots| used >= slots) {
            return None;
        }
        let value = format!("{:06x}-{}", self.rng.u32(0..0x100_0000), self.made.len());
        let id = self.has(&value, Some(tag), end, foreign);
        let from = self.spread(t, self.model.propagation);
        let one = self.made.last_mut().unwrap();
        (one.started, one.from) = (t, from);
        let told = match self.model.id {
            Id::Told | Id::Slot => Some(id),
            Id::NotTold => None,
            Id::Other => Some(format!("other-{id}")),
        };
        Some((told, value))
    }

    pub fn replace(&mut self, value: &str, t: i64) {
        let from = self.spread(t, self.model.propagation);
        if self.put.last().is_none_or(|(last, _)| last != value) {
            self.put.push((value.to_owned(), from));
        }
    }

    /// False: there is no such one.
    pub fn delete(&mut self, id: &str, t: i64) -> bool {
        let dead = self.spread(t, Some(self.model.death));
        match self.made.iter_mut().find(|one| one.id == id && one.deleted.is_none()) {
            Some(one) => {
                (one.deleted, one.dead) = (Some(t), dead);
                true
            }
            None => false,
        }
    }

    pub fn list(&self, t: i64) -> Vec<Entry> {
        let stamp = |second| Timestamp::from_second(second).ok();
        let lag = self.model.lag;
        let shown = self.made.iter().filter(|one| one.started == 0 || one.started + lag <= t);
        let entries = shown.filter_map(|one| {
            let deleted = one.deleted.is_some_and(|deleted| deleted + lag <= t);
            (!deleted || self.model.soft).then(|| Entry {
                id: one.id.clone(),
                tag: one.tag.clone(),
                hint: self.model.hints.then(|| one.value[..3].to_owned()),
                started: self.model.tags.then(|| stamp(one.started)).flatten(),
                expires: match self.model.ends {
                    Ends::AsAsked => stamp(one.end),
                    Ends::Rounded => stamp(one.end / DAY * DAY),
                    Ends::Hidden => None,
                },
                deleted,
            })
        });
        entries.collect()
    }
}
