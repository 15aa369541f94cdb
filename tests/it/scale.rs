//! The figures of `docs/scale.md`: many refresh tasks at one token server, in simulated time. With `TOKENBROKER_TEST_REWRITE` set the
//! page is rewritten (one test at a time, then), with `TOKENBROKER_TEST_SIDECARS=10000` all of it is simulated.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokenbroker::clock::Clock;
use tokenbroker::oauth::file::{ClientAuth, Grant, Op};
use tokenbroker::oauth::request::Inputs;
use tokenbroker::oauth::response::{Access, Answer};
use tokenbroker::oauth::template::Template;
use tokenbroker::oauth::{Class, Outcome, TokenError};
use tokenbroker::secret::Secret;
use tokenbroker::store::{self, Age, Lease, Record, Saved, Store, StoreError, Stores, Taken, Version};
use tokenbroker::telemetry::metrics::Metrics;
use tokenbroker::token::cache::Slot;
use tokenbroker::token::keeper::Keeper;
use tokenbroker::token::kept::Kept;
use tokenbroker::token::refresh::{Ended, Refresher, Task};
use tokenbroker::token::source::{Exchange, Prepared, With};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use zeroize::Zeroizing;

use crate::refresh::{Clocks, S, policy};

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
/// Of a token.
const LIFETIME: f64 = 3600.0;
/// When it is replaced, on average.
const REFRESH: f64 = 0.75 * LIFETIME;
/// How long the token server takes.
const TAKES: Duration = Duration::from_millis(100);

/// How many in each second since the start.
#[derive(Default)]
struct Counts(Mutex<Vec<u32>>);

impl Counts {
    fn add(&self, start: Instant) {
        let (mut counts, second) = (self.0.lock().unwrap(), start.elapsed().as_secs() as usize);
        if counts.len() <= second {
            counts.resize(second + 1, 0);
        }
        counts[second] += 1;
    }

    fn total(&self, seconds: Range<u64>) -> u32 {
        let counts = self.0.lock().unwrap();
        counts.iter().take(seconds.end as usize).skip(seconds.start as usize).sum()
    }

    /// In any `length` seconds on end.
    fn most(&self, length: u64, seconds: Range<u64>) -> u32 {
        (seconds.start..seconds.end.saturating_sub(length - 1))
            .map(|second| self.total(second..second + length))
            .max()
            .unwrap_or(0)
    }
}

/// How the token server behaves.
#[derive(Clone, Copy, Default)]
struct Manners {
    /// It gives no token.
    away: Option<Away>,
    /// So many tokens in so many seconds.
    serves: Option<(u32, u64)>,
    retry_after: Option<u64>,
    /// Of its tokens, if not [`LIFETIME`].
    lifetime: Option<u64>,
}

#[derive(Clone, Copy)]
enum Away {
    Unavailable,
    Refused,
    Silent,
}

struct Server {
    start: Instant,
    manners: Mutex<Manners>,
    calls: Counts,
    given: Counts,
    tokens: AtomicU64,
}

impl Server {
    fn new(manners: Manners) -> Arc<Self> {
        let (calls, given, tokens) = Default::default();
        Arc::new(Self { start: Instant::now(), manners: Mutex::new(manners), calls, given, tokens })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_secs()
    }

    fn set(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
    }

    async fn until(&self, second: u64) {
        sleep_until(self.start + Duration::from_secs(second)).await;
    }

    /// Waits until it has given so many tokens since then; how many seconds that took.
    async fn gives(&self, tokens: u64, since: u64) -> u64 {
        while u64::from(self.given.total(since..u64::MAX)) < tokens {
            assert!(self.now() < since + 2 * HOUR, "{} of {tokens}", self.given.total(since..u64::MAX));
            sleep(S).await;
        }
        self.now() - since
    }
}

/// One sidecar's way to the server.
struct Client(Arc<Server>);

impl Exchange for Client {
    async fn seed(&self) -> Result<Option<Secret>, TokenError> {
        Ok(None)
    }

    async fn prepare(&self, _: Op, secret: usize) -> Result<Prepared, TokenError> {
        let inputs = Inputs::new(Grant::ClientCredentials, ClientAuth::ClientSecretBasic);
        Ok(Prepared { inputs, access_token: None, secret, secrets: 1, rotated: false, proof: None })
    }

