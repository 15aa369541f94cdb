use std::io::{BufRead, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use tokenbroker::oauth::file::Grant;
use tokenbroker::oauth::template::Template;
use tokenbroker::standin::Fault;
use tokenbroker::store::{FileStore, Seal, Stores};
use tokenbroker::telemetry::metrics::Metrics;
use tokenbroker::token::cache::{Slot, State};
use tokenbroker::token::keeper::{self, Keeper};
use tokenbroker::token::refresh::{Refresher, Task};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::exchange::OAuth;
use crate::refresh::{Bench, Clocks, S, Script, policy};
use crate::store::{Home, PASSWORD, STORE, injecting, kill};
use crate::support::{Action, Broker, PATIENCE, Upstream, Wire, binary, eventually, has, in_namespace, through, write};

const HOUR: Duration = Duration::from_secs(3600);

/// As [`crate::refresh::start`], with a store on the disk.
async fn start_durable(script: &Script, store: &Arc<FileStore>) -> Bench {
    let clocks = Clocks::new();
    let stores = Stores::directory(Arc::clone(store));
    let found = Keeper::open(&stores, keeper::record("t", "0123456789abcdef"), &clocks.clock()).await.unwrap();
    let slot = Arc::new(Slot::new(clocks.clock()));
    let stop = CancellationToken::new();
    let task = Task {
        name: "t".into(),
        policy: policy(Grant::Password),
        formats: vec![Template::parse("Bearer {access_token}", &["access_token"]).unwrap()],
        slot: Arc::clone(&slot),
        clock: clocks.clock(),
        rng: fastrand::Rng::with_seed(1),
        metrics: Arc::new(Metrics::default()),
        keeper: Some(found.keeper),
        rotating: None,
    };
    let refresher = Refresher::new(script.clone(), task, found.content, true);
    let task = Some(tokio::spawn(refresher.run(stop.clone(), stop.clone())));
    Bench { clocks, slot, stop, task }
}

/// The refresh token of the newest record.
fn refresh_token_on_disk(store: &FileStore) -> String {
    let name = store.newest().unwrap().into_keys().next().unwrap();
    let plain = store.load(&name).unwrap().unwrap().plain;
    let record: serde_json::Value = serde_json::from_slice(&plain).unwrap();
    record["refresh_token"]["token"].as_str().unwrap().to_owned()
}

/// Each time the token has ended, one request makes the broker fetch another, and leaves at some moment of that.
#[tokio::test(start_paused = true)]
async fn clients_that_hang_up_during_the_refresh_they_caused_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let seal = || Seal::new(b"0123456789abcdef0123456789abcdef").unwrap();
    let store = Arc::new(FileStore::open(&directory.path().join("kept"), seal()).unwrap());
    let script = Script::new(true);
    script.set_lifetime(Some(HOUR));
    let bench = start_durable(&script, &store).await;
    assert!(bench.wait().await.is_ok());
    for round in 1..=200_usize {
        sleep(2 * S).await;
        bench.clocks.suspend(2 * 3600);
        let patience = Duration::from_millis(fastrand::u64(0..110));
        let _ = tokio::time::timeout(patience, bench.wait()).await;
        sleep(S).await;
        assert_eq!((bench.slot.state(), script.count()), (State::Valid, round + 1), "round {round}");
        assert_eq!(bench.token(), Some(format!("Bearer at-{}", round + 1)));
        assert_eq!(refresh_token_on_disk(&store), format!("rt-{}", round + 1), "durable before it is used");
    }
    let expected: Vec<_> = (1..=200).map(|round| format!("rt-{round}")).collect();
    assert_eq!(script.refresh_tokens(), expected, "each was used once");
}

#[test]
fn two_hundred_clients_that_hang_up_while_tokens_rotate_cost_no_credential() {
    let oauth = OAuth::start(Duration::from_secs(1));
    let home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    write(home.directory.path(), "password", "no longer right");
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_millis(300))), None);
    for _ in 0..200 {
        let mut wire = Wire::open(broker.address("api"));
        wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..20_000)));
    }
    oauth.oauth.faults.set(None, None);
    assert!(oauth.oauth.issuer.issued() >= 2);
    eventually("served", || broker.get("api", "/").status == 200);
    // Between two rotations, so that the kill is not what loses one.
    let issued = oauth.oauth.issuer.issued();
    eventually("another came", || oauth.oauth.issuer.issued() > issued);
    std::thread::sleep(Duration::from_millis(300));
    kill(broker);
    home.broker().wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.issuer.ended(), 0, "none was used twice");
}

