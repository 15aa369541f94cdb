use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokenbroker::standin::{Fault, OAuth2};

use crate::exchange::OAuth;
use crate::support::{Broker, binary, eventually, has, write};

const HOUR: Duration = Duration::from_secs(3600);
pub const STORE: &str = "[store]\nkind = \"file\"\npath = \"kept\"\nkey = { file = \"store_key\" }\n";
pub const PASSWORD: &str = "grant = \"password\"\nusername = \"alice\"\npassword = { file = \"password\" }";

/// A directory that outlives the brokers in it.
pub struct Home {
    pub directory: TempDir,
    pub config: String,
}

impl Home {
    pub fn new(oauth: &OAuth, token: &str) -> Self {
        let directory = oauth.directory();
        write(directory.path(), "store_key", "0123456789abcdef0123456789abcdef\n");
        write(directory.path(), "seed", "none");
        Self { directory, config: format!("{STORE}{}", oauth.config(token, "")) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A broker with the files of this directory, which it leaves behind.
    pub fn broker(&self) -> Broker {
        self.broker_as(|_| {})
    }

    /// As [`Self::broker`], with another command.
    pub fn broker_as(&self, adjust: impl FnOnce(&mut Command)) -> Broker {
        let inner = TempDir::with_prefix("broker").unwrap();
        for name in ["secret", "password", "store_key", "seed"] {
            std::os::unix::fs::symlink(self.path(name), inner.path().join(name)).unwrap();
        }
        let kept = format!("path = \"{}\"", self.path("kept").display());
        Broker::start_in(inner, &self.config.replace("path = \"kept\"", &kept), adjust)
    }

    /// A command of the program: exit status, stdout and stderr.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let config = format!("[admin]\nlisten = \"127.0.0.1:0\"\n{}", self.config);
        let file = write(self.directory.path(), "t.toml", config);
        let output = binary().arg("-c").arg(file).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// The records' files, oldest generation first.
    pub fn records(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(self.path("kept")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.file_name().unwrap().to_str().unwrap().starts_with("token."));
        files.sort();
        files
    }
}

pub fn kill(mut broker: Broker) {
    broker.signal(Signal::KILL);
    broker.wait();
}

#[test]
fn a_restart_goes_on_with_the_stored_token_also_when_the_token_server_is_down() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    let broker = home.broker();
    assert_eq!(broker.get("api", "/").status, 200);
    let fingerprint = broker.token("api")["fingerprint"].clone();
    kill(broker);
    oauth.oauth.faults.set(Some(Fault::Status(503, None)), None);
    for _ in 0..3 {
        let mut broker = home.broker();
        assert_eq!(broker.get("api", "/").status, 200);
        assert_eq!(
            (broker.token("api")["state"].clone(), broker.token("api")["fingerprint"].clone()),
            ("valid".into(), fingerprint.clone())
        );
        assert_eq!(broker.stop().code(), Some(0));
    }
    assert_eq!(oauth.oauth.issuer.issued(), 1, "no request for a token after the first");
}

#[test]
fn a_token_that_ended_while_nothing_ran_is_not_sent() {
    let oauth = OAuth::start(Duration::from_secs(2));
    let home = Home::new(&oauth, "");
    let broker = home.broker();
    assert_eq!(broker.get("api", "/").status, 200);
    kill(broker);
    oauth.oauth.faults.set(Some(Fault::Status(503, None)), None);
    std::thread::sleep(Duration::from_secs(2));
    let broker = home.broker();
    assert_eq!(broker.get("api", "/").code(), "token_unavailable");
}

#[test]
fn another_accounts_token_is_never_used() {
    let oauth = OAuth::start(HOUR);
    let mut home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    kill(broker);
    oauth.oauth.faults.set(Some(Fault::Status(503, None)), None);
    home.config = home.config.replace("username = \"alice\"", "username = \"bob\"");
    let broker = home.broker();
    assert_eq!(broker.get("api", "/").code(), "token_unavailable");
    assert!(oauth.echo.seen().is_empty());
}

#[test]
fn a_rotated_refresh_token_is_used_after_a_restart_and_no_login_is_needed() {
    let oauth = OAuth::start(Duration::from_secs(2));
    let home = Home::new(&oauth, PASSWORD);
    for round in 0..4 {
        let broker = home.broker();
        broker.wait_for_state("api", "valid");
        let before = oauth.oauth.issuer.issued();
        eventually("it is renewed", || oauth.oauth.issuer.issued() > before);
        if round == 0 {
            std::fs::write(home.path("password"), "no longer right").unwrap();
        }
        eventually("and durable", || broker.log().matches("token obtained").count() > 1);
        kill(broker);
    }
    assert_eq!(oauth.oauth.issuer.ended(), 0, "none was used twice");
}

#[test]
fn what_was_refused_is_remembered_across_restarts() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, PASSWORD);
    write(home.directory.path(), "password", "wrong");
    for _ in 0..5 {
        let broker = home.broker();
        broker.wait_for_state("api", "needs_login");
        assert_eq!(broker.get("api", "/").code(), "login_required");
        assert!(broker.token("api")["last_error"].as_str().unwrap().starts_with("grant_rejected: "));
        kill(broker);
    }
    assert_eq!(oauth.oauth.faults.calls(), 1, "a locked account is the worst that could come of it");
    write(home.directory.path(), "password", OAuth2::PASSWORD);
    assert_eq!(home.broker().get("api", "/").status, 200, "another password is tried at once");
}

