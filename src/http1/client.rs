//! A client's connection, as slow as a client may be and no slower.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Method, Response, Version};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::AsyncWrite;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::body::Cut;
use super::connection::{Connection, Timer};
use super::head::Head;
use super::out::Out;
use super::request::Request;
use super::syntax::Bounds;
use super::write::write_own;
use crate::connect::Stream;
use crate::peer::Peer;
use crate::problem::{Problem, RequestId};

/// After our end of the stream: how long the client may be silent, and how long it may go on sending.
const LINGER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What is left to a head that has begun when the drain begins.
const LAST_HEAD: Duration = Duration::from_millis(250);

/// Who answers the requests of a listener.
pub trait Answers: Send + Sync + 'static {
    /// Answers one request, its body unread, over the connection that it came by.
    fn answer(&self, client: &mut Client, request: Request) -> impl Future<Output = After> + Send;
}

/// What becomes of a client's connection after an answer.
pub enum After {
    Next,
    Close,
    /// The answer broke off, which has to show: nothing that looks like an end follows.
    Cut,
    /// It becomes a tunnel.
    Tunnel(Box<dyn FnOnce(Client) + Send>),
}

/// A client's place among those that may connect, and what is known of it. A tunnel takes it over.
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    pub peer: Peer,
    /// What the client's certificate was held against; `None` without TLS.
    pub authority: Option<[u8; 32]>,
    /// Connections that are open.
    open: Option<Gauge>,
    /// Has a request come?
    asked: AtomicBool,
    draining: AtomicBool,
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
        let (asked, draining) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { _permit: permit, peer, authority, open, asked, draining }
    }

    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// No request is taken after the one in hand.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn drains(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.dec();
        }
    }
}

/// A client's connection.
pub struct Client {
    pub connection: Connection,
    pub place: Arc<Place>,
    /// The deadline of whatever is waited for: there is one such thing at a time.
    pub timer: Timer,
    /// How long a response may wait for the client.
    pub stall: Duration,
    /// Has the answer to the request in hand begun?
    pub answering: bool,
    /// Did it say that it sends nothing more?
    parting: bool,
    /// Has it ended?
    ended: bool,
}

/// What a client's connection brought.
pub enum Came {
    Request(Request),
    Refused(Problem),
    /// Its end, or nothing in time.
    End,
}

impl Client {
    pub fn new(stream: Stream, place: Arc<Place>, stall: Duration) -> Self {
        let timer = Timer::new(Instant::now() + stall);
        Self {
            connection: Connection::new(stream),
            place,
            timer,
            stall,
            answering: false,
            parting: false,
            ended: false,
        }
    }

