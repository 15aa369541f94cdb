//! What the answer to a management request holds: client secrets or client applications, by our names for their fields.
//! Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::dialect::Dialect;
use super::error::TokenError;
use super::file::Op;
use super::operation::Managed;
use super::place::Reply;
use super::request::Inputs;
use super::response::done;

/// One client secret or client application. A value may be a secret: it goes to no log.
pub type Item = BTreeMap<String, Value>;

/// Reads the answer to a management request, got at `now`. A list that is one item, and not a list, is a list of it; an
/// answer without anything that was looked for is an empty one.
pub fn read(
    dialect: &Dialect,
    managed: &Managed,
    inputs: &Inputs,
    reply: &Reply,
    now: Timestamp,
) -> Result<Vec<Item>, TokenError> {
    done(dialect, Op::Manage, inputs, reply, now)?;
    let json = reply.json();
    let listed = match &managed.items {
        Some(places) => places.find(reply, json.as_ref()),
        None => json,
    };
    let item = |value: &Value| -> Item {
        let found = managed.fields.iter().filter_map(|(name, places)| Some((name, places.find(reply, Some(value))?)));
        found.map(|(name, value)| (name.clone(), value)).collect()
    };
    let items = match &listed {
        Some(Value::Array(list)) => list.iter().map(item).collect(),
        Some(one) => vec![item(one)],
        None => Vec::new(),
    };
    Ok(items.into_iter().filter(|item: &Item| !item.is_empty()).collect())
}