#[test]
fn a_crash_loop_obeys_what_the_server_asked_for() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    oauth.oauth.faults.set(Some(Fault::Status(429, Some(120))), None);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let broker = home.broker();
        let reply = broker.get("api", "/");
        assert_eq!(reply.code(), "token_unavailable");
        waits.push(reply.header("retry-after").unwrap().parse::<u64>().unwrap());
        kill(broker);
    }
    assert_eq!(oauth.oauth.faults.calls(), 1);
    // And up to a quarter longer: it says the same to all.
    assert!(waits.iter().all(|wait| (90..=150).contains(wait)), "{waits:?}");
}

#[test]
fn a_password_whose_login_is_cut_off_by_crashes_is_sent_twice_and_then_waits() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, PASSWORD);
    oauth.oauth.faults.set(Some(Fault::Slow(HOUR)), None);
    for calls in 1..=2 {
        let broker = home.broker();
        eventually("it is sent", || oauth.oauth.faults.calls() == calls);
        kill(broker);
    }
    for _ in 0..3 {
        let broker = home.broker();
        let reply = broker.get("api", "/");
        let wait = reply.header("retry-after").unwrap().parse::<u64>().unwrap();
        assert!((500..=600).contains(&wait), "{wait}");
        kill(broker);
    }
    assert_eq!(oauth.oauth.faults.calls(), 2);
    oauth.oauth.faults.set(None, None);
    let broker = home.broker();
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200, "a person asked");
    kill(broker);
    assert_eq!(home.broker().get("api", "/").status, 200);
}

#[test]
fn commands_find_the_broker_by_its_store_and_its_key_there_also_through_a_link() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    std::fs::create_dir(home.path("real")).unwrap();
    std::fs::set_permissions(home.path("real"), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(home.path("real"), home.path("kept")).unwrap();
    let config = format!("[admin]\nlisten = \"127.0.0.1:0\"\n{}", home.config);
    let file = write(home.directory.path(), "t.toml", config);
    let mut child = binary().arg("-c").arg(&file).arg("run").stderr(Stdio::null()).spawn().unwrap();
    eventually("it can be asked", || home.run(&["reload"]).0 == 0);
    assert!(home.path("real").join("admin.key").exists());
    let (code, _, stderr) = home.run(&["store", "forget", "token"]);
    assert!(code == 1 && stderr.contains("there is no such record"), "a kind is no record: {stderr}");
    assert_eq!(home.run(&["store", "forget", "token.api"]).0, 0);
    child.kill().unwrap();
    child.wait().unwrap();
    // Whoever listens there now must not get the key.
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen =
        format!("[admin]\nlisten = \"{}\"\nkey = \"the-key\"\n{}", stranger.local_addr().unwrap(), home.config);
    write(home.directory.path(), "t.toml", listen);
    let output = binary().arg("-c").arg(&file).arg("reload").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("start it: tokenbroker run"), "{stderr}");
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.accept().is_err(), "nobody came");
}

