use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::exchange::OAuth;
use crate::support::{Action, Broker, PATIENCE, Upstream, Wire, exchange, static_route, with_static_token};

/// A broker of one worker, so that connections to the API are used again where they can be.
fn single(upstream: &Upstream, keys: &str) -> Broker {
    let broker = Broker::start(&format!("[limits]\nthreads = 1\n{}", static_route(upstream, keys)));
    broker.wait_for_state("api", "valid");
    broker
}

fn bytes(text: &str) -> Action {
    Action::Reply(text.as_bytes().to_vec())
}

/// The path of a request.
fn path(line: &str) -> &str {
    line.split(' ').nth(1).unwrap()
}

#[test]
fn an_answer_that_another_could_hide_in_ends_its_connection() {
    let upstream = Upstream::start(|request| match path(request.line()) {
        "/both" => {
            bytes("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        }
        "/stray-204" => bytes("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"),
        "/stray-304" => bytes("HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"),
        "/stray-head" => bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"),
        "/stray-length" => bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n"),
        "/stray-chunk" => {
            bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
        }
        "/stray-204-length" => bytes("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nstray"),
        _ => Action::ok("fine"),
    });
    let broker = single(&upstream, "");
    for (method, target, status, body) in [
        ("GET", "/both", 200, "hello"),
        ("GET", "/stray-204", 204, ""),
        ("GET", "/stray-304", 304, ""),
        ("HEAD", "/stray-head", 200, ""),
        ("GET", "/stray-length", 200, "hello"),
        ("GET", "/stray-chunk", 200, "hello"),
        ("GET", "/stray-204-length", 204, ""),
    ] {
        let reply = broker.request("api", method, target, &[], b"");
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{target}");
        let last = upstream.requests().len() - 1;
        assert_eq!(broker.get("api", "/").text(), "fine", "after {target}");
        let requests = upstream.requests();
        assert_ne!(requests[last].connection, requests[last + 1].connection, "{target}: used again");
    }
}

#[test]
fn an_answer_whose_end_cannot_be_told_is_502_and_never_passed_as_plain_bytes() {
    let upstream = Upstream::start(|request| {
        let head = match path(request.line()) {
            "/old-chunked" => "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
            "/gzip" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
            "/identity" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity",
            "/chunked-twice" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "/chunked-gzip" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip",
            "/spelled" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked",
            "/quoted" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: \"chunked\"",
            "/negative" => "HTTP/1.1 200 OK\r\nContent-Length: -1",
            "/list" => "HTTP/1.1 200 OK\r\nContent-Length: 5, 5",
            "/bare-cr" => "HTTP/1.1 200 OK\r\nX-A: a\rb",
            "/nul" => "HTTP/1.1 200 OK\r\nX-A: a\0b",
            "/fold" => "HTTP/1.1 200 OK\r\nX-A: a\r\n folded",
            "/blank" => "HTTP/1.1 200 OK\r\nX-A : a",
            "/no-colon" => "HTTP/1.1 200 OK\r\nnonsense",
            "/no-name" => "HTTP/1.1 200 OK\r\n: a",
            "/in-name" => "HTTP/1.1 200 OK\r\nX\x01A: a",
            "/version" => "HTTP/2.0 200 OK",
            "/status" => "HTTP/1.1 2000 OK",
            "/none" => "HTTP/1.1 OK",
            "/icy" => "ICY 200 OK",
            other => panic!("{other}"),
        };
        Action::Last(format!("{head}\r\n\r\n5\r\nhello\r\n0\r\n\r\n").into_bytes())
    });
    let broker = with_static_token(&upstream, "");
    for target in [
        "/old-chunked",
        "/gzip",
        "/identity",
        "/chunked-twice",
        "/chunked-gzip",
        "/spelled",
        "/quoted",
        "/negative",
        "/list",
        "/bare-cr",
        "/nul",
        "/fold",
        "/blank",
        "/no-colon",
        "/no-name",
        "/in-name",
        "/version",
        "/status",
        "/none",
        "/icy",
    ] {
        let reply = broker.get("api", target);
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_protocol"), "{target}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_never_complete_for_the_client() {
    let upstream = Upstream::start(|request| {
        let path = path(request.line()).to_owned();
        Action::Take(Box::new(move |mut stream: TcpStream| {
            let framing = if path.contains("chunked") { "Transfer-Encoding: chunked" } else { "Content-Length: 100" };
            let body = if path.contains("chunked") { "4\r\nhalf\r\n4\r\nha" } else { "half" };
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}").as_bytes()).unwrap();
            if path.contains("reset") {
                std::thread::sleep(Duration::from_millis(100));
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            }
        }))
    });
    let broker = with_static_token(&upstream, "");
    for target in ["/chunked", "/chunked-reset", "/length", "/length-reset"] {
        let answer = exchange(broker.address("api"), format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("half"), "{target}: {answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "{target}: {answer}");
    }
}

#[test]
fn heads_of_answers_are_bounded_and_so_is_what_reading_them_costs() {
    let upstream = Upstream::start(|request| {
        let fields = match path(request.line()) {
            "/long" => format!("X: {}\r\n", "y".repeat(1 << 20)),
            "/many" => "X: y\r\n".repeat(10_000),
            "/name" => format!("{}: y\r\n", "x".repeat(1 << 16)),
            "/endless" => "X: y\r\n".repeat(1 << 20),
            _ => String::new(),
        };
        Action::Last(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").into_bytes())
    });
    let broker = with_static_token(&upstream, "");
    assert_eq!(broker.get("api", "/").status, 200);
    let before = broker.process("VmRSS");
    for _ in 0..5 {
        for target in ["/long", "/many", "/name", "/endless"] {
            let reply = broker.get("api", target);
            assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_protocol"), "{target}");
        }
    }
    let grown = broker.process("VmRSS").saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
}

#[test]
fn interim_answers_are_skipped_up_to_a_bound() {
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
    let upstream = Upstream::start(|request| {
        let path = path(request.line());
        let end = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
        match path.trim_start_matches('/').parse::<usize>() {
            Ok(hints) => bytes(&format!("{}{end}", HINT.repeat(hints))),
            // They come one at a time, and no answer ever does.
            Err(_) => Action::Take(Box::new(|mut stream: TcpStream| {
                while stream.write_all(HINT.as_bytes()).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            })),
        }
    });
    let broker = single(&upstream, "");
    for (hints, status) in [(0, 200), (1, 200), (64, 200), (1, 200), (64, 200), (65, 502), (10_000, 502), (64, 200)] {
        let reply = broker.get("api", &format!("/{hints}"));
        assert_eq!(reply.status, status, "{hints}");
        assert_eq!(reply.header("link"), None, "{hints}");
    }
    assert_eq!(broker.get("api", "/endless").code(), "upstream_protocol");
}

#[test]
fn the_token_never_comes_back_in_a_field_of_an_answer() {
    let upstream = Upstream::start(|request| {
        let sent = request.one("authorization").unwrap();
        let token = sent.rsplit(' ').next().unwrap();
        Action::Reply(
            format!(
                "HTTP/1.1 302 Found\r\nX-Whole: {sent}\r\nX-Within: a={token};b\r\nSet-Cookie: t={token}\r\n\
                 Set-Cookie: other=1\r\nLocation: http://elsewhere.example/?token={token}\r\nX-Kept: the-toke\r\n\
                 Content-Length: 0\r\n\r\n"
            )
            .into_bytes(),
        )
    });
    let broker = with_static_token(&upstream, "");
    let reply = broker.get("api", "/");
    assert_eq!((reply.status, reply.header("x-kept")), (302, Some("the-toke")));
    for name in ["x-whole", "x-within", "location"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    assert!(!reply.headers.iter().any(|(_, value)| value.contains("the-token")), "{reply:?}");
    assert!((broker.metric("tokenbroker_echoed_tokens_total{route=\"api\"} ") - 4.0).abs() < 0.1);
    broker.logs("sent the token back");
    assert!(!broker.log().contains("the-token"));
}

#[test]
fn pipelined_requests_for_two_routes_each_carry_the_token_of_their_own() {
    let (one, two) = (Upstream::start(|_| Action::ok("one")), Upstream::start(|_| Action::ok("two")));
    let listen = format!("127.0.0.1:{}", crate::door::free_port());
    let token = |name: &str| format!("[token.{name}]\ngrant = \"static\"\naccess_token = \"token-{name}\"\n");
    let route = |name: &str, upstream: &Upstream| {
        format!("[route.{name}]\nlisten = \"{listen}\"\npath = \"/{name}\"\nupstream = \"{}\"\n", upstream.url())
    };
    let broker = Broker::start(&[token("one"), token("two"), route("one", &one), route("two", &two)].concat());
    broker.wait_for_state("one", "valid");
    broker.wait_for_state("two", "valid");
    let mut wire = Wire::open(broker.address("one"));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.send([get("/one/1"), get("/two/2"), get("/three"), get("/one/3"), get("/two/4")].concat());
    for (status, text) in [(200, "one"), (200, "two"), (404, ""), (200, "one"), (200, "two")] {
        let reply = wire.reply("GET").unwrap();
        assert_eq!(reply.status, status);
        assert!(status == 404 || reply.text() == text, "{reply:?}");
    }
    for (upstream, name) in [(&one, "one"), (&two, "two")] {
        let sent: Vec<_> = upstream.requests().iter().map(|r| r.one("authorization").unwrap().to_owned()).collect();
        assert_eq!(sent, vec![format!("Bearer token-{name}"); 2]);
    }
}

#[test]
fn a_chunked_mebibyte_goes_with_any_method() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let body: Vec<u8> = (0..1 << 18_u32).flat_map(u32::to_be_bytes).collect();
    let chunks: Vec<u8> = body
        .chunks(50_000)
        .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
        .chain(*b"0\r\n\r\n")
        .collect();
    for method in ["DELETE", "OPTIONS", "PROPFIND", "X-OWN", "GET", "POST"] {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("{method} / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"))
            .send(&chunks);
        assert_eq!(wire.reply(method).unwrap().status, 200, "{method}");
        assert!(upstream.requests().pop().unwrap().body == body, "{method}");
    }
}

#[test]
fn a_body_that_is_left_over_after_an_early_answer_is_a_request_on_neither_side() {
    const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let upstream = Upstream::start_early(|request| match path(request.line()) {
        "/401" => Action::status("401 Unauthorized"),
        "/413" => Action::status("413 Content Too Large"),
        "/417" => Action::status("417 Expectation Failed"),
        "/500" => Action::status("500 Internal Server Error"),
        _ => Action::ok("fine"),
    });
    let broker = single(&upstream, "retry_unauthorized = false");
    for target in ["/401", "/413", "/417", "/500"] {
        for expect in ["", "Expect: 100-continue\r\n"] {
            for framing in ["Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nf4240\r\n"] {
                let mut wire = Wire::open(broker.address("api"));
                wire.send(format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{expect}{framing}"));
                let reply = wire.reply("POST").unwrap();
                assert_eq!(reply.status.to_string(), target[1..], "{expect}{framing}");
                wire.send(SMUGGLED.repeat(10));
                assert!(wire.rest().is_empty(), "{target} {expect}{framing}: answered what is no request");
                assert_eq!(broker.get("api", "/").text(), "fine");
            }
        }
    }
    let requests = upstream.requests();
    assert!(!requests.iter().any(|request| request.head.contains("/smuggled")), "{requests:#?}");
    for (at, early) in requests.iter().enumerate().filter(|(_, request)| request.line().starts_with("POST")) {
        assert!(requests[at + 1..].iter().all(|later| later.connection != early.connection), "{early:?}");
    }
}

#[test]
fn encoded_bodies_ranges_and_validators_pass_untouched() {
    let gzip: Vec<u8> = [&b"\x1f\x8b\x08\0"[..], &(0..=255).collect::<Vec<u8>>()].concat();
    let parts = "--b\r\nContent-Range: bytes 0-0/9\r\n\r\na\r\n--b--\r\n".as_bytes().to_vec();
    let answers = [
        ("/gzip", "200 OK", "content-encoding: gzip\r\netag: W/\"1\"\r\nvary: Accept-Encoding", gzip),
        (
            "/range",
            "206 Partial Content",
            "content-type: multipart/byteranges; boundary=b\r\naccept-ranges: bytes",
            parts,
        ),
        (
            "/fields",
            "200 OK",
            "set-cookie: a=1\r\nset-cookie: b=2; Path=/\r\nset-cookie: a=1\r\nx-b: 1\r\nx-b: 2",
            vec![],
        ),
        ("/cookie", "200 OK", &format!("set-cookie: a={}", "c".repeat(8192)), vec![]),
        ("/bytes", "418 I'm a teapot", "x-a: \u{e4}\u{20ac}\r\nx-e:\r\nx-q: \"a, b\"", vec![0, 255, 13, 10]),
    ]
    .map(|(path, status, fields, body)| (path, status, fields.to_owned(), body));
    let known = answers.clone();
    let upstream = Upstream::start(move |request| {
        let (_, status, fields, body) = known.iter().find(|known| known.0 == path(request.line())).unwrap();
        let head = format!("HTTP/1.1 {status}\r\n{fields}\r\nContent-Length: {}\r\n\r\n", body.len());
        Action::Reply([head.as_bytes(), body].concat())
    });
    let broker = with_static_token(&upstream, "");
    for (path, status, fields, body) in answers {
        let asked = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nRange: bytes=0-0\r\n\r\n");
        let answer = exchange(broker.address("api"), asked);
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
        let passed: Vec<_> = head.lines().filter(|line| fields.contains(line.trim_end())).map(str::trim_end).collect();
        assert_eq!(passed.join("\r\n"), fields, "{path}");
        assert_eq!(answer[end + 4..], body, "{path}");
        assert_eq!(upstream.requests().pop().unwrap().one("range"), Some("bytes=0-0"));
    }
}

#[test]
fn an_options_request_goes_as_far_as_its_max_forwards() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let ask =
        |method: &str, forwards: &str| broker.request("api", method, "/", &[("Max-Forwards", forwards)], b"").status;
    assert_eq!(ask("OPTIONS", "0"), 204);
    assert!(upstream.requests().is_empty(), "answered here");
    for (method, sent, passed) in
        [("OPTIONS", "5", "4"), ("OPTIONS", "1", "0"), ("OPTIONS", "x", "x"), ("GET", "0", "0"), ("GET", "5", "5")]
    {
        assert_eq!(ask(method, sent), 200, "{method} {sent}");
        assert_eq!(upstream.requests().pop().unwrap().one("max-forwards"), Some(passed), "{method} {sent}");
    }
}

#[test]
fn an_api_that_closes_idle_connections_at_any_moment_loses_no_get_and_doubles_no_post() {
    let served = AtomicUsize::new(0);
    let upstream = Upstream::start(move |request| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Id: {}\r\n\r\n", request.one("x-id").unwrap());
        match served.fetch_add(1, Ordering::Relaxed) % 3 {
            // Closes at once, a moment later, or as the next request comes.
            0 => Action::Last(answer.into_bytes()),
            1 => Action::Take(Box::new(move |mut stream: TcpStream| {
                stream.write_all(answer.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            })),
            _ => Action::Take(Box::new(move |mut stream: TcpStream| {
                stream.write_all(answer.as_bytes()).unwrap();
                let _ = stream.read(&mut [0]);
            })),
        }
    });
    let broker = single(&upstream, "");
    let ask = |method: &str, round: usize| {
        let body: &[u8] = if method == "POST" { b"once" } else { b"" };
        broker.request("api", method, "/", &[("X-Id", &format!("{method}{round}"))], body).status
    };
    for round in 0..150 {
        assert_eq!(ask("GET", round), 200, "round {round}");
        let status = ask("POST", round);
        assert!(status == 200 || status == 502, "round {round}: {status}");
    }
    let mut posts: Vec<_> = upstream.requests().iter().filter_map(|r| r.one("x-id").map(str::to_owned)).collect();
    posts.retain(|id| id.starts_with("POST"));
    let all = posts.len();
    posts.sort();
    posts.dedup();
    assert_eq!(posts.len(), all, "a request with bytes written is never sent again");
}

#[test]
fn a_websocket_carries_what_came_right_behind_its_handshake() {
    let (told, tells) = channel();
    let upstream = Upstream::start(move |_| {
        let told = told.clone();
        Action::Take(Box::new(move |mut stream: TcpStream| {
            std::thread::sleep(Duration::from_millis(200));
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .unwrap();
            let mut came = [0; 14];
            stream.read_exact(&mut came).unwrap();
            told.send(came.to_vec()).unwrap();
        }))
    });
    let broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    // Neither HTTP nor patient, as a frame may be.
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\0\x01early\n");
    assert_eq!(wire.head().unwrap().status, 101);
    wire.send("later\n");
    assert_eq!(tells.recv_timeout(PATIENCE).unwrap(), b"\0\x01early\nlater\n");
}

#[test]
fn a_million_zeros_before_a_chunk_size_are_not_read_to_their_end() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    for size in ["0".repeat(1 << 20), format!("5;{}", "x".repeat(1 << 20)), format!("5{}", " ".repeat(1 << 20))] {
        let mut wire = Wire::open(broker.address("api"));
        wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").send(size);
        let reply = wire.reply("POST").unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"));
        assert!(wire.is_closed_within(PATIENCE));
    }
    assert!(upstream.requests().is_empty());
}

#[test]
fn heads_above_the_limits_leave_no_memory_behind() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let refused = |head: &str, status: &str| {
        let answer = exchange(broker.address("api"), head);
        assert!(answer.starts_with(format!("HTTP/1.1 {status}").as_bytes()), "{}", String::from_utf8_lossy(&answer));
    };
    let attempts = || {
        refused(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000)), "414");
        refused(&format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(20_000)), "431");
        refused(&format!("GET / HTTP/1.1\r\n{}", format!("X: {}\r\n", "y".repeat(16_000)).repeat(5)), "431");
    };
    attempts();
    let before = broker.process("VmRSS");
    (0..100).for_each(|_| attempts());
    let grown = broker.process("VmRSS").saturating_sub(before);
    assert!(grown < 3 * 1024, "{grown} KiB in 300 attempts");
}

