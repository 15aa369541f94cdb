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

/// What a pipe may hold, in bytes; the kernel may give less.
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

    /// Takes up to `most` bytes into an empty one; 0 is their end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = || Ok(splice(from, None, &self.write, None, most, SpliceFlags::NONBLOCK)?);
            match from.try_io(Interest::READABLE, moved) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done.inspect(|filled| self.filled = *filled)),
            }
        }
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
