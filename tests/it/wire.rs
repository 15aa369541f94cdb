use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::Signal;
use tokenbroker::standin::Fault;
use tokenbroker::standin::pki::{Clients, Leaf, Pki};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::exchange::OAuth;
use crate::support::{
    ADMIN_KEY, Action, Broker, Buffered, PATIENCE, RUNTIME, Upstream, Wire, eventually, exchange, static_route,
    with_static_token,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const FINE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// An API that does with each connection, counted from 0, exactly what it is told.
struct Raw(SocketAddr);

impl Raw {
    fn start(serve: impl Fn(usize, Buffered) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, serve) = (listener.local_addr().unwrap(), Arc::new(serve));
        std::thread::spawn(move || {
            for (nth, stream) in listener.incoming().flatten().enumerate() {
                let serve = Arc::clone(&serve);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                std::thread::spawn(move || serve(nth, Buffered::new(stream)));
            }
        });
        Self(address)
    }

    /// A broker of one worker before it.
    fn broker(&self, limits: &str, keys: &str) -> Broker {
        let upstream = self.0;
        let broker = Broker::start(&format!(
            "[limits]\nthreads = 1\n{limits}\n[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n\
             [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{upstream}\"\n{keys}\n"
        ));
        broker.wait_for_state("api", "valid");
        broker
    }

    /// A broker before it whose tokens can be renewed.
    fn broker_with_oauth(&self, oauth: &OAuth, keys: &str) -> Broker {
        let config = oauth.config("", keys).replace(&oauth.api.url(), &format!("http://{}", self.0));
        let broker = Broker::start_in(oauth.directory(), &config, |_| {});
        broker.wait_for_state("api", "valid");
        broker
    }
}

/// The head of the next request on a connection of an API's.
fn request(api: &mut Buffered) -> Option<String> {
    Some(String::from_utf8_lossy(&api.until(b"\r\n\r\n")?).to_lowercase())
}

/// Answers every request with that.
fn always(answer: Vec<u8>) -> Upstream {
    Upstream::start(move |_| Action::Reply(answer.clone()))
}

fn single(upstream: &Upstream, limits: &str, keys: &str) -> Broker {
    let broker = Broker::start(&format!("[limits]\nthreads = 1\n{limits}\n{}", static_route(upstream, keys)));
    broker.wait_for_state("api", "valid");
    broker
}

/// Tells, and waits to be told.
fn signal() -> (Sender<()>, Arc<std::sync::Mutex<Receiver<()>>>) {
    let (tell, told) = channel();
    (tell, Arc::new(std::sync::Mutex::new(told)))
}

fn wait(told: &std::sync::Mutex<Receiver<()>>) {
    told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
}

const ANSWERS: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: b\r\n\r\nhello world",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;a=b\r\nhello \r\n05 \r\nworld\r\n0\r\nX-Sum: 1\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n\
     HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    "\r\nHTTP/1.1 200 OK\nContent-Length: 11\n\nhello world",
];

