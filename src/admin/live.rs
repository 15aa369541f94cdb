//! `/api/events`: server-sent events for the pages that look on. First the whole status, then what of it changes (a JSON
//! merge patch, RFC 7396), new lines of the log, and new exchanges where the inspector is on.
//!
//! Nothing is kept for a page: it is told what there is when it takes it, and one that does not take it is cut.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{Admin, curl, dashboard};
use crate::clock::rfc3339;
use crate::http1::{After, Client, Out, Request, write_connection, write_field, write_status};
use crate::problem::Problem;
use crate::telemetry::events::{EVENTS, Event};
use crate::telemetry::inspected::{Inspected, Shown};
use crate::telemetry::metrics::Origin;

/// So many pages may look on, which leaves the probes their connections.
const STREAMS_MAX: usize = 8;
/// How often there is news, and how often the status is put together, for all of them.
const EVERY: Duration = Duration::from_millis(500);
/// Without any news, a sign of life.
const SIGN_EVERY: Duration = Duration::from_secs(15);
/// A page may keep what is sent waiting for so long.
const STALL: Duration = Duration::from_secs(10);
/// Events older than this are not shown: what they told of is over, or said again.
const EVENT_AGE_MAX: Duration = Duration::from_secs(3 * 24 * 3600);

/// Who looks on.
pub struct Live {
    places: Arc<Semaphore>,
    status: Mutex<Option<(Instant, Arc<Value>)>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(STREAMS_MAX)), status: Mutex::default() }
    }
}

impl Live {
    /// A place among those who look on.
    pub(super) fn join(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let detail = format!("{STREAMS_MAX} pages look on already: close one");
            let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
            Problem { retry_after: Some(SIGN_EVERY), ..busy }
        })
    }
}

/// What a page was told.
#[derive(Default)]
struct Told {
    status: Option<Arc<Value>>,
    event: u64,
    exchange: u64,
}

pub(super) fn is_asked_for(request: &Request) -> bool {
    request.method == Method::GET && request.path() == "/api/events"
}

/// Tells a page what there is until it goes, or the broker drains.
pub(super) async fn stream(admin: &Admin, client: &mut Client, request: &Request, _: OwnedSemaphorePermit) -> After {
    client.stall = STALL;
    let (mut told, mut text, mut last) = (Told::default(), head(request), Instant::now());
    loop {
        let draining = admin.draining.is_cancelled();
        text.extend_from_slice(admin.news(&mut told).as_bytes());
        if draining {
            text.extend_from_slice(b"event: end\ndata: {}\n\n");
        } else if text.is_empty() && last.elapsed() >= SIGN_EVERY {
            text.extend_from_slice(b": a sign of life\nevent: beat\ndata: {}\n\n");
        }
        if !text.is_empty() {
            if client.write(&mut Out::new(std::mem::take(&mut text))).await.is_err() {
                return After::Cut;
            }
            last = Instant::now();
        }
        if draining {
            return After::Close;
        }
        let next = tokio::time::timeout(EVERY, admin.draining.cancelled());
        if client.unless_gone(true, next).await.is_none() {
            return After::Cut;
        }
    }
}

/// Its body ends with the connection.
fn head(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    write_status(&mut out, request.version, StatusCode::OK, b"");
    write_field(&mut out, CONTENT_TYPE.as_str().as_bytes(), b"text/event-stream");
    write_field(&mut out, CACHE_CONTROL.as_str().as_bytes(), b"no-store");
    for (name, value) in dashboard::GUARDS {
        write_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
    }
    write_connection(&mut out, false, request.version);
    out.extend_from_slice(b"\r\n");
    out
}

impl Admin {
    /// The last exchanges, the newest first.
    pub(super) fn requests(&self) -> Value {
        let last = self.exchanges.iter().flat_map(|kept| kept.since(0)).rev();
        let requests: Vec<_> = last.map(|(number, one)| exchange(number, &one)).collect();
        json!({ "inspector": self.exchanges.is_some(), "requests": requests })
    }

    /// Put together anew if it is old.
    fn recent_status(&self) -> Arc<Value> {
        let mut status = self.live.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, status)) = status.as_ref().filter(|(at, _)| at.elapsed() < EVERY) {
            return Arc::clone(status);
        }
        let new = Arc::new(self.status());
        *status = Some((Instant::now(), Arc::clone(&new)));
        new
    }

    /// What a page was not told yet.
    fn news(&self, told: &mut Told) -> String {
        let (mut news, status) = (String::new(), self.recent_status());
        match told.status.replace(Arc::clone(&status)) {
            None => news = message("status", &status),
            Some(old) if Arc::ptr_eq(&old, &status) => {}
            Some(old) => {
                let mut patch = patch(&old, &status);
                // That alone is no news.
                patch.remove("now");
                if !patch.is_empty() {
                    news = message("patch", &patch.into());
                }
            }
        }
        let events = EVENTS.since(told.event);
        told.event = events.last().map_or(told.event, |(number, _)| *number);
        let now = (self.now)().wall;
        let recent = events.iter().filter(|(_, one)| now.duration_since(one.last_at).unsigned_abs() < EVENT_AGE_MAX);
        let recent: Vec<_> = recent.map(|(_, one)| event(one)).collect();
        if !recent.is_empty() {
            news += &message("log", &recent.into());
        }
        let exchanges = self.exchanges.as_ref().map(|kept| kept.since(told.exchange)).unwrap_or_default();
        if let Some((last, _)) = exchanges.last() {
            told.exchange = *last;
            let exchanges: Vec<_> = exchanges.iter().map(|(number, one)| exchange(*number, one)).collect();
            news += &message("requests", &exchanges.into());
        }
        news
    }
}

/// JSON has no line breaks of its own.
fn message(event: &str, data: &Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

/// What makes `new` of `old` (RFC 7396). Null and absent are the same.
fn patch(old: &Value, new: &Value) -> Map<String, Value> {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return Map::new() };
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let mut out: Map<_, _> = gone.collect();
    for (name, value) in new {
        match old.get(name) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                out.insert(name.clone(), patch(before, value).into());
            }
            _ => {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    out
}

fn event(one: &Event) -> Value {
    json!({
        "key": one.key,
        "level": one.level,
        "message": one.message,
        "fields": one.fields,
        "at": rfc3339(one.last_at),
        "first_at": rfc3339(one.first_at),
        "count": one.count,
    })
}

fn exchange(number: u64, one: &Inspected) -> Value {
    let (command, left_out) = curl::command(one);
    let fields = |fields: &[Shown]| fields.iter().map(|field| json!([field.name, field.value])).collect::<Vec<_>>();
    let origin = one.answer.map(|(_, origin)| if origin == Origin::Upstream { "upstream" } else { "broker" });
    json!({
        "number": number,
        "at": rfc3339(one.at),
        "route": one.route,
        "method": one.method,
        "target": one.target,
        "status": one.answer.map(|(status, _)| status.as_u16()),
        "origin": origin,
        "milliseconds": one.took.as_secs_f64() * 1000.0,
        "retries": one.retries,
        "request": fields(&one.request),
        "added": one.added,
        "response": fields(&one.response),
        "curl": command,
        "left_out": left_out,
    })
}