#[test]
fn a_vendors_limit_holds_across_crashes_and_restarts() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "limit = \"3 per 1h\"");
    oauth.oauth.faults.set(Some(Fault::Status(503, None)), None);
    let mut waits = Vec::new();
    for round in 0..8 {
        let mut broker = home.broker();
        let reply = broker.get("api", "/");
        waits.push(reply.header("retry-after").unwrap().parse::<u64>().unwrap());
        if round % 2 == 0 {
            kill(broker);
        } else {
            assert_eq!(broker.stop().code(), Some(0));
        }
        // What a person asks for does not go beyond it either.
        let broker = home.broker();
        broker.admin("POST", "/api/tokens/api/refresh");
        kill(broker);
    }
    assert_eq!(oauth.oauth.faults.calls(), 3);
    assert!((3500..=3601).contains(waits.last().unwrap()), "{waits:?}");
    let broker = home.broker();
    broker.admin("POST", "/api/tokens/api/refresh");
    let error = broker.token("api")["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("the limit of 3 per 3600 s is used up"), "{error}");
}

#[test]
fn the_client_secret_that_works_is_remembered() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    let two = home
        .config
        .replace("client_secret = { file = \"secret\" }", "client_secret = [\"an-old-one\", { file = \"secret\" }]");
    let home = Home { config: two, ..home };
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    let secrets = broker.token("api")["client_secrets"].clone();
    assert_eq!(
        (&secrets[0]["in_use"], &secrets[0]["refused"]),
        (&false.into(), &"client_rejected".into()),
        "{secrets}"
    );
    assert_eq!((&secrets[1]["in_use"], &secrets[1]["refused"]), (&true.into(), &serde_json::Value::Null), "{secrets}");
    assert!(secrets[1]["source"].as_str().unwrap().starts_with("the file /"), "{secrets}");
    assert_eq!(oauth.oauth.faults.calls(), 2);
    kill(broker);
    let broker = home.broker();
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    assert_eq!(oauth.oauth.faults.calls(), 3, "with the right one at once");
}

#[test]
fn the_key_of_the_store_may_be_any_bytes() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    write(home.directory.path(), "store_key", [[0xff_u8, 0, 10, 0x80].repeat(8), vec![10]].concat());
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    kill(broker);
    assert_eq!(home.run(&["check"]).0, 0);
    write(home.directory.path(), "store_key", [0xff_u8, 0, 10, 0x80].repeat(8));
    assert_eq!(home.broker().get("api", "/").status, 200, "one newline at the end is no part of it");
    assert_eq!(oauth.oauth.issuer.issued(), 1);
    write(home.directory.path(), "store_key", [0xff_u8; 31]);
    let (code, _, stderr) = home.run(&["check"]);
    assert!(code == 78 && stderr.contains("is shorter than 32 bytes"), "{stderr}");
}

#[test]
fn a_store_has_one_owner_and_is_free_when_that_is_killed() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    let broker = home.broker();
    let (code, _, stderr) = home.run(&["run"]);
    assert_eq!(code, 1, "{stderr}");
    let owner = format!("belongs to a broker that runs (admin {}, pid {})", broker.listen("admin"), broker.pid());
    assert!(stderr.contains(&owner), "{stderr}");
    kill(broker);
    assert_eq!(home.broker().get("api", "/").status, 200);
}

