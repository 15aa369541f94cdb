use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokenbroker::identity::provider;
use tokenbroker::standin::pki::{Files, Leaf, Pki};

use crate::support::{
    Action, Broker, PATIENCE, RawRequest, Reply, Upstream, Wire, eventually, has, output, static_route, through,
    with_static_token, write,
};

/// Users of nobody else.
const LISTED: u32 = 12_345;
const OTHER: u32 = 23_456;

/// A program, as another user.
fn as_user(user: u32, program: &str, arguments: &[&str]) -> Output {
    Command::new(program).uid(user).gid(user).args(arguments).output().unwrap()
}

/// curl as that user: the status, and what came.
fn curl(user: u32, arguments: &[&str]) -> (String, String) {
    let all: Vec<_> = ["-sS", "-w", "\n%{http_code}"].iter().chain(arguments).copied().collect();
    let output = as_user(user, "curl", &all);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.to_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[track_caller]
fn refused(reply: &Reply, words: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (403, "client_refused"), "{reply:?}");
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(words), "{detail}");
    assert_eq!(reply.header("connection"), Some("close"));
}

#[test]
fn over_a_unix_socket_a_user_who_is_not_listed_is_cut_off_before_a_byte_is_read() {
    if !has("root") || !has("curl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let path = directory.path().join("api.sock");
    let (upstream, shown) = (Upstream::ok(), path.to_str().unwrap());
    let config = |uids: &str| {
        static_route(&upstream, &format!("clients = {{ uids = {uids} }}"))
            .replace("127.0.0.1:0", &format!("unix:{shown}"))
    };
    let mut broker = Broker::start(&config(&format!("[{LISTED}]")));
    assert_eq!(mode(&path), 0o666, "the kernel's word on the user decides, not the file");
    let ask = |user| curl(user, &["--unix-socket", shown, "http://localhost/"]);
    assert_eq!(ask(LISTED).0, "200");
    for user in [OTHER, 0] {
        assert_eq!(ask(user).0, "000", "no answer at all");
    }
    let mut stream = UnixStream::connect(&path).unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    assert_eq!(upstream.requests().len(), 1);
    assert!((broker.metric("tokenbroker_connections_refused_total{reason=\"user\"}") - 3.0).abs() < 0.1);
    let logged = format!("a connection of user {OTHER} was refused");
    eventually("it is in the log", || broker.log().contains(&logged));

    // A reload changes who may, and what the file says.
    broker.reconfigure(&config("[0]"));
    assert_eq!(broker.reload().0, 0);
    assert_eq!((mode(&path), ask(LISTED).0.as_str(), ask(0).0.as_str()), (0o600, "000", "200"));
    broker.reconfigure(&config(&format!("[0, {OTHER}]")));
    assert_eq!(broker.reload().0, 0);
    assert_eq!((mode(&path), ask(LISTED).0.as_str(), ask(OTHER).0.as_str()), (0o666, "000", "200"));
}

#[test]
fn a_unix_socket_stays_private_where_one_of_its_routes_lists_no_users() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let upstream = Upstream::ok();
    let route = |name: &str, keys: &str| {
        let listen = path.display();
        format!(
            "[route.{name}]\nlisten = \"unix:{listen}\"\npath = \"/{name}\"\nupstream = \"{}\"\ntoken = false\n{keys}\n",
            upstream.url()
        )
    };
    let _broker = Broker::start(&(route("a", &format!("clients = {{ uids = [{LISTED}] }}")) + &route("b", "")));
    assert_eq!(mode(&path), 0o600);
    // Of those who can connect, each route says who may.
    let ask = |target: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/b").starts_with("HTTP/1.1 200 "));
    let answer = ask("/a");
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("route.a.clients.uids"), "{answer}");
}

