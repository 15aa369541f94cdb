//! An answer that the broker makes itself: `application/problem+json` (RFC 9457) with `Proxy-Status` (RFC 9209).
//!
//! Security: `detail` is our words only, never an upstream's, a vendor's or a client's.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

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

    pub fn response(&self) -> Response<Bytes> {
        let body = serde_json::json!({
            "type": format!("urn:tokenbroker:problem:{}", self.code),
            "title": self.code.replace('_', " "),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
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
