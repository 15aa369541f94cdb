//! What every stand-in keeps: its tokens, how it misbehaves, what it was asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::DATE;
use http::{HeaderValue, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::fault::{Fault, Faults};
use super::http::{Dropped, Payload};
use super::issuer::Issuer;
use super::message::{Call, Reply};
use super::quirk::Quirk;

/// Calls that are remembered.
const SEEN_MAX: usize = 1000;

/// The state; each stand-in derefs to its own.
pub struct State {
    pub issuer: Arc<Issuer>,
    pub faults: Faults,
    seen: Mutex<Vec<(Call, StatusCode)>>,
}

impl State {
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self { issuer, faults: Faults::default(), seen: Mutex::default() }
    }

    /// Misbehaves as `demo --fault` names it: a fault at every other call, or a quirk from now on.
    pub fn misbehave(&self, name: &str) {
        if let Some(fault) = Fault::named(name) {
            self.faults.alternate(fault);
        } else if let Some(quirk) = Quirk::named(name) {
            self.faults.turn(quirk, true);
        }
    }

    /// The requests so far, at most the last thousand.
    pub fn seen(&self) -> Vec<Call> {
        self.lock().iter().map(|(call, _)| call.clone()).collect()
    }

    /// How many of them were to that path.
    pub fn asked(&self, path: &str) -> usize {
        self.lock().iter().filter(|(call, _)| call.uri.path() == path).count()
    }

    /// How many of them this status was the answer to, whatever a fault then made of it.
    pub fn answered(&self, status: u16) -> usize {
        self.lock().iter().filter(|(_, answered)| answered.as_u16() == status).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Call, StatusCode)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time the server believes it is.
    pub(super) fn now(&self) -> Timestamp {
        let hours = i64::from(self.faults.has(Quirk::ClockAhead)) - i64::from(self.faults.has(Quirk::ClockBehind));
        let now = self.issuer.clock().now().wall;
        now.saturating_add(SignedDuration::from_hours(24 * hours)).unwrap_or(now)
    }

    /// Notes the call; then the answer, or what the faults make of it.
    pub(super) async fn respond(&self, call: Call, reply: Reply) -> Result<Response<Payload>, Dropped> {
        {
            let mut seen = self.lock();
            if seen.len() >= SEEN_MAX {
                seen.remove(0);
            }
            seen.push((call, reply.status));
        }
        let mut answer = Response::from(reply);
        if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(self.now().into())) {
            answer.headers_mut().insert(DATE, date);
        }
        match self.faults.next() {
            None => Ok(answer),
            Some(fault) => {
                if fault == Fault::Revoked {
                    self.issuer.revoke_access_tokens();
                }
                fault.answer(answer).await
            }
        }
    }
}