#[test]
fn over_loopback_the_user_behind_a_connection_is_looked_up_and_anybody_else_gets_403() {
    if !has("root") || !has("curl") || !has("python3") {
        return;
    }
    let upstream = Upstream::ok();
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let config =
            static_route(&upstream, &format!("clients = {{ uids = [{LISTED}] }}")).replace("127.0.0.1:0", listen);
        let broker = Broker::start(&config);
        broker.wait_for_state("api", "valid");
        let url = format!("http://{}/", broker.address("api"));
        let before = upstream.requests().len();
        assert_eq!(curl(LISTED, &[&url]).0, "200");
        let (status, body) = curl(OTHER, &[&url]);
        assert!(
            status == "403" && body.contains(&format!("user {OTHER} may not use this route: list {OTHER} in")),
            "{body}"
        );
        refused(&broker.get("api", "/"), "user 0 may not use this route: list 0 in route.api.clients.uids");
        assert_eq!(upstream.requests().len(), before + 1);
        let logged = format!("user {OTHER} may not use this route");
        eventually("it is in the log", || broker.log().contains(&logged));
        let refusals =
            broker.metric("tokenbroker_requests_total{route=\"api\",status_class=\"4xx\",origin=\"broker\"}");
        assert!((refusals - 2.0).abs() < 0.1);
        // As Java does: an IPv6 socket to an IPv4 address.
        if listen.starts_with('1') {
            let script = format!(
                "import socket\ns = socket.socket(socket.AF_INET6)\ns.connect(('::ffff:127.0.0.1', {}))\n\
                 s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\nprint(s.recv(100)[:12])",
                broker.address("api").port()
            );
            let output = as_user(LISTED, "python3", &["-c", &script]);
            assert_eq!(String::from_utf8_lossy(&output.stdout), "b'HTTP/1.0 200'\n", "{output:?}");
        }
    }
}

#[test]
fn a_connection_whose_user_cannot_be_known_is_never_taken_for_roots() {
    if !has("root") || !has("python3") {
        return;
    }
    // A socket that is closed belongs to nobody, and the kernel says 0 for it.
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "clients = { uids = [0] }");
    assert_eq!(broker.get("api", "/").status, 200);
    let script = format!(
        "import socket, struct\nfor i in range(4000):\n  s = socket.create_connection(('127.0.0.1', {}))\n  \
         s.sendall(b'GET /theirs HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n  \
         if i % 3 == 1: s.shutdown(socket.SHUT_RDWR)\n  \
         if i % 3 == 2: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n  s.close()",
        broker.address("api").port()
    );
    let output = as_user(OTHER, "python3", &["-c", &script]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(broker.get("api", "/").status, 200);
    eventually("all of them are closed", || {
        let open = broker.metric("tokenbroker_connections ");
        open < 0.5
    });
    let theirs = upstream.requests().iter().filter(|request| request.line().contains("/theirs")).count();
    assert_eq!(theirs, 0, "none of four thousand");
    let some = "a user whom the kernel does not name may not use this route";
    eventually("some were gone before they could be looked up", || broker.log().contains(some));
}

#[test]
fn a_relay_speaks_for_its_own_user_and_a_connection_is_looked_up_once() {
    if !has("root") || !has("curl") || !has("strace") {
        return;
    }
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, &format!("clients = {{ uids = [{LISTED}] }}"));
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, target) = (relay.local_addr().unwrap().port(), broker.address("api"));
    std::thread::spawn(move || {
        for mut client in relay.incoming().map_while(Result::ok) {
            let mut there = std::net::TcpStream::connect(target).unwrap();
            let mut back = (there.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
            std::thread::spawn(move || std::io::copy(&mut client, &mut there));
        }
    });
    let host = format!("Host: {target}");
    let (status, body) = curl(LISTED, &["-H", &host, &format!("http://127.0.0.1:{port}/")]);
    assert!(status == "403" && body.contains("user 0 may not"), "the relay is root's: {body}");

    let trace = broker.directory.path().join("trace");
    let pid = broker.pid().to_string();
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=socket", "-o", trace.to_str().unwrap(), "-p", &pid])
        .spawn()
        .unwrap();
    eventually("it is traced", || broker.process("TracerPid") > 0);
    let url = format!("http://{target}/");
    assert!(curl(LISTED, &[&url, &url, &url, &url, &url]).0.ends_with("200"));
    let asked = || std::fs::read_to_string(&trace).unwrap().matches("NETLINK_SOCK_DIAG").count();
    eventually("the trace is written", || asked() > 0);
    assert_eq!(asked(), 1, "five requests over one connection");
    rustix::process::kill_process(rustix::process::Pid::from_child(&strace), rustix::process::Signal::INT).unwrap();
    strace.wait().unwrap();
}

