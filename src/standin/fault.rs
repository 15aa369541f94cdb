//! The ways in which a token server misbehaves.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::http::{Dropped, Payload};

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
}

/// The names for `demo --fault`, and what each stands for.
pub const NAMES: &[(&str, &str)] = &[
    ("down", "answers 503"),
    ("limited", "answers 429, and asks for 3 s of patience"),
    ("html", "answers with a web page"),
    ("empty", "answers 200 with nothing"),
    ("huge", "answers with 10 GiB"),
    ("drip", "answers a byte each second"),
    ("slow", "answers after a minute"),
    ("redirect", "redirects to another server"),
    ("lost", "acts on the request, then closes the connection"),
];

impl Fault {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "down" => Self::Status(503, None),
            "limited" => Self::Status(429, Some(3)),
            "html" => Self::Html,
            "empty" => Self::Empty,
            "huge" => Self::Huge,
            "drip" => Self::Drip,
            "slow" => Self::Slow(Duration::from_secs(60)),
            "redirect" => Self::Redirect("https://elsewhere.invalid/token".into()),
            "lost" => Self::Lost,
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
        }
        Ok(answer)
    }
}

/// When to misbehave.
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
}

impl Faults {
    /// Misbehave at the next calls, `times` of them or for good; `None` to behave.
    pub fn set(&self, fault: Option<Fault>, times: Option<u32>) {
        let mut plan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (plan.fault, plan.times, plan.alternate) = (fault, times, false);
    }

    /// Misbehave at every other call, the first being good.
    pub fn alternate(&self, fault: Fault) {
        let mut plan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (plan.fault, plan.times, plan.alternate) = (Some(fault), None, true);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).calls
    }

    /// Counts a call; how to misbehave at it.
    pub(super) fn next(&self) -> Option<Fault> {
        let mut plan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
