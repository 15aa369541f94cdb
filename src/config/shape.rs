//! The strict check of a file against the schema: unknown keys, wrong types, wrong words, everything at once, each with its
//! place. What passes is handed on; what does not is left out, so that the rest can be checked further.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::file::File;
use super::not_yet;
use super::problem::{Problem, nearest};
use super::schema::{branches, fits, is_date, schema, words};
use crate::units;

/// What of the document is well-formed; `None` if nothing more can be said of it. Everything else is reported.
pub(super) fn check(document: &mut Document<'_>) -> Option<File> {
    let mut walker = Walker { document, found: Vec::new(), excused: Vec::new() };
    let kept = match walker.value(schema(), &walker.document.root, &mut Vec::new()) {
        Some(toml::Value::Table(table)) => table,
        _ => toml::Table::new(),
    };
    let (found, excused) = (walker.found, walker.excused);
    document.found(found, excused);
    if !document.sound {
        return None;
    }
    let file = File::deserialize(kept).map_err(|e| {
        let problem = format!("the file does not fit this version: {}", e.message());
        document.add(None, String::new(), problem, "please report this: it should have had a place");
    });
    file.ok()
}

struct Walker<'d, 't> {
    document: &'d Document<'t>,
    found: Vec<Problem>,
    excused: Vec<String>,
}

impl Walker<'_, '_> {
    fn add(&mut self, span: Range<usize>, path: &[String], problem: impl Into<String>, hint: impl Into<String>) {
        let place = Some(self.document.place(span));
        self.found.push(Problem { place, key: path.join("."), problem: problem.into(), hint: hint.into() });
    }

    /// The value if it fits the schema, without the parts that do not.
    fn value(&mut self, schema: &Json, value: &Spanned<DeValue<'_>>, path: &mut Vec<String>) -> Option<toml::Value> {
        let all = branches(schema);
        let kind = kind(value.get_ref());
        let fitting: Vec<_> = all.iter().copied().filter(|branch| fits(branch, kind)).collect();
        let Some(branch) = fitting.first() else {
            let named = all.iter().filter_map(|b| if is_date(b) { Some("date") } else { b.get("type")?.as_str() });
            let mut wanted: Vec<_> = named.map(name).collect();
            wanted.dedup();
            let found = if kind == "number" { "a fraction" } else { name(kind) };
            let unit = all.iter().find_map(|branch| unit_fault(branch, ""));
            let list = (wanted == [name("array")] && kind == "string").then_some("write [\"one\", \"two\"]");
            let hint = unit.or(list).unwrap_or_default();
            self.add(value.span(), path, format!("expected {}, found {found}", wanted.join(" or ")), hint);
            return None;
        };
        match value.get_ref() {
            DeValue::Table(table) => self.table(branch, table, value.span(), path),
            DeValue::Array(list) => {
                let items = branch.get("items").unwrap_or(&ANYTHING);
                let mut kept = Vec::new();
                for (index, item) in list.iter().enumerate() {
                    path.push(index.to_string());
                    kept.extend(self.value(items, item, path));
                    path.pop();
                }
                let must = branch.get("minItems").is_some();
                if must && list.is_empty() {
                    self.add(value.span(), path, "must not be empty", "name one at least");
                }
                (!must || !kept.is_empty()).then_some(toml::Value::Array(kept))
            }
            DeValue::String(text) => self.text(&fitting, text, value.span(), path),
            // JSON has no dates: what takes one takes it as text.
            DeValue::Datetime(at) => self.text(&fitting, &at.to_string(), value.span(), path),
            other => self.number(branch, other, value.span(), path),
        }
    }

