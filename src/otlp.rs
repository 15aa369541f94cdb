//! Exports spans: OTLP over HTTP, in JSON, a batch at a time over a connection of its own.
//!
//! A batch that cannot be delivered is counted and gone. Nothing waits for the collector but the last second of a drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::{Clock, Now};
use crate::connect::{self, Dialer, Endpoint};
use crate::telemetry::trace::{Side, Span, Value};

/// Spans that go out together.
const BATCH_MAX: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// For one batch, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For all that is left when the broker ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends spans to a collector.
pub struct Exporter {
    pub dialer: Arc<Dialer>,
    pub clock: Clock,
    pub endpoint: Endpoint,
    /// For `Host`.
    pub authority: String,
    /// What comes before `/v1/traces`.
    pub base_path: String,
    pub exported: Counter,
    pub failed: Counter,
}

impl Exporter {
    /// Runs until `stop`, and then until the queue is empty, or two seconds.
    pub async fn run(self, mut spans: Receiver<Span>, stop: CancellationToken) {
        let instance = format!("{:016x}", fastrand::u64(..));
        let (mut batch, mut works) = (Vec::with_capacity(BATCH_MAX), true);
        let exporting = async {
            loop {
                tokio::select! {
                    biased;
                    came = spans.recv_many(&mut batch, BATCH_MAX) => if came == 0 { break },
                    () = stop.cancelled() => break,
                }
                let filling = async {
                    while let room @ 1.. = BATCH_MAX - batch.len()
                        && spans.recv_many(&mut batch, room).await > 0
                    {}
                };
                let _: Result<Option<()>, _> = timeout(BATCH_TIME, stop.run_until_cancelled(filling)).await;
                self.export(&instance, &mut batch, &mut works).await;
            }
        };
        let late = async {
            stop.cancelled().await;
            sleep(LAST_TIMEOUT).await;
        };
        tokio::select! {
            () = exporting => {}
            () = late => warn!(collector = self.authority, "the collector did not take the last spans in time"),
        }
    }

    /// Sends a batch away. The log tells when it begins to fail, and when that ends.
    async fn export(&self, instance: &str, batch: &mut Vec<Span>, works: &mut bool) {
        let body = encode(instance, batch, self.clock.now());
        let sent = timeout(TIMEOUT, self.send(body)).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
        let outcome = if sent.is_ok() { &self.exported } else { &self.failed };
        outcome.inc_by(batch.len() as u64);
        batch.clear();
        match sent {
            Err(error) if std::mem::take(works) => {
                let fix = "see whether the collector of admin.otlp takes OTLP over HTTP there";
                warn!(collector = self.authority, error, "spans are not exported, and are lost: {fix}");
            }
            Ok(()) if !std::mem::replace(works, true) => info!(collector = self.authority, "spans are exported again"),
            _ => {}
        }
    }

    async fn send(&self, body: String) -> Result<(), String> {
        let stream = self.dialer.connect(&self.endpoint, TIMEOUT).await.map_err(|error| error.to_string())?;
        let broken = |error: hyper::Error| format!("the answer broke off: {}", connect::chain(&error));
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = Request::post(format!("{}/v1/traces", self.base_path))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request);
        tokio::pin!(answer, connection);
        let response = tokio::select! {
            answer = &mut answer => answer,
            // It may end with the answer.
            _ = &mut connection => answer.await,
        };
        let status = response.map_err(broken)?.status();
        if status.is_success() { Ok(()) } else { Err(format!("the collector answers {status}")) }
    }
}

/// An `ExportTraceServiceRequest` in the JSON encoding of OTLP 1.
fn encode(instance: &str, spans: &[Span], now: Now) -> String {
    #[expect(clippy::disallowed_methods, reason = "spans are timed by it")]
    let mark = Instant::now();
    let wall = now.wall.as_nanosecond();
    let at = |when: Instant| (wall - mark.saturating_duration_since(when).as_nanos() as i128).to_string();
    let version = env!("CARGO_PKG_VERSION");
    let spans: Vec<_> = spans.iter().map(|span| encode_span(span, at)).collect();
    let resource = [
        ("service.name", Value::from("tokenbroker")),
        ("service.version", Value::from(version)),
        ("service.instance.id", Value::from(instance)),
    ];
    let scope = json!({ "name": "tokenbroker", "version": version });
    let resource = json!({ "attributes": encode_attributes(&resource) });
    json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [{ "scope": scope, "spans": spans }] }] })
        .to_string()
}

fn encode_span(span: &Span, at: impl Fn(Instant) -> String) -> Json {
    let kind = match span.side {
        Side::Server => 2,
        Side::Client => 3,
    };
    let mut out = json!({
        "traceId": format!("{:032x}", span.place.trace),
        "spanId": format!("{:016x}", span.place.span),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": at(span.started),
        "endTimeUnixNano": at(span.ended),
        "attributes": encode_attributes(&span.attributes),
        "status": if span.failed { json!({ "code": 2 }) } else { json!({}) },
    });
    if let Some(parent) = span.place.parent {
        out["parentSpanId"] = format!("{parent:016x}").into();
    }
    out
}

fn encode_attributes(attributes: &[(&'static str, Value)]) -> Vec<Json> {
    let value = |value: &Value| match value {
        Value::Text(text) => json!({ "stringValue": text }),
        // 64 bits are text in the JSON of protobuf.
        Value::Number(number) => json!({ "intValue": number.to_string() }),
    };
    attributes.iter().map(|(key, of)| json!({ "key": key, "value": value(of) })).collect()
}
