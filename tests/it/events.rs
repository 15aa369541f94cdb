use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokenbroker::standin::Fault;

use crate::exchange::OAuth;
use crate::support::{ADMIN_KEY, Action, Broker, Upstream, Wire, call, eventually, static_route, with_static_token};

const HOUR: Duration = Duration::from_secs(3600);
const ASK: &str = "GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A page that looks on, without a browser.
struct Stream(Wire);

impl Stream {
    /// `None` with the answer's code: it may not.
    fn open(address: SocketAddr) -> Result<Self, String> {
        let mut wire = Wire::open(address);
        wire.send(ASK);
        let head = wire.head().unwrap();
        match head.status {
            200 => {
                assert_eq!(head.header("content-type"), Some("text/event-stream"));
                assert_eq!(head.header("cache-control"), Some("no-store"));
                assert!(head.header("content-security-policy").unwrap().contains("default-src 'none'"));
                assert_eq!((head.header("content-length"), head.header("connection")), (None, Some("close")));
                Ok(Self(wire))
            }
            status => Err(status.to_string()),
        }
    }

    /// The next event; `None` at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        let (mut name, mut data) = (String::new(), None);
        loop {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                line.extend(self.0.exactly(1)?);
            }
            let line = String::from_utf8(line).unwrap();
            match line.trim_end().split_once(": ") {
                Some(("event", text)) => name = text.to_owned(),
                Some(("data", text)) => data = Some(serde_json::from_str(text).unwrap()),
                Some(("", _)) => {}
                None if line == "\n" => match data.take() {
                    Some(data) => return Some((name, data)),
                    None => continue,
                },
                _ => panic!("{line:?}"),
            }
        }
    }

    /// The next event of that name of which that holds.
    fn until(&mut self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (event, data) = self.next().unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event == name && holds(&data) {
                return data;
            }
        }
    }
}

#[test]
fn who_looks_on_gets_the_whole_status_and_then_what_changes() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    let mut stream = Stream::open(broker.address("admin")).ok().unwrap();
    let (name, whole) = stream.next().unwrap();
    assert_eq!((name.as_str(), whole["tokens"]["api"]["state"].as_str()), ("status", Some("valid")));
    assert_eq!((&whole["version"], &whole["inspector"]), (&env!("CARGO_PKG_VERSION").into(), &false.into()));
    let named = |lines: &Value, message: &str, state: &str| {
        let mut lines = lines.as_array().unwrap().iter();
        lines.any(|line| line["message"] == message && line["fields"].to_string().contains(state))
    };
    stream.until("log", |lines| named(lines, "token obtained", "\"token\":\"api\""));
    oauth.oauth.faults.set(Some(Fault::Status(500, None)), None);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 502);
    let patch = stream.until("patch", |patch| patch["tokens"]["api"]["state"] == "degraded");
    assert_eq!(patch["tokens"]["api"]["class"], "transient");
    assert!(patch.get("version").is_none() && patch.get("now").is_none(), "only what changed: {patch}");
    assert!(patch["tokens"]["api"].get("dialect").is_none(), "{patch}");
    // The log may have come with the patch, or before it.
    let mut other = Stream::open(broker.address("admin")).ok().unwrap();
    let lines = other.until("log", |lines| named(lines, "no new token", "transient"));
    let line = lines.as_array().unwrap().iter().find(|line| line["message"] == "no new token").unwrap();
    assert_eq!((&line["level"], &line["fields"]["class"]), (&"warn".into(), &"transient".into()));
    broker.get("api", "/");
    stream.until("patch", |patch| patch["routes"]["api"]["requests"] == 1);
}