/// A home whose token comes from a configured refresh token that the server replaces, and the file that a save goes through.
fn seeded(oauth: &OAuth) -> (Home, PathBuf) {
    let home = Home::new(oauth, "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }");
    let broker = home.broker();
    broker.wait_for_state("api", "needs_login");
    kill(broker);
    let name = home.records()[0].file_stem().unwrap().to_str().unwrap().to_owned();
    assert_eq!(home.run(&["store", "forget", &name]).0, 0);
    write(home.directory.path(), "seed", oauth.oauth.issuer.refresh_token(None));
    let temporary = home.path("kept").join(format!(".{name}.tmp"));
    (home, temporary)
}

/// Did something else end it? It has ended in any case.
fn is_killed(child: &mut Child) -> bool {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    !child.wait().unwrap().success()
}

#[test]
fn a_crash_before_each_step_that_touches_the_new_record_loses_no_credential() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.issuer.set_leeway(Duration::from_secs(60));
    for step in ["openat", "write", "fsync", "rename"] {
        let Some(mut strace) = injecting(&format!("{step}:signal=KILL:when=1")) else { return };
        let (home, temporary) = seeded(&oauth);
        strace.extend(["-P".into(), temporary.to_str().unwrap().to_owned()]);
        let issued = oauth.oauth.issuer.issued();
        let mut broken = home.broken(&strace);
        assert!(is_killed(&mut broken), "{step}: it goes on");
        assert_eq!(oauth.oauth.issuer.issued(), issued + 1, "{step}: by then the server had replaced the token");
        let broker = home.broker();
        broker.wait_for_state("api", "valid");
        assert_eq!((broker.get("api", "/").status, oauth.oauth.issuer.ended()), (200, 0), "{step}");
        assert_eq!(oauth.oauth.issuer.issued(), issued + 2, "{step}: by one refresh");
    }
}

#[test]
fn whatever_a_write_fails_of_requests_are_served_and_it_is_told() {
    let oauth = OAuth::start(HOUR);
    for fault in
        ["write:error=ENOSPC", "write:error=EIO", "write:error=EDQUOT", "openat:error=EROFS", "fsync:error=EIO"]
    {
        let Some(mut strace) = injecting(fault) else { return };
        let (home, temporary) = seeded(&oauth);
        strace.extend(["-P".into(), temporary.to_str().unwrap().to_owned()]);
        let strace: Vec<_> = std::iter::once("strace").chain(strace.iter().map(String::as_str)).collect();
        let broker = home.broker_as(|command| through(command, &strace));
        broker.wait_for_state("api", "valid");
        assert_eq!(broker.get("api", "/").status, 200, "{fault}");
        eventually("it is told", || broker.log().contains("not durable: a restart now could lose the refresh token"));
        assert!(broker.metric("tokenbroker_store_failures_total{token=\"api\"} ") > 0.5, "{fault}");
        assert!(home.records().is_empty(), "{fault}: a save that failed left no record");
        eventually("nothing half is left", || !temporary.exists());
    }
}

#[test]
fn a_full_disk_stops_no_request_and_is_used_again_when_it_has_room() {
    if !has("root") || !has("unshare") {
        return;
    }
    let oauth = OAuth::start(Duration::from_secs(1));
    oauth.oauth.issuer.set_leeway(Duration::from_secs(60));
    let home = Home::new(&oauth, PASSWORD);
    let kept = home.path("kept");
    std::fs::create_dir(&kept).unwrap();
    let mount = format!("mount -t tmpfs -o size=64k,mode=700 none {}", kept.display());
    let broker = home.broker_as(|command| in_namespace(command, &mount));
    broker.wait_for_state("api", "valid");
    let inside = PathBuf::from(format!("/proc/{}/root{}", broker.pid(), kept.display()));
    let filler = inside.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    eventually("it is told", || broker.log().contains("not durable"));
    let issued = oauth.oauth.issuer.issued();
    eventually("tokens are renewed", || {
        assert_eq!(broker.get("api", "/").status, 200);
        oauth.oauth.issuer.issued() > issued + 1
    });
    let halves = || {
        let files = std::fs::read_dir(&inside).unwrap().map(|entry| entry.unwrap());
        files
            .filter(|f| f.file_name().to_str().unwrap().starts_with("token.") && f.metadata().unwrap().len() < 100)
            .count()
    };
    assert_eq!(halves(), 0);
    assert!(!broker.log().contains("the store has everything again"));
    std::fs::remove_file(filler).unwrap();
    eventually("it is durable again", || broker.log().contains("the store has everything again"));
    for entry in std::fs::read_dir(&inside).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), home.path("kept").join(entry.file_name())).unwrap();
    }
    kill(broker);
    std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o700)).unwrap();
    write(home.directory.path(), "password", "no longer right");
    home.broker().wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.issuer.ended(), 0);
}

