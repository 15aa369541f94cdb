//! Logs, metrics and traces, and the last of what happened. Security: nothing here may be handed a token or a secret; a token is
//! named by its fingerprint.

pub mod events;
pub mod inspected;
pub mod metrics;
pub mod ring;
pub mod text;
pub mod trace;

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterFn, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: one line of text, coloured when `colour`.
    Text { colour: bool },
    /// For machines: one JSON object a line.
    Json,
}

impl Format {
    /// Text on a terminal, JSON elsewhere.
    pub fn of_stderr(colour: bool) -> Self {
        if std::io::stderr().is_terminal() { Self::Text { colour } } else { Self::Json }
    }
}

/// Starts logging to stderr, once per process. Other crates are held at `info` whatever the level: at `trace` some of them
/// print header values.
pub fn init(level: LevelFilter, format: Format) -> Result<(), TryInitError> {
    let others = if level >= LevelFilter::DEBUG { LevelFilter::INFO } else { level.min(LevelFilter::WARN) };
    let filter = Targets::new().with_default(others).with_target("tokenbroker", level);
    let layer = match format {
        Format::Text { colour } => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false).boxed()
        }
        Format::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    let kept = FilterFn::new(events::is_kept).with_max_level_hint(LevelFilter::INFO);
    tracing_subscriber::registry().with(layer.with_filter(filter)).with(events::Keep.with_filter(kept)).try_init()
}
