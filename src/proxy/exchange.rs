//! One request at work: to the API with a credential and a body, and its answer back to the client. Everything happens in the
//! task of the client's connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, StatusCode, Version};
use tracing::debug;

use super::answer::{Pace, Unanswered, Waiting};
use super::download::Download;
use super::error::ProxyError;
use super::headers::{self, Framing};
use super::inject;
use super::route::Route;
use super::sent_id;
use super::upgrade::Tunnels;
use super::upload::{Sending, Upload};
use super::upstream::{Lease, idle_time};
use crate::http1::{After, Body, Client, Connection, Out, Request, Response};
use crate::token::cache::Credential;

/// Where a request goes, and how far it has got.
pub struct Exchange {
    pub route: Arc<Route>,
    pub worker: usize,
    pub upload: Upload,
    /// Is the body's length unknown?
    pub chunked: bool,
    pub websocket: bool,
    /// How often it was sent again.
    pub retries: u32,
}

/// The head of an answer, and what is still in motion.
pub struct Answered {
    pub response: Response,
    body: Body,
    sending: Sending,
    lease: Lease,
    idle: Duration,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.route.metrics.in_flight.dec();
    }
}

/// An answer on its way to the client.
pub struct Ready {
    pub status: StatusCode,
    sending: Sending,
    download: Download,
    tunnel: bool,
    keeps: bool,
    /// How long its connection may be idle afterwards; zero for not at all.
    idle: Duration,
}

/// A try that failed, and whether another may be made.
struct Failed {
    error: ProxyError,
    again: bool,
}

impl From<ProxyError> for Failed {
    fn from(error: ProxyError) -> Self {
        Self { error, again: false }
    }
}

impl Exchange {
    /// To the API, with that credential; afterwards it is the one which was sent. A request is sent a second time only if the
    /// first try wrote nothing, or if it is idempotent, has no body, and went out on a connection that had been idle.
    pub async fn send(
        &mut self,
        client: &mut Client,
        request: &mut Request,
        credential: &mut Option<Credential>,
    ) -> Result<Answered, ProxyError> {
        let (lease, waited) = match self.route.upstream.idle(self.worker) {
            Some(lease) => (lease, false),
            None => (self.open(client, request).await?, true),
        };
        let failed = match self.once(client, request, lease, credential, waited).await {
            Ok(answered) => return Ok(answered),
            Err(failed) if !failed.again => return Err(failed.error),
            Err(failed) => failed,
        };
        self.sent_again();
        let lease = self.open(client, request).await?;
        match self.once(client, request, lease, credential, true).await {
            Ok(answered) => Ok(answered),
            // It cannot be sent again: what has passed is not held.
            Err(Failed { error: ProxyError::Unheld, .. }) => Err(failed.error),
            Err(second) => Err(second.error),
        }
    }

    /// Counts that.
    pub fn sent_again(&mut self) {
        self.retries += 1;
        self.route.metrics.retries.inc();
    }

    async fn open(&self, client: &mut Client, request: &Request) -> Result<Lease, ProxyError> {
        let whole = request.body.is_done();
        // Rare, and large: not a part of what every connection holds.
        let opening = Box::pin(self.route.upstream.open());
        client.unless_gone(whole, opening).await.ok_or(ProxyError::Gone)?
    }

    /// One try.
    async fn once(
        &mut self,
        client: &mut Client,
        request: &mut Request,
        mut lease: Lease,
        credential: &mut Option<Credential>,
        waited: bool,
    ) -> Result<Answered, Failed> {
        if waited {
            inject::still_usable(&self.route, credential)?;
        }
        let value = credential.as_ref().map(|credential| &credential.value);
        let safe = !self.upload.has_body && request.method.is_idempotent();
        let target = self.route.target(request);
        let peer = &client.place.peer;
        let head = headers::to_upstream(request, &target, &self.route, peer, value, self.websocket);
        let Some(mut sending) = self.upload.begin(head, request, client, self.chunked) else {
            return Err(ProxyError::Unheld.into());
        };
        let mut waiting = Waiting::default();
        let answer =
            poll_fn(|cx| self.poll_answer(cx, client, request, &mut sending, &mut lease.connection, &mut waiting))
                .await;
        let response = match answer {
            Ok(response) => response,
            Err(Unanswered::Failed(error)) => return Err(error.into()),
            Err(Unanswered::Cut(error)) => {
                let reused = lease.reused && waiting.is_quiet();
                let error = sending.broken.take().filter(|_| waiting.is_quiet()).unwrap_or(error);
                let error = ProxyError::of_exchange(&error, self.route.upstream.endpoint(), reused);
                let stale = matches!(error, ProxyError::Stale(_));
                return Err(Failed { error, again: stale && (sending.written() == 0 || safe) });
            }
        };
        let body = response.body(&request.method).map_err(ProxyError::Protocol)?;
        // Security: what is left of a body could be taken for the next request, and so could what an older server does not read.
        let idle = if response.keeps_alive() && sending.done { idle_time(&response.fields) } else { Duration::ZERO };
        Ok(Answered { response, body, sending, lease, idle })
    }

