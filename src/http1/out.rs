//! What is on its way out of a connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::pipe::Pipe;
use crate::connect::Stream;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Out {
    pub(super) bytes: Vec<u8>,
    /// What is behind them.
    pipe: Option<Pipe>,
    /// Up to here they were written.
    at: usize,
    /// How many were written in all.
    pub written: u64,
    /// Is there something that was not flushed?
    open: bool,
}

impl Out {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { open: !bytes.is_empty(), bytes, ..Self::default() }
    }

    /// To be written behind what is there.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        self.open = true;
        &mut self.bytes
    }

    /// Writes all of it.
    pub fn poll(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<io::Result<()>> {
        while self.at < self.bytes.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.bytes[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.at += written;
                    self.written += written as u64;
                }
            }
        }
        self.bytes.clear();
        self.at = 0;
        while let (Some(pipe), Some(to)) = (self.pipe.as_mut().filter(|pipe| !pipe.is_empty()), to.tcp()) {
            match ready!(pipe.poll_drain(cx, to))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written as u64,
            }
        }
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
        if self.open {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.open = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Is there something behind its bytes, where nothing can be put any more?
    pub fn is_closed(&self) -> bool {
        self.pipe.is_some()
    }

    /// Takes up to so many bytes behind what is there, from one TCP socket on their way to another: how many. 0: they have to be
    /// read.
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>, from: &Stream, to: &Stream, most: u64) -> Poll<usize> {
        let Some(((from, _), mut pipe)) = from.tcp().zip(to.tcp()).zip(Pipe::empty()) else { return Poll::Ready(0) };
        let filled = pipe.poll_fill(cx, from, most);
        if pipe.is_empty() {
            pipe.give_back();
        } else {
            self.pipe = Some(pipe);
        }
        filled
    }

    /// Writes what can be written of it and of the data behind it, at once; keeps what is left.
    pub fn pass(&mut self, cx: &mut Context<'_>, to: &mut Stream, data: &[u8]) {
        let before = &self.bytes[self.at..];
        let (length, to) = (before.len(), Pin::new(to));
        let polled = match length {
            0 => to.poll_write(cx, data),
            _ => to.poll_write_vectored(cx, &[IoSlice::new(before), IoSlice::new(data)]),
        };
        // What goes wrong shows again with the next write.
        let written = if let Poll::Ready(Ok(written)) = polled { written } else { 0 };
        self.written += written as u64;
        if written < length {
            self.at += written;
            self.push(data, false);
        } else {
            self.bytes.clear();
            self.at = 0;
            self.push(&data[written - length..], false);
        }
    }

    /// What is left of it if some of it was written.
    pub fn rest(&self) -> &[u8] {
        if self.at > 0 { &self.bytes[self.at..] } else { &[] }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.pipe.is_none()
    }

    /// Appends a chunk, or the data as it is.
    pub fn push(&mut self, data: &[u8], chunked: bool) {
        self.open = true;
        if chunked && !data.is_empty() {
            let mut size = [0; 16];
            self.bytes.extend_from_slice(hexadecimal(data.len(), &mut size));
            self.bytes.extend_from_slice(b"\r\n");
            self.bytes.extend_from_slice(data);
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bytes.extend_from_slice(data);
        }
    }

    /// Ends a chunked body.
    pub fn end(&mut self) {
        self.bytes().extend_from_slice(b"0\r\n\r\n");
    }
}

pub(super) fn hexadecimal(mut number: usize, digits: &mut [u8; 16]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[number % 16];
        number /= 16;
        if number == 0 {
            return &digits[at..];
        }
    }
}
