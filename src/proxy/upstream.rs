//! Connections to the API: one pool for each route and worker thread, no lock shared between threads.
//!
//! A connection goes back to its pool only when the request was sent and the answer read to its end; in any other case it
//! is closed. A request is sent a second time only if the first try wrote nothing, or if it is idempotent, has no body,
//! and went out on a connection that had been idle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::{Shared, Upload};
use super::error::ProxyError;
use crate::config;
use crate::connect::Dialer;

/// Idle connections kept by a pool; the ones used least lately go first.
const IDLE_MAX: usize = 128;
/// How long a connection may be idle: below the 60 s and more that servers commonly allow.
const IDLE_TIME_MAX: Duration = Duration::from_secs(50);

/// The API behind one route.
pub struct Upstream {
    config: Arc<config::Route>,
    dialer: Arc<Dialer>,
    builder: http1::Builder,
    /// By worker.
    pools: Arc<[Pool]>,
}

#[derive(Default)]
struct Pool(Mutex<Vec<Idle>>);

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Connection {
    sender: SendRequest<Upload>,
    task: AbortHandle,
    reused: bool,
}

/// A connection while one exchange uses it. Dropped before [`Lease::finish`], it is closed.
pub struct Lease {
    connection: Option<Connection>,
    pools: Arc<[Pool]>,
    worker: usize,
    upload: Option<Arc<Shared>>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    pub fn new(config: Arc<config::Route>, dialer: Arc<Dialer>, limits: &config::Limits) -> Self {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(limits.head_max).max_header_size(limits.head_max).max_headers(limits.headers_max);
        let pools = (0..limits.threads).map(|_| Pool::default()).collect();
        Self { config, dialer, builder, pools }
    }

    /// Sends what `make` makes and returns the response head, and the lease on the connection that its body comes over.
    /// `upload` is shared with the body of the request that `make` makes first.
    pub async fn send(
        &self,
        worker: usize,
        mut make: impl FnMut() -> Option<Request<Upload>>,
        upload: Option<&Arc<Shared>>,
        retried: impl FnOnce(),
    ) -> Result<(Response<Incoming>, Lease), ProxyError> {
        let gone = || ProxyError::Protocol("the request body could not be sent again".into());
        let request = make().ok_or_else(gone)?;
        let safe = upload.is_none() && request.method().is_idempotent();
        let connection = match self.checkout(worker).await {
            Some(idle) => idle,
            None => self.open().await?,
        };
        let (error, unsent) = match self.exchange(worker, connection, request, upload).await {
            Ok(answered) => return Ok(answered),
            Err(failed) => failed,
        };
        let request = match unsent {
            Some(request) => request,
            None if safe && matches!(error, ProxyError::Stale(_)) => make().ok_or_else(gone)?,
            None => return Err(error),
        };
        retried();
        let fresh = self.open().await?;
        self.exchange(worker, fresh, request, upload).await.map_err(|(error, _)| error)
    }

    /// One try. On failure, the request if not a byte of it was written.
    async fn exchange(
        &self,
        worker: usize,
        mut connection: Connection,
        request: Request<Upload>,
        upload: Option<&Arc<Shared>>,
    ) -> Result<(Response<Incoming>, Lease), (ProxyError, Option<Request<Upload>>)> {
        let answer = connection.sender.try_send_request(request);
        let mut lease = Lease { connection: None, pools: Arc::clone(&self.pools), worker, upload: upload.cloned() };
        let reused = connection.reused;
        lease.connection = Some(connection);
        tokio::pin!(answer);
        let limit = self.config.response_timeout;
        loop {
            let progress = upload.map(|upload| upload.progress());
            match tokio::time::timeout(limit, &mut answer).await {
                Ok(Ok(response)) => return Ok((response, lease)),
                Ok(Err(mut failed)) => {
                    let unsent = failed.take_message();
                    return Err((ProxyError::of_exchange(failed.into_error(), reused), unsent));
                }
                // A long upload is not a slow answer: its own idle limit watches it.
                Err(_) if progress != upload.map(|upload| upload.progress()) => {}
                Err(_) => return Err((ProxyError::Timeout("the API sent no answer in time".into()), None)),
            }
        }
    }

    /// The connection used last that is still open.
    async fn checkout(&self, worker: usize) -> Option<Connection> {
        loop {
            let mut idle = self.pools[worker].lock().pop()?;
            if idle.since.elapsed() < IDLE_TIME_MAX && idle.connection.sender.ready().await.is_ok() {
                return Some(idle.connection);
            }
        }
    }

    async fn open(&self) -> Result<Connection, ProxyError> {
        let stream = self.dialer.connect(&self.config.upstream.endpoint, self.config.connect_timeout).await?;
        let (mut sender, connection) =
            self.builder.handshake(TokioIo::new(stream)).await.map_err(|e| ProxyError::of_exchange(e, false))?;
        #[expect(clippy::disallowed_methods, reason = "ends with its connection, which its lease or its pool owns")]
        let task = tokio::spawn(async move {
            // Whoever waits for an answer gets the error; an idle connection that ends is no news.
            let _ = connection.with_upgrades().await;
        });
        sender.ready().await.map_err(|e| ProxyError::of_exchange(e, false))?;
        Ok(Connection { sender, task: task.abort_handle(), reused: false })
    }

    /// Closes what has been idle for too long. Called now and then by each worker.
    pub fn reap(&self, worker: usize) {
        self.pools[worker]
            .lock()
            .retain(|idle| idle.since.elapsed() < IDLE_TIME_MAX && !idle.connection.sender.is_closed());
    }
}

impl Lease {
    /// The answer was read to its end: the connection can be used again, if the request was sent to its end, too.
    pub fn finish(mut self) {
        if self.upload.as_ref().is_some_and(|upload| !upload.is_done()) {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        if connection.sender.is_closed() {
            return;
        }
        connection.reused = true;
        let mut pool = self.pools[self.worker].lock();
        if pool.len() >= IDLE_MAX {
            pool.remove(0);
        }
        pool.push(Idle { connection, since: Instant::now() });
    }

    /// The connection became a tunnel: it is no longer ours to close.
    pub fn release(mut self) {
        self.connection = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.task.abort();
        }
    }
}
