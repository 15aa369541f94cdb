//! Every metric of the program. The names are public API; a path, a URL or a client's bytes are never a label, so the
//! number of series depends on the configuration alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

type Label = Vec<(&'static str, String)>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    route: String,
    status_class: &'static str,
    origin: &'static str,
}

/// Seconds, from a loopback hop to the slowest answer a route waits for by default.
#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
    }
}

/// The program's counters and gauges.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Request, Counter>,
    durations: Family<Label, Histogram, Buckets>,
    in_flight: Family<Label, Gauge>,
    problems: Family<Label, Counter>,
    retries: Family<Label, Counter>,
    echoes: Family<Label, Counter>,
    refreshes: Family<Label, Counter>,
    exchanges: Family<Label, Histogram, Buckets>,
    token_expiry: Family<Label, Gauge>,
    token_state: Family<Label, Gauge>,
    certificate_expiry: Family<Label, Gauge>,
    secret_expiry: Family<Label, Gauge>,
    refresh_expiry: Family<Label, Gauge>,
    ca_expiry: Family<Label, Gauge>,
    /// Requests that ended in a caught panic.
    pub panics: Counter,
    unsaved: Family<Label, Counter>,
    store: Family<Label, Gauge>,
    reloads: Family<Label, Counter>,
    connections_refused: Family<Label, Counter>,
    /// Connections that are open on the routes' listeners.
    pub connections: Gauge,
    /// As many as there may be.
    pub connections_max: Gauge,
    /// 1 while what is on the disk is what is in force.
    pub reloaded_well: Gauge,
    /// Unix seconds.
    pub started: Gauge,
    spans: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("tokenbroker")),
            requests: Family::default(),
            durations: Family::new_with_constructor(Buckets),
            in_flight: Family::default(),
            problems: Family::default(),
            retries: Family::default(),
            echoes: Family::default(),
            refreshes: Family::default(),
            exchanges: Family::new_with_constructor(Buckets),
            token_expiry: Family::default(),
            token_state: Family::default(),
            certificate_expiry: Family::default(),
            secret_expiry: Family::default(),
            refresh_expiry: Family::default(),
            ca_expiry: Family::default(),
            panics: Counter::default(),
            unsaved: Family::default(),
            store: Family::default(),
            reloads: Family::default(),
            connections_refused: Family::default(),
            connections: Gauge::default(),
            connections_max: Gauge::default(),
            reloaded_well: Gauge::default(),
            started: Gauge::default(),
            spans: Family::default(),
        };
        metrics.register();
        // A series that begins with its first event is not seen to rise by it.
        for outcome in ["success", "failure"] {
            drop(metrics.reloads.get_or_create(&vec![("outcome", outcome.to_owned())]));
        }
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let (r, seconds) = (&mut *registry, || Unit::Seconds);
        r.register("requests", "Requests answered, by who made the answer", self.requests.clone());
        r.register_with_unit(
            "request_duration",
            "From request head to response head",
            seconds(),
            self.durations.clone(),
        );
        r.register("requests_in_flight", "Requests on their way to the API and back", self.in_flight.clone());
        r.register("problems", "Errors that the broker answered itself, by code", self.problems.clone());
        r.register("upstream_retries", "Requests sent to the upstream a second time", self.retries.clone());
        r.register("echoed_tokens", "Fields of answers that had our token in them", self.echoes.clone());
        r.register("token_refreshes", "Token exchanges, by outcome", self.refreshes.clone());
        let help = "How long a token exchange took";
        r.register_with_unit("token_refresh_duration", help, seconds(), self.exchanges.clone());
        let help = "When the access token expires";
        r.register_with_unit("token_expiry_timestamp", help, seconds(), self.token_expiry.clone());
        r.register("token_state", "1 for the state the token is in", self.token_state.clone());
        let help = "When the client certificate expires";
        r.register_with_unit("certificate_expiry_timestamp", help, seconds(), self.certificate_expiry.clone());
        let help = "When the client secret in use expires";
        r.register_with_unit("secret_expiry_timestamp", help, seconds(), self.secret_expiry.clone());
        let help = "When the refresh token expires";
        r.register_with_unit("refresh_token_expiry_timestamp", help, seconds(), self.refresh_expiry.clone());
        let help = "When the first certificate of a CA file expires";
        r.register_with_unit("ca_expiry_timestamp", help, seconds(), self.ca_expiry.clone());
        r.register("store_failures", "Saves that failed", self.unsaved.clone());
        r.register("store_up", "1 while the shared store answers", self.store.clone());
        r.register("config_reloads", "Reloads of the configuration and the files that it names", self.reloads.clone());
        let help = "1 while the configuration on the disk is the one in force";
        r.register("config_last_reload_successful", help, self.reloaded_well.clone());
        r.register("panics", "Requests that ended in a caught panic", self.panics.clone());
        let help = "Client connections that were refused before a request was read";
        r.register("connections_refused", help, self.connections_refused.clone());
        r.register("connections", "Open client connections", self.connections.clone());
        r.register("connections_limit", "Client connections that may be open", self.connections_max.clone());
        r.register("spans", "Spans, by what became of them", self.spans.clone());
        r.register_with_unit("start_time", "When the broker started", seconds(), self.started.clone());
        r.register("build", "Build information", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    }

    /// The handles of one route, looked up once so that a request only adds.
    pub fn route(&self, route: &str) -> RouteMetrics {
        let counter = |status_class, origin| {
            self.requests.get_or_create_owned(&Request { route: route.into(), status_class, origin })
        };
        let both = |class| [counter(class, "upstream"), counter(class, "broker")];
        let label = vec![("route", route.to_owned())];
        RouteMetrics {
            requests: [both("1xx"), both("2xx"), both("3xx"), both("4xx"), both("5xx")],
            duration: self.durations.get_or_create_owned(&label),
            in_flight: self.in_flight.get_or_create_owned(&label),
            latencies: Default::default(),
            retries: self.retries.get_or_create_owned(&label),
            echoes: self.echoes.get_or_create_owned(&label),
        }
    }

    /// Counts and times one token exchange.
    pub fn refreshed(&self, token: &str, outcome: &'static str, seconds: f64) {
        self.refreshes.get_or_create(&vec![("token", token.to_owned()), ("outcome", outcome.to_owned())]).inc();
        self.exchanges.get_or_create(&vec![("token", token.to_owned())]).observe(seconds);
    }

    /// Counts an error that the broker answered itself; without a route, if the request had none.
    pub fn problem(&self, route: Option<&str>, code: &'static str) {
        let route = route.unwrap_or_default().to_owned();
        self.problems.get_or_create(&vec![("route", route), ("code", code.to_owned())]).inc();
    }

    /// What counts spans that ended so: `exported`, `failed` or `dropped`.
    pub fn spans(&self, outcome: &'static str) -> Counter {
        self.spans.get_or_create_owned(&vec![("outcome", outcome.to_owned())])
    }

    /// Counts a save that failed.
    pub fn unsaved(&self, token: &str) {
        self.unsaved.get_or_create(&vec![("token", token.to_owned())]).inc();
    }

    /// Counts a connection that was refused before a request of it was read.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    /// Counts one reload.
    pub fn reloaded(&self, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.reloads.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
    }

    /// What is no longer configured is no longer shown.
    pub fn forget_token(&self, token: &str, states: &[&str]) {
        for state in states {
            self.token_state.remove(&vec![("token", token.to_owned()), ("state", (*state).to_owned())]);
        }
        self.token_ends(token, None, None, None);
    }

    /// Sets what a scrape says of a token: its state out of all `states`.
    pub fn token(&self, token: &str, state: &str, states: &[&str]) {
        for each in states {
            let label = vec![("token", token.to_owned()), ("state", (*each).to_owned())];
            self.token_state.get_or_create(&label).set(i64::from(*each == state));
        }
        drop(self.unsaved.get_or_create(&vec![("token", token.to_owned())]));
    }

    /// When the access token, its refresh token and the client secret in use end, in Unix seconds; `None` where that is not
    /// known.
    pub fn token_ends(&self, token: &str, access: Option<i64>, refresh: Option<i64>, secret: Option<i64>) {
        for (family, end) in
            [(&self.token_expiry, access), (&self.refresh_expiry, refresh), (&self.secret_expiry, secret)]
        {
            set(family, vec![("token", token.to_owned())], end);
        }
    }

    /// When a client certificate ends; `None` for one that is no longer configured.
    pub fn certificate(&self, identity: &str, end: Option<i64>) {
        set(&self.certificate_expiry, vec![("identity", identity.to_owned())], end);
    }

    /// The same of the CA file that a table, such as `route.api`, names.
    pub fn ca(&self, table: &str, end: Option<i64>) {
        set(&self.ca_expiry, vec![("table", table.to_owned())], end);
    }

    /// Does the store that replicas share answer?
    pub fn store(&self, answers: bool) {
        set(&self.store, vec![("kind", "redis".to_owned())], Some(answers.into()));
    }

    /// All of it as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match text::encode(&mut out, &registry) {
            Ok(()) => out,
            Err(std::fmt::Error) => String::new(),
        }
    }
}

