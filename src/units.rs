//! Durations, sizes, request budgets, dates and lifetimes as people write them: `10s`, `5m`, `64KiB`, `5 per 5m`,
//! `2027-01-31`, `2y`.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

/// What a duration looks like, for the JSON Schema; [`duration`] decides.
pub const DURATION: &str = "^([0-9]+(ms|s|m|h|d))+$";
/// What a size looks like, likewise.
pub const SIZE: &str = "^[0-9]+(B|KiB|MiB|GiB)$";

/// What a request budget looks like, likewise.
pub const BUDGET: &str = "^[0-9]+ per ([0-9]+(ms|s|m|h|d))+$";

/// What a date looks like, likewise.
pub const DATE: &str =
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?$";

/// What the lifetime of a client secret looks like, likewise.
pub const LIFE: &str = "^[0-9]+(y|m|d)$";

/// No duration of the configuration is longer.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A duration in the configuration, such as `"10s"`, `"500ms"` or `"1h30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A number of bytes in the configuration, such as `"64KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A vendor's request budget, such as `"5 per 5m"`: so many requests in any stretch of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests, 1 to 1,000,000.
    pub max: u32,
    /// 1 s to 100 years.
    pub per: Duration,
}

impl Budget {
    /// That it allows no request now, in words.
    pub fn used_up(self) -> String {
        format!("the limit of {} per {} s is used up", self.max, self.per.as_secs())
    }
}

/// A date in the configuration, such as `2027-01-31`, as the moment that it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date(pub Timestamp);

/// The lifetime of a client secret in the configuration, such as `"2y"`: as the vendor takes it, and how long that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life(pub String, pub Duration);

/// Reads `1h30m`: numbers, each with one of the units ms, s, m, h, d.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    const HELP: &str = "a duration is written like \"10s\", \"500ms\", \"5m\", \"1h30m\" or \"7d\"";
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(HELP);
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or(HELP)?;
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let milliseconds = match &after[..unit_len] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(HELP),
        };
        let part = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or(HELP)?;
        total = total.saturating_add(part);
        rest = &after[unit_len..];
    }
    if total > DURATION_MAX { Err("a duration is at most 100 years") } else { Ok(total) }
}

/// Reads `64KiB`: a number and one of the units B, KiB, MiB, GiB.
pub fn size(text: &str) -> Result<u64, &'static str> {
    const HELP: &str = "a size is written like \"64KiB\", \"1MiB\" or \"512B\"";
    let (number, unit) = leading_number(text).ok_or(HELP)?;
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(HELP),
    };
    number.checked_mul(factor).ok_or(HELP)
}

/// Reads `5 per 5m`: a number of requests, and a duration of a second at least.
pub fn budget(text: &str) -> Result<Budget, &'static str> {
    const HELP: &str = "a budget is written like \"5 per 5m\": from 1 to 1000000 requests, in a second or more";
    let (max, per) = text.split_once(" per ").ok_or(HELP)?;
    let digits = !max.is_empty() && max.bytes().all(|byte| byte.is_ascii_digit());
    let max = max.parse().ok().filter(|max| digits && (1..=1_000_000).contains(max)).ok_or(HELP)?;
    let per = duration(per)?;
    if per < Duration::from_secs(1) { Err(HELP) } else { Ok(Budget { max, per }) }
}

/// Reads a date or date-time of TOML; in UTC where it names no offset.
pub fn date(text: &str) -> Result<Date, &'static str> {
    const HELP: &str = "a date is written like 2027-01-31 or 2027-01-31T12:00:00Z";
    let written: toml::value::Datetime = text.parse().map_err(|_| HELP)?;
    let moment = match (written.date, written.time, written.offset) {
        (Some(_), Some(_), Some(_)) => text.parse(),
        (Some(_), _, None) => text.parse::<DateTime>().and_then(|at| TimeZone::UTC.to_timestamp(at)),
        _ => return Err(HELP),
    };
    moment.map(Date).map_err(|_| HELP)
}

/// Reads `2y`: a number of years, months or days. A year has 365 days, a month 30.
pub fn life(text: &str) -> Result<Life, &'static str> {
    const HELP: &str = "a lifetime is written like \"2y\", \"6m\" (months of 30 days) or \"90d\": a day to ten years";
    let (number, unit) = leading_number(text).ok_or(HELP)?;
    let days = match unit {
        "y" => 365,
        "m" => 30,
        "d" => 1,
        _ => return Err(HELP),
    };
    let days = number.checked_mul(days).filter(|days| (1..=3650).contains(days)).ok_or(HELP)?;
    Ok(Life(text.to_owned(), Duration::from_secs(days * 24 * 3600)))
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        size(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        budget(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        date(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Life {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        life(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": DURATION, "description": "A duration, such as `10s` or `1h30m`." })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": SIZE, "description": "A number of bytes, such as `64KiB`." })
    }
}

impl JsonSchema for Budget {
    fn schema_name() -> Cow<'static, str> {
        "Budget".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": BUDGET, "description": "A request budget, such as `5 per 5m`." })
    }
}

impl JsonSchema for Life {
    fn schema_name() -> Cow<'static, str> {
        "Lifetime".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": LIFE, "description": "A lifetime, such as `2y`, `6m` or `90d`." })
    }
}

impl JsonSchema for Date {
    fn schema_name() -> Cow<'static, str> {
        "Date".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": DATE, "description": "A date, such as `2027-01-31`." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "10", "s", "10 s", "-1s", "1.5h", "10sec", "99999999999999999999s", "40000d"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn budgets_are_requests_per_duration() {
        assert_eq!(budget("5 per 5m"), Ok(Budget { max: 5, per: Duration::from_secs(300) }));
        for wrong in
            ["", "5", "5 per", "5 per 5", "0 per 5m", "-1 per 5m", "+5 per 5m", "5 per 0s", "5 per 10ms", "5/5m"]
        {
            assert!(budget(wrong).is_err(), "{wrong:?}");
        }
        assert!(budget("1000001 per 1s").is_err() && budget("5  per 5m").is_err());
    }

    #[test]
    fn dates_are_those_of_toml_and_begin_at_midnight_utc() {
        for (text, moment) in [
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z"),
            ("2027-01-31 12:00:00.5", "2027-01-31T12:00:00.5Z"),
            ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00Z"),
        ] {
            assert_eq!(date(text), Ok(Date(moment.parse().unwrap())), "{text}");
        }
        for wrong in ["", "soon", "20270131", "2027-02-30", "31.1.2027", "12:00:00", "2027-01", "12027-01-01", "never"]
        {
            assert!(date(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lifetimes_are_years_months_or_days() {
        for (text, days) in [("2y", 730), ("6m", 180), ("90d", 90), ("10y", 3650)] {
            assert_eq!(life(text), Ok(Life(text.into(), Duration::from_secs(days * 24 * 3600))));
        }
        for wrong in ["", "2", "y", "0d", "2 y", "-1y", "1.5y", "1y6m", "24h", "11y", "18446744073709551615y"] {
            assert!(life(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("64KiB"), Ok(65536));
        for wrong in ["", "64", "64KB", "64 KiB", "99999999999GiB", "-1B"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }
}
