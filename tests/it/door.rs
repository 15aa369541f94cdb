use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Broker, Upstream, call, exchange, output, run_to_end, static_route, with_static_token};

/// What came back for a raw request: its status line, or nothing.
fn status(broker: &Broker, route: &str, request: &str) -> String {
    let answer = exchange(broker.address(route), request.replace('\n', "\r\n"));
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn only_the_listeners_own_names_are_answered_and_a_port_must_be_its_own() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let (route_port, admin_port) = (broker.address("api").port(), broker.address("admin").port());
    for (listener, port, target) in [("api", route_port, "/"), ("admin", admin_port, "/livez")] {
        for host in ["localhost".to_owned(), "LOCALHOST".into(), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let line =
                status(&broker, listener, &format!("GET {target} HTTP/1.1\nHost: {host}\nConnection: close\n\n"));
            assert_eq!(line, "HTTP/1.1 200 OK", "{listener}: {host}");
        }
    }
    let passed = upstream.requests().len();
    for (listener, port) in [("api", route_port), ("admin", admin_port)] {
        for host in [
            format!("attacker.example:{port}"),
            "attacker.example".into(),
            "localhost.attacker.example".into(),
            "localhost.".into(),
            "0.0.0.0".into(),
            "127.0.0.2".into(),
            "localhost:1".into(),
            "api.example.com".into(),
        ] {
            let line = status(&broker, listener, &format!("GET / HTTP/1.1\nHost: {host}\n\n"));
            assert_eq!(line, "HTTP/1.1 421 Misdirected Request", "{listener}: {host}");
        }
    }
    assert_eq!(upstream.requests().len(), passed, "nothing reached the API");
}

#[test]
fn a_missing_a_second_or_a_malformed_host_is_a_bad_request() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    for head in [
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\nHost: localhost\nHost: localhost\n\n",
        "GET / HTTP/1.1\nHost: localhost\nHost: evil.example\n\n",
        "GET / HTTP/1.1\nHost: \n\n",
        "GET / HTTP/1.1\nHost: user@localhost\n\n",
        "GET / HTTP/1.1\nHost: localhost/path\n\n",
        "GET / HTTP/1.1\nHost: localhost,evil.example\n\n",
        "GET / HTTP/1.1\nHost: localhost:\n\n",
        "GET / HTTP/1.1\nHost: localhost:80x\n\n",
        "GET http://localhost/ HTTP/1.1\nHost: evil.example\n\n",
        "GET http://evil.example/ HTTP/1.1\nHost: localhost\n\n",
    ] {
        assert_eq!(status(&broker, "api", head), "HTTP/1.1 400 Bad Request", "{head:?}");
    }
    assert_eq!(
        status(&broker, "api", "GET http://evil.example/ HTTP/1.1\nHost: evil.example\n\n"),
        "HTTP/1.1 421 Misdirected Request"
    );
    assert!(upstream.requests().is_empty());
    // No browser can send these.
    assert_eq!(status(&broker, "api", "GET /old HTTP/1.0\n\n"), "HTTP/1.0 200 OK");
    let port = broker.address("api").port();
    let absolute =
        format!("GET http://localhost:{port}/absolute?x=1 HTTP/1.1\nHost: localhost:{port}\nConnection: close\n\n");
    assert_eq!(status(&broker, "api", &absolute), "HTTP/1.1 200 OK");
    let lines: Vec<_> = upstream.requests().iter().map(|request| request.line().to_owned()).collect();
    assert_eq!(lines, ["GET /old HTTP/1.1", "GET /absolute?x=1 HTTP/1.1"]);
}

