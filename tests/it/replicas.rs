mod crashes;
mod failover;
mod outages;
mod people;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokenbroker::standin::{Fault, OAuth2};

use crate::exchange::OAuth;
use crate::leaks::Scan;
use crate::support::{ADMIN_KEY, Broker, Gate, RedisServer, Reply, Wire, call, eventually, write};

const REPLICAS: usize = 5;
const PASSWORD: &str = "grant = \"password\"\nusername = \"alice\"\npassword = { file = \"password\" }";
const SEEDED: &str = "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }";

/// Brokers that share a Redis, and a token server whose refresh tokens can be used once: who uses one again ends them all.
struct Fleet {
    oauth: OAuth,
    redis: RedisServer,
    /// Before Redis.
    gate: Gate,
    /// Before the token server.
    vendor: Gate,
    seed: String,
    config: String,
    brokers: Vec<Broker>,
}

/// How a store is configured that lies behind this port of this machine.
fn store(port: u16, keys: &str) -> String {
    format!("[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{port}\"\nkey = {{ file = \"store_key\" }}\n{keys}\n")
}

impl Fleet {
    /// With these keys of `[store]`, and these tokens, each with a route of its name; no broker runs yet. `None` where there is
    /// no Redis.
    fn new(lifetime: Duration, keys: &str, tokens: &[(&str, &str)]) -> Option<Self> {
        Some(Self::with(RedisServer::start(&["--appendonly", "yes"])?, lifetime, keys, tokens))
    }

    fn with(redis: RedisServer, lifetime: Duration, keys: &str, tokens: &[(&str, &str)]) -> Self {
        let oauth = OAuth::start(lifetime);
        let gate = Gate::start(local(redis.port));
        let vendor = Gate::start(local(oauth.server.url().rsplit_once(':').unwrap().1.parse().unwrap()));
        let mut config = store(gate.port, keys);
        for (name, keys) in tokens {
            config.push_str(&format!(
                "[token.{name}]\nurl = \"http://127.0.0.1:{}/token\"\nclient_id = \"{}\"\n\
                 client_secret = {{ file = \"secret\" }}\n{keys}\n\
                 [route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
                vendor.port,
                OAuth2::CLIENT_ID,
                oauth.api.url()
            ));
        }
        let seed = oauth.oauth.issuer.refresh_token(None);
        Self { oauth, redis, gate, vendor, seed, config, brokers: Vec::new() }
    }