    /// Waits for the next request, as long as a head may take.
    pub async fn next(&mut self, bounds: Bounds, limit: Duration) -> Came {
        self.timer.set(Instant::now() + limit);
        self.answering = false;
        if self.connection.received().is_empty() {
            // While it waits it holds none.
            drop(self.connection.take());
        }
        let mut head = Head::default();
        let (mut fresh, mut drained) = (!self.connection.received().is_empty(), false);
        poll_fn(|cx| {
            loop {
                if fresh {
                    match head.scan(self.connection.received(), bounds) {
                        Err(problem) => return Poll::Ready(Came::Refused(problem)),
                        Ok(Some(length)) => {
                            let read = std::mem::take(&mut head).request(self.connection.split(length));
                            self.place.asked.store(true, Ordering::Relaxed);
                            self.parting =
                                read.as_ref().is_ok_and(|request| request.body.is_done() && !request.keeps_alive());
                            return Poll::Ready(read.map_or_else(Came::Refused, Came::Request));
                        }
                        Ok(None) => {}
                    }
                }
                fresh = match self.connection.poll_fill(cx) {
                    Poll::Ready(Ok(1..)) => true,
                    Poll::Ready(_) => {
                        self.ended = true;
                        return Poll::Ready(Came::End);
                    }
                    Poll::Pending => break,
                };
            }
            if self.place.drains() && !drained {
                drained = true;
                // Empty lines are no beginning of a request.
                if self.connection.received().iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                    return Poll::Ready(Came::End);
                }
                self.timer.set(Instant::now() + LAST_HEAD.min(limit));
            }
            self.timer.poll(cx).map(|()| Came::End)
        })
        .await
    }

    /// Is the client gone, as far as can be seen while it has nothing to say?
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.connection.received().is_empty() && !matches!(ready!(self.connection.poll_fill(cx)), Ok(1..)) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// The output of the future; `None` if the client goes before it comes, whose body has come whole.
    pub async fn unless_gone<T>(&mut self, whole: bool, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if whole { self.poll_gone(cx).map(|()| None) } else { Poll::Pending }
        })
        .await
    }

    /// Writes what is in `out`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Out) -> Poll<io::Result<()>> {
        out.poll(cx, &mut self.connection.stream)
    }

    /// Answers with something of our own.
    pub async fn respond(&mut self, mut request: Request, mut response: Response<Bytes>) -> After {
        let closes = response.headers_mut().remove(CONNECTION).is_some();
        // Security: where the next request would begin has to be known.
        let whole = match request.body.take(self.connection.received(), |_| {}) {
            Ok(taken) => {
                self.connection.used(taken);
                request.body.is_done()
            }
            Err(_) => false,
        };
        let keeps = whole && !closes && request.keeps_alive() && !self.place.drains();
        let mut out = Out::default();
        write_own(out.bytes(), &response, keeps, request.version, request.method != Method::HEAD);
        if self.write(&mut out).await.is_ok() && keeps { After::Next } else { After::Close }
    }

    /// Answers a head that is no request.
    pub async fn refuse(&mut self, problem: &Problem, id: &RequestId) {
        let response = Problem { close: false, ..problem.clone() }.response(id);
        let mut out = Out::default();
        write_own(out.bytes(), &response, false, Version::HTTP_11, true);
        // Whoever sends such a thing may not read.
        let _ = self.write(&mut out).await;
    }

    /// Writes all of it; each time it waits, it waits so long at most as the client may stall.
    pub async fn write(&mut self, out: &mut Out) -> io::Result<()> {
        self.answering = true;
        self.timer.set(Instant::now() + self.stall);
        poll_fn(|cx| {
            let before = out.written;
            let polled = out.poll(cx, &mut self.connection.stream);
            if polled.is_pending() && out.written > before {
                self.timer.set(Instant::now() + self.stall);
            }
            match polled {
                Poll::Pending if self.timer.poll(cx).is_ready() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                polled => polled,
            }
        })
        .await
    }

    /// The body of a request, up to `most` bytes and within that time. `Ok(None)`: it is longer.
    pub async fn collect(
        &mut self,
        request: &mut Request,
        most: usize,
        limit: Duration,
    ) -> Result<Option<Vec<u8>>, Cut> {
        let (mut whole, mut leave, mut piece) = (Vec::new(), request.leave(), Out::default());
        self.timer.set(Instant::now() + limit);
        poll_fn(|cx| {
            while !request.body.is_done() && request.body.length().unwrap_or_default() <= most as u64 {
                let polled = match self.poll_write(cx, &mut leave) {
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Cut::Io(error))),
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ok(())) => {
                        let tap = |data: &[u8]| whole.extend_from_slice(data);
                        request.body.poll_next(cx, &mut self.connection, None, &mut piece, false, Some(tap))
                    }
                };
                if polled.is_pending() && self.timer.poll(cx).is_ready() {
                    return Poll::Ready(Err(Cut::Io(io::ErrorKind::TimedOut.into())));
                }
                ready!(polled)?;
                piece = Out::default();
                if whole.len() > most {
                    return Poll::Ready(Ok(None));
                }
            }
            Poll::Ready(Ok(request.body.is_done().then(|| std::mem::take(&mut whole))))
        })
        .await
    }

    /// Has it sent nothing that was not read, and will it not? TLS has an end of its own to send.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.connection.stream, Stream::Plain(_))
            && self.connection.received().is_empty()
            && (self.ended
                || self.parting && matches!(self.connection.poll_fill(cx), Poll::Pending | Poll::Ready(Ok(0))))
    }

    /// Ends the connection so that the client gets all that was sent: one that is closed while the client still sends would be
    /// reset, and the answer lost with it (RFC 9112 §9.6).
    pub async fn close(mut self) {
        let until = Instant::now() + LINGER.1;
        self.timer = Timer::new(until.min(Instant::now() + self.stall));
        let mut shut = false;
        poll_fn(|cx| {
            if self.is_silent(cx) {
                return Poll::Ready(());
            }
            loop {
                if !shut {
                    match Pin::new(&mut self.connection.stream).poll_shutdown(cx) {
                        Poll::Ready(Ok(())) => shut = true,
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Pending => return self.timer.poll(cx),
                    }
                    self.timer.set(Instant::now() + LINGER.0);
                }
                drop(self.connection.take());
                match self.connection.poll_fill(cx) {
                    Poll::Ready(Ok(1..)) if Instant::now() < until => {
                        self.timer.set(until.min(Instant::now() + LINGER.0));
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll(cx),
                }
            }
        })
        .await;
    }
}