#[test]
fn a_web_page_of_another_origin_is_refused_on_every_listener() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    for listener in ["api", "admin"] {
        let address = broker.address(listener);
        for headers in [
            &[("Origin", "https://evil.example")][..],
            &[("Origin", "null")],
            &[("Origin", "http://localhost:1")],
            &[("Sec-Fetch-Site", "cross-site")],
            &[("Sec-Fetch-Site", "same-site")],
            &[("Origin", "https://evil.example"), ("Access-Control-Request-Method", "GET")],
            &[("Origin", "https://evil.example"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        ] {
            for method in ["GET", "POST", "OPTIONS"] {
                let reply = call(address, method, "/livez", headers, b"");
                assert_eq!((reply.status, reply.code().as_str()), (403, "origin_refused"), "{listener}: {headers:?}");
                let cors = reply.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
                assert!(!cors, "{reply:?}");
            }
        }
    }
    assert!(upstream.requests().is_empty());
    let own = format!("http://{}", broker.address("api"));
    for headers in [
        &[("Sec-Fetch-Mode", "cors")][..],
        &[("Sec-Fetch-Site", "none")],
        &[("Origin", &own), ("Sec-Fetch-Site", "same-origin")],
    ] {
        assert_eq!(broker.request("api", "GET", "/", headers, b"").status, 200, "{headers:?}");
    }
}

#[test]
fn a_listed_origin_gets_cors_answers_and_the_others_get_none() {
    let upstream = Upstream::start(|_| {
        crate::support::Action::Reply(
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\nContent-Length: 0\r\n\r\n".to_vec(),
        )
    });
    let broker =
        with_static_token(&upstream, "accept_origins = [\"https://app.example\"]\nmethods = [\"GET\", \"PUT\"]");
    let page = ("Origin", "https://app.example");
    let preflight = [
        page,
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "x-a"),
        ("Access-Control-Request-Private-Network", "true"),
    ];
    let reply = broker.request("api", "OPTIONS", "/x", &preflight, b"");
    assert_eq!(reply.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-allow-private-network", "true"),
        ("vary", "Origin"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    let refused = broker.request("api", "OPTIONS", "/x", &[page, ("Access-Control-Request-Method", "DELETE")], b"");
    assert_eq!((refused.status, refused.header("access-control-allow-methods")), (204, None));
    assert!(upstream.requests().is_empty(), "a preflight is answered here");

    let reply = broker.request("api", "GET", "/x", &[page, ("Sec-Fetch-Site", "cross-site")], b"");
    let allowed: Vec<_> = reply.headers.iter().filter(|(name, _)| name == "access-control-allow-origin").collect();
    assert_eq!(allowed, [&("access-control-allow-origin".to_owned(), "https://app.example".to_owned())]);
    let refused = broker.request("api", "DELETE", "/x", &[page], b"");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (405, Some(page.1)), "it can read why");
    let plain = broker.get("api", "/x");
    assert_eq!(plain.header("access-control-allow-origin"), Some("*"), "without a page, the API's own words pass");
}

#[test]
fn connect_and_trace_are_refused_in_every_spelling() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let host = broker.address("api").to_string();
    for line in ["TRACE / HTTP/1.1", "trace / HTTP/1.1", "TRACK / HTTP/1.1", "CONNECT example.com:443 HTTP/1.1"] {
        let host = if line.starts_with("CONNECT") { "example.com:443" } else { &host };
        let answer = exchange(broker.address("api"), format!("{line}\r\nHost: {host}\r\nMax-Forwards: 5\r\n\r\n"));
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed"), "{line}: {answer}");
        assert!(answer.to_lowercase().contains("\r\nallow: get, "), "{answer}");
    }
    for line in ["GET example.com:443 HTTP/1.1", "GET * HTTP/1.1", "GET ?x HTTP/1.1", "OPTIONS example.com HTTP/1.1"] {
        let line = status(&broker, "api", &format!("{line}\nHost: {host}\n\n"));
        assert_eq!(line, "HTTP/1.1 400 Bad Request");
    }
    assert_eq!(status(&broker, "api", &format!("OPTIONS * HTTP/1.1\nHost: {host}\n\n")), "HTTP/1.1 204 No Content");
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_connect_opens_a_connection_to_nobody() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let host = target.local_addr().unwrap();
    let line = status(&broker, "api", &format!("CONNECT {host} HTTP/1.1\nHost: {host}\n\n"));
    assert_eq!(line, "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(target.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(upstream.requests().is_empty());
}

#[test]
fn everything_listens_on_loopback_only() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let tables =
        std::fs::read_to_string("/proc/net/tcp").unwrap() + &std::fs::read_to_string("/proc/net/tcp6").unwrap();
    for listener in ["api", "admin"] {
        let port = format!(":{:04X} ", broker.address(listener).port());
        let listening: Vec<_> = tables.lines().filter(|line| line.contains(&port) && line.contains(" 0A ")).collect();
        assert_eq!(listening.len(), 1, "{listening:?}");
        assert!(listening[0].contains(" 0100007F:"), "{listening:?}");
    }
}

