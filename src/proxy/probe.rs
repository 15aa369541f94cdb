//! One request of the broker's own to a route's API, for whoever asks whether it is there: not of the data path.

use std::future::poll_fn;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::io::AsyncWriteExt;

use super::answer::{Unanswered, Waiting};
use super::error::ProxyError;
use crate::config::Route;
use crate::connect::Dialer;
use crate::http1::{Bounds, Connection, write_field};

/// What is asked: the path of the route itself, or the first that its `paths` allow, with a method that changes nothing.
/// `None`: its `methods` allow none of these.
pub fn question(route: &Route) -> Option<(Method, String)> {
    let allowed = |method: &Method| route.methods.is_empty() || route.methods.contains(method);
    let method = [Method::GET, Method::HEAD].into_iter().find(allowed)?;
    let path = route.paths.first().unwrap_or(&route.path);
    let stripped = if route.strip { path.strip_prefix(route.path.as_str()).unwrap_or(path) } else { path };
    let slash = if stripped.starts_with('/') { "" } else { "/" };
    Some((method, format!("{}{slash}{stripped}", route.upstream.base_path)))
}

/// Name, TCP and TLS, as for a request.
pub async fn connect(route: &Route, dialer: &Dialer) -> Result<Connection, ProxyError> {
    Ok(Connection::new(dialer.connect(&route.upstream.endpoint, route.connect_timeout).await?))
}

/// The status of the answer; its body is not read. Within the route's `response_timeout`.
pub async fn ask(
    route: &Route,
    mut connection: Connection,
    (method, path): &(Method, String),
    fields: &[(HeaderName, HeaderValue)],
    bounds: Bounds,
) -> Result<StatusCode, ProxyError> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    write_field(&mut head, b"host", route.upstream.authority.as_bytes());
    write_field(&mut head, b"user-agent", concat!("tokenbroker/", env!("CARGO_PKG_VERSION")).as_bytes());
    write_field(&mut head, b"accept", b"*/*");
    write_field(&mut head, b"connection", b"close");
    for (name, value) in fields {
        write_field(&mut head, name.as_str().as_bytes(), value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let mut waiting = Waiting::default();
    let answer = async {
        connection.stream.write_all(&head).await.map_err(Unanswered::Cut)?;
        connection.stream.flush().await.map_err(Unanswered::Cut)?;
        poll_fn(|cx| waiting.poll_head(cx, &mut connection, bounds)).await
    };
    match tokio::time::timeout(route.response_timeout, answer).await {
        Ok(Ok(response)) => Ok(response.status),
        Ok(Err(Unanswered::Failed(error))) => Err(error),
        Ok(Err(Unanswered::Cut(error))) => Err(ProxyError::of_exchange(&error, &route.upstream.endpoint, false)),
        Err(_) => {
            let seconds = route.response_timeout.as_secs_f32();
            Err(ProxyError::Timeout(format!("the API sent no answer within {seconds} s (response_timeout)")))
        }
    }
}
