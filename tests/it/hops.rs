use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::{Action, Broker, Upstream, Wire, static_route, with_static_token};

/// Passes connections on to wherever it is told later, as a port-forward does, and counts them.
struct Relay {
    port: u16,
    to: Arc<Mutex<Option<SocketAddr>>>,
    count: Arc<AtomicUsize>,
}

impl Relay {
    /// Changes the port in `Host` to that of the target, as a proxy in the way may.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Self { port, to: Arc::default(), count: Arc::default() };
        let (to, count) = (Arc::clone(&relay.to), Arc::clone(&relay.count));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let target = to.lock().unwrap().unwrap();
                let there = TcpStream::connect(target).unwrap();
                let ends = [(&stream, &there), (&there, &stream)]
                    .map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()));
                for (mut from, mut to) in ends {
                    std::thread::spawn(move || {
                        let mut chunk = [0; 65_536];
                        while let Ok(n @ 1..) = from.read(&mut chunk) {
                            let text = String::from_utf8_lossy(&chunk[..n])
                                .replace(&format!(":{port}"), &format!(":{}", target.port()));
                            if to.write_all(text.as_bytes()).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        relay
    }
}

#[test]
fn a_request_that_comes_back_to_the_broker_ends_after_one_round() {
    let relay = Relay::start();
    let broker = Broker::start(&format!(
        "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://127.0.0.1:{}\"\ntoken = false\n",
        relay.port
    ));
    *relay.to.lock().unwrap() = Some(broker.address("api"));
    for method in ["GET", "POST"] {
        let before = relay.count.load(Ordering::SeqCst);
        let reply = broker.request("api", method, "/x", &[], b"");
        assert_eq!((reply.status, reply.code().as_str()), (508, "loop"), "{reply:?}");
        assert!(relay.count.load(Ordering::SeqCst) <= before + 1, "it went round once");
    }
    crate::support::eventually("it is in the log", || broker.log().contains("leads back to it"));
    let requests = broker.metric("tokenbroker_requests_total{route=\"api\",status_class=\"5xx\",origin=\"broker\"}");
    assert!((requests - 2.0).abs() < 0.1, "those that came back; the others are answered with theirs: {requests}");
}

#[test]
fn every_request_bears_the_brokers_mark_and_one_broker_may_stand_behind_another() {
    let upstream = Upstream::ok();
    let inner = with_static_token(&upstream, "");
    let outer = Broker::start(&format!(
        "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{}\"\ntoken = false\n",
        inner.address("api")
    ));
    assert_eq!(outer.request("api", "GET", "/", &[("X-Tokenbroker-Hop", "somebody else")], b"").status, 200);
    let request = upstream.only();
    let marks = request.all("x-tokenbroker-hop");
    assert_eq!((marks.len(), marks[0]), (3, "somebody else"), "{}", request.head);
    assert_ne!(marks[1], marks[2]);
    // What each of them left is known again, in its own mark and as a pseudonym.
    for (broker, mark) in [(&outer, marks[1]), (&inner, marks[2])] {
        for (name, value) in [("X-Tokenbroker-Hop", mark.to_owned()), ("Via", format!("1.0 other, 1.1 {mark} (x)"))] {
            let reply = broker.request("api", "GET", "/", &[(name, &value)], b"");
            assert_eq!((reply.status, reply.code().as_str()), (508, "loop"), "{name}");
        }
    }
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(request.one("via"), None, "nobody asked for it");
    assert_eq!(request.one("forwarded"), None);
}

#[test]
fn a_request_that_came_back_ends_its_connection_in_its_turn_and_nothing_behind_it_is_read() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    assert_eq!(broker.get("api", "/").status, 200);
    let own = upstream.only().one("x-tokenbroker-hop").unwrap().to_owned();
    let request = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let came_back = [
        format!("X-Tokenbroker-Hop: other\r\nX-Tokenbroker-Hop: {own}\r\n"),
        format!("X-TOKENBROKER-HOP: {}\r\n", own.to_uppercase()),
        format!("Via: 1.1 other, 1.1 {own}\r\n"),
    ];
    for (round, field) in came_back.iter().enumerate() {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(request("/before", "") + &request("/back", field) + &request("/behind", ""));
        assert_eq!(wire.reply("GET").unwrap().status, 200);
        let reply = wire.reply("GET").unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (508, "loop"), "{field}");
        assert!(wire.rest().is_empty(), "{field}");
        assert_eq!(upstream.requests().len(), 2 + round, "{field}");
    }
    // A mark in a broken head is no mark: the head is refused.
    let broken = request("/back", &format!("X-Tokenbroker-Hop : {own}\r\n"));
    let mut wire = Wire::open(broker.address("api"));
    assert_eq!(wire.send(broken).reply("GET").unwrap().code(), "bad_request");
}

#[test]
fn forwarded_adds_via_in_both_directions_and_says_who_asked_and_how() {
    let upstream =
        Upstream::start(|_| Action::Reply(b"HTTP/1.1 200 OK\r\nVia: 1.1 cache\r\nContent-Length: 0\r\n\r\n".to_vec()));
    let broker = with_static_token(&upstream, "forwarded = true");
    let theirs = [("Via", "1.0 old"), ("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "6.6.6.6")];
    let reply = broker.request("api", "GET", "/", &theirs, b"");
    let request = upstream.only();
    let host = broker.address("api");
    assert_eq!(request.one("forwarded"), Some(&*format!("for=127.0.0.1;host=\"{host}\";proto=http")));
    assert_eq!(request.one("x-forwarded-for"), None);
    let own = request.one("x-tokenbroker-hop").unwrap();
    assert_eq!(request.all("via"), ["1.0 old", &format!("1.1 {own}")]);
    let back: Vec<_> =
        reply.headers.iter().filter(|(name, _)| name == "via").map(|(_, value)| value.as_str()).collect();
    assert_eq!(back, ["1.1 cache", &format!("1.1 {own}")]);
    let old = crate::support::exchange(host, "GET /old HTTP/1.0\r\n\r\n");
    assert!(String::from_utf8_lossy(&old).starts_with("HTTP/1.0 200"));
    let request = upstream.requests().pop().unwrap();
    assert_eq!(request.all("via"), [format!("1.0 {own}")]);
    assert_eq!(request.one("forwarded"), Some("for=127.0.0.1;proto=http"), "there was no Host");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let config =
        static_route(&upstream, "forwarded = true").replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let request = upstream.requests().pop().unwrap();
    assert_eq!(request.one("forwarded"), Some("for=unknown;host=\"localhost\";proto=http"));
}
