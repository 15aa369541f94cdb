//! The straight line of one request: who asks → which route → which credential → to the API → back. Each step is a plain
//! function; the first that refuses ends the line.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use tracing::{debug, error, info, warn};

use super::error::ProxyError;
use super::exchange::{Exchange, Ready};
use super::inject::Found;
use super::inspect::{Inspector, Seen};
use super::route::{Route, check_form};
use super::table::Routes;
use super::trace::{self, Ended, Traced};
use super::upgrade::Tunnels;
use super::upload::Upload;
use super::{clients, headers, hops, inject, now, retry, sent_id};
use crate::door::{self, From as Page};
use crate::http1::{After, Answers, Client, Place, Request};
use crate::problem::{Problem, REQUEST_ID, RequestId};
use crate::telemetry::metrics::{Metrics, Origin};
use crate::telemetry::trace::Tracer;

/// What every request on one listener and worker shares.
pub struct Context {
    /// Another configuration brings others.
    pub routes: Arc<ArcSwap<Routes>>,
    pub worker: usize,
    pub tunnels: Tunnels,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    /// `None`: nobody looks.
    pub inspector: Option<Inspector>,
}

/// What is known of a request when its line ends, well or not.
#[derive(Default)]
struct Known {
    route: Option<Arc<Route>>,
    /// The listed origin of the page that asks.
    page: Option<HeaderValue>,
    /// `None` where nobody records it.
    traced: Option<Box<Traced>>,
    /// How often it was sent again.
    retries: u32,
    /// What of the API's answer is kept to be looked at.
    seen: Option<Box<Seen>>,
}

/// Where a request goes, or the answer to one that goes nowhere.
enum Resolved {
    Route(Arc<Route>),
    Answer(Response<Bytes>),
}

/// What a line ends with.
#[expect(clippy::large_enum_variant, reason = "made once for a request, and kept nowhere")]
enum Line {
    Upstream(Exchange, Ready),
    Own(Response<Bytes>),
}

impl Answers for Context {
    /// A panic costs one request and its connection, not the process.
    async fn answer(&self, client: &mut Client, request: Request) -> After {
        match AssertUnwindSafe(self.forward(client, request)).catch_unwind().await {
            Ok(after) => after,
            Err(_) => {
                let id = RequestId::new(None);
                self.metrics.panics.inc();
                self.metrics.problem(None, "internal");
                error!(request_id = id.as_str(), "a request ended in a panic: this is a fault of the broker");
                // Security: behind the beginning of an answer, another would be taken for that to the next request.
                if !client.answering {
                    let detail = "this is a fault of the broker: see its log";
                    client.refuse(&Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail), &id).await;
                    return After::Close;
                }
                After::Cut
            }
        }
    }
}

impl Context {
    async fn forward(&self, client: &mut Client, mut request: Request) -> After {
        let started = now();
        let mut known = Known { traced: trace::begin(&self.tracer, &mut request), ..Known::default() };
        let (response, error) = match self.line(client, &mut request, &mut known).await {
            Ok(Line::Upstream(mut exchange, ready)) => {
                let (status, took) = (ready.status, started.elapsed());
                observe(&exchange.route, &request, status, took);
                self.inspect(&request, &mut known, Some((status, Origin::Upstream)), None, took);
                let after = exchange.deliver(client, &mut request, ready, &self.tunnels).await;
                let cut = matches!(after, After::Cut);
                self.record(known, &request, started, Ended { status: Some(status), code: None, cut });
                return after;
            }
            Ok(Line::Own(response)) => (response, None),
            Err(ProxyError::Gone) => {
                let id = sent_id(&request);
                debug!(request_id = id, method = %request.method, "the client went before the answer came");
                self.inspect(&request, &mut known, None, None, started.elapsed());
                self.record(known, &request, started, Ended { cut: true, ..Ended::default() });
                return After::Close;
            }
            Err(error) => {
                let (problem, id) = (error.problem(), RequestId::new(request.fields.get(REQUEST_ID)));
                self.metrics.problem(known.route.as_ref().map(|route| route.config.name.as_str()), problem.code);
                let mut response = problem.response(&id);
                if let Some(page) = &known.page {
                    headers::allow_page(response.headers_mut(), page);
                }
                (response, Some((error, problem.code, id)))
            }
        };
        let (took, status) = (started.elapsed(), response.status());
        let code = error.as_ref().map(|(_, code, _)| *code);
        observe_own(known.route.as_deref(), &request, status, error, took);
        self.inspect(&request, &mut known, Some((status, Origin::Broker)), Some(response.headers()), took);
        self.record(known, &request, started, Ended { status: Some(status), code, cut: false });
        client.respond(request, response).await
    }

    /// Hands over the spans of a request, if there are any.
    fn record(&self, known: Known, request: &Request, started: Instant, ended: Ended) {
        if let Some(traced) = known.traced {
            traced.end(&self.tracer, known.route.as_deref(), &request.method, started, &ended);
        }
    }

    /// Keeps what may be shown, where somebody looks.
    fn inspect(
        &self,
        request: &Request,
        known: &mut Known,
        answer: Option<(StatusCode, Origin)>,
        own: Option<&HeaderMap>,
        took: Duration,
    ) {
        if let Some(inspector) = &self.inspector {
            // Of an answer of the API that could not be passed on, nobody got anything.
            let seen = known.seen.take().filter(|_| own.is_none());
            let seen = seen.unwrap_or_else(|| Box::new(Seen::own(known.route.as_deref(), own)));
            inspector.keep(request, known.route.as_deref(), *seen, answer, (took, known.retries));
        }
    }

