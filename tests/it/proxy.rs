use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::{Action, Broker, PATIENCE, Upstream, Wire, exchange, static_route, with_static_token};

const OURS: &str = "Bearer the-token";

fn raw(status_and_headers: &str, body: &str) -> Action {
    Action::Reply(
        format!("HTTP/1.1 {status_and_headers}\r\n\r\n{body}").replace("\n", "\r\n").replace("\r\r", "\r").into_bytes(),
    )
}

#[test]
fn the_upstream_gets_a_new_head_with_exactly_one_credential_ours() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "headers = { X-Key = \"k1\" }");
    let headers = [
        ("Authorization", "Basic x"),
        ("authorization", "Bearer theirs"),
        ("AUTHORIZATION_", "x"),
        ("Connection", "X-Drop, keep-alive, x-Also , Host, Authorization, Content-Length"),
        ("X-Drop", "1"),
        ("X-Also", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic y"),
        ("Proxy-Authenticate", "z"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Real-IP", "1.2.3.4"),
        ("X_Forwarded_For", "1.2.3.4"),
        ("Transfer_Encoding", "chunked"),
        ("Content_Length", "99"),
        ("x-key", "theirs"),
        ("X_Key", "theirs"),
        ("Accept", "a"),
        ("Accept", "b"),
        ("Cookie", "c=1"),
        ("X-Custom", "kept"),
    ];
    let reply = broker.request("api", "POST", "/x", &headers, b"hello");
    assert_eq!(reply.status, 200);
    let request = upstream.only();
    assert_eq!(request.all("authorization"), [OURS]);
    assert_eq!(request.all("host"), [upstream.address.to_string()]);
    assert_eq!(request.all("x-key"), ["k1"]);
    assert_eq!(request.all("accept"), ["a", "b"]);
    assert_eq!(request.all("cookie"), ["c=1"]);
    assert_eq!(request.all("x-custom"), ["kept"]);
    assert_eq!(request.all("content-length"), ["5"]);
    let names: Vec<_> =
        request.head.lines().skip(1).filter_map(|l| l.split_once(':')).map(|(name, _)| name.to_lowercase()).collect();
    assert!(names.iter().any(|name| name == "x-tokenbroker-hop"));
    assert_eq!(names.len(), 10, "nothing else passes (AUTHORIZATION_ is another field): {names:?}");
    assert!(!upstream.bytes().contains("theirs"));
}

#[test]
fn a_clients_credential_is_replaced_kept_or_refused_as_the_route_says() {
    let upstream = Upstream::ok();
    let theirs = [("Authorization", "Basic theirs")];
    let broker = with_static_token(&upstream, "authorization = \"keep\"");
    broker.request("api", "GET", "/", &theirs, b"");
    broker.get("api", "/");
    let nominated =
        "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic theirs\r\nConnection: close, Authorization\r\n\r\n";
    assert!(exchange(broker.address("api"), nominated).starts_with(b"HTTP/1.1 200"));
    let sent: Vec<_> = upstream.requests().iter().map(|r| r.one("authorization").unwrap().to_owned()).collect();
    assert_eq!(sent, ["Basic theirs", OURS, "Basic theirs"], "Connection nominates no credential");

    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "authorization = \"reject\"");
    let reply = broker.request("api", "GET", "/", &theirs, b"");
    assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"));
    assert!(upstream.requests().is_empty());
    assert_eq!(broker.get("api", "/").status, 200);

    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "authorization = \"reject\"\nheader = \"X-Auth-Token\"");
    for theirs in [("Authorization", "theirs"), ("X-Auth-Token", "theirs")] {
        assert_eq!(broker.request("api", "GET", "/", &[theirs], b"").status, 400, "{}", theirs.0);
    }

    let upstream = Upstream::ok();
    let config = format!("[route.open]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\ntoken = false\n", upstream.url());
    let broker = Broker::start(&config);
    broker.request("open", "GET", "/", &theirs, b"");
    assert_eq!(upstream.only().one("authorization"), None, "a credential is never forwarded unless the route says so");
}