#[test]
fn networks_say_from_where_and_users_come_first_on_this_machine() {
    let upstream = Upstream::ok();
    let own = rustix::process::geteuid().as_raw();
    for (clients, passes) in [
        ("networks = [\"127.0.0.0/8\"]".to_owned(), true),
        ("networks = [\"10.0.0.0/8\", \"127.0.0.1\"]".to_owned(), true),
        ("networks = [\"10.0.0.0/8\", \"::1\"]".to_owned(), false),
        (format!("networks = [\"10.0.0.0/8\"], uids = [{own}]"), true),
        (format!("networks = [\"127.0.0.0/8\"], uids = [{LISTED}]"), false),
    ] {
        let broker = with_static_token(&upstream, &format!("clients = {{ {clients} }}"));
        let reply = broker.get("api", "/");
        if passes {
            assert_eq!(reply.status, 200, "{clients}");
        } else if clients.contains("uids") {
            refused(&reply, &format!("user {own} may not use this route"));
        } else {
            refused(
                &reply,
                "a client at 127.0.0.1 may not use this route: list its network in route.api.clients.networks",
            );
        }
    }
}

#[test]
fn on_an_address_of_the_network_only_listed_networks_are_let_in() {
    if !has("root") || !has("ip") || !has("unshare") || !has("curl") {
        return;
    }
    // A network of its own, with an address that is not loopback.
    let route = |name: &str, port: u16, clients: &str| {
        format!(
            "[route.{name}]\nlisten = \"0.0.0.0:{port}\"\nunsafe_listen = true\naccept_hosts = [\"192.0.2.1\", \"127.0.0.1\"]\n\
             upstream = \"http://127.0.0.1:1\"\ntoken = false\nclients = {{ {clients} }}\n"
        )
    };
    let config = route("near", 8001, "networks = [\"192.0.2.0/24\"]")
        + &route("far", 8002, "networks = [\"198.51.100.0/24\"]")
        + &route("users", 8003, "uids = [0]")
        + &route("both", 8004, "uids = [0], networks = [\"198.51.100.0/24\"]")
        + &route("key", 8005, "key = \"0123456789abcdef-client\"");
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), &config, |command| {
        let address = "ip link set lo up && ip addr add 192.0.2.1/32 dev lo && exec \"$@\"";
        through(command, &["unshare", "-n", "sh", "-c", address, "sh"]);
    });
    let pid = broker.pid().to_string();
    let ask = |host: &str, port: u16| {
        let url = format!("http://{host}:{port}/");
        let mut command = Command::new("nsenter");
        output(command.args(["-t", &pid, "-n", "curl", "-sS", "-w", "\n%{http_code}", &url]))
    };
    // 502: it was let in, and there is no API.
    for (host, port, status, words) in [
        ("192.0.2.1", 8001, "502", ""),
        ("127.0.0.1", 8001, "403", "a client at 127.0.0.1"),
        ("192.0.2.1", 8002, "403", "a client at 192.0.2.1 may not use this route"),
        ("192.0.2.1", 8003, "403", "a client at 192.0.2.1"),
        ("127.0.0.1", 8003, "502", ""),
        ("192.0.2.1", 8004, "403", "a client at 192.0.2.1"),
        ("127.0.0.1", 8004, "502", ""),
        ("192.0.2.1", 8005, "403", "X-Tokenbroker-Key"),
    ] {
        let said = ask(host, port);
        assert!(said.ends_with(&format!("\n{status}")) && said.contains(words), "{host}:{port}: {said}");
    }
}

const KEY: &str = "0123456789abcdef-client-key";

