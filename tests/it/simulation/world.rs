//! What the hosts of one run share with the harness: time, replicas, datagrams, what happened, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokenbroker::clock::{Clock, Now};
use tokenbroker::telemetry::metrics::Metrics;
use tokenbroker::token::cache::Slot;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::idp::Idp;
use super::plan::Scenario;
use super::remote::Journal;
use super::store::Records;
use super::vendor::Vendor;
use super::wire::Packet;

/// A process: the replica, and which of its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    pub replica: usize,
    pub life: u32,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replica-{}.{}", self.replica, self.life)
    }
}

/// The first promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    pub promise: &'static str,
    pub how: String,
}

/// One machine, and the process that runs on it.
pub struct Replica {
    pub life: u32,
    pub born: Duration,
    /// Is there a process that serves, or that its machine starts again at once?
    pub alive: bool,
    pub runs: bool,
    pub gate: Arc<Gate>,
    /// The clocks of the machine: how far they are from the world's.
    pub wall_ms: i64,
    pub boot: Duration,
    /// So long did its clocks stand still, and since when they do.
    pub frozen: Duration,
    pub freezes: Option<Duration>,
    /// Each time that they went on.
    pub froze: Vec<Duration>,
    /// When its clocks were last tampered with: whatever is judged by them is not what it was.
    pub jumped: Option<Duration>,
    /// When it last went on after it had stood still.
    pub stood: Option<Duration>,
    pub journal: Option<Arc<Journal>>,
    /// What it is configured with.
    pub seed: Option<String>,
    pub purpose: String,
    pub stamp: u64,
    pub slot: Option<Arc<Slot>>,
    pub stop: Option<CancellationToken>,
    pub orders: Vec<Order>,
    pub ordered: Arc<Notify>,
    /// The refresh tokens and client secrets that this process has seen, and since when.
    pub knows: BTreeMap<String, Duration>,
    /// When it asked for the lease that it got last.
    pub granted: Option<Duration>,
    /// When the store first answered this process after its clock was set, or the process ended without that; zero if it was not
    /// set in its time.
    pub heard: Option<Duration>,
    /// Since when the store has answered it every time.
    pub reaches_store: Option<Duration>,
    /// Calls to save that failed or were not answered: from, to.
    pub unsaved: Vec<(Duration, Duration)>,
    /// Saves that were begun and have not ended.
    pub saving: Option<Duration>,
    /// What it handed to an application last.
    pub serves: Option<String>,
}

/// What an operator or an API says to a process.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Refresh,
    Rotate,
    Refused,
}

pub struct Inner {
    pub replicas: Vec<Replica>,
    pub records: Records,
    pub idp: Idp,
    pub vendor: Vendor,
    pub packets: BTreeMap<u64, Packet>,
    next_packet: u64,
    pub broken: Option<Broken>,
    pub log: String,
    /// Where the lines of the log begin.
    lines: Vec<usize>,
    pub counts: BTreeMap<&'static str, u64>,
    pub excuses: BTreeMap<&'static str, u64>,
    /// The refresh token that a person got last, for the configuration.
    pub newest_login: Option<String>,
    /// When the clocks of any machine were last set, and by how much they were in all.
    pub set: Option<Duration>,
    pub set_by: Duration,
    /// Who was without which token, and why was excused: counted once.
    pub without: BTreeSet<(usize, String)>,
    /// Who gave which token after its end, and why was excused.
    pub over: BTreeSet<(usize, String)>,
    /// It was said already that no client secret works.
    pub none_works: bool,
    /// How long a process waits for the token server, and how long access tokens live.
    pub waits: Duration,
    pub lifetime: Duration,
    /// A message there and back takes so long at most, where nothing holds it.
    pub trip: Duration,
}

/// All of it.
pub struct World {
    pub scenario: Scenario,
    pub metrics: Arc<Metrics>,
    stepped: AtomicU64,
    inner: Mutex<Inner>,
}

