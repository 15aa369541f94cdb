//! Accepting and serving connections, within the bounds of `[limits]`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{Either, ready};
use http::{Request, Response};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, error, info, warn};

use super::bind::{Bound, Socket};
use super::gate::Gated;
use super::head::Bounds;
use super::stream::ClientStream;
use crate::config::Limits;
use crate::connect;
use crate::identity::ServerTls;
use crate::peer::Peer;
use crate::proxy::{Arrived, Place, Routes};
use crate::telemetry::metrics::Metrics;

/// After a failed accept, such as when file descriptors run out: doubling between these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A connection over which no request has come yet gets so long for its first, once the drain has begun.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

/// A client of the operator's listener may keep a response waiting for so long.
const OPERATOR_STALL: Duration = Duration::from_secs(30);

/// File descriptors that are not for client connections: the operator's connections, listeners, exchanges, the store.
const FILES_KEPT: u64 = 128;
/// And those of a worker.
const FILES_PER_WORKER: u64 = 8;

/// How many client connections may be open: as configured, or as many as there are file descriptors for. Each has one more
/// for its API, so that nobody takes a place who cannot be served.
pub fn places(limits: &Limits) -> usize {
    let Some(files) = getrlimit(Resource::Nofile).current else { return limits.connections };
    let kept = FILES_KEPT + FILES_PER_WORKER * limits.threads as u64;
    let room = usize::try_from(files.saturating_sub(kept) / 2).unwrap_or(usize::MAX).max(1);
    if room < limits.connections {
        let (configured, fix) =
            (limits.connections, "raise the limit (ulimit -Hn, LimitNOFILE=) or lower limits.connections");
        warn!(files, configured, places = room, "fewer connections than configured: the limit of open files; {fix}");
    }
    room.min(limits.connections)
}

/// How the connections of one listener are served.
pub struct Serve<S> {
    pub service: S,
    pub limits: Limits,
    /// Those that are reached here, as of now: who is let in, and how. `None` for operators.
    pub routes: Option<Arc<ArcSwap<Routes>>>,
    /// Shared by all listeners that count towards `limits.connections`.
    pub permits: Option<Arc<Semaphore>>,
    /// Counts connections, open and refused.
    pub metrics: Option<Arc<Metrics>>,
    pub connections: TaskTracker,
    /// Ends accepting, and each connection once its request is answered.
    pub drain: CancellationToken,
}

