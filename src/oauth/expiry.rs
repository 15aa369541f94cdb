//! How long a token lives, from what an answer says: every variant that vendors were seen to send.
//!
//! The result is a time to live as the *server* sees it, so that a wrong local clock does not matter: a moment is held
//! against the answer's own `Date`. Absurd values never become "for ever".

use std::time::Duration;

use http::header;
use jiff::Timestamp;
use serde_json::Value;

use super::file::Unit;
use super::jwt;
use super::place::{Places, Reply};
use crate::units::DURATION_MAX;

/// Where an expiry is found.
#[derive(Clone, Debug)]
pub enum Expires {
    In(Places, Unit),
    At(Places, Unit),
    Jwt,
    Fixed(Duration),
}

/// What an answer says about a lifetime.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Lifetime(Duration),
    /// Nothing at all.
    Nothing,
    /// Something that cannot be a lifetime; the text says what.
    Odd(String),
    /// That it is over already.
    Over(String),
}

impl Expires {
    /// What `reply`, got at `now`, tells of the life of `token`.
    pub fn told(&self, reply: &Reply, json: Option<&Value>, token: &str, now: Timestamp) -> Told {
        let server_now = server_date(reply).unwrap_or(now);
        match self {
            Self::Fixed(lifetime) => Told::Lifetime(*lifetime),
            Self::Jwt => jwt::expiry(token).map_or(Told::Nothing, |exp| moment(exp as f64, server_now)),
            Self::In(places, unit) => match places.find(reply, json) {
                None => Told::Nothing,
                Some(value) => match number(&value) {
                    Some(n) if *unit == Unit::Ms => lifetime(n / 1000.0, &value),
                    Some(n) => lifetime(n, &value),
                    None => odd(&value),
                },
            },
            Self::At(places, unit) => match places.find(reply, json) {
                None => Told::Nothing,
                Some(value) => match (number(&value), text_moment(&value)) {
                    (Some(n), _) => number_moment(n, *unit, &value, server_now),
                    (None, Some(at)) => moment(at.as_second() as f64, server_now),
                    (None, None) => odd(&value),
                },
            },
        }
    }
}

impl Expires {
    /// Does the answer say, as a lifetime, that nothing is left?
    pub fn is_nothing_left(&self, reply: &Reply, json: Option<&Value>) -> bool {
        match self {
            Self::In(places, _) => places.find(reply, json).as_ref().and_then(number).is_some_and(|left| left <= 0.0),
            _ => false,
        }
    }
}

/// A server that says it is earlier has no clock to speak of: 2020-01-01.
const CLOCK_MIN: i64 = 1_577_836_800;
/// A bare number that would be a later moment than this is none.
const AHEAD_MAX: f64 = 400.0 * 86_400.0;

/// The server's clock, from the answer's `Date` (RFC 9110 §6.6.1).
fn server_date(reply: &Reply) -> Option<Timestamp> {
    let date = reply.headers.get(header::DATE)?.to_str().ok()?;
    let date = Timestamp::try_from(httpdate::parse_http_date(date).ok()?).ok()?;
    (date.as_second() >= CLOCK_MIN).then_some(date)
}

fn odd(value: &Value) -> Told {
    // Security: text is not shown: a server that mixes its fields up may have put the token there.
    let shown = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("of {} characters", text.chars().count()),
        Value::Bool(_) => "of true or false".into(),
        Value::Null | Value::Array(_) | Value::Object(_) => "of several values".into(),
    };
    Told::Odd(format!("the expiry {shown} makes no sense"))
}

/// A number, or text that is one.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|n: &f64| n.is_finite())
}

/// RFC 3339 with 0 to 9 fractional digits, UTC where it names no offset; or as in HTTP (RFC 9110 §5.6.7).
pub fn text_moment(value: &Value) -> Option<Timestamp> {
    let text = value.as_str()?.trim();
    let http = || Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok();
    text.parse().ok().or_else(|| format!("{text}Z").parse().ok()).or_else(http)
}

/// Zero and less mean "not known" to some servers (VMware documents 0 and -1), so they are not a lifetime either.
fn lifetime(seconds: f64, value: &Value) -> Told {
    if seconds > 0.0 && seconds <= DURATION_MAX.as_secs_f64() {
        Told::Lifetime(Duration::from_secs_f64(seconds))
    } else {
        odd(value)
    }
}

/// Numbers below 10^8 (1973) can only be a lifetime, numbers from 10^11 on (year 5138) only milliseconds.
fn number_moment(n: f64, unit: Unit, value: &Value, server_now: Timestamp) -> Told {
    match unit {
        Unit::S => moment(n, server_now),
        Unit::Ms => moment(n / 1000.0, server_now),
        Unit::Auto if n < 1e8 => lifetime(n, value),
        Unit::Auto => {
            let seconds = if n < 1e11 { n } else { n / 1000.0 };
            let plausible = seconds - (server_now.as_second() as f64) < AHEAD_MAX;
            if plausible { moment(seconds, server_now) } else { odd(value) }
        }
    }
}

fn moment(unix_seconds: f64, server_now: Timestamp) -> Told {
    let left = unix_seconds - server_now.as_second() as f64;
    if left <= 0.0 {
        Told::Over(format!("it ended {} s before the answer's own date", -left))
    } else {
        lifetime(left, &Value::from(unix_seconds))
    }
}
