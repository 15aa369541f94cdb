use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokenbroker::standin::Fault;

use crate::exchange::OAuth;
use crate::support::{Action, Broker, PATIENCE, Upstream, Wire, eventually, exchange, static_route, with_static_token};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn limited(limits: &str, upstream: &Upstream, keys: &str) -> Broker {
    let broker = Broker::start(&format!("[limits]\n{limits}\n{}", static_route(upstream, keys)));
    broker.wait_for_state("api", "valid");
    broker
}

#[test]
fn a_connection_of_an_older_http_or_with_a_short_keep_alive_is_not_used_again() {
    for (head, connections) in [
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5, max=100", [0, 0]),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", [0, 1]),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1", [0, 1]),
    ] {
        let upstream =
            Upstream::start(move |_| Action::Reply(format!("{head}\r\nContent-Length: 2\r\n\r\nok").into_bytes()));
        let broker = limited("threads = 1", &upstream, "");
        assert_eq!([broker.get("api", "/").text(), broker.get("api", "/").text()], ["ok", "ok"]);
        let used: Vec<_> = upstream.requests().iter().map(|request| request.connection).collect();
        assert_eq!(used, connections, "{head}");
    }
}

/// What an older answer leaves on a connection must never become the answer to another request.
#[test]
fn an_upload_that_was_not_taken_when_the_answer_came_ends_its_connection() {
    let upstream = Upstream::start_early(|request| match request.line() {
        "POST / HTTP/1.1" => Action::ok("early"),
        _ => Action::ok("fine"),
    });
    let broker = limited("threads = 1", &upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nfirst");
    let head = wire.head().unwrap();
    // The rest follows when the answer is there already, and before it is read to its end.
    wire.send("later");
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    assert_eq!(broker.get("api", "/").text(), "fine");
    assert_eq!(upstream.requests()[1].connection, 1);
}

#[test]
fn a_client_that_stops_reading_is_cut_and_its_connections_are_closed() {
    let upstream = Upstream::start(|_| {
        Action::Take(Box::new(|mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").unwrap();
            while stream.write_all(&[0; 65_536]).is_ok() {}
        }))
    });
    let broker = limited("threads = 1", &upstream, "idle_timeout = \"400ms\"");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(GET);
    assert_eq!(wire.head().unwrap().status, 200);
    let open = || broker.metric("tokenbroker_connections ");
    assert!((open() - 1.0).abs() < 0.1);
    eventually("it is closed", || open() < 0.5);
}

#[test]
fn a_tunnel_keeps_its_place_among_the_connections() {
    let upstream = Upstream::start(|request| match request.one("upgrade") {
        None => Action::ok("plain"),
        Some(_) => Action::Take(Box::new(|mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
            let _ = stream.read(&mut [0]);
        })),
    });
    let broker = limited("connections = 1\nthreads = 1", &upstream, "");
    let mut tunnel = Wire::open(broker.address("api"));
    tunnel.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().unwrap().status, 101);
    let mut second = Wire::open(broker.address("api"));
    second.send(GET);
    assert!(!second.is_closed_within(Duration::from_millis(300)));
    assert_eq!(upstream.requests().len(), 1, "it waits");
    assert!((broker.metric("tokenbroker_connections ") - 1.0).abs() < 0.1);
    drop(tunnel);
    assert_eq!(second.reply("GET").unwrap().text(), "plain");
}

#[test]
fn a_tunnel_carries_everything_to_an_upstream_that_has_said_its_last() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let upstream = Upstream::start(move |_| {
        let tell = tell.lock().unwrap().clone();
        Action::Take(Box::new(move |mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            tell.send(std::io::copy(&mut stream, &mut std::io::sink()).unwrap()).unwrap();
        }))
    });
    let broker = with_static_token(&upstream, "");
    let mut tunnel = Wire::open(broker.address("api"));
    tunnel.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().unwrap().status, 101);
    assert!(tunnel.is_closed_within(PATIENCE), "the upstream's end is passed on");
    let sent = 30_000_000;
    tunnel.stream().write_all(&vec![b'x'; sent]).unwrap();
    tunnel.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), sent as u64);
}

/// Nobody reads the second try; nothing of the first is waited for.
#[test]
fn a_replay_that_the_api_does_not_read_ends_in_time() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let upstream = Upstream::start_early(|request| {
        let first = request.connection == 0;
        Action::Take(Box::new(move |mut stream: TcpStream| {
            if first {
                stream.read_exact(&mut vec![0; 8 << 20]).unwrap();
                stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
            std::thread::sleep(PATIENCE);
        }))
    });
    let keys = "replay_body_max = \"32MiB\"\nresponse_timeout = \"1s\"";
    let config = oauth.config("", keys).replace(&oauth.api.url(), &upstream.url());
    let broker = Broker::start_in(oauth.directory(), &config, |_| {});
    broker.wait_for_state("api", "valid");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 9 << 20));
    wire.send(vec![b'x'; (8 << 20) + 100_000]);
    assert_eq!(wire.reply("POST").unwrap().code(), "upstream_timeout");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn an_http_1_0_client_gets_no_tunnel() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let request = "GET / HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(exchange(broker.address("api"), request).starts_with(b"HTTP/1.0 200"));
    assert_eq!(upstream.only().one("upgrade"), None);
}

/// A port that takes connections at once, and lets them through to the address behind it after a while.
fn slow_way_to(behind: std::net::SocketAddr, delay: Duration) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                let there = TcpStream::connect(behind).unwrap();
                let (mut from, mut to) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let _ = std::io::copy(&mut { there }, &mut { stream });
            });
        }
    });
    address
}