#[test]
fn a_401_is_answered_with_a_newer_token_once_or_not_at_all() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    for (keys, sent) in [("", 12), ("retry_unauthorized = false", 10)] {
        let upstream = Upstream::start(|_| Action::status("401 Unauthorized"));
        let config = oauth.config("", keys).replace(&oauth.api.url(), &upstream.url());
        let broker = Broker::start_in(oauth.directory(), &config, |_| {});
        for _ in 0..10 {
            let before = upstream.requests().len();
            assert_eq!(broker.get("api", "/").status, 401);
            let tries = upstream.requests().split_off(before);
            let tokens: Vec<_> = tries.iter().map(|request| request.one("authorization").unwrap()).collect();
            assert!(matches!(tokens[..], [_]) || matches!(tokens[..], [one, two] if one != two), "{tokens:?}");
        }
        assert_eq!(upstream.requests().len(), sent, "two refreshes a minute, each for one replay: {keys}");
    }
}

#[test]
fn the_token_of_a_replay_never_comes_back_either() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let tries = AtomicUsize::new(0);
    let upstream = Upstream::start(move |request| {
        let sent = request.one("authorization").unwrap();
        let status = if tries.fetch_add(1, Ordering::SeqCst) == 0 { "401 Unauthorized" } else { "200 OK" };
        bytes(&format!("HTTP/1.1 {status}\r\nX-Echo: {sent}\r\nContent-Length: 0\r\n\r\n"))
    });
    let config = oauth.config("", "").replace(&oauth.api.url(), &upstream.url());
    let broker = Broker::start_in(oauth.directory(), &config, |_| {});
    let reply = broker.get("api", "/");
    assert_eq!((reply.status, reply.header("x-echo"), upstream.requests().len()), (200, None, 2));
    assert_eq!(broker.metric("tokenbroker_upstream_retries_total{route=\"api\"} ") as u32, 1);
}

