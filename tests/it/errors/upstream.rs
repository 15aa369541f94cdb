//! What applications get when the broker answers itself, and what its log says then.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use super::{Section, logged};
use crate::door::free_port;
use crate::support::{Action, Broker, Reply, Upstream, Wire, eventually, with_static_token};

/// Status, fields and words of an answer of the broker's own.
fn shown(reply: &Reply) -> String {
    let mut text = format!("{} {}", reply.status, reply.code());
    for (name, value) in &reply.headers {
        match name.as_str() {
            "retry-after" => text.push_str("; retry-after: SECONDS"),
            "proxy-status" | "allow" | "connection" => text.push_str(&format!("; {name}: {value}")),
            _ => {}
        }
    }
    format!("{text}\n{}", reply.json()["detail"].as_str().unwrap())
}

/// What a raw API answers, by the first step of the path.
fn api() -> Upstream {
    Upstream::start(|request| {
        let head = |head: &str| Action::Last(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nx").into_bytes());
        match request.line().split(['/', ' ']).nth(2).unwrap() {
            "page" => Action::Last(b"<html>\r\n\r\n".to_vec()),
            "close" => Action::Close,
            "half" => Action::Last(b"HTTP/1.1 200 OK\r\nA: b".to_vec()),
            "gzip" => head("Transfer-Encoding: gzip"),
            "lengths" => head("Content-Length: 1\r\nContent-Length: 2"),
            "length" => head("Content-Length: x"),
            "folded" => head("A: b\r\n c"),
            "status" => Action::Last(b"HTTP/1.1 099 No\r\n\r\n".to_vec()),
            "blank" => Action::Last(b"\r\n".repeat(50_000)),
            "interim" => Action::Last(b"HTTP/1.1 103 Hints\r\n\r\n".repeat(70)),
            "large" => head(&format!("A: {}", "x".repeat(70_000))),
            "switch" => Action::Last(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_vec()),
            "silent" => Action::Take(Box::new(|stream| {
                std::thread::sleep(Duration::from_secs(60));
                drop(stream);
            })),
            "stalls" => Action::Take(Box::new(|mut stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx");
                std::thread::sleep(Duration::from_secs(60));
            })),
            "cut" => head("Content-Length: 10"),
            "chunks" => head("Transfer-Encoding: chunked"),
            _ => Action::ok(""),
        }
    })
}

#[test]
fn every_answer_of_the_broker_itself_reads_well() {
    let mut section = Section::default();
    api_errors(&mut section);
    refusals(&mut section);
    bad_requests(&mut section);
    no_token(&mut section);
    operators(&mut section);
    section.is_golden("upstream");
}

/// An API that cannot be reached, or answers what is no answer; each behind a route of its own.
fn api_errors(section: &mut Section) {
    const ODD: &[&str] = &[
        "page", "close", "half", "gzip", "lengths", "length", "folded", "status", "blank", "interim", "large",
        "switch", "silent", "stalls", "cut", "chunks",
    ];
    let api = api();
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = String::new();
    let away = [
        ("refused", format!("http://127.0.0.1:{}", free_port())),
        ("unknown", "https://no-such-name.invalid".to_owned()),
        ("no-tls", format!("https://{}", api.address)),
        ("deaf", format!("https://{}", full.local_addr().unwrap())),
    ];
    let odd = ODD.iter().map(|name| (*name, format!("{}/{name}", api.url())));
    for (name, upstream) in away.into_iter().chain(odd) {
        config.push_str(&format!(
            "[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{upstream}\"\ntoken = false\nconnect_timeout = \"2s\"\n\
             response_timeout = \"2s\"\nidle_timeout = \"2s\"\n"
        ));
    }
    let broker = Broker::start(&config);
    for name in ["refused", "unknown", "no-tls", "deaf"].iter().chain(ODD) {
        let reply = broker.get(name, "/");
        let said =
            if reply.status < 300 { format!("{}, complete: {}", reply.status, reply.complete) } else { shown(&reply) };
        let log = logged(&broker, |line| {
            line["route"] == **name && line["listen"].is_null() && line["message"] != "forwarded"
        });
        section.show(&format!("the API: {name}"), &format!("{said}\n{log}"));
    }
}