#[test]
fn an_answer_that_is_cut_off_at_any_byte_is_502_or_short_and_never_another() {
    let upstream = Upstream::start(|request| {
        let mut words = request.line().split([' ', '/']).skip(2);
        let mut number = || words.next().and_then(|word| word.parse::<usize>().ok());
        match (number(), number()) {
            (Some(which), Some(cut)) => Action::Last(ANSWERS[which].as_bytes()[..cut].to_vec()),
            _ => Action::ok("fine"),
        }
    });
    let broker = single(&upstream, "", "");
    for (which, answer) in ANSWERS.iter().enumerate() {
        let chunked = answer.find("chunked\r\n\r\n").map(|at| at + "chunked\r\n\r\n".len());
        let head = chunked.unwrap_or(answer.len() - "hello world".len());
        for reused in [false, true] {
            for cut in 0..=answer.len() {
                if reused {
                    assert_eq!(broker.get("api", "/").text(), "fine", "before {which} {cut}");
                }
                let reply = broker.get("api", &format!("/{which}/{cut}"));
                if cut < head {
                    assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_protocol"), "{which} {cut}");
                } else {
                    assert_eq!((reply.status, reply.complete), (200, cut == answer.len()), "{which} {cut}");
                    assert!("hello world".starts_with(&reply.text()), "{which} {cut}: {reply:?}");
                    assert!(!reply.complete || reply.text() == "hello world", "{which} {cut}: {reply:?}");
                }
            }
        }
    }
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_whole_and_its_connection_is_used_again() {
    let api = Raw::start(|_, mut api| {
        while let Some(head) = request(&mut api) {
            let which = head.split([' ', '/']).nth(2).unwrap().parse::<usize>().unwrap();
            for byte in ANSWERS[which].as_bytes() {
                api.stream.write_all(&[*byte]).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
    let broker = api.broker("", "");
    let mut wire = Wire::open(broker.address("api"));
    for which in [0, 1, 2, 3, 1, 0] {
        for version in ["1.1", "1.0"] {
            wire.send(format!("GET /{which} HTTP/{version}\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"));
            let reply = wire.reply("GET").unwrap();
            assert_eq!((reply.status, reply.complete), (200, true), "{which} {version}");
            assert_eq!(reply.text(), "hello world", "{which} {version}");
            if reply.header("connection") == Some("close") {
                wire = Wire::open(broker.address("api"));
            }
        }
    }
}

#[test]
fn what_an_api_sends_while_its_connection_is_idle_is_nobodys_answer() {
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    let api = Raw::start(move |nth, mut api| {
        while request(&mut api).is_some() {
            api.stream.write_all(FINE).unwrap();
            if nth == 0 {
                std::thread::sleep(Duration::from_millis(100));
                api.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray").unwrap();
                tell.lock().unwrap().send(()).unwrap();
            }
        }
    });
    let broker = api.broker("", "");
    assert_eq!(broker.get("api", "/").text(), "fine");
    told.recv_timeout(PATIENCE).unwrap();
    // Each turn of the worker sees what has come.
    assert_eq!(broker.admin("GET", "/livez").status, 200);
    for method in ["GET", "POST", "GET"] {
        assert_eq!(broker.request("api", method, "/", &[], b"").text(), "fine", "{method}");
    }
}

#[test]
fn an_answer_that_names_its_length_as_a_field_of_the_hop_keeps_its_end() {
    let upstream = always(
        b"HTTP/1.1 200 OK\r\nConnection: Content-Length, X-A\r\nX-A: b\r\nContent-Length: 4\r\n\r\nfine".to_vec(),
    );
    let broker = single(&upstream, "", "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(GET.repeat(2));
    for _ in 0..2 {
        let head = wire.head().unwrap();
        assert_eq!((head.status, head.header("x-a")), (200, None));
        assert_eq!(head.header("content-length"), Some("4"), "{head:?}");
        let mut body = [0; 4];
        body.copy_from_slice(&wire.exactly(4).unwrap());
        assert_eq!(&body, b"fine");
    }
}

#[test]
fn an_answer_without_an_end_of_its_own_gets_one_or_ends_the_clients_connection() {
    let upstream = Upstream::start(|request| match request.line().split(' ').nth(1).unwrap() {
        "/close" => Action::Last(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nuntil the end".to_vec()),
        "/empty" => Action::Last(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        "/chunks" => Action::Reply(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n".to_vec(),
        ),
        _ => Action::ok("fine"),
    });
    let broker = single(&upstream, "", "");
    let mut wire = Wire::open(broker.address("api"));
    for (target, body) in
        [("/close", "until the end"), ("/", "fine"), ("/empty", ""), ("/chunks", "ab"), ("/empty", ""), ("/", "fine")]
    {
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let reply = wire.reply("GET").unwrap();
        assert_eq!((reply.text().as_str(), reply.complete), (body, true), "{target}");
        assert_eq!(reply.header("connection"), None, "{target}: the client's connection goes on");
        assert_eq!(reply.header("transfer-encoding").is_some(), target != "/", "{target}");
    }
    for (target, body, keeps) in
        [("/close", "until the end", false), ("/empty", "", false), ("/chunks", "ab", false), ("/", "fine", true)]
    {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("GET {target} HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"));
        let reply = wire.reply("GET").unwrap();
        assert_eq!((reply.version.as_str(), reply.text().as_str()), ("HTTP/1.0", body), "{target}");
        let connection = if keeps { "keep-alive" } else { "close" };
        assert_eq!(reply.header("connection"), Some(connection), "{target}");
        assert_eq!(reply.header("transfer-encoding"), None, "{target}");
        if keeps {
            wire.send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
            let reply = wire.reply("GET").unwrap();
            assert_eq!((reply.text().as_str(), reply.header("connection")), ("fine", Some("close")));
        }
        assert!(wire.is_closed_within(PATIENCE), "{target}");
    }
}

#[test]
fn the_answer_to_head_has_no_body_however_it_is_framed() {
    let upstream = Upstream::start(|request| {
        let framing = match request.line().split(' ').nth(1).unwrap() {
            "/length" => "Content-Length: 1000\r\n",
            "/chunked" => "Transfer-Encoding: chunked\r\n",
            "/both" => "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            _ => "",
        };
        Action::Reply(format!("HTTP/1.1 200 OK\r\n{framing}\r\n").into_bytes())
    });
    let broker = single(&upstream, "", "");
    for version in ["1.1", "1.0"] {
        let mut wire = Wire::open(broker.address("api"));
        for (target, length) in [("/length", Some("1000")), ("/chunked", None), ("/none", None), ("/both", None)] {
            wire.send(format!("HEAD {target} HTTP/{version}\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"));
            let reply = wire.reply("HEAD").unwrap();
            assert_eq!((reply.status, reply.header("content-length")), (200, length), "{target} {version}");
            assert_eq!(reply.header("transfer-encoding"), None, "{target} {version}");
            assert_ne!(reply.header("connection"), Some("close"), "{target} {version}");
        }
    }
    let connections: Vec<_> = upstream.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 0, 0, 1, 1, 1, 1], "only an answer with two ends is the last");
}

#[test]
fn twenty_thousand_chunks_of_one_byte_arrive_whole_in_either_direction() {
    let chunks: Vec<u8> = (0..20_000_u32).flat_map(|n| [b"1\r\n", &[n as u8][..], b"\r\n"].concat()).collect();
    let chunks = [&chunks, &b"0\r\n\r\n"[..]].concat();
    let body: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
    let upstream = always([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks.as_slice()].concat());
    let broker = single(&upstream, "", "");
    for version in ["1.1", "1.0"] {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("GET / HTTP/{version}\r\nHost: localhost\r\n\r\n"));
        let reply = wire.reply("GET").unwrap();
        assert!(reply.complete && reply.body == body, "{version}");
    }
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").send(&chunks);
    assert_eq!(wire.reply("POST").unwrap().status, 200);
    assert!(upstream.requests().pop().unwrap().body == body);
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_uploading_ten_megabytes() {
    let upstream = Upstream::start_early(|_| {
        Action::Last(
            b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 7\r\n\r\ntoo big".to_vec(),
        )
    });
    let broker = single(&upstream, "", "");
    for framing in ["Content-Length: 10000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n989680\r\n"] {
        for _ in 0..5 {
            let mut wire = Wire::open(broker.address("api"));
            let mut writer = wire.stream().try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                writer.write_all(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{framing}").as_bytes()).unwrap();
                // It may be cut, once the answer is there.
                let _ = writer.write_all(&vec![b'x'; 10_000_000]);
            });
            let reply = wire.reply("POST").unwrap();
            assert_eq!((reply.status, reply.text().as_str(), reply.complete), (413, "too big", true), "{framing}");
            writing.join().unwrap();
        }
    }
}

#[test]
fn a_chunked_body_is_sent_again_after_a_401_as_the_same_one_request() {
    const BODY: &str = "5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n";
    let oauth = OAuth::start(Duration::from_secs(3600));
    let upstream = Upstream::start(|request| match request.connection {
        0 => Action::Last(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => Action::ok("fine"),
    });
    let broker = Raw(upstream.address).broker_with_oauth(&oauth, "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}"));
    assert_eq!(wire.reply("POST").unwrap().text(), "fine");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2, "{requests:#?}");
    for request in &requests {
        assert_eq!((request.chunked, request.body.as_slice()), (true, &b"firstsecond"[..]), "{request:?}");
    }
    assert_ne!(requests[0].one("authorization"), requests[1].one("authorization"));
}

#[test]
fn a_body_of_which_a_part_was_sent_is_sent_from_its_beginning_after_a_401() {
    for (framing, first, rest) in [
        ("Transfer-Encoding: chunked", "5\r\nfirst\r\n3\r\nse", "c\r\n3\r\nond\r\n0\r\n\r\n"),
        ("Content-Length: 11", "firstse", "cond"),
    ] {
        let oauth = OAuth::start(Duration::from_secs(3600));
        let (tell, told) = channel();
        let tell = std::sync::Mutex::new(tell);
        let api = Raw::start(move |nth, mut api| {
            let head = request(&mut api).unwrap();
            let tell = tell.lock().unwrap().clone();
            if nth == 0 {
                api.until(b"first").unwrap();
                api.stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
            } else {
                let body = if head.contains("transfer-encoding: chunked") {
                    let mut body = Vec::new();
                    api.chunks(&mut body).unwrap();
                    body
                } else {
                    assert!(head.contains("content-length: 11\r\n"), "{head}");
                    api.exactly(11).unwrap()
                };
                api.stream.write_all(FINE).unwrap();
                tell.send(body).unwrap();
            }
            api.rest();
        });
        let broker = api.broker_with_oauth(&oauth, "");
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n{first}"));
        eventually("it is sent again", || broker.metric("tokenbroker_upstream_retries_total{route=\"api\"} ") > 0.5);
        wire.send(rest);
        assert_eq!(wire.reply("POST").unwrap().text(), "fine", "{framing}");
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"firstsecond", "{framing}");
    }
}

#[test]
fn a_chunked_body_above_the_bound_is_not_sent_again_and_the_401_passes() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let upstream = Upstream::start(|_| Action::status("401 Unauthorized"));
    let broker = Raw(upstream.address).broker_with_oauth(&oauth, "replay_body_max = \"1KiB\"");
    for (size, tries) in [(1025, 1), (1024, 2)] {
        let before = upstream.requests().len();
        let mut wire = Wire::open(broker.address("api"));
        wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        wire.send(format!("1\r\nx\r\n{:x}\r\n{}\r\n0\r\n\r\n", size - 1, "x".repeat(size - 1)));
        assert_eq!(wire.reply("POST").unwrap().status, 401);
        let sent = upstream.requests().split_off(before);
        assert_eq!(sent.len(), tries, "{size}");
        assert!(sent.iter().all(|request| request.chunked && request.body.len() == size), "{size}");
    }
}

/// Where the head and the broken chunks come in one packet, they are read when the head is sent, and again.
#[test]
fn chunks_that_break_in_the_packet_of_their_head_are_not_read_a_second_time_in_another_way() {
    let upstream = Upstream::ok();
    let broker = single(&upstream, "", "");
    let swallowed = "5\r\nhello\r\n5g\r\n";
    // Once more from its beginning, behind the digit 5: a chunk of 0x55 bytes.
    let body = format!("{swallowed}{}\r\n0\r\n\r\n", "x".repeat(0x55 + 3 - swallowed.len()));
    let mut wire = Wire::open(broker.address("api"));
    wire.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
    let reply = wire.reply("POST").unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"));
    assert!(wire.is_closed_within(PATIENCE));
    assert!(upstream.requests().is_empty(), "{:#?}", upstream.requests());
}

#[test]
fn a_client_that_goes_takes_the_connection_to_the_api_with_it() {
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    let api = Raw::start(move |_, mut api| {
        let head = request(&mut api).unwrap();
        if head.contains("/stream") {
            api.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").unwrap();
        }
        let tell = tell.lock().unwrap().clone();
        tell.send("here").unwrap();
        assert!(api.rest().is_empty());
        tell.send("gone").unwrap();
    });
    let broker = api.broker("", "");
    for target in ["/thinks", "/stream"] {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "here");
        if target == "/stream" {
            assert_eq!(wire.head().unwrap().status, 200);
            assert_eq!(wire.chunk().unwrap(), b"x");
        }
        drop(wire);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "gone", "{target}");
    }
}

