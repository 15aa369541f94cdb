//! The head of a response. Read as leniently as its parser is (lines may end with LF alone), since nobody but us reads it.

use std::mem::MaybeUninit;

use http::{Method, StatusCode, Version};

use super::body::Body;
use super::chunks::Chunks;
use super::fields::{Fields, Span};
use super::syntax::{Bounds, length};

/// As many as there may be where nothing is configured, and some.
const FIELDS: usize = 128;

/// The head of a response, and what came behind it.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub version: Version,
    pub fields: Fields,
    reason: Span,
    length: usize,
}

impl Response {
    /// How long the head is that these bytes begin with, if it is there whole; `from` of them were looked at before.
    pub fn end(bytes: &[u8], from: usize) -> Option<usize> {
        let start = from.saturating_sub(3);
        let mut lines = memchr::memchr_iter(b'\n', &bytes[start..]).map(|at| start + at);
        lines.find_map(|at| match (bytes.get(at + 1), bytes.get(at + 2)) {
            (Some(b'\n'), _) => Some(at + 2),
            (Some(b'\r'), Some(b'\n')) => Some(at + 3),
            _ => None,
        })
    }

    /// Reads the head that these bytes begin with. `Err` says what is wrong with it.
    pub fn parse(bytes: Vec<u8>, bounds: Bounds) -> Result<Self, String> {
        // Most heads have no more; where they may, memory is taken for them.
        let (mut few, mut many) = ([MaybeUninit::uninit(); FIELDS], Vec::new());
        let fields = if bounds.fields <= FIELDS {
            &mut few[..bounds.fields]
        } else {
            many.resize(bounds.fields, MaybeUninit::uninit());
            &mut many[..]
        };
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut parsed, &bytes, fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Err("the head of the API's answer breaks off".into()),
            Err(error) => return Err(format!("the head of the API's answer is not HTTP: {error}")),
        };
        let base = bytes.as_ptr() as usize;
        let span = |part: &[u8]| match part {
            [] => Span::default(),
            part => {
                let start = part.as_ptr() as usize - base;
                Span::new(start, start + part.len())
            }
        };
        let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
            .map_err(|_| "the API's answer has a status below 100".to_owned())?;
        let reason = parsed.reason.filter(|reason| !reason.is_empty()).map(|reason| span(reason.as_bytes()));
        let lines = parsed.headers.iter().map(|field| (span(field.name.as_bytes()), span(field.value)));
        let lines = lines.collect::<Vec<_>>();
        Ok(Self { status, version, reason: reason.unwrap_or_default(), fields: Fields::new(bytes, lines), length })
    }

    /// What the server called the status; empty if nothing.
    pub fn reason(&self) -> &[u8] {
        self.fields.slice(self.reason.range())
    }

    /// Bytes of the head.
    pub fn size(&self) -> usize {
        self.length
    }

    /// What came behind the head.
    pub fn behind(&self) -> &[u8] {
        self.fields.behind(self.length)
    }

    /// Its body, as the answer to a request with that method (RFC 9112 §6.3). `Err` says why there is no telling where it ends.
    pub fn body(&self, method: &Method) -> Result<Body, String> {
        let chunked = self.is_chunked()?;
        let length = self.content_length()?;
        let none = self.status.is_informational()
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        Ok(match (none, chunked, length) {
            (true, ..) | (false, false, Some(0)) => Body::Done,
            (false, true, _) => Body::Chunked(Chunks::new()),
            (false, false, Some(length)) => Body::Length(length),
            (false, false, None) => Body::UntilClose,
        })
    }

    /// Only one transfer coding is ours to undo.
    fn is_chunked(&self) -> Result<bool, String> {
        let mut codings = self.fields.all("transfer-encoding");
        match (codings.next(), codings.next()) {
            (None, _) => Ok(false),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && self.version >= Version::HTTP_11 => {
                Ok(true)
            }
            _ => Err("the API used a transfer coding that nobody asked for".into()),
        }
    }

    /// The same length twice is one length (RFC 9110 §8.6).
    fn content_length(&self) -> Result<Option<u64>, String> {
        let mut lengths = self.fields.all("content-length");
        let Some(first) = lengths.next() else { return Ok(None) };
        if lengths.any(|length| length != first) {
            return Err("the API's answer has more than one length".into());
        }
        length(first).map(Some).ok_or_else(|| "the length of the API's answer is not a number".into())
    }

    /// Does another answer come over that connection (RFC 9112 §9.3), and may it be told from this one? Where an answer has
    /// two ends, what follows may be of the answer still.
    pub fn keeps_alive(&self) -> bool {
        let two_ends = self.fields.has("transfer-encoding") && self.fields.has("content-length");
        self.version >= Version::HTTP_11 && !two_ends && !self.fields.lists("connection", "close")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 64 * 1024, fields: 3 };

    fn parsed(head: &str) -> Result<Response, String> {
        Response::parse(head.as_bytes().to_vec(), BOUNDS)
    }

    #[test]
    fn whichever_way_a_head_is_cut_its_end_is_where_the_parser_sees_it() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 OK\r\nA: b\r\nC:\r\n\r\n",
            "HTTP/1.0 200\nA: b\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n\n",
        ] {
            let bytes = [head.as_bytes(), b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"].concat();
            for piece in [1, 2, 3, 4, 7, 1000] {
                let (mut looked, mut end) = (0, None);
                while end.is_none() {
                    let to = (looked + piece).min(bytes.len());
                    end = Response::end(&bytes[..to], looked);
                    looked = to;
                }
                assert_eq!(end, Some(head.len()), "{piece}: {head:?}");
            }
            let response = Response::parse(bytes, BOUNDS).unwrap();
            assert_eq!((response.size(), &response.behind()[..8]), (head.len(), &b"\r\n\r\nHTTP"[..]), "{head:?}");
        }
    }

    #[test]
    fn a_head_has_its_status_its_reason_and_its_fields_or_is_refused() {
        let response = parsed("HTTP/1.0 299 Quite  Fine \r\nX-A:\t b \r\nY:\r\n\r\nbehind").unwrap();
        assert_eq!((response.status.as_u16(), response.version), (299, Version::HTTP_10));
        assert!(response.reason().starts_with(b"Quite  Fine"));
        let fields: Vec<_> = response.fields.iter().collect();
        assert_eq!(fields, [(&b"x-a"[..], &b"b"[..]), (b"y", b"")]);
        assert_eq!(response.behind(), b"behind");
        assert_eq!(parsed("HTTP/1.1 404\r\n\r\n").unwrap().reason(), b"");
        assert!(parsed("HTTP/1.1 200 OK\r\na: b\r\na: b\r\na: b\r\n\r\n").is_ok());
        for refused in [
            "HTTP/1.1 200 OK\r\na: b\r\na: b\r\na: b\r\na: b\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 a\x01b\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n",
        ] {
            assert!(parsed(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_body_ends_where_its_framing_says_and_what_has_none_ends_with_its_head() {
        let body = |status: u16, fields: &str, method: &Method| {
            let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            parsed(&head).unwrap().body(method).map(|body| match body {
                Body::Done => "none".to_owned(),
                Body::Length(length) => length.to_string(),
                Body::Chunked(_) => "chunked".into(),
                Body::UntilClose => "close".into(),
            })
        };
        for (fields, expected) in [
            ("", "close"),
            ("Content-Length: 0\r\n", "none"),
            ("Content-Length: 007\r\n", "7"),
            ("Content-Length: 5\r\nCONTENT-LENGTH: 5\r\n", "5"),
            ("Content-Length: 9999999999999999999\r\n", "9999999999999999999"),
            ("Transfer-Encoding: Chunked\r\n", "chunked"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "chunked"),
        ] {
            assert_eq!(body(200, fields, &Method::GET).as_deref(), Ok(expected), "{fields}");
            assert_eq!(body(404, fields, &Method::POST).as_deref(), Ok(expected), "{fields}");
            assert_eq!(body(200, fields, &Method::HEAD).as_deref(), Ok("none"), "{fields}");
            for status in [101, 103, 204, 304] {
                assert_eq!(body(status, fields, &Method::GET).as_deref(), Ok("none"), "{status} {fields}");
            }
        }
        for fields in [
            "Content-Length:\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: 5\r\nContent-Length: 05\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 10000000000000000000\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            for method in [Method::GET, Method::HEAD] {
                assert!(body(200, fields, &method).is_err(), "{fields}");
            }
        }
        let old = parsed("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert!(old.body(&Method::GET).is_err());
    }

    #[test]
    fn a_connection_goes_on_where_both_ends_of_an_answer_are_one() {
        for (head, keeps) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: closed\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", false),
        ] {
            assert_eq!(parsed(head).unwrap().keeps_alive(), keeps, "{head:?}");
        }
    }
}