#[test]
fn the_token_goes_into_the_field_and_the_format_that_the_route_names() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "header = \"X-Auth-Token\"\nformat = \"Token {{{access_token}\"");
    broker.request(
        "api",
        "GET",
        "/",
        &[("x-auth-token", "theirs"), ("Authorization", "theirs"), ("X_Auth_Token", "theirs")],
        b"",
    );
    let request = upstream.only();
    assert_eq!(request.all("x-auth-token"), ["Token {the-token"]);
    assert_eq!(request.one("authorization"), None);
    assert!(!request.head.contains("theirs"), "{}", request.head);
}

#[test]
fn the_target_is_sent_byte_for_byte() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let long = format!("/q?{}", "p=%zz;&".repeat(2300));
    for (target, status) in [
        ("/", 200),
        ("//double", 200),
        ("/a/../b", 200),
        ("/%2e%2E/%2f", 200),
        ("/a;v=1?b=1;c=2&&d", 200),
        ("/?", 200),
        ("/x?q=http://evil/", 200),
        ("/ä?ö", 200),
        ("/'\"|{}^", 200),
        ("/<", 400),
        ("/`", 400),
        ("x", 400),
        (&long, 200),
    ] {
        let answer = exchange(
            broker.address("api"),
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        );
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{target}: {answer}");
        if status == 200 {
            assert_eq!(upstream.requests().pop().unwrap().line(), format!("GET {target} HTTP/1.1"));
        }
    }
    // A fragment is no part of a target; what a client sends of one goes no further.
    assert_eq!(broker.get("api", "/x?y#fragment").status, 200);
    assert_eq!(upstream.requests().pop().unwrap().line(), "GET /x?y HTTP/1.1");
    let config =
        static_route(&upstream, "path = \"/vendor\"").replace(&upstream.url(), &format!("{}/base/v2", upstream.url()));
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    for (sent, forwarded) in
        [("/vendor", "/base/v2/"), ("/vendor/x%20y?z", "/base/v2/x%20y?z"), ("/vendor?z", "/base/v2/?z")]
    {
        assert_eq!(broker.get("api", sent).status, 200);
        assert_eq!(upstream.requests().pop().unwrap().line(), format!("GET {forwarded} HTTP/1.1"));
    }
    assert_eq!(broker.get("api", "/vendor/../admin").status, 403, "it would leave the base path");
}

#[test]
fn bodies_of_any_method_and_framing_arrive_whole() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let body: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "X-OWN"] {
        let reply = broker.request("api", method, "/", &[], &body);
        let request = upstream.requests().pop().unwrap();
        assert_eq!((reply.status, request.body.len(), request.chunked), (200, body.len(), false), "{method}");
        assert_eq!(request.body, body);
    }
    for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS"] {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!(
            "{method} / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n"
        ));
        wire.send("6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n");
        assert_eq!(wire.reply(method).unwrap().status, 200, "{method}");
        let request = upstream.requests().pop().unwrap();
        assert_eq!((request.body.as_slice(), request.chunked), (&b"hello world"[..], true), "{method}");
        assert_eq!(request.one("content-length"), None);
        assert!(!upstream.bytes().contains("ext=1") && !upstream.bytes().to_lowercase().contains("x-trailer"));
    }
    for (length, method) in [("Content-Length: 10\r\n", "GET"), ("Content-Length: 0\r\n", "POST"), ("", "POST")] {
        let mut wire = Wire::open(broker.address("api"));
        let body = if length.contains("10") { "0123456789" } else { "" };
        wire.send(format!("{method} / HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}"));
        assert_eq!(wire.reply(method).unwrap().status, 200);
        let request = upstream.requests().pop().unwrap();
        assert_eq!(request.body, body.as_bytes());
        assert_eq!(request.all("content-length").len(), usize::from(!length.is_empty()), "{length:?}");
    }
}