    async fn line(&self, client: &mut Client, request: &mut Request, known: &mut Known) -> Result<Line, ProxyError> {
        let route = match resolve(&self.routes.load(), request, &client.place, known)? {
            Resolved::Route(route) => route,
            Resolved::Answer(answer) => return Ok(Line::Own(answer)),
        };
        if request.version >= Version::HTTP_11 && !headers::expects_no_more_than_continue(&request.fields) {
            return Err(expectation_failed().into());
        }
        let replays = route.token.is_some() && route.config.retry_unauthorized;
        let held_max = if replays { route.config.replay_body_max } else { 0 };
        route.metrics.in_flight.inc();
        let mut exchange = Exchange {
            upload: Upload::new(request, client, held_max),
            chunked: request.body.length().is_none(),
            websocket: headers::wants_websocket(request),
            worker: self.worker,
            route,
            retries: 0,
        };
        let mut credential = match inject::credential(&exchange.route, &request.fields)? {
            Found::Now(credential) => Some(credential),
            Found::Nothing => None,
            Found::Later => {
                let awaited = Box::pin(inject::awaited(&exchange.route));
                client.unless_gone(request.body.is_done(), awaited).await.ok_or(ProxyError::Gone)??
            }
        };
        if let Some(traced) = &mut known.traced {
            traced.sends();
        }
        let answered = exchange.send(client, request, &mut credential).await;
        known.retries = exchange.retries;
        let answered = retry::after_unauthorized(&mut exchange, client, request, &mut credential, answered?).await;
        known.retries = exchange.retries;
        let mut answered = answered?;
        if self.inspector.is_some() {
            let seen = Seen::of(&answered.response.fields, &exchange.route, credential.as_ref());
            known.seen = Some(Box::new(seen));
        }
        headers::drop_echoes(&mut answered.response.fields, credential.as_ref(), &exchange.route, request);
        let ready = exchange.prepare(client, request, answered, known.page.as_ref())?;
        Ok(Line::Upstream(exchange, ready))
    }
}

/// Form, host and origin, in this order, before anything else of the request counts; then who asks, and what the route allows.
fn resolve(routes: &Routes, request: &Request, place: &Place, known: &mut Known) -> Result<Resolved, ProxyError> {
    check_form(request, routes.scheme())?;
    let host = door::host(request)?;
    let path = request.path();
    let route = routes.find(host.as_ref(), path)?;
    let listed = route.map_or(&[][..], |route| &route.config.accept_origins);
    let page = door::origin(&request.fields, routes.scheme(), host.as_ref(), listed)?;
    if path == "*" || headers::forwards_left(request) == Some(0) {
        return Ok(Resolved::Answer(options_of_server()));
    }
    let route = route.ok_or_else(no_route)?;
    known.route = Some(Arc::clone(route));
    hops::check(&request.fields)?;
    clients::check_connection(route, place)?;
    if let Page::Listed(origin) = page {
        known.page = Some(origin);
    }
    if let Some(answer) = known.page.as_ref().and_then(|page| headers::preflight(request, route, page)) {
        return Ok(Resolved::Answer(answer));
    }
    // A browser asks without the key first, for leave to send it.
    clients::check_key(route, &request.fields)?;
    routes.check_path(path)?;
    route.check_allowed(request)?;
    Ok(Resolved::Route(Arc::clone(route)))
}

/// Counts, times and logs an answer of the API. Security: no target, no field but the client's id: they may hold secrets.
fn observe(route: &Route, request: &Request, status: StatusCode, elapsed: Duration) {
    route.metrics.answered(status, Origin::Upstream, elapsed.as_secs_f64());
    let name = route.config.name.as_str();
    if route.trouble.ends() {
        info!(route = name, request_id = sent_id(request), "the API answers again");
    }
    let status = status.as_u16();
    debug!(route = name, request_id = sent_id(request), method = %request.method, status, ?elapsed, "forwarded");
}

/// The same of an answer of our own.
fn observe_own(
    route: Option<&Route>,
    request: &Request,
    status: StatusCode,
    error: Option<(ProxyError, &'static str, RequestId)>,
    elapsed: Duration,
) {
    if let Some(route) = route {
        route.metrics.answered(status, Origin::Broker, elapsed.as_secs_f64());
    }
    let name = route.map(|route| route.config.name.as_str());
    let (method, status) = (&request.method, status.as_u16());
    let Some((error, code, id)) = error else {
        debug!(route = name, request_id = sent_id(request), %method, status, ?elapsed, "answered by the broker");
        return;
    };
    let request_id = id.as_str();
    if status < 500 {
        info!(route = name, request_id, %method, status, code, %error, "answered by the broker");
    } else if route.is_none_or(|route| route.trouble.begins(code)) {
        let what = "answered by the broker, and so are the next ones like it";
        warn!(route = name, request_id, %method, status, code, %error, "{what}");
    } else {
        debug!(route = name, request_id, %method, status, code, %error, "answered by the broker");
    }
}

/// `OPTIONS *` asks about this server, which is the broker (RFC 9110 §9.3.7); so does one that may go no further.
fn options_of_server() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_route", "no route here takes this path")
}

fn expectation_failed() -> Problem {
    let detail = "only Expect: 100-continue is understood";
    Problem { close: true, ..Problem::new(StatusCode::EXPECTATION_FAILED, "expectation_failed", detail) }
}
