//! What a stand-in reads and writes: a request that is whole, its parameters, an answer.

use std::fmt::Display;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use serde_json::{Map, Value};

use super::http::Payload;

/// A request, read to its end.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Serial number of the client's certificate, hexadecimal, colon-separated.
    pub certificate: Option<String>,
    /// Of which connection to its server, from 0.
    pub connection: usize,
}

impl Call {
    /// The path without its first slash, cut at the others.
    pub fn segments(&self) -> Vec<&str> {
        self.uri.path().trim_start_matches('/').split('/').collect()
    }

    /// A field that is there exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next()?.to_str().ok()?;
        all.next().is_none().then_some(first)
    }

    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// Id and secret of HTTP Basic, as they are.
    pub fn basic(&self) -> Option<(String, String)> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        decoded.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned()))
    }

    /// The parameters behind the URL.
    pub fn query(&self) -> Params {
        Params::parse(self.uri.query().unwrap_or("").as_bytes())
    }

    /// The parameters of a form; none if the body says that it is something else.
    pub fn form(&self) -> Params {
        if self.is("application/x-www-form-urlencoded") { Params::parse(&self.body) } else { Params::parse(b"") }
    }

    /// The object that the body is, if it says that it is JSON.
    pub fn json(&self) -> Option<Map<String, Value>> {
        if self.is("application/json") { serde_json::from_slice(&self.body).ok() } else { None }
    }

    /// Is the body of that type?
    pub fn is(&self, kind: &str) -> bool {
        let given = self.header("content-type").and_then(|kind| kind.split(';').next());
        given.is_some_and(|given| given.trim().eq_ignore_ascii_case(kind))
    }
}

/// Parameters as a form or a query has them.
pub struct Params(Vec<(String, String)>);

impl Params {
    fn parse(bytes: &[u8]) -> Self {
        Self(form_urlencoded::parse(bytes).into_owned().collect())
    }

    /// A parameter that is there once, and not empty (RFC 6749 §3.2).
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = all.next().filter(|value| !value.is_empty());
        if all.next().is_some() { None } else { first }
    }
}

/// The texts under these names, if they are all there and nothing else is.
pub fn exactly<'a, const N: usize>(object: &'a Map<String, Value>, names: [&str; N]) -> Option<[&'a str; N]> {
    let texts = names.map(|name| object.get(name).and_then(Value::as_str));
    (object.len() == N && texts.iter().all(Option::is_some)).then(|| texts.map(Option::unwrap_or_default))
}

/// An answer. As an `Err` it is a refusal.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    headers: Vec<(HeaderName, String)>,
    body: String,
}

impl Reply {
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: String::new() }
    }

    /// That body, which need not be sound, as JSON.
    pub fn json(status: StatusCode, body: impl Display) -> Self {
        Self { body: body.to_string(), ..Self::empty(status) }.with(CONTENT_TYPE, "application/json")
    }

    pub fn text(status: StatusCode, body: &str) -> Self {
        Self { body: body.to_owned(), ..Self::empty(status) }.with(CONTENT_TYPE, "text/plain")
    }

    /// With that field, in place of one of the same name.
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl From<Reply> for Response<Payload> {
    fn from(reply: Reply) -> Self {
        let mut answer = Self::new(Payload::from(reply.body));
        *answer.status_mut() = reply.status;
        for (name, value) in reply.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    }
}