    async fn exchange(&self, _: Op, _: &Prepared) -> Result<Answer, TokenError> {
        let server = &self.0;
        let Manners { away, serves, retry_after, lifetime } = *server.manners.lock().unwrap();
        server.calls.add(server.start);
        let now = server.now();
        let failed = |class, outcome| {
            let mut error = TokenError::new(class, "the server is away or busy", "none").of(outcome);
            error.retry_after = retry_after.map(Duration::from_secs);
            Err(error)
        };
        match away {
            Some(Away::Refused) => return failed(Class::Transient, Outcome::NotSent),
            Some(Away::Silent) => {
                sleep(10 * S).await;
                return failed(Class::Transient, Outcome::Lost);
            }
            Some(Away::Unavailable) => {
                sleep(TAKES).await;
                return failed(Class::Transient, Outcome::NotJudged);
            }
            None => {}
        }
        if let Some((max, per)) = serves
            && server.given.total(now / per * per..now + 1) >= max
        {
            sleep(TAKES).await;
            return failed(Class::RateLimited, Outcome::NotJudged);
        }
        server.given.add(server.start);
        let token = Secret::new(format!("at-{}", server.tokens.fetch_add(1, Ordering::Relaxed)));
        sleep(TAKES).await;
        let lifetime = lifetime.map_or(S.mul_f64(LIFETIME), Duration::from_secs);
        let access = Access { token, lifetime: Some(lifetime), warning: None };
        Ok(Answer { access: Ok(access), refresh_token: None, refresh_lifetime: None })
    }

    fn stamp(&self) -> u64 {
        0
    }

    fn with(&self) -> With {
        With { account: "0123456789abcdef".into(), ..With::default() }
    }
}

/// A store that all share, in memory. It counts what it is asked.
struct Shared {
    start: Instant,
    commands: Counts,
    away: AtomicBool,
    records: Mutex<HashMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    version: Version,
    saved: Option<(Instant, Zeroizing<Vec<u8>>)>,
    lease: Option<(u128, Instant)>,
}

impl Entry {
    fn record(&self) -> Option<Record> {
        let (at, plain) = self.saved.as_ref()?;
        let age = at.elapsed();
        let age = Some(Age { least: age, most: age });
        Some(Record { version: self.version, plain: plain.clone(), age })
    }
}

impl Shared {
    fn new() -> Arc<Self> {
        let (commands, away, records) = Default::default();
        Arc::new(Self { start: Instant::now(), commands, away, records })
    }

    fn answer<T: Send + 'static>(&self, name: &str, command: impl FnOnce(&mut Entry) -> T) -> store::Answer<'_, T> {
        self.commands.add(self.start);
        let away = self.away.load(Ordering::Relaxed);
        let mut records = self.records.lock().unwrap();
        let answer = (!away).then(|| command(records.entry(name.to_owned()).or_default()));
        Box::pin(async { answer.ok_or_else(|| StoreError::Away("it is away".into())) })
    }
}

impl Store for Shared {
    fn is_shared(&self) -> bool {
        true
    }

    fn place(&self, name: &str, _: Version) -> String {
        name.to_owned()
    }

    fn load<'a>(&'a self, name: &'a str) -> store::Answer<'a, Option<Record>> {
        self.answer(name, |entry| entry.record())
    }

    fn version<'a>(&'a self, name: &'a str) -> store::Answer<'a, Version> {
        self.answer(name, |entry| entry.version)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        before: Version,
        version: Version,
        plain: Zeroizing<Vec<u8>>,
        _old: Duration,
    ) -> store::Answer<'a, Saved> {
        self.answer(name, |entry| {
            if entry.version != before {
                return Saved::Stale(entry.record());
            }
            (entry.version, entry.saved) = (version, Some((Instant::now(), plain)));
            Saved::Done
        })
    }

    fn take<'a>(&'a self, name: &'a str, owner: u128, lease: Lease) -> store::Answer<'a, Taken> {
        self.answer(name, |entry| {
            let now = Instant::now();
            match entry.lease {
                Some((other, until)) if other != owner && until > now => return Taken::Held(until - now),
                Some((other, _)) if other != owner && !lease.force => return Taken::Lapsed,
                _ => entry.lease = Some((owner, now + lease.lasts + lease.after)),
            }
            Taken::Yes(entry.record())
        })
    }

    fn names(&self) -> store::Answer<'_, Vec<String>> {
        let names = self.records.lock().unwrap().keys().cloned().collect();
        Box::pin(async { Ok(names) })
    }

    fn forget<'a>(&'a self, name: &'a str, _instead: &'a [u8]) -> store::Answer<'a, ()> {
        self.answer(name, |entry| entry.saved = None)
    }

    fn release<'a>(&'a self, name: &'a str, owner: u128) -> store::Answer<'a, ()> {
        self.answer(name, |entry| entry.lease = entry.lease.filter(|(other, _)| *other != owner))
    }
}

