use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::door::free_port;
use crate::proxy::FullListener;
use crate::support::{
    Action, Broker, Upstream, Wire, eventually, has, in_namespace, static_route, with_static_token, write,
};

/// Accepts, and closes with a reset; or stays silent.
fn listener(resets: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().flatten() {
            if resets {
                // What was not read when it is closed makes it a reset.
                let _ = stream.peek(&mut [0]);
            } else {
                kept.push(stream);
            }
        }
    });
    address
}

/// A broker with one token for each of these URLs, its route named like it.
fn with_tokens(urls: &[(&str, String)], keys: &str, api: &Upstream, adjust: impl FnOnce(&mut Command)) -> Broker {
    let directory = tempfile::tempdir().unwrap();
    let tables: String = urls
        .iter()
        .map(|(name, url)| {
            format!(
                "[token.{name}]\nurl = \"{url}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n\
                 [route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n{keys}\n",
                api.url()
            )
        })
        .collect();
    write(directory.path(), "secret", "s");
    Broker::start_in(directory, &format!("[limits]\nthreads = 2\n{tables}"), adjust)
}

/// Each token's error names what is wrong, soon after the three seconds that connecting may take.
fn all_are_told(broker: &Broker, expected: &[(&str, &str)]) {
    let began = Instant::now();
    for (name, reason) in expected {
        broker.wait_for_state(name, "expired");
        let error = broker.token(name)["last_error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("transient: ") && error.contains(reason), "{name}: {error}");
        let reply = broker.get(name, "/");
        assert_eq!((reply.status, reply.code().as_str()), (503, "token_unavailable"), "{name}");
        assert!(reply.header("retry-after").is_some());
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(broker.process("Threads") <= 16, "{} threads", broker.process("Threads"));
}

#[test]
fn every_way_in_which_a_token_server_is_away_is_told_apart_and_nothing_is_forwarded() {
    let full = FullListener::new();
    let urls = [
        ("refused", format!("http://127.0.0.1:{}", free_port())),
        ("hole", format!("http://{}", full.address)),
        ("tls", format!("https://{}", listener(false))),
        ("reset", format!("http://{}", listener(true))),
    ];
    let api = Upstream::ok();
    let broker = with_tokens(&urls, "token_wait = \"1s\"", &api, |_| {});
    let began = Instant::now();
    let reply = broker.get("hole", "/");
    assert_eq!((reply.status, reply.code().as_str()), (503, "token_unavailable"));
    assert!(began.elapsed() < Duration::from_secs(3), "no longer than token_wait");
    all_are_told(
        &broker,
        &[
            ("refused", "Connection refused"),
            ("hole", "within 3 s: it does not answer"),
            ("tls", "within 3 s: the TLS handshake did not end"),
            ("reset", "was cut off"),
        ],
    );
    assert!(api.requests().is_empty(), "never without a token");
}

/// A name server on an address of its own: one zone has no names, another gets no answer.
fn name_server() -> Ipv4Addr {
    let (address, socket) = (0..100)
        .find_map(|_| {
            let address = Ipv4Addr::new(127, fastrand::u8(64..), fastrand::u8(..), fastrand::u8(1..255));
            Some((address, UdpSocket::bind((address, 53)).ok()?))
        })
        .unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut packet) {
            if !packet[..n].windows(6).any(|window| window == b"silent") {
                // The question again, as an answer (QR, RA) without such a name (NXDOMAIN).
                packet[2] |= 0x80;
                packet[3] = 0x83;
                let _ = socket.send_to(&packet[..n], from);
            }
        }
    });
    address
}

#[test]
fn a_name_that_nobody_knows_or_answers_for_is_told_in_time() {
    if !has("root") || !has("unshare") {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let resolv = write(files.path(), "resolv.conf", format!("nameserver {}\n", name_server()));
    let urls = [("unknown", "https://unknown.test".to_owned()), ("silent", "https://silent.test".to_owned())];
    let api = Upstream::ok();
    let broker = with_tokens(&urls, "", &api, |command| {
        in_namespace(command, &format!("mount --bind {} /etc/resolv.conf", resolv.display()));
    });
    all_are_told(
        &broker,
        &[
            ("unknown", "the name unknown.test could not be resolved: there is no such name"),
            ("silent", "within 3 s: the name could not be resolved"),
        ],
    );
}

/// An API on that address.
pub fn api_at(address: SocketAddr) -> Option<SocketAddr> {
    let listener = TcpListener::bind(address).ok()?;
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    });
    Some(address)
}

