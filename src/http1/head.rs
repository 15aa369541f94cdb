//! The head of a request, held against RFC 9112 before anything else reads it.
//!
//! Where two servers may read one head in two ways (line ends, doubled framing, bare control characters) it is refused.
//! Pure; each byte is looked at once, however a client cuts its head, and the verdict does not depend on the cuts: the first
//! mistake counts.

use std::ops::Range;

use http::{Method, StatusCode, Uri, Version};

use super::body::Body;
use super::chunks::Chunks;
use super::fields::{Fields, Span};
use super::request::Request;
use super::syntax::{Bounds, first_control, is_token, length};
use crate::problem::{Problem, bad_request};

/// The longest field line, and the longest target (RFC 9112 §3 recommends to take at least 8000 octets).
const LINE_MAX: usize = 16 * 1024;
/// What else may stand in a request line: method, version, spaces.
const AROUND_TARGET: usize = 128;

/// A head as far as it has been looked at.
#[derive(Default)]
pub struct Head {
    /// Bytes looked at.
    at: usize,
    /// Where the line there begins.
    line: usize,
    /// Was the request line there? Empty lines before it are passed over (RFC 9112 §2.2).
    begun: bool,
    method: Span,
    target: Span,
    lines: Vec<(Span, Span)>,
    http_1_0: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// Goes on where the last look ended; `bytes` begin where the head does. `None`: it has not come to its end, else how long
    /// it is.
    pub fn scan(&mut self, bytes: &[u8], bounds: Bounds) -> Result<Option<usize>, Problem> {
        let seen = &bytes[..bytes.len().min(bounds.bytes)];
        loop {
            let stop = first_control(&seen[self.at..]);
            self.at = stop.map_or(seen.len(), |stop| self.at + stop);
            self.check_length()?;
            match (seen.get(self.at), seen.get(self.at + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    let line = Span::new(self.line, self.at);
                    (self.at, self.line) = (self.at + 2, self.at + 2);
                    if line.range().is_empty() && self.begun {
                        self.check_framing()?;
                        return Ok(Some(self.at));
                    }
                    self.take(seen, line.range(), bounds)?;
                }
                (Some(b'\r'), None) | (None, _) => break,
                (Some(b'\n'), _) => return Err(bad_request("a line of the head ends without CR")),
                (Some(_), _) => return Err(bad_request("the head has a control character")),
            }
        }
        if bytes.len() > bounds.bytes {
            return Err(head_too_large("the request's head is longer than limits.head"));
        }
        Ok(None)
    }

    /// Is the line still short enough?
    fn check_length(&self) -> Result<(), Problem> {
        let length = self.at - self.line;
        if self.begun && length > LINE_MAX {
            return Err(head_too_large("a field of the request's head is longer than 16 KiB"));
        }
        if length > LINE_MAX + AROUND_TARGET { Err(target_too_long()) } else { Ok(()) }
    }

    /// Takes a line, without its end.
    fn take(&mut self, bytes: &[u8], line: Range<usize>, bounds: Bounds) -> Result<(), Problem> {
        if self.begun {
            if self.lines.len() == bounds.fields {
                return Err(head_too_large("the request's head has more fields than limits.headers"));
            }
            return self.field(bytes, line);
        }
        if !line.is_empty() {
            self.begun = true;
            // Most heads have no more.
            self.lines.reserve(16);
            self.request_line(bytes, line)?;
        }
        Ok(())
    }

    fn field(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Problem> {
        let start = line.start;
        let line = &bytes[line];
        let colon = line.iter().position(|byte| !is_token(*byte));
        let (name, rest) = match colon.map(|at| (&line[..at], line[at], &line[at + 1..])) {
            Some((name, b':', rest)) if !name.is_empty() => (name, rest),
            Some((b"", b' ' | b'\t', _)) => return Err(bad_request("a field of the head is folded")),
            _ => return Err(bad_request("a line of the head is not written NAME: VALUE")),
        };
        let value = rest.trim_ascii();
        // By length first: it is another one for most.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(bad_request("more than one Content-Length"));
                }
                self.length = Some(length(value).ok_or_else(|| bad_request("the Content-Length is not a number"))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad_request("only the transfer coding chunked is understood, once"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        let from = start + name.len() + 1 + (rest.len() - rest.trim_ascii_start().len());
        self.lines.push((Span::new(start, start + name.len()), Span::new(from, from + value.len())));
        Ok(())
    }

    /// Security: a body has one end, or there is no telling where the next request begins.
    fn check_framing(&self) -> Result<(), Problem> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad_request("both Content-Length and Transfer-Encoding")),
            (true, None) if self.http_1_0 => Err(bad_request("HTTP/1.0 has no Transfer-Encoding")),
            _ => Ok(()),
        }
    }

    fn request_line(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Problem> {
        let start = line.start;
        let mut words = bytes[line].split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad_request("the request line is not METHOD TARGET VERSION"));
        };
        if method.is_empty() || !method.iter().copied().all(is_token) {
            return Err(bad_request("the request's method has a character that cannot be in one"));
        }
        self.http_1_0 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(bad_request("the request's version is neither HTTP/1.1 nor HTTP/1.0")),
        };
        if target.len() > LINE_MAX {
            return Err(target_too_long());
        }
        // Other forms than a path are rare.
        let fine = if target.starts_with(b"/") { is_path(target) } else { Uri::try_from(target).is_ok() };
        if !fine {
            return Err(bad_request("the request's target has a character that cannot be in one"));
        }
        self.method = Span::new(start, start + method.len());
        let from = start + method.len() + 1;
        self.target = Span::new(from, from + target.len());
        Ok(())
    }

    /// What the head says that was scanned to its end.
    pub fn request(self, bytes: Vec<u8>) -> Result<Request, Problem> {
        let method = Method::from_bytes(&bytes[self.method.range()]);
        let method = method.map_err(|_| bad_request("the request's method has a character that cannot be in one"))?;
        let target = &bytes[self.target.range()];
        let uri = if target.starts_with(b"/") { None } else { Uri::try_from(target).ok().map(Box::new) };
        // A fragment is the client's own (RFC 9112 §3.2).
        let end = target.iter().position(|byte| *byte == b'#').unwrap_or(target.len());
        let path = target[..end].iter().position(|byte| *byte == b'?').unwrap_or(end);
        let start = self.target.range().start;
        let body = match (self.chunked, self.length) {
            (true, _) => Body::Chunked(Chunks::new()),
            (false, None | Some(0)) => Body::Done,
            (false, Some(length)) => Body::Length(length),
        };
        let version = if self.http_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let (path, target) = (Span::new(start, start + path), Span::new(start, start + end));
        Ok(Request::new(method, version, Fields::new(bytes, self.lines), body, (path, target, uri)))
    }
}

