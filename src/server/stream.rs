//! A client's connection, as slow as a client may be and no slower.
//!
//! Two things that hyper leaves to the stream under it: a client that stops reading may not hold a response for ever, and a
//! connection that is closed while the client still sends would be reset, and the answer lost with it (RFC 9112 §9.6).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::proxy::Place;

/// After our end of the stream: how long the client may be silent, and how long it may go on sending.
const LINGER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The stream to a client.
pub struct ClientStream<T> {
    io: T,
    /// How long a write may wait for the client.
    stall: Duration,
    place: Arc<Place>,
    timer: Option<Pin<Box<Sleep>>>,
    stalled: bool,
    /// The client has sent its end.
    ended: bool,
    /// When lingering ends; set once we have sent our end.
    lingers_until: Option<Instant>,
}

impl<T> ClientStream<T> {
    pub fn new(io: T, stall: Duration, place: Arc<Place>) -> Self {
        Self { io, stall, place, timer: None, stalled: false, ended: false, lingers_until: None }
    }

    /// Starts or restarts the one timer.
    fn wait(&mut self, deadline: Instant) -> Pin<&mut Sleep> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().reset(deadline);
        timer.as_mut()
    }

    fn watch<R>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.stalled = false;
            return polled;
        }
        if !self.stalled {
            self.stalled = true;
            let deadline = Instant::now() + self.stall;
            self.wait(deadline);
        }
        match self.timer.as_mut().map(|timer| timer.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            _ => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ClientStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.ended |= buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> ClientStream<T> {
    /// Reads and throws away what the client still sends, until it ends, is silent, or has had its time.
    fn linger(&mut self, cx: &mut Context<'_>, until: Instant) {
        let mut scratch = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && Instant::now() < until => {
                    let silent = (Instant::now() + LINGER.0).min(until);
                    self.wait(silent);
                }
                Poll::Ready(_) => {
                    self.ended = true;
                    return;
                }
                Poll::Pending => {
                    let over = self.timer.as_mut().is_none_or(|timer| timer.as_mut().poll(cx).is_ready());
                    self.ended |= over;
                    return;
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let until = match self.lingers_until {
            Some(until) => until,
            None => {
                let polled = Pin::new(&mut self.io).poll_shutdown(cx);
                ready!(self.watch(cx, polled))?;
                if self.place.is_tunnel() {
                    // The other direction goes on.
                    return Poll::Ready(Ok(()));
                }
                let now = Instant::now();
                self.wait(now + LINGER.0);
                *self.lingers_until.insert(now + LINGER.1)
            }
        };
        if !self.ended {
            self.linger(cx, until);
        }
        if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }
}
