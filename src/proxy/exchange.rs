//! One request at work: to the API with a credential and a body, and its answer back to the client.

use std::sync::Arc;

use http::header::TRANSFER_ENCODING;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::download::Body;
use super::error::ProxyError;
use super::route::Route;
use super::upgrade::{Place, Tunnels};
use super::upload::{Shared, Upload};
use super::upstream::Lease;
use super::{headers, inject};
use crate::token::cache::Credential;

/// What arrived, where it goes, what its body is.
pub struct Exchange<'r> {
    pub head: Parts,
    pub route: &'r Arc<Route>,
    /// The client's connection.
    pub place: Arc<Place>,
    pub worker: usize,
    /// Set if there is a body.
    pub upload: Option<Arc<Shared>>,
    pub websocket: bool,
}

impl Exchange<'_> {
    /// To the API, with that body and credential; afterwards that is the one which was sent.
    pub async fn send(
        &self,
        credential: &mut Option<Credential>,
        body: Upload,
    ) -> Result<(Response<Incoming>, Lease), ProxyError> {
        let target = self.route.target(&self.head)?;
        let make = |body: Upload, waited: bool| {
            if waited {
                inject::still_usable(self.route, credential)?;
            }
            let value = credential.as_ref().map(|credential| credential.value.clone());
            let mut headers = headers::to_upstream(&self.head, self.route, &self.place.peer, value, self.websocket);
            // hyper sends no body of unknown length with these, unless told to.
            if body.is_chunked() && matches!(self.head.method, Method::GET | Method::HEAD) {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            let mut request = Request::new(body);
            *request.method_mut() = self.head.method.clone();
            *request.uri_mut() = target.clone();
            *request.headers_mut() = headers;
            Ok(request)
        };
        let retried = || {
            self.route.metrics.retries.inc();
        };
        self.route.upstream.send(self.worker, (body, self.upload.as_ref()), make, retried).await
    }

    /// The upstream agreed to a WebSocket, which becomes a tunnel; or it switched protocols without being asked.
    pub fn switch(
        &self,
        tunnels: &Tunnels,
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
        tunnels.open(client, upstream, self.route.config.idle_timeout, Arc::clone(&self.place));
        let head = headers::to_client(response.into_parts().0, self.route, &self.head, page);
        Ok(headers::websocket_agreed(head))
    }

    /// To the client.
    pub fn back(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        page: Option<&HeaderValue>,
    ) -> Result<Response<Body>, ProxyError> {
        if !headers::only_chunked(response.headers()) {
            return Err(ProxyError::Protocol("the API used a transfer coding that nobody asked for".into()));
        }
        if !headers::one_length(response.headers()) {
            return Err(ProxyError::Protocol("the API's answer has more than one length".into()));
        }
        let (head, body) = response.into_parts();
        let head = headers::to_client(head, self.route, &self.head, page);
        Ok(Response::from_parts(head, Body::upstream(body, lease, self.route.config.idle_timeout)))
    }
}
