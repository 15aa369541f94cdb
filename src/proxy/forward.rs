//! The straight line of one request: who asks → which route → which credential → to the API → back. Each step is a plain
//! function; the first that refuses ends the line.

use std::sync::Arc;

use http::header::TRANSFER_ENCODING;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Body, Shared, Upload};
use super::error::ProxyError;
use super::route::{Route, Routes, check_form};
use super::upstream::Lease;
use super::{headers, inject, retry, upgrade};
use crate::door::{self, From as Page};
use crate::problem::Problem;
use crate::token::cache::Credential;

/// What every request on one listener and worker shares.
pub struct Context {
    pub routes: Arc<Routes>,
    pub worker: usize,
    /// Tunnels outlive their request; a drain waits for them.
    pub tunnels: TaskTracker,
    /// Cancelled when tunnels have to end.
    pub stop: CancellationToken,
}

/// A request at work: what arrived, where it goes, what its body is.
pub struct Exchange<'r> {
    pub head: Parts,
    pub route: &'r Arc<Route>,
    worker: usize,
    /// Set if there is a body.
    pub upload: Option<Arc<Shared>>,
    websocket: bool,
}

/// An answer, and the route whose it is.
pub struct Answered {
    pub response: Response<Body>,
    pub route: Option<Arc<Route>>,
    /// `None` if the API answered.
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
pub async fn forward(context: &Context, request: Request<Incoming>) -> Answered {
    let mut known = Known::default();
    let answered = line(context, request, &mut known).await;
    let (response, error) = match answered {
        Ok(response) => (response, None),
        Err(error) => {
            let mut response = error.problem().response();
            if let Some(page) = &known.page {
                headers::allow_page(response.headers_mut(), page);
            }
            (response, Some(error))
        }
    };
    Answered { response, route: known.route, error }
}

async fn line(
    context: &Context,
    mut request: Request<Incoming>,
    known: &mut Known,
) -> Result<Response<Body>, ProxyError> {
    let client_upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    check_form(&head)?;
    let (route, page) = admit(context, &head)?;
    if head.uri.path() == "*" {
        return Ok(options_of_server());
    }
    let route = route.ok_or_else(no_route)?;
    known.route = Some(Arc::clone(route));
    if let Page::Listed(origin) = page {
        known.page = Some(origin);
    }
    let page = known.page.as_ref();
    if let Some(answer) = page.and_then(|page| headers::preflight(&head, route, page)) {
        return Ok(answer);
    }
    route.check_allowed(&head)?;
    if head.version >= Version::HTTP_11 && headers::expects(&head.headers) == Some(false) {
        return Err(expectation_failed().into());
    }
    let replays = route.token.is_some() && route.config.retry_unauthorized;
    let held_max = if replays { route.config.replay_body_max } else { 0 };
    let (first, upload) = Upload::new(body, held_max, route.config.idle_timeout);
    let websocket = headers::wants_websocket(&head, upload.is_some());
    let exchange = Exchange { head, route, worker: context.worker, upload, websocket };

    let credential = inject::credential(route, &exchange.head.headers).await?;
    let (response, lease) = exchange.send(credential.as_ref(), first).await?;
    let (response, lease) = retry::after_unauthorized(&exchange, credential, response, lease).await?;

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return exchange.switch(context, response, lease, client_upgrade, page);
    }
    if !headers::only_chunked(response.headers()) {
        return Err(ProxyError::Protocol("the API used a transfer coding that nobody asked for".into()));
    }
    Ok(exchange.back(response, lease, page))
}

/// Host and origin, in this order, before anything else of the request counts.
fn admit<'c>(context: &'c Context, head: &Parts) -> Result<(Option<&'c Arc<Route>>, Page), Problem> {
    let host = door::host(head)?;
    let route = context.routes.find(host.as_ref(), head.uri.path())?;
    let listed = route.map_or(&[][..], |route| &route.config.accept_origins);
    Ok((route, door::origin(&head.headers, host.as_ref(), listed)?))
}

impl Exchange<'_> {
    /// To the API, with that credential and body.
    pub async fn send(
        &self,
        credential: Option<&Credential>,
        body: Upload,
    ) -> Result<(Response<Incoming>, Lease), ProxyError> {
        let target = self.route.target(&self.head)?;
        let mut body = Some(body);
        let make = || {
            let body = body.take().or_else(|| match &self.upload {
                None => Some(Upload::empty()),
                Some(shared) => shared.replay(),
            })?;
            let value = credential.map(|credential| credential.value.clone());
            let mut headers = headers::to_upstream(&self.head, self.route, value, self.websocket);
            // hyper sends no body of unknown length with these, unless told to.
            if body.is_chunked() && matches!(self.head.method, Method::GET | Method::HEAD) {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            let mut request = Request::new(body);
            *request.method_mut() = self.head.method.clone();
            *request.uri_mut() = target.clone();
            *request.headers_mut() = headers;
            Some(request)
        };
        let retried = || {
            self.route.metrics.retries.inc();
        };
        self.route.upstream.send(self.worker, make, self.upload.as_ref(), retried).await
    }

    /// The upstream agreed to a WebSocket, which becomes a tunnel; or it switched protocols without being asked.
    fn switch(
        &self,
        context: &Context,
        mut response: Response<Incoming>,
        lease: Lease,
        client: OnUpgrade,
        page: Option<&HeaderValue>,
    ) -> Result<Response<Body>, ProxyError> {
        if !(self.websocket && headers::is_websocket(response.headers())) {
            return Err(ProxyError::Protocol("the API switched protocols without being asked".into()));
        }
        let upstream = hyper::upgrade::on(&mut response);
        lease.release();
        let (idle, stop) = (self.route.config.idle_timeout, context.stop.clone());
        context.tunnels.spawn(upgrade::tunnel(client, upstream, idle, stop));
        let head = headers::to_client(response.into_parts().0, self.route, &self.head, page);
        Ok(headers::websocket_agreed(head))
    }

    /// To the client.
    fn back(&self, response: Response<Incoming>, lease: Lease, page: Option<&HeaderValue>) -> Response<Body> {
        let (head, body) = response.into_parts();
        let head = headers::to_client(head, self.route, &self.head, page);
        Response::from_parts(head, Body::upstream(body, lease, self.route.config.idle_timeout))
    }
}

/// `OPTIONS *` asks about this server, which is the broker (RFC 9110 §9.3.7).
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
