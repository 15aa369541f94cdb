use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokenbroker::clock::{Clock, Now};
use tokenbroker::oauth::file::{ClientAuth, Grant, Op};
use tokenbroker::oauth::request::Inputs;
use tokenbroker::oauth::response::{Access, Answer};
use tokenbroker::oauth::rules::SameToken;
use tokenbroker::oauth::template::Template;
use tokenbroker::oauth::{Class, Outcome, TokenError};
use tokenbroker::secret::Secret;
use tokenbroker::telemetry::metrics::Metrics;
use tokenbroker::token::cache::{Slot, State};
use tokenbroker::token::keeper::Content;
use tokenbroker::token::kept::Kept;
use tokenbroker::token::refresh::{Ended, Refresher, Task};
use tokenbroker::token::schedule::{Policy, Schedule};
use tokenbroker::token::source::{Exchange, Prepared, With};
use tokenbroker::units::Budget;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub const S: Duration = Duration::from_secs(1);

/// Clocks that follow tokio's paused time, and can be set.
#[derive(Clone)]
pub struct Clocks {
    pub start: Instant,
    pub wall_ms: Arc<AtomicI64>,
    pub boot_ms: Arc<AtomicU64>,
}

impl Clocks {
    pub fn new() -> Self {
        Self { start: Instant::now(), wall_ms: Arc::default(), boot_ms: Arc::default() }
    }

    pub fn clock(&self) -> Clock {
        let this = self.clone();
        Clock::new(move || {
            let elapsed = this.start.elapsed();
            let base: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let wall = SignedDuration::from_millis(this.wall_ms.load(Ordering::Relaxed));
            let boot = Duration::from_millis(this.boot_ms.load(Ordering::Relaxed));
            Now { wall: base + elapsed + wall, boot: Duration::from_secs(1000) + elapsed + boot }
        })
    }

    pub fn step_wall(&self, seconds: i64) {
        self.wall_ms.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    /// The machine slept: both clocks went on, tokio's did not.
    pub fn suspend(&self, seconds: u64) {
        self.boot_ms.fetch_add(seconds * 1000, Ordering::Relaxed);
        self.step_wall(i64::try_from(seconds).unwrap());
    }
}

/// A token server that answers by a script; when that is over, always well.
#[derive(Clone)]
pub struct Script(pub Arc<Inner>);

pub struct Inner {
    pub start: Instant,
    pub outcomes: Mutex<VecDeque<Step>>,
    pub calls: Mutex<Vec<Call>>,
    secrets_used: Mutex<Vec<usize>>,
    pub lifetime: Mutex<Option<Duration>>,
    pub refresh_lifetime: Mutex<Option<Duration>>,
    pub takes: Mutex<Duration>,
    pub password: Mutex<String>,
    pub client_secret: Mutex<String>,
    pub seed: Mutex<Option<String>>,
    pub stamp: AtomicU64,
    pub rotates: bool,
}

pub enum Step {
    Fail(TokenError),
    /// No use of the access token, but a new refresh token beside it.
    Unusable,
    Same,
    Panic,
}

pub fn scripted(class: Class, outcome: Outcome) -> TokenError {
    TokenError::new(class, "scripted", "none").of(outcome)
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub op: Op,
    /// Seconds since the start.
    pub at: f64,
    pub refresh_token: Option<String>,
}

impl Script {
    pub fn new(rotates: bool) -> Self {
        Self(Arc::new(Inner {
            start: Instant::now(),
            outcomes: Mutex::default(),
            calls: Mutex::default(),
            secrets_used: Mutex::default(),
            lifetime: Mutex::new(Some(100 * S)),
            refresh_lifetime: Mutex::default(),
            takes: Mutex::new(Duration::from_millis(100)),
            password: Mutex::new("p".into()),
            client_secret: Mutex::new("s".into()),
            seed: Mutex::new(None),
            stamp: AtomicU64::new(0),
            rotates,
        }))
    }

    pub fn fail(&self, class: Class, times: usize) -> &Self {
        let outcome = match class {
            Class::Transient | Class::RateLimited => Outcome::NotJudged,
            Class::Unknown => Outcome::Unclear,
            _ => Outcome::Refused,
        };
        for _ in 0..times {
            self.then(Step::Fail(scripted(class, outcome)));
        }
        self
    }

    pub fn then(&self, step: Step) -> &Self {
        self.0.outcomes.lock().unwrap().push_back(step);
        self
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.calls.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.calls().len()
    }

    pub fn ops(&self) -> Vec<Op> {
        self.calls().iter().map(|call| call.op).collect()
    }

    pub fn refresh_tokens(&self) -> Vec<String> {
        self.calls().into_iter().filter_map(|call| call.refresh_token).collect()
    }

    pub fn set_lifetime(&self, lifetime: Option<Duration>) {
        *self.0.lifetime.lock().unwrap() = lifetime;
    }

    pub fn change_password(&self, password: &str) {
        *self.0.password.lock().unwrap() = password.into();
        self.0.stamp.fetch_add(1, Ordering::Relaxed);
    }

    pub fn change_seed(&self, seed: &str) {
        *self.0.seed.lock().unwrap() = Some(seed.into());
        self.0.stamp.fetch_add(1, Ordering::Relaxed);
    }
}

impl Exchange for Script {
    async fn seed(&self) -> Result<Option<Secret>, TokenError> {
        Ok(self.0.seed.lock().unwrap().clone().map(Secret::new))
    }