fn set(family: &Family<Label, Gauge>, label: Label, value: Option<i64>) {
    match value {
        Some(value) => {
            family.get_or_create(&label).set(value);
        }
        None => {
            family.remove(&label);
        }
    }
}

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Upstream,
    Broker,
}

/// Upper ends of the classes in which a page counts latencies, in milliseconds; a last one has what is above.
pub const LATENCIES_MS: [f64; 19] = {
    let (mut ends, mut at) = ([0.25; 19], 1);
    while at < ends.len() {
        ends[at] = ends[at - 1] * 2.0;
        at += 1;
    }
    ends
};

/// One route's counters.
#[derive(Debug)]
pub struct RouteMetrics {
    /// By status class, then by origin.
    requests: [[Counter; 2]; 5],
    duration: Histogram,
    /// On their way to the API and back.
    pub in_flight: Gauge,
    /// Of answers of the API, by [`LATENCIES_MS`], since the route was made.
    latencies: [AtomicU64; 20],
    pub retries: Counter,
    /// Fields that had the route's token in them.
    pub echoes: Counter,
}

impl RouteMetrics {
    pub fn answered(&self, status: http::StatusCode, origin: Origin, seconds: f64) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.requests[class][origin as usize].inc();
        self.duration.observe(seconds);
        if origin == Origin::Upstream {
            let at = LATENCIES_MS.partition_point(|end| *end < seconds * 1000.0);
            self.latencies[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers of that origin, by status class from 1xx on.
    pub fn answers(&self, origin: Origin) -> [u64; 5] {
        std::array::from_fn(|class| self.requests[class][origin as usize].get())
    }

    /// How many answers of the API took how long: see [`LATENCIES_MS`].
    pub fn latencies(&self) -> Vec<u64> {
        self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Requests answered so far, and those of them that the broker answered itself.
    pub fn totals(&self) -> (u64, u64) {
        let sum = |origin: Origin| self.requests.iter().map(|class| class[origin as usize].get()).sum::<u64>();
        let own = sum(Origin::Broker);
        (own + sum(Origin::Upstream), own)
    }
}
