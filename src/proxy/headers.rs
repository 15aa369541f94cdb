//! The head for each side is built anew from the other's: what belongs to one connection, to routing or to somebody else's
//! credentials does not pass.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, LOCATION,
    MAX_FORWARDS, TRANSFER_ENCODING, UPGRADE, VARY, VIA,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, response};
use tracing::warn;

use super::download::Body;
use super::hops;
use super::route::Route;
use crate::fields::{CLIENT_KEY, is_hop_by_hop, is_ours, with_hyphens};
use crate::peer::Peer;
use crate::token::cache::Credential;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// A shorter word may stand in an answer by chance.
const ECHO_MIN: usize = 8;
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The request head for the upstream. `credential` is what the broker adds; `None` lets a client's own pass, if the route
/// says so. Framing is left to hyper: a length that the client sent is the body's, and stays.
pub fn to_upstream(
    head: &Parts,
    route: &Route,
    peer: &Peer,
    credential: Option<HeaderValue>,
    websocket: bool,
) -> HeaderMap {
    let keep_theirs = credential.is_none() && route.config.authorization == crate::config::Authorization::Keep;
    let nominated = nominated(&head.headers);
    let mut out = HeaderMap::with_capacity(head.headers.len() + route.config.headers.len() + 4);
    out.insert(HOST, route.host.clone());
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            out.insert(name, plain_length(value));
        } else if let (true, Some(left @ 1..)) = (*name == MAX_FORWARDS, forwards_left(head)) {
            out.insert(name, HeaderValue::from(left - 1));
        } else if passes(name, route, keep_theirs) && (!nominated.contains(name) || route.is_credential(name)) {
            out.append(name, value.clone());
        }
    }
    hops::mark(&mut out, head, route, peer);
    for (name, value) in route.extra.load().iter() {
        out.insert(name, value.clone());
    }
    // Security: whatever stood there is gone; exactly one credential field, ours.
    if let Some(credential) = credential {
        out.insert(route.config.header.clone(), credential);
    }
    if websocket {
        out.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        out.insert(UPGRADE, WEBSOCKET);
    }
    out
}

/// Without leading zeros: not every server reads them as decimal.
fn plain_length(value: &HeaderValue) -> HeaderValue {
    let digits = value.as_bytes();
    let zeros = digits[..digits.len().saturating_sub(1)].iter().take_while(|digit| **digit == b'0').count();
    if zeros == 0 { value.clone() } else { HeaderValue::from_bytes(&digits[zeros..]).unwrap_or_else(|_| value.clone()) }
}

fn passes(name: &HeaderName, route: &Route, keep_theirs: bool) -> bool {
    if is_ours(name) || *name == CLIENT_KEY {
        return false;
    }
    if route.is_credential(name) {
        return keep_theirs && !route.is_extra(name);
    }
    // Security: a server that reads `_` as `-` would see a second credential or framing field.
    with_hyphens(name)
        .is_none_or(|hyphened| !is_ours(&hyphened) && !route.is_credential(&hyphened) && hyphened != CLIENT_KEY)
}

/// How often an OPTIONS may still be passed on (RFC 9110 §7.6.2); other methods that are passed on have no such limit.
pub fn forwards_left(head: &Parts) -> Option<u32> {
    if head.method != Method::OPTIONS {
        return None;
    }
    head.headers.get(MAX_FORWARDS)?.to_str().ok()?.parse().ok()
}

/// The fields that `Connection` names besides its own options (RFC 9110 §7.6.1).
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            let common =
                [&b"keep-alive"[..], b"close", b"upgrade"].iter().any(|known| option.eq_ignore_ascii_case(known));
            if let (false, Ok(name)) = (common, HeaderName::from_bytes(option)) {
                names.push(name);
            }
        }
    }
    names
}

/// Did the client send a credential of its own?
pub fn has_credential(headers: &HeaderMap, route: &Route) -> bool {
    headers.contains_key(http::header::AUTHORIZATION) || headers.contains_key(&route.config.header)
}

