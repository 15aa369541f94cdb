//! What the log said last, for the operator's listener: lines from INFO on, whatever the level of the log. What is said of
//! one client's request or connection is not among them, unless it is a warning.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::ring::Ring;

/// As many different ones as a page can show.
pub static EVENTS: Ring<Event> = Ring::new(100);

/// Characters of a value.
const VALUE_MAX: usize = 600;
/// Fields by which a line is about something else than another with the same words.
const SUBJECTS: [&str; 10] =
    ["token", "route", "table", "record", "listen", "file", "config", "code", "class", "state"];
/// Lines with one of these are about one request, or one connection.
const OF_ONE_CLIENT: [&str; 2] = ["status", "reason"];

/// A line of the log, and how often it came.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// The same for those that count as one: what goes up and down must not drive the others out.
    pub key: String,
    pub level: &'static str,
    pub message: String,
    /// Of the last of them, as all below.
    pub fields: BTreeMap<&'static str, String>,
    pub last_at: Timestamp,
    pub first_at: Timestamp,
    pub count: u64,
}

/// Takes the lines from the log.
pub(super) struct Keep;

/// Is a line kept?
pub(super) fn is_kept(metadata: &Metadata<'_>) -> bool {
    let of_one_client = OF_ONE_CLIENT.iter().any(|name| metadata.fields().field(name).is_some());
    let most = if of_one_client { Level::WARN } else { Level::INFO };
    metadata.is_event() && metadata.target().starts_with("tokenbroker") && *metadata.level() <= most
}

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => "info",
        };
        let mut new = Event { level, count: 1, last_at: Timestamp::now(), ..Event::default() };
        event.record(&mut new);
        new.first_at = new.last_at;
        new.key = new.key();
        EVENTS.push_for(
            |one| one.key == new.key,
            |before| match before {
                Some(before) => Event { first_at: before.first_at, count: before.count + 1, ..new.clone() },
                None => new.clone(),
            },
        );
    }
}

impl Event {
    fn key(&self) -> String {
        let subjects = SUBJECTS.iter().filter_map(|name| self.fields.get(name));
        [self.level, &self.message].into_iter().chain(subjects.map(String::as_str)).collect::<Vec<_>>().join("|")
    }

    fn put(&mut self, field: &Field, value: &str) {
        let value: String = value.chars().take(VALUE_MAX).collect();
        if field.name() == "message" {
            self.message = value;
        } else {
            self.fields.insert(field.name(), value);
        }
    }
}

impl Visit for Event {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, &format!("{value:?}"));
    }
}
