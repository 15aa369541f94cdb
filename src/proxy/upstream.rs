//! Connections to the API: one pool for each route and worker thread, no lock shared between threads.
//!
//! A connection goes back to its pool only when the request had been sent to its end before the answer came, and the answer
//! was read to its end; in any other case it is closed. A request is sent a second time only if the first try wrote
//! nothing, or if it is idempotent, has no body, and went out on a connection that had been idle.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::error::ProxyError;
use super::upload::{Shared, Upload};
use crate::clock::Clock;
use crate::config;
use crate::connect::Dialer;

/// Idle connections kept by a pool; the ones used least lately go first.
const IDLE_MAX: usize = 128;
/// How long a connection may be idle: below the 60 s and more that servers commonly allow.
const IDLE_TIME_MAX: Duration = Duration::from_secs(50);
/// A connection that is not ready by then is not used again.
const READY_TIMEOUT: Duration = Duration::from_millis(50);
/// Interim answers (1xx) to one request; hyper skips them without a limit.
const INTERIM_MAX: u32 = 64;

/// The API behind one route.
pub struct Upstream {
    config: Arc<config::Route>,
    dialer: Arc<Dialer>,
    builder: http1::Builder,
    clock: Clock,
    pools: Arc<Pools>,
}

struct Pools {
    by_worker: Box<[Pool]>,
    /// Nothing is kept any more.
    closed: AtomicBool,
}

#[derive(Default)]
struct Pool(Mutex<Vec<Idle>>);

struct Idle {
    connection: Connection,
    /// Since boot: a machine that slept finds its connections dead.
    until: Duration,
}

struct Connection {
    sender: SendRequest<Upload>,
    task: AbortHandle,
    reused: bool,
    interim: Arc<Interim>,
}

/// The interim answers to the request on a connection.
#[derive(Default)]
struct Interim {
    seen: AtomicU32,
    too_many: Notify,
}

/// A connection while one exchange uses it. Dropped before [`Lease::finish`], it is closed.
pub struct Lease {
    connection: Option<Connection>,
    pools: Arc<Pools>,
    worker: usize,
    clock: Clock,
    /// How long it may be idle afterwards; zero for not at all.
    idle: Duration,
}

/// A try that failed; the body, if not a byte of the request was written.
type Failed = (ProxyError, Option<Upload>);

impl Interim {
    fn count(&self) {
        if self.seen.fetch_add(1, Ordering::Relaxed) == INTERIM_MAX {
            self.too_many.notify_one();
        }
    }

