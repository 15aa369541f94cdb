//! A small HTTP server for the stand-ins: each call whole in memory, plain or TLS, on a free loopback port.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::message::{Call, Reply};
use super::state::State;

/// A stand-in: what it keeps, and what it answers where it does not misbehave.
pub trait Handler: Deref<Target = State> + Send + Sync + 'static {
    fn answer(&self, call: &Call) -> Result<Reply, Reply>;
}

/// No answer: the connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the stand-in drops this call")]
pub struct Dropped;

/// A server; it ends when this is dropped.
pub struct Server {
    pub address: SocketAddr,
    scheme: &'static str,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1. Must be called inside a runtime.
    pub async fn start(handler: Arc<impl Handler>, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, handler, tls.map(TlsAcceptor::from)));
        Ok(Self { address, scheme, _tasks: tasks })
    }

    pub fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }
}

async fn accept(listener: TcpListener, handler: Arc<impl Handler>, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (handler, tls) = (Arc::clone(&handler), tls.clone());
        connections.spawn(async move {
            match tls {
                None => serve(stream, handler, None, connection).await,
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    let serial = leaf.and_then(|der| Certificate::from_der(der).ok());
                    let serial = serial.map(|certificate| certificate.tbs_certificate().serial_number().to_string());
                    serve(stream, handler, serial, connection).await;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: Arc<impl Handler>,
    certificate: Option<String>,
    connection: usize,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, certificate) = (Arc::clone(&handler), certificate.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = Limited::new(body, 4 << 20).collect().await.map_err(|_| Dropped)?.to_bytes();
            let (method, uri, headers) = (head.method, head.uri, head.headers);
            let call = Call { method, uri, headers, body, certificate, connection };
            let reply = handler.answer(&call).unwrap_or_else(|refusal| refusal);
            handler.respond(call, reply).await
        }
    });
    // A client that goes away, and a call that is dropped on purpose, end here.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A response body that can misbehave.
pub enum Payload {
    Whole(Option<Bytes>),
    /// So many bytes of nothing.
    Endless {
        left: u64,
    },
    /// A byte each second.
    Drip {
        left: u64,
        next: Pin<Box<Sleep>>,
    },
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::Whole((!text.is_empty()).then(|| text.into()))
    }
}

impl Payload {
    pub fn endless() -> Self {
        Self::Endless { left: 10 << 30 }
    }

    pub fn drip() -> Self {
        Self::Drip { left: 3600, next: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Endless { left: 0 } | Self::Drip { left: 0, .. } => None,
            Self::Endless { left } => {
                *left -= 65_536;
                Some(Bytes::from_static(&[b' '; 65_536]))
            }
            Self::Drip { left, next } => {
                std::task::ready!(next.as_mut().poll(cx));
                next.as_mut().reset(Instant::now() + Duration::from_secs(1));
                *left -= 1;
                Some(Bytes::from_static(b" "))
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Endless { .. } | Self::Drip { .. } => hyper::body::SizeHint::default(),
        }
    }
}
