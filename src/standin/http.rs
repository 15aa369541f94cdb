//! A small HTTP server for the stand-ins: each call whole in memory, plain or TLS, on a free loopback port.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::message::{Call, Reply};
use super::payload::Dropped;
use super::state::State;

/// A stand-in: what it keeps, and what it answers where it does not misbehave.
pub trait Handler: Deref<Target = State> + Send + Sync + 'static {
    fn answer(&self, call: &Call) -> Result<Reply, Reply>;
}

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
