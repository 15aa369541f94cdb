//! One side of an exchange: a stream, and what was received over it and is not yet used.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use crate::connect::Stream;

/// What is read at a time where a head is waited for, in bytes.
const HEAD_PIECE: usize = 8 * 1024;

/// A connection.
pub struct Connection {
    pub stream: Stream,
    received: Vec<u8>,
}

impl Connection {
    pub fn new(stream: Stream) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// The first so many bytes are done with.
    pub fn used(&mut self, bytes: usize) {
        if bytes == self.received.len() {
            self.received.clear();
        } else {
            self.received.drain(..bytes);
        }
    }

    /// Takes the first so many bytes.
    pub fn split(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.received.split_off(bytes);
        std::mem::replace(&mut self.received, rest)
    }

    /// What was received beyond what was wanted.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.received = bytes.to_vec();
    }

    /// Takes all that was received, and its memory.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Reads what there is. Holds no memory while it waits, if nothing is received. 0 is the end.
    #[inline(never)]
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [MaybeUninit::uninit(); HEAD_PIECE];
        let mut buf = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.received.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Reads up to so many bytes, of which there will be more. 0 is the end.
    pub fn poll_more(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        if self.received.capacity() - self.received.len() < bytes / 2 {
            self.received.reserve_exact(bytes);
        }
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.received)
    }
}

/// One deadline after the other: those that are put off, as most are, cost a look at the clock.
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl Timer {
    pub fn new(deadline: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), deadline }
    }

    pub fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
    }

    /// Ready once the deadline is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.sleep.deadline() >= self.deadline {
                return Poll::Ready(());
            }
            let deadline = self.deadline;
            self.sleep.as_mut().reset(deadline);
        }
    }
}