#[test]
fn what_is_forgotten_while_a_broker_runs_is_obtained_anew_by_it() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, PASSWORD);
    let mut broker = home.broker();
    broker.wait_for_state("api", "valid");
    let before = broker.token("api")["fingerprint"].clone();
    let record = home.records()[0].file_stem().unwrap().to_str().unwrap().to_owned();
    let (code, stdout, stderr) = broker.command(&["store", "forget", "token.api"]);
    assert_eq!((code, stdout), (0, format!("forgotten: {record}\n")), "{stderr}");
    eventually("another token", || broker.token("api")["fingerprint"] != before);
    broker.wait_for_state("api", "valid");
    assert_eq!(broker.get("api", "/").status, 200);
    eventually("a login: the refresh token is forgotten too", || {
        broker.log().matches("\"by\":\"Acquire\"").count() == 2
    });
    let (code, _, stderr) = broker.command(&["store", "forget", "token.nobody"]);
    assert!(code == 1 && stderr.contains("there is no such record"), "{stderr}");
    assert_eq!(broker.stop().code(), Some(0));
}

#[test]
fn a_damaged_a_swapped_or_a_foreign_record_is_refused_and_nothing_is_overwritten() {
    let oauth = OAuth::start(Duration::from_secs(2));
    let home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    eventually("two generations", || home.records().len() == 2);
    kill(broker);
    let records = home.records();
    let (older, newest) = (std::fs::read(&records[0]).unwrap(), std::fs::read(&records[1]).unwrap());
    assert!(!newest.windows(5).any(|window| window == b"token"), "nothing of it can be read");
    let mut flipped = newest.clone();
    flipped[newest.len() / 2] ^= 1;
    for (what, bytes) in
        [("flipped", &flipped), ("older", &older), ("cut", &newest[..40].to_vec()), ("empty", &Vec::new())]
    {
        std::fs::write(&records[1], bytes).unwrap();
        let (code, _, stderr) = home.run(&["run"]);
        assert_eq!(code, 1, "{what}: {stderr}");
        assert!(stderr.contains("store forget token.api."), "{what}: {stderr}");
        assert_eq!((home.records(), &std::fs::read(&records[1]).unwrap()), (records.clone(), bytes), "{what}");
        assert_eq!(home.run(&["store", "list"]).0, 1);
    }
    std::fs::write(&records[1], &newest).unwrap();
    write(home.directory.path(), "store_key", "another key, which is long enough as well");
    let (code, _, stderr) = home.run(&["run"]);
    assert!(code == 1 && stderr.contains("another store key"), "{stderr}");

    let record = records[0].file_stem().unwrap().to_str().unwrap();
    let (code, stdout, _) = home.run(&["store", "forget", "token.api"]);
    assert_eq!((code, stdout.as_str()), (0, format!("forgotten: {record}\n").as_str()));
    assert!(home.records().is_empty());
    home.broker().wait_for_state("api", "valid");
}

