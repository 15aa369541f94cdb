//! Connections to the API: one pool for each route and worker thread, no lock shared between threads.
//!
//! A connection goes back to its pool only when the request had been sent to its end before the answer came, and the answer
//! was read to its end; in any other case it is closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::task::coop::has_budget_remaining;

use super::error::ProxyError;
use crate::clock::Clock;
use crate::config;
use crate::connect::{Dialer, Endpoint};
use crate::http1::{Bounds, Connection, Fields};

/// Idle connections kept by a pool; the ones used least lately go first.
const IDLE_MAX: usize = 128;
/// How long a connection may be idle: below the 60 s and more that servers commonly allow.
const IDLE_TIME_MAX: Duration = Duration::from_secs(50);

/// The API behind one route.
pub struct Upstream {
    config: Arc<config::Route>,
    dialer: Arc<Dialer>,
    clock: Clock,
    /// Of a response head.
    pub bounds: Bounds,
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

/// A connection while one exchange uses it. Unless it is given back, it is closed.
pub struct Lease {
    pub connection: Connection,
    /// It had been idle: the server may have closed it meanwhile.
    pub reused: bool,
}

impl Idle {
    /// Is it still as it was left? What an API sends unasked is nobody's answer.
    fn is_still(&mut self, cx: &mut Context<'_>, now: Duration) -> bool {
        // Without budget nothing is ready, and nothing could be told.
        self.until > now && has_budget_remaining() && self.connection.poll_fill(cx).is_pending()
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    pub fn new(config: Arc<config::Route>, dialer: Arc<Dialer>, limits: &config::Limits, clock: Clock) -> Self {
        let by_worker = (0..limits.threads).map(|_| Pool::default()).collect();
        let bounds = Bounds { bytes: limits.head_max, fields: limits.headers_max };
        Self { config, dialer, clock, bounds, by_worker, closed: AtomicBool::new(false) }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.config.upstream.endpoint
    }

    /// The connection used last that is still open.
    pub fn idle(&self, worker: usize) -> Option<Lease> {
        let now = self.clock.now().boot;
        loop {
            let mut idle = self.by_worker[worker].lock().pop()?;
            if idle.is_still(&mut Context::from_waker(Waker::noop()), now) {
                return Some(Lease { connection: idle.connection, reused: true });
            }
        }
    }

    pub async fn open(&self) -> Result<Lease, ProxyError> {
        let stream = self.dialer.connect(self.endpoint(), self.config.connect_timeout).await?;
        Ok(Lease { connection: Connection::new(stream), reused: false })
    }

    /// The answer was read to its end: the connection may be used again for so long.
    pub fn give_back(&self, worker: usize, lease: Lease, idle: Duration) {
        let Lease { mut connection, .. } = lease;
        if idle.is_zero() || !connection.take().is_empty() {
            return;
        }
        let until = self.clock.now().boot + idle;
        let mut pool = self.by_worker[worker].lock();
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        if pool.len() >= IDLE_MAX {
            pool.remove(0);
        }
        pool.push(Idle { connection, until });
    }

    /// Closes what is idle, and what will be: another configuration has another upstream in this one's place.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.by_worker.iter().for_each(|pool| pool.lock().clear());
    }

    /// Closes what has been idle for too long, or was closed. Called now and then by each worker.
    pub fn reap(&self, worker: usize) {
        let (now, mut cx) = (self.clock.now().boot, Context::from_waker(Waker::noop()));
        self.by_worker[worker].lock().retain_mut(|idle| idle.is_still(&mut cx, now));
    }
}

/// How long the server keeps the connection, as far as it says (`Keep-Alive: timeout=5`), less a second for the way.
pub fn idle_time(fields: &Fields) -> Duration {
    let field = fields.text("keep-alive").unwrap_or_default();
    let timeout = field.split(',').find_map(|option| option.trim().strip_prefix("timeout=")?.parse::<u64>().ok());
    timeout.map_or(IDLE_TIME_MAX, |seconds| Duration::from_secs(seconds.saturating_sub(1)).min(IDLE_TIME_MAX))
}