/// Would `http` take it as path and query?
fn is_path(target: &[u8]) -> bool {
    let everywhere =
        |byte: u8| matches!(byte, 0x21 | 0x24..=0x3b | 0x3d | 0x40..=0x5f | 0x61..=0x7a | 0x7c | 0x7e | 0x80..);
    let known = target.iter().position(|byte| !everywhere(*byte) && !matches!(byte, b'"' | b'{' | b'}'));
    let plain = match known.map(|at| (target[at], &target[at + 1..])) {
        None | Some((b'#', _)) => true,
        Some((b'?', query)) => {
            let end = query.iter().position(|byte| !everywhere(*byte) && !matches!(byte, b'?' | b'`' | b'{' | b'}'));
            end.is_none_or(|end| query[end] == b'#')
        }
        Some(_) => false,
    };
    plain && (target.is_ascii() || std::str::from_utf8(target).is_ok())
}

fn head_too_large(detail: &str) -> Problem {
    Problem {
        proxy_status: "http_request_error",
        close: true,
        ..Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", detail)
    }
}

fn target_too_long() -> Problem {
    let detail = "the request's target is longer than 16 KiB";
    Problem { close: true, ..Problem::new(StatusCode::URI_TOO_LONG, "target_too_long", detail) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::syntax::is_control;

    const BOUNDS: Bounds = Bounds { bytes: 64 * 1024, fields: 100 };

    /// Verdict of a head that comes in pieces of that size: its length and its body's, or a status.
    fn judged(head: &[u8], piece: usize) -> Result<(usize, Option<u64>), u16> {
        let mut scan = Head::default();
        let ends = (1..=head.len()).filter(|end| end % piece == 0 || *end == head.len());
        for end in ends {
            match scan.scan(&head[..end], BOUNDS) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    let request = scan.request(head[..length].to_vec()).unwrap();
                    return Ok((length, request.body.length()));
                }
                Err(problem) => return Err(problem.status.as_u16()),
            }
        }
        Err(0)
    }

    #[test]
    fn paths_are_taken_exactly_where_the_http_crate_takes_them() {
        for byte in 0..=255_u8 {
            for target in [vec![b'/', byte], vec![b'/', b'?', byte], vec![b'/', b'#', byte], vec![b'/', 0xc3, byte]] {
                let theirs = Uri::try_from(target.as_slice()).is_ok() && std::str::from_utf8(&target).is_ok();
                if !is_control(byte) && !matches!(byte, b' ' | b'\t') {
                    assert_eq!(is_path(&target), theirs, "{target:?}");
                }
            }
        }
    }

    #[test]
    fn whichever_way_a_head_is_cut_the_verdict_is_the_same() {
        let long = |n: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(n));
        let many = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
        let blocks = |n: usize, rest: usize| {
            let block = format!("x:{}\r\n", "y".repeat(1020));
            format!("GET / HTTP/1.1\r\n{}x:{}\r\n\r\n", block.repeat(n), "y".repeat(rest))
        };
        let size = blocks(63, 0).len();
        for (head, expected) in [
            (long(16 * 1024 - 3), Ok(Some(0))),
            (long(16 * 1024 - 2), Err(431)),
            (long(16 * 1024).replacen("yyy", "\0yy", 1), Err(400)),
            (many(100), Ok(Some(0))),
            (many(101), Err(431)),
            (blocks(63, 64 * 1024 - size), Ok(Some(0))),
            (blocks(63, 64 * 1024 - size + 1), Err(431)),
            (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(16 * 1024 - 1)), Ok(Some(0))),
            (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(16 * 1024)), Err(414)),
            (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(60 * 1024)), Err(414)),
            ("\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding:\tCHUNKED \r\n\r\n".into(), Ok(None)),
            ("POST / HTTP/1.0\r\ncontent-length: 007\r\n\r\n".into(), Ok(Some(7))),
            ("POST / HTTP/1.1\r\nx: y\n\r\n".into(), Err(400)),
            ("POST / HTTP/1.1\r\nx: y\r\r\n\r\n".into(), Err(400)),
        ] {
            for piece in [1, 2, 7, 16, 4096, 100_000] {
                let judged = judged(head.as_bytes(), piece);
                assert_eq!(judged, expected.map(|body| (head.len(), body)), "{piece}: {head:.80}");
            }
        }
    }
}
