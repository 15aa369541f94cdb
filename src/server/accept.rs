//! Accepting and serving connections, within the bounds of `[limits]`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};
use tracing::{debug, error, warn};

use super::bind::{Bound, Socket};
use super::stream::ClientStream;
use crate::config::Limits;
use crate::proxy::Place;

/// After a failed accept, such as when file descriptors run out: doubling between these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A connection over which no request has come yet gets so long for its first, once the drain has begun.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

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
    /// How long a client may keep a response waiting, as of now.
    pub stall: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Shared by all listeners that count towards `limits.connections`.
    pub permits: Option<Arc<Semaphore>>,
    /// Connections that are open.
    pub open: Option<Gauge>,
    pub connections: TaskTracker,
    /// Ends accepting, and each connection once its request is answered.
    pub drain: CancellationToken,
}

impl<S, B> Serve<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
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
        let take = async |stream: TcpStream| {
            // A client that is gone already makes this fail; serving it finds out.
            let _ = stream.set_nodelay(true);
            self.take(stream).await;
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
            take(TcpStream::from_std(stream)?).await;
        }
        Ok(())
    }

    async fn accept_unix(self: &Arc<Self>, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
        let listener = UnixListener::from_std(listener)?;
        let mut pause = PAUSE.0;
        while let Some(accepted) = self.drain.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => {
                    pause = PAUSE.0;
                    self.take(stream).await;
                }
                Err(error) => wait(&error, &mut pause).await,
            }
        }
        let listener = listener.into_std()?;
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            self.take(UnixStream::from_std(stream)?).await;
        }
        Ok(())
    }

    /// Waits for a place among the connections, then serves. During a drain there is no waiting.
    async fn take(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
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
        let place = Arc::new(Place::new(permit, self.open.clone()));
        self.connections
            .spawn(Arc::clone(self).serve(ClientStream::new(stream, (self.stall)(), Arc::clone(&place)), place));
    }

    /// Serves one connection to its end: HTTP/1 only, so that nothing has to be guessed.
    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, place: Arc<Place>) {
        let asked = Arc::clone(&place);
        let service = self.service.clone().map_request(move |mut request: Request<Incoming>| {
            asked.ask();
            if request.headers().contains_key(UPGRADE) {
                request.extensions_mut().insert(Arc::clone(&asked));
            }
            request
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_buf_size(self.limits.head_max)
            .max_header_size(self.limits.head_max)
            .max_headers(self.limits.headers_max)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .with_upgrades();
        tokio::pin!(connection);
        let drained = async {
            self.drain.cancelled().await;
            if !place.was_asked() {
                tokio::time::sleep(FIRST_REQUEST).await;
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = drained => {
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
