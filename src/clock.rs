//! What time it is, twice: by the wall and since boot.
//!
//! A laptop that sleeps stops the monotonic clock, an operator or NTP may set the wall clock; a token's life is judged by
//! whichever of wall and boot clock says first that it is over. Everything that depends on time takes a [`Now`], so
//! that tests own the clock; only [`Clock::system`] reads the machine's.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Civil time; may be set, forwards or backwards.
    pub wall: Timestamp,
    /// Time since boot, suspend included (`CLOCK_BOOTTIME`); never goes back.
    pub boot: Duration,
}

/// Where the time comes from. Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> Now + Send + Sync>,
    boot: Arc<str>,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self::new(|| {
            let wall = clock_gettime(ClockId::Realtime);
            let boot = clock_gettime(ClockId::Boottime);
            Now {
                wall: Timestamp::new(wall.tv_sec, nanos(wall.tv_nsec)).unwrap_or(Timestamp::UNIX_EPOCH),
                boot: Duration::new(boot.tv_sec.unsigned_abs(), nanos(boot.tv_nsec).unsigned_abs()),
            }
        })
    }

    /// Others in the place of this machine's.
    pub fn new(read: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::of_boot(id.trim(), read)
    }

    /// Those of another machine, or of another boot.
    pub fn of_boot(id: &str, read: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), boot: Arc::from(id) }
    }

    pub fn now(&self) -> Now {
        (self.read)()
    }

    /// The boot that times since boot are counted from, by its random name; empty where the system has none.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Are the times since boot of that one this one's?
    pub fn is_of(&self, boot: &str) -> bool {
        !boot.is_empty() && *self.boot == *boot
    }
}

/// `tv_nsec` is below 10^9 by POSIX.
fn nanos(tv_nsec: i64) -> i32 {
    i32::try_from(tv_nsec).unwrap_or(0)
}

/// For people and for JSON: RFC 3339 with milliseconds.
pub fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// A moment that counts as reached as soon as either clock has passed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub wall: Timestamp,
    pub boot: Duration,
}

impl Moment {
    /// `delay` after `now`; saturates at the end of representable time.
    pub fn after(now: Now, delay: Duration) -> Self {
        Self { wall: now.wall.saturating_add(delay).unwrap_or(Timestamp::MAX), boot: now.boot.saturating_add(delay) }
    }

    /// By each clock the earlier of both.
    pub fn earlier(self, other: Self) -> Self {
        Self { wall: self.wall.min(other.wall), boot: self.boot.min(other.boot) }
    }

    pub fn reached(&self, now: Now) -> bool {
        now.wall >= self.wall || now.boot >= self.boot
    }

    /// Time left, by the clock that says less.
    pub fn left(&self, now: Now) -> Duration {
        let wall = Duration::try_from(self.wall.duration_since(now.wall)).unwrap_or(Duration::ZERO);
        wall.min(self.boot.saturating_sub(now.boot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: i64, boot: u64) -> Now {
        Now { wall: Timestamp::from_second(wall).unwrap(), boot: Duration::from_secs(boot) }
    }

    #[test]
    fn either_clock_ends_a_moment() {
        let moment = Moment::after(at(1_000, 10), Duration::from_secs(60));
        assert!(!moment.reached(at(1_059, 69)));
        assert!(moment.reached(at(1_060, 10)), "the wall clock was set forward");
        assert!(moment.reached(at(0, 70)), "the wall clock was set back, the boot clock went on");
    }

    #[test]
    fn the_time_left_is_the_lesser_of_both_and_never_negative() {
        let moment = Moment::after(at(1_000, 10), Duration::from_secs(60));
        assert_eq!(moment.left(at(1_010, 15)), Duration::from_secs(50));
        assert_eq!(moment.left(at(2_000, 15)), Duration::ZERO);
    }

    #[test]
    fn an_absurd_delay_saturates() {
        let moment = Moment::after(at(1_000, 10), Duration::MAX);
        assert!(!moment.reached(at(4_000_000_000, 4_000_000_000)));
    }
}
