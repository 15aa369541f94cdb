//! The parts of a response head, as they are written.

use bytes::Bytes;
use http::{Response, StatusCode, Version};

/// Whether the connection goes on, for a client that has to be told.
pub fn write_connection(out: &mut Vec<u8>, keeps: bool, version: Version) {
    match (keeps, version) {
        (false, _) => out.extend_from_slice(b"connection: close\r\n"),
        (true, Version::HTTP_10) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (true, _) => {}
    }
}

/// One field.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_own(out: &mut Vec<u8>, response: &Response<Bytes>, keeps: bool, version: Version, with_body: bool) {
    let status = response.status();
    write_status(out, version, status, b"");
    for (name, value) in response.headers() {
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if status != StatusCode::NO_CONTENT {
        write_field(out, b"content-length", response.body().len().to_string().as_bytes());
    }
    write_field(out, b"date", date().as_bytes());
    write_connection(out, keeps, version);
    out.extend_from_slice(b"\r\n");
    if with_body {
        out.extend_from_slice(response.body());
    }
}

/// The first line of a response, for a client that asked in that version.
pub fn write_status(out: &mut Vec<u8>, version: Version, status: StatusCode, reason: &[u8]) {
    let version: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    let reason = if reason.is_empty() { status.canonical_reason().unwrap_or_default().as_bytes() } else { reason };
    for part in [version, status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Now, for a `Date` (RFC 9110 §6.6.1).
#[expect(clippy::disallowed_methods, reason = "what is told to others; nothing is decided by it")]
pub fn date() -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now())
}
