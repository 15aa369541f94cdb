//! Why somebody who asked for a token gets none, in words for the operator.

use std::sync::Arc;
use std::time::Duration;

use super::Token;
use super::cache::{Slot, Unavailable};
use crate::oauth::Class;
use crate::units::Budget;

/// No exchange came, or it failed.
pub struct Absence {
    pub unavailable: Unavailable,
    /// The last failure; the budget that is used up; whether anything was sent this time, and when the next is.
    pub why: String,
}

/// The token, after at most `wait` for one exchange if there is none. `limit` is the vendor's budget.
pub async fn token_or_why(slot: &Slot, limit: Option<Budget>, wait: Duration) -> Result<Arc<Token>, Absence> {
    let before = slot.snapshot().finished;
    slot.token_within(wait).await.map_err(|unavailable| {
        let snapshot = slot.snapshot();
        // The end of time: nothing will come from here any more.
        let later = snapshot.not_before.filter(|until| *until < Duration::MAX);
        let why = match (&snapshot.error, limit) {
            (Some(error), _) => error.to_string(),
            (None, Some(limit)) if later.is_some() => format!("{}: {}", Class::RateLimited, limit.used_up()),
            (None, _) => "there is no token yet".to_owned(),
        };
        let told = later.filter(|_| snapshot.finished == before);
        let next = told.map_or(String::new(), |_| {
            format!(". Nothing was sent: the next attempt is in {} s", unavailable.retry_after.as_secs())
        });
        Absence { unavailable, why: format!("{why}{next}") }
    })
}