    /// Starts so many at once.
    fn start(mut self, replicas: usize) -> Self {
        let one = || Broker::start_in(self.directory(), &self.config, |_: &mut Command| {});
        self.brokers = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..replicas).map(|_| scope.spawn(one)).collect();
            starting.into_iter().map(|broker| broker.join().unwrap()).collect()
        });
        self
    }

    fn directory(&self) -> TempDir {
        let directory = self.oauth.directory();
        write(directory.path(), "store_key", "0123456789abcdef0123456789abcdef\n");
        write(directory.path(), "redis_password", "first");
        write(directory.path(), "seed", &self.seed);
        directory
    }

    /// Waits until that holds of a token in each of them.
    #[track_caller]
    fn all(&self, what: &str, token: &str, holds: impl Fn(&Value) -> bool) {
        for (index, broker) in self.brokers.iter().enumerate() {
            eventually(&format!("{token} of broker {index}: {what}"), || holds(&broker.token(token)));
        }
    }

    #[track_caller]
    fn all_serve(&self, token: &str) {
        self.all("is valid", token, |status| status["state"] == "valid");
        for broker in &self.brokers {
            assert_eq!(broker.get(token, "/").status, 200);
        }
    }

    /// Waits until all of them use that access token.
    #[track_caller]
    fn all_have(&self, token: &str, fingerprint: &Value) {
        self.all("is the newest", token, |status| status["fingerprint"] == *fingerprint);
    }

    /// Waits until all of them use the same one.
    #[track_caller]
    fn all_agree(&self, token: &str) {
        let one = || (0..self.brokers.len()).map(|index| self.fingerprint(index, token)).collect::<Vec<_>>();
        eventually(&format!("all have the same token {token}"), || one().windows(2).all(|two| two[0] == two[1]));
        self.all("is valid", token, |status| status["state"] == "valid");
    }

    fn fingerprint(&self, index: usize, token: &str) -> Value {
        self.brokers[index].token(token)["fingerprint"].clone()
    }

    /// A refresh on one of them, which has to succeed; what all have after it.
    #[track_caller]
    fn refreshed(&self, index: usize, token: &str) -> Value {
        let before = self.fingerprint(index, token);
        let reply = self.brokers[index].admin("POST", &format!("/api/tokens/{token}/refresh"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let fingerprint = reply.json()["fingerprint"].clone();
        assert_ne!(fingerprint, before);
        self.all_have(token, &fingerprint);
        fingerprint
    }

    /// Asks one of them for a refresh, and does not wait for it; it goes on when the connection is gone, too.
    fn begin_refresh(&self, index: usize, token: &str) -> Wire {
        let address = self.brokers[index].address("admin");
        let mut wire = Wire::open(address);
        wire.send(format!(
            "POST /api/tokens/{token}/refresh HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\
             Content-Length: 0\r\n\r\n"
        ));
        wire
    }

    /// The same; it returns when the request is at the token server, which has acted on it and answers after `late`.
    fn at_the_server(&self, index: usize, token: &str, late: Duration) -> Wire {
        self.oauth.oauth.faults.set(Some(Fault::Slow(late)), Some(1));
        let before = self.calls();
        let wire = self.begin_refresh(index, token);
        eventually("it is at the token server", || self.calls() > before);
        wire
    }

    fn calls(&self) -> u64 {
        self.oauth.oauth.faults.calls()
    }

    /// The refresh tokens that were sent, in order.
    fn sent(&self) -> Vec<String> {
        let calls = self.oauth.oauth.seen();
        calls.iter().filter_map(|call| call.form().get("refresh_token").map(str::to_owned)).collect()
    }

    /// How many requests had that scope.
    fn scoped(&self, scope: &str) -> usize {
        self.oauth.oauth.seen().iter().filter(|call| call.form().get("scope") == Some(scope)).count()
    }

    /// Refresh tokens that were sent more often than once.
    fn replays(&self) -> usize {
        let mut sent = self.sent();
        let all = sent.len();
        sent.sort();
        sent.dedup();
        all - sent.len()
    }

    fn restart(&mut self, index: usize) {
        let broker = self.brokers.remove(index).killed_and_started();
        self.brokers.insert(index, broker);
    }

    /// Requests to these of them, all the time while `work` goes on; each has to be answered with 200.
    fn serving<T>(&self, replicas: std::ops::Range<usize>, token: &str, work: impl FnOnce() -> T) -> T {
        let addresses: Vec<_> = self.brokers[replicas].iter().map(|broker| broker.address(token)).collect();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let clients: Vec<_> = addresses.iter().map(|address| scope.spawn(|| serves(*address, &over))).collect();
            let ended = Ended(&over);
            let done = work();
            drop(ended);
            for client in clients {
                assert!(client.join().unwrap() > 0);
            }
            done
        })
    }
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn serves(address: SocketAddr, over: &AtomicBool) -> usize {
    let mut requests = 0;
    while !over.load(Ordering::Relaxed) {
        let reply: Reply = call(address, "GET", "/", &[], b"");
        assert_eq!(reply.status, 200, "request {requests} to {address}: {}", reply.text());
        requests += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    requests
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

const HOUR: Duration = Duration::from_secs(3600);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn replicas_that_start_at_once_ask_for_one_token_and_all_serve_with_it() {
    for token in ["", PASSWORD, SEEDED] {
        let Some(fleet) = Fleet::new(HOUR, "", &[("api", token)]) else { return };
        let fleet = fleet.start(REPLICAS);
        fleet.serving(0..REPLICAS, "api", || fleet.all_serve("api"));
        fleet.all_agree("api");
        for broker in &fleet.brokers {
            assert_eq!(broker.admin("GET", "/readyz").status, 200);
        }
        assert_eq!(fleet.calls(), 1, "{token}");
    }
}

/// With everything that Redis is told and keeps.
#[test]
fn over_many_lifetimes_each_refresh_token_is_used_once_all_serve_and_redis_sees_no_secret() {
    let Some(fleet) = Fleet::new(seconds(4), "", &[("api", SEEDED), ("login", PASSWORD)]) else { return };
    let monitor = fleet.redis.monitor();
    let fleet = fleet.start(REPLICAS);
    fleet.all_serve("api");
    fleet.all_serve("login");
    fleet.serving(0..REPLICAS, "api", || {
        fleet.serving(0..REPLICAS, "login", || {
            for _ in 0..4 {
                let before = [fleet.fingerprint(0, "api"), fleet.fingerprint(0, "login")];
                fleet.all("is renewed", "api", |status| status["fingerprint"] != before[0]);
                fleet.all("is renewed", "login", |status| status["fingerprint"] != before[1]);
            }
        });
    });
    assert_eq!((fleet.replays(), fleet.oauth.oauth.issuer.ended()), (0, 0), "each was used once");
    assert!(fleet.sent().len() >= 8);
    let grants = fleet.oauth.oauth.seen();
    let logins = grants.iter().filter(|call| call.form().get("grant_type") == Some("password")).count();
    assert_eq!(logins, 1);

    fleet.redis.cli(&["SAVE"]);
    let mut scan = Scan { secrets: fleet.oauth.oauth.issuer.tokens(), ..Scan::default() };
    scan.secrets.extend([OAuth2::CLIENT_SECRET, OAuth2::PASSWORD].map(str::to_owned));
    scan.look(&monitor.seen());
    let files = look_below(fleet.redis.directory.path(), &mut scan);
    assert!(files >= 3, "MONITOR, AOF and RDB: {files}");
    scan.nothing_came_out();
}

fn look_below(directory: &std::path::Path, scan: &mut Scan) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files = 0;
    for path in entries {
        if path.is_dir() {
            files += look_below(&path, scan);
        } else if path.is_file() {
            scan.look(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
            files += 1;
        }
    }
    files
}

#[test]
fn a_budget_is_that_of_all_replicas_together() {
    let limited = ("api", "limit = \"3 per 1m\"");
    let Some(fleet) = Fleet::new(seconds(2), "", &[limited]) else { return };
    let fleet = fleet.start(REPLICAS);
    eventually("it is used up", || fleet.calls() == 3);
    let issuer = &fleet.oauth.oauth.issuer;
    eventually("what came has ended", || !issuer.tokens().iter().any(|token| issuer.is_good(token)));
    fleet.all("has ended", "api", |status| status["state"] == "expired");
    for broker in &fleet.brokers {
        assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 502);
        assert_eq!(broker.get("api", "/").code(), "token_unavailable");
        let error = broker.token("api")["last_error"].as_str().unwrap().to_owned();
        assert!(error.contains("the limit of 3 per 60 s is used up"), "{error}");
    }
    assert_eq!(fleet.calls(), 3);
}

#[test]
fn a_refused_password_is_sent_as_often_as_by_one_broker() {
    for (fault, sent) in [(None, 1), (Some(Fault::Status(401, None)), 2)] {
        let Some(mut fleet) = Fleet::new(HOUR, "", &[("api", PASSWORD)]) else { return };
        if fault.is_none() {
            fleet.oauth.oauth.issuer.forget_refresh_tokens();
            fleet.config = fleet.config.replace("username = \"alice\"", "username = \"mallory\"");
        }
        fleet.oauth.oauth.faults.set(fault.clone(), None);
        let fleet = fleet.start(REPLICAS);
        fleet.all("is refused", "api", |status| status["state"] == "needs_login" || status["state"] == "rejected");
        for broker in &fleet.brokers {
            assert_eq!(broker.get("api", "/").status, 503);
        }
        std::thread::sleep(seconds(3));
        assert!((1..=sent).contains(&fleet.calls()), "{fault:?}: {}", fleet.calls());
    }
}
