//! The straight line of one request: who asks → which route → which credential → to the API → back. Each step is a plain
//! function; the first that refuses ends the line.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::download::Body;
use super::error::ProxyError;
use super::exchange::Exchange;
use super::route::{Route, Routes, check_form};
use super::upgrade::{Place, Tunnels};
use super::upload::Upload;
use super::{clients, headers, hops, inject, retry};
use crate::door::{self, From as Page};
use crate::problem::Problem;
use crate::telemetry::metrics::Origin;

/// What every request on one listener and worker shares.
pub struct Context {
    /// Another configuration brings others.
    pub routes: Arc<ArcSwap<Routes>>,
    pub worker: usize,
    pub tunnels: Tunnels,
}

/// An answer, and whose it is.
pub struct Answered {
    pub response: Response<Body>,
    pub route: Option<Arc<Route>>,
    pub origin: Origin,
    pub error: Option<ProxyError>,
}

/// What is known of a request when its line ends, well or not.
#[derive(Default)]
struct Known {
    route: Option<Arc<Route>>,
    /// The listed origin of the page that asks.
    page: Option<HeaderValue>,
}

/// Answers one request.
pub async fn forward(context: &Context, request: Request<Incoming>, place: Arc<Place>) -> Answered {
    let mut known = Known::default();
    let answered = line(context, request, place, &mut known).await;
    let (response, origin, error) = match answered {
        Ok((response, origin)) => (response, origin, None),
        Err(error) => {
            let mut response = error.problem().response();
            if let Some(page) = &known.page {
                headers::allow_page(response.headers_mut(), page);
            }
            (response, Origin::Broker, Some(error))
        }
    };
    Answered { response, route: known.route, origin, error }
}

async fn line(
    context: &Context,
    mut request: Request<Incoming>,
    place: Arc<Place>,
    known: &mut Known,
) -> Result<(Response<Body>, Origin), ProxyError> {
    let client_upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let route = match resolve(&context.routes.load(), &head, &place, known)? {
        Resolved::Route(route) => route,
        Resolved::Answer(answer) => return Ok((*answer, Origin::Broker)),
    };
    let (route, page) = (&route, known.page.as_ref());
    if head.version >= Version::HTTP_11 && !headers::expects_no_more_than_continue(&head.headers) {
        return Err(expectation_failed().into());
    }
    let replays = route.token.is_some() && route.config.retry_unauthorized;
    let held_max = if replays { route.config.replay_body_max } else { 0 };
    let (first, upload) = Upload::new(body, held_max, route.config.idle_timeout);
    let websocket = headers::wants_websocket(&head, upload.is_some());
    let exchange = Exchange { head, route, place, worker: context.worker, upload, websocket };

    let mut credential = inject::credential(route, &exchange.head.headers).await?;
    let (response, lease) = exchange.send(&mut credential, first).await?;
    let (mut response, lease) = retry::after_unauthorized(&exchange, &mut credential, response, lease).await?;

    headers::drop_echoes(response.headers_mut(), credential.as_ref(), route);
    let answer = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        exchange.switch(&context.tunnels, response, lease, client_upgrade, page)?
    } else {
        exchange.back(response, lease, page)?
    };
    Ok((answer, Origin::Upstream))
}

/// Where a request goes, or the answer to one that goes nowhere.
enum Resolved {
    Route(Arc<Route>),
    Answer(Box<Response<Body>>),
}

/// Form, host and origin, in this order, before anything else of the request counts; then who asks, and what the route allows.
fn resolve(routes: &Routes, head: &Parts, place: &Place, known: &mut Known) -> Result<Resolved, ProxyError> {
    check_form(head, routes.scheme())?;
    let host = door::host(head)?;
    let route = routes.find(host.as_ref(), head.uri.path())?;
    let listed = route.map_or(&[][..], |route| &route.config.accept_origins);
    let page = door::origin(&head.headers, routes.scheme(), host.as_ref(), listed)?;
    if head.uri.path() == "*" || headers::forwards_left(head) == Some(0) {
        return Ok(Resolved::Answer(Box::new(options_of_server())));
    }
    let route = route.ok_or_else(no_route)?;
    known.route = Some(Arc::clone(route));
    hops::check(&head.headers)?;
    clients::check_connection(route, place)?;
    if let Page::Listed(origin) = page {
        known.page = Some(origin);
    }
    if let Some(answer) = known.page.as_ref().and_then(|page| headers::preflight(head, route, page)) {
        return Ok(Resolved::Answer(Box::new(answer)));
    }
    // A browser asks without the key first, for leave to send it.
    clients::check_key(route, &head.headers)?;
    routes.check_path(head.uri.path())?;
    route.check_allowed(head)?;
    Ok(Resolved::Route(Arc::clone(route)))
}

/// `OPTIONS *` asks about this server, which is the broker (RFC 9110 §9.3.7); so does one that may go no further.
fn options_of_server() -> Response<Body> {
    let mut response = Response::new(Body::empty());
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