#[test]
fn ambiguous_or_broken_framing_never_reaches_the_upstream_as_two_requests() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}");
    for refused in [
        post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"),
        post("Content-Length: 5, 5\r\n", "hello"),
        post("Content-Length: +5\r\n", "hello"),
        post("Content-Length: -1\r\n", ""),
        post("Content-Length: 99999999999999999999\r\n", ""),
        post("Content-Length : 5\r\n", "hello"),
        post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: gzip\r\n", "x"),
        post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("X-A: b\r\n folded: c\r\n", ""),
        post("X-A: \0\r\n", ""),
        post("X A: b\r\n", ""),
        post(": b\r\n", ""),
        post("nonsense\r\n", ""),
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET / HTTP/1.2\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let answer = exchange(broker.address("api"), &refused);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
            "{refused:?}: {answer}"
        );
    }
    assert!(upstream.requests().is_empty(), "{:#?}", upstream.requests());

    let smuggled = post(
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "1\r\nZ\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    exchange(broker.address("api"), smuggled);
    let smuggled = post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "0\r\n\r\nG");
    exchange(broker.address("api"), smuggled);
    for request in upstream.requests() {
        assert_eq!((request.line(), request.chunked, request.one("content-length")), ("POST / HTTP/1.1", true, None));
    }
    assert!(!upstream.bytes().contains("/admin"));
}

#[test]
fn an_upload_that_breaks_off_never_looks_complete_upstream() {
    let (told, tells) = channel();
    let upstream = Upstream::start_early(move |_| {
        let told = told.clone();
        Action::Take(Box::new(move |mut stream: TcpStream| {
            let mut body = Vec::new();
            let _ = stream.read_to_end(&mut body);
            told.send(body).unwrap();
        }))
    });
    let broker = with_static_token(&upstream, "");
    for head in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{head}"));
        std::thread::sleep(Duration::from_millis(100));
        drop(wire);
        let body = tells.recv_timeout(PATIENCE).unwrap();
        let body = String::from_utf8_lossy(&body);
        assert!(!body.ends_with("0\r\n\r\n") && body.len() < 100, "{body}");
    }
}

#[test]
fn both_directions_stream_without_waiting_for_the_end() {
    let upstream = Upstream::start_early(|_| {
        Action::Take(Box::new(|mut stream: TcpStream| {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap();
            let mut byte = [0];
            // Echoes each byte of the request's chunks' data as an event of its own.
            while stream.read_exact(&mut byte).is_ok() {
                if byte[0].is_ascii_alphabetic()
                    && stream.write_all(format!("1\r\n{}\r\n", char::from(byte[0])).as_bytes()).is_err()
                {
                    return;
                }
            }
        }))
    });
    let broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let head = wire.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    for letter in ["x", "y", "z"] {
        wire.send(format!("1\r\n{letter}\r\n"));
        assert_eq!(wire.chunk().unwrap(), letter.as_bytes(), "before the request has ended");
    }
}

#[test]
fn a_slow_reader_holds_back_a_fast_upstream() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let upstream = Upstream::start(move |_| {
        let sent = Arc::clone(&counter);
        Action::Take(Box::new(move |mut stream: TcpStream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
            stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            let block = vec![b'x'; 1 << 20];
            while let Ok(n) = stream.write(&block) {
                sent.fetch_add(n, Ordering::Relaxed);
            }
        }))
    });
    let broker = with_static_token(&upstream, "");
    let before = memory(&broker);
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(wire.head().unwrap().status, 200);
    crate::support::eventually("the upstream stops sending", || {
        let first = sent.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(500));
        first == sent.load(Ordering::Relaxed)
    });
    assert!(sent.load(Ordering::Relaxed) < 64 << 20, "{}", sent.load(Ordering::Relaxed));
    let grown = memory(&broker).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
}

