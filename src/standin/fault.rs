//! The ways in which a token server misbehaves.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::payload::{Dropped, Payload};
use super::quirk::{self, Quirk};

/// One kind of misbehaviour.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// That status, with an empty body, and perhaps `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// A web page, with 200.
    Html,
    /// Nothing, with 200.
    Empty,
    /// 10 GiB.
    Huge,
    /// A byte each second.
    Drip,
    /// No answer for so long.
    Slow(Duration),
    /// A redirect to that URL.
    Redirect(String),
    /// That body, with 200 and as JSON.
    Body(Vec<u8>),
    /// The request is acted on, then the connection is closed.
    Lost,
    /// A good answer; then every access token is dead.
    Revoked,
}

/// Their names for `demo --fault`, and what each does.
const NAMES: &[(&str, &str)] = &[
    ("down", "answers 503"),
    ("error", "answers 500"),
    ("limited", "answers 429, and asks for 3 s of patience"),
    ("limited-silent", "answers 429, and does not say for how long"),
    ("html", "answers with a web page"),
    ("empty", "answers 200 with nothing"),
    ("huge", "answers with 10 GiB"),
    ("drip", "answers a byte each second"),
    ("late", "answers after 2 s"),
    ("slow", "answers after a minute"),
    ("redirect", "redirects to another server"),
    ("lost", "acts on the request, then closes the connection"),
    ("revoked", "ends its tokens as soon as it has answered"),
];

/// A name for `demo --fault`.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub name: &'static str,
    /// Those that misbehave, by [`super::demo::Vendor::NAME`]; all if none is named.
    of: &'static [&'static str],
    /// What they do then.
    pub what: &'static str,
}

impl Named {
    pub fn concerns(&self, vendor: &str) -> bool {
        self.of.is_empty() || self.of.contains(&vendor)
    }

    /// Who does what.
    pub fn help(&self) -> String {
        if self.of.is_empty() { self.what.to_owned() } else { format!("{}: {}", self.of.join(", "), self.what) }
    }
}

/// Everything that `demo --fault` knows, the quirks of single vendors too.
pub fn names() -> impl Iterator<Item = Named> {
    let faults = NAMES.iter().map(|&(name, what)| Named { name, of: &[], what });
    faults.chain(quirk::NAMES.iter().map(|&(name, _, of, what)| Named { name, of, what }))
}

impl Fault {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "down" => Self::Status(503, None),
            "error" => Self::Status(500, None),
            "limited" => Self::Status(429, Some(3)),
            "limited-silent" => Self::Status(429, None),
            "html" => Self::Html,
            "empty" => Self::Empty,
            "huge" => Self::Huge,
            "drip" => Self::Drip,
            "late" => Self::Slow(Duration::from_secs(2)),
            "slow" => Self::Slow(Duration::from_secs(60)),
            "redirect" => Self::Redirect("https://elsewhere.invalid/token".into()),
            "lost" => Self::Lost,
            "revoked" => Self::Revoked,
            _ => return None,
        })
    }

    /// The answer in place of a good one.
    pub(super) async fn answer(self, good: Response<Payload>) -> Result<Response<Payload>, Dropped> {
        let mut answer = Response::new(Payload::from(String::new()));
        match self {
            Self::Status(status, retry_after) => {
                *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                if let Some(seconds) = retry_after {
                    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
            }
            Self::Html => *answer.body_mut() = Payload::from("<html><h1>Maintenance</h1></html>".to_owned()),
            Self::Empty => {}
            Self::Huge => *answer.body_mut() = Payload::endless(),
            Self::Drip => *answer.body_mut() = Payload::drip(),
            Self::Slow(delay) => {
                tokio::time::sleep(delay).await;
                answer = good;
            }
            Self::Redirect(to) => {
                *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
                if let Ok(to) = HeaderValue::from_str(&to) {
                    answer.headers_mut().insert(LOCATION, to);
                }
            }
            Self::Body(body) => {
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                *answer.body_mut() = Payload::Whole((!body.is_empty()).then(|| body.into()));
            }
            Self::Lost => return Err(Dropped),
            Self::Revoked => answer = good,
        }
        Ok(answer)
    }
}

/// How and when to misbehave; may be changed at any time.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    fault: Option<Fault>,
    /// How often still; `None` for always.
    times: Option<u32>,
    /// At every other call, the first being good.
    alternate: bool,
    calls: u64,
    quirks: Vec<Quirk>,
}

impl Faults {
    /// Misbehave at the next calls, `times` of them or for good; `None` to behave.
    pub fn set(&self, fault: Option<Fault>, times: Option<u32>) {
        let mut plan = self.lock();
        (plan.fault, plan.times, plan.alternate) = (fault, times, false);
    }

    /// Misbehave at every other call, the first being good.
    pub fn alternate(&self, fault: Fault) {
        let mut plan = self.lock();
        (plan.fault, plan.times, plan.alternate) = (Some(fault), None, true);
    }

    /// Turns a quirk on or off.
    pub fn turn(&self, quirk: Quirk, on: bool) {
        let mut plan = self.lock();
        plan.quirks.retain(|other| *other != quirk);
        if on {
            plan.quirks.push(quirk);
        }
    }

    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.lock().quirks.contains(&quirk)
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; how to misbehave at it.
    pub(super) fn next(&self) -> Option<Fault> {
        let mut plan = self.lock();
        plan.calls += 1;
        if plan.alternate && plan.calls % 2 == 1 {
            return None;
        }
        match &mut plan.times {
            Some(0) => return None,
            Some(times) => *times -= 1,
            None => {}
        }
        plan.fault.clone()
    }
}
