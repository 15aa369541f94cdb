use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokenbroker::standin::Fault;

use crate::door::free_port;
use crate::exchange::OAuth;
use crate::support::{
    ADMIN_KEY, Action, Broker, HOUR, PATIENCE, Reply, Upstream, Wire, call, eventually, run_to_end, static_route,
};

/// A broker with `[admin] probes`, and where those are.
fn broker(oauth: &OAuth) -> (Broker, SocketAddr) {
    with_probes(oauth.directory(), &oauth.config("", ""))
}

fn with_probes(directory: tempfile::TempDir, config: &str) -> (Broker, SocketAddr) {
    let broker = Broker::start_in(directory, &format!("probes = \"127.0.0.1:0\"\n{config}"), |_| {});
    let mut address = None;
    eventually("the probes listen", || {
        let log = broker.log();
        let mut entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        address = entries.find_map(|entry| entry["probes"].as_str()?.parse().ok());
        address.is_some()
    });
    (broker, address.unwrap())
}

fn get(probes: SocketAddr, target: &str, host: &str) -> Reply {
    let mut wire = Wire::open(probes);
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/1.37\r\n\r\n"));
    let reply = wire.reply("GET").unwrap();
    assert_eq!(reply.header("connection"), Some("close"), "an answer a connection");
    assert!(wire.is_closed_within(Duration::from_secs(10)));
    reply
}

#[test]
fn a_kubelet_finds_life_readiness_and_metrics_under_any_name_and_no_more() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(500, None)), None);
    let (broker, probes) = broker(&oauth);
    broker.wait_for_state("api", "expired");
    for host in ["10.1.2.3:8401", "[fd00::7]:8401", "tokenbroker.default.svc"] {
        assert_eq!((get(probes, "/livez", host).status, get(probes, "/livez", host).text().as_str()), (200, "ok\n"));
        for target in ["/readyz", "/readyz?verbose", "/readyz?verbose=1"] {
            let reply = get(probes, target, host);
            assert_eq!((reply.status, reply.text().as_str()), (503, "not ready\n"), "{target}: no token is named");
        }
    }
    oauth.oauth.faults.set(None, None);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    assert_eq!(get(probes, "/readyz", "10.1.2.3").status, 200);
    let (here, there) = (get(probes, "/metrics", "10.1.2.3"), broker.admin("GET", "/metrics"));
    assert_eq!(here.header("content-type"), there.header("content-type"));
    for family in ["tokenbroker_token_state{", "tokenbroker_requests_total{", "# EOF"] {
        let (here, there) = (here.text().contains(family), there.text().contains(family));
        assert_eq!(here, there, "{family}");
    }
    assert!(here.text().contains("tokenbroker_token_state{"));
    assert_eq!(call(probes, "HEAD", "/readyz", &[], b"").status, 200);
}

#[test]
fn nothing_can_be_done_over_the_probes_and_nothing_else_is_seen() {
    let oauth = OAuth::start(HOUR);
    let (broker, probes) = broker(&oauth);
    broker.wait_for_state("api", "valid");
    let key = format!("Bearer {ADMIN_KEY}");
    let known = [("Authorization", key.as_str())];
    let calls = oauth.oauth.faults.calls();
    for path in [
        "/",
        "/healthz",
        "/api/status",
        "/api/events",
        "/api/requests",
        "/api/reload",
        "/api/tokens/api/refresh",
        "/api/tokens/api/access_token",
        "/livez/",
        "//livez",
        "/livez/../api/status",
        "/%6civez",
    ] {
        for method in ["GET", "HEAD", "POST", "OPTIONS", "DELETE"] {
            let reply = call(probes, method, path, &known, b"");
            assert!((400..=404).contains(&reply.status), "{method} {path}: {reply:?}");
            assert!(!reply.text().contains("fingerprint"), "{method} {path}");
        }
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            let reply = call(probes, method, path, &known, b"");
            assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
        for foreign in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
            let reply = call(probes, "GET", path, &[foreign], b"");
            assert_eq!((reply.status, reply.code().as_str()), (403, "origin_refused"), "{path}: {foreign:?}");
            assert_eq!(reply.header("access-control-allow-origin"), None);
        }
    }
    assert_eq!(oauth.oauth.faults.calls(), calls, "no token was asked for");
}