/// Resident memory in bytes.
fn memory(broker: &Broker) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn answers_keep_their_bytes_and_lose_what_belongs_to_the_hop() {
    let upstream = Upstream::start(|request| match request.line().split(' ').nth(1).unwrap() {
        "/fields" => raw(
            "299 Quite Fine\nSet-Cookie: a=1\nSet-Cookie: b=2\nSet-Cookie: a=3\nX-Bytes: \u{e4}\nConnection: X-Secret\nX-Secret: 1\nKeep-Alive: timeout=5\nProxy-Authenticate: Basic\nUpgrade: h2c\nContent-Length: 2",
            "ok",
        ),
        "/both" => Action::Last(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"
                .to_vec(),
        ),
        "/close" => Action::Last(b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec()),
        "/same" => raw("200 OK\nContent-Length: 2\nContent-Length: 2", "ok"),
        _ => raw("204 No Content", ""),
    });
    let broker = with_static_token(&upstream, "");
    let reply = broker.get("api", "/fields");
    assert_eq!(reply.status, 299);
    let cookies: Vec<_> =
        reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, v)| v.as_str()).collect();
    assert_eq!(cookies, ["a=1", "b=2", "a=3"]);
    for gone in ["x-secret", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    let answer =
        exchange(broker.address("api"), "GET /fields HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 299 Quite Fine\r\n"));
    assert!(answer.windows(2).any(|w| w == "\u{e4}".as_bytes()), "obs-text passes");
    assert_eq!(broker.get("api", "/both").text(), "hello world");
    let reply = broker.get("api", "/close");
    assert_eq!((reply.version.as_str(), reply.text().as_str(), reply.complete), ("HTTP/1.1", "until the end", true));
    assert_eq!(broker.get("api", "/same").text(), "ok");
    assert_eq!(broker.get("api", "/none").status, 204);
    let old = exchange(broker.address("api"), "GET /both HTTP/1.0\r\n\r\n");
    let old = String::from_utf8_lossy(&old).to_lowercase();
    assert!(!old.contains("transfer-encoding") && old.ends_with("\r\n\r\nhello world"), "{old}");
}

#[test]
fn answers_that_are_not_http_are_502_and_broken_off_ones_are_short() {
    let upstream = Upstream::start(|request| match request.line().split(' ').nth(1).unwrap() {
        "/garbage" => Action::Last(b"garbage\r\n\r\n".to_vec()),
        "/nothing" => Action::Close,
        "/gzip" => Action::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxxx".to_vec()),
        "/twice" => Action::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_vec()),
        "/lengths" => raw("200 OK\nContent-Length: 2\nContent-Length: 3", "okk"),
        "/nul" => raw("200 OK\nX-A: a\0b\nContent-Length: 0", ""),
        "/huge" => raw(&format!("200 OK\nX-A: {}\nContent-Length: 0", "x".repeat(1 << 20)), ""),
        "/many" => raw(&format!("200 OK{}\nContent-Length: 0", "\nX-A: b".repeat(500)), ""),
        "/switch" => raw("101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket", ""),
        "/short" => Action::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()),
        "/chunk" => Action::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec()),
        "/hints" => raw("103 Early Hints\nLink: </a>\n\nHTTP/1.1 200 OK\nContent-Length: 2", "ok"),
        _ => Action::ok("fine"),
    });
    let broker = with_static_token(&upstream, "");
    for path in ["/garbage", "/nothing", "/gzip", "/twice", "/lengths", "/nul", "/huge", "/many", "/switch"] {
        let reply = broker.get("api", path);
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_protocol"), "{path}");
        assert!(
            reply.header("proxy-status").unwrap().starts_with("tokenbroker; error=http_protocol_error"),
            "{reply:?}"
        );
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(broker.get("api", "/").text(), "fine", "after {path}");
    }
    for path in ["/short", "/chunk"] {
        let reply = broker.get("api", path);
        assert_eq!((reply.status, reply.complete), (200, false), "{path}");
    }
    assert_eq!(broker.get("api", "/hints").text(), "ok");
}