#[test]
fn twenty_restarts_within_a_tokens_life_cost_one_exchange() {
    let oauth = OAuth::start(Duration::from_secs(600));
    let home = Home::new(&oauth, PASSWORD);
    for _ in 0..20 {
        let broker = home.broker();
        assert_eq!(broker.get("api", "/").status, 200);
        kill(broker);
    }
    assert_eq!(oauth.oauth.faults.calls(), 1);
}

#[test]
fn a_password_that_is_answered_with_401_is_sent_at_most_twice_however_often_the_broker_starts() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), None);
    let home = Home::new(&oauth, PASSWORD);
    for round in 0..6 {
        let broker = home.broker();
        let code = broker.get("api", "/").code();
        assert_eq!(code, "credentials_rejected", "start {round}");
        kill(broker);
    }
    assert!((1..=2).contains(&oauth.oauth.faults.calls()), "{}", oauth.oauth.faults.calls());
}

/// A token server that replaces refresh tokens, and at chosen calls breaks off its answer at a chosen place.
struct Breaking {
    server: Upstream,
    /// Calls whose answer breaks off; and those that are refused.
    lost: Arc<Mutex<Vec<usize>>>,
    refused: Arc<Mutex<Vec<usize>>>,
}

impl Breaking {
    /// `cut` bytes of the answer are sent, then a reset.
    fn start(cut: usize) -> Self {
        let (lost, refused) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (lose, refuse) = (Arc::clone(&lost), Arc::clone(&refused));
        let count = AtomicUsize::new(0);
        let server = Upstream::start(move |_| {
            let call = count.fetch_add(1, Ordering::Relaxed) + 1;
            if refuse.lock().unwrap().contains(&call) {
                let body = r#"{"error":"invalid_grant"}"#;
                let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                return Action::Last(head.into_bytes());
            }
            let body = format!(
                r#"{{"access_token":"at-{call}","token_type":"Bearer","expires_in":3600,"refresh_token":"rt-{call}"}}"#
            );
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if !lose.lock().unwrap().contains(&call) {
                return Action::Last(answer.into_bytes());
            }
            Action::Take(Box::new(move |mut stream: TcpStream| {
                let cut = cut.min(answer.len());
                stream.write_all(&answer.as_bytes()[..cut]).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            }))
        });
        Self { server, lost, refused }
    }

    fn broker(&self, token: &str) -> Broker {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "secret", "s");
        let config = format!(
            "[token.api]\nurl = \"{0}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n{token}\n\
             [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{0}\"\n",
            self.server.url()
        );
        Broker::start_in(directory, &config, |_| {})
    }

    /// What each call was: the refresh token it sent, or the grant.
    fn calls(&self) -> Vec<String> {
        let value = |request: &str, name: &str| {
            let pairs: Vec<(String, String)> = form_urlencoded::parse(request.as_bytes()).into_owned().collect();
            pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
        };
        let bodies = self.server.requests().into_iter().map(|request| String::from_utf8(request.body).unwrap());
        bodies.map(|body| value(&body, "refresh_token").or_else(|| value(&body, "grant_type")).unwrap()).collect()
    }
}

/// Before the head, in it, behind it, in the body.
const CUTS: [usize; 4] = [0, 10, 40, 60];

#[test]
fn a_lost_answer_is_asked_for_again_at_once_and_only_a_definite_refusal_leads_to_the_login() {
    let one = |cut: usize| {
        let breaking = Breaking::start(cut);
        *breaking.lost.lock().unwrap() = vec![2, 4];
        *breaking.refused.lock().unwrap() = vec![5];
        let broker = breaking.broker("grant = \"password\"\nusername = \"u\"\npassword = \"p\"");
        broker.wait_for_state("api", "valid");
        let refreshed = broker.admin("POST", "/api/tokens/api/refresh");
        assert_eq!(
            (refreshed.status, breaking.calls()),
            (200, ["password", "rt-1", "rt-1"].map(str::to_owned).to_vec())
        );
        // Once per process; the second time the delays of failures hold, and the server no longer knows the token.
        assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 502);
        assert_eq!(broker.token("api")["class"], "transient");
        broker.wait_for_state("api", "valid");
        assert_eq!(breaking.calls()[3..], ["rt-3", "rt-3", "password"], "{cut}");
    };
    std::thread::scope(|scope| CUTS.iter().for_each(|cut| drop(scope.spawn(|| one(*cut)))));
}