/// Sidecars of one token, each with a refresh task of its own.
struct Fleet {
    server: Arc<Server>,
    clocks: Clocks,
    slots: Vec<Arc<Slot>>,
    tasks: Vec<tokio::task::JoinHandle<Ended>>,
    stop: CancellationToken,
    /// When the fleet goes, all of them end.
    _ends: DropGuard,
    metrics: Arc<Metrics>,
}

impl Fleet {
    fn new(server: &Arc<Server>) -> Self {
        let (clocks, stop) = (Clocks::new(), CancellationToken::new());
        let ends = stop.clone().drop_guard();
        Self {
            server: Arc::clone(server),
            clocks,
            slots: Vec::new(),
            tasks: Vec::new(),
            stop,
            _ends: ends,
            metrics: Arc::default(),
        }
    }

    /// All at once, with nothing kept.
    fn at_once(n: u64, server: &Arc<Server>) -> Self {
        let mut fleet = Self::new(server);
        (0..n).for_each(|_| fleet.start(None, None));
        fleet
    }

    /// One after the other, as if each had been started at some time; until each had to replace its token.
    async fn by_and_by(n: u64, server: &Arc<Server>) -> Self {
        let mut fleet = Self::new(server);
        let mut rng = fastrand::Rng::with_seed(n);
        let mut starts: Vec<_> = (0..n).map(|_| S.mul_f64(REFRESH * rng.f64())).collect();
        starts.sort();
        for start in starts {
            sleep_until(server.start + start).await;
            fleet.start(None, None);
        }
        server.until(REFRESH as u64).await;
        fleet
    }

    /// All at once, on one store.
    async fn on(n: u64, server: &Arc<Server>, shared: &Arc<Shared>) -> Self {
        let mut fleet = Self::new(server);
        fleet.join(n, shared).await;
        fleet
    }

    async fn join(&mut self, n: u64, shared: &Arc<Shared>) {
        for _ in 0..n {
            let stores = Stores::shared(Arc::<Shared>::clone(shared), None);
            let found = Keeper::open::<Kept>(&stores, "token.t.0".into(), &self.clock()).await.unwrap();
            self.start(Some(found.keeper), found.content);
        }
    }

    fn clock(&self) -> Clock {
        self.clocks.clock()
    }

    fn start(&mut self, keeper: Option<Keeper>, kept: Option<Kept>) {
        let slot = Arc::new(Slot::new(self.clock()));
        let task = Task {
            name: "t".into(),
            policy: policy(Grant::ClientCredentials),
            formats: vec![Template::parse("Bearer {access_token}", &["access_token"]).unwrap()],
            slot: Arc::clone(&slot),
            clock: self.clock(),
            rng: fastrand::Rng::with_seed(self.slots.len() as u64),
            metrics: Arc::clone(&self.metrics),
            keeper,
            rotating: None,
        };
        let refresher = Refresher::new(Client(Arc::clone(&self.server)), task, kept, true);
        self.tasks.push(tokio::spawn(refresher.run(self.stop.clone(), self.stop.clone())));
        self.slots.push(slot);
    }

    /// How many have a usable token?
    fn served(&self) -> u64 {
        self.slots.iter().filter(|slot| slot.credential(0).is_some()).count() as u64
    }

    /// All end, and start again from what each left in a store of its own.
    async fn restart(self) -> Self {
        self.stop.cancel();
        let mut fleet = Self { clocks: self.clocks, ..Self::new(&self.server) };
        for task in self.tasks {
            let record = serde_json::to_vec(&task.await.unwrap().kept).unwrap();
            fleet.start(None, Some(Kept::read(&record).unwrap()));
        }
        fleet
    }
}

