//! A connected socket, with or without TLS, whichever side it is of.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::tls_error;

/// A socket.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What bytes go through.
pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Socket {
    /// Has the other end not reset it? Of one that it has, the addresses may be those of another connection by now.
    pub fn is_connected(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.peer_addr().is_ok(),
            Self::Unix(_) => true,
        }
    }
}

impl Stream {
    /// The socket, where the bytes are as they are in it.
    pub fn tcp(&self) -> Option<&TcpStream> {
        if let Self::Plain(Socket::Tcp(stream)) = self { Some(stream) } else { None }
    }

    /// Why a write failed. A server that refuses the client certificate under TLS 1.3 sends an alert and closes; the alert is
    /// still to be read when the next write finds the connection closed.
    fn why(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        let Self::Tls(stream) = self else { return error };
        // Looked at, not taken: it may as well be the answer.
        match Pin::new(stream).poll_fill_buf(cx) {
            Poll::Ready(Err(alert)) if tls_error(&alert).is_some() => alert,
            _ => error,
        }
    }

    fn told<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        polled.map(|result| result.map_err(|error| self.why(cx, error)))
    }
}

macro_rules! either {
    ($self:ident: $one:ident | $other:ident, $stream:ident => $call:expr) => {
        match &mut *$self {
            Self::$one($stream) => $call,
            Self::$other($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self: Tcp | Unix, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self: Tcp | Unix, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self: Tcp | Unix, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self: Tcp | Unix, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self: Plain | Tls, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = either!(self: Plain | Tls, stream => Pin::new(stream).poll_write(cx, buf));
        self.told(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = either!(self: Plain | Tls, stream => Pin::new(stream).poll_flush(cx));
        self.told(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self: Plain | Tls, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = either!(self: Plain | Tls, stream => Pin::new(stream).poll_write_vectored(cx, bufs));
        self.told(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
