use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokenbroker::standin::Fault;

use crate::door::free_port;
use crate::exchange::OAuth;
use crate::support::{Action, Broker, Upstream, Wire, binary, eventually, static_route, with_static_token, write};

fn slow_upstream(delay: Duration) -> Upstream {
    Upstream::start(move |_| {
        std::thread::sleep(delay);
        Action::ok("done")
    })
}

#[test]
fn sigterm_and_sigint_let_requests_in_flight_finish_and_end_with_zero() {
    for signal in [Signal::TERM, Signal::INT] {
        let upstream = slow_upstream(Duration::from_millis(600));
        let mut broker = with_static_token(&upstream, "");
        let mut busy: Vec<_> = (0..20).map(|_| Wire::open(broker.address("api"))).collect();
        let mut idle = Wire::open(broker.address("api"));
        for wire in &mut busy {
            wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        }
        eventually("all are in flight", || upstream.requests().len() == 20);
        broker.signal(signal);
        assert!(idle.is_closed_within(Duration::from_millis(500)), "idle ones are closed at once");
        eventually("not ready any more", || broker.admin("GET", "/readyz").status == 503);
        assert_eq!(broker.admin("GET", "/livez").status, 200);
        eventually("nobody is accepted", || std::net::TcpStream::connect(broker.address("api")).is_err());
        for wire in &mut busy {
            let reply = wire.reply("GET").unwrap();
            assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
        }
        assert_eq!(broker.wait().code(), Some(0));
        broker.logs("draining; a second signal ends at once");
    }
}

#[test]
fn a_drain_has_a_deadline_and_a_second_signal_ends_at_once() {
    let upstream = slow_upstream(Duration::from_secs(30));
    let mut broker = Broker::start(&format!("[limits]\ndrain_timeout = \"300ms\"\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("in flight", || upstream.requests().len() == 1);
    let began = Instant::now();
    assert_eq!(broker.stop().code(), Some(1), "a request was cut");
    assert!(began.elapsed() < Duration::from_secs(5));

    let mut broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("in flight", || upstream.requests().len() == 2);
    broker.signal(Signal::TERM);
    eventually("draining", || broker.log().contains("draining"));
    let began = Instant::now();
    eventually("a second one", || {
        // What comes at once counts as the first.
        broker.signal(Signal::TERM);
        broker.log().contains("ended without waiting")
    });
    assert_eq!(broker.wait().code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_drain_waits_for_the_token_exchange_in_flight() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_millis(800))), None);
    let mut broker = oauth.broker("", "");
    eventually("it is in flight", || oauth.oauth.issuer.issued() == 1);
    assert_eq!(broker.stop().code(), Some(0));
    eventually("it was finished", || broker.log().contains("token obtained"));
}

#[test]
fn a_tunnel_does_not_hold_up_a_drain_beyond_its_deadline() {
    let upstream = Upstream::start(|_| {
        Action::Take(Box::new(|mut stream| {
            stream.write_all(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
            let _ = stream.read(&mut [0]);
        }))
    });
    let mut broker = Broker::start(&format!("[limits]\ndrain_timeout = \"300ms\"\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(wire.head().unwrap().status, 101);
    assert_eq!(broker.stop().code(), Some(0), "a tunnel that has to end is no failure");
}

#[test]
fn sigterm_acts_while_the_broker_still_starts() {
    let upstream = Upstream::ok();
    let directory = tempfile::tempdir().unwrap();
    let marker = directory.path().join("marker");
    let exec = format!("{{ exec = [\"/bin/sh\", \"-c\", \"touch {}; exec sleep 9\"] }}", marker.display());
    let config = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n{}",
        static_route(&upstream, &format!("headers = {{ X-Key = {exec} }}"))
    );
    let file = write(directory.path(), "t.toml", config);
    let mut broker = binary().args(["run", "-c"]).arg(file).stderr(Stdio::null()).spawn().unwrap();
    eventually("it starts", || marker.exists());
    let began = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&broker), Signal::TERM).unwrap();
    assert_eq!(broker.wait().unwrap().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "it did not wait for the command");
}

#[test]
fn healthcheck_asks_the_running_broker_and_needs_no_secret() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    oauth.oauth.faults.set(Some(Fault::Status(500, None)), None);
    let port = free_port();
    let directory = oauth.directory();
    let config = oauth.config("", "");
    let told = std::cell::Cell::new(String::new());
    let health = |directory: &std::path::Path, arguments: &[&str]| {
        let text = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\n{config}").replace("\"secret\"", "\"not-there\"");
        let file = write(directory, "health.toml", text);
        let output = binary().arg("-c").arg(file).arg("healthcheck").args(arguments).output().unwrap();
        told.set(String::from_utf8(output.stderr).unwrap());
        output.status.code().unwrap()
    };
    assert_eq!(health(directory.path(), &[]), 1, "nobody answers");
    let file =
        write(directory.path(), "t.toml", format!("[admin]\nlisten = \"127.0.0.1:{port}\"\nkey = \"k\"\n{config}"));
    let broker = Broker::start_in(directory, &config, |command| {
        *command = binary();
        command.args(["run", "-c"]).arg(&file).stderr(Stdio::piped());
    });
    let path = broker.directory.path();
    assert_eq!(health(path, &[]), 1, "no token");
    let told = told.take();
    assert!(told.starts_with("[-] token api: ") && told.ends_with("not ready\n"), "{told}");
    assert_eq!(health(path, &["--ready"]), 1);
    assert_eq!(health(path, &["--live"]), 0);
    oauth.oauth.faults.set(None, None);
    eventually("it is ready", || health(path, &[]) == 0);
    assert_eq!(health(path, &["--live", "--ready"]), 2, "one of them");
    for (broken, why) in [
        ("[admin]\nlisten = \"0.0.0.0:1\"\n", ":2:10: admin.listen: other machines"),
        ("[admin]\nlisten \"127.0.0.1:1\"\n", ":2:8: `=` is missing"),
        ("[admin]\nlissen = \"127.0.0.1:1\"\n", ":2:1: admin.lissen: unknown key"),
        ("[admn]\nlisten = \"127.0.0.1:1\"\n", ":1:2: admn: unknown key"),
    ] {
        let broken = write(path, "broken.toml", broken);
        let output = binary().arg("-c").arg(broken).arg("healthcheck").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && stderr.contains(why), "{why}: {stderr}");
    }
}