#[test]
fn what_an_api_allows_pages_is_for_pages_of_its_own_not_for_those_that_the_route_lists() {
    let upstream = Upstream::start(|_| {
        bytes(
            "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
             Content-Length: 0\r\n\r\n",
        )
    });
    let broker = with_static_token(&upstream, "accept_origins = [\"https://app.example\"]");
    let allowed = |headers: &[(&str, &str)]| -> Vec<String> {
        let reply = broker.request("api", "GET", "/", headers, b"");
        assert_eq!(reply.status, 200);
        let fields = reply.headers.iter().filter(|(name, _)| name.to_lowercase().starts_with("access-control-"));
        fields.map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(allowed(&[("Origin", "https://app.example")]), ["https://app.example"]);
    assert_eq!(allowed(&[]), ["*", "true"]);
}

#[test]
fn the_same_length_twice_is_passed_on_as_one() {
    let upstream = Upstream::start(|_| bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"));
    let broker = with_static_token(&upstream, "");
    for method in ["GET", "HEAD"] {
        let reply = broker.request("api", method, "/", &[], b"");
        let lengths: Vec<_> = reply.headers.iter().filter(|(name, _)| name == "content-length").collect();
        assert_eq!((reply.status, lengths.len()), (200, 1), "{method}");
    }
}
