//! WebSocket: after the upstream's own 101, bytes pass both ways until one side ends, nothing moves for too long, or the
//! broker stops.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::peer::Peer;
use crate::problem::Problem;

/// A client connection's place among those that may be open, and what came over it. A tunnel takes it over.
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    pub peer: Peer,
    /// What the client's certificate was held against; `None` without TLS.
    pub authority: Option<[u8; 32]>,
    /// Connections that are open.
    open: Option<Gauge>,
    /// Requests that came over it.
    asked: AtomicU64,
    /// Why one is refused that is not HTTP, and how many came before it.
    refused: OnceLock<(u64, Problem)>,
    tunnelled: AtomicBool,
}

impl Place {
    pub fn new(
        permit: Option<OwnedSemaphorePermit>,
        open: Option<Gauge>,
        peer: Peer,
        authority: Option<[u8; 32]>,
    ) -> Self {
        if let Some(open) = &open {
            open.inc();
        }
        let (asked, refused, tunnelled) = (AtomicU64::new(0), OnceLock::new(), AtomicBool::new(false));
        Self { _permit: permit, peer, authority, open, asked, refused, tunnelled }
    }

    /// A request has come: is it the one that is refused?
    pub fn ask(&self) -> Option<&Problem> {
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        self.refused.get().filter(|(after, _)| *after == before).map(|(_, problem)| problem)
    }

    /// The request after so many others is to be refused.
    pub fn refuse(&self, after: u64, problem: Problem) {
        // There is one at most: nothing is read behind it.
        let _ = self.refused.set((after, problem));
    }

    /// Did it become a tunnel? Then what comes over it is nobody's request.
    pub fn is_tunnel(&self) -> bool {
        self.tunnelled.load(Ordering::Relaxed)
    }

    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.dec();
        }
    }
}

/// The tunnels of a worker. They outlive their requests; a drain waits for them.
#[derive(Clone, Default)]
pub struct Tunnels {
    pub tasks: TaskTracker,
    /// Cancelled when they have to end.
    pub stop: CancellationToken,
}

impl Tunnels {
    pub fn open(&self, client: OnUpgrade, upstream: OnUpgrade, idle: Duration, place: Arc<Place>) {
        let stop = self.stop.clone();
        place.tunnelled.store(true, Ordering::Relaxed);
        self.tasks.spawn(async move {
            tunnel(client, upstream, idle, stop).await;
            drop(place);
        });
    }
}

/// Joins the two sides once both have switched protocols.
async fn tunnel(client: OnUpgrade, upstream: OnUpgrade, idle: Duration, stop: CancellationToken) {
    let (client, upstream) = match tokio::try_join!(client, upstream) {
        Ok(both) => both,
        Err(error) => {
            debug!(%error, "a WebSocket did not come about");
            return;
        }
    };
    let moved = Arc::new(AtomicU64::new(0));
    let mut client = Watched { io: TokioIo::new(client), moved: Arc::clone(&moved) };
    let mut upstream = Watched { io: TokioIo::new(upstream), moved: Arc::clone(&moved) };
    tokio::select! {
        ended = copy_bidirectional(&mut client, &mut upstream) => debug!(?ended, "a WebSocket ended"),
        () = still(&moved, idle) => debug!(idle_seconds = idle.as_secs(), "a WebSocket was cut: nothing moved"),
        () = stop.cancelled() => debug!("a WebSocket was cut: the broker stops"),
    }
}

/// Ends when `moved` has not changed for `idle`, give or take a quarter.
async fn still(moved: &AtomicU64, idle: Duration) {
    let (mut last, mut quiet) = (0, 0);
    while quiet < 4 {
        tokio::time::sleep(idle / 4).await;
        let now = moved.load(Ordering::Relaxed);
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// Counts the bytes read.
struct Watched {
    io: TokioIo<Upgraded>,
    moved: Arc<AtomicU64>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.moved.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
