//! Who may speak to a listener, judged from a request's head alone: the host it was meant for, and the page it came from.
//!
//! A web page in a local browser can reach loopback; it cannot lie about `Host` (DNS rebinding ends there) nor, in a
//! browser of today, about `Origin` and `Sec-Fetch-Site`. Shared by the routes and the operator's listener. Pure.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode, Version};

use crate::http1::{Fields, Request};
use crate::problem::{Problem, bad_request};

/// The host a request was meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'h> {
    /// Lower case, IPv6 in brackets.
    pub name: Cow<'h, str>,
    pub port: Option<u16>,
}

/// What a request's origin makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Not a page of another origin.
    Here,
    /// A page whose origin is listed; it gets CORS answers.
    Listed(HeaderValue),
}

pub fn host_refused() -> Problem {
    let detail = "this name is not served here: use the listener's own address, or list the name in accept_hosts";
    Problem { close: true, ..Problem::new(StatusCode::MISDIRECTED_REQUEST, "host_refused", detail) }
}

pub fn origin_refused() -> Problem {
    let detail = "a web page of another origin may not use this: list its origin in accept_origins if it should";
    Problem { close: true, ..Problem::new(StatusCode::FORBIDDEN, "origin_refused", detail) }
}

/// The host of a request: exactly one valid `Host`, equal to the target's if that is absolute (RFC 9112 §3.2). `None` for an
/// HTTP/1.0 request without one, which no browser sends.
pub fn host(head: &Request) -> Result<Option<Host<'_>>, Problem> {
    let mut values = head.fields.all("host");
    let field = values.next();
    if values.next().is_some() {
        return Err(bad_request("more than one Host"));
    }
    let field = match field {
        Some(value) => {
            let text = std::str::from_utf8(value).ok().and_then(parse_host);
            Some(text.ok_or_else(|| bad_request("the Host is not the name of a host"))?)
        }
        None => None,
    };
    match head.uri().and_then(http::Uri::authority) {
        Some(authority) => {
            let target = parse_host(authority.as_str()).ok_or_else(|| bad_request("the target is not a URL"))?;
            if field.is_some_and(|field| field != target) {
                Err(bad_request("Host and the host in the target differ"))
            } else {
                Ok(Some(target))
            }
        }
        None if field.is_none() && head.version >= Version::HTTP_11 => Err(bad_request("Host is missing")),
        None => Ok(field),
    }
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`.
fn parse_host(text: &str) -> Option<Host<'_>> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (&text[..address.len() + 2], rest.strip_prefix(':').or((rest.is_empty()).then_some(""))?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    if name.is_empty() || !(name.starts_with('[') || name.bytes().all(fine)) {
        return None;
    }
    let port = match port {
        "" if text.ends_with(':') => return None,
        "" => None,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    let mixed = name.bytes().any(|byte| byte.is_ascii_uppercase());
    let name = if mixed { name.to_ascii_lowercase().into() } else { name.into() };
    Some(Host { name, port })
}

/// Is that one of the names this listener answers to? A port, when sent, must be the listener's; a Unix socket has none.
pub fn is_ours(host: &Host<'_>, names: &[String], port: Option<u16>) -> bool {
    is_port(host, port) && names.iter().any(|name| *name == host.name)
}

/// Was it sent to that port, if it says so?
pub fn is_port(host: &Host<'_>, port: Option<u16>) -> bool {
    host.port.is_none() || port.is_none() || host.port == port
}

/// Judges `Origin` and `Sec-Fetch-Site` (Fetch metadata). A page that the listener itself served, under its own scheme, is not
/// foreign.
pub fn origin(fields: &Fields, scheme: &str, host: Option<&Host<'_>>, listed: &[String]) -> Result<From, Problem> {
    let mut values = fields.all("origin");
    let (first, second) = (values.next(), values.next());
    let site = fields.get("sec-fetch-site");
    match first {
        Some(_) if second.is_some() => Err(origin_refused()),
        Some(value) => {
            let text = std::str::from_utf8(value).unwrap_or_default().to_ascii_lowercase();
            let own = host.is_some_and(|host| match host.port {
                Some(port) => text == format!("{scheme}://{}:{port}", host.name),
                None => text == format!("{scheme}://{}", host.name),
            });
            if let (true, Ok(value)) = (listed.contains(&text), HeaderValue::from_bytes(value)) {
                Ok(From::Listed(value))
            } else if own && !matches!(site, Some(b"cross-site" | b"same-site")) {
                Ok(From::Here)
            } else {
                Err(origin_refused())
            }
        }
        None if matches!(site, Some(b"cross-site" | b"same-site")) => Err(origin_refused()),
        None => Ok(From::Here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{Bounds, Head};

    #[test]
    fn a_host_is_a_name_or_address_with_or_without_a_port() {
        let host = |name: &'static str, port| Some(Host { name: name.into(), port });
        assert_eq!(parse_host("LocalHost:80"), host("localhost", Some(80)));
        assert_eq!(parse_host("127.0.0.1"), host("127.0.0.1", None));
        assert_eq!(parse_host("[::1]:8403"), host("[::1]", Some(8403)));
        assert_eq!(parse_host("[::1]"), host("[::1]", None));
        for wrong in
            ["", ":80", "a:", "a:b", "a:99999", "a b", "a,b", "u@a", "a/b", "[::1", "[::1]x", "[a]", "a:+1", "ä"]
        {
            assert_eq!(parse_host(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_port_must_be_the_listeners_when_it_is_sent() {
        let names = ["localhost".to_owned()];
        let host = |port| Host { name: "localhost".into(), port };
        assert!(is_ours(&host(Some(8403)), &names, Some(8403)));
        assert!(is_ours(&host(None), &names, Some(8403)));
        assert!(!is_ours(&host(Some(80)), &names, Some(8403)));
        assert!(is_ours(&host(Some(80)), &names, None), "a Unix socket has no port");
        assert!(!is_ours(&Host { name: "localhost.".into(), port: None }, &names, None));
    }

    fn judged(fields: &[(&'static str, &'static str)]) -> Result<From, Problem> {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let bytes = format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes();
        let mut head = Head::default();
        head.scan(&bytes, Bounds { bytes: 10_000, fields: 100 }).unwrap();
        let fields = head.request(bytes).unwrap().fields;
        let host = Host { name: "127.0.0.1".into(), port: Some(8403) };
        origin(&fields, "http", Some(&host), &["https://app.example".to_owned()])
    }

    #[test]
    fn a_foreign_page_is_refused_and_a_listed_one_is_not() {
        assert_eq!(judged(&[]), Ok(From::Here));
        assert_eq!(judged(&[("sec-fetch-mode", "cors")]), Ok(From::Here), "Node's fetch sends this");
        assert_eq!(judged(&[("sec-fetch-site", "none")]), Ok(From::Here));
        assert_eq!(judged(&[("origin", "http://127.0.0.1:8403"), ("sec-fetch-site", "same-origin")]), Ok(From::Here));
        assert!(matches!(
            judged(&[("origin", "https://APP.example"), ("sec-fetch-site", "cross-site")]),
            Ok(From::Listed(_))
        ));
        for foreign in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://127.0.0.1:9999")],
            &[("origin", "https://app.example"), ("origin", "https://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(judged(foreign), Err(origin_refused()), "{foreign:?}");
        }
    }
}