impl<S, B> Serve<S>
where
    S: Service<Arrived, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + From<Bytes> + Send + 'static,
{
    /// Accepts until the drain begins, and then what the kernel has accepted already.
    pub async fn accept(self, bound: Bound) {
        let (this, shown) = (Arc::new(self), bound.listen.to_string());
        let ended = match bound.socket {
            Socket::Tcp(listener) => this.accept_tcp(listener).await,
            Socket::Unix(listener, _file) => this.accept_unix(listener).await,
        };
        if let Err(error) = ended {
            error!(listen = shown, %error, "cannot accept connections");
        }
    }

    async fn accept_tcp(self: &Arc<Self>, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let take = async |stream: TcpStream, theirs: SocketAddr| {
            // A client that is gone already makes this fail; serving it finds out.
            let _ = stream.set_nodelay(true);
            let peer = Peer::tcp(theirs, stream.local_addr());
            self.take(stream, peer, |stream| stream.peer_addr().is_ok()).await;
        };
        let mut pause = PAUSE.0;
        while let Some(accepted) = self.drain.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, theirs)) => {
                    pause = PAUSE.0;
                    take(stream, theirs).await;
                }
                Err(error) => wait(&error, &mut pause).await,
            }
        }
        let listener = listener.into_std()?;
        while let Ok((stream, theirs)) = listener.accept() {
            stream.set_nonblocking(true)?;
            take(TcpStream::from_std(stream)?, theirs).await;
        }
        Ok(())
    }

    async fn accept_unix(self: &Arc<Self>, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
        let listener = UnixListener::from_std(listener)?;
        let take = async |stream: UnixStream| {
            let peer = Peer::unix(stream.peer_cred().ok().map(|user| user.uid()));
            self.take(stream, peer, |_| true).await;
        };
        let mut pause = PAUSE.0;
        while let Some(accepted) = self.drain.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    pause = PAUSE.0;
                    take(stream).await;
                }
                Err(error) => wait(&error, &mut pause).await,
            }
        }
        let listener = listener.into_std()?;
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            take(UnixStream::from_std(stream)?).await;
        }
        Ok(())
    }

    /// Waits for a place among the connections, then serves. During a drain there is no waiting.
    /// `stands` tells whether the client has not reset the connection.
    async fn take<T>(self: &Arc<Self>, stream: T, peer: Peer, stands: impl FnOnce(&T) -> bool)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let routes = self.routes.as_ref().map(|routes| routes.load_full());
        if let Some(routes) = routes.as_ref().filter(|routes| routes.ask_for_users()) {
            // Security: while the client still holds its end. Over a Unix socket nobody reads a byte of one who is not let in;
            // over TCP he is told why.
            let user = peer.user();
            // Security: of a connection that was reset, the ends may be those of another one by now.
            if !stands(&stream) {
                return;
            }
            if peer.address().is_none() && !routes.admit(&peer) {
                return self.refused("user", &peer, &format!("no route here lists {user:?} in `clients.uids`"));
            }
        }
        let permit = match &self.permits {
            Some(permits) => match Arc::clone(permits).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let permit = Arc::clone(permits).acquire_owned();
                    let Some(Ok(permit)) = self.drain.run_until_cancelled(permit).await else { return };
                    Some(permit)
                }
            },
            None => None,
        };
        let tls = routes.as_ref().and_then(|routes| routes.tls()).cloned();
        let open = self.metrics.as_ref().map(|metrics| metrics.connections.clone());
        let place = Arc::new(Place::new(permit, open, peer, tls.as_ref().map(|tls| tls.authority)));
        let stall = routes.map_or(OPERATOR_STALL, |routes| routes.stall());
        let stream = ClientStream::new(stream, stall, Arc::clone(&place));
        let this = Arc::clone(self);
        match tls {
            None => self.connections.spawn(this.serve(stream, place)),
            Some(tls) => self.connections.spawn(this.shake(stream, place, tls)),
        };
    }

    /// The TLS handshake, within the time that a head may take; then as without.
    async fn shake(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        place: Arc<Place>,
        tls: ServerTls,
    ) {
        let shaken = timeout(self.limits.head_timeout, TlsAcceptor::from(tls.config).accept(stream));
        let shaken = tokio::select! {
            shaken = shaken => shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            () = self.drained(&place) => return,
        };
        match shaken {
            Ok(stream) => self.serve(stream, place).await,
            Err(error) => self.refused("tls", &place.peer, &connect::explain_client(&error)),
        }
    }

    fn refused(&self, reason: &'static str, peer: &Peer, why: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.connection_refused(reason);
        }
        info!(reason, "a connection of {peer} was refused: {why}");
    }

    /// Once the drain has begun, and no request is to come over that connection.
    async fn drained(&self, place: &Place) {
        self.drain.cancelled().await;
        if !place.was_asked() {
            tokio::time::sleep(FIRST_REQUEST).await;
        }
    }

    /// Serves one connection to its end: HTTP/1 only, so that nothing has to be guessed. What the gate refused is answered here.
    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, place: Arc<Place>) {
        let bounds = Bounds { bytes: self.limits.head_max, fields: self.limits.headers_max };
        let (asked, inner) = (Arc::clone(&place), self.service.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            if let Some(problem) = asked.ask() {
                info!(status = problem.status.as_u16(), code = problem.code, problem.detail, "answered by the broker");
                return Either::Left(ready(Ok(problem.response())));
            }
            Either::Right(inner.clone().call((request, Arc::clone(&asked))))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_buf_size(self.limits.head_max)
            .max_header_size(self.limits.head_max)
            .max_headers(self.limits.headers_max)
            .serve_connection(TokioIo::new(Gated::new(stream, bounds, Arc::clone(&place))), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.drained(&place) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a client connection ended");
        }
    }
}

async fn wait(error: &io::Error, pause: &mut Duration) {
    let gone = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !gone {
        warn!(%error, pause_ms = pause.as_millis(), "a connection could not be accepted");
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE.1);
    }
}