#[test]
fn head_204_and_304_have_no_body_and_keep_both_connections() {
    let upstream = Upstream::start(|request| match request.line() {
        "HEAD / HTTP/1.1" => raw("200 OK\nContent-Length: 1000", ""),
        "GET /304 HTTP/1.1" => raw("304 Not Modified\nETag: \"x\"\nContent-Length: 1000", ""),
        _ => raw("204 No Content", ""),
    });
    let broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    for _ in 0..300 {
        wire.send("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let reply = wire.reply("HEAD").unwrap();
        assert_eq!((reply.status, reply.header("content-length")), (200, Some("1000")));
        wire.send("GET /304 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(wire.reply("GET").unwrap().status, 304);
        wire.send("GET /204 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(wire.reply("GET").unwrap().status, 204);
    }
    assert!(upstream.requests().iter().all(|request| request.connection == 0), "one connection served all");
}

#[test]
fn connections_to_the_api_are_reused_and_an_idle_one_that_was_closed_costs_a_get_nothing_and_a_post_an_error() {
    let upstream = Upstream::start(|request| match request.line().split(' ').nth(1).unwrap() {
        "/closing" => Action::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()),
        // The third request on a connection finds it closed under it.
        "/fragile" if request.connection.is_multiple_of(2) => Action::Close,
        _ => Action::ok("fine"),
    });
    let broker = Broker::start(&format!("[limits]\nthreads = 1\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    for _ in 0..20 {
        assert_eq!(broker.get("api", "/").status, 200);
    }
    assert!(upstream.requests().iter().all(|request| request.connection == 0));

    assert_eq!(broker.get("api", "/fragile").status, 200, "retried once, on a new connection");
    let connections: Vec<_> = upstream.requests().iter().rev().take(2).map(|request| request.connection).collect();
    assert_eq!(connections, [1, 0]);

    for _ in 0..50 {
        assert_eq!(broker.get("api", "/closing").text(), "ok");
    }

    let upstream = Upstream::start(|request| match request.line() {
        "POST /fragile HTTP/1.1" => Action::Close,
        _ => Action::ok("fine"),
    });
    let broker = Broker::start(&format!("[limits]\nthreads = 1\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    assert_eq!(broker.get("api", "/").status, 200);
    let reply = broker.request("api", "POST", "/fragile", &[], b"once");
    assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_protocol"));
    let posts = upstream.requests().iter().filter(|request| request.line().starts_with("POST")).count();
    assert_eq!(posts, 1, "a request with bytes written is never sent again");
}

#[test]
fn pipelined_requests_are_answered_in_order_each_with_the_token() {
    let upstream = Upstream::start(|request| Action::ok(request.line()));
    let broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(
        "GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    for expected in ["GET /1 HTTP/1.1", "POST /2 HTTP/1.1", "GET /3 HTTP/1.1"] {
        assert_eq!(wire.reply("GET").unwrap().text(), expected);
    }
    assert!(upstream.requests().iter().all(|request| request.one("authorization") == Some(OURS)));
}

#[test]
fn expect_100_continue_is_answered_here_and_anything_else_is_417() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(wire.head().unwrap().status, 100);
    wire.send("hello");
    assert_eq!(wire.reply("POST").unwrap().status, 200);
    let request = upstream.only();
    assert_eq!((request.body.as_slice(), request.one("expect")), (&b"hello"[..], None));
    let reply = broker.request("api", "POST", "/", &[("Expect", "200-ok")], b"hello");
    assert_eq!(reply.status, 417);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn an_early_final_answer_reaches_the_client_and_its_connection_is_not_used_again() {
    let upstream = Upstream::start_early(|request| match request.line() {
        "POST / HTTP/1.1" => Action::status("413 Content Too Large"),
        _ => Action::ok("fine"),
    });
    let broker = Broker::start(&format!("[limits]\nthreads = 1\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\nfirst");
    assert_eq!(wire.reply("POST").unwrap().status, 413);
    assert_eq!(broker.get("api", "/").text(), "fine");
    assert_eq!(upstream.requests()[1].connection, 1);
}

#[test]
fn a_location_that_points_at_the_upstream_is_mapped_back_and_no_redirect_is_followed() {
    let upstream = Upstream::start(|request| {
        let to = request.one("x-to").unwrap();
        raw(&format!("302 Found\nLocation: {to}\nContent-Length: 0"), "")
    });
    let url = upstream.url();
    let config = static_route(&upstream, "path = \"/vendor\"").replace(&url, &format!("{url}/base"));
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let host = broker.address("api").to_string();
    let mapped = |to: &str| {
        broker.request("api", "GET", "/vendor/x", &[("X-To", to)], b"").header("location").unwrap().to_owned()
    };
    assert_eq!(mapped(&format!("{url}/base/next?q#f")), format!("http://{host}/vendor/next?q#f"));
    assert_eq!(mapped(&format!("{url}/base")), format!("http://{host}/vendor"));
    assert_eq!(mapped("/base/next"), "/vendor/next");
    assert_eq!(mapped("/base/n\u{e4}chste"), "/vendor/n\u{e4}chste", "bytes that no URL should have");
    let authority = url.strip_prefix("http:").unwrap();
    assert_eq!(mapped(&format!("{authority}/base/next")), format!("http://{host}/vendor/next"));
    for untouched in [
        "https://elsewhere.example/base/x",
        "next",
        "//elsewhere.example/x",
        "/other",
        "/basement",
        &format!("{url}/other"),
        &format!("{url}0/base"),
    ] {
        assert_eq!(mapped(untouched), untouched);
    }
    let broker = with_static_token(&upstream, "rewrite_location = false");
    let to = format!("{url}/x");
    assert_eq!(broker.request("api", "GET", "/", &[("X-To", &to)], b"").header("location"), Some(to.as_str()));
}

/// Shakes hands; then the upstream echoes.
fn websocket(broker: &Broker) -> Wire {
    let mut wire = Wire::open(broker.address("api"));
    wire.send(
        "GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    wire
}

fn echoing_upstream() -> Upstream {
    Upstream::start(|request| {
        if request.one("upgrade") != Some("websocket") {
            return Action::ok("no upgrade");
        }
        Action::Take(Box::new(|mut stream: TcpStream| {
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            let mut buffer = [0; 65_536];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        }))
    })
}

#[test]
fn a_websocket_becomes_a_tunnel_after_the_upstreams_own_101() {
    let upstream = echoing_upstream();
    let broker = with_static_token(&upstream, "");
    let mut wire = websocket(&broker);
    let head = wire.head().unwrap();
    assert_eq!(
        (head.status, head.header("upgrade"), head.header("sec-websocket-accept")),
        (101, Some("websocket"), Some("x"))
    );
    let request = upstream.only();
    assert_eq!((request.one("authorization"), request.one("connection")), (Some(OURS), Some("upgrade")));
    assert_eq!(request.one("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = wire.stream().try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut reader = wire.stream().try_clone().unwrap();
    let mut echoed = vec![0; sent.len()];
    reader.read_exact(&mut echoed).unwrap();
    writing.join().unwrap();
    assert_eq!(sent, echoed);
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_cut() {
    let upstream = echoing_upstream();
    let broker = with_static_token(&upstream, "idle_timeout = \"400ms\"");
    let mut wire = websocket(&broker);
    assert_eq!(wire.head().unwrap().status, 101);
    assert!(wire.is_closed_within(PATIENCE));
}

#[test]
fn an_upgrade_that_is_no_websocket_is_ignored() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
    ] {
        let mut wire = Wire::open(broker.address("api"));
        let body = if fields.contains("Content-Length") { "x" } else { "" };
        wire.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}"));
        assert_eq!(wire.reply("GET").unwrap().status, 200, "{fields}");
        let request = upstream.requests().pop().unwrap();
        assert_eq!((request.one("upgrade"), request.one("connection")), (None, None), "{fields}");
    }
    // What follows a refused upgrade is a request like any other.
    let mut wire = Wire::open(broker.address("api"));
    wire.send(
        "GET /1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    );
    assert_eq!(wire.reply("GET").unwrap().status, 200);
    assert_eq!(wire.reply("GET").unwrap().status, 421);
}

#[test]
fn oversized_heads_are_refused_and_heads_at_the_limit_are_not() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let get = |target: &str, fields: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
        let answer = exchange(broker.address("api"), request);
        String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or("closed").to_owned()
    };
    let target = |n: usize| format!("/{}", "x".repeat(n - 1));
    assert_eq!(get(&target(16 * 1024), ""), "200");
    assert_eq!(get(&target(16 * 1024 + 1), ""), "414");
    assert_eq!(get(&target(60 * 1024), ""), "414");
    assert_eq!(get(&target(65 * 1024), ""), "414");
    let fields = |n: usize| (0..n).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    assert_eq!(get("/", &fields(98)), "200", "a hundred with Host and Connection");
    assert_eq!(get("/", &fields(99)), "431");
    let line = |n: usize| format!("X-A: {}\r\n", "y".repeat(n - "X-A: ".len()));
    assert_eq!(get("/", &line(16 * 1024)), "200");
    assert_eq!(get("/", &line(16 * 1024 + 1)), "431");
    let around = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".len();
    let head = |n: usize| line(n % 1024 + 1022) + &line(1022).repeat((n - n % 1024) / 1024 - 1);
    assert_eq!(get("/", &head(64 * 1024 - around)), "200");
    assert_eq!(get("/", &head(64 * 1024 - around + 1)), "431");
    assert_eq!(upstream.requests().len(), 4);
}

#[test]
fn a_client_that_sends_no_head_in_time_is_disconnected() {
    let upstream = Upstream::ok();
    let broker = Broker::start(&format!("[limits]\nhead_timeout = \"300ms\"\n{}", static_route(&upstream, "")));
    let mut silent = Wire::open(broker.address("api"));
    let mut slow = Wire::open(broker.address("api"));
    slow.send("GET / HT");
    assert!(silent.is_closed_within(PATIENCE));
    assert!(slow.is_closed_within(PATIENCE));
    assert!(upstream.requests().is_empty());
}

#[test]
fn connections_above_the_limit_wait_for_a_place_and_the_operator_is_not_among_them() {
    let upstream = Upstream::ok();
    let broker = Broker::start(&format!("[limits]\nconnections = 2\nthreads = 1\n{}", static_route(&upstream, "")));
    broker.wait_for_state("api", "valid");
    let mut first = Wire::open(broker.address("api"));
    let mut second = Wire::open(broker.address("api"));
    for wire in [&mut first, &mut second] {
        wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(wire.reply("GET").unwrap().status, 200);
    }
    let mut third = Wire::open(broker.address("api"));
    third.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!third.is_closed_within(Duration::from_millis(300)));
    assert_eq!(upstream.requests().len(), 2);
    assert_eq!(broker.admin("GET", "/livez").status, 200);
    drop(first);
    assert_eq!(third.reply("GET").unwrap().status, 200);
}

#[test]
fn an_api_that_cannot_be_reached_is_502_or_504_and_says_which() {
    let closed = format!("127.0.0.1:{}", crate::door::free_port());
    let full = FullListener::new();
    let route = |name: &str, url: &str, keys: &str| {
        format!("[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\ntoken = false\n{keys}\n")
    };
    let silent = Upstream::start(|_| {
        Action::Take(Box::new(|stream| {
            drop(std::thread::spawn(move || {
                std::thread::sleep(PATIENCE);
                drop(stream);
            }));
        }))
    });
    let plain = chatty_listener();
    let config = [
        route("refused", &format!("http://{closed}"), ""),
        route("full", &format!("http://{}", full.address), "connect_timeout = \"300ms\""),
        route("silent", &silent.url(), "response_timeout = \"300ms\""),
        route("name", "https://no-such-host.invalid", "connect_timeout = \"2s\""),
        route("tls", &format!("https://{plain}"), ""),
    ]
    .concat();
    let broker = Broker::start(&config);
    for (name, status, code, error) in [
        ("refused", 502, "upstream_unreachable", "connection_refused"),
        ("full", 504, "upstream_timeout", "connection_timeout"),
        ("silent", 504, "upstream_timeout", "http_response_timeout"),
        ("tls", 502, "upstream_tls", "tls_protocol_error"),
    ] {
        let began = Instant::now();
        let reply = broker.get(name, "/");
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{name}");
        assert!(reply.header("proxy-status").unwrap().contains(error), "{name}: {reply:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{name}");
    }
    let reply = broker.get("name", "/");
    assert!(["upstream_unreachable", "upstream_timeout"].contains(&reply.code().as_str()), "{reply:?}");
}

/// Greets whoever connects, as an SMTP server would.
fn chatty_listener() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"220 this is not TLS\r\n");
        }
    });
    address
}

/// A listener whose queue is full: a connection attempt hangs.
pub struct FullListener {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl FullListener {
    pub fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    pub fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(stream);
        }
        Self { address, _listener: listener, _queued: queued }
    }
}

#[test]
fn an_answer_that_stalls_is_cut_after_the_idle_limit() {
    let upstream = Upstream::start(|_| {
        Action::Take(Box::new(|mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
            let _ = stream.read(&mut [0]);
        }))
    });
    let broker = with_static_token(&upstream, "idle_timeout = \"300ms\"");
    let reply = broker.get("api", "/");
    assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "half", false));
}