    /// Sends on, and reads the head of the answer.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        request: &mut Request,
        sending: &mut Sending,
        upstream: &mut Connection,
        waiting: &mut Waiting,
    ) -> Poll<Result<Response, Unanswered>> {
        if let Poll::Ready(Err(cut)) = self.upload.poll(cx, sending, request, client, upstream) {
            return Poll::Ready(Err(ProxyError::Client(cut.to_string()).into()));
        }
        let answer = waiting.poll_head(cx, upstream, self.route.upstream.bounds);
        if answer.is_ready() {
            return answer;
        }
        if request.body.is_done() && client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ProxyError::Gone.into()));
        }
        let config = &self.route.config;
        let limit = if self.upload.waiting { config.idle_timeout } else { config.response_timeout };
        client.timer.set(waiting.pace.since(sending.moved()) + limit);
        ready!(client.timer.poll(cx));
        Poll::Ready(Err(if self.upload.waiting {
            ProxyError::Client(format!("nothing moved for {} s", limit.as_secs_f32())).into()
        } else {
            ProxyError::Timeout("the API sent no answer in time".into()).into()
        }))
    }

    /// The answer as the client gets it. Until here it can still be refused.
    pub fn prepare(
        &mut self,
        client: &Client,
        request: &Request,
        answered: Answered,
        page: Option<&HeaderValue>,
    ) -> Result<Ready, ProxyError> {
        let Answered { response, mut body, sending, lease, idle } = answered;
        let tunnel = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if tunnel && !(self.websocket && sending.done && headers::is_websocket(&response.fields)) {
            return Err(ProxyError::Protocol("the API switched protocols without being asked".into()));
        }
        let unknown = body.length().is_none();
        let chunked = unknown && request.version >= Version::HTTP_11;
        let keeps = request.keeps_alive() && chunked == unknown && !client.place.drains();
        let mut out = Out::new(self.upload.take_back_leave());
        headers::to_client(&response, &self.route, request, page, Framing { chunked, keeps }, out.bytes());
        let behind = if tunnel { &[] } else { response.behind() };
        let taken = body.take(behind, |data| out.push(data, chunked));
        let taken = taken.map_err(|cut| ProxyError::Protocol(format!("the body of the API's answer: {cut}")))?;
        if chunked && body.is_done() {
            out.end();
        }
        // Security: what nobody asked for is nobody's answer.
        let reusable = taken == behind.len() && !matches!(body, Body::UntilClose);
        let idle = if reusable { idle } else { Duration::ZERO };
        let mut download = Download { out, body, chunked, lease, pieces: 0, cut: None };
        if tunnel {
            download.lease.connection.put_back(response.behind());
        }
        Ok(Ready { status: response.status, sending, download, tunnel, keeps, idle })
    }

    /// To the client.
    pub async fn deliver(
        &mut self,
        client: &mut Client,
        request: &mut Request,
        ready: Ready,
        tunnels: &Tunnels,
    ) -> After {
        let Ready { mut sending, mut download, tunnel, keeps, idle, .. } = ready;
        let mut pace = Pace::default();
        client.answering = true;
        let delivered =
            poll_fn(|cx| self.poll_deliver(cx, client, request, &mut sending, &mut download, &mut pace)).await;
        if let Err(why) = delivered {
            debug!(route = self.route.config.name, request_id = sent_id(request), why, "an answer broke off");
            return After::Cut;
        }
        if tunnel {
            return tunnels.open(download.lease.connection, self.route.config.idle_timeout);
        }
        self.route.upstream.give_back(self.worker, download.lease, idle);
        if keeps && request.body.is_done() { After::Next } else { After::Close }
    }

    /// Both ways at once: an API may answer before it has all of the request.
    fn poll_deliver(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        request: &mut Request,
        sending: &mut Sending,
        download: &mut Download,
        pace: &mut Pace,
    ) -> Poll<Result<(), String>> {
        let upstream = &mut download.lease.connection;
        if let Poll::Ready(Err(cut)) = self.upload.poll(cx, sending, request, client, upstream) {
            return Poll::Ready(Err(format!("the request's body: {cut}")));
        }
        let polled = download.poll(cx, client);
        if polled.is_ready() {
            return polled;
        }
        if request.body.is_done() && client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err("the client is gone".into()));
        }
        let limit = if download.out.is_empty() { self.route.config.idle_timeout } else { client.stall };
        client.timer.set(pace.since(sending.moved() + download.moved()) + limit);
        ready!(client.timer.poll(cx));
        Poll::Ready(Err(format!("nothing moved for {} s", limit.as_secs_f32())))
    }
}
