//! The JSON Schema of the configuration file, derived from the structs that serde fills.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::file::File;
use crate::units;

/// The JSON Schema of the configuration file. TOML has no null, so neither has the schema.
pub fn schema() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
        let mut schema = without_null(schema.to_value());
        // Optional for serde, so that one that is missing does not hide what else is wrong.
        if let Some(Json::Object(route)) = schema.pointer_mut("/properties/route/additionalProperties") {
            route.insert("required".into(), Json::from(vec!["listen", "upstream"]));
        }
        schema
    })
}

fn without_null(schema: Json) -> Json {
    match schema {
        Json::Object(mut node) => {
            if let Some(Json::Array(types)) = node.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    node.insert("type".into(), only);
                }
            }
            if let Some(Json::Array(words)) = node.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            // Rust's names for numbers; JSON Schema knows none of them.
            if node.get("format").is_some_and(Json::is_string) && node.contains_key("type") {
                node.remove("format");
            }
            if node
                .get("default")
                .is_some_and(|default| default.is_null() || default.as_object().is_some_and(serde_json::Map::is_empty))
            {
                node.remove("default");
            }
            if let Some(Json::Array(branches)) = node.get_mut("anyOf") {
                branches.retain(|branch| branch.get("type").is_none_or(|kind| kind != "null"));
                if let [Json::Object(only)] = branches.as_slice() {
                    let only = only.clone();
                    node.remove("anyOf");
                    for (key, value) in only {
                        node.entry(key).or_insert(value);
                    }
                }
            }
            Json::Object(node.into_iter().map(|(key, value)| (key, without_null(value))).collect())
        }
        Json::Array(list) => Json::Array(list.into_iter().map(without_null).collect()),
        other => other,
    }
}

/// What may stand at that path of the file; empty for a key that is not there.
pub fn at(path: &[&str]) -> Vec<&'static Json> {
    path.iter().fold(vec![schema()], |nodes, step| {
        let next = nodes.into_iter().filter_map(|node| {
            node.get("properties").and_then(|keys| keys.get(step)).or_else(|| node.get("additionalProperties"))
        });
        next.filter(|node| node.is_object()).flat_map(branches).collect()
    })
}

/// The alternatives of a schema, with references followed.
pub(super) fn branches(node: &Json) -> Vec<&Json> {
    if let Some(name) = node.get("$ref").and_then(Json::as_str) {
        return schema().pointer(name.trim_start_matches('#')).map(branches).unwrap_or_default();
    }
    match node.get("anyOf").or_else(|| node.get("oneOf")).and_then(Json::as_array) {
        Some(all) => all.iter().flat_map(branches).collect(),
        None => vec![node],
    }
}

/// The words that a text must be one of; `None` if any of the alternatives takes free text.
pub(super) fn words<'s>(branches: &[&'s Json]) -> Option<Vec<&'s str>> {
    let mut words = Vec::new();
    for branch in branches {
        match (branch.get("enum").and_then(Json::as_array), branch.get("const").and_then(Json::as_str)) {
            (Some(list), _) => words.extend(list.iter().filter_map(Json::as_str)),
            (None, Some(word)) => words.push(word),
            (None, None) => return None,
        }
    }
    Some(words)
}

pub fn fits(schema: &Json, kind: &str) -> bool {
    match schema.get("type").and_then(Json::as_str) {
        Some("number") => kind == "number" || kind == "integer",
        Some(wanted) => wanted == kind || (kind == "date" && is_date(schema)),
        None => true,
    }
}

/// A date is text in JSON.
pub(super) fn is_date(schema: &Json) -> bool {
    schema.get("pattern").and_then(Json::as_str) == Some(units::DATE)
}