    fn exceeded(&self) -> bool {
        self.seen.load(Ordering::Relaxed) > INTERIM_MAX
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    pub fn new(config: Arc<config::Route>, dialer: Arc<Dialer>, limits: &config::Limits, clock: Clock) -> Self {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(limits.head_max).max_header_size(limits.head_max).max_headers(limits.headers_max);
        let by_worker = (0..limits.threads).map(|_| Pool::default()).collect();
        let pools = Arc::new(Pools { by_worker, closed: AtomicBool::new(false) });
        Self { config, dialer, builder, clock, pools }
    }

    /// Sends what `make` makes around the body, and returns the response head, and the lease on the connection that its body
    /// comes over. `make` is called once the connection is there, and told whether that took time.
    pub async fn send(
        &self,
        worker: usize,
        (body, upload): (Upload, Option<&Arc<Shared>>),
        mut make: impl FnMut(Upload, bool) -> Result<Request<Upload>, ProxyError>,
        retried: impl FnOnce(),
    ) -> Result<(Response<Incoming>, Lease), ProxyError> {
        let (connection, waited) = match self.checkout(worker).await {
            Some(idle) => idle,
            None => (self.open().await?, true),
        };
        let request = make(body, waited)?;
        let safe = upload.is_none() && request.method().is_idempotent();
        let (error, unsent) = match self.exchange(worker, connection, request, upload).await {
            Ok(answered) => return Ok(answered),
            Err(failed) => failed,
        };
        let body = match unsent {
            Some(body) => body,
            None if safe && matches!(error, ProxyError::Stale(_)) => Upload::empty(),
            None => return Err(error),
        };
        retried();
        let fresh = self.open().await?;
        let request = make(body, true)?;
        self.exchange(worker, fresh, request, upload).await.map_err(|(error, _)| error)
    }

    /// One try.
    async fn exchange(
        &self,
        worker: usize,
        mut connection: Connection,
        mut request: Request<Upload>,
        upload: Option<&Arc<Shared>>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let interim = Arc::clone(&connection.interim);
        interim.seen.store(0, Ordering::Relaxed);
        let counted = Arc::clone(&interim);
        hyper::ext::on_informational(&mut request, move |_| counted.count());
        let answer = connection.sender.try_send_request(request);
        let reused = connection.reused;
        let (pools, clock) = (Arc::clone(&self.pools), self.clock.clone());
        let mut lease = Lease { connection: Some(connection), pools, worker, clock, idle: Duration::ZERO };
        tokio::pin!(answer);
        let limit = self.config.response_timeout;
        loop {
            let progress = upload.map(|upload| upload.progress());
            let waited = tokio::select! {
                biased;
                waited = tokio::time::timeout(limit, &mut answer) => waited,
                () = interim.too_many.notified() => return Err((too_many_interim(), None)),
            };
            match waited {
                Ok(Ok(_)) if interim.exceeded() => return Err((too_many_interim(), None)),
                Ok(Ok(response)) => {
                    // Security: what is left of a body could be taken for the next request, and so could what an older
                    // server does not read; where an answer has two ends, what follows may be of the answer still.
                    let clear = response.version() >= Version::HTTP_11 && !has_two_ends(response.headers());
                    if clear && upload.is_none_or(|upload| upload.is_taken()) {
                        lease.idle = idle_time(response.headers());
                    }
                    return Ok((response, lease));
                }
                Ok(Err(mut failed)) => {
                    let unsent = failed.take_message().map(Request::into_body);
                    return Err((self.failed(failed.into_error(), reused), unsent));
                }
                // A long upload is not a slow answer: its own idle limit watches it.
                Err(_) if upload.is_some_and(|upload| upload.is_waiting()) => {}
                Err(_) if progress != upload.map(|upload| upload.progress()) => {}
                Err(_) => return Err((ProxyError::Timeout("the API sent no answer in time".into()), None)),
            }
        }
    }

    /// The connection used last that is still open, and whether it had to be waited for.
    async fn checkout(&self, worker: usize) -> Option<(Connection, bool)> {
        let mut waited = false;
        loop {
            let Idle { mut connection, until } = self.pools.by_worker[worker].lock().pop()?;
            if until <= self.clock.now().boot || connection.sender.is_closed() {
                continue;
            }
            if connection.sender.is_ready() {
                return Some((connection, waited));
            }
            waited = true;
            if matches!(tokio::time::timeout(READY_TIMEOUT, connection.sender.ready()).await, Ok(Ok(()))) {
                return Some((connection, waited));
            }
        }
    }

    async fn open(&self) -> Result<Connection, ProxyError> {
        let stream = self.dialer.connect(&self.config.upstream.endpoint, self.config.connect_timeout).await?;
        let (mut sender, connection) =
            self.builder.handshake(TokioIo::new(stream)).await.map_err(|e| self.failed(e, false))?;
        #[expect(clippy::disallowed_methods, reason = "ends with its connection, which its lease or its pool owns")]
        let task = tokio::spawn(async move {
            // Whoever waits for an answer gets the error; an idle connection that ends is no news.
            let _ = connection.with_upgrades().await;
        });
        sender.ready().await.map_err(|e| self.failed(e, false))?;
        Ok(Connection { sender, task: task.abort_handle(), reused: false, interim: Arc::default() })
    }

    fn failed(&self, error: hyper::Error, reused: bool) -> ProxyError {
        ProxyError::of_exchange(error, &self.config.upstream.endpoint, reused)
    }

    /// Closes what is idle, and what will be: another configuration has another upstream in this one's place.
    pub fn close(&self) {
        self.pools.closed.store(true, Ordering::Release);
        self.pools.by_worker.iter().for_each(|pool| pool.lock().clear());
    }

    /// Closes what has been idle for too long. Called now and then by each worker.
    pub fn reap(&self, worker: usize) {
        let now = self.clock.now().boot;
        self.pools.by_worker[worker].lock().retain(|idle| idle.until > now && !idle.connection.sender.is_closed());
    }
}

fn has_two_ends(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH)
}

fn too_many_interim() -> ProxyError {
    ProxyError::Protocol("the API sent more than 64 interim answers".into())
}

/// How long the server keeps the connection, as far as it says (`Keep-Alive: timeout=5`), less a second for the way.
fn idle_time(headers: &HeaderMap) -> Duration {
    let field = headers.get("keep-alive").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let timeout = field.split(',').find_map(|option| option.trim().strip_prefix("timeout=")?.parse::<u64>().ok());
    timeout.map_or(IDLE_TIME_MAX, |seconds| Duration::from_secs(seconds.saturating_sub(1)).min(IDLE_TIME_MAX))
}

impl Lease {
    /// The answer was read to its end: the connection can be used again, if it ever can.
    pub fn finish(mut self) {
        if self.idle.is_zero() || self.connection.as_ref().is_none_or(|connection| connection.sender.is_closed()) {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        connection.reused = true;
        let until = self.clock.now().boot + self.idle;
        let mut pool = self.pools.by_worker[self.worker].lock();
        if self.pools.closed.load(Ordering::Acquire) {
            return;
        }
        if pool.len() >= IDLE_MAX {
            pool.remove(0);
        }
        pool.push(Idle { connection, until });
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
