//! The client applications of Covata's access-service: registered, listed, changed, deleted. The vendor's page has the members
//! of the first two; that a changed secret counts at once follows from there being one.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::message::{Call, Reply};
use super::mint;

/// A member of a client, and what its value must be.
type Member = (&'static str, fn(&Value) -> bool);

const REQUIRED: &[Member] = &[
    ("accessTokenValiditySeconds", Value::is_u64),
    ("appName", is_text),
    ("authorizedGrantTypes", are_grants),
    ("clientId", is_text),
    ("clientSecret", is_text),
    ("refreshTokenValiditySeconds", Value::is_u64),
];
const OPTIONAL: &[Member] = &[("registeredRedirectUris", are_texts), ("enabled", Value::is_boolean)];
const GRANTS: &[&str] = &["password", "authorization_code", "refresh_token", "implicit"];

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn are_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|all| all.iter().all(is_text))
}

fn are_grants(value: &Value) -> bool {
    let known = |grant: &Value| grant.as_str().is_some_and(|grant| GRANTS.contains(&grant));
    value.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(known))
}

/// The texts of a list.
pub fn texts(client: &Map<String, Value>, name: &str) -> Vec<String> {
    let all = client.get(name).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn has_grant(client: &Map<String, Value>, grant: &str) -> bool {
    texts(client, "authorizedGrantTypes").iter().any(|allowed| allowed == grant)
}

pub fn seconds(client: &Map<String, Value>, name: &str) -> Duration {
    Duration::from_secs(client.get(name).and_then(Value::as_u64).unwrap_or_default())
}

type Clients = Vec<Map<String, Value>>;

/// Answers a call of an administrator, about all of them or the one with that id (which is not its `clientId`).
pub fn manage(clients: &mut Clients, call: &Call, id: Option<&str>) -> Result<Reply, Reply> {
    let Some(id) = id else {
        return match call.method.as_str() {
            "GET" => list(clients, call),
            "POST" => register(clients, call),
            _ => Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "this method is not supported")),
        };
    };
    let at = clients.iter().position(|client| client["id"] == id);
    let at = at.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "there is no such client application"))?;
    match call.method.as_str() {
        "GET" => Ok(Reply::json(StatusCode::OK, Value::from(clients[at].clone()))),
        "PUT" => {
            let changes = members(call)?;
            if let Some(other) = changes.get("clientId").filter(|other| **other != clients[at]["clientId"]) {
                check_free(clients, other)?;
            }
            clients[at].extend(changes);
            Ok(Reply::json(StatusCode::OK, Value::from(clients[at].clone())))
        }
        "DELETE" => {
            clients.remove(at);
            Ok(Reply::empty(StatusCode::NO_CONTENT))
        }
        _ => Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "this method is not supported")),
    }
}

fn register(clients: &mut Clients, call: &Call) -> Result<Reply, Reply> {
    let given = members(call)?;
    if let Some((name, _)) = REQUIRED.iter().find(|(name, _)| !given.contains_key(*name)) {
        return Err(refusal(StatusCode::BAD_REQUEST, &format!("{name} is required")));
    }
    check_free(clients, &given["clientId"])?;
    let mut client = Map::from_iter([
        ("id".to_owned(), mint::uuid().into()),
        ("registeredRedirectUris".to_owned(), json!([])),
        ("enabled".to_owned(), true.into()),
    ]);
    client.extend(given);
    clients.push(client.clone());
    Ok(Reply::json(StatusCode::OK, Value::from(client)))
}

fn check_free(clients: &Clients, client_id: &Value) -> Result<(), Reply> {
    let taken = clients.iter().any(|client| client["clientId"] == *client_id);
    if taken { Err(refusal(StatusCode::CONFLICT, "clientId is taken")) } else { Ok(()) }
}

/// The members of a request, each as it must be.
fn members(call: &Call) -> Result<Map<String, Value>, Reply> {
    if !call.is("application/json") {
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"));
    }
    let bad = |text: String| refusal(StatusCode::BAD_REQUEST, &text);
    let given = call.json().ok_or_else(|| bad("the body must be a JSON object".to_owned()))?;
    for (name, value) in &given {
        match REQUIRED.iter().chain(OPTIONAL).find(|(known, _)| known == name) {
            Some((_, fits)) if fits(value) => {}
            Some(_) => return Err(bad(format!("{name} is not valid"))),
            None => return Err(bad(format!("{name} is not known"))),
        }
    }
    Ok(given)
}

/// `limit` of 0, which is the default, sets none.
fn list(clients: &Clients, call: &Call) -> Result<Reply, Reply> {
    let query = call.query();
    let bad = |name: &str| refusal(StatusCode::BAD_REQUEST, &format!("{name} is not valid"));
    let number = |name| query.get(name).unwrap_or("0").parse::<usize>().map_err(|_| bad(name));
    let (limit, offset) = (number("limit")?, number("offset")?);
    if limit > 100 {
        return Err(bad("limit"));
    }
    let mut items = clients.clone();
    if let Some(field) = query.get("sortBy") {
        if items.iter().any(|client| !client.contains_key(field)) {
            return Err(bad("sortBy"));
        }
        items.sort_by_key(|client| match &client[field] {
            Value::Number(number) => (number.as_u64(), String::new()),
            other => (None, other.to_string()),
        });
    }
    match query.get("orderBy") {
        None | Some("ASC") => {}
        Some("DESC") => items.reverse(),
        Some(_) => return Err(bad("orderBy")),
    }
    let limit = if limit == 0 { usize::MAX } else { limit };
    let items: Vec<_> = items.into_iter().skip(offset).take(limit).collect();
    Ok(Reply::json(StatusCode::OK, json!({ "items": items, "count": clients.len(), "offset": offset })))
}

fn refusal(status: StatusCode, description: &str) -> Reply {
    Reply::json(status, json!({ "error": "invalid_request", "error_description": description }))
}
