//! An answer that the broker makes itself: `application/problem+json` (RFC 9457) with `Proxy-Status` (RFC 9209).
//!
//! Security: `detail` is our words only, never an upstream's, a vendor's or a client's.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// By which a client, and the log, know an exchange.
pub const REQUEST_ID: &str = "x-request-id";
/// A longer one is not a client's id.
const REQUEST_ID_MAX: usize = 128;

/// What an exchange is known by that failed: made for these only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The client's own, if it sent one that can be shown; else a random one.
    pub fn new(sent: Option<&[u8]>) -> Self {
        Self(sent.and_then(Self::sane).map_or_else(|| format!("{:016x}", fastrand::u64(..)), str::to_owned))
    }

    /// Security: of visible ASCII characters, so that it is one word of a log and of a field.
    pub fn sane(sent: &[u8]) -> Option<&str> {
        let fine = (1..=REQUEST_ID_MAX).contains(&sent.len()) && sent.iter().all(u8::is_ascii_graphic);
        std::str::from_utf8(sent).ok().filter(|_| fine)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What went wrong, as the application sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    /// Public API: applications match on it.
    pub code: &'static str,
    pub detail: String,
    /// An error type of RFC 9209 §2.3.
    pub proxy_status: &'static str,
    pub retry_after: Option<Duration>,
    /// With 405, the methods that are allowed.
    pub allow: Option<String>,
    /// Is the connection closed after the answer?
    pub close: bool,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let proxy_status = if status.is_client_error() { "http_request_denied" } else { "proxy_internal_error" };
        Self { status, code, detail: detail.into(), proxy_status, retry_after: None, allow: None, close: false }
    }

    pub fn response(&self, id: &RequestId) -> Response<Bytes> {
        let body = serde_json::json!({
            "type": format!("urn:tokenbroker:problem:{}", self.code),
            "title": self.code.replace('_', " "),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
            "request_id": id.as_str(),
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(value) =
            HeaderValue::from_str(&format!("tokenbroker; error={}; details={}", self.proxy_status, self.code))
        {
            headers.insert(PROXY_STATUS, value);
        }
        if let Ok(value) = HeaderValue::from_str(id.as_str()) {
            headers.insert(REQUEST_ID, value);
        }
        if let Some(delay) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(delay.as_millis().div_ceil(1000).max(1) as u64));
        }
        if let Some(value) = self.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            headers.insert(ALLOW, value);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// What the client sent is not as it must be.
pub fn bad_request(detail: &str) -> Problem {
    Problem {
        proxy_status: "http_request_error",
        close: true,
        ..Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_clients_own_where_it_can_be_shown_and_else_random() {
        let of = |sent: &str| RequestId::new(Some(sent.as_bytes())).as_str().to_owned();
        let longest = "x".repeat(REQUEST_ID_MAX);
        for fine in ["a", "0af7651916cd43dd", "a/b\"{}~!", &longest] {
            assert_eq!(of(fine), fine);
        }
        for odd in ["", "a b", "a\tb", "\u{e4}", "a\u{7f}", &format!("{longest}x")] {
            let made = of(odd);
            assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{odd}: {made}");
        }
        assert_ne!(RequestId::new(None), RequestId::new(None));
    }
}
