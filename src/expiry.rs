//! What ends unless somebody acts: client secrets, client certificates, CA files, refresh tokens. How that is put in words,
//! and when the running broker says it: from 30 days before, each thing once a day. Reads no clock and no file.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use crate::clock::{Now, rfc3339};

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    pub kind: Kind,
    /// Where it is configured, such as `token.api`.
    pub table: String,
    /// Its name, which stays the same when it is renewed.
    pub what: String,
    /// Which one it is now; may be empty.
    pub which: String,
    pub when: Timestamp,
    /// What to do.
    pub fix: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Secret,
    Certificate,
    Ca,
    RefreshToken,
}

impl Kind {
    fn fix(self) -> &'static str {
        match self {
            Self::Secret => {
                "make a new one at the vendor, and put it and its `secret_expires` in the place of this one"
            }
            Self::Certificate => "get a new one, and give it to the vendor if they keep a copy",
            Self::Ca => "add the certificate that follows it to the file, and take out what has ended",
            Self::RefreshToken => "log in at the vendor again, and put the new one in the place of `refresh_token`",
        }
    }
}

/// Whole days that are left; below zero when it is over.
pub type Days = i64;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// From when on it is said.
pub const SOON: Days = 30;
/// Between two looks of the running broker.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Expiring {
    pub fn new(kind: Kind, table: &str, what: &str, which: String, when: Timestamp) -> Self {
        Self { kind, table: table.into(), what: format!("{what} of {table}"), which, when, fix: kind.fix() }
    }

    /// A file may be named by several tables: it is one thing.
    pub fn ca(table: &str, file: &str, which: String, when: Timestamp) -> Self {
        let what = format!("a certificate of the CA file {file}");
        Self { what, ..Self::new(Kind::Ca, table, "", which, when) }
    }

    /// The certificate of a listener: nobody but the operator has to have it.
    pub fn listener(table: &str, which: String, when: Timestamp) -> Self {
        let fix = "get a new one, and put it in the place of this one";
        Self { fix, ..Self::new(Kind::Certificate, table, "the listener's certificate", which, when) }
    }

    /// That of the table alone.
    pub fn name(&self) -> &str {
        self.table.split_once('.').map_or("", |(_, name)| name)
    }

    pub fn days_left(&self, now: Timestamp) -> Days {
        days_left(now, self.when)
    }

    /// What ends, and when.
    pub fn said(&self, now: Timestamp) -> String {
        let comma = if self.which.is_empty() { "" } else { ", " };
        let ends = in_words(self.days_left(now));
        format!("{} {ends} ({}{comma}{})", self.what, self.which, rfc3339(self.when))
    }
}

/// Below zero when it is over.
pub fn days_left(now: Timestamp, when: Timestamp) -> Days {
    when.duration_since(now).as_secs().div_euclid(24 * 3600)
}

/// The fewer days are left, the more urgent it sounds.
fn in_words(days: Days) -> String {
    match days {
        ..=-2 => format!("ended {} ago", count(-days - 1)),
        -1 => "has ended".to_owned(),
        0 => "is about to end, within a day".to_owned(),
        1 => "is about to end, in 1 day".to_owned(),
        2..=7 => format!("ends very soon, in {}", count(days)),
        8..=14 => format!("ends soon, in {}", count(days)),
        _ => format!("ends in {}", count(days)),
    }
}

fn count(days: Days) -> String {
    format!("{days} day{}", if days == 1 { "" } else { "s" })
}

/// Is it time to say it? The wall clock tells what is left. The boot clock, which nobody sets and which goes on in suspend,
/// tells since when it was not said: `last_told` is since boot.
pub fn due(now: Now, expires: Timestamp, last_told: Option<Duration>) -> Option<Days> {
    let days = days_left(now.wall, expires);
    let told = last_told.is_some_and(|told| now.boot.saturating_sub(told) < DAY);
    (days <= SOON && !told).then_some(days)
}

/// What was said within the last day, and when: since boot.
#[derive(Default)]
struct Told(BTreeMap<String, Duration>);

impl Told {
    /// What is to be said now.
    fn next<'e>(&mut self, now: Now, all: &'e [Expiring]) -> Vec<(&'e Expiring, Days)> {
        self.0.retain(|_, told| now.boot.saturating_sub(*told) < DAY);
        let mut next = Vec::new();
        for one in all {
            if let Some(days) = due(now, one.when, self.0.get(&one.what).copied()) {
                self.0.insert(one.what.clone(), now.boot);
                next.push((one, days));
            }
        }
        next
    }
}