#[test]
fn fifty_pipelined_requests_with_bodies_are_fifty_requests_however_they_are_cut() {
    let upstream = Upstream::start(|request| {
        Action::ok(&format!("{} {}", request.line(), String::from_utf8_lossy(&request.body)))
    });
    let broker = single(&upstream, "", "");
    let mut all = String::new();
    for n in 0..50 {
        let body = "GET /smuggled HTTP/1.1\r\n\r\n".repeat(n % 4);
        let framed = match n % 3 {
            0 => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
            1 if !body.is_empty() => {
                format!(
                    "Transfer-Encoding: chunked\r\n\r\n1;a\r\nG\r\n{:x}\r\n{}\r\n0\r\nA: b\r\n\r\n",
                    body.len() - 1,
                    &body[1..]
                )
            }
            1 => "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            _ => format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        };
        all.push_str(&format!("PUT /{n} HTTP/1.1\r\nHost: localhost\r\n{framed}"));
    }
    for piece in [1, 7, 1000, all.len()] {
        let mut wire = Wire::open(broker.address("api"));
        let mut writer = wire.stream().try_clone().unwrap();
        let bytes = all.clone().into_bytes();
        let writing = std::thread::spawn(move || {
            bytes.chunks(piece).for_each(|part| writer.write_all(part).unwrap());
        });
        for n in 0..50 {
            let reply = wire.reply("PUT").unwrap();
            let body = "GET /smuggled HTTP/1.1\r\n\r\n".repeat(n % 4);
            assert_eq!(reply.text(), format!("PUT /{n} HTTP/1.1 {body}"), "{piece}");
        }
        writing.join().unwrap();
    }
}

#[test]
fn a_request_that_comes_while_the_answer_before_it_is_on_its_way_waits_for_its_end() {
    let (tell, told) = signal();
    let api = Raw::start(move |_, mut api| {
        while let Some(head) = request(&mut api) {
            if head.starts_with("get /first") {
                api.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").unwrap();
                wait(&told);
                api.stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").unwrap();
            } else {
                assert_eq!(api.exactly(4).unwrap(), b"body");
                api.stream.write_all(FINE).unwrap();
            }
        }
    });
    let broker = api.broker("", "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(wire.head().unwrap().status, 200);
    assert_eq!(wire.chunk().unwrap(), b"one");
    wire.send("POST /second HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbo");
    std::thread::sleep(Duration::from_millis(50));
    wire.send("dy");
    tell.send(()).unwrap();
    assert_eq!(wire.chunk().unwrap(), b"two");
    assert_eq!(wire.chunk().unwrap(), b"");
    assert_eq!(wire.reply("POST").unwrap().text(), "fine");
}

#[test]
fn a_drain_ends_idle_connections_and_waits_for_answers_and_heads_that_have_begun() {
    let (tell, told) = signal();
    let api = Raw::start(move |_, mut api| {
        while let Some(head) = request(&mut api) {
            if head.starts_with("get /stream") {
                api.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").unwrap();
                wait(&told);
                api.stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").unwrap();
            } else {
                api.stream.write_all(FINE).unwrap();
            }
        }
    });
    let mut broker = api.broker("head_timeout = \"60s\"", "");
    let mut wires = [(); 4].map(|()| Wire::open(broker.address("api")));
    let [streaming, idle, blank, half] = &mut wires;
    for wire in [&mut *idle, &mut *blank, &mut *half] {
        wire.send(GET);
        assert_eq!(wire.reply("GET").unwrap().text(), "fine");
    }
    half.send(&GET[..20]);
    // No head has begun with that.
    blank.send("\r\n");
    streaming.send("GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(streaming.head().unwrap().status, 200);
    assert_eq!(streaming.chunk().unwrap(), b"one");
    broker.signal(Signal::TERM);
    assert!(idle.is_closed_within(PATIENCE) && blank.is_closed_within(PATIENCE));
    half.send(&GET[20..]);
    let reply = half.reply("GET").unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert!(half.is_closed_within(PATIENCE));
    tell.send(()).unwrap();
    assert_eq!(streaming.chunk().unwrap(), b"two");
    assert_eq!(streaming.chunk().unwrap(), b"");
    assert!(streaming.is_closed_within(PATIENCE));
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn leave_to_send_a_body_is_given_only_where_it_is_waited_for_and_the_body_is_wanted() {
    let upstream = Upstream::start(|request| Action::ok(&String::from_utf8_lossy(&request.body)));
    let broker = single(&upstream, "", "methods = [\"POST\"]");
    let ask = |line: &str, fields: &str, body: &str| {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("{line}\r\nHost: localhost\r\nExpect: 100-Continue\r\n{fields}\r\n\r\n{body}"));
        wire
    };
    for (framing, body) in [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")] {
        let mut wire = ask("POST / HTTP/1.1", framing, "");
        assert_eq!(wire.head().unwrap().status, 100, "{framing}");
        for byte in body.as_bytes() {
            wire.send([*byte]);
        }
        let head = wire.reply("POST").unwrap();
        assert_eq!((head.status, head.text().as_str()), (200, "hello"), "{framing}");
        wire.send("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(wire.head().unwrap().status, 200, "{framing}: once");

        let mut wire = ask("POST / HTTP/1.1", framing, body);
        assert_eq!(wire.head().unwrap().status, 200, "{framing}: it had come");
        // Refused: the client is not asked for it, and the connection cannot go on.
        let mut wire = ask("PUT / HTTP/1.1", framing, "");
        let head = wire.head().unwrap();
        assert_eq!((head.status, head.header("connection")), (405, Some("close")), "{framing}");
    }
    let mut wire = ask("POST / HTTP/1.1", "Content-Length: 0", "");
    assert_eq!(wire.head().unwrap().status, 200, "there is no body");
    let mut wire = ask("POST / HTTP/1.0", "Content-Length: 5", "");
    wire.send("hello");
    assert_eq!(wire.head().unwrap().status, 200, "older clients do not know it");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broker = Raw(nobody).broker("", "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(wire.head().unwrap().status, 502, "there is nobody to send it to");
}

#[test]
fn a_head_of_an_answer_may_be_as_large_as_the_limits_say_and_no_larger() {
    let upstream = Upstream::start(|request| {
        let (kind, n) = request.line().split(' ').nth(1).unwrap()[1..].split_once('/').unwrap();
        let n = n.parse::<usize>().unwrap();
        let (start, end) = ("HTTP/1.1 200 OK\r\nX: ", "\r\nContent-Length: 4\r\n\r\n");
        Action::Reply(match kind {
            "bytes" => format!("{start}{}{end}fine", "y".repeat(n - start.len() - end.len())).into_bytes(),
            // With its length.
            _ => format!("HTTP/1.1 200 OK\r\n{}Content-Length: 4\r\n\r\nfine", "X: y\r\n".repeat(n - 1)).into_bytes(),
        })
    });
    let broker = single(&upstream, "head = \"8KiB\"\nheaders = 20", "");
    for (kind, limit) in [("bytes", 8192), ("fields", 20)] {
        for (n, status) in [(limit - 1, 200), (limit, 200), (limit + 1, 502), (limit, 200), (limit + 5000, 502)] {
            let reply = broker.get("api", &format!("/{kind}/{n}"));
            assert_eq!(reply.status, status, "{kind} {n}");
            assert!(status != 200 || reply.text() == "fine", "{kind} {n}");
        }
    }
}

#[test]
fn values_and_reason_phrases_pass_byte_for_byte_and_so_does_every_status_from_200_on() {
    let value: Vec<u8> = (0x80..=0xff).chain(*b" \t\"~!").chain(0x80..=0xff).collect();
    let sent = value.clone();
    let upstream = Upstream::start(move |request| {
        let status = request.one("x-status").unwrap();
        let fields = [b"\r\nX-A: \t ", sent.as_slice(), b" \t\r\nX-B:\r\nContent-Length: 0\r\n\r\n"].concat();
        Action::Reply([format!("HTTP/1.1 {status}").as_bytes(), &fields].concat())
    });
    let broker = single(&upstream, "", "");
    let ask = |status: &str| {
        let fields = [format!("\r\nX-Status: {status}\r\nX-A: ").as_bytes(), &value, b"\r\n\r\n"].concat();
        exchange(
            broker.address("api"),
            [b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close", fields.as_slice()].concat(),
        )
    };
    let field = [b"\r\nx-a: ", value.as_slice(), b"\r\n"].concat();
    for (status, passed) in [
        ("200 OK", "200 OK"),
        ("200 two \t words!", "200 two \t words!"),
        ("404", "404 Not Found"),
        ("404 ", "404 Not Found"),
        ("299", "299 "),
        ("600 Odd", "600 Odd"),
        ("999 Last", "999 Last"),
    ] {
        let answer = ask(status);
        let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap()).into_owned();
        assert_eq!(line, format!("HTTP/1.1 {passed}"));
        assert!(answer.windows(field.len()).any(|part| part == field), "{status}");
        let asked = upstream.requests().pop().unwrap().raw;
        assert!(asked.windows(field.len()).any(|part| part == field), "{status}");
    }
    for status in ["099 Low", "000 None", "20 Short", "2x0 Odd", "200OK", "-20 OK"] {
        let answer = ask(status);
        assert!(answer.starts_with(b"HTTP/1.1 502 "), "{status}: {}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn an_api_that_never_ends_the_head_of_its_answer_is_given_up_in_time() {
    let api = Raw::start(|_, mut api| {
        let head = request(&mut api).unwrap();
        let (start, more, pause) = match head.split(' ').nth(1).unwrap() {
            "/lines" => ("", "\r\n".repeat(100_000), Duration::ZERO),
            "/slow" => ("HTTP/1.1 200 OK\r\nX: ", "y".into(), Duration::from_millis(20)),
            _ => ("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 2", "0".into(), Duration::from_millis(20)),
        };
        let _ = api.stream.write_all(start.as_bytes());
        while api.stream.write_all(more.as_bytes()).is_ok() {
            std::thread::sleep(pause);
        }
    });
    let broker = api.broker("", "response_timeout = \"500ms\"");
    // As many empty lines as a head may have bytes are too many.
    for (target, said) in [
        ("/lines", (502, "upstream_protocol")),
        ("/slow", (504, "upstream_timeout")),
        ("/hints", (504, "upstream_timeout")),
    ] {
        let reply = broker.get("api", target);
        assert_eq!((reply.status, reply.code().as_str()), said, "{target}");
    }
}

#[test]
fn over_tls_ten_megabytes_pass_in_both_directions_at_once() {
    const SIZE: usize = 10_000_000;
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(directory.path()).unwrap();
    let tls = pki.server_config(&pki.issue(&Leaf::server("server")).unwrap(), Clients::None).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let listener = RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    RUNTIME.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                // What comes goes back at once.
                let mut piece = vec![0; 100_000];
                let mut left = SIZE;
                while left > 0 {
                    let n = stream.read(&mut piece).await.unwrap();
                    assert!(n > 0);
                    stream.write_all(&piece[..n]).await.unwrap();
                    stream.flush().await.unwrap();
                    left -= n;
                }
                stream.shutdown().await.unwrap();
            });
        }
    });
    let config = format!(
        "[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n[route.api]\nlisten = \"127.0.0.1:0\"\n\
         upstream = \"https://localhost:{port}\"\nca = \"ca.pem\"\nroots = \"ca\"\n"
    );
    let broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("api", "valid");
    let body: Vec<u8> = (0..SIZE).map(|n| (n / 251) as u8 ^ n as u8).collect();
    for _ in 0..2 {
        let mut wire = Wire::open(broker.address("api"));
        let (mut writer, sent) = (wire.stream().try_clone().unwrap(), body.clone());
        let writing = std::thread::spawn(move || {
            let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n");
            writer.write_all(head.as_bytes()).unwrap();
            writer.write_all(&sent).unwrap();
        });
        let reply = wire.reply("POST").unwrap();
        writing.join().unwrap();
        assert!(reply.status == 200 && reply.complete && reply.body == body);
    }
}

#[test]
fn frames_in_the_packet_of_the_101_and_in_that_of_the_handshake_both_arrive() {
    let api = Raw::start(|_, mut api| {
        let head = request(&mut api).unwrap();
        assert!(head.contains("upgrade: websocket"), "{head}");
        let answer = "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                      Upgrade: websocket\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        api.stream.write_all(answer.as_bytes()).unwrap();
        let came = api.exactly(10).unwrap();
        api.stream.write_all(&came).unwrap();
    });
    let broker = api.broker("", "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly");
    let head = wire.head().unwrap();
    assert_eq!((head.status, head.header("content-length")), (101, None));
    wire.send("later");
    assert_eq!(wire.rest(), b"HTTP/1.1 200 OK\r\n\r\nearlylater");
}

#[test]
fn a_101_that_nobody_asked_for_is_502_whatever_it_says() {
    let upstream = Upstream::start(|_| {
        Action::Last(
            b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_vec(),
        )
    });
    let broker = single(&upstream, "", "");
    for (version, fields) in [
        ("1.1", ""),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        ("1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n"),
        ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n"),
    ] {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("GET / HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n"));
        wire.send(if fields.contains("Length") { "x" } else { "" });
        let reply = wire.reply("GET").unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_protocol"), "{version} {fields}");
    }
    let upstream = always(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec());
    let broker = with_static_token(&upstream, "");
    let asked = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    assert_eq!(broker.request("api", "GET", "/", &asked, b"").status, 502, "another protocol");
}

#[test]
fn a_client_that_goes_while_the_token_is_waited_for_is_not_waited_for() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_secs(3600))), None);
    let broker = oauth.broker("eager = false\ntimeout = \"60s\"", "token_wait = \"60s\"");
    let open = || broker.metric("tokenbroker_connections ");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(GET);
    eventually("the token is asked for", || oauth.oauth.faults.calls() == 1);
    assert!((open() - 1.0).abs() < 0.1);
    drop(wire);
    eventually("its connection is closed", || open() < 0.5);
    assert!(oauth.echo.seen().is_empty());
}