/// Who may not do that, or not so.
fn refusals(section: &mut Section) {
    let api = Upstream::ok();
    let url = api.url();
    let broker = Broker::start(&format!(
        "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\ntoken = false\npath = \"/api\"\nmethods = [\"GET\"]\n\
         paths = [\"/api/v1\"]\n\
         [route.key]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\ntoken = false\nclients = {{ key = \"0123456789abcdef\" }}\n\
         [route.net]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\ntoken = false\nclients = {{ networks = [\"10.0.0.0/8\"] }}\n\
         [route.own]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\ntoken = false\nauthorization = \"reject\"\n"
    ));
    let target = "/api/v1";
    assert_eq!(broker.get("api", target).status, 200);
    for (route, method, target, field) in [
        ("api", "GET", target, ("Host", "example.com")),
        ("api", "GET", target, ("Origin", "https://example.com")),
        ("api", "GET", "/other", ("A", "b")),
        ("api", "POST", target, ("A", "b")),
        ("api", "GET", "/api/v2", ("A", "b")),
        ("api", "GET", "/api/%2e/v1", ("A", "b")),
        ("api", "GET", target, ("Expect", "miracle")),
        ("key", "GET", "/", ("A", "b")),
        ("key", "GET", "/", ("X-Tokenbroker-Key", "wrong")),
        ("key", "TRACE", "/", ("X-Tokenbroker-Key", "0123456789abcdef")),
        ("key", "GET", "*", ("X-Tokenbroker-Key", "0123456789abcdef")),
        ("net", "GET", "/", ("A", "b")),
        ("own", "GET", "/", ("Authorization", "Bearer mine")),
    ] {
        let host = broker.listen(route).to_owned();
        let (host, rest) = if field.0 == "Host" {
            (field.1, String::new())
        } else {
            (&*host, format!("{}: {}\r\n", field.0, field.1))
        };
        let mut wire = Wire::open(broker.address(route));
        wire.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n"));
        let reply = wire.reply(method).unwrap();
        let field = if field.0 == "A" { String::new() } else { format!(", {}: {}", field.0, field.1) };
        section.show(&format!("{method} {target}{field} to the route {route}"), &shown(&reply));
    }
    let looped = api.requests().first().cloned().unwrap();
    let mark = looped.head.lines().find(|line| line.to_lowercase().starts_with("x-tokenbroker")).unwrap();
    let (name, value) = mark.split_once(": ").unwrap();
    let reply = broker.request("api", "GET", target, &[(name, value)], b"");
    section.show("a request that came back to the broker", &shown(&reply));
}