#[test]
fn connections_that_hold_every_place_of_the_probes_hold_up_nobody_else_and_are_cut() {
    let oauth = OAuth::start(HOUR);
    let (broker, probes) = broker(&oauth);
    broker.wait_for_state("api", "valid");
    let mut idle: Vec<_> = (0..40).map(|_| Wire::open(probes)).collect();
    for wire in &mut idle {
        wire.send("GET /livez HTTP/1.1\r\n");
    }
    assert_eq!(broker.admin("GET", "/livez").status, 200, "the operator's listener has its own places");
    assert_eq!(broker.get("api", "/").status, 200);
    assert_eq!(get(probes, "/livez", "10.1.2.3").status, 200, "and who waits has his turn");
    for wire in &mut idle {
        assert!(wire.is_closed_within(Duration::from_secs(10)), "an unfinished head is not waited for");
    }
}

#[test]
fn whoever_holds_every_place_of_the_probes_keeps_nobody_waiting() {
    let oauth = OAuth::start(HOUR);
    let (_broker, probes) = broker(&oauth);
    // One after the other, 32 at a time and 2 s each, these would take more than half a minute.
    let mut held: Vec<_> = (0..600).map(|_| Wire::open(probes)).collect();
    for wire in &mut held {
        wire.send("GET /livez HTTP/1.1\r\n");
    }
    assert_eq!(get(probes, "/livez", "10.1.2.3").status, 200);
    assert!(held[0].is_closed_within(PATIENCE));
}

#[test]
fn probes_are_off_unless_asked_for_and_answered_until_the_end() {
    let oauth = OAuth::start(HOUR);
    assert!(!oauth.broker("", "").log().contains("\"probes\""));
    // A request whose answer takes its time keeps the drain going.
    let (answer, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |_| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        Action::ok("done")
    });
    let (mut broker, probes) = with_probes(tempfile::tempdir().unwrap(), &static_route(&upstream, ""));
    broker.wait_for_state("api", "valid");
    let mut busy = Wire::open(broker.address("api"));
    busy.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it is in flight", || upstream.requests().len() == 1);
    broker.signal(rustix::process::Signal::TERM);
    eventually("not ready any more", || get(probes, "/readyz", "10.1.2.3").status == 503);
    assert_eq!(get(probes, "/livez", "10.1.2.3").status, 200);
    answer.send(()).unwrap();
    assert_eq!((busy.reply("GET").unwrap().status, broker.wait().code()), (200, Some(0)));
}

#[test]
fn the_probes_have_an_address_of_their_own() {
    let (port, other) = (free_port(), free_port());
    let route = format!("[route.a]\nlisten = \"127.0.0.1:{port}\"\nupstream = \"https://localhost\"\ntoken = false\n");
    for (probes, problem) in [
        (format!("127.0.0.1:{port}"), Some(format!("route.a.listen: 127.0.0.1:{port} is the operator's listener"))),
        (format!("0.0.0.0:{port}"), Some(format!("route.a.listen: 0.0.0.0:{port} is the operator's listener"))),
        (format!("[::]:{port}"), Some(format!("[::]:{port} is the operator's listener; choose another port"))),
        ("0.0.0.0:8400".into(), Some("admin.probes: 127.0.0.1:8400 is the operator's listener".into())),
        ("example.com:1".into(), Some("admin.probes: is not an address to listen on".into())),
        (format!("[::1]:{port}"), None),
        (format!("0.0.0.0:{other}"), None),
        (format!("[::]:{other}"), None),
    ] {
        let (code, _, stderr) = run_to_end(&format!("[admin]\nprobes = \"{probes}\"\n{route}"), &["check"]);
        match problem {
            Some(problem) => assert!(code == 78 && stderr.contains(&problem), "{probes}: {stderr}"),
            None => assert!(code == 0 && stderr.is_empty(), "{probes}: {stderr}"),
        }
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let (code, _, stderr) =
        run_to_end(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nprobes = \"{at}\"\n{route}"), &["run"]);
    assert!(code == 1 && stderr.contains(&format!("admin.probes: cannot listen on {at}")), "{stderr}");
}
