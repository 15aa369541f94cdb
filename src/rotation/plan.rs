//! When a rotation that nobody asks for begins, when it is tried again, and when a person should know. Reads no clock.

use std::time::Duration;

use jiff::Timestamp;

const DAY: i64 = 86_400;
/// So long takes a rotation that is held up at every step and tried again the next day, and the day after.
const SAFE: i64 = 3 * DAY;
/// Days before the end at which a failing rotation becomes more urgent.
const URGENT: [u8; 3] = [14, 7, 1];

/// When to begin: `before` the end, but not before 80 % of the life is over, so that a short-lived secret is not replaced all
/// the time. A fifth of a short life may be too little, so three days are left all the same, or half of a life that is shorter
/// than six. `seed` moves it by up to a tenth of what is left, later, so that many brokers do not begin at once: nine tenths of
/// what is said here are always left.
pub fn due(expires: Timestamp, before: Duration, life: Option<Duration>, seed: u64) -> Timestamp {
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let left = match life.map(whole) {
        Some(life) => whole(before).min((life / 5).max(SAFE.min(life / 2))),
        None => whole(before),
    };
    let jitter = fastrand::Rng::with_seed(seed).i64(0..=left / 10);
    at(expires.as_second().saturating_sub(left - jitter))
}

/// After a failure, when to try again: the next day, or earlier where the end is near.
pub fn again(failed: Timestamp, expires: Timestamp) -> Timestamp {
    let left = expires.as_second().saturating_sub(failed.as_second());
    at(failed.as_second().saturating_add((left / 4).clamp(3600, DAY)))
}

/// The last of 14, 7 and 1 days before the end that has come; 0 when it is over.
pub fn urgency(expires: Timestamp, now: Timestamp) -> Option<u8> {
    let left = expires.as_second().saturating_sub(now.as_second());
    if left <= 0 {
        return Some(0);
    }
    URGENT.into_iter().rfind(|days| left <= i64::from(*days) * DAY)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(if second < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
