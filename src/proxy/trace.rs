//! The spans of a request: the one that the broker answers, and below it the one to the API, which `traceparent` names on the
//! way there. Where nobody exports spans, or the caller's trace is not recorded, fields pass as they came.

use std::time::Instant;

use http::{Method, StatusCode};

use super::now;
use super::route::Route;
use crate::http1::Request;
use crate::telemetry::trace::{Place, Side, Span, Tracer, Value};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// A request that is recorded.
pub struct Traced {
    own: Place,
    upstream: Place,
    /// When it was sent to the API.
    sent: Option<Instant>,
}

/// How a request ended.
#[derive(Default)]
pub struct Ended {
    pub status: Option<StatusCode>,
    /// Why the broker answered with an error itself.
    pub code: Option<&'static str>,
    /// Did it break off?
    pub cut: bool,
}

/// Begins the spans of a request, if they are recorded.
pub fn begin(tracer: &Tracer, request: &mut Request) -> Option<Box<Traced>> {
    if !tracer.is_on() {
        return None;
    }
    let caller = request.fields.get(TRACEPARENT).filter(|_| request.fields.all(TRACEPARENT).count() == 1);
    let caller = caller.and_then(Place::of_caller);
    if caller.is_some_and(|caller| !caller.is_sampled()) {
        return None;
    }
    if caller.is_none() {
        // It belongs to a trace that is not known (W3C Trace Context §4.3).
        request.fields.retain(|name, _| name != TRACESTATE.as_bytes());
    }
    let own = caller.map_or_else(Place::root, Place::below);
    let upstream = own.below();
    request.set(TRACEPARENT, &upstream.traceparent());
    Some(Box::new(Traced { own, upstream, sent: None }))
}

impl Traced {
    /// The request goes out.
    pub fn sends(&mut self) {
        self.sent = Some(now());
    }

    /// Hands both spans over.
    pub fn end(self, tracer: &Tracer, route: Option<&Route>, method: &Method, started: Instant, ended: &Ended) {
        let method = known(method);
        let name = match route {
            Some(route) => format!("{} {}", method.unwrap_or("HTTP"), route.config.name),
            None => method.unwrap_or("HTTP").to_owned(),
        };
        let status = ended.status.map(|status| status.as_u16());
        let mut common = vec![("http.request.method", Value::from(method.unwrap_or("_OTHER")))];
        common.extend(route.map(|route| ("tokenbroker.route", Value::from(route.config.name.as_str()))));
        let now = now();
        let span = |place, side, started, mut attributes: Vec<_>, error: Option<String>, failed| {
            attributes.extend(error.map(|error| ("error.type", Value::Text(error))));
            Span { place, name: name.clone(), side, started, ended: now, attributes, failed }
        };
        let code = ended.code.map(str::to_owned).or_else(|| ended.cut.then(|| "broken_off".to_owned()));
        if let (Some(sent), Some(route)) = (self.sent, route) {
            let endpoint = route.upstream.endpoint();
            let mut attributes = common.clone();
            attributes.push(("server.address", Value::from(endpoint.host.as_str())));
            attributes.push(("server.port", Value::from(endpoint.port)));
            // An answer of the broker's own says nothing of the API's.
            let theirs = status.filter(|_| ended.code.is_none());
            attributes.extend(theirs.map(|status| ("http.response.status_code", Value::from(status))));
            let error = code.clone().or_else(|| theirs.filter(|status| *status >= 400).map(|s| s.to_string()));
            let failed = error.is_some();
            tracer.end(span(self.upstream, Side::Client, sent, attributes, error, failed));
        }
        let mut attributes = common;
        attributes.push(("url.scheme", Value::from(route.map_or("http", |route| route.config.scheme()))));
        attributes.extend(status.map(|status| ("http.response.status_code", Value::from(status))));
        let ours = if ended.code.is_some() { "broker" } else { "upstream" };
        attributes.extend(status.map(|_| ("tokenbroker.origin", Value::from(ours))));
        let fault = status.filter(|status| *status >= 500);
        let error = code.or_else(|| fault.map(|status| status.to_string()));
        tracer.end(span(self.own, Side::Server, started, attributes, error, fault.is_some() || ended.cut));
    }
}

/// One of the methods that have a standard; a client may send any word.
fn known(method: &Method) -> Option<&'static str> {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].into_iter().find(|known| *known == method.as_str())
}
