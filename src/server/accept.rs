//! Accepting and serving connections, within the bounds of `[limits]`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, error, warn};

use super::bind::{Bound, Socket};
use crate::config::Limits;

/// After a failed accept, such as when file descriptors run out: doubling between these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How the connections of one listener are served.
#[derive(Clone)]
pub struct Serve<S> {
    pub service: S,
    pub limits: Limits,
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
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    /// Accepts until the drain begins.
    pub async fn accept(self, bound: Bound) {
        let shown = bound.listen.to_string();
        let drain = self.drain.clone();
        let accepted = async {
            match bound.socket {
                Socket::Tcp(listener) => self.accept_tcp(TcpListener::from_std(listener)?).await,
                Socket::Unix(listener, _file) => self.accept_unix(UnixListener::from_std(listener)?).await,
            }
        };
        tokio::select! {
            ended = accepted => if let Err(error) = ended {
                error!(listen = shown, %error, "cannot accept connections");
            },
            () = drain.cancelled() => {}
        }
    }

    async fn accept_tcp(&self, listener: TcpListener) -> io::Result<()> {
        let mut pause = PAUSE.0;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    pause = PAUSE.0;
                    // A client that is gone already makes this fail; serving it finds out.
                    let _ = stream.set_nodelay(true);
                    self.take(stream).await;
                }
                Err(error) => wait(&error, &mut pause).await,
            }
        }
    }

    async fn accept_unix(&self, listener: UnixListener) -> io::Result<()> {
        let mut pause = PAUSE.0;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    pause = PAUSE.0;
                    self.take(stream).await;
                }
                Err(error) => wait(&error, &mut pause).await,
            }
        }
    }

    /// Waits for a place among the connections, then serves.
    async fn take(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let permit = match &self.permits {
            Some(permits) => Arc::clone(permits).acquire_owned().await.ok(),
            None => None,
        };
        let (service, limits, open) = (self.service.clone(), self.limits.clone(), self.open.clone());
        let drain = self.drain.clone();
        self.connections.spawn(async move {
            if let Some(open) = &open {
                open.inc();
            }
            serve(stream, service, &limits, drain).await;
            if let Some(open) = &open {
                open.dec();
            }
            drop(permit);
        });
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

/// Serves one connection to its end: HTTP/1 only, so that nothing has to be guessed.
pub async fn serve<S, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    limits: &Limits,
    drain: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_max)
        .max_header_size(limits.head_max)
        .max_headers(limits.headers_max)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a client connection ended");
    }
}
