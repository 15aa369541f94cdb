//! Dialect, operation and inputs to exactly one HTTP request, or to the URL that a browser opens. Pure.

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
use super::file::{BasicEncoding, ClientAuth, Encoding, Op};
pub use super::inputs::{Given, Inputs};
use super::operation::{Managed, Operation, Param};
use super::template::Template;

/// Everything that is not unreserved in a URL (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Builds the request of `op`: an absolute URI, all headers but `Host`, the body. `Err` is of class `config`.
pub fn build(dialect: &Dialect, op: Op, inputs: &Inputs) -> Result<Request<Vec<u8>>, TokenError> {
    let operation = dialect.operation(op).ok_or_else(|| {
        let what = match op {
            Op::Acquire => "log in",
            Op::Renew => "renew",
            Op::Exchange => "exchange a code",
            Op::Revoke => "revoke",
            Op::Manage => "do that",
        };
        wrong(format!("the dialect {:?} cannot {what}", dialect.name))
    })?;
    let own_url = if op == Op::Revoke { inputs.value("revoke_url") } else { None };
    let mut params = parameters(&operation.params, inputs);
    authenticate(operation, inputs, &mut params);
    if op != Op::Revoke {
        params.extend(inputs.params.iter().map(|(name, value)| (name.clone(), value.expose().into())));
    }
    request(operation, own_url.as_deref(), &params, inputs, |headers| credentials(dialect, inputs, headers))
}

/// Builds a request of `[secrets]` or `[clients]`: like [`build`], but it is the access token that proves who asks, so the
/// client does not, and of the token's own keys only the headers are sent.
pub fn manage(managed: &Managed, inputs: &Inputs) -> Result<Request<Vec<u8>>, TokenError> {
    let operation = &managed.request;
    request(operation, None, &parameters(&operation.params, inputs), inputs, |_| Ok(()))
}

/// The URL that a browser opens for a login, every value percent-encoded (RFC 6749 §4.1.1). `Err` is of class `config`.
pub fn authorize_url(dialect: &Dialect, inputs: &Inputs) -> Result<String, TokenError> {
    let none = || wrong(format!("the dialect {:?} has no login with a browser", dialect.name));
    let page = dialect.authorize.as_ref().ok_or_else(none)?;
    let mut url = match inputs.value("authorize_url") {
        Some(own) => Zeroizing::new(own.into_owned()),
        None => address(&page.url, inputs)?,
    };
    for (name, template) in &page.params {
        let Some(value) = template.render(|name| inputs.value(name)) else { continue };
        let joint = if url.contains('?') { '&' } else { '?' };
        url.push(joint);
        url.push_str(&format!("{}={}", escaped(name), escaped(&value)));
    }
    let _: Uri = url.parse().map_err(|_| wrong("the URL of the login is not a valid URL".into()))?;
    Ok(url.to_string())
}

/// Everything that is not unreserved in a URL, percent-encoded (RFC 3986 §2.3).
pub fn escaped(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn wrong(problem: String) -> TokenError {
    TokenError::new(Class::Config, problem, "correct the token's configuration")
}

fn address(url: &Template, inputs: &Inputs) -> Result<Zeroizing<String>, TokenError> {
    let value = |name: &str| match name {
        "url" | "base_url" | "authorize_url" | "revoke_url" => inputs.value(name),
        _ => inputs.value(name).map(|value| escaped(&value).into()),
    };
    url.render(value).ok_or_else(|| wrong("the token's URL needs a value that is not set".into()))
}

fn request(
    operation: &Operation,
    own_url: Option<&str>,
    params: &BTreeMap<String, Value>,
    inputs: &Inputs,
    credentials: impl FnOnce(&mut HeaderMap) -> Result<(), String>,
) -> Result<Request<Vec<u8>>, TokenError> {
    let mut url = match own_url {
        Some(own) => Zeroizing::new(own.to_owned()),
        None => address(&operation.url, inputs)?,
    };
    let (content_type, body) = match operation.encoding {
        Encoding::Form => (Some("application/x-www-form-urlencoded"), form(params).into_bytes()),
        Encoding::Json => (Some("application/json"), serde_json::to_vec(params).unwrap_or_default()),
        Encoding::Query if !params.is_empty() => {
            let joint = if url.contains('?') { '&' } else { '?' };
            url.push(joint);
            url.push_str(&form(params));
            (None, Vec::new())
        }
        Encoding::Query | Encoding::None => (None, Vec::new()),
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
    credentials(headers).map_err(wrong)?;
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

/// The dialect's parameters.
fn parameters(params: &BTreeMap<String, Param>, inputs: &Inputs) -> BTreeMap<String, Value> {
    params.iter().filter_map(|(name, param)| Some((name.clone(), render(param, inputs)?))).collect()
}

/// What the client authentication adds, unless the request says itself where it goes.
fn authenticate(operation: &Operation, inputs: &Inputs, params: &mut BTreeMap<String, Value>) {
    let mut add = |name: &str| {
        if let Some(value) = inputs.value(name)
            && !operation.places(name)
        {
            params.insert(name.to_owned(), value.into_owned().into());
        }
    };
    match inputs.client_auth {
        ClientAuth::ClientSecretBasic => {}
        ClientAuth::ClientSecretPost => {
            add("client_id");
            add("client_secret");
        }
        ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTlsClientAuth | ClientAuth::None => add("client_id"),
    }
}

/// `None` where a template names a value that is not set.
fn render(param: &Param, inputs: &Inputs) -> Option<Value> {
    Some(match param {
        Param::Text(template) => match template.alone().and_then(|name| inputs.typed(name)) {
            Some(value) => value.clone(),
            None => template.render(|name| inputs.value(name))?.to_string().into(),
        },
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
