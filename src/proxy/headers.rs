//! The head for each side is written anew from the other's: what belongs to one connection, to routing or to somebody else's
//! credentials does not pass.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use tracing::warn;

use super::route::Route;
use super::{hops, sent_id};
use crate::fields::{CLIENT_KEY, is_hop_by_hop, is_ours, with_hyphens};
use crate::http1::{self, Fields, Request, Response, write_field};
use crate::peer::Peer;
use crate::token::cache::Credential;

/// A shorter word may stand in an answer by chance.
const ECHO_MIN: usize = 8;
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The request head for the upstream. `credential` is what the broker adds; `None` lets a client's own pass, if the route
/// says so. The body's framing is the client's own, as it was judged.
pub fn to_upstream(
    request: &Request,
    target: &str,
    route: &Route,
    peer: &Peer,
    credential: Option<&HeaderValue>,
    websocket: bool,
) -> Vec<u8> {
    let fields = &request.fields;
    let keep_theirs = credential.is_none() && route.config.authorization == crate::config::Authorization::Keep;
    let nominated = nominated(fields);
    let mut out = Vec::with_capacity(request.size() + credential.map_or(0, HeaderValue::len) + 256);
    for part in [request.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    write_field(&mut out, b"host", route.host.as_bytes());
    for (name, value) in fields.iter() {
        if name == b"content-length" {
            write_field(&mut out, name, plain_length(value));
        } else if let (true, Some(left @ 1..)) = (name == b"max-forwards", forwards_left(request)) {
            write_field(&mut out, name, (left - 1).to_string().as_bytes());
        } else if passes(name, route, keep_theirs) && (!is_named(&nominated, name) || route.is_credential(name)) {
            write_field(&mut out, name, value);
        }
    }
    // Not the body: of one that is sent again, nothing may be left to come.
    if request.fields.has("transfer-encoding") {
        write_field(&mut out, b"transfer-encoding", b"chunked");
    }
    hops::mark(&mut out, request, route, peer);
    for (name, value) in route.extra.load().iter() {
        write_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
    }
    // Security: whatever stood there is gone; exactly one credential field, ours.
    if let Some(credential) = credential {
        write_field(&mut out, route.config.header.as_str().as_bytes(), credential.as_bytes());
    }
    if websocket {
        write_websocket(&mut out);
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn write_websocket(out: &mut Vec<u8>) {
    write_field(out, b"connection", b"upgrade");
    write_field(out, b"upgrade", b"websocket");
}

/// Without leading zeros: not every server reads them as decimal.
fn plain_length(digits: &[u8]) -> &[u8] {
    let zeros = digits[..digits.len().saturating_sub(1)].iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

fn passes(name: &[u8], route: &Route, keep_theirs: bool) -> bool {
    if is_ours(name) || name == CLIENT_KEY.as_bytes() {
        return false;
    }
    if route.is_credential(name) {
        return keep_theirs && !route.is_extra(name);
    }
    // Security: a server that reads `_` as `-` would see a second credential or framing field.
    with_hyphens(name).is_none_or(|hyphened| {
        !is_ours(&hyphened) && !route.is_credential(&hyphened) && hyphened != CLIENT_KEY.as_bytes()
    })
}

/// How often an OPTIONS may still be passed on (RFC 9110 §7.6.2); other methods that are passed on have no such limit.
pub fn forwards_left(request: &Request) -> Option<u32> {
    if request.method != Method::OPTIONS {
        return None;
    }
    request.fields.text("max-forwards")?.parse().ok()
}

/// The fields that `Connection` names besides its own options (RFC 9110 §7.6.1).
fn nominated(fields: &Fields) -> Vec<&[u8]> {
    let common = |option: &&[u8]| {
        [&b"keep-alive"[..], b"close", b"upgrade", b""].iter().any(|known| option.eq_ignore_ascii_case(known))
    };
    fields.members("connection").filter(|option| !common(option)).collect()
}

fn is_named(nominated: &[&[u8]], name: &[u8]) -> bool {
    nominated.iter().any(|option| option.eq_ignore_ascii_case(name))
}

/// Did the client send a credential of its own?
pub fn has_credential(fields: &Fields, route: &Route) -> bool {
    fields.has("authorization") || fields.has(route.config.header.as_str())
}

/// Security: an API that sends our token back in a field would hand it to the client. A body is the API's own.
pub fn drop_echoes(fields: &mut Fields, credential: Option<&Credential>, route: &Route, request: &Request) {
    let words = credential.map(|credential| credential.value.as_bytes().split(|byte| *byte == b' '));
    let longest = words.and_then(|words| words.max_by_key(|word| word.len()));
    let Some(token) = longest.filter(|token| token.len() >= ECHO_MIN) else { return };
    // Most values are shorter than a token, and cost nothing.
    let within = |value: &[u8]| value.len() >= token.len() && value.windows(token.len()).any(|part| part == token);
    // A length is a number, and where the answer ends.
    let echoes = |name: &[u8], value: &[u8]| within(value) && name != b"content-length";
    if !fields.iter().any(|(name, value)| echoes(name, value)) {
        return;
    }
    fields.retain(|name, value| {
        let echoes = echoes(name, value);
        if echoes {
            let field = String::from_utf8_lossy(name);
            let request_id = sent_id(request);
            warn!(route = route.config.name, request_id, %field, "the API sent the token back in a field, which was removed");
            route.metrics.echoes.inc();
        }
        !echoes
    });
}

/// How an answer is framed for a client, and what becomes of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    pub chunked: bool,
    pub keeps: bool,
}

/// The response head for the client.
pub fn to_client(
    response: &Response,
    route: &Route,
    request: &Request,
    page: Option<&HeaderValue>,
    framing: Framing,
    out: &mut Vec<u8>,
) {
    let fields = &response.fields;
    let nominated = nominated(fields);
    // A length that is not the body's, or of what can have none (RFC 9110 §8.6).
    let mut lengths = fields.has("transfer-encoding") || response.status == StatusCode::NO_CONTENT;
    lengths |= response.status == StatusCode::SWITCHING_PROTOCOLS;
    // And what came of the body.
    out.reserve(response.size() + response.behind().len() + 128);
    http1::write_status(out, request.version, response.status, response.reason());
    for (name, value) in fields.iter() {
        let length = name == b"content-length";
        let dropped = is_hop_by_hop(name)
            || (length && std::mem::replace(&mut lengths, true))
            || (page.is_some() && name.starts_with(b"access-control-"))
            // Security: without its length the body would have no end.
            || (!length && is_named(&nominated, name));
        if dropped {
            continue;
        }
        let mapped = (name == b"location" && route.config.rewrite_location)
            .then(|| route.map_back(std::str::from_utf8(value).ok()?, request.fields.get("host")));
        match mapped.flatten() {
            Some(target) => write_field(out, name, target.as_bytes()),
            None => write_field(out, name, value),
        }
    }
    if let Some(origin) = page {
        write_field(out, ACCESS_CONTROL_ALLOW_ORIGIN.as_str().as_bytes(), origin.as_bytes());
        write_field(out, b"vary", b"Origin");
    }
    if route.config.forwarded {
        write_field(out, b"via", hops::via(response.version));
    }
    if framing.chunked {
        write_field(out, b"transfer-encoding", b"chunked");
    }
    if !fields.has("date") {
        write_field(out, b"date", http1::date().as_bytes());
    }
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        write_websocket(out);
    } else {
        http1::write_connection(out, framing.keeps, request.version);
    }
    out.extend_from_slice(b"\r\n");
}

/// Is that a WebSocket handshake (RFC 6455 §4.1)? Any other upgrade is ignored, as a server may (RFC 9110 §7.8).
pub fn wants_websocket(request: &Request) -> bool {
    request.version == Version::HTTP_11
        && request.method == Method::GET
        && request.body.is_done()
        && is_websocket(&request.fields)
        && request.fields.lists("connection", "upgrade")
}

/// Is `websocket` the one protocol named by `Upgrade`?
pub fn is_websocket(fields: &Fields) -> bool {
    let mut protocols = fields.all("upgrade");
    protocols.next().is_some_and(|p| p.eq_ignore_ascii_case(b"websocket")) && protocols.next().is_none()
}

/// Lets a page of a listed origin read an answer (Fetch §4.10).
pub fn allow_page(headers: &mut HeaderMap, page: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// Does the client expect nothing, or only 100-continue, which we answer?
pub fn expects_no_more_than_continue(fields: &Fields) -> bool {
    fields.all("expect").all(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// The answer to a CORS preflight of a listed origin, if that is what the request is (Fetch §4.8).
pub fn preflight(request: &Request, route: &Route, page: &HeaderValue) -> Option<http::Response<bytes::Bytes>> {
    let wanted = request.fields.get("access-control-request-method")?;
    if request.method != Method::OPTIONS {
        return None;
    }
    let mut response = http::Response::new(bytes::Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    allow_page(headers, page);
    let allowed =
        route.config.methods.is_empty() || route.config.methods.iter().any(|m| m.as_str().as_bytes() == wanted);
    if let (true, Ok(wanted)) = (allowed, HeaderValue::from_bytes(wanted)) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, wanted);
    }
    let names = request.fields.get("access-control-request-headers").map(HeaderValue::from_bytes);
    if let Some(Ok(names)) = names {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    if request.fields.has("access-control-request-private-network") {
        headers.insert(PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Some(response)
}
