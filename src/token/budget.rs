//! A vendor's budget: so many requests in any window of time, counted as the vendor may count them. Pure.

use std::time::Duration;

use crate::clock::{Moment, Now};
use crate::token::kept::KeptMoment;
use crate::units::Budget;

/// Clocks do not run alike, and the vendor's window may begin with a fraction of a second.
const MARGIN: Duration = Duration::from_secs(1);
/// Two accounts of one request differ by less. Two requests may, too: rarely, and only where replicas did not know of each other.
const SAME: Duration = Duration::from_secs(1);
/// Where no limit is configured, what another counts is kept for so long.
const PER_MAX: Duration = Duration::from_secs(24 * 3600);

/// The requests that still count.
#[derive(Default)]
pub struct Spent {
    limit: Option<Budget>,
    /// When each stops to count, since boot, the earliest first.
    until: Vec<Duration>,
}

impl Spent {
    pub fn new(limit: Option<Budget>) -> Self {
        Self { limit, until: Vec::new() }
    }

    pub fn limit(&self) -> Option<Budget> {
        self.limit
    }

    /// When the next request may be sent, since boot; `None` for now. One that can wait leaves the last place to those who
    /// cannot.
    pub fn free_at(&self, now: Now, can_wait: bool) -> Option<Duration> {
        let max = self.limit?.max as usize;
        let places = if can_wait && max > 1 { max - 1 } else { max };
        let counting = self.until.iter().filter(|until| **until > now.boot).count();
        let over = (counting + 1).checked_sub(places).filter(|over| *over > 0)?;
        self.until.iter().filter(|until| **until > now.boot).nth(over - 1).copied()
    }

    /// A request is about to be sent, and may arrive for as long as `timeout`.
    pub fn spend(&mut self, now: Now, timeout: Duration) {
        let Some(limit) = self.limit else { return };
        self.until.retain(|until| *until > now.boot);
        self.until.push(now.boot.saturating_add(timeout).saturating_add(limit.per).saturating_add(MARGIN));
        self.until.sort();
    }

    /// The one that was sent last is over: it had arrived by now, or it never left.
    pub fn answered(&mut self, now: Now, left: bool) {
        let Some(limit) = self.limit else { return };
        if self.until.pop().is_some() && left {
            self.until.push(now.boot.saturating_add(limit.per).saturating_add(MARGIN));
            self.until.sort();
        }
    }

    /// For the store.
    pub fn keep(&self, now: Now) -> Vec<KeptMoment> {
        let left = self.until.iter().filter(|until| **until > now.boot);
        left.map(|until| KeptMoment::new(Moment::after(now, *until - now.boot))).collect()
    }

    /// Counts those of another's record as well. True if there are any that were not known.
    pub fn learn(&mut self, kept: &[KeptMoment], same_boot: bool, now: Now) -> bool {
        let mut theirs = Self::new(self.limit);
        theirs.restore(kept, same_boot, now);
        // The same request is counted once; what tells it is not exact, on the way from one clock to the other.
        for own in &self.until {
            let near = theirs.until.iter().position(|theirs| theirs.abs_diff(*own) < SAME);
            near.map(|at| theirs.until.remove(at));
        }
        let more = !theirs.until.is_empty();
        self.until.extend(theirs.until);
        self.until.sort();
        more
    }

    /// From the store. After another boot only the wall clock tells; set back, it makes nobody wait longer than a window.
    pub fn restore(&mut self, kept: &[KeptMoment], same_boot: bool, now: Now) {
        let per = self.limit.map_or(PER_MAX, |limit| limit.per);
        let longest = now.boot.saturating_add(per).saturating_add(2 * MARGIN);
        let until = kept.iter().map(|kept| match kept.moment(same_boot, now).boot {
            until if same_boot => until,
            until => until.min(longest),
        });
        self.until = until.filter(|until| *until > now.boot).collect();
        self.until.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Now {
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Now { wall: start + seconds as u32 * S, boot: Duration::from_secs(1000 + seconds) }
    }

    fn five() -> Spent {
        Spent::new(Some(Budget { max: 5, per: 300 * S }))
    }

    /// As the vendor may see it: each arrives at any time between its sending and its answer.
    #[test]
    fn no_window_holds_more_than_the_limit_whenever_requests_arrive() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut spent, mut arrived, mut now) = (five(), Vec::new(), 0);
        while arrived.len() < 500 {
            if spent.free_at(at(now), rng.bool()).is_none() {
                spent.spend(at(now), 10 * S);
                let (way, answer) = (rng.u64(0..5), rng.u64(0..5));
                arrived.push(now + way);
                now += way + answer;
                if rng.u8(..) > 50 {
                    spent.answered(at(now), true);
                } else {
                    now = arrived[arrived.len() - 1].max(now);
                }
            }
            now += rng.u64(0..40);
        }
        for window in arrived.windows(6) {
            assert!(window[5] - window[0] > 300, "{window:?}");
        }
    }

    #[test]
    fn the_last_place_is_for_those_who_cannot_wait() {
        let mut spent = five();
        for _ in 0..4 {
            assert!(spent.free_at(at(0), true).is_none());
            spent.spend(at(0), 10 * S);
            spent.answered(at(0), true);
        }
        spent.spend(at(0), 10 * S);
        spent.answered(at(0), false);
        // What never left does not count.

        assert_eq!(spent.free_at(at(0), true), Some(Duration::from_secs(1301)));
        assert_eq!(spent.free_at(at(0), false), None);
        spent.spend(at(0), 10 * S);
        assert_eq!(spent.free_at(at(0), false), Some(Duration::from_secs(1301)));
        assert_eq!(spent.free_at(at(301), true), None);
        let mut one = Spent::new(Some(Budget { max: 1, per: 60 * S }));
        assert_eq!(one.free_at(at(0), true), None, "there is no place to keep");
        one.spend(at(0), S);
        assert_eq!(one.free_at(at(0), false), Some(Duration::from_secs(1062)));
        assert_eq!(Spent::default().free_at(at(0), true), None);
    }

    #[test]
    fn a_restart_a_boot_and_a_clock_that_is_set_neither_forget_nor_wait_for_ever() {
        let mut spent = five();
        for _ in 0..5 {
            spent.spend(at(0), 10 * S);
        }
        let kept = spent.keep(at(0));
        let restored = |same_boot, now| {
            let mut spent = five();
            spent.restore(&kept, same_boot, now);
            spent.free_at(now, false).map(|until| (until - now.boot).as_secs())
        };
        assert_eq!(restored(true, at(100)), Some(211));
        let booted = |seconds: i64| {
            let wall = at(0).wall + jiff::SignedDuration::from_secs(seconds);
            Now { wall, boot: 5 * S }
        };
        assert_eq!(restored(false, booted(100)), Some(211));
        assert_eq!(restored(false, booted(400)), None);
        assert_eq!(restored(false, booted(-86_400)), Some(302), "the clock was set back by a day");
    }
}
