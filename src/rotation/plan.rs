//! When a rotation begins that nobody asks for. Pure.

use std::time::Duration;

use jiff::Timestamp;

/// How the moment is spread over a tenth of `before`, so that not all brokers of a fleet begin at once.
const SPREAD: u32 = 10;

/// When the rotation of a secret that ends at `end` begins: `before` its end, and up to a tenth of that later. `who` tells
/// one broker, or token, from another.
pub fn due(end: Timestamp, before: Duration, who: &[u8]) -> Timestamp {
    // FNV-1a: the same for the same token, after a restart too.
    let hash = who.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let later = (before / SPREAD).mul_f64(f64::from(hash) / f64::from(u32::MAX));
    end.checked_sub(before.saturating_sub(later)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_before_the_end_and_at_most_a_tenth_later() {
        let (end, day) = (Timestamp::from_second(2_000_000_000).unwrap(), Duration::from_secs(24 * 3600));
        let left: Vec<_> =
            (0..200_u8).map(|who| end.duration_since(due(end, 30 * day, &[who])).as_secs_f64()).collect();
        let days = |days: f64| days * 24.0 * 3600.0;
        assert!(left.iter().all(|left| (days(27.0)..=days(30.0)).contains(left)), "{left:?}");
        assert!(left.iter().any(|left| *left < days(28.0)) && left.iter().any(|left| *left > days(29.0)), "{left:?}");
        assert_eq!(due(end, 30 * day, b"a"), due(end, 30 * day, b"a"));
        assert_eq!(due(Timestamp::MIN, day, b"a"), Timestamp::MIN);
    }
}
