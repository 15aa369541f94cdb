//! The token request: dialect, operation and inputs to exactly one HTTP request. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::byte_serialize;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

use super::dialect::Dialect;
use super::error::{Class, TokenError};
use super::file::{BasicEncoding, ClientAuth, Encoding, Grant, Op};
use super::operation::{Operation, Param};
use crate::secret::Secret;

/// Everything that is not unreserved in a URL (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The values of one token request.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub grant: Grant,
    pub client_auth: ClientAuth,
    /// The token's own URL, `{url}`.
    pub url: Option<String>,
    pub base_url: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub refresh_token: Option<Secret>,
    /// Joined with the dialect's separator.
    pub scope: Option<String>,
    /// The token's own extra parameters; they win over the dialect's.
    pub params: BTreeMap<String, Secret>,
    /// The token's own extra headers; they win over the dialect's.
    pub headers: Vec<(HeaderName, Secret)>,
}

impl Inputs {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let secret = |secret: &'_ Option<Secret>| secret.as_ref().map(|s| s.expose().to_owned().into());
        let text = |text: &'_ Option<String>| text.clone().map(Cow::Owned);
        match name {
            "grant" => Some(self.grant.as_str().into()),
            "url" => text(&self.url),
            "base_url" => self.base_url.as_deref().map(|url| url.trim_end_matches('/').to_owned().into()),
            "client_id" => text(&self.client_id),
            "client_secret" => secret(&self.client_secret),
            "username" => text(&self.username),
            "password" => secret(&self.password),
            "refresh_token" => secret(&self.refresh_token),
            "scope" => text(&self.scope),
            _ => None,
        }
    }

    /// Everything of it that must not come out again.
    pub fn secrets(&self) -> Vec<&Secret> {
        let single = [&self.client_secret, &self.password, &self.refresh_token];
        let mut all: Vec<_> = single.into_iter().flatten().collect();
        all.extend(self.params.values());
        all.extend(self.headers.iter().map(|(_, value)| value));
        all
    }
}

/// Builds the request of `op`: an absolute URI, all headers but `Host`, the body.
pub fn build(dialect: &Dialect, op: Op, inputs: &Inputs) -> Result<Request<Vec<u8>>, TokenError> {
    let wrong = |problem: String| TokenError::new(Class::Config, problem, "correct the token's configuration");
    let operation = dialect.operation(op).ok_or_else(|| {
        wrong(format!("the dialect {:?} cannot {}", dialect.name, if op == Op::Acquire { "log in" } else { "renew" }))
    })?;
    let params = parameters(operation, inputs);
    let mut url = operation
        .url
        .render(|name| match name {
            "url" | "base_url" => inputs.value(name),
            _ => inputs.value(name).map(|value| utf8_percent_encode(&value, RESERVED).to_string().into()),
        })
        .ok_or_else(|| wrong("the token's URL needs a value that is not set".into()))?;
    let (content_type, body) = match operation.encoding {
        Encoding::Form => (Some("application/x-www-form-urlencoded"), form(&params).into_bytes()),
        Encoding::Json => (Some("application/json"), serde_json::to_vec(&params).unwrap_or_default()),
        Encoding::Query => {
            let joint = if url.contains('?') { '&' } else { '?' };
            url.push(joint);
            url.push_str(&form(&params));
            (None, Vec::new())
        }
        Encoding::None => (None, Vec::new()),
    };
    // Security: the parser's error would quote the URL, which may hold secrets.
    let uri: Uri = url.parse().map_err(|_| wrong("the token's URL is not a valid URL".into()))?;
    let mut request = Request::new(body);
    *request.method_mut() = operation.method.clone();
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tokenbroker/", env!("CARGO_PKG_VERSION"))));
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    } else if operation.method != http::Method::GET {
        // hyper sends no length for an empty body, and some servers refuse a POST without one (411).
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    credentials(dialect, inputs, headers).map_err(wrong)?;
    for (name, template) in &operation.headers {
        if let Some(value) = template.render(|name| inputs.value(name)) {
            set(headers, name, &value).map_err(wrong)?;
        }
    }
    for (name, value) in &inputs.headers {
        set(headers, name, value.expose()).map_err(wrong)?;
    }
    Ok(request)
}

/// HTTP Basic, where the client authenticates so (RFC 6749 §2.3.1).
fn credentials(dialect: &Dialect, inputs: &Inputs, headers: &mut HeaderMap) -> Result<(), String> {
    if inputs.client_auth != ClientAuth::ClientSecretBasic {
        return Ok(());
    }
    let Some(id) = &inputs.client_id else { return Err("client_secret_basic needs a client_id".into()) };
    let secret = inputs.client_secret.as_ref().map_or("", |secret| secret.expose());
    let pair = Zeroizing::new(match dialect.basic_encoding {
        BasicEncoding::Raw => format!("{id}:{secret}"),
        BasicEncoding::Rfc6749 => {
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            format!("{}:{}", encoded(id), encoded(secret))
        }
    });
    set(headers, &AUTHORIZATION, &format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) -> Result<(), String> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| format!("the value of the header {name} has bytes that no header may have"))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// The dialect's parameters, then what the client authentication adds, then the token's own.
fn parameters(operation: &Operation, inputs: &Inputs) -> BTreeMap<String, Value> {
    let mut params: BTreeMap<_, _> =
        operation.params.iter().filter_map(|(name, param)| Some((name.clone(), render(param, inputs)?))).collect();
    let mut add = |name: &str, value: Option<Cow<'_, str>>| {
        if let Some(value) = value
            && !operation.places(name)
        {
            params.insert(name.to_owned(), value.into_owned().into());
        }
    };
    match inputs.client_auth {
        ClientAuth::ClientSecretBasic => {}
        ClientAuth::ClientSecretPost => {
            add("client_id", inputs.value("client_id"));
            add("client_secret", inputs.value("client_secret"));
        }
        ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTlsClientAuth | ClientAuth::None => {
            add("client_id", inputs.value("client_id"));
        }
    }
    params.extend(inputs.params.iter().map(|(name, value)| (name.clone(), value.expose().into())));
    params
}

/// `None` where a template names a value that is not set.
fn render(param: &Param, inputs: &Inputs) -> Option<Value> {
    Some(match param {
        Param::Text(template) => template.render(|name| inputs.value(name))?.to_string().into(),
        Param::Table(table) => Value::Object(
            table.iter().filter_map(|(name, param)| Some((name.clone(), render(param, inputs)?))).collect(),
        ),
        Param::List(list) => Value::Array(list.iter().filter_map(|param| render(param, inputs)).collect()),
        Param::Literal(value) => value.clone(),
    })
}

fn form(params: &BTreeMap<String, Value>) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (name, value) in params {
        match value {
            Value::String(text) => out.append_pair(name, text),
            other => out.append_pair(name, &other.to_string()),
        };
    }
    out.finish()
}