#[test]
fn what_is_kept_can_be_listed_and_exported_and_no_list_shows_a_value() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    let fingerprint = broker.token("api")["fingerprint"].as_str().unwrap().to_owned();
    let (code, stdout, stderr) = home.run(&["store", "list"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.starts_with("token.api.")
            && stdout.contains(&format!("  generation 2: access token {fingerprint} until 20")),
        "{stdout}"
    );
    assert!(stdout.ends_with(", with a refresh token\n"), "{stdout}");
    let (_, listed, _) = home.run(&["store", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let name = list.as_object().unwrap().keys().next().unwrap().clone();
    assert_eq!(list[&name]["kept"]["access_token"], fingerprint);

    let file = home.path("export.json");
    assert_eq!(home.run(&["store", "export", file.to_str().unwrap()]).0, 0);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let exported: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let token = exported[&name]["access"]["token"].as_str().unwrap();
    assert!(oauth.oauth.issuer.is_good(token) && !listed.contains(token) && !stdout.contains(token));
    assert_eq!(home.run(&["store", "export", file.to_str().unwrap()]).0, 1, "nobody's file is written over");
}

#[test]
fn a_store_that_others_can_enter_is_refused() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    std::fs::create_dir(home.path("kept")).unwrap();
    for mode in [0o755, 0o710, 0o701] {
        std::fs::set_permissions(home.path("kept"), PermissionsExt::from_mode(mode)).unwrap();
        let (code, _, stderr) = home.run(&["run"]);
        assert!(code == 1 && stderr.contains("must be a directory of this user with mode 0700"), "{stderr}");
    }
    std::fs::set_permissions(home.path("kept"), PermissionsExt::from_mode(0o700)).unwrap();
    home.broker().wait_for_state("api", "valid");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert!(home.records().iter().all(|file| mode(file) == 0o600));
}

#[test]
fn a_disk_that_fails_stops_no_request_and_everything_is_saved_when_it_works_again() {
    let oauth = OAuth::start(Duration::from_secs(2));
    let home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    std::fs::rename(home.path("kept"), home.path("away")).unwrap();
    eventually("it is told", || broker.log().contains("not durable: a restart now could lose the refresh token"));
    assert_eq!(broker.get("api", "/").status, 200);
    assert!(broker.metric("tokenbroker_store_failures_total{token=\"api\"} ") > 0.5);
    std::fs::rename(home.path("away"), home.path("kept")).unwrap();
    eventually("it is durable again", || broker.log().contains("the store has everything again"));
    kill(broker);
    std::fs::write(home.path("password"), "no longer right").unwrap();
    home.broker().wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.issuer.ended(), 0);
}

/// The arguments of strace that make these calls fail or end the process; `None` where nothing can be traced.
pub fn injecting(what: &str) -> Option<Vec<String>> {
    if !has("strace") || !Command::new("strace").args(["-o", "/dev/null", "true"]).status().unwrap().success() {
        println!("skipped: nothing can be traced here");
        return None;
    }
    let calls = what.split(':').next().unwrap();
    let fixed = ["-D", "-f", "-qq", "-o", "/dev/null", "-e"].map(str::to_owned);
    Some(fixed.into_iter().chain([format!("trace={calls}"), "-e".into(), format!("inject={what}")]).collect())
}

impl Home {
    /// As [`Self::broker`], but some calls of the broker go wrong.
    pub fn broken(&self, strace: &[String]) -> Child {
        let config = format!("[admin]\nlisten = \"127.0.0.1:0\"\n{}", self.config);
        let file = write(self.directory.path(), "t.toml", config);
        let mut command = Command::new("strace");
        command.args(strace).arg(binary().get_program()).arg("-c").arg(file).arg("run");
        command.stderr(Stdio::piped()).spawn().unwrap()
    }
}

#[test]
fn a_crash_between_any_two_steps_of_a_save_leaves_the_old_record_or_the_new_one() {
    let oauth = OAuth::start(Duration::from_secs(1));
    oauth.oauth.issuer.set_leeway(Duration::from_secs(60));
    let home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    eventually("two generations", || home.records().len() == 2);
    kill(broker);
    write(home.directory.path(), "password", "no longer right");
    // Before the file is durable, before it has its name, before that is durable, before the oldest one goes.
    for step in [
        "fsync:signal=KILL:when=1",
        "rename:signal=KILL:when=1",
        "fsync:signal=KILL:when=2",
        "unlink:signal=KILL:when=1",
    ] {
        let Some(strace) = injecting(step) else { return };
        std::thread::sleep(Duration::from_secs(1));
        let issued = oauth.oauth.issuer.issued();
        let mut broken = home.broken(&strace);
        assert_eq!(broken.wait().unwrap().signal(), Some(9), "{step}: it was killed");
        assert_eq!(oauth.oauth.issuer.issued(), issued + 1, "{step}: by then the server had rotated the token");
        let broker = home.broker();
        broker.wait_for_state("api", "valid");
        assert_eq!((broker.get("api", "/").status, oauth.oauth.issuer.ended()), (200, 0), "{step}");
        kill(broker);
    }
}