#[test]
fn a_key_is_demanded_compared_rotated_and_never_forwarded() {
    let upstream = Upstream::start(|_| Action::ok(""));
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "client_key", format!("{KEY}\n"));
    let keys = "clients = { key = { file = \"client_key\" } }\naccept_origins = [\"https://app.example\"]";
    let broker = Broker::start_in(directory, &static_route(&upstream, keys), |_| {});
    broker.wait_for_state("api", "valid");
    let ask = |fields: &[(&str, &str)]| broker.request("api", "GET", "/", fields, b"");
    let name = "X-Tokenbroker-Key";
    for (fields, words) in [
        (&[][..], "needs one X-Tokenbroker-Key: what route.api.clients.key names"),
        (&[(name, "wrong")], "is not what route.api.clients.key names"),
        (&[(name, &KEY[1..])], "is not what"),
        (&[(name, "")], "is not what"),
        (&[(name, "\u{e9}")], "is not what"),
        (&[(name, KEY), (name, KEY)], "needs one"),
        (&[("X_Tokenbroker_Key", KEY)], "needs one"),
        (&[("Authorization", KEY), ("Cookie", KEY)], "needs one"),
    ] {
        refused(&ask(fields), words);
    }
    assert!(upstream.requests().is_empty());
    assert_eq!(ask(&[(name, KEY), ("X_Tokenbroker_Key", KEY), ("X-Other", "1")]).status, 200);
    let request = upstream.only();
    assert!(!request.head.contains(KEY) && request.one("x-other") == Some("1"), "{}", request.head);
    let preflight = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "x-tokenbroker-key"),
    ];
    let reply = broker.request("api", "OPTIONS", "/", &preflight, b"");
    assert_eq!((reply.status, reply.header("access-control-allow-headers")), (204, Some("x-tokenbroker-key")));

    // Another one, over the same connections as before.
    let mut wire = Wire::open(broker.address("api"));
    let host = broker.address("api");
    let mut over_wire = |key: &str| {
        wire.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{name}: {key}\r\n\r\n"));
        wire.reply("GET").unwrap().status
    };
    assert_eq!(over_wire(KEY), 200);
    let next = "fedcba9876543210-client-key";
    write(broker.directory.path(), "client_key", next);
    eventually("the new key is in force", || ask(&[(name, next)]).status == 200);
    assert_eq!(over_wire(next), 200);
    refused(&ask(&[(name, KEY)]), "is not what");
    // A file that cannot be used leaves the key that was read.
    write(broker.directory.path(), "client_key", "");
    eventually("it is told", || broker.log().contains("route.api.clients.key: the file"));
    assert_eq!(ask(&[(name, next)]).status, 200);
    std::fs::remove_file(file).unwrap();
    eventually("it is told, too", || broker.log().contains("client_key: No such file"));
    assert_eq!(ask(&[(name, next)]).status, 200);
    let all = broker.log() + &broker.admin("GET", "/metrics").text() + &broker.status().to_string();
    assert!(!all.contains(KEY) && !all.contains(next));
}

#[test]
fn a_key_that_only_some_servers_would_see_counts_for_nothing() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, &format!("clients = {{ key = \"{KEY}\" }}"));
    let good = format!("GET /good HTTP/1.1\r\nHost: localhost\r\nX-Tokenbroker-Key: {KEY}\r\n\r\n");
    // Each behind a request that is let in, and before one.
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    for (status, code, fields) in [
        (400, "bad_request", format!("X-Tokenbroker-Key : {KEY}\r\n")),
        (400, "bad_request", format!("X-A: b\r\n X-Tokenbroker-Key: {KEY}\r\n")),
        (400, "bad_request", format!("X-A: b\nX-Tokenbroker-Key: {KEY}\r\n")),
        (400, "bad_request", format!("X-A: b\rX-Tokenbroker-Key: {KEY}\r\n")),
        (400, "bad_request", format!("X-Tokenbroker-Key:\r\n {KEY}\r\n")),
        (400, "bad_request", format!("X-Tokenbroker-Key: {KEY}\0\r\n")),
        (403, "client_refused", format!("X-A: b, X-Tokenbroker-Key: {KEY}\r\n")),
        (403, "client_refused", format!("{chunked}X-Tokenbroker-Key: {KEY}\r\n")),
        (403, "client_refused", format!("Content-Length: {}\r\n\r\n{}", good.len(), &good[..good.len() - 2])),
        (403, "client_refused", String::new()),
    ] {
        let before = upstream.requests().len();
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("{good}POST /bad HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{good}"));
        assert_eq!(wire.reply("GET").unwrap().status, 200, "{fields}");
        let reply = wire.reply("POST").unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{fields}");
        assert_eq!(reply.header("connection"), Some("close"), "{fields}");
        assert!(wire.rest().is_empty(), "{fields}");
        assert_eq!(upstream.requests().len(), before + 1, "{fields}");
    }
    assert!(upstream.requests().iter().all(|request| request.line().contains("/good") && !request.head.contains(KEY)));
}

/// A listener with TLS.
struct Tls {
    pki: Pki,
    client: Files,
    upstream: Arc<Upstream>,
    broker: Broker,
}

