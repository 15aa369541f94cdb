//! What the clock of a store shows, as far as its answers tell.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// The clock of a store, in ms. It is never taken for later than it is, unless it is set back and nothing was told since.
pub struct StoreTime {
    clock: Clock,
    /// How far it is ahead of the time since boot, at least; `i64::MIN` before the first answer.
    ahead: AtomicI64,
}

impl StoreTime {
    pub fn new(clock: Clock) -> Self {
        Self { clock, ahead: AtomicI64::new(i64::MIN) }
    }

    /// Since boot: when something is asked.
    pub fn boot(&self) -> Duration {
        self.clock.now().boot
    }

    /// The answer to what was asked then tells what it showed in between.
    pub fn told(&self, shown: u64, asked: Duration) {
        let shown = i64::try_from(shown).unwrap_or(i64::MAX);
        let (least, most) = (shown.saturating_sub(millis(self.boot())), shown.saturating_sub(millis(asked)));
        // One that was further ahead was set back, or is another one.
        let ahead = |known: i64| Some(if known > most { least } else { known.max(least) });
        let _ = self.ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ahead);
    }

    /// What it showed so long ago; `None` before the first answer.
    pub fn ago(&self, long: Duration) -> Option<u64> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let then = millis(self.boot()).saturating_sub(millis(long)).saturating_add(ahead);
        (ahead != i64::MIN).then(|| then.max(0).unsigned_abs())
    }
}

fn millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap_or(i64::MAX)
}
