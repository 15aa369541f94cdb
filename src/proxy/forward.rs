//! The straight line of one request: who asks → which route → which credential → to the API → back. Each step is a plain
//! function; the first that refuses ends the line.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use tracing::{debug, error, info, warn};

use super::error::ProxyError;
use super::exchange::{Exchange, Ready};
use super::inject::Found;
use super::inspect::{Inspector, Seen};
use super::route::{Route, check_form};
use super::table::Routes;
use super::upgrade::Tunnels;
use super::upload::Upload;
use super::{clients, headers, hops, inject, now, retry};
use crate::door::{self, From as Page};
use crate::http1::{After, Answers, Client, Place, Request};
use crate::problem::Problem;
use crate::telemetry::metrics::{Metrics, Origin};

/// What every request on one listener and worker shares.
pub struct Context {
    /// Another configuration brings others.
    pub routes: Arc<ArcSwap<Routes>>,
    pub worker: usize,
    pub tunnels: Tunnels,
    pub metrics: Arc<Metrics>,
    /// `None`: nobody looks.
    pub inspector: Option<Inspector>,
}

/// What is known of a request when its line ends, well or not.
#[derive(Default)]
struct Known {
    route: Option<Arc<Route>>,
    /// The listed origin of the page that asks.
    page: Option<HeaderValue>,
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
                self.metrics.panics.inc();
                error!("a request ended in a panic: this is a fault of the broker");
                // Security: behind the beginning of an answer, another would be taken for that to the next request.
                if !client.answering {
                    let detail = "this is a fault of the broker: see its log";
                    client.refuse(&Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)).await;
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
        let mut known = Known::default();
        let (response, error) = match self.line(client, &mut request, &mut known).await {
            Ok(Line::Upstream(mut exchange, ready)) => {
                let took = started.elapsed();
                observe(&exchange.route, &request.method, ready.status, took);
                self.inspect(&request, &mut known, Some((ready.status, Origin::Upstream)), None, took);
                return exchange.deliver(client, &mut request, ready, &self.tunnels).await;
            }
            Ok(Line::Own(response)) => (response, None),
            Err(ProxyError::Gone) => {
                debug!(method = %request.method, "the client went before the answer came");
                self.inspect(&request, &mut known, None, None, started.elapsed());
                return After::Close;
            }
            Err(error) => {
                let mut response = error.problem().response();
                if let Some(page) = &known.page {
                    headers::allow_page(response.headers_mut(), page);
                }
                (response, Some(error))
            }
        };
        let (took, status) = (started.elapsed(), response.status());
        observe_own(known.route.as_deref(), &request.method, status, error.as_ref(), took);
        self.inspect(&request, &mut known, Some((status, Origin::Broker)), Some(response.headers()), took);
        client.respond(request, response).await
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
        let answered = exchange.send(client, request, &mut credential).await;
        known.retries = exchange.retries;
        let answered = retry::after_unauthorized(&mut exchange, client, request, &mut credential, answered?).await;
        known.retries = exchange.retries;
        let mut answered = answered?;
        if self.inspector.is_some() {
            let seen = Seen::of(&answered.response.fields, &exchange.route, credential.as_ref());
            known.seen = Some(Box::new(seen));
        }
        headers::drop_echoes(&mut answered.response.fields, credential.as_ref(), &exchange.route);
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

/// Counts, times and logs an answer of the API. Security: no target, no field: they may hold secrets.
fn observe(route: &Route, method: &Method, status: StatusCode, elapsed: Duration) {
    route.metrics.answered(status, Origin::Upstream, elapsed.as_secs_f64());
    if route.trouble.ends() {
        info!(route = route.config.name, "the API answers again");
    }
    debug!(route = route.config.name, %method, status = status.as_u16(), ?elapsed, "forwarded");
}

/// The same of an answer of our own.
fn observe_own(
    route: Option<&Route>,
    method: &Method,
    status: StatusCode,
    error: Option<&ProxyError>,
    elapsed: Duration,
) {
    if let Some(route) = route {
        route.metrics.answered(status, Origin::Broker, elapsed.as_secs_f64());
    }
    let (name, status) = (route.map(|route| route.config.name.as_str()), status.as_u16());
    let Some(error) = error else {
        debug!(route = name, %method, status, ?elapsed, "answered by the broker");
        return;
    };
    let code = error.problem().code;
    if status < 500 {
        info!(route = name, %method, status, code, %error, "answered by the broker");
    } else if route.is_none_or(|route| route.trouble.begins(code)) {
        warn!(route = name, %method, status, code, %error, "answered by the broker, and so are the next ones like it");
    } else {
        debug!(route = name, %method, status, code, %error, "answered by the broker");
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