/// Requests that are none.
fn bad_requests(section: &mut Section) {
    let api = Upstream::ok();
    let broker = Broker::start(&format!(
        "[limits]\nhead = \"32KiB\"\n[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\ntoken = false\n",
        api.url()
    ));
    let host = broker.listen("api").to_owned();
    let long = "x".repeat(17_000);
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n");
    for (what, bytes) in [
        ("no request line", "nonsense\r\n\r\n".to_owned()),
        ("a method that is none", format!("G(T / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        ("HTTP/3.0", format!("GET / HTTP/3.0\r\nHost: {host}\r\n\r\n")),
        ("a control character in the target", format!("GET /\u{1} HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        ("a target of 17 KB", format!("GET /{long} HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        ("a field of 17 KB", get(&format!("A: {long}\r\n"))),
        ("a head of 40 KB", get(&format!("A: {}\r\n", "x".repeat(15_000)).repeat(3))),
        ("101 fields", get(&"A: b\r\n".repeat(101))),
        ("a line that ends without CR", get("A: b\nB: c\r\n")),
        ("a control character", get("A: \u{1}\r\n")),
        ("a folded field", get("A: b\r\n c\r\n")),
        ("no field", get("nonsense\r\n")),
        ("no Host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("two Hosts", get(&format!("Host: {host}\r\n"))),
        ("a Host that is none", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned()),
        ("a target of another host", format!("GET http://example.com/ HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        ("a target that is no URL", format!("GET http://[/ HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        ("two lengths", get("Content-Length: 1\r\nContent-Length: 2\r\n")),
        ("a length that is none", get("Content-Length: x\r\n")),
        ("a length and chunks", get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")),
        ("gzip as transfer coding", get("Transfer-Encoding: gzip\r\n")),
        ("chunks in HTTP/1.0", format!("GET / HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ("broken chunks", get("Transfer-Encoding: chunked\r\n") + "nonsense\r\n"),
    ] {
        let answer = last_answer(&broker, &bytes);
        section.show(what, &answer);
    }
}

/// The answer to bytes that end a connection.
fn last_answer(broker: &Broker, bytes: &str) -> String {
    let mut wire = Wire::open(broker.address("api"));
    wire.send(bytes);
    shown(&wire.reply("GET").unwrap())
}

/// No token: which state, and what the application is told.
fn no_token(section: &mut Section) {
    let server = Upstream::start(|request| {
        let path = request.line().split(' ').nth(1).unwrap().to_owned();
        let refusal = |status: &str, code: &str| {
            let body = format!("{{\"error\":\"{code}\"}}");
            Action::Reply(format!("HTTP/1.1 {status} R\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
        };
        match path.as_str() {
            "/rejected" => refusal("401", "invalid_client"),
            "/login" => refusal("400", "invalid_grant"),
            _ => Action::status("503 Down"),
        }
    });
    let mut config = String::new();
    for (name, keys) in [
        ("down", ""),
        ("rejected", ""),
        ("login", "grant = \"password\"\nusername = \"u\"\npassword = { file = \"admin_key\" }\n"),
    ] {
        config.push_str(&format!(
            "[token.{name}]\nurl = \"{}/{name}\"\nclient_id = \"c\"\nclient_secret = {{ file = \"admin_key\" }}\n{keys}\
             [route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{0}\"\n",
            server.url()
        ));
    }
    let broker = Broker::start(&config);
    for name in ["down", "rejected", "login"] {
        eventually("it failed", || !broker.token(name)["last_error"].is_null());
        let reply = broker.get(name, "/");
        let log = logged(&broker, |line| line["route"] == name && line["listen"].is_null());
        section.show(&format!("no token: {name}"), &format!("{}\n{log}", shown(&reply)));
        if name == "down" {
            section.show("the whole body of that", &reply.text());
        }
    }
}

/// The operator's listener.
fn operators(section: &mut Section) {
    let api = Upstream::ok();
    let broker = with_static_token(&api, "");
    for (method, target, headers) in [
        ("GET", "/nothing", [("A", "b")]),
        ("DELETE", "/api/status", [("A", "b")]),
        ("POST", "/api/reload", [("A", "b")]),
        ("POST", "/api/reload", [("Authorization", "Bearer wrong")]),
        ("GET", "/api/status", [("Via", "1.1 proxy")]),
        ("GET", "/api/status", [("X-Forwarded-For", "10.0.0.1")]),
        ("GET", "/api/status", [("Origin", "https://example.com")]),
    ] {
        let reply = broker.request("admin", method, target, &headers, b"");
        if reply.status != 200 {
            section.show(
                &format!("{method} {target} to the operator's listener, {}: {}", headers[0].0, headers[0].1),
                &shown(&reply),
            );
        }
    }
    for target in [
        "/api/tokens/none/refresh",
        "/api/tokens/api/access_token",
        "/api/tokens/api/revoke",
        "/api/login/api",
        "/api/secrets/api/list",
        "/api/secrets/api/rotate",
        "/api/clients/api/list",
        "/api/store/none/forget",
    ] {
        let reply = broker.admin("POST", target);
        if reply.status != 200 {
            section.show(&format!("POST {target} to the operator's listener"), &shown(&reply));
        }
    }
}