#[test]
fn status_shows_a_running_brokers_tokens_and_routes_and_says_when_there_is_none() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let mut broker = oauth.broker("", "");
    assert_eq!(broker.get("api", "/").status, 200);
    let admin = broker.listen("admin").to_owned();
    let file = write(broker.directory.path(), "ask.toml", format!("[admin]\nlisten = \"{admin}\"\n"));
    let status = |arguments: &[&str]| {
        let output = binary().arg("-c").arg(&file).arg("status").args(arguments).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, stdout, stderr) = status(&[]);
    assert_eq!(code, 0, "{stderr}");
    let fingerprint = broker.token("api")["fingerprint"].as_str().unwrap().to_owned();
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[1].starts_with("token api: valid, ends in 0:59:"), "{stdout}");
    assert!(lines[1].ends_with(&format!("fingerprint {fingerprint}")), "{stdout}");
    assert!(lines[2].starts_with(&format!("route api: {} to http", broker.listen("api"))), "{stdout}");
    assert!(lines[2].ends_with("token api, 1 requests, 0 answered by the broker"), "{stdout}");
    let json: Value = serde_json::from_str(&status(&["--json"]).1).unwrap();
    assert_eq!(json["tokens"]["api"]["state"], "valid");
    broker.stop();
    let (code, _, stderr) = status(&[]);
    assert!(code == 1 && stderr.contains("is the broker running with this configuration?"), "{stderr}");
}

#[test]
fn status_goes_on_while_the_broker_is_away_and_ends_when_nobody_reads_it() {
    let upstream = Upstream::ok();
    let mut broker = with_static_token(&upstream, "");
    let file =
        write(broker.directory.path(), "ask.toml", format!("[admin]\nlisten = \"{}\"\n", broker.listen("admin")));
    let watch = |arguments: &[&str]| {
        let mut command = binary();
        command
            .arg("-c")
            .arg(&file)
            .args(["status", "--watch"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        (child, lines.map(Result::unwrap))
    };
    let (mut json, mut looks) = watch(&["--json"]);
    for _ in 0..2 {
        let look: Value = serde_json::from_str(&looks.next().unwrap()).unwrap();
        assert_eq!(look["tokens"]["api"]["state"], "valid", "a line each");
    }
    drop(looks);
    eventually("nobody reads it", || json.try_wait().unwrap().is_some_and(|status| status.success()));
    let (mut text, mut looks) = watch(&[]);
    assert!(looks.any(|line| line.starts_with("token api: valid")));
    broker.stop();
    assert!(looks.any(|line| line.contains("is the broker running with this configuration?")));
    assert!(looks.any(|line| line.contains("is the broker running with this configuration?")), "again and again");
    text.kill().unwrap();
    text.wait().unwrap();
}

#[test]
fn a_port_that_is_taken_is_said_and_ends_with_one() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let upstream = Upstream::ok();
    let config = static_route(&upstream, "").replace("listen = \"127.0.0.1:0\"", &format!("listen = \"{address}\""));
    let (code, _, stderr) =
        crate::support::run_to_end(&format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}"), &["run"]);
    assert_eq!(code, 1);
    let expected = format!("route.api.listen: cannot listen on {address}: Address already in use");
    assert!(stderr.contains(&expected) && stderr.contains("or choose another port"), "{stderr}");
    let config = format!("[admin]\nlisten = \"{address}\"\n{}", static_route(&upstream, ""));
    let (code, _, stderr) = crate::support::run_to_end(&config, &["run"]);
    assert!(code == 1 && stderr.contains(&format!("cannot listen on {address} for the operator")), "{stderr}");
}

#[test]
fn logs_are_json_on_a_pipe_and_text_when_asked_for() {
    let upstream = Upstream::ok();
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let directory = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!("[admin]\nlisten = \"{free}\"\n{}", static_route(&upstream, ""));
        let file = write(directory.path(), "t.toml", config);
        let mut command: Command = binary();
        command.arg("-c").arg(file).arg("run").args(arguments).envs(environment.iter().copied());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        eventually("it listens", || std::net::TcpStream::connect(free).is_ok());
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text
    };
    let json = run(&[], &[]);
    for line in json.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["timestamp"].is_string() && entry["level"].is_string() && entry["message"].is_string(), "{line}");
    }
    assert!(json.lines().count() >= 4, "{json}");
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["message"], &first["version"]),
        (&"starting".into(), &env!("CARGO_PKG_VERSION").into()),
        "{json}"
    );
    assert_eq!((&first["tokens"], &first["routes"]), (&1.into(), &1.into()), "{json}");
    assert!(first["config"].as_str().unwrap().ends_with("/t.toml"), "{json}");
    let text = run(&["--log-format", "text"], &[]);
    assert!(text.contains("INFO listening route=\"api\"") && !text.contains('\u{1b}'), "{text}");
    let text =
        run(&[], &[("TOKENBROKER_LOG_FORMAT", "text"), ("TOKENBROKER_LOG_LEVEL", "error"), ("RUST_LOG", "trace")]);
    assert_eq!(text, "");
}