impl Tls {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path()).unwrap();
        pki.issue(&Leaf::server("listener")).unwrap();
        let client = pki.issue(&Leaf::client("client", 7)).unwrap();
        let upstream = Arc::new(Upstream::start(|request| {
            let location = format!("http://{}/next", request.one("host").unwrap());
            Action::Reply(format!("HTTP/1.1 200 OK\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes())
        }));
        let keys = "clients = { ca = \"ca.pem\", cert = \"listener.pem\", key = \"listener.key\" }\nforwarded = true";
        let broker = Broker::start_in(directory, &static_route(&upstream, keys), |_| {});
        broker.wait_for_state("api", "valid");
        Self { pki, client, upstream, broker }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.broker.address("api").port())
    }

    /// curl with that certificate and more arguments: did it succeed, and what it said.
    fn curl(&self, files: Option<&Files>, more: &[&str]) -> (bool, String) {
        let mut command = Command::new("curl");
        command.args(["-sSi", "--cacert"]).arg(self.pki.ca());
        if let Some(files) = files {
            command.arg("--cert").arg(&files.cert).arg("--key").arg(&files.key);
        }
        let output = command.args(more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    fn refusals(&self) -> u32 {
        let text = self.broker.admin("GET", "/metrics").text();
        let line =
            text.lines().find_map(|line| line.strip_prefix("tokenbroker_connections_refused_total{reason=\"tls\"} "));
        line.map_or(0, |n| n.parse().unwrap())
    }
}

#[test]
fn with_a_ca_only_clients_with_its_certificate_get_through_the_handshake() {
    if !has("curl") {
        return;
    }
    let tls = Tls::start();
    let url = tls.url();
    let (good, said) = tls.curl(Some(&tls.client), &[&url]);
    assert!(good && said.starts_with("HTTP/1.1 200 OK"), "{said}");
    assert!(said.contains(&format!("location: {url}next")), "mapped to what the client uses: {said}");
    assert!(tls.upstream.only().one("forwarded").unwrap().ends_with(";proto=https"));
    let absolute = [
        "--request-target",
        &*format!("{url}absolute"),
        "-H",
        &*format!("Origin: {}", url.trim_end_matches('/')),
        &url,
    ];
    let (good, said) = tls.curl(Some(&tls.client), &absolute);
    assert!(good && said.starts_with("HTTP/1.1 200 OK"), "{said}");

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Pki::new(elsewhere.path()).unwrap();
    let foreign = other.issue(&Leaf::client("client", 7)).unwrap();
    let alone = tls.pki.self_signed("alone").unwrap();
    let expired = tls.pki.issue(&Leaf { years: (2020, 2021), ..Leaf::client("expired", 8) }).unwrap();
    let early = tls.pki.issue(&Leaf { years: (2098, 2099), ..Leaf::client("early", 8) }).unwrap();
    let server = tls.pki.issue(&Leaf::server("server")).unwrap();
    for (count, (files, words)) in (1..).zip([
        (None, "it has no certificate"),
        (Some(&foreign), "its certificate is not of the CA"),
        (Some(&alone), "its certificate is not of the CA"),
        (Some(&expired), "its certificate is refused"),
        (Some(&early), "its certificate is refused"),
        (Some(&server), "its certificate is refused"),
    ]) {
        for version in ["--tls-max", "--tlsv1.3"] {
            let more: &[&str] = if version == "--tls-max" { &[version, "1.2", &url] } else { &[version, &url] };
            let (good, said) = tls.curl(files, more);
            assert!(!good && !said.contains("HTTP/1.1"), "{words}: {said}");
        }
        eventually(words, || tls.refusals() == 2 * count && tls.broker.log().contains(words));
    }
    let plain = crate::support::exchange(tls.broker.address("api"), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!plain.starts_with(b"HTTP/"));
    eventually("it is told", || tls.broker.log().contains("that was not TLS: does it say https://?"));
    assert_eq!(tls.upstream.requests().len(), 2);
    let text = tls.broker.admin("GET", "/metrics").text();
    assert!(
        text.contains("tokenbroker_certificate_expiry_timestamp_seconds{identity=\"api.clients\"} 4070908800"),
        "{text}"
    );
}

/// All that a client with a certificate gets who sends these pieces, each in a record of its own, and asks for no more.
fn over_tls(tls: &Tls, pieces: &[&[u8]]) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(tls.pki.ca()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(&tls.client.cert).unwrap()];
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&tls.client.key).unwrap());
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TcpStream::connect(tls.broker.address("api")).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config.unwrap()), name).unwrap(), stream);
    for piece in pieces {
        stream.write_all(piece).unwrap();
        stream.flush().unwrap();
    }
    // It ends as TLS has to end: nobody on the way cut it off.
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    answers
}