    async fn prepare(&self, _: Op, secret: usize) -> Result<Prepared, TokenError> {
        self.0.secrets_used.lock().unwrap().push(secret);
        let inputs = Inputs {
            client_id: Some("c".into()),
            client_secret: Some(Secret::new(self.0.client_secret.lock().unwrap().clone())),
            username: Some("u".into()),
            password: Some(Secret::new(self.0.password.lock().unwrap().clone())),
            ..Inputs::new(Grant::Password, ClientAuth::ClientSecretBasic)
        };
        let proof = inputs.client_secret.clone();
        Ok(Prepared { inputs, access_token: None, secret, secrets: 2, rotated: false, proof })
    }

    async fn exchange(&self, op: Op, prepared: &Prepared) -> Result<Answer, TokenError> {
        let refresh_token = prepared.inputs.refresh_token.as_ref().map(|token| token.expose().to_owned());
        let refresh_token = refresh_token.filter(|_| op == Op::Renew);
        let number = {
            let mut calls = self.0.calls.lock().unwrap();
            calls.push(Call { op, at: self.0.start.elapsed().as_secs_f64(), refresh_token });
            calls.len()
        };
        let takes = *self.0.takes.lock().unwrap();
        sleep(takes).await;
        let step = self.0.outcomes.lock().unwrap().pop_front();
        let mut unusable = false;
        let name = match step {
            Some(Step::Fail(error)) => return Err(error),
            Some(Step::Panic) => panic!("scripted"),
            Some(Step::Same) => "at-same".to_owned(),
            Some(Step::Unusable) => {
                unusable = true;
                String::new()
            }
            None => format!("at-{number}"),
        };
        let lifetime = *self.0.lifetime.lock().unwrap();
        let access = Access { token: Secret::new(name), lifetime, warning: None };
        Ok(Answer {
            access: if unusable { Err(scripted(Class::Unknown, Outcome::NotJudged)) } else { Ok(access) },
            refresh_token: self.0.rotates.then(|| Secret::new(format!("rt-{number}"))),
            refresh_lifetime: *self.0.refresh_lifetime.lock().unwrap(),
        })
    }

    fn stamp(&self) -> u64 {
        self.0.stamp.load(Ordering::Relaxed)
    }

    fn with(&self) -> With {
        With::default()
    }
}

pub struct Bench {
    pub clocks: Clocks,
    pub slot: Arc<Slot>,
    pub stop: CancellationToken,
    pub task: Option<tokio::task::JoinHandle<Ended>>,
}

pub fn policy(grant: Grant) -> Policy {
    Policy {
        grant,
        renews: grant == Grant::Password,
        refresh_at: 0.75,
        default_lifetime: (grant != Grant::Static).then_some(300 * S),
        eager: true,
        rereads: false,
        secrets: 1,
        same_token: SameToken::Never,
        limit: None,
        timeout: 10 * S,
    }
}

pub fn start(script: &Script, policy: Policy) -> Bench {
    let clocks = Clocks::new();
    let slot = Arc::new(Slot::new(clocks.clock()));
    let stop = CancellationToken::new();
    let task = Task {
        name: "t".into(),
        policy,
        formats: vec![Template::parse("Bearer {access_token}", &["access_token"]).unwrap()],
        slot: Arc::clone(&slot),
        clock: clocks.clock(),
        rng: fastrand::Rng::with_seed(1),
        metrics: Arc::new(Metrics::default()),
        keeper: None,
        rotating: None,
    };
    let refresher = Refresher::new(script.clone(), task, None, true);
    let task = Some(tokio::spawn(refresher.run(stop.clone(), stop.clone())));
    Bench { clocks, slot, stop, task }
}

impl Bench {
    pub fn token(&self) -> Option<String> {
        Some(self.slot.credential(0)?.value.to_str().unwrap().to_owned())
    }

    /// As a request would, with five seconds to wait.
    pub async fn wait(&self) -> Result<String, u64> {
        let credential = self.slot.credential_within(0, 5 * S).await;
        credential.map(|c| c.value.to_str().unwrap().to_owned()).map_err(|e| e.retry_after.as_secs())
    }

