//! A request, as its head tells.

use http::{Method, Uri, Version};

use super::body::Body;
use super::fields::{Fields, Span};
use super::out::Out;

/// Sent before a body that a client waits for leave to send.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub version: Version,
    pub fields: Fields,
    /// How its body ends.
    pub body: Body,
    path: Span,
    /// Path and query.
    target: Span,
    /// A target that is no path.
    uri: Option<Box<Uri>>,
}

impl Request {
    pub(super) fn new(
        method: Method,
        version: Version,
        fields: Fields,
        body: Body,
        (path, target, uri): (Span, Span, Option<Box<Uri>>),
    ) -> Self {
        Self { method, version, fields, body, path, target, uri }
    }

    /// Puts a field in the place of all of its name, which is given in lower case.
    pub fn set(&mut self, name: &str, value: &str) {
        self.fields.retain(|other, _| other != name.as_bytes());
        self.fields.push(name, value);
    }

    /// Bytes of the head.
    pub fn size(&self) -> usize {
        self.fields.size()
    }

    fn text(&self, span: Span) -> &str {
        // It was judged: it is UTF-8.
        std::str::from_utf8(self.fields.slice(span.range())).unwrap_or_default()
    }

    /// `*` for the asterisk form, empty for the authority form.
    pub fn path(&self) -> &str {
        self.uri.as_ref().map_or_else(|| self.text(self.path), |uri| uri.path())
    }

    /// Path and query, byte for byte as they came.
    pub fn target(&self) -> &str {
        match &self.uri {
            None => self.text(self.target),
            Some(uri) => uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
        }
    }

    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// The target if it is not a path alone.
    pub fn uri(&self) -> Option<&Uri> {
        self.uri.as_deref()
    }

    /// Does the client want to send another request over its connection (RFC 9112 §9.3)?
    pub fn keeps_alive(&self) -> bool {
        let keeps = self.version >= Version::HTTP_11 || self.fields.lists("connection", "keep-alive");
        keeps && !self.fields.lists("connection", "close")
    }

    /// What a client waits for before it sends its body, if it does (RFC 9110 §10.1.1).
    pub fn leave(&self) -> Out {
        let waits = self.version >= Version::HTTP_11 && self.fields.has("expect") && !self.body.is_done();
        if waits { Out::new(CONTINUE.to_vec()) } else { Out::default() }
    }
}