#[test]
fn a_save_that_fails_at_any_step_is_told_and_never_counts_as_saved() {
    let oauth = OAuth::start(HOUR);
    for step in
        ["fsync:error=EIO:when=1", "fsync:error=EIO:when=2", "rename:error=ENOSPC:when=1", "rename:error=EROFS:when=1"]
    {
        let Some(strace) = injecting(step) else { return };
        let home = Home::new(&oauth, PASSWORD);
        std::fs::create_dir(home.path("kept")).unwrap();
        std::fs::set_permissions(home.path("kept"), PermissionsExt::from_mode(0o700)).unwrap();
        let mut broken = home.broken(&strace);
        let mut log = BufReader::new(broken.stderr.take().unwrap()).lines().map(Result::unwrap);
        let failed = log.find(|line| line.contains("not durable")).unwrap();
        assert!(failed.contains("cannot save token.api."), "{step}: {failed}");
        // The next try of the same process works.
        log.find(|line| line.contains("the store has everything again")).unwrap();
        broken.kill().unwrap();
        broken.wait().unwrap();
        std::thread::spawn(move || log.count());
        eventually("the store is free", || home.run(&["store", "list"]).1.contains("with a refresh token"));
        let left = std::fs::read_dir(home.path("kept")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_str().unwrap().ends_with(".tmp")), "{step}");
    }
}

#[test]
fn a_corrected_secret_is_tried_after_a_restart_wherever_it_stands() {
    let oauth = OAuth::start(HOUR);
    let mut home = Home::new(&oauth, &PASSWORD.replace("{ file = \"password\" }", "\"wrong\""));
    for _ in 0..3 {
        let broker = home.broker();
        broker.wait_for_state("api", "needs_login");
        kill(broker);
    }
    assert_eq!(oauth.oauth.faults.calls(), 1);
    home.config = home.config.replace("\"wrong\"", &format!("\"{}\"", OAuth2::PASSWORD));
    home.broker().wait_for_state("api", "valid");
}

#[test]
fn a_token_obtained_for_something_else_is_not_sent_and_its_refresh_token_is_kept() {
    let oauth = OAuth::start(HOUR);
    for change in ["params = { audience = \"production\" }", "scope = [\"write\"]", "send_to = [\"ORIGIN\"]"] {
        let mut home = Home::new(&oauth, PASSWORD);
        let broker = home.broker();
        broker.wait_for_state("api", "valid");
        let fingerprint = broker.token("api")["fingerprint"].clone();
        kill(broker);
        write(home.directory.path(), "password", "no longer right");
        home.config =
            home.config.replace(PASSWORD, &format!("{PASSWORD}\n{}", change.replace("ORIGIN", &oauth.api.url())));
        let broker = home.broker();
        broker.wait_for_state("api", "valid");
        assert_ne!(broker.token("api")["fingerprint"], fingerprint, "{change}: a new one, by the refresh token");
        write(home.directory.path(), "password", OAuth2::PASSWORD);
    }
}