    /// As a request would whose token the API refused.
    pub async fn refused(&self) -> Option<String> {
        let generation = self.slot.snapshot().generation;
        Some(self.slot.replacement(0, generation, 5 * S).await?.value.to_str().unwrap().to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_ahead_of_its_expiry_within_five_percent_of_the_fraction() {
    let script = Script::new(false);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(10_000 * S).await;
    let at: Vec<_> = script.calls().iter().map(|call| call.at).collect();
    let gaps: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 100, "{gaps:?}");
    assert!(gaps.iter().all(|gap| (69.9..=80.3).contains(gap)), "{gaps:?}");
    let spread = gaps.iter().copied().fold(f64::MIN, f64::max) - gaps.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread > 5.0, "jittered: {spread}");
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn short_lifetimes_cause_no_more_than_one_call_a_second() {
    for lifetime in [Duration::from_millis(1), Duration::from_millis(500), S] {
        let script = Script::new(false);
        script.set_lifetime(Some(lifetime));
        let _bench = start(&script, policy(Grant::ClientCredentials));
        sleep(30 * S).await;
        assert!((28..=31).contains(&script.count()), "{lifetime:?}: {}", script.count());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_that_nobody_tells_is_the_default_and_one_of_a_century_does_not_overflow() {
    let script = Script::new(false);
    script.set_lifetime(None);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(S).await;
    let expires = bench.slot.snapshot().token.as_ref().unwrap().expires.unwrap().wall;
    assert_eq!(expires.to_string(), "2026-01-01T00:05:00Z");

    let script = Script::new(false);
    script.set_lifetime(Some(tokenbroker::units::DURATION_MAX));
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(86_400 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (1, State::Valid));
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_leaves_the_old_token_in_use_until_it_expires() {
    let script = Script::new(false);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(S).await;
    script.fail(Class::Transient, 1000);
    sleep(84 * S).await;
    assert_eq!(bench.slot.state(), State::Degraded);
    assert_eq!(bench.token().unwrap(), "Bearer at-1");
    let error = bench.slot.snapshot().error.clone().unwrap();
    assert_eq!(error.class, Class::Transient);
    sleep(14 * S).await;
    assert_eq!(bench.token().unwrap(), "Bearer at-1", "98.. s after it was requested");
    sleep(3 * S).await;
    assert_eq!((bench.token(), bench.slot.state()), (None, State::Expired));
    script.0.outcomes.lock().unwrap().clear();
    sleep(61 * S).await;
    assert_eq!(bench.slot.state(), State::Valid, "back within a minute");
}

#[tokio::test(start_paused = true)]
async fn the_delays_after_failures_double_to_a_minute_and_come_from_their_upper_half() {
    let script = Script::new(false);
    script.fail(Class::Unknown, 1000);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(600 * S).await;
    let calls = script.calls();
    let gaps: Vec<_> = calls.windows(2).map(|pair| pair[1].at - pair[0].at - 0.1).collect();
    for (gap, whole) in gaps.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
        assert!((whole * 0.49..=whole + 0.1).contains(gap), "{gaps:?}");
    }
    assert!(calls.len() <= 25, "{}", calls.len());
    assert_eq!(bench.slot.state(), State::Expired);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_obeyed_between_a_second_and_five_minutes_and_not_in_step() {
    for (asked, waited, more) in [(0, 1.0, 1.0), (7, 7.0, 1.75), (300, 300.0, 0.0), (86_400, 300.0, 0.0)] {
        let script = Script::new(false);
        let mut error = scripted(Class::RateLimited, Outcome::NotJudged);
        error.retry_after = Some(Duration::from_secs(asked));
        script.then(Step::Fail(error));
        let bench = start(&script, policy(Grant::ClientCredentials));
        sleep(S).await;
        if asked > 1 {
            let told = bench.wait().await.unwrap_err() as f64;
            assert!((waited - 1.0..=waited + more).contains(&told), "{asked}: told to come back after {told} s");
        }
        sleep(400 * S).await;
        let calls = script.calls();
        let gap = calls[1].at - calls[0].at - 0.1;
        assert!((waited..waited + more + 0.1).contains(&gap), "{asked}: {gap}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_tried_every_ten_minutes_on_request_and_when_their_file_changes() {
    for class in [Class::ClientRejected, Class::SecretExpired, Class::Config, Class::UserAction] {
        let script = Script::new(false);
        script.fail(class, 3);
        let bench = start(&script, policy(Grant::ClientCredentials));
        sleep(599 * S).await;
        assert_eq!((script.count(), bench.slot.state()), (1, State::Rejected), "{class}");
        assert!(bench.wait().await.is_err());
        sleep(5 * S).await;
        assert_eq!(script.count(), 2, "{class}: after ten minutes");
        bench.slot.refresh(5 * S).await;
        assert_eq!(script.count(), 3, "{class}: on request");
        script.0.stamp.fetch_add(1, Ordering::Relaxed);
        sleep(31 * S).await;
        assert_eq!((script.count(), bench.slot.state()), (4, State::Valid), "{class}: its file changed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_password_is_sent_at_most_twice_until_it_changes_or_a_person_asks() {
    let script = Script::new(false);
    script.fail(Class::ClientRejected, 5);
    let bench = start(&script, policy(Grant::Password));
    sleep(86_400 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (2, State::Rejected));
    script.change_password("p");
    sleep(86_400 * S).await;
    assert_eq!(script.count(), 2, "the file was touched, the value is the same");
    script.change_password("q");
    sleep(86_400 * S).await;
    assert_eq!(script.count(), 4, "two tries for the new value");
    bench.slot.refresh(5 * S).await;
    assert_eq!(script.count(), 5, "a person asked");
    sleep(610 * S).await;
    assert_eq!(script.count(), 6);
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn whatever_the_refusal_is_called_a_password_is_sent_at_most_twice() {
    for class in [Class::Unknown, Class::ClientRejected, Class::Transient] {
        let script = Script::new(false);
        for _ in 0..50 {
            script.then(Step::Fail(scripted(class, Outcome::Refused)));
        }
        let _bench = start(&script, policy(Grant::Password));
        sleep(86_400 * S).await;
        assert_eq!(script.count(), 2, "{class}");
        script.change_password("corrected");
        sleep(31 * S).await;
        assert_eq!(script.count(), 3, "{class}: a corrected one is tried at once");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_rest_of_a_login_says_nothing_of_the_password() {
    for class in [Class::Config, Class::UserAction, Class::SecretExpired] {
        let script = Script::new(false);
        script.fail(class, 6);
        let bench = start(&script, policy(Grant::Password));
        sleep(3590 * S).await;
        assert_eq!((script.count(), bench.slot.state()), (6, State::Rejected), "{class}: every ten minutes");
        sleep(20 * S).await;
        assert_eq!(bench.slot.state(), State::Valid, "{class}: the vendor mended it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sent_does_not_count_as_refused() {
    let script = Script::new(false);
    script.fail(Class::ClientRejected, 2);
    let bench = start(&script, policy(Grant::Password));
    sleep(700 * S).await;
    for _ in 0..10 {
        script.change_password("p");
        sleep(31 * S).await;
    }
    let error = bench.slot.snapshot().error.clone().unwrap();
    assert_eq!((script.count(), error.fix.matches("not sent again").count()), (2, 1));
    *script.0.client_secret.lock().unwrap() = "the right one".into();
    script.change_password("p");
    sleep(31 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (3, State::Valid), "with another client secret it may be right");
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_a_command_is_read_again_every_ten_minutes_and_sent_when_it_changed() {
    for grant in [Grant::Password, Grant::RefreshToken] {
        let script = Script::new(false);
        *script.0.seed.lock().unwrap() = (grant == Grant::RefreshToken).then(|| "old".into());
        script.fail(Class::GrantRejected, 1);
        let bench = start(&script, Policy { rereads: true, ..policy(grant) });
        sleep(3600 * S).await;
        assert_eq!((script.count(), bench.slot.state()), (1, State::NeedsLogin), "{grant:?}");
        // No file tells.
        *script.0.password.lock().unwrap() = "new".into();
        *script.0.seed.lock().unwrap() = (grant == Grant::RefreshToken).then(|| "new".into());
        sleep(600 * S).await;
        assert_eq!(bench.slot.state(), State::Valid, "{grant:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_make_one_odd_answer_worth_an_hour() {
    let script = Script::new(false);
    script.fail(Class::Transient, 6);
    script.then(Step::Fail(scripted(Class::Transient, Outcome::Unclear)));
    let bench = start(&script, policy(Grant::Password));
    sleep(690 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (8, State::Valid));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_makes_no_sense_never_ends_a_refresh_token_but_gives_way_to_a_login() {
    let unclear = || Step::Fail(scripted(Class::Unknown, Outcome::Unclear));
    let script = Script::new(true);
    script.change_seed("seed");
    for _ in 0..5 {
        script.then(unclear());
    }
    let bench = start(&script, policy(Grant::RefreshToken));
    sleep(120 * S).await;
    assert_eq!((script.refresh_tokens()[..6].to_vec(), bench.slot.state()), (vec!["seed".to_owned(); 6], State::Valid));

    let script = Script::new(true);
    let bench = start(&script, policy(Grant::Password));
    sleep(S).await;
    script.then(unclear()).then(unclear());
    sleep(90 * S).await;
    assert_eq!(script.ops(), [Op::Acquire, Op::Renew, Op::Renew, Op::Acquire]);
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_worked_makes_earlier_refusals_forgotten() {
    let script = Script::new(false);
    let bench = start(&script, policy(Grant::Password));
    for round in 0..4 {
        sleep(S).await;
        script.fail(Class::ClientRejected, 1);
        bench.slot.refresh(5 * S).await;
        assert_eq!(bench.slot.state(), State::Degraded, "{round}");
        bench.slot.refresh(5 * S).await;
        assert_eq!(bench.slot.state(), State::Valid, "{round}");
    }
    script.fail(Class::ClientRejected, 50);
    let before = script.count();
    sleep(86_400 * S).await;
    assert_eq!(script.count() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn a_login_refused_as_a_grant_waits_for_a_person() {
    let script = Script::new(false);
    script.fail(Class::GrantRejected, 1);
    let bench = start(&script, policy(Grant::Password));
    sleep(86_400 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (1, State::NeedsLogin));
    assert_eq!(bench.wait().await, Err(60), "no attempt is planned");
    script.change_password("q");
    sleep(31 * S).await;
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn an_answer_nobody_understands_does_not_hammer_a_password() {
    let script = Script::new(false);
    script.fail(Class::Unknown, 1000);
    let _bench = start(&script, policy(Grant::Password));
    sleep(3590 * S).await;
    assert_eq!(script.count(), 4, "three within half an hour, then one an hour");
    sleep(86_400 * S).await;
    assert!(script.count() <= 28, "{}", script.count());
}

#[tokio::test(start_paused = true)]
async fn renewals_use_each_refresh_token_once_and_keep_it_when_none_comes() {
    let script = Script::new(true);
    let _bench = start(&script, policy(Grant::Password));
    sleep(250 * S).await;
    let used: Vec<_> = script.calls().iter().map(|call| call.refresh_token.clone()).collect();
    assert_eq!(used, [None, Some("rt-1".into()), Some("rt-2".into()), Some("rt-3".into())]);

    let script = Script::new(false);
    script.change_seed("seed");
    let _bench = start(&script, policy(Grant::RefreshToken));
    sleep(250 * S).await;
    assert_eq!(script.refresh_tokens(), ["seed"; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_falls_back_to_the_login_at_once_but_a_failed_one_does_not() {
    let script = Script::new(true);
    let bench = start(&script, policy(Grant::Password));
    sleep(S).await;
    script.fail(Class::GrantRejected, 1);
    sleep(82 * S).await;
    assert_eq!(script.ops(), [Op::Acquire, Op::Renew, Op::Acquire]);
    assert_eq!((bench.token().unwrap().as_str(), bench.slot.state()), ("Bearer at-3", State::Valid));

    script.fail(Class::Transient, 1);
    sleep(82 * S).await;
    assert_eq!(script.ops()[3..], [Op::Renew, Op::Renew], "the refresh token was not refused");
}

#[tokio::test(start_paused = true)]
async fn a_dead_refresh_token_without_a_login_is_never_sent_again_until_a_new_one_is_there() {
    let script = Script::new(true);
    script.change_seed("seed");
    script.fail(Class::GrantRejected, 1);
    let bench = start(&script, policy(Grant::RefreshToken));
    sleep(86_400 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (1, State::NeedsLogin));
    script.change_seed("seed-2");
    sleep(31 * S).await;
    assert_eq!(script.calls()[1].refresh_token.as_deref(), Some("seed-2"));
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_ends_where_a_renewal_leaves_its_end_and_not_where_each_moves_it() {
    for (grant, ends) in [(Grant::RefreshToken, true), (Grant::Password, false)] {
        let script = Script::new(true);
        *script.0.seed.lock().unwrap() = (grant == Grant::RefreshToken).then(|| "seed".into());
        let lives = |seconds| *script.0.refresh_lifetime.lock().unwrap() = Some(seconds * S);
        lives(86_400);
        let bench = start(&script, policy(grant));
        sleep(S).await;
        // In the end the server counts down, and then a person logged in.
        for (lifetime, fixed) in [(86_400, false), (86_400, false), (86_340, true), (86_280, true), (86_400, false)] {
            sleep(60 * S).await;
            lives(lifetime);
            let snapshot = bench.slot.refresh(5 * S).await;
            assert_eq!((snapshot.refresh_ends, snapshot.attempts), (fixed && ends, 0), "{lifetime}");
            assert!(snapshot.refresh_expires_at.is_some());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_beside_an_unusable_access_token_is_kept() {
    let script = Script::new(true);
    script.change_seed("seed");
    script.then(Step::Unusable);
    let bench = start(&script, policy(Grant::RefreshToken));
    sleep(10 * S).await;
    assert_eq!(script.refresh_tokens(), ["seed", "rt-1"], "the one before may be dead already");
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_refused_without_a_reason_is_tried_twice_and_then_gives_way_to_the_login() {
    for class in [Class::Unknown, Class::Config] {
        let script = Script::new(true);
        let _bench = start(&script, policy(Grant::Password));
        sleep(S).await;
        for _ in 0..2 {
            script.then(Step::Fail(scripted(class, Outcome::Refused)));
        }
        sleep(700 * S).await;
        assert_eq!(script.ops()[..4], [Op::Acquire, Op::Renew, Op::Renew, Op::Acquire], "{class}");
        let calls = script.calls();
        assert_eq!(calls[1].refresh_token, calls[2].refresh_token, "{class}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_ends_soon_is_used_before_it_ends() {
    let script = Script::new(true);
    script.set_lifetime(Some(86_400 * S));
    *script.0.refresh_lifetime.lock().unwrap() = Some(1000 * S);
    let _bench = start(&script, policy(Grant::Password));
    sleep(2000 * S).await;
    let calls = script.calls();
    assert_eq!(calls[1].op, Op::Renew);
    assert!((699.0..=801.0).contains(&calls[1].at), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operators_refresh_never_puts_the_configured_refresh_token_over_its_living_descendant() {
    let script = Script::new(true);
    script.change_seed("seed");
    let bench = start(&script, policy(Grant::RefreshToken));
    sleep(S).await;
    bench.slot.refresh(5 * S).await;
    assert_eq!(script.refresh_tokens(), ["seed", "rt-1"]);
    script.fail(Class::GrantRejected, 2);
    sleep(86_400 * S).await;
    assert_eq!(script.refresh_tokens(), ["seed", "rt-1", "rt-2"], "refused, and nothing else is sent by itself");
    bench.slot.refresh(5 * S).await;
    assert_eq!(
        script.refresh_tokens()[3..],
        ["rt-2", "seed"],
        "a person asked: the last one once more, then the configured"
    );
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn an_operators_refresh_that_fails_is_repeated_by_the_delays_of_failures() {
    let script = Script::new(false);
    script.set_lifetime(Some(86_400 * S));
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(S).await;
    script.fail(Class::Transient, 1);
    bench.slot.refresh(5 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (2, State::Degraded));
    sleep(5 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (3, State::Valid));
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_does_not_cut_short_the_time_a_server_asked_for() {
    let script = Script::new(false);
    let mut error = scripted(Class::RateLimited, Outcome::NotJudged);
    error.retry_after = Some(200 * S);
    script.then(Step::Fail(error));
    let _bench = start(&script, policy(Grant::Password));
    sleep(10 * S).await;
    script.change_password("q");
    sleep(180 * S).await;
    assert_eq!(script.count(), 1);
    sleep(70 * S).await;
    assert_eq!(script.count(), 2, "and up to a quarter more");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_once_more_at_once_with_the_same_refresh_token() {
    let lost = || Step::Fail(scripted(Class::Transient, Outcome::Lost));
    let script = Script::new(true);
    let _bench = start(&script, policy(Grant::Password));
    sleep(S).await;
    script.then(lost());
    sleep(82 * S).await;
    let calls = script.calls();
    assert_eq!(calls[1].refresh_token, calls[2].refresh_token);
    assert!(calls[2].at - calls[1].at < 0.2, "at once");
    script.then(lost()).then(lost());
    sleep(82 * S).await;
    let calls = script.calls();
    assert!(calls[4].at - calls[3].at > 0.5, "a second time, the delays of failures hold");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_without_a_token_cause_one_exchange() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 3 * S;
    let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
    let waiters: Vec<_> = (0..1000)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.wait().await })
        })
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().unwrap(), "Bearer at-1");
    }
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_an_exchange_are_told_of_its_failure_at_once() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 2 * S;
    script.fail(Class::Transient, 1000);
    let bench = start(&script, policy(Grant::ClientCredentials));
    let began = Instant::now();
    assert!(bench.wait().await.is_err());
    assert!(began.elapsed() < 3 * S);
    let began = Instant::now();
    assert!(bench.wait().await.is_err(), "the next attempt is known to start later");
    assert!(began.elapsed() < Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_no_longer_than_it_may() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 9 * S;
    let bench = start(&script, policy(Grant::ClientCredentials));
    let began = Instant::now();
    assert!(bench.wait().await.is_err());
    assert_eq!(began.elapsed().as_secs(), 5);
    sleep(5 * S).await;
    assert_eq!(bench.token().unwrap(), "Bearer at-1", "giving up cancelled nothing");
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_while_it_waits_cancels_nothing() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 2 * S;
    let bench = start(&script, policy(Grant::ClientCredentials));
    for _ in 0..50 {
        let _ = tokio::time::timeout(Duration::from_millis(30), bench.wait()).await;
    }
    sleep(S).await;
    assert_eq!((bench.token().unwrap().as_str(), script.count()), ("Bearer at-1", 1));
}

#[tokio::test(start_paused = true)]
async fn a_lazy_token_is_obtained_at_its_first_use() {
    let script = Script::new(false);
    let bench = start(&script, Policy { eager: false, ..policy(Grant::ClientCredentials) });
    sleep(3600 * S).await;
    assert_eq!((script.count(), bench.slot.state()), (0, State::Pending));
    assert_eq!(bench.wait().await.unwrap(), "Bearer at-1");
    sleep(100 * S).await;
    assert_eq!(script.count(), 2, "from then on it is kept fresh");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_api_refused_is_replaced_at_most_twice_a_minute() {
    let script = Script::new(false);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(10 * S).await;
    assert_eq!(bench.refused().await.as_deref(), Some("Bearer at-2"));
    sleep(10 * S).await;
    assert_eq!(bench.refused().await.as_deref(), Some("Bearer at-3"));
    sleep(10 * S).await;
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(bench.refused().await, None, "the API's 401 passes");
    }
    assert!(began.elapsed() < S, "and nobody waits");
    assert_eq!(script.count(), 3);
    sleep(45 * S).await;
    assert_eq!(bench.refused().await.as_deref(), Some("Bearer at-4"), "the minute is over");
}

#[tokio::test(start_paused = true)]
async fn a_request_with_an_older_token_takes_the_newer_one_without_an_exchange() {
    let script = Script::new(false);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(80 * S).await;
    assert_eq!(script.count(), 2);
    let newer = bench.slot.replacement(0, 1, 5 * S).await.unwrap();
    assert_eq!((newer.value.to_str().unwrap(), newer.generation, script.count()), ("Bearer at-2", 2, 2));
}

#[tokio::test(start_paused = true)]
async fn many_refused_requests_cause_one_refresh_and_others_go_on_with_the_token() {
    let script = Script::new(false);
    let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
    sleep(10 * S).await;
    let refused: Vec<_> = (0..200)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.refused().await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(bench.token().unwrap(), "Bearer at-1", "still served while the new one is fetched");
    for one in refused {
        assert_eq!(one.await.unwrap().as_deref(), Some("Bearer at-2"));
    }
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_stays_when_the_refresh_fails_or_brings_the_same_one() {
    let script = Script::new(false);
    script.then(Step::Same).then(Step::Same).fail(Class::Transient, 1);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(10 * S).await;
    assert_eq!(bench.refused().await, None, "the same one came");
    sleep(10 * S).await;
    assert_eq!(bench.refused().await, None, "the refresh failed");
    assert_eq!(script.count(), 3);
    assert_eq!(bench.token().unwrap(), "Bearer at-same");
}

#[tokio::test(start_paused = true)]
async fn a_token_refused_right_after_it_came_is_replaced_after_a_second_at_the_earliest() {
    let script = Script::new(false);
    let bench = start(&script, policy(Grant::ClientCredentials));
    assert_eq!(bench.wait().await.unwrap(), "Bearer at-1");
    assert_eq!(bench.refused().await.as_deref(), Some("Bearer at-2"));
    let calls = script.calls();
    assert!((1.0..1.1).contains(&(calls[1].at - calls[0].at)), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_does_not_make_the_loop_spin() {
    let script = Script::new(false);
    for _ in 0..1000 {
        script.then(Step::Same);
    }
    script.set_lifetime(Some(3600 * S));
    let _bench = start(&script, policy(Grant::ClientCredentials));
    sleep(3 * 3600 * S).await;
    assert!(script.count() < 20, "{}", script.count());
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_the_first_request_waits_for_a_fresh_token() {
    let script = Script::new(false);
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(10 * S).await;
    bench.clocks.suspend(8 * 3600);
    assert_eq!(bench.token(), None, "the old one is never handed out");
    assert_eq!(bench.wait().await.unwrap(), "Bearer at-2");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_costs_at_most_one_refresh_and_never_revives_a_token() {
    const YEARS: i64 = 10 * 365 * 86_400;
    for step in [1, -1, 300, -300, 86_400, -86_400, YEARS, -YEARS] {
        let script = Script::new(false);
        let bench = start(&script, policy(Grant::ClientCredentials));
        sleep(10 * S).await;
        bench.clocks.step_wall(step);
        if step > 100 {
            assert_eq!(bench.token(), None, "{step}");
        }
        assert!(bench.wait().await.is_ok(), "{step}");
        sleep(20 * S).await;
        assert!(script.count() <= 2, "{step}: {}", script.count());
        script.fail(Class::Transient, 1000);
        sleep(100 * S).await;
        assert_eq!(bench.token(), None, "{step}: by the boot clock it is over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_inside_an_exchange_costs_that_exchange_only() {
    let script = Script::new(false);
    script.then(Step::Panic);
    let bench = start(&script, policy(Grant::ClientCredentials));
    assert!(bench.wait().await.is_err());
    sleep(2 * S).await;
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_the_exchange_in_flight() {
    let script = Script::new(true);
    *script.0.takes.lock().unwrap() = 5 * S;
    let mut bench = start(&script, policy(Grant::Password));
    sleep(S).await;
    bench.stop.cancel();
    let began = Instant::now();
    bench.task.take().unwrap().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 4);
    assert_eq!(bench.token().unwrap(), "Bearer at-1");
}

#[tokio::test(start_paused = true)]
async fn a_static_token_is_read_again_when_its_file_changes() {
    let script = Script::new(false);
    script.set_lifetime(None);
    let bench = start(&script, policy(Grant::Static));
    sleep(86_400 * S).await;
    assert_eq!((script.count(), bench.token().unwrap().as_str()), (1, "Bearer at-1"));
    script.0.stamp.fetch_add(1, Ordering::Relaxed);
    sleep(31 * S).await;
    assert_eq!(bench.token().unwrap(), "Bearer at-2");
}

#[tokio::test(start_paused = true)]
async fn a_vendors_limit_is_never_exceeded_and_its_last_place_is_for_who_cannot_wait() {
    let script = Script::new(false);
    *script.0.lifetime.lock().unwrap() = Some(40 * S);
    let limit = Some(Budget { max: 5, per: 300 * S });
    let bench = start(&script, Policy { limit, ..policy(Grant::ClientCredentials) });
    let mut without = 0;
    for _ in 0..3600 {
        // The API refuses each token at once, and an operator asks now and then.
        without += u32::from(bench.wait().await.is_err());
        bench.refused().await;
        if fastrand::u8(..) < 8 {
            bench.slot.refresh(Duration::from_millis(50)).await;
        }
        sleep(S).await;
    }
    let calls = script.calls();
    for window in calls.windows(6) {
        assert!(window[5].at - window[0].at > 300.0, "{window:?}");
    }
    assert!(calls.len() > 50, "{}: what is allowed is used", calls.len());
    assert!(without > 0, "five tokens of 40 s do not last for 300 s");
}

#[tokio::test(start_paused = true)]
async fn with_one_place_left_no_refresh_is_made_ahead_and_a_request_without_a_token_has_it() {
    let script = Script::new(false);
    *script.0.lifetime.lock().unwrap() = Some(100 * S);
    let limit = Some(Budget { max: 2, per: 1000 * S });
    let bench = start(&script, Policy { limit, ..policy(Grant::ClientCredentials) });
    assert!(bench.wait().await.is_ok());
    sleep(95 * S).await;
    assert_eq!(script.calls().len(), 1, "due at 75 s, but it can wait");
    sleep(10 * S).await;
    assert_eq!((script.calls().len(), bench.wait().await.is_ok()), (2, true));
    sleep(100 * S).await;
    let wait = bench.wait().await.unwrap_err();
    assert!((790..=801).contains(&wait), "{wait}: told when the next one may be sent");
    assert_eq!(script.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_two_client_secrets_the_other_is_tried_at_once_and_the_one_that_works_is_kept() {
    for class in [Class::SecretExpired, Class::ClientRejected] {
        let script = Script::new(false);
        script.fail(class, 1);
        let bench = start(&script, Policy { secrets: 2, ..policy(Grant::ClientCredentials) });
        assert!(bench.wait().await.is_ok());
        assert_eq!(*script.0.secrets_used.lock().unwrap(), [0, 1]);
        assert_eq!(bench.slot.snapshot().secrets, (1, [Some(class), None]));
        sleep(100 * S).await;
        let used = script.0.secrets_used.lock().unwrap().clone();
        assert!(used.len() > 2 && used[2..].iter().all(|one| *one == 1), "{used:?}");
        // Both are refused: two requests, and then the long wait.
        script.fail(class, 2);
        let before = script.calls().len();
        bench.slot.refresh(S).await;
        sleep(60 * S).await;
        assert_eq!(script.calls().len(), before + 2);
        assert_eq!(bench.slot.snapshot().secrets.1, [Some(class), Some(class)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_password_is_sent_twice_at_most_also_with_two_client_secrets() {
    let script = Script::new(false);
    script.fail(Class::ClientRejected, 100);
    let bench = start(&script, Policy { secrets: 2, ..policy(Grant::Password) });
    sleep(24 * 3600 * S).await;
    assert_eq!(script.calls().len(), 2);
    assert_eq!(bench.slot.state(), State::Rejected);
}

#[tokio::test(start_paused = true)]
async fn where_a_login_gives_the_same_token_until_its_end_it_is_not_asked_for_before() {
    let script = Script::new(false);
    let bench = start(&script, Policy { same_token: SameToken::UntilExpiry, ..policy(Grant::ClientCredentials) });
    assert!(bench.wait().await.is_ok());
    sleep(99 * S).await;
    assert_eq!(script.calls().len(), 1);
    sleep(2 * S).await;
    assert_eq!(script.calls().len(), 2, "at its end, without being asked");
    let script = Script::new(false);
    let remaining = SameToken::UntilRemaining(10 * S);
    let bench = start(&script, Policy { same_token: remaining, ..policy(Grant::ClientCredentials) });
    assert!(bench.wait().await.is_ok());
    sleep(89 * S).await;
    assert_eq!(script.calls().len(), 1);
    sleep(2 * S).await;
    assert_eq!(script.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_never_left_this_machine_does_not_count_against_the_vendors_limit() {
    let script = Script::new(false);
    for _ in 0..20 {
        script.then(Step::Fail(scripted(Class::Transient, Outcome::NotSent)));
    }
    let limit = Some(Budget { max: 5, per: 300 * S });
    let bench = start(&script, Policy { limit, ..policy(Grant::ClientCredentials) });
    sleep(90 * S).await;
    assert!(script.calls().len() > 5, "{:?}", script.calls());
    sleep(1200 * S).await;
    assert!(bench.wait().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_operators_refresh_beyond_the_limit_is_told_and_does_not_take_the_last_place() {
    let script = Script::new(false);
    *script.0.lifetime.lock().unwrap() = Some(40 * S);
    let limit = Some(Budget { max: 2, per: 1000 * S });
    let bench = start(&script, Policy { limit, ..policy(Grant::ClientCredentials) });
    assert!(bench.wait().await.is_ok());
    sleep(2 * S).await;
    let told = bench.slot.refresh(5 * S).await;
    assert_eq!(told.error.as_ref().unwrap().class, Class::RateLimited);
    assert_eq!(script.calls().len(), 1);
    sleep(40 * S).await;
    assert!(bench.wait().await.is_ok(), "the last place was kept for this");
    assert_eq!(script.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn logins_whose_answers_are_lost_are_not_repeated_every_minute() {
    let script = Script::new(false);
    for _ in 0..100 {
        script.then(Step::Fail(scripted(Class::Transient, Outcome::Lost)));
    }
    let _bench = start(&script, policy(Grant::Password));
    sleep(3600 * S).await;
    assert!((5..=10).contains(&script.calls().len()), "{}", script.calls().len());
    let script = Script::new(false);
    for _ in 0..100 {
        script.then(Step::Panic);
    }
    let _bench = start(&script, policy(Grant::Password));
    sleep(3600 * S).await;
    assert!((5..=10).contains(&script.calls().len()), "{}", script.calls().len());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_is_refused_in_unknown_words_is_tried_again_after_ten_minutes_only() {
    let script = Script::new(false);
    *script.0.seed.lock().unwrap() = Some("rt-0".into());
    script.then(Step::Fail(scripted(Class::Unknown, Outcome::Refused)));
    let bench = start(&script, policy(Grant::RefreshToken));
    sleep(590 * S).await;
    assert_eq!(script.calls().len(), 1);
    sleep(20 * S).await;
    assert!(bench.wait().await.is_ok(), "it was a mistake of ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_url_does_not_end_a_refresh_token() {
    let script = Script::new(false);
    *script.0.seed.lock().unwrap() = Some("rt-0".into());
    script.fail(Class::Config, 5);
    *script.0.lifetime.lock().unwrap() = Some(36_000 * S);
    let bench = start(&script, policy(Grant::RefreshToken));
    sleep(3600 * S).await;
    assert!(bench.wait().await.is_ok());
    assert_eq!(script.calls().len(), 6);
}

/// The answer to a refresh token.
fn renewed(refresh_token: &str) -> Answer {
    let access = Access { token: Secret::new("at".to_owned()), lifetime: Some(Duration::from_secs(60)), warning: None };
    let refresh_token = Some(Secret::new(refresh_token.to_owned()));
    Answer { access: Ok(access), refresh_token, refresh_lifetime: None }
}

#[test]
fn what_came_of_a_configured_refresh_token_is_not_forgotten_for_what_came_of_another() {
    let now = Now { wall: "2026-01-01T00:00:00Z".parse().unwrap(), boot: Duration::from_secs(5000) };
    let begun = |seed: &str, newest: &[&str]| {
        let mut schedule = Schedule::new(policy(Grant::RefreshToken));
        assert_eq!(schedule.start(now, Some(&Secret::new(seed.to_owned()))), Op::Renew);
        newest.iter().for_each(|newest| schedule.took(&renewed(newest), now, Op::Renew));
        schedule.keep(now)
    };
    let sends = |schedule: &mut Schedule, seed: &str| {
        schedule.start(now, Some(&Secret::new(seed.to_owned())));
        schedule.refresh_token().unwrap().expose().to_owned()
    };
    let goes_on = |with: &Kept| {
        let mut schedule = Schedule::new(policy(Grant::RefreshToken));
        schedule.restore(&mut with.clone(), None, true, now);
        schedule
    };
    // Another replica goes on from the first person's, and learns of the second's; then it is configured with that.
    let mut one = begun("first", &["first-1"]);
    assert!(one.recall(&begun("second", &["second-1"])));
    assert!(!one.recall(&begun("second", &["second-1"])), "it knew that");
    assert!(one.recall(&begun("second", &["second-1", "second-2"])), "which came after");
    assert!(!one.recall(&begun("second", &["second-1"])), "which came before");
    assert!(!one.recall(&begun("first", &["first-0"])), "of its own it knows itself");
    assert!(!one.recall(&Kept { cleared: 1, ..begun("third", &["third-1"]) }), "somebody gave up what there was");
    let mut goes_on = goes_on(&one);
    assert_eq!(sends(&mut goes_on, "second"), "second-2");
    assert_eq!(sends(&mut goes_on, "first"), "first-1");
    // So many, and no more.
    let mut crowded = begun("first", &["first-1"]);
    let known = (0..20).filter(|one| crowded.recall(&begun(&format!("seed-{one}"), &["next"]))).count();
    assert_eq!(known, 8);
}