#[test]
fn a_token_that_ends_while_the_connection_is_made_is_not_sent() {
    let oauth = OAuth::start(Duration::from_secs(2));
    let fixture = crate::exchange::ComodoOne::new(Duration::from_secs(3600));
    let behind = slow_way_to(fixture.api.address, Duration::from_secs(3));
    let config =
        oauth.config("", "ca = \"ca.pem\"\nroots = \"ca\"\nidentity = \"me\"\nconnect_timeout = \"10s\"").replace(
            &format!("upstream = \"{}\"", oauth.api.url()),
            &format!("upstream = \"https://localhost:{}\"", behind.port()),
        );
    let config = format!("[identity.me]\ncert = \"client.pem\"\nkey = \"client.key\"\n{config}");
    crate::support::write(fixture.directory.path(), "secret", tokenbroker::standin::OAuth2::CLIENT_SECRET);
    let broker = Broker::start_in(fixture.directory, &config, |_| {});
    broker.wait_for_state("api", "valid");
    oauth.oauth.faults.set(Some(Fault::Status(503, None)), None);
    let reply = broker.get("api", "/");
    assert_eq!((reply.status, reply.code().as_str()), (503, "token_unavailable"));
    assert!(fixture.echo.seen().is_empty(), "nothing was sent");
}

#[test]
fn an_answer_to_an_unread_body_reaches_a_client_that_still_sends() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "methods = [\"GET\"]");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n");
    eventually("it is answered", || broker.log().contains("method_refused"));
    // For longer than it may be silent, and never silent for nearly so long.
    for _ in 0..100 {
        wire.stream().write_all(&[b'x'; 10_000]).expect("no reset while it sends");
        std::thread::sleep(Duration::from_millis(2));
    }
    let reply = wire.reply("POST").unwrap();
    assert_eq!((reply.status, reply.code().as_str(), reply.complete), (405, "method_refused", true));
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_client_that_pauses_in_its_upload_is_not_a_slow_api() {
    let upstream = Upstream::start(|request| Action::ok(&String::from_utf8_lossy(&request.body)));
    let broker = with_static_token(&upstream, "response_timeout = \"200ms\"");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\none");
    std::thread::sleep(Duration::from_millis(900));
    wire.send("two");
    assert_eq!(wire.reply("POST").unwrap().text(), "onetwo");
}

#[test]
fn an_answer_with_two_lengths_is_502_unless_they_are_the_same() {
    let upstream = Upstream::start(|request| {
        let lengths = request.one("x-lengths").unwrap();
        let fields: String = lengths.split('/').map(|length| format!("Content-Length: {length}\r\n")).collect();
        let body = if request.line().starts_with("HEAD") { "" } else { "hello" };
        Action::Last(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").into_bytes())
    });
    let broker = with_static_token(&upstream, "");
    for method in ["GET", "HEAD"] {
        for (lengths, status) in [("5", 200), ("5/5", 200), ("5/6", 502), ("+5", 502), ("five", 502)] {
            let reply = broker.request("api", method, "/", &[("X-Lengths", lengths)], b"");
            assert_eq!(reply.status, status, "{method} {lengths}");
            if status == 200 {
                let fields = reply.headers.iter().filter(|(name, _)| name == "content-length");
                assert_eq!(fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["5"]);
            }
        }
    }
}

#[test]
fn what_was_queued_when_the_drain_began_is_answered() {
    let upstream = Upstream::ok();
    let mut broker = with_static_token(&upstream, "");
    let mut wires: Vec<_> = (0..50).map(|_| Wire::open(broker.address("api"))).collect();
    broker.signal(Signal::TERM);
    for wire in &mut wires {
        wire.send(GET);
    }
    for wire in &mut wires {
        assert_eq!(wire.reply("GET").unwrap().status, 200);
    }
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn sockets_are_gone_when_the_broker_is() {
    for _ in 0..5 {
        let upstream = Upstream::ok();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let config = static_route(&upstream, "").replace("127.0.0.1:0", &format!("unix:{}", socket.display()));
        let mut broker = Broker::start_in(directory, &config, |_| {});
        assert!(socket.exists());
        assert_eq!(broker.stop().code(), Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn answers_of_the_broker_are_counted_as_its_own() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "accept_origins = [\"https://app.example\"]");
    let preflight = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "PUT")];
    assert_eq!(broker.request("api", "OPTIONS", "/", &preflight, b"").status, 204);
    assert_eq!(broker.get("api", "/").status, 200);
    let count = |class, origin| {
        broker.metric(&format!(
            "tokenbroker_requests_total{{route=\"api\",status_class=\"{class}\",origin=\"{origin}\"}} "
        ))
    };
    assert!((count("2xx", "broker") - 1.0).abs() < 0.1);
    assert!((count("2xx", "upstream") - 1.0).abs() < 0.1);
}

#[test]
fn a_token_obtained_on_demand_does_not_keep_the_broker_from_being_ready() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let broker = oauth.broker("eager = false", "");
    let reply = broker.admin("GET", "/readyz?verbose");
    assert_eq!((reply.status, reply.text().as_str()), (200, "[+] token api: pending\nok\n"));
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), None);
    let began = Instant::now();
    assert_eq!(broker.get("api", "/").status, 503);
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(broker.admin("GET", "/readyz").status, 503, "once it was asked for, it counts");
}