#[test]
fn a_token_obtained_with_a_value_that_changed_meanwhile_is_not_sent_after_a_restart() {
    let oauth = OAuth::start(HOUR);
    let command = "params = { audience = { exec = [\"/bin/echo\", \"a\"] } }";
    let file = "params = { audience = { file = \"seed\" } }";
    for (params, other) in [(command, false), (file, true)] {
        let home = Home::new(&oauth, &format!("{PASSWORD}\n{params}"));
        let broker = home.broker();
        broker.wait_for_state("api", "valid");
        let first = broker.token("api")["fingerprint"].clone();
        if other {
            write(home.directory.path(), "seed", "another");
            broker.admin("POST", "/api/tokens/api/refresh");
            write(home.directory.path(), "seed", "none");
        }
        kill(broker);
        let broker = home.broker();
        broker.wait_for_state("api", "valid");
        assert_ne!(broker.token("api")["fingerprint"], first);
        assert!(!broker.log().contains("going on with the token of before"), "{params}");
    }
}

#[test]
fn a_mistaken_account_and_back_loses_nothing() {
    let oauth = OAuth::start(HOUR);
    let mut home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    let fingerprint = broker.token("api")["fingerprint"].clone();
    kill(broker);
    write(home.directory.path(), "password", "no longer right");
    let right = home.config.clone();
    home.config = right.replace("username = \"alice\"", "username = \"alcie\"");
    for _ in 0..3 {
        let broker = home.broker();
        broker.wait_for_state("api", "needs_login");
        kill(broker);
    }
    home.config = right;
    let broker = home.broker();
    assert_eq!((broker.get("api", "/").status, broker.token("api")["fingerprint"].clone()), (200, fingerprint));
}

#[test]
fn a_seed_that_comes_back_is_not_sent_again_but_what_came_of_it() {
    let oauth = OAuth::start(Duration::from_secs(1));
    let home = Home::new(&oauth, "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }");
    let seed = oauth.oauth.issuer.refresh_token(None);
    write(home.directory.path(), "seed", &seed);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    kill(broker);
    write(home.directory.path(), "seed", "half a fi");
    let broker = home.broker();
    broker.wait_for_state("api", "needs_login");
    kill(broker);
    write(home.directory.path(), "seed", &seed);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.issuer.ended(), 0);
}

#[test]
fn what_could_not_be_saved_is_saved_before_the_end() {
    let oauth = OAuth::start(Duration::from_secs(2));
    let home = Home::new(&oauth, PASSWORD);
    let mut broker = home.broker();
    broker.wait_for_state("api", "valid");
    std::fs::rename(home.path("kept"), home.path("away")).unwrap();
    eventually("it is told", || broker.log().contains("not durable"));
    let issued = oauth.oauth.issuer.issued();
    eventually("another one came", || oauth.oauth.issuer.issued() > issued);
    std::fs::rename(home.path("away"), home.path("kept")).unwrap();
    assert_eq!(broker.stop().code(), Some(0));
    write(home.directory.path(), "password", "no longer right");
    let mut broker = home.broker();
    broker.wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.issuer.ended(), 0);
    std::fs::rename(home.path("kept"), home.path("away")).unwrap();
    eventually("it is told", || broker.log().contains("not durable"));
    assert_eq!(broker.stop().code(), Some(1), "what is lost is no clean end");
}

/// The server forgives the second use of a refresh token as long as none that came of it was used, as servers that rotate do:
/// the answer may have been lost on the way to the disk.
#[test]
fn kills_at_random_moments_of_rotations_lose_no_credential() {
    let kills = std::env::var("TOKENBROKER_TEST_KILLS").map_or(50, |kills| kills.parse().unwrap());
    let oauth = OAuth::start(Duration::from_secs(1));
    oauth.oauth.issuer.set_leeway(Duration::from_secs(60));
    let home = Home::new(&oauth, PASSWORD);
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    kill(broker);
    write(home.directory.path(), "password", "no longer right");
    for round in 0..kills {
        let broker = home.broker();
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..1_000_000)));
        let state = broker.token("api")["state"].as_str().unwrap().to_owned();
        assert_ne!(state, "needs_login", "round {round}");
        kill(broker);
    }
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    assert_eq!((broker.get("api", "/").status, oauth.oauth.issuer.ended()), (200, 0));
}
