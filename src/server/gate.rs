//! What a client sends, up to the first byte that is not as it must be.
//!
//! Stands between the socket and hyper. It follows the framing of requests, so that it knows where each head begins, and lets
//! a head pass once it has come whole and is clear. In place of one that is not, hyper gets a stand-in that the service
//! answers with the refusal: in its turn, after the answers to earlier requests. Nothing behind it is ever read.
//!
//! A head that comes in one piece, as most do, is looked at where it lies; one that does not is kept until it is whole, up to
//! the limit for heads. Bodies are never kept.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::Chunks;
use super::head::{Bounds, Framing, Head};
use crate::proxy::Place;

/// Takes the place of a head that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// A connection whose bytes go through a gate.
pub struct Gated<T> {
    io: T,
    gate: Gate,
}

impl<T> Gated<T> {
    pub fn new(io: T, bounds: Bounds, place: Arc<Place>) -> Self {
        Self { io, gate: Gate::new(bounds, place) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gated<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.gate.poll_read(&mut this.io, cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gated<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.gate.answered();
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gate.answered();
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// The bytes of one connection on their way to hyper.
struct Gate {
    bounds: Bounds,
    place: Arc<Place>,
    at: At,
    /// Heads that were let pass.
    heads: u64,
    /// Did the last of them ask for another protocol?
    upgrade: bool,
    /// Read, and not passed on: what may pass, then what has to wait.
    held: Vec<u8>,
    /// How much of that may pass.
    cleared: usize,
}

/// What comes next from the client.
enum At {
    Head(Head),
    Length(u64),
    Chunked(Chunks),
    /// What follows a request for another protocol is of that protocol or not: the answer tells.
    Answer,
    /// Nothing that is wanted.
    Refused,
    /// A body that has no end.
    Broken,
}

impl Gate {
    fn new(bounds: Bounds, place: Arc<Place>) -> Self {
        let at = At::Head(Head::default());
        Self { bounds, place, at, heads: 0, upgrade: false, held: Vec::new(), cleared: 0 }
    }

    fn poll_read<T>(&mut self, io: &mut T, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        T: AsyncRead + Unpin,
    {
        let tunnel = self.place.is_tunnel();
        if tunnel {
            self.cleared = self.held.len();
        }
        loop {
            if self.cleared > 0 {
                self.give(buf);
                return Poll::Ready(Ok(()));
            }
            match self.at {
                // hyper looks again once it has answered.
                At::Refused => return Poll::Pending,
                At::Answer if !self.held.is_empty() => return Poll::Pending,
                At::Broken => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a broken chunk"))),
                _ => {}
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut *io).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            if tunnel || read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let passed = self.judge(read);
                self.keep(&read[passed..]);
                buf.set_filled(before + passed);
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                self.held.extend_from_slice(read);
                buf.set_filled(before);
                self.judge_held();
            }
        }
    }

    /// An answer is on its way to the client.
    fn answered(&mut self) {
        if matches!(self.at, At::Answer) && !self.place.is_tunnel() {
            self.at = At::Head(Head::default());
            self.judge_held();
        }
    }

    fn judge_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.cleared = self.judge(&held);
        self.held = held;
        if matches!(self.at, At::Refused) {
            self.held.truncate(self.cleared);
            self.held.extend_from_slice(STAND_IN);
            self.cleared = self.held.len();
        }
    }

    /// Keeps what has to wait.
    fn keep(&mut self, rest: &[u8]) {
        if matches!(self.at, At::Refused) {
            self.held.extend_from_slice(STAND_IN);
            self.cleared = self.held.len();
        } else {
            self.held.extend_from_slice(rest);
        }
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let given = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..given]);
        self.cleared -= given;
        if given == self.held.len() {
            // Not kept for long: most connections never need it again.
            self.held = Vec::new();
        } else {
            self.held.drain(..given);
        }
    }

    /// How many of these bytes may pass: bodies, and heads that are whole and clear.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            match &mut self.at {
                At::Head(head) => match head.scan(rest, self.bounds) {
                    Ok(None) => return passed,
                    Ok(Some(whole)) => {
                        passed += whole.len;
                        self.heads += 1;
                        self.upgrade = whole.upgrade;
                        self.at = match whole.body {
                            Framing::Length(length) => At::Length(length),
                            Framing::Chunked => At::Chunked(Chunks::new()),
                        };
                    }
                    Err(problem) => {
                        self.place.refuse(self.heads, problem);
                        self.at = At::Refused;
                        return passed;
                    }
                },
                At::Length(left) => {
                    let part = (*left).min(rest.len() as u64);
                    *left -= part;
                    // No more than there is in `rest`.
                    passed += part as usize;
                    if *left > 0 {
                        return passed;
                    }
                    self.next();
                }
                At::Chunked(chunks) => match chunks.pass(rest) {
                    Ok(part) => {
                        passed += part;
                        if !chunks.ended() {
                            return passed;
                        }
                        self.next();
                    }
                    Err(part) => {
                        self.at = At::Broken;
                        return passed + part;
                    }
                },
                At::Answer | At::Refused | At::Broken => return passed,
            }
        }
    }

    /// A request came to its end.
    fn next(&mut self) {
        self.at = if self.upgrade { At::Answer } else { At::Head(Head::default()) };
    }
}
