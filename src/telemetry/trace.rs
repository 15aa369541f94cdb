//! Spans, and the trace that each is a part of (W3C Trace Context). Nothing is recorded unless somebody exports it; then a span
//! is put into a queue, and one for which there is no place is counted and dropped: no request waits.
//!
//! Security: a span has no path, no query, no field and no address of a client.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

/// Spans that wait to be exported.
const QUEUE_MAX: usize = 2048;
/// Of `traceparent` in the version that is written here.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

/// Where spans go: nowhere, until somebody exports them.
#[derive(Clone, Default)]
pub struct Tracer(Arc<OnceLock<Queue>>);

struct Queue {
    spans: mpsc::Sender<Span>,
    dropped: Counter,
}

/// Where a span stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub trace: u128,
    pub span: u64,
    pub parent: Option<u64>,
    flags: u8,
}

/// On which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// Something that began, ended, and is known by its attributes, named as in OpenTelemetry's semantic conventions.
#[derive(Debug)]
pub struct Span {
    pub place: Place,
    pub name: String,
    pub side: Side,
    pub started: Instant,
    pub ended: Instant,
    pub attributes: Vec<(&'static str, Value)>,
    pub failed: bool,
}

impl Tracer {
    /// Has spans recorded from here on, for whoever takes them out of the queue. `None` if somebody does already.
    pub fn start(&self, dropped: Counter) -> Option<mpsc::Receiver<Span>> {
        let (spans, queue) = mpsc::channel(QUEUE_MAX);
        self.0.set(Queue { spans, dropped }).is_ok().then_some(queue)
    }

    pub fn is_on(&self) -> bool {
        self.0.get().is_some()
    }

    pub fn end(&self, span: Span) {
        if let Some(queue) = self.0.get()
            && queue.spans.try_send(span).is_err()
        {
            queue.dropped.inc();
        }
    }
}

impl Place {
    /// The first of a new trace.
    pub fn root() -> Self {
        Self { trace: fastrand::u128(1..), span: fastrand::u64(1..), parent: None, flags: SAMPLED }
    }

    /// Below that one.
    pub fn below(self) -> Self {
        Self { span: fastrand::u64(1..), parent: Some(self.span), ..self }
    }

    /// Of the caller, by its `traceparent` (W3C Trace Context §3.2). Later versions are read as far as they are known.
    pub fn of_caller(traceparent: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(traceparent).ok()?;
        let known = text.get(..LENGTH)?;
        let mut parts = known.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let ends = text.len() == LENGTH || (version != "00" && text.as_bytes()[LENGTH] == b'-');
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (version != "ff" && ends && trace != 0 && span != 0).then_some(Self { trace, span, parent: None, flags })
    }

    /// Does the caller record its part?
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// For whoever is called from within this span.
    pub fn traceparent(self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_caller_is_known_by_a_traceparent_that_is_one() {
        let caller = Place::of_caller(PARENT.as_bytes()).unwrap();
        assert_eq!((caller.traceparent().as_str(), caller.is_sampled()), (PARENT, true));
        assert!(!Place::of_caller(PARENT.replace("-01", "-02").as_bytes()).unwrap().is_sampled());
        let later = format!("cc{}-more", &PARENT[2..]);
        assert_eq!(Place::of_caller(later.as_bytes()).unwrap().traceparent(), PARENT);
        for wrong in [
            String::new(),
            PARENT[..54].to_owned(),
            format!("{PARENT}-more"),
            format!("cc{}more", &PARENT[2..]),
            format!("ff{}", &PARENT[2..]),
            PARENT.to_uppercase(),
            PARENT.replace("00f067aa0ba902b7", "0000000000000000"),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("-00f", "00f0"),
            PARENT.replace("4bf9", "+bf9"),
            "\u{e4}".repeat(40),
        ] {
            assert_eq!(Place::of_caller(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_child_has_its_parent_and_its_trace() {
        let (root, caller) = (Place::root(), Place::of_caller(PARENT.as_bytes()).unwrap());
        assert!(root.is_sampled() && root.parent.is_none());
        let child = caller.below();
        assert_eq!((child.trace, child.parent), (caller.trace, Some(caller.span)));
        assert_ne!(child.span, caller.span);
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let dropped = Counter::default();
        let tracer = Tracer::default();
        assert!(!tracer.is_on());
        let mut queue = tracer.start(dropped.clone()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "any time will do")]
        let now = Instant::now();
        let span = || Span {
            place: Place::root(),
            name: "GET".into(),
            side: Side::Server,
            started: now,
            ended: now,
            attributes: Vec::new(),
            failed: false,
        };
        (0..QUEUE_MAX + 3).for_each(|_| tracer.end(span()));
        assert_eq!(dropped.get(), 3);
        queue.try_recv().unwrap();
        tracer.end(span());
        assert_eq!(dropped.get(), 3);
        assert!(tracer.is_on() && tracer.start(dropped).is_none());
    }
}