    fn table(
        &mut self,
        schema: &Json,
        table: &DeTable<'_>,
        span: Range<usize>,
        path: &mut Vec<String>,
    ) -> Option<toml::Value> {
        let known = schema.get("properties").and_then(Json::as_object);
        let others = schema.get("additionalProperties").unwrap_or(&ANYTHING);
        let others = Some(others).filter(|others| **others != Json::Bool(false));
        let mut kept = toml::Table::new();
        for (key, value) in table {
            let name = key.get_ref().to_string();
            match known.and_then(|known| known.get(&name)).or(others) {
                Some(schema) => {
                    path.push(name.clone());
                    if let Some(value) = self.value(schema, value, path) {
                        kept.insert(name, value);
                    }
                    path.pop();
                }
                None => self.unknown(key, known, path),
            }
        }
        for required in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            // `validate` has more to say of what a route needs.
            if path.first().is_some_and(|first| first == "route") {
                continue;
            }
            if table.get(required).is_none() && !self.is_excused(path, required) {
                self.add(span.clone(), path, format!("`{required}` is missing"), "");
            }
            if !kept.contains_key(required) {
                return None;
            }
        }
        if schema.get("maxProperties").is_some() && table.len() != 1 {
            let names: Vec<_> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
            self.add(span, path, "needs exactly one key", format!("one of {}", names.join(", ")));
            return None;
        }
        let whole = schema.get("maxProperties").is_none() || kept.len() == 1;
        whole.then_some(toml::Value::Table(kept))
    }

    fn unknown(&mut self, key: &Spanned<Cow<'_, str>>, known: Option<&Map<String, Json>>, path: &mut Vec<String>) {
        let name = key.get_ref().to_string();
        let (problem, hint) = if not_yet::has(not_yet::KEYS, path, &name) {
            ("not yet: this version cannot do that", "remove it".to_owned())
        } else {
            let names: Vec<_> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
            let hint = match (nearest(&name, names.iter().copied()), instead(&name, &names)) {
                (_, Some(other)) | (Some(other), None) => {
                    self.excused.push(path.iter().map(String::as_str).chain([other]).collect::<Vec<_>>().join("."));
                    format!("did you mean `{other}`?")
                }
                (None, None) => format!("known here: {}", names.join(", ")),
            };
            ("unknown key", hint)
        };
        path.push(name);
        self.add(key.span(), path, problem, hint);
        path.pop();
    }

    fn is_excused(&self, path: &[String], key: &str) -> bool {
        let whole = path.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".");
        self.excused.contains(&whole)
    }

    fn text(&mut self, fitting: &[&Json], text: &str, span: Range<usize>, path: &[String]) -> Option<toml::Value> {
        if let Some(words) = words(fitting)
            && !words.contains(&text)
        {
            let known = format!("one of {}", words.join(", "));
            if not_yet::has(not_yet::VALUES, path, text) {
                self.add(span, path, format!("{text:?} is not yet there in this version"), known);
            } else {
                let near = nearest(text, words.iter().copied()).map(|near| format!("did you mean {near:?}? "));
                self.add(span, path, format!("{text:?} is not known here"), near.unwrap_or_default() + &known);
            }
            return None;
        }
        match unit_fault(fitting[0], text) {
            Some(help) => {
                self.add(span, path, format!("{text:?} is not understood"), help);
                None
            }
            None => Some(toml::Value::String(text.to_owned())),
        }
    }

    fn number(
        &mut self,
        schema: &Json,
        value: &DeValue<'_>,
        span: Range<usize>,
        path: &[String],
    ) -> Option<toml::Value> {
        let value = match value {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(toml::Value::Integer),
            DeValue::Float(n) => n.as_str().parse().ok().map(toml::Value::Float),
            DeValue::Boolean(b) => Some(toml::Value::Boolean(*b)),
            DeValue::Datetime(_) | DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        };
        #[expect(clippy::cast_precision_loss, reason = "only held against small bounds")]
        let n = value.as_ref().and_then(|v| v.as_float().or_else(|| v.as_integer().map(|n| n as f64)));
        let bound = |name| schema.get(name).and_then(Json::as_f64);
        let (low, high) = (bound("minimum"), bound("maximum"));
        match (value, n) {
            (None, _) => self.add(span, path, "this number is too large", ""),
            (Some(_), Some(n)) if !n.is_finite() => self.add(span, path, "this is not a number", ""),
            (Some(_), Some(n)) if low.is_some_and(|low| n < low) || high.is_some_and(|high| n > high) => {
                let (low, high) = (low.unwrap_or(f64::MIN), high.unwrap_or(f64::MAX));
                self.add(span, path, format!("{n} is out of range"), format!("from {low} to {high}"));
            }
            (Some(value), _) if schema.get("type") == Some(&Json::from("number")) => {
                return n.map(toml::Value::Float).or(Some(value));
            }
            (Some(value), _) => return Some(value),
        }
        None
    }
}

/// What takes anything.
const ANYTHING: Json = Json::Bool(true);

/// Other programs' words for what is meant here, where they are not near to it.
fn instead<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let wanted: &[&str] = match name {
        "port" | "address" | "bind" | "addr" => &["listen"],
        "target" | "backend" | "destination" | "url" => &["upstream"],
        "token_url" | "token_endpoint" | "endpoint" => &["url"],
        "id" => &["client_id"],
        "secret" => &["client_secret"],
        "user" => &["username"],
        "scopes" => &["scope"],
        "type" | "grant_type" => &["grant"],
        "certificate" => &["cert"],
        _ => &[],
    };
    known.iter().copied().find(|known| wanted.contains(known))
}

/// What a text with a unit has to look like, where this one does not.
fn unit_fault(schema: &Json, text: &str) -> Option<&'static str> {
    match schema.get("pattern")?.as_str()? {
        units::DURATION => units::duration(text).err(),
        units::SIZE => units::size(text).err(),
        units::BUDGET => units::budget(text).err(),
        units::DATE => units::date(text).err(),
        units::LIFE => units::life(text).err(),
        _ => None,
    }
}

/// The schema's word for a TOML type.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "number",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
    }
}

/// The same for people.
fn name(kind: &str) -> &str {
    match kind {
        "string" => "text in quotes",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "date" => "a date",
        "array" => "a list",
        _ => "a table",
    }
}