#[test]
fn eight_look_on_and_a_ninth_is_told_so_while_the_probes_answer() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let address = broker.address("admin");
    let mut streams: Vec<_> = (0..8).map(|_| Stream::open(address).ok().unwrap()).collect();
    let refused = broker.admin("GET", "/api/events");
    assert_eq!((refused.status, refused.code().as_str()), (503, "busy"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!((broker.admin("GET", "/livez").status, broker.admin("GET", "/readyz").status), (200, 200));
    assert!(streams.iter_mut().all(|stream| stream.next().is_some()));
    // Who goes makes room.
    streams.pop();
    eventually("there is a place", || Stream::open(address).is_ok());
    for method in ["HEAD", "POST", "OPTIONS"] {
        let reply = broker.admin(method, "/api/events");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")), "{method}");
    }
}

#[test]
fn who_does_not_read_is_cut_and_nothing_is_kept_for_it() {
    let upstream = Upstream::ok();
    let broker = Broker::start(&format!("inspector = true\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    let address = broker.address("admin");
    let silent: Vec<_> = (0..8).map(|_| Stream::open(address).ok().unwrap()).collect();
    let (long, before, started) = ("x".repeat(7000), broker.process("VmRSS"), Instant::now());
    // More than the sockets hold, until the first of them is cut.
    while Stream::open(address).is_err() {
        for _ in 0..50 {
            assert_eq!(broker.request("api", "GET", "/", &[("X-Long", &long)], b"").status, 200);
        }
        assert!(started.elapsed() < Duration::from_secs(120), "nobody was cut");
    }
    let grown = broker.process("VmRSS").saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB for eight who do not read");
    drop(silent);
}

#[test]
fn a_drain_ends_the_streams() {
    let upstream = Upstream::start(|_| {
        Action::Take(Box::new(|mut stream| {
            use std::io::{Read, Write};
            // Until the test closes its end.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na");
            let _ = stream.read(&mut [0]);
        }))
    });
    let mut broker = with_static_token(&upstream, "");
    let mut request = Wire::open(broker.address("api"));
    request.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").head().unwrap();
    let mut stream = Stream::open(broker.address("admin")).ok().unwrap();
    broker.signal(Signal::TERM);
    stream.until("end", |_| true);
    assert!(stream.next().is_none(), "it ends");
    drop(request);
    broker.wait();
}

#[test]
fn an_api_that_comes_and_goes_is_one_line_of_the_events() {
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let upstream = Upstream::start({
        let gone = std::sync::Arc::clone(&gone);
        move |_| {
            if gone.load(std::sync::atomic::Ordering::SeqCst) { Action::Close } else { Action::ok("") }
        }
    });
    let broker = with_static_token(&upstream, "methods = [\"POST\"]");
    for round in 0..20 {
        gone.store(round % 2 == 0, std::sync::atomic::Ordering::SeqCst);
        let expected = if round % 2 == 0 { 502 } else { 200 };
        assert_eq!(broker.request("api", "POST", "/", &[], b"x").status, expected);
        assert_eq!(broker.get("api", "/").status, 405, "what a client does wrong is no event");
    }
    let mut stream = Stream::open(broker.address("admin")).ok().unwrap();
    let lines = stream.until("log", |_| true);
    let of = |words: &str| -> Vec<u64> {
        let lines = lines.as_array().unwrap().iter();
        lines.filter(|l| l["message"].as_str().unwrap().contains(words)).map(|l| l["count"].as_u64().unwrap()).collect()
    };
    assert_eq!((of("answered by the broker"), of("the API answers again")), (vec![10], vec![10]), "{lines}");
    assert!(!lines.to_string().contains("method_refused"), "{lines}");
}

#[test]
fn no_foreign_name_and_no_page_of_another_origin_gets_anything() {
    let upstream = Upstream::ok();
    let broker = Broker::start(&format!("inspector = true\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    let address = broker.address("admin");
    let (own, key) = (format!("http://{address}"), format!("Bearer {ADMIN_KEY}"));
    let before = broker.status()["tokens"].clone();
    let reads =
        ["/", "/dashboard/page.js", "/dashboard/page.css", "/api/events", "/api/requests", "/api/status", "/metrics"];
    let posts = [
        "/api/tokens/api/refresh",
        "/api/tokens/api/revoke",
        "/api/tokens/api/access_token",
        "/api/login/api",
        "/api/clients/api/list",
        "/api/secrets/api/rotate",
        "/api/store/token.api/forget",
        "/api/reload",
    ];
    let hosts = ["attacker.example", "attacker.example:8400", "10.0.0.1", "0.0.0.0", "localhost:1", "127.0.0.1.nip.io"];
    let pages: &[&[(&str, &str)]] = &[
        &[],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "http://localhost:1")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Origin", &own), ("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")],
    ];
    let mut judged = 0;
    for path in reads.iter().chain(&posts) {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            for host in std::iter::once(None).chain(hosts.iter().map(Some)) {
                for page in pages {
                    if host.is_none() && page.is_empty() {
                        continue;
                    }
                    let name = host.map_or_else(|| address.to_string(), |host| (*host).to_owned());
                    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {name}\r\nAuthorization: {key}\r\n");
                    page.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
                    let mut wire = Wire::open(address);
                    wire.send(head + "Content-Length: 0\r\nConnection: close\r\n\r\n");
                    let reply = wire.reply(method).unwrap();
                    let expected = if host.is_some() { 421 } else { 403 };
                    assert_eq!(reply.status, expected, "{method} {path} {name} {page:?}");
                    let cors = reply.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
                    assert!(!cors, "{reply:?}");
                    assert!(reply.header("content-security-policy").is_some(), "{reply:?}");
                    judged += 1;
                }
            }
        }
    }
    assert_eq!(judged, 15 * 6 * (7 * 8 - 1));
    assert_eq!(broker.status()["tokens"], before, "and nothing happened");
    // The page itself, as a browser asks for it and for what it needs.
    for (path, site) in [("/", "none"), ("/dashboard/page.js", "same-origin"), ("/api/requests", "same-origin")] {
        let reply = call(address, "GET", path, &[("Sec-Fetch-Site", site)], b"");
        assert_eq!(reply.status, 200, "{path}");
        for (name, words) in [
            ("content-security-policy", "frame-ancestors 'none'"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert!(reply.header(name).is_some_and(|value| value.contains(words)), "{path}: {reply:?}");
        }
    }
    let refresh = call(
        address,
        "POST",
        "/api/tokens/api/refresh",
        &[("Authorization", &key), ("Origin", &own), ("Sec-Fetch-Site", "same-origin")],
        b"",
    );
    assert_eq!(refresh.status, 200);
}