#[test]
fn within_tls_the_same_gate_stands_as_without() {
    let tls = Tls::start();
    let host = format!("Host: {}\r\n", tls.broker.address("api"));
    let good = |target: &str| format!("POST {target} HTTP/1.1\r\n{host}Content-Length: 5\r\n\r\nhello");
    let last = format!("GET /last HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    let (chunks, smuggled) = ("5\r\nhello\r\n0\r\n\r\n", good("/smuggled"));
    let bad = |fields: &str| format!("POST /bad HTTP/1.1\r\n{host}{fields}\r\n{chunks}{smuggled}");
    for (sent, refused) in [
        (good("/1") + &good("/2") + &last, false),
        (bad("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), true),
        (bad("Transfer-Encoding: chunked, identity\r\n"), true),
        (bad("Transfer-Encoding : chunked\r\n"), true),
        (good("/1") + &bad("X-A: b\nTransfer-Encoding: chunked\r\n"), true),
        (good("/1") + &good("/2") + "GET /bad HTTP/1.1\nHost: localhost\n\n" + &smuggled, true),
    ] {
        let wanted = sent.matches("POST /1").count() + sent.matches("POST /2").count() + sent.matches("/last").count();
        for pieces in [vec![sent.as_bytes()], sent.as_bytes().chunks(1).collect(), sent.as_bytes().chunks(7).collect()]
        {
            let before = tls.upstream.requests().len();
            let answers = over_tls(&tls, &pieces);
            let said: Vec<_> = answers.split("HTTP/1.1 ").skip(1).collect();
            assert_eq!(said.len(), wanted + usize::from(refused), "{sent}\n{answers}");
            assert!(said[..wanted].iter().all(|answer| answer.starts_with("200 ")), "{answers}");
            if refused {
                let told = said[wanted];
                let whole = ["\r\nconnection: close\r\n", "\r\ncontent-type: application/problem+json\r\n"];
                assert!(told.starts_with("400 ") && told.contains("\"code\":\"bad_request\""), "{answers}");
                assert!(whole.iter().all(|part| told.contains(part)), "{answers}");
            }
            let requests = tls.upstream.requests();
            let seen: Vec<_> = requests[before..].iter().map(RawRequest::line).collect();
            assert_eq!(seen.len(), wanted, "{seen:?}");
            assert!(!seen.iter().any(|line| line.contains("/bad") || line.contains("/smuggled")), "{seen:?}");
        }
    }
}

#[test]
fn a_new_certificate_ca_or_revocation_list_is_in_force_without_a_restart() {
    if !has("curl") || !has("openssl") {
        return;
    }
    let tls = Tls::start();
    let url = tls.url();
    let other = tls.pki.issue(&Leaf::client("other", 9)).unwrap();
    assert!(tls.curl(Some(&other), &[&url]).0);
    // A connection that stays open meanwhile.
    let mut kept = Command::new("openssl");
    let address = tls.broker.address("api").to_string();
    kept.args(["s_client", "-quiet", "-connect", &address, "-CAfile"]).arg(tls.pki.ca());
    kept.arg("-cert").arg(&other.cert).arg("-key").arg(&other.key);
    kept.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut kept = kept.spawn().unwrap();
    let mut into = kept.stdin.take().unwrap();
    let mut from = std::io::BufReader::new(kept.stdout.take().unwrap());
    let mut over_it = || {
        into.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut from, &mut line).unwrap();
        while !line.ends_with("\r\n\r\n") {
            assert!(std::io::BufRead::read_line(&mut from, &mut line).unwrap() > 0, "{line}");
        }
        line
    };
    assert!(over_it().starts_with("HTTP/1.1 200"));

    // The listener's own: those who were let in stay.
    tls.pki.issue(&Leaf { serial: 99, ..Leaf::server("listener") }).unwrap();
    let shown = |serial: &str| {
        let ask = format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial");
        output(Command::new("sh").args(["-c", &ask])).contains(serial)
    };
    eventually("the new certificate is shown", || shown("serial=63"));
    assert!(over_it().starts_with("HTTP/1.1 200"));
    // A file that cannot be used changes nothing.
    let key = std::fs::read(tls.broker.directory.path().join("listener.key")).unwrap();
    write(tls.broker.directory.path(), "listener.key", "cut off");
    eventually("it is told", || tls.broker.log().contains("route.api.clients.key: "));
    assert!(tls.curl(Some(&tls.client), &[&url]).0);
    write(tls.broker.directory.path(), "listener.key", key);

    tls.pki.revoke(9).unwrap();
    eventually("the revoked one is refused", || !tls.curl(Some(&other), &[&url]).0);
    tls.broker.logs("its certificate was revoked");
    assert!(tls.curl(Some(&tls.client), &[&url]).0);
    let answer = over_it();
    assert!(answer.starts_with("HTTP/1.1 403"), "also over the connection that was open: {answer}");
    let _ = kept.kill();
    let _ = kept.wait();
}