/// Security: an API that sends our token back in a field would hand it to the client. A body is the API's own.
pub fn drop_echoes(headers: &mut HeaderMap, credential: Option<&Credential>, route: &Route) {
    let words = credential.map(|credential| credential.value.as_bytes().split(|byte| *byte == b' '));
    let longest = words.and_then(|words| words.max_by_key(|word| word.len()));
    let Some(token) = longest.filter(|token| token.len() >= ECHO_MIN) else { return };
    // Most values are shorter than a token, and cost nothing.
    let echoes = |value: &HeaderValue| {
        value.len() >= token.len() && value.as_bytes().windows(token.len()).any(|part| part == token)
    };
    if !headers.values().any(echoes) {
        return;
    }
    let names: Vec<_> = headers.iter().filter(|(_, value)| echoes(value)).map(|(name, _)| name.clone()).collect();
    for name in names {
        warn!(
            route = route.config.name,
            field = name.as_str(),
            "the API sent the token back in a field, which was removed"
        );
        route.metrics.echoes.inc();
        headers.remove(&name);
    }
}

/// The response head for the client.
pub fn to_client(head: response::Parts, route: &Route, request: &Parts, page: Option<&HeaderValue>) -> response::Parts {
    let nominated = nominated(&head.headers);
    let chunked = head.headers.contains_key(TRANSFER_ENCODING);
    let mut out = HeaderMap::with_capacity(head.headers.len() + 2);
    for (name, value) in &head.headers {
        let dropped = is_hop_by_hop(name)
            || (chunked && *name == CONTENT_LENGTH)
            || (page.is_some() && name.as_str().starts_with("access-control-"))
            || nominated.contains(name);
        if !dropped {
            let mapped = (*name == LOCATION && route.config.rewrite_location).then(|| {
                let target = route.map_back(std::str::from_utf8(value.as_bytes()).ok()?, request.headers.get(HOST))?;
                HeaderValue::from_bytes(target.as_bytes()).ok()
            });
            let value = mapped.flatten().unwrap_or_else(|| value.clone());
            // The same length twice is one length (RFC 9110 §8.6).
            if *name == CONTENT_LENGTH {
                out.insert(name, value);
            } else {
                out.append(name, value);
            }
        }
    }
    if let Some(origin) = page {
        allow_page(&mut out, origin);
    }
    if route.config.forwarded {
        out.append(VIA, hops::via(head.version));
    }
    let mut made = Response::new(()).into_parts().0;
    made.status = head.status;
    made.headers = out;
    if let Some(reason) = head.extensions.get::<hyper::ext::ReasonPhrase>() {
        made.extensions.insert(reason.clone());
    }
    made
}

/// Are the transfer codings of that response ours to undo? hyper undoes `chunked` alone.
pub fn only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Does the message have at most one length (RFC 9112 §6.3)? hyper asks this of answers that have a body, only.
pub fn one_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next().map(HeaderValue::as_bytes) else { return true };
    !first.is_empty() && first.iter().all(u8::is_ascii_digit) && lengths.all(|length| length.as_bytes() == first)
}

/// Is that a WebSocket handshake (RFC 6455 §4.1)? Any other upgrade is ignored, as a server may (RFC 9110 §7.8).
pub fn wants_websocket(head: &Parts, has_body: bool) -> bool {
    let named = |wanted: &[u8]| {
        let options = head.headers.get_all(CONNECTION).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
        options.into_iter().any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && !has_body
        && is_websocket(&head.headers)
        && named(b"upgrade")
}

/// Is `websocket` the one protocol named by `Upgrade`?
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let first = protocols.next();
    first.is_some_and(|p| p.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket")) && protocols.next().is_none()
}

/// The upstream's agreement to a WebSocket, for the client.
pub fn websocket_agreed(mut head: response::Parts) -> Response<Body> {
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, WEBSOCKET);
    Response::from_parts(head, Body::empty())
}

/// Lets a page of a listed origin read an answer (Fetch §4.10).
pub fn allow_page(headers: &mut HeaderMap, page: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

/// Does the client expect nothing, or only 100-continue, which hyper answers?
pub fn expects_no_more_than_continue(headers: &HeaderMap) -> bool {
    headers.get_all(EXPECT).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The answer to a CORS preflight of a listed origin, if that is what the request is (Fetch §4.8).
pub fn preflight(request: &Parts, route: &Route, page: &HeaderValue) -> Option<Response<Body>> {
    let wanted = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method != Method::OPTIONS {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    allow_page(headers, page);
    let allowed = route.config.methods.is_empty()
        || route.config.methods.iter().any(|m| m.as_str().as_bytes() == wanted.as_bytes());
    if allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, wanted.clone());
    }
    if let Some(names) = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    if request.headers.contains_key("access-control-request-private-network") {
        headers.insert(PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Some(response)
}
