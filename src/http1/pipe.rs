//! Bytes that go from one TCP socket to another within the kernel (splice(2)): they are never copied, nor seen here.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Pipes in all: each is two file descriptors. Whoever gets none copies.
const PIPES_MAX: usize = 32;

/// What a pipe may hold, in bytes; the kernel may let it hold less.
const SIZE: usize = 256 * 1024;

static PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// An empty one, for whoever needs it next.
    static SPARE: Cell<Option<Pipe>> = const { Cell::new(None) };
}

/// Bytes on their way.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
}

impl Pipe {
    /// An empty one, if there is one to be had.
    pub fn empty() -> Option<Self> {
        SPARE.take().or_else(Self::open)
    }

    fn open() -> Option<Self> {
        if PIPES.fetch_add(1, Ordering::Relaxed) < PIPES_MAX
            && let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        {
            // A smaller one does as well.
            let _ = fcntl_setpipe_size(&write, SIZE);
            return Some(Self { read, write, filled: 0 });
        }
        PIPES.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Takes up to `most` bytes into an empty one. 0 says nothing: not every kernel and socket gives what there is in this way.
    /// What there is, an end or an error shows when it is read, and only that may wait for more.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: u64) -> Poll<usize> {
        if ready!(from.poll_read_ready(cx)).is_ok() {
            let most = SIZE.min(usize::try_from(most).unwrap_or(SIZE));
            self.filled = splice(from, None, &self.write, None, most, SpliceFlags::NONBLOCK).unwrap_or(0);
        }
        Poll::Ready(self.filled)
    }

    /// Gives some of them away.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = || Ok(splice(&self.read, None, to, None, self.filled, SpliceFlags::NONBLOCK)?);
            match to.try_io(Interest::WRITABLE, moved) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done.inspect(|moved| self.filled -= moved)),
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// For the next one. Security: one that holds anything is closed, and what it holds reaches nobody.
    pub fn give_back(self) {
        if self.is_empty() {
            SPARE.set(Some(self));
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::connect::{Socket, Stream};
    use crate::http1::{Body, Connection, Cut, Out};

    /// Two ends of a TCP connection.
    async fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    /// What arrives of a body of that length, passed on between TCP sockets behind a head, when so many bytes are sent; and what
    /// is left over.
    async fn piped(length: usize, sent: usize, tap: bool) -> (Result<Vec<u8>, String>, Vec<u8>, usize) {
        let ((mut theirs, ours), (to, mut reader)) = (tcp().await, tcp().await);
        let bytes: Vec<u8> = (0..sent).map(|at| (at % 251) as u8).collect();
        let sending = async move {
            theirs.write_all(&bytes).await.unwrap();
        };
        let mut tapped = 0;
        let passing = async {
            let mut from = Connection::new(Stream::Plain(Socket::Tcp(ours)));
            let (mut to, mut out) = (Stream::Plain(Socket::Tcp(to)), Out::new(b"head".to_vec()));
            let mut body = Body::Length(length as u64);
            let passed = poll_fn(|cx| {
                loop {
                    let seen = tap.then_some(|data: &[u8]| tapped += data.len());
                    ready!(body.poll_next(cx, &mut from, Some(&mut to), &mut out, false, seen))
                        .map_err(|cut| cut.to_string())?;
                    ready!(out.poll(cx, &mut to)).map_err(|error| error.to_string())?;
                    if body.is_done() {
                        return Poll::Ready(Ok(()));
                    }
                }
            });
            let passed: Result<(), String> = passed.await;
            while poll_fn(|cx| from.poll_fill(cx)).await.is_ok_and(|read| read > 0) {}
            (passed, from.take())
        };
        let reading = async move {
            let mut all = Vec::new();
            let mut piece = vec![0; 30_000];
            while let Ok(read @ 1..) = reader.read(&mut piece).await {
                all.extend_from_slice(&piece[..read]);
                // Slower than what is sent: the pipe is not always taken whole.
                tokio::time::sleep(Duration::from_micros(50)).await;
            }
            all
        };
        let ((), (passed, left), all) = tokio::join!(sending, passing, reading);
        (passed.map(|()| all), left, tapped)
    }

    #[tokio::test]
    async fn a_long_body_goes_through_the_kernel_whole_behind_its_head_and_takes_nothing_of_what_follows() {
        for (length, sent) in [(40_000, 40_000), (3_000_000, 3_000_000), (3_000_000, 3_001_000), (40_000, 90_000)] {
            for tap in [false, true] {
                let (passed, left, tapped) = piped(length, sent, tap).await;
                let passed = passed.unwrap();
                assert_eq!((&passed[..4], passed.len()), (&b"head"[..], length + 4), "{length} of {sent}");
                let expected = |at: usize| (at % 251) as u8;
                assert!((4..passed.len()).all(|at| passed[at] == expected(at - 4)), "{length} of {sent}");
                assert!(left.len() == sent - length && (0..left.len()).all(|at| left[at] == expected(length + at)));
                assert_eq!(tapped, if tap { length } else { 0 });
            }
        }
        assert_eq!(piped(3_000_000, 2_999_999, false).await.0, Err(Cut::Early.to_string()));
    }

    #[tokio::test]
    async fn a_long_body_for_which_there_is_no_pipe_is_copied() {
        let held: Vec<_> = std::iter::from_fn(Pipe::empty).collect();
        assert_eq!(held.len(), 32);
        let (passed, left, _) = piped(1_000_000, 1_000_010, false).await;
        assert_eq!((passed.unwrap().len(), left.len()), (1_000_004, 10));
        drop(held);
        assert!(Pipe::empty().is_some(), "they were given back");
    }
}