#[test]
fn a_lost_answer_without_a_login_needs_a_person_once_the_server_refuses_and_no_further_calls() {
    let one = |cut: usize| {
        let breaking = Breaking::start(cut);
        *breaking.lost.lock().unwrap() = vec![1];
        *breaking.refused.lock().unwrap() = (2..100).collect();
        let broker = breaking.broker("grant = \"refresh_token\"\nrefresh_token = \"seed\"");
        broker.wait_for_state("api", "needs_login");
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(broker.get("api", "/").code(), "login_required");
        assert_eq!(breaking.calls(), ["seed", "seed"], "{cut}");
    };
    std::thread::scope(|scope| CUTS.iter().for_each(|cut| drop(scope.spawn(|| one(*cut)))));
}

#[test]
fn an_answer_that_came_whole_counts_even_if_its_connection_is_reset() {
    let breaking = Breaking::start(usize::MAX);
    *breaking.lost.lock().unwrap() = (1..100).collect();
    let broker = breaking.broker("grant = \"refresh_token\"\nrefresh_token = \"seed\"");
    broker.wait_for_state("api", "valid");
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    assert_eq!(breaking.calls(), ["seed", "rt-1"]);
}

#[test]
fn a_store_of_another_owner_is_refused() {
    if !has("root") {
        return;
    }
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    std::fs::create_dir(home.path("kept")).unwrap();
    std::fs::set_permissions(home.path("kept"), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(home.path("kept"), Some(12_345), None).unwrap();
    let (code, _, stderr) = home.run(&["run"]);
    assert!(code == 1 && stderr.contains("must be a directory of this user with mode 0700"), "{stderr}");
}

#[test]
fn root_looks_into_the_store_of_a_broker_of_another_user_and_never_writes_there() {
    if !has("root") {
        return;
    }
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    write(directory.path(), "store_key", "0123456789abcdef0123456789abcdef");
    let path = directory.path().to_owned();
    let config = format!("{STORE}{}", oauth.config(PASSWORD, ""));
    let mut broker = Broker::start_in(directory, &config, |command| {
        let files = std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path());
        files.chain([path.clone()]).for_each(|file| std::os::unix::fs::chown(file, Some(12_345), None).unwrap());
        command.uid(12_345).gid(12_345);
    });
    broker.wait_for_state("api", "valid");
    let commands = [&["check"][..], &["check", "--online"], &["token", "api"], &["status"], &["store", "list"]];
    for command in commands.into_iter().chain([&["reload"][..]]) {
        let (code, stdout, stderr) = broker.command(command);
        assert_eq!((code, stderr.as_str()), (0, ""), "{command:?}: {stdout}");
    }
    broker.admin("POST", "/api/tokens/api/refresh");
    assert_eq!(broker.token("api")["last_error"], serde_json::Value::Null, "it can still save");
    assert!(broker.stop().success());
    let (code, _, stderr) = broker.command(&["token", "api"]);
    assert!(code == 1 && stderr.contains("with mode 0700; run this as its owner"), "{stderr}");
    let files = std::fs::read_dir(broker.directory.path().join("kept")).unwrap();
    assert!(files.flatten().all(|file| file.metadata().unwrap().uid() == 12_345));
}

#[test]
fn no_admin_key_is_written_where_others_could_read_it() {
    let api = Upstream::ok();
    let runtime = tempfile::tempdir().unwrap();
    let place = runtime.path().join("tokenbroker");
    std::fs::create_dir(&place).unwrap();
    for (directory, file, starts, reason) in [
        (0o755, 0o600, true, "so POST requests are refused"),
        (0o700, 0o644, false, "admin.key must be this user's with mode 0600; remove it"),
    ] {
        let key = write(&place, "admin.key", "a former one");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(file)).unwrap();
        std::fs::set_permissions(&place, PermissionsExt::from_mode(directory)).unwrap();
        let own = tempfile::tempdir().unwrap();
        let config = format!("[admin]\nlisten = \"127.0.0.1:0\"\n{}", crate::support::static_route(&api, ""));
        let config = write(own.path(), "t.toml", config);
        let mut command = binary();
        command.arg("-c").arg(config).arg("run").env("XDG_RUNTIME_DIR", runtime.path()).env_remove("RUNTIME_DIRECTORY");
        let mut broker = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut log = std::io::BufReader::new(broker.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(log.any(|line| line.contains(reason)), "{reason}");
        if starts {
            broker.kill().unwrap();
        }
        assert_eq!(broker.wait().unwrap().code(), (!starts).then_some(1));
        let left = std::fs::read_to_string(&key).unwrap_or_default();
        assert!(left.is_empty() || left == "a former one", "no new key: {left}");
    }
}