/// Says in the log what ends, for as long as it is polled.
pub async fn tell(now: impl Fn() -> Now, all: impl Fn() -> Vec<Expiring>) {
    let mut told = Told::default();
    loop {
        let (now, all) = (now(), all());
        for (one, days_left) in told.next(now, &all) {
            let expires_at = rfc3339(one.when);
            warn!(table = one.table, expires_at, days_left, "{}; {}", one.said(now.wall), one.fix);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(wall_hours: i64, boot_hours: u64) -> Now {
        Now { wall: hours(wall_hours), boot: Duration::from_secs(boot_hours * HOUR) }
    }

    fn hours(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hours * 3600).unwrap()
    }

    fn secret(when: Timestamp) -> Expiring {
        Expiring::new(Kind::Secret, "token.api", "the client secret", String::new(), when)
    }

    #[test]
    fn it_is_said_from_30_days_before_and_after_the_end() {
        let end = hours(0);
        for (left, said) in [(31 * 24, None), (31 * 24 - 1, Some(30)), (24, Some(1)), (23, Some(0)), (0, Some(0))] {
            assert_eq!(due(at(-left, 0), end, None), said, "{left}");
        }
        assert_eq!((due(at(1, 0), end, None), due(at(25, 0), end, None)), (Some(-1), Some(-2)));
    }

    #[test]
    fn it_is_said_once_a_day_whatever_is_done_to_the_wall_clock() {
        let (end, told) = (hours(0), Some(Duration::from_secs(100 * HOUR)));
        for wall in [-200, -1, 0, 500, -100, 5_000] {
            assert_eq!(due(at(wall, 100), end, told), None, "{wall}");
            assert_eq!(due(at(wall, 123), end, told), None, "{wall}");
        }
        assert_eq!(due(at(-48, 124), end, told), Some(2));
        assert_eq!(due(at(-200 * 24, 124), end, told), None, "set back to when nothing was soon");
    }

    #[test]
    fn each_thing_is_told_by_itself_first_at_the_start_and_a_renewed_one_is_the_same_thing() {
        let mut told = Told::default();
        let ca = |table: &str| Expiring::ca(table, "ca.pem", "subject CN=x".into(), hours(48));
        let all = [secret(hours(9 * 24)), ca("token.api"), ca("route.api"), secret(hours(90 * 24))];
        let next = |told: &mut Told, now, all: &[Expiring]| -> Vec<(String, Days)> {
            told.next(now, all).into_iter().map(|(one, days)| (one.table.clone(), days)).collect()
        };
        assert_eq!(next(&mut told, at(0, 7), &all), [("token.api".into(), 9), ("token.api".into(), 2)]);
        assert_eq!(next(&mut told, at(1, 8), &all), []);
        assert_eq!(next(&mut told, at(2, 9), &[secret(hours(10 * 24))]), []);
        // A night in suspend: one line, not one for each look that was missed.
        assert_eq!(next(&mut told, at(24 * 5, 7 + 24 * 5), &all).len(), 2);
        assert_eq!(next(&mut told, at(24 * 5, 7 + 24 * 5), &all), []);
        assert_eq!(told.0.len(), 2);
        assert_eq!(next(&mut told, at(24 * 7, 7 + 24 * 7), &[]), []);
        assert!(told.0.is_empty(), "what was said long ago is forgotten");
    }

    #[test]
    fn the_words_escalate() {
        let said = |days: i64| secret(hours(days * 24)).said(hours(0));
        assert_eq!(said(30), "the client secret of token.api ends in 30 days (2023-12-14T22:13:20.000Z)");
        for (days, words) in [
            (15, " ends in 15 days ("),
            (14, " ends soon, in 14 days ("),
            (8, " ends soon, in 8 days ("),
            (7, " ends very soon, in 7 days ("),
            (1, " is about to end, in 1 day ("),
            (0, " is about to end, within a day ("),
            (-1, " has ended ("),
            (-2, " ended 1 day ago ("),
            (-31, " ended 30 days ago ("),
        ] {
            assert!(said(days).contains(words), "{days}: {}", said(days));
        }
        let ca = Expiring::ca("route.api", "ca.pem", "subject CN=x".into(), hours(24 * 7));
        let text = ca.said(hours(0));
        assert!(text.starts_with("a certificate of the CA file ca.pem ends very soon, in 7 days (subject CN=x, 20"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_running_broker_looks_again_and_again() {
        let looks = std::cell::Cell::new(0);
        let all = || {
            looks.set(looks.get() + 1);
            vec![secret(hours(1))]
        };
        let _ = tokio::time::timeout(Duration::from_secs(150), tell(|| at(0, 0), all)).await;
        assert_eq!(looks.get(), 3, "at once, and every minute");
    }
}