impl World {
    pub fn new(scenario: Scenario, metrics: Arc<Metrics>) -> Arc<Self> {
        let replicas = scenario.machines.iter().map(|machine| Replica {
            life: 0,
            born: Duration::ZERO,
            alive: false,
            runs: true,
            gate: Arc::default(),
            wall_ms: machine.wall_ms,
            boot: machine.boot,
            frozen: Duration::ZERO,
            freezes: None,
            froze: Vec::new(),
            jumped: None,
            stood: None,
            journal: machine.journal.then(Arc::default),
            seed: None,
            purpose: "p".to_owned(),
            stamp: 0,
            slot: None,
            stop: None,
            orders: Vec::new(),
            ordered: Arc::default(),
            knows: BTreeMap::new(),
            granted: None,
            heard: Some(Duration::ZERO),
            reaches_store: None,
            unsaved: Vec::new(),
            saving: None,
            serves: None,
        });
        let inner = Inner {
            replicas: replicas.collect(),
            records: Records::new(scenario.broken_lock),
            idp: Idp::new(&scenario),
            vendor: Vendor::default(),
            none_works: false,
            packets: BTreeMap::new(),
            next_packet: 0,
            broken: None,
            log: String::new(),
            lines: Vec::new(),
            counts: BTreeMap::new(),
            excuses: BTreeMap::new(),
            newest_login: None,
            set: None,
            set_by: Duration::ZERO,
            without: BTreeSet::new(),
            over: BTreeSet::new(),
            waits: scenario.timeout,
            lifetime: scenario.lifetime,
            trip: 2 * (scenario.latency + scenario.tick),
        };
        Arc::new(Self { scenario, metrics, stepped: AtomicU64::new(0), inner: Mutex::new(inner) })
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Since the run began: within a host its own time, which is within the step.
    pub fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_else(|| Duration::from_nanos(self.stepped.load(Ordering::Relaxed)))
    }

    pub fn stepped(&self, elapsed: Duration) {
        self.stepped.store(u64::try_from(elapsed.as_nanos()).unwrap(), Ordering::Relaxed);
    }

    pub fn event(&self, text: std::fmt::Arguments<'_>) {
        let now = self.now();
        self.lock().event(now, text);
    }

    pub fn count(&self, what: &'static str) {
        self.lock().count(what);
    }

    /// The clocks of a machine. A frozen one does not know that time passes.
    pub fn clock(self: &Arc<Self>, replica: usize) -> Clock {
        let world = Arc::clone(self);
        let base: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Clock::of_boot(&format!("boot-{replica}"), move || {
            let now = world.now();
            let inner = world.lock();
            let machine = &inner.replicas[replica];
            let standing = machine.freezes.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            let passed = now.saturating_sub(machine.frozen + standing);
            let wall = base + passed + SignedDuration::from_millis(machine.wall_ms);
            Now { wall, boot: machine.boot + passed }
        })
    }
}

impl Inner {
    pub fn event(&mut self, now: Duration, text: std::fmt::Arguments<'_>) {
        tracing::info!("{:8.3} {text}", now.as_secs_f64());
        self.lines.push(self.log.len());
        writeln!(self.log, "{:8.3} {text}", now.as_secs_f64()).unwrap();
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Holds a promise as broken; the first one counts.
    pub fn breaks(&mut self, now: Duration, promise: &'static str, how: String) {
        self.event(now, format_args!("BROKEN {promise}: {how}"));
        self.broken.get_or_insert(Broken { promise, how });
    }

    /// The last lines of what happened.
    pub fn tail(&self, lines: usize) -> &str {
        let first = self.lines.len().saturating_sub(lines);
        self.lines.get(first).map_or("", |&start| &self.log[start..])
    }

    pub fn post(&mut self, packet: Packet) -> u64 {
        self.next_packet += 1;
        self.packets.insert(self.next_packet, packet);
        self.next_packet
    }

    /// When the clocks of any machine last went on after they had stood still.
    pub fn froze(&self) -> Option<Duration> {
        self.replicas.iter().filter_map(|replica| replica.froze.last()).max().copied()
    }

    pub fn lives(&self, who: Who) -> bool {
        let replica = &self.replicas[who.replica];
        replica.alive && replica.life == who.life
    }

    /// A process has seen these refresh tokens and client secrets.
    pub fn learns(&mut self, who: Who, tokens: &BTreeSet<String>, now: Duration) {
        let replica = &mut self.replicas[who.replica];
        if replica.life == who.life {
            for token in tokens {
                replica.knows.entry(token.clone()).or_insert(now);
            }
        }
    }
}

/// The refresh tokens and client secrets that a record or an answer holds in clear text.
pub fn credentials(plain: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(plain);
    let of = |kind| text.match_indices(kind).map(|(at, _)| text[at + 1..].split('"').next().unwrap().to_owned());
    of("\"rt-").chain(of("\"sec-")).collect()
}