/// Some old clients send an empty line behind a body (RFC 9112 §2.2).
#[test]
fn an_empty_line_behind_a_body_is_no_request_and_does_not_hold_up_the_next() {
    let upstream = Upstream::start(|request| Action::ok(&String::from_utf8_lossy(&request.body)));
    let broker = single(&upstream, "", "");
    let mut wire = Wire::open(broker.address("api"));
    for _ in 0..3 {
        wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello\r\n");
        assert_eq!(wire.reply("POST").unwrap().text(), "hello");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn the_operators_listener_takes_a_body_however_it_is_framed_up_to_its_bound() {
    let upstream = Upstream::ok();
    let broker = single(&upstream, "", "");
    let post = |fields: &str, after_leave: bool, body: &str| {
        let mut wire = Wire::open(broker.address("admin"));
        wire.send(format!(
            "POST /api/clients/api/list HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n{fields}\r\n\r\n"
        ));
        if after_leave {
            assert_eq!(wire.head().unwrap().status, 100, "{fields}");
        }
        wire.send(body);
        let reply = wire.reply("POST").unwrap();
        (reply.status, reply.code())
    };
    let asked = format!("{{{}}}", " ".repeat(5000));
    let chunks = format!("1\r\n{}\r\n{:x};a\r\n{}\r\n0\r\n\r\n", &asked[..1], asked.len() - 1, &asked[1..]);
    let taken = (502, "clients_failed".to_owned());
    let length = format!("Content-Length: {}", asked.len());
    for leave in [false, true] {
        let expect = if leave { "Expect: 100-continue\r\n" } else { "" };
        assert_eq!(post(&format!("{expect}{length}"), leave, &asked), taken);
        assert_eq!(post(&format!("{expect}Transfer-Encoding: chunked"), leave, &chunks), taken);
    }
    let long = " ".repeat(64 * 1024 + 1);
    let refused = (413, "body_too_long".to_owned());
    assert_eq!(post(&format!("Content-Length: {}", long.len()), false, &long), refused);
    assert_eq!(post(&format!("Expect: 100-continue\r\nContent-Length: {}", long.len()), false, ""), refused);
    let chunks = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    assert_eq!(post("Transfer-Encoding: chunked", false, &chunks), refused);
}

/// A token of digits alone may be the length of an answer.
#[test]
fn an_answer_whose_length_has_the_digits_of_the_token_keeps_its_end() {
    const SIZE: usize = 10_000_000;
    let head = format!("HTTP/1.1 200 OK\r\nX-A: {SIZE}\r\nContent-Length: {SIZE}\r\n\r\n");
    let upstream = always([head.as_bytes(), &vec![b'x'; SIZE]].concat());
    let broker = Broker::start(&static_route(&upstream, "").replace("the-token", &SIZE.to_string()));
    broker.wait_for_state("api", "valid");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(GET);
    let head = wire.head().unwrap();
    assert_eq!((head.header("x-a"), head.header("content-length")), (None, Some("10000000")));
}

#[test]
fn a_client_that_reads_slowly_but_steadily_gets_all_of_it() {
    const SIZE: usize = 12 << 20;
    let upstream =
        always([format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes(), &vec![b'x'; SIZE]].concat());
    let broker = single(&upstream, "", "idle_timeout = \"1s\"");
    let mut wire = Wire::open(broker.address("api"));
    wire.send(GET);
    assert_eq!(wire.head().unwrap().status, 200);
    for _ in 0..SIZE >> 18 {
        assert_eq!(wire.exactly(1 << 18).unwrap().len(), 1 << 18);
        std::thread::sleep(Duration::from_millis(60));
    }
    wire.send(GET);
    assert_eq!(wire.head().unwrap().status, 200);
}

#[test]
fn through_two_brokers_every_framing_arrives_as_it_was_sent() {
    let upstream = Upstream::start(|request| {
        let body = String::from_utf8_lossy(&request.body);
        match request.line().split(' ').nth(1).unwrap() {
            "/chunked" => Action::Reply(
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
                    .into_bytes(),
            ),
            "/close" => Action::Last(format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()),
            "/cut" => Action::Last(
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}", body.len()).into_bytes(),
            ),
            "/garbage" => Action::Last(b"garbage\r\n\r\n".to_vec()),
            _ => Action::ok(&body),
        }
    });
    let behind = single(&upstream, "", "");
    let broker = Raw(behind.address("api")).broker("", "");
    let body: String = (0..30_000).map(|n| format!("{n:x}\r\n")).collect();
    let mut wire = Wire::open(broker.address("api"));
    for framed in [
        format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
    ] {
        for target in ["/", "/chunked", "/close", "/", "/garbage", "/chunked"] {
            wire.send(format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{framed}"));
            let reply = wire.reply("POST").unwrap();
            if target == "/garbage" {
                assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_protocol"));
            } else {
                assert!(reply.status == 200 && reply.complete && reply.text() == body, "{target} {framed:.80}");
            }
        }
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("POST /cut HTTP/1.1\r\nHost: localhost\r\n{framed}"));
        let reply = wire.reply("POST").unwrap();
        assert_eq!((reply.status, reply.complete), (200, false), "{framed:.80}");
    }
    assert!(upstream.requests().iter().all(|request| request.body == body.as_bytes()));
}
