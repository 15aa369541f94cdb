//! Sends one token request and reads its answer: the only I/O of `oauth`.
//!
//! A fresh connection for each exchange; redirects are answers like any other; proxy variables are not read; at most
//! 256 KiB are taken.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;

use super::error::{Class, Outcome, TokenError};
use super::place::Reply;
use crate::connect::{self, ConnectError, Dialer, Endpoint, Tls};
use crate::identity::ClientTls;

/// No answer of a token server is read further.
pub const ANSWER_MAX: usize = 256 * 1024;
/// Name, TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How to reach a token server.
#[derive(Clone)]
pub struct Client {
    pub dialer: Arc<Dialer>,
    /// Roots and client certificate.
    pub tls: ClientTls,
    /// Instead of the host's own name, in TLS.
    pub server_name: Option<ServerName<'static>>,
    /// What the client certificate is, for messages.
    pub certificate: Option<String>,
    /// For the exchange as a whole.
    pub timeout: Duration,
}

impl Client {
    /// One exchange. An error says whether the server may have acted on the request ([`Outcome::Lost`]).
    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Reply, TokenError> {
        let endpoint = self.endpoint(request.uri())?;
        let mut sent = false;
        match tokio::time::timeout(self.timeout, self.exchange(&endpoint, request, &mut sent)).await {
            Ok(result) => result,
            Err(_) => {
                let late =
                    unreachable(format!("no answer from {} within {} s", endpoint.host, self.timeout.as_secs_f32()));
                Err(late.of(if sent { Outcome::Lost } else { Outcome::NotSent }))
            }
        }
    }

    fn endpoint(&self, uri: &Uri) -> Result<Endpoint, TokenError> {
        let wrong = |problem: &str| TokenError::new(Class::Config, problem, "correct the token's url");
        let (host, port) = host_and_port(uri).ok_or_else(|| wrong("the token's URL has no usable host and port"))?;
        match uri.scheme_str() {
            Some("https") => {
                let named =
                    || ServerName::try_from(host.clone()).map_err(|_| wrong("the token URL's host is no valid name"));
                let name = self.server_name.clone().map_or_else(named, Ok)?;
                let tls = Some(Tls { client: self.tls.clone(), name, certificate: self.certificate.clone() });
                Ok(Endpoint { host, port: port.unwrap_or(443), tls })
            }
            // Security: credentials in the clear may go to this machine only.
            Some("http") if is_loopback(&host) => Ok(Endpoint { host, port: port.unwrap_or(80), tls: None }),
            _ => Err(wrong("a token's URL must be https://, or http:// to this machine")),
        }
    }

    async fn exchange(&self, to: &Endpoint, request: Request<Vec<u8>>, sent: &mut bool) -> Result<Reply, TokenError> {
        let timeout = CONNECT_TIMEOUT.min(self.timeout);
        let stream = self.dialer.connect(to, timeout).await.map_err(|e| not_connected(&e))?;
        let broken = |e: hyper::Error| no_answer(to, &e);
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = origin_form(request);
        *sent = true;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            Ok(Reply { status: head.status, headers: head.headers, body: read(body, to).await? })
        };
        tokio::pin!(answer, connection);
        let mut open = true;
        loop {
            tokio::select! {
                result = &mut answer => return result,
                _ = &mut connection, if open => open = false,
            }
        }
    }
}

/// Host without brackets, and the port if one is given. `None` if there is no host, or something that is no port behind it:
/// [`Uri`] takes any text there, and would have the scheme's own port used instead.
pub fn host_and_port(uri: &Uri) -> Option<(String, Option<u16>)> {
    let authority = uri.authority()?;
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host)? {
        "" => None,
        rest => Some(rest.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    (!bare.is_empty()).then_some((bare, port))
}

/// Is that this machine, without asking a name server?
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback())
}

/// Moves scheme and authority from the target to `Host` (RFC 9112 §3.2.1).
fn origin_form(request: Request<Vec<u8>>) -> Request<Full<Bytes>> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().map(|a| a.as_str().rsplit('@').next().unwrap_or_default());
    if let Some(host) = authority.and_then(|host| HeaderValue::from_str(host).ok()) {
        head.headers.insert(header::HOST, host);
    }
    head.uri = head.uri.path_and_query().map(|target| Uri::from(target.clone())).unwrap_or_default();
    Request::from_parts(head, Full::new(Bytes::from(body)))
}

async fn read(mut body: Incoming, from: &Endpoint) -> Result<Vec<u8>, TokenError> {
    let too_large = || {
        let problem = format!("the answer of {} is larger than 256 KiB", from.host);
        TokenError::new(Class::Transient, problem, "check that the URL is the token endpoint").of(Outcome::Unclear)
    };
    if body.size_hint().lower() > ANSWER_MAX as u64 {
        return Err(too_large());
    }
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| no_answer(from, &e))?;
        if let Ok(data) = frame.into_data() {
            if out.len() + data.len() > ANSWER_MAX {
                return Err(too_large());
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(out)
}

fn unreachable(problem: String) -> TokenError {
    TokenError::new(Class::Transient, problem, "check the network and the token's url; the broker tries again")
}

fn not_connected(error: &ConnectError) -> TokenError {
    match (connect::tls_error(error), error) {
        (tls, ConnectError::Tls { host, what, fix, .. }) => {
            let refused = tls.is_some_and(connect::refuses_our_certificate);
            let class = if refused { Class::UserAction } else { Class::Transient };
            TokenError::new(class, format!("no TLS with {host}: {what}"), fix.clone())
        }
        _ => unreachable(error.to_string()),
    }
}

fn no_answer(from: &Endpoint, error: &hyper::Error) -> TokenError {
    match connect::tls_error(error) {
        Some(tls) if connect::refuses_our_certificate(tls) => {
            let (what, fix) = from.explain(tls);
            TokenError::new(Class::UserAction, format!("no TLS with {}: {what}", from.host), fix)
        }
        _ if error.is_parse() => {
            let problem = format!("the answer of {} is not HTTP", from.host);
            let fix = "check the token's url: does this port speak TLS? then it begins with https://";
            TokenError::new(Class::Transient, problem, fix).of(Outcome::Lost)
        }
        _ => {
            unreachable(format!("the answer of {} was cut off: {}", from.host, connect::chain(error))).of(Outcome::Lost)
        }
    }
}
