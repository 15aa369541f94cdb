//! What a request costs inside the broker, function by function: `cargo bench --bench hot`. What it costs in all, system calls
//! included, and beside others: `benches/side-by-side/run`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot be made ends")]

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use tokenbroker::app::App;
use tokenbroker::clock::Clock;
use tokenbroker::config;
use tokenbroker::door;
use tokenbroker::http1::{Body, Bounds, Head, Request, Response};
use tokenbroker::oauth::builtin::built_in;
use tokenbroker::oauth::file::{ClientAuth, Grant, Op};
use tokenbroker::oauth::place::Reply;
use tokenbroker::oauth::request::Inputs;
use tokenbroker::oauth::response;
use tokenbroker::peer::Peer;
use tokenbroker::proxy::{Framing, Routes, to_client, to_upstream};
use tokenbroker::server::Running;

const BOUNDS: Bounds = Bounds { bytes: 64 * 1024, fields: 100 };

/// As ordinary clients and servers have them.
const REQUEST: &str = "GET /api/v1/users/42?fields=name,email HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    User-Agent: python-requests/2.32.5\r\nAccept-Encoding: gzip, deflate\r\nAccept: application/json\r\n\
    Connection: keep-alive\r\nX-Request-Id: 7f3a9c0e-1f3b-4a53-9b53-1d0e6c8a2b11\r\nIf-None-Match: \"5d41402abc4b\"\r\n\
    Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nServer: nginx\r\n\
    Content-Type: application/json; charset=utf-8\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\
    Cache-Control: no-store\r\nETag: \"5d41402abc4b\"\r\nX-Request-Id: 7f3a9c0e\r\n\r\n";

fn request() -> Request {
    let mut head = Head::default();
    assert!(matches!(head.scan(REQUEST.as_bytes(), BOUNDS), Ok(Some(_))));
    head.request(REQUEST.as_bytes().to_vec()).unwrap()
}

/// A running broker with so many routes on one listener, of which `api` is the one for [`REQUEST`].
fn running(routes: usize) -> Running {
    let mut text = "[token.t]\ngrant = \"static\"\naccess_token = \"0123456789abcdef0123456789abcdef\"\n".to_owned();
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let listen = free.unwrap();
    for at in 0..routes {
        let (name, path) = if at == 0 { ("api".into(), "/api".into()) } else { (format!("r{at}"), format!("/r{at}")) };
        let _ = write!(
            text,
            "[route.{name}]\nlisten = \"{listen}\"\npath = \"{path}\"\nupstream = \"http://127.0.0.1:9\"\n\
             token = \"t\"\n"
        );
    }
    let (config, report) = config::check(Path::new("/nonexistent/tokenbroker.toml"), &text, Timestamp::now());
    let config = config.unwrap_or_else(|| panic!("{report:?}"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let running = runtime.block_on(async {
        let app = App::open(&config, Clock::system()).await.unwrap();
        let plan = app.plan(config, None, &Default::default()).await.unwrap();
        let running = Running::start(app, plan).await.unwrap();
        while running.parts.tokens["t"].slot.credential(0).is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running
    });
    runtime.shutdown_background();
    running
}

fn heads(c: &mut Criterion) {
    let running = running(1);
    let (route, request) = (&running.parts.routes["api"], request());
    let credential = running.parts.tokens["t"].slot.credential(0).map(|credential| credential.value);
    c.bench_function("a request head is read", |b| b.iter(|| black_box(self::request())));
    c.bench_function("its host is judged", |b| b.iter(|| black_box(door::host(&request)).is_ok()));
    c.bench_function("it is written for the API", |b| {
        let peer = Peer::unix(None);
        b.iter(|| {
            let target = route.target(&request);
            black_box(to_upstream(&request, &target, route, &peer, credential.as_ref(), false))
        });
    });
    c.bench_function("a response head is read", |b| {
        b.iter(|| black_box(Response::parse(RESPONSE.as_bytes().to_vec(), BOUNDS)).is_ok());
    });
    c.bench_function("it is written for the client", |b| {
        let response = Response::parse(RESPONSE.as_bytes().to_vec(), BOUNDS).unwrap();
        let framing = Framing { chunked: false, keeps: true };
        b.iter(|| {
            let mut out = Vec::new();
            to_client(&response, route, &request, None, framing, &mut out);
            black_box(out)
        });
    });
    c.bench_function("64 KiB in chunks of 4 KiB are taken apart", |b| {
        let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 4096], b"\r\n".to_vec()].concat();
        let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut scan = Head::default();
        assert!(matches!(scan.scan(&head, BOUNDS), Ok(Some(_))));
        let body = scan.request(head).unwrap().body;
        let bytes = [chunk.repeat(16), b"0\r\n\r\n".to_vec()].concat();
        b.iter(|| {
            let (mut body, mut data): (Body, _) = (body.clone(), 0);
            let taken = body.take(&bytes, |piece| data += piece.len());
            assert!(taken.is_ok() && data == 65536 && body.is_done());
        });
    });
}

fn routes(c: &mut Criterion) {
    let (request, mut group) = (request(), c.benchmark_group("a route is found among"));
    for count in [1, 100, 10_000] {
        let running = running(count);
        let routes = Routes::new(running.parts.routes.values().map(Arc::clone).collect(), Some(8080));
        let host = door::host(&request).unwrap();
        group.bench_function(count.to_string(), |b| {
            b.iter(|| routes.find(host.as_ref(), request.path()).is_ok_and(|route| black_box(route).is_some()));
        });
    }
}

fn tokens(c: &mut Criterion) {
    let running = running(1);
    let slot = Arc::clone(&running.parts.tokens["t"].slot);
    c.bench_function("the token is read", |b| b.iter(|| black_box(slot.credential(0))));
}

fn dialects(c: &mut Criterion) {
    let mut group = c.benchmark_group("an answer is read, in the dialect");
    let rfc = r#"{"access_token":"0123456789abcdef0123456789abcdef","token_type":"Bearer","expires_in":3600}"#;
    let comodo = r#"{"accessToken":"0123456789abcdef","accessTokenExpiration":1900000000,"refreshToken":"fedcba9876543210",
        "refreshTokenExpiration":1900600000}"#;
    for (name, body) in [("oauth2", rfc), ("comodo-one", comodo)] {
        let dialect = built_in(name).unwrap();
        let inputs = Inputs::new(
            dialect.grant.unwrap_or(Grant::ClientCredentials),
            dialect.client_auth.unwrap_or(ClientAuth::ClientSecretBasic),
        );
        let reply = Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: body.as_bytes().to_vec() };
        let now = Timestamp::now();
        group.bench_function(name, |b| {
            b.iter(|| black_box(response::read(&dialect, Op::Acquire, &inputs, &reply, now)).is_ok());
        });
    }
}

criterion_group!(hot, heads, routes, tokens, dialects);
criterion_main!(hot);
