//! Where in an answer a value is: `json:PATH`, `header:NAME`, `cookie:NAME`, `text`, `json_string`.

use http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::Value;

/// What a token server answered.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// At most 256 KiB.
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Json(Vec<String>),
    Header(HeaderName),
    Cookie(String),
    Text,
    JsonString,
}

/// Places in the order they are looked at; the first that holds something counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<Place>);

impl Places {
    /// Parses each of `texts`; `Err` is the one that is no place.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| place(text).ok_or_else(|| text.clone())).collect::<Result<_, _>>().map(Self)
    }

    /// The first value found. JSON null and empty text count as nothing.
    pub fn find(&self, reply: &Reply, json: Option<&Value>) -> Option<Value> {
        let there = |value: &Value| !matches!(value, Value::String(text) if text.is_empty());
        self.0.iter().find_map(|place| place.find(reply, json).filter(there))
    }

    /// The first value found, if it is text or a number.
    pub fn find_text(&self, reply: &Reply, json: Option<&Value>) -> Option<String> {
        match self.find(reply, json)? {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

fn place(text: &str) -> Option<Place> {
    Some(match text.split_once(':') {
        Some(("json", path)) if !path.is_empty() => Place::Json(path.split('.').map(str::to_owned).collect()),
        Some(("header", name)) => Place::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        Some(("cookie", name)) if !name.is_empty() => Place::Cookie(name.to_owned()),
        None if text == "text" => Place::Text,
        None if text == "json_string" => Place::JsonString,
        _ => return None,
    })
}

impl Place {
    fn find(&self, reply: &Reply, json: Option<&Value>) -> Option<Value> {
        match self {
            Self::Json(path) => at(json?, path).filter(|value| !value.is_null()).cloned(),
            Self::Header(name) => Some(reply.headers.get(name)?.to_str().ok()?.into()),
            Self::Cookie(name) => cookie(&reply.headers, name).map(Into::into),
            Self::Text => Some(std::str::from_utf8(&reply.body).ok()?.trim().into()),
            Self::JsonString => json.filter(|value| value.is_string()).cloned(),
        }
    }
}

/// The value at a path of member names and list indices.
pub fn at<'v>(mut value: &'v Value, path: &[String]) -> Option<&'v Value> {
    for step in path {
        value = match value {
            Value::Object(table) => table.get(step)?,
            Value::Array(list) => list.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

/// The value of a cookie that the answer sets (RFC 6265 §4.1.1).
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get_all(header::SET_COOKIE).iter().find_map(|line| {
        let pair = line.to_str().ok()?.split(';').next()?;
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Reply {
        let mut headers = HeaderMap::new();
        headers.append("x-subject-token", "from-header".parse().unwrap());
        headers.append("set-cookie", "other=1".parse().unwrap());
        headers.append("set-cookie", "B1SESSION=\"from-cookie\"; Path=/; HttpOnly".parse().unwrap());
        Reply { status: StatusCode::OK, headers, body: body.into() }
    }

    fn found(place: &str, body: &str) -> Option<String> {
        let reply = reply(body);
        Places::parse(&[place.to_owned()]).unwrap().find_text(&reply, reply.json().as_ref())
    }

    #[test]
    fn a_value_is_found_wherever_it_may_be() {
        assert_eq!(found("json:a.1.b", r#"{"a":[0,{"b":"x"}]}"#).as_deref(), Some("x"));
        assert_eq!(found("json:n", r#"{"n":42}"#).as_deref(), Some("42"));
        assert_eq!(found("header:X-Subject-Token", "").as_deref(), Some("from-header"));
        assert_eq!(found("cookie:B1SESSION", "").as_deref(), Some("from-cookie"));
        assert_eq!(found("text", " t\n").as_deref(), Some("t"));
        assert_eq!(found("json_string", "\"s\"").as_deref(), Some("s"));
    }

    #[test]
    fn nothing_null_and_empty_are_not_found() {
        for body in ["", "{}", r#"{"a":null}"#, r#"{"a":""}"#, r#"{"a":{}}"#, "[1]"] {
            assert_eq!(found("json:a", body), None, "{body}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["access_token", "json:", "cookie:", "header:bad name", "jsonstring"] {
            assert_eq!(Places::parse(&[text.to_owned()]), Err(text.to_owned()));
        }
    }
}