#[test]
fn a_unix_socket_is_private_from_its_first_instant_and_takes_nobodys_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let upstream = Upstream::ok();
    let config = static_route(&upstream, "").replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let mut broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let mode = |path: &std::path::Path| path.symlink_metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);

    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let url = ["-sS", "--unix-socket", path.to_str().unwrap(), "http://localhost/y"];
    output(Command::new("curl").args(url));
    assert_eq!(upstream.requests().len(), 2);

    let (code, _, stderr) = run_to_end(&format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}"), &["run"]);
    assert!(code == 1 && stderr.contains("somebody listens there already"), "{stderr}");
    assert!(broker.stop().success());
    assert!(!path.exists(), "removed at the end");

    drop(UnixListener::bind(&path).unwrap());
    assert!(path.symlink_metadata().unwrap().file_type().is_socket(), "left behind by a crash");
    let broker = Broker::start(&config);
    drop(broker);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, "precious").unwrap();
    let (code, _, stderr) = run_to_end(&format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}"), &["run"]);
    assert!(code == 1 && stderr.contains("something that is not a socket stands there"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn routes_share_a_listener_by_host_and_by_path() {
    let upstreams: Vec<_> = (0..4).map(|_| Upstream::ok()).collect();
    let port = free_port();
    let mut config = String::new();
    for (name, keys) in [
        ("base", ""),
        ("v1", "path = \"/v1\""),
        ("deep", "path = \"/v1/deep\"\nstrip = false"),
        ("named", "host = \"api.local\""),
    ] {
        let index = ["base", "v1", "deep", "named"].iter().position(|n| *n == name).unwrap();
        let url = upstreams[index].url();
        config +=
            &format!("[route.{name}]\nlisten = \"127.0.0.1:{port}\"\nupstream = \"{url}\"\ntoken = false\n{keys}\n");
    }
    let broker = Broker::start(&config);
    for (target, host, index, forwarded) in [
        ("/", "localhost", 0, "/"),
        ("/v1x/y", "localhost", 0, "/v1x/y"),
        ("/v1", "localhost", 1, "/"),
        ("/v1?q", "localhost", 1, "/?q"),
        ("/v1/x?q=/v1", "localhost", 1, "/x?q=/v1"),
        ("/v1/deep/x", "localhost", 2, "/v1/deep/x"),
        ("/v1/x", "api.local", 3, "/v1/x"),
    ] {
        let line = status(&broker, "base", &format!("GET {target} HTTP/1.1\nHost: {host}\nConnection: close\n\n"));
        assert_eq!(line, "HTTP/1.1 200 OK", "{target}");
        let last = upstreams[index].requests().pop().unwrap_or_else(|| panic!("{target} went elsewhere"));
        assert_eq!(last.line(), format!("GET {forwarded} HTTP/1.1"));
    }
    let total: usize = upstreams.iter().map(|upstream| upstream.requests().len()).sum();
    assert_eq!(total, 7);
}

#[test]
fn a_path_cannot_be_spelled_so_that_it_takes_the_way_of_another_route() {
    let (all, one) = (Upstream::ok(), Upstream::ok());
    let port = free_port();
    let config = format!(
        "[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n\
         [route.all]\nlisten = \"127.0.0.1:{port}\"\nupstream = \"{}\"\ntoken = \"api\"\n\
         [route.one]\nlisten = \"127.0.0.1:{port}\"\nupstream = \"{}\"\npath = \"/b\"\nmethods = [\"GET\"]\ntoken = false\n",
        all.url(),
        one.url()
    );
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    assert_eq!(broker.request("one", "DELETE", "/b/x", &[], b"").code(), "method_refused");
    for spelled in ["/./b/x", "//b/x", "/a/../b/x", "/%62/x", "/b%2fx", "/x/..%2fb", "/%2e/b"] {
        let reply = broker.request("one", "DELETE", spelled, &[], b"");
        assert_eq!((reply.status, reply.code().as_str()), (403, "path_refused"), "{spelled}");
    }
    assert!(all.requests().is_empty() && one.requests().is_empty());
    for (plain, upstream) in [("/c%7Ed/%61", &all), ("/b/%7E", &one)] {
        assert_eq!(broker.get("one", plain).status, 200, "{plain}: where nothing depends on it, spelling is free");
        assert_eq!(upstream.requests().len(), 1);
    }
}

/// Outside the range that the kernel hands out by itself, so that no other test gets it meanwhile.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 7;
    let tried = (0..10_000).map(|_| (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000 + 20_000);
    let mut ports = tried.map(|port| u16::try_from(port).unwrap());
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[test]
fn a_path_that_no_route_takes_is_404_and_allow_lists_hold_on_the_exact_bytes() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "paths = [\"/api/v1/\", \"/open\"]\nmethods = [\"GET\"]");
    for allowed in ["/api/v1", "/api/v1/", "/api/v1/units?x=../..", "/open", "/api/v1/a.b/..c"] {
        assert_eq!(broker.get("api", allowed).status, 200, "{allowed}");
        assert_eq!(upstream.requests().pop().unwrap().line(), format!("GET {allowed} HTTP/1.1"));
    }
    let passed = upstream.requests().len();
    for refused in [
        "/",
        "/api",
        "/api/v1x",
        "/API/v1/",
        "/openx",
        "/api/v1/../admin",
        "/api/v1/%2e%2e/admin",
        "/api/v1/%2E%2e/admin",
        "/api/v1/..%2fadmin",
        "/api/v1/%2e%2e%2fadmin",
        "/api/v1/..;/admin",
        "//admin",
        "/api/v1//admin",
        "/api/v1/\\..\\admin",
        "/api/v1/%5c..%5cadmin",
        "/api/v1/./",
        "/api/v1/.%00/",
        "/api/v1/%0d%0a",
        "/open/..",
    ] {
        let reply = broker.get("api", refused);
        assert!(reply.status == 403 || reply.status == 400, "{refused}: {reply:?}");
    }
    let reply = broker.request("api", "DELETE", "/open", &[], b"");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")));
    assert_eq!(upstream.requests().len(), passed);

    let broker = with_static_token(&upstream, "path = \"/only\"");
    let reply = broker.get("api", "/other");
    assert_eq!((reply.status, reply.code().as_str()), (404, "no_route"));
}
