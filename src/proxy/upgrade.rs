//! WebSocket: after the upstream's own 101, bytes pass both ways until one side ends, nothing moves for too long, or the
//! broker stops.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::connect::Stream;
use crate::http1::{After, Client, Connection};

/// The tunnels of a worker. They outlive their requests; a drain waits for them.
#[derive(Clone, Default)]
pub struct Tunnels {
    pub tasks: TaskTracker,
    /// Cancelled when they have to end.
    pub stop: CancellationToken,
}

impl Tunnels {
    /// Makes a tunnel of a client's connection and that one, which have both switched protocols.
    pub fn open(&self, upstream: Connection, idle: Duration) -> After {
        let this = self.clone();
        After::Tunnel(Box::new(move |client| {
            let stop = this.stop.clone();
            this.tasks.spawn(tunnel(client, upstream, idle, stop));
        }))
    }
}

/// Joins the two sides.
async fn tunnel(client: Client, upstream: Connection, idle: Duration, stop: CancellationToken) {
    let Client { connection, place, .. } = client;
    let moved = Arc::new(AtomicU64::new(0));
    let ended = async {
        let (mut client, early) = Watched::new(connection, &moved);
        let (mut upstream, answer) = Watched::new(upstream, &moved);
        client.write_all(&answer).await?;
        client.flush().await?;
        upstream.write_all(&early).await?;
        upstream.flush().await?;
        copy_bidirectional(&mut client, &mut upstream).await
    };
    tokio::select! {
        ended = ended => debug!(?ended, "a WebSocket ended"),
        () = still(&moved, idle) => debug!(idle_seconds = idle.as_secs(), "a WebSocket was cut: nothing moved"),
        () = stop.cancelled() => debug!("a WebSocket was cut: the broker stops"),
    }
    drop(place);
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
    io: Stream,
    moved: Arc<AtomicU64>,
}

impl Watched {
    /// And what was received already.
    fn new(mut connection: Connection, moved: &Arc<AtomicU64>) -> (Self, Vec<u8>) {
        let received = connection.take();
        (Self { io: connection.stream, moved: Arc::clone(moved) }, received)
    }
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
