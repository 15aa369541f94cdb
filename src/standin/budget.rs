//! How many calls a vendor allows within a time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Now;

/// So many calls within any span of that length.
pub struct Budget {
    calls: usize,
    span: Duration,
    /// When there were some, by the boot clock.
    taken: Mutex<Vec<Duration>>,
}

impl Budget {
    pub fn new(calls: usize, span: Duration) -> Self {
        Self { calls, span, taken: Mutex::default() }
    }

    /// Takes one call, or says when there is one.
    pub fn take(&self, now: Now) -> Result<(), Duration> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|at| now.boot < *at + self.span);
        if taken.len() >= self.calls {
            return Err((taken[0] + self.span).saturating_sub(now.boot));
        }
        taken.push(now.boot);
        Ok(())
    }

    /// Forgets what was taken.
    pub fn reset(&self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
