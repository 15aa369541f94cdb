//! How long to wait after a failed exchange. Pure.

use std::time::Duration;

use fastrand::Rng;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// What a server may ask for by `Retry-After` is held between these.
const ASKED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The delay after the `failures`th failure in a row (from 1): 1 s doubling to 60 s, drawn from its upper half. If the server
/// asked for a delay of its own, never less than that, and later by a quarter of it at most, or by what it would be without,
/// whichever is longer, within the same bounds: a server says the same to all, and they must not come back in step.
pub fn delay(failures: u32, asked: Option<Duration>, rng: &mut Rng) -> Duration {
    let whole = FIRST.saturating_mul(1 << (failures.saturating_sub(1)).min(6)).min(LONGEST);
    if let Some(asked) = asked {
        let asked = asked.clamp(ASKED.0, ASKED.1);
        return (asked + whole.max(asked / 4).mul_f64(rng.f64())).min(ASKED.1);
    }
    whole.mul_f64(0.5 + rng.f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_minute_and_fill_their_upper_half_evenly() {
        let mut rng = Rng::with_seed(7);
        for (failures, whole) in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (8, 60.0), (u32::MAX, 60.0)] {
            let mut quarters = [0; 4];
            for _ in 0..10_000 {
                let share = delay(failures, None, &mut rng).as_secs_f64() / whole;
                assert!((0.5..=1.0).contains(&share), "{failures}: {share}");
                quarters[(((share - 0.5) * 8.0) as usize).min(3)] += 1;
            }
            assert!(quarters.iter().all(|&n| (2_300..2_700).contains(&n)), "{failures}: {quarters:?}");
        }
    }

    #[test]
    fn the_server_is_obeyed_within_bounds_and_not_in_step() {
        let mut rng = Rng::with_seed(7);
        for (failures, asked, given, more) in
            [(1, 0, 1.0, 1.0), (1, 7, 7.0, 1.75), (4, 7, 7.0, 8.0), (1, 200, 200.0, 50.0), (9, 1, 1.0, 60.0)]
        {
            let mut quarters = [0; 4];
            for _ in 0..10_000 {
                let over = delay(failures, Some(Duration::from_secs(asked)), &mut rng).as_secs_f64() - given;
                assert!((0.0..=more).contains(&over), "{failures}, {asked}: {over}");
                quarters[((over / more * 4.0) as usize).min(3)] += 1;
            }
            assert!(quarters.iter().all(|&n| (2_300..2_700).contains(&n)), "{failures}, {asked}: {quarters:?}");
        }
        for asked in [300, 86_400] {
            assert_eq!(delay(3, Some(Duration::from_secs(asked)), &mut rng), Duration::from_secs(300), "no longer");
        }
    }
}