#[test]
fn a_name_with_two_addresses_is_served_by_the_one_that_lives() {
    if !has("root") || !has("unshare") {
        return;
    }
    let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let only_four = api_at((four, 0).into()).unwrap();
    let Some(only_six) = api_at((six, 0).into()) else { return println!("skipped: no IPv6 here") };
    let half_dead = api_at((four, 0).into()).unwrap();
    let _hole = FullListener::at((six, half_dead.port()).into());
    let files = tempfile::tempdir().unwrap();
    let hosts = write(files.path(), "hosts", "127.0.0.1 localhost both.localhost\n::1 localhost both.localhost\n");
    let routes = BTreeMap::from([
        ("four", format!("localhost:{}", only_four.port())),
        ("six", format!("localhost:{}", only_six.port())),
        ("dead", format!("both.localhost:{}", half_dead.port())),
    ]);
    let tables: String = routes
        .iter()
        .map(|(name, authority)| {
            format!(
                "[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{authority}\"\ntoken = false\n\
                 unsafe_plain_upstream = true\nconnect_timeout = \"10s\"\n"
            )
        })
        .collect();
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), &tables, |command| {
        in_namespace(command, &format!("mount --bind {} /etc/hosts", hosts.display()));
    });
    for name in routes.keys() {
        let began = Instant::now();
        assert_eq!(broker.get(name, "/").status, 200, "{name}");
        assert!(began.elapsed() < Duration::from_secs(3), "{name}: {:?}", began.elapsed());
    }
}

#[test]
fn a_name_that_leads_to_this_machine_or_to_its_cloud_is_not_connected_to() {
    if !has("root") || !has("unshare") {
        return;
    }
    let here = Upstream::ok();
    let files = tempfile::tempdir().unwrap();
    let names = [
        ("loopback", "127.0.0.1"),
        ("mapped", "::ffff:127.0.0.1"),
        ("any", "0.0.0.0"),
        ("cloud", "169.254.169.254"),
        ("cloud6", "fd00:ec2::254"),
        ("link", "fe80::1"),
    ];
    let hosts: String = names.iter().map(|(name, address)| format!("{address} {name}.test\n")).collect();
    let hosts = write(files.path(), "hosts", format!("127.0.0.1 localhost\n{hosts}"));
    let route = |name: &str| {
        let port = here.address.port();
        format!(
            "[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{name}.test:{port}\"\ntoken = false\n\
             unsafe_plain_upstream = true\n"
        )
    };
    let tables: String = names.iter().map(|(name, _)| route(name)).collect();
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), &tables, |command| {
        in_namespace(command, &format!("mount --bind {} /etc/hosts", hosts.display()));
    });
    for (name, _) in names {
        let reply = broker.get(name, "/");
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_unreachable"), "{name}");
        let told = format!("the name {name}.test could not be resolved: it leads to ");
        eventually("the log tells it", || broker.log().contains(&told));
    }
    assert!(here.requests().is_empty());
}

#[test]
fn five_hundred_requests_that_hang_on_one_api_hold_up_no_other() {
    let full = FullListener::new();
    let api = Upstream::ok();
    let config = format!(
        "{}[route.hole]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{}\"\ntoken = false\nconnect_timeout = \"5s\"\n",
        static_route(&api, ""),
        full.address
    );
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let mut hanging: Vec<_> = (0..500).map(|_| Wire::open(broker.address("hole"))).collect();
    for wire in &mut hanging {
        wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    for _ in 0..50 {
        assert_eq!(broker.get("api", "/").status, 200);
    }
    for probe in ["/livez", "/readyz"] {
        assert_eq!(broker.admin("GET", probe).status, 200, "{probe} asks no API");
    }
    let failed = r#"tokenbroker_requests_total{route="hole",status_class="5xx",origin="broker"} "#;
    assert!(broker.metric(failed) < 0.5, "they hang still");
    for wire in &mut hanging {
        let reply = wire.reply("GET").unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (504, "upstream_timeout"));
    }
}

#[test]
fn events_with_pauses_pass_where_the_idle_limit_allows_them() {
    let api = Upstream::start(|_| {
        Action::Take(Box::new(|mut stream: TcpStream| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            for event in ["6\r\none.\n\n\r\n", "6\r\ntwo.\n\n\r\n", "8\r\nthree.\n\n\r\n", "0\r\n\r\n"] {
                std::thread::sleep(Duration::from_millis(400));
                if stream.write_all(event.as_bytes()).is_err() {
                    return;
                }
            }
        }))
    });
    let patient = with_static_token(&api, "idle_timeout = \"10s\"");
    let reply = patient.get("api", "/");
    assert_eq!((reply.text().as_str(), reply.complete), ("one.\n\ntwo.\n\nthree.\n\n", true));
    let hasty = with_static_token(&api, "idle_timeout = \"200ms\"");
    let reply = hasty.get("api", "/");
    assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "", false));
}

#[test]
fn an_api_that_is_away_is_served_again_as_soon_as_it_is_back() {
    let port = free_port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let config = format!("[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{address}\"\ntoken = false\n");
    let broker = Broker::start(&config);
    for _ in 0..20 {
        let began = Instant::now();
        let reply = broker.get("api", "/");
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_unreachable"));
        assert!(began.elapsed() < Duration::from_secs(2), "a refusal is told at once");
    }
    api_at(address).unwrap();
    eventually("it answers", || broker.get("api", "/").status == 200);
}