/// As the page shows it: two digits, and from 100 all of them.
fn figure(figure: f64) -> String {
    let whole = figure.round() as u64;
    match figure {
        _ if whole >= 1000 => format!("{},{:03}", whole / 1000, whole % 1000),
        _ if figure >= 9.95 || (figure - figure.round()).abs() < 0.005 => whole.to_string(),
        _ if figure >= 0.995 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// Holds the cells of a column to what was found: as computed, if there is a formula, and as simulated.
fn cells(table: &str, column: u64, found: &[(&str, Option<f64>, f64)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scale.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = page.lines().map(str::to_owned).collect();
    let split = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let start = lines
        .iter()
        .position(|line| line.contains(table) && line.starts_with('|'))
        .unwrap_or_else(|| panic!("{table}"));
    let name = figure(column as f64);
    let column =
        split(&lines[start]).iter().position(|cell| *cell == name).unwrap_or_else(|| panic!("{table}: {name}"));
    let mut wrong = Vec::new();
    for (row, computed, simulated) in found {
        let line =
            lines[start..].iter_mut().take_while(|line| line.starts_with('|')).find(|line| split(line)[1] == *row);
        let line = line.unwrap_or_else(|| panic!("{table}: {row}"));
        let cell = computed.map_or_else(String::new, |computed| figure(computed) + " · ") + &figure(*simulated);
        let mut row_cells = split(line);
        if row_cells[column] != cell {
            wrong.push(format!("{row}, {name}: {} is {cell}", row_cells[column]));
            row_cells[column] = cell;
            *line = row_cells.join(" | ").trim().to_owned();
        }
    }
    if std::env::var_os("TOKENBROKER_TEST_REWRITE").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    } else {
        assert!(wrong.is_empty(), "docs/scale.md, {table}:\n{}", wrong.join("\n"));
    }
}

/// Which columns are simulated: debug builds take a minute of CPU for an hour of a thousand sidecars.
fn sidecars(quick: u64) -> impl Iterator<Item = u64> {
    let most = std::env::var("TOKENBROKER_TEST_SIDECARS").map_or(quick, |most| most.parse().unwrap());
    [10, 100, 1_000, 10_000].into_iter().filter(move |n| *n <= most)
}

#[tokio::test(start_paused = true)]
async fn alone_each_replaces_its_token_in_its_own_time_and_a_kept_one_survives_a_common_restart() {
    for n in sidecars(100) {
        let server = Server::new(Manners::default());
        let mut fleet = Fleet::by_and_by(n, &server).await;
        let (from, each) = (server.now(), n as f64);
        server.until(from + REFRESH as u64).await;
        let steady = server.calls.total(from..server.now());
        assert!((each * 0.9..=each * 1.1).contains(&f64::from(steady)), "each once: {steady}");
        let busiest = server.calls.most(MINUTE, from..server.now());

        // A restart of them all, with a store of its own each.
        let from = server.now();
        fleet = fleet.restart().await;
        assert_eq!(fleet.served(), n, "each goes on with what it had");
        server.until(from + 2).await;
        let restart = server.calls.total(from..from + 2);
        assert!(f64::from(restart) <= 2.0 + each / 200.0, "nothing but what was due: {restart}");

        // The server is away for an hour.
        let from = server.now();
        server.set(Manners { away: Some(Away::Unavailable), ..Manners::default() });
        server.until(from + 11 * MINUTE).await;
        assert_eq!(fleet.served(), n, "a fifth of the lifetime at least is left");
        server.until(from + HOUR).await;
        assert_eq!(fleet.served(), 0);
        let last = server.calls.total(from + HOUR - 10 * MINUTE..from + HOUR);
        server.set(Manners::default());
        let took = server.gives(n, from + HOUR).await;
        sleep(S).await;
        assert_eq!((fleet.served(), took <= 61), (n, true), "all have one again: {took} s");
        let back = from + HOUR..from + HOUR + took;
        assert_eq!(u64::from(server.calls.total(back.clone())), n, "each asked once");
        cells(
            "alone, calls",
            n,
            &[
                ("in a minute, on average", Some(each * 60.0 / REFRESH), f64::from(steady) * 60.0 / REFRESH),
                ("in the busiest minute", None, busiest.into()),
                ("in a minute while the server is away", Some(each * 60.0 / 45.0), f64::from(last) / 10.0),
                ("in the busiest second when it is back", Some(each / 45.0), server.calls.most(1, back).into()),
                ("seconds until all have a token again", Some(60.0), took as f64),
            ],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn alone_all_that_start_at_once_call_at_once_and_then_within_a_tenth_of_the_lifetime() {
    for n in sidecars(100) {
        let server = Server::new(Manners::default());
        let fleet = Fleet::at_once(n, &server);
        server.until(10).await;
        assert_eq!(fleet.served(), n);
        let first = server.calls.total(0..10);
        let window = (0.70 * LIFETIME) as u64..(0.80 * LIFETIME) as u64 + 1;
        server.until(window.end).await;
        assert_eq!(u64::from(first), n);
        assert_eq!(u64::from(server.calls.total(window.clone())), n, "none earlier, none later");
        let (second, minute) = (server.calls.most(1, window.clone()), server.calls.most(MINUTE, window));
        let each = n as f64;
        cells(
            "alone, calls",
            n,
            &[
                (
                    "in the first second of a common start with nothing kept",
                    Some(each),
                    server.calls.total(0..1).into(),
                ),
                ("in the busiest minute 45 minutes later", Some(each * 60.0 / (0.1 * LIFETIME)), minute.into()),
                ("in the busiest second then", Some(each / (0.1 * LIFETIME)), second.into()),
            ],
        );
    }
}

/// Five hundred start at once at a server that takes only so many.
#[tokio::test(start_paused = true)]
async fn alone_a_server_that_is_overrun_is_not_overrun_in_step_whatever_it_answers() {
    for (name, retry_after) in
        [("without `Retry-After`", None), ("`Retry-After: 10`", Some(10)), ("`Retry-After: 60`", Some(60))]
    {
        for serves in [5, 50] {
            let server = Server::new(Manners { serves: Some((serves, 1)), retry_after, ..Manners::default() });
            let _fleet = Fleet::at_once(500, &server);
            let took = server.gives(500, 0).await;
            let calls = server.calls.total(0..took + 1);
            // In step, all that have none yet would come each time.
            let in_step = 500.0 / f64::from(serves) / 2.0 * 500.0;
            assert!(f64::from(calls) < in_step * 0.75, "{name}, {serves}: {calls}");
            let ideal = 500 / u64::from(serves);
            assert!(took < 4 * ideal + 2 * retry_after.unwrap_or(0), "{name}, {serves}: {took} s");
            cells(
                "tokens a second",
                serves.into(),
                &[
                    (&format!("{name}: seconds until all have one"), Some(ideal as f64), took as f64),
                    (&format!("{name}: calls of each"), None, f64::from(calls) / 500.0),
                ],
            );
        }
    }
}

/// A vendor that gives 5 tokens in 5 minutes to all of them together.
#[tokio::test(start_paused = true)]
async fn alone_five_tokens_in_five_minutes_are_for_five_sidecars_and_with_a_store_for_any_number() {
    for n in [5, 10, 20, 40] {
        let manners = Manners { serves: Some((5, 300)), retry_after: Some(60), ..Manners::default() };
        let server = Server::new(manners);
        let fleet = Fleet::at_once(n, &server);
        let took = server.gives(n, 0).await as f64;
        sleep(S).await;
        assert_eq!(fleet.served(), n);

        let server = Server::new(manners);
        let fleet = Fleet::on(n, &server, &Shared::new()).await;
        sleep(2 * S).await;
        assert_eq!((fleet.served(), server.calls.total(0..u64::MAX)), (n, 1));
        let windows = (n / 5 - 1) as f64;
        cells(
            "5 tokens in 5 minutes",
            n,
            &[
                ("alone: minutes until all have one", Some(5.0 * windows), took / 60.0),
                ("with a store: calls in all", Some(1.0), server.calls.total(0..u64::MAX).into()),
            ],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn however_the_server_is_away_each_asks_once_in_45_seconds_and_has_a_token_a_minute_after() {
    for (away, takes) in [(Away::Unavailable, 0.1), (Away::Refused, 0.0), (Away::Silent, 10.0)] {
        let server = Server::new(Manners { away: Some(away), ..Manners::default() });
        let fleet = Fleet::at_once(20, &server);
        server.until(HOUR).await;
        let rate = f64::from(server.calls.total(HOUR / 2..HOUR)) / (HOUR / 2) as f64;
        let computed = 20.0 / (45.0 + takes);
        assert!((computed * 0.95..computed * 1.05).contains(&rate), "{rate}, {computed}");
        server.set(Manners::default());
        let took = server.gives(20, HOUR).await;
        assert!(took as f64 <= 61.0 + takes, "{took}");
        sleep(S).await;
        assert_eq!((fleet.served(), server.given.total(0..u64::MAX)), (20, 20));
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_store_all_of_them_call_like_one() {
    for n in sidecars(100) {
        let manners = Manners { lifetime: Some(60), ..Manners::default() };
        let (server, shared) = (Server::new(manners), Shared::new());
        let mut fleet = Fleet::on(n, &server, &shared).await;
        server.until(2).await;
        assert_eq!((fleet.served(), server.calls.total(0..2)), (n, 1), "one for all");
        let start = shared.commands.total(0..2);
        assert!(u64::from(start) <= 12 * n, "four looks, and eight more at most: {start}");
        server.until(10).await;
        let rest = f64::from(shared.commands.total(5..10)) / 5.0;
        let each = n as f64;
        assert!((1.9 * each..=2.1 * each).contains(&rest), "each looks twice a second: {rest}");

        server.until(50).await;
        assert_eq!(server.calls.total(10..50), 1, "one replaces it");
        let refresh = shared.commands.most(1, 40..50);
        assert!(u64::from(refresh) <= 8 * n, "two looks, and six more at most: {refresh}");

        cells(
            "with a store, of all",
            n,
            &[
                ("calls at a common start with nothing kept", Some(1.0), server.calls.total(0..2).into()),
                ("calls for each lifetime", Some(1.0), server.calls.total(10..50).into()),
                ("store commands a second, at rest", Some(2.0 * each), rest),
            ],
        );

        if n > 1_000 {
            // Five minutes of so many looks are half an hour of a debug build.
            continue;
        }

        // All end, and start again.
        fleet.stop.cancel();
        for task in std::mem::take(&mut fleet.tasks) {
            assert!(task.await.unwrap().saved);
        }
        let from = server.now();
        fleet = Fleet { clocks: fleet.clocks, ..Fleet::new(&server) };
        fleet.join(n, &shared).await;
        server.until(from + 2).await;
        assert_eq!((fleet.served(), server.calls.total(from..from + 2)), (n, 0), "the store has it");

        // The token server is away.
        let from = server.now();
        server.set(Manners { away: Some(Away::Unavailable), ..manners });
        server.until(from + 5 * MINUTE).await;
        assert_eq!(fleet.served(), 0);
        let away = server.calls.total(from + 2 * MINUTE..from + 5 * MINUTE);
        assert!((3..=6).contains(&away), "like one: {away}");
        server.set(manners);
        let took = server.gives(1, from + 5 * MINUTE).await;
        sleep(S).await;
        assert_eq!(
            (fleet.served(), server.calls.total(from + 5 * MINUTE..u64::MAX), took <= 61),
            (n, 1, true),
            "{took}"
        );
        cells(
            "with a store, of all",
            n,
            &[
                ("calls in a minute while the server is away", Some(60.0 / 45.0), f64::from(away) / 3.0),
                ("calls when it is back", Some(1.0), server.calls.total(from + 5 * MINUTE..u64::MAX).into()),
            ],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_that_they_share_they_spread_over_a_quarter_of_what_is_left() {
    let (n, lifetime) = (100, 160);
    let (server, shared) = (Server::new(Manners { lifetime: Some(lifetime), ..Manners::default() }), Shared::new());
    let fleet = Fleet::on(n, &server, &shared).await;
    server.until(5).await;
    shared.away.store(true, Ordering::Relaxed);
    server.until(lifetime).await;
    assert_eq!((fleet.served(), server.calls.total(5..lifetime)), (n, 100), "each for itself");
    let calls: Vec<_> = (5..lifetime).filter(|second| server.calls.total(*second..second + 1) > 0).collect();
    let spread = calls[calls.len() - 1] - calls[0];
    assert!((6..=12).contains(&spread), "a quarter of 40 s: {calls:?}");
    assert!(server.calls.most(1, 5..lifetime) <= 25, "{calls:?}");
}
