//! The client secrets of an application: more than one may be good at a time, so that they can be changed without a gap.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::mint;

/// A client secret.
#[derive(Clone, Debug)]
pub struct Slot {
    pub id: String,
    pub value: String,
    pub name: String,
    pub starts: Timestamp,
    pub ends: Option<Timestamp>,
    /// When it was deleted, where the vendor keeps what was.
    pub deleted: Option<Timestamp>,
}

impl Slot {
    /// A new secret.
    pub fn new(name: &str, starts: Timestamp, ends: Option<Timestamp>) -> Self {
        let (id, value) = (mint::uuid(), mint::hex(40));
        Self { id, value, name: name.to_owned(), starts, ends, deleted: None }
    }

    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// The first three characters.
    pub fn hint(&self) -> String {
        self.value.chars().take(3).collect()
    }

    /// How long it has been there.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.starts)).unwrap_or_default()
    }
}

/// A lifetime such as `2y`; months have thirty days.
pub fn life(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let days: u64 = match unit {
        "y" => 365,
        "m" => 30,
        "d" => 1,
        _ => return None,
    };
    let number: u16 = number.parse().ok()?;
    (number > 0).then(|| Duration::from_secs(u64::from(number) * days * 24 * 3600))
}

/// All secrets of an application; tests may change them as they like.
#[derive(Debug)]
pub struct Slots(Mutex<Vec<Slot>>);

impl Slots {
    /// One secret, a year old and good for another.
    pub fn new(value: &str, now: Timestamp) -> Self {
        let year = Duration::from_secs(365 * 24 * 3600);
        let (starts, ends) = (now.saturating_sub(year).unwrap_or(now), now.saturating_add(year).ok());
        Self(Mutex::new(vec![Slot { value: value.to_owned(), ..Slot::new("first", starts, ends) }]))
    }

    pub fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, value: &str) -> Option<Slot> {
        self.lock().iter().find(|slot| slot.value == value).cloned()
    }
}
