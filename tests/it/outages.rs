use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokenbroker::oauth::file::Grant;
use tokenbroker::oauth::{Class, Outcome};
use tokenbroker::standin::Fault;
use tokenbroker::token::cache::State;
use tokio::time::{Instant, sleep};

use crate::door::free_port;
use crate::exchange::OAuth;
use crate::proxy::FullListener;
use crate::refresh::{S, Script, Step, policy, scripted, start};
use crate::support::{
    Action, Broker, PATIENCE, Upstream, Wire, eventually, has, in_namespace, with_static_token, write,
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn while_the_token_server_is_dead_every_request_succeeds_until_the_token_ends() {
    let script = Script::new(false);
    script.set_lifetime(Some(HOUR));
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(S).await;
    script.fail(Class::Transient, 10_000);
    for second in (0..3590).step_by(10) {
        let began = Instant::now();
        assert_eq!(bench.wait().await.as_deref(), Ok("Bearer at-1"), "after {second} s");
        assert!(began.elapsed().is_zero(), "nobody waits");
        sleep(10 * S).await;
    }
    sleep(20 * S).await;
    assert!(bench.wait().await.is_err());
    let failed: Vec<_> = script.calls()[1..].iter().map(|call| call.at).collect();
    let soon = failed.iter().filter(|at| **at < failed[0] + 600.0).count();
    assert!((10..=25).contains(&soon), "{soon} in ten minutes");
    let gaps: Vec<_> = failed.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 29.0).collect();
    assert!(gaps.len() + 8 > failed.len() && gaps.iter().all(|gap| *gap >= 30.0), "{gaps:?}");
    assert!(gaps.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 1.0), "jittered: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_server_that_comes_back_is_used_within_a_minute_or_when_it_asked_to_be() {
    for asked in [None, Some(300)] {
        let script = Script::new(false);
        for _ in 0..10_000 {
            let mut error = scripted(Class::Transient, Outcome::NotJudged);
            error.retry_after = asked.map(Duration::from_secs);
            script.then(Step::Fail(error));
        }
        let bench = start(&script, policy(Grant::ClientCredentials));
        sleep(HOUR).await;
        let told = bench.wait().await.unwrap_err();
        assert!(told <= asked.unwrap_or(60), "{told}");
        script.0.outcomes.lock().unwrap().clear();
        sleep(Duration::from_secs(told + 1) + S / 2).await;
        assert_eq!(bench.slot.state(), State::Valid, "{asked:?}: told to come back after {told} s");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_cause_one_exchange_when_cold_and_one_when_the_token_has_ended() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 2 * S;
    let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
    for round in 1..=2 {
        let waiters: Vec<_> = (0..10_000)
            .map(|_| {
                let bench = Arc::clone(&bench);
                tokio::spawn(async move { bench.wait().await })
            })
            .collect();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap().unwrap(), format!("Bearer at-{round}"));
        }
        assert_eq!(script.count(), round);
        bench.clocks.suspend(3600);
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_are_told_of_a_failure_at_once_and_those_who_leave_end_nothing() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 2 * S;
    script.fail(Class::Transient, 1);
    let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
    let waiters: Vec<_> = (0..1000_u64)
        .map(|n| {
            let bench = Arc::clone(&bench);
            // Every other one leaves before the end.
            let patience = if n % 2 == 0 { 4 * S } else { Duration::from_millis(n) };
            tokio::spawn(async move { tokio::time::timeout(patience, bench.wait()).await })
        })
        .collect();
    let began = Instant::now();
    let mut told = 0;
    for waiter in waiters {
        told += usize::from(waiter.await.unwrap().is_ok_and(|told| told.is_err()));
    }
    assert_eq!((told, began.elapsed().as_secs(), script.count()), (500, 2, 1));
    // The next attempt comes by the back-off, whatever requests come meanwhile.
    for _ in 0..100 {
        assert!(bench.wait().await.is_err());
    }
    assert_eq!(script.count(), 1);
    sleep(4 * S).await;
    let calls = script.calls();
    assert!((2.5..=3.1).contains(&(calls[1].at - calls[0].at)), "{calls:?}");
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn each_token_is_replaced_once_in_its_life_however_short_that_is() {
    for lifetime in [3600, 60, 5] {
        let script = Script::new(false);
        script.set_lifetime(Some(Duration::from_secs(lifetime)));
        let _bench = start(&script, policy(Grant::ClientCredentials));
        sleep(Duration::from_secs(lifetime * 100)).await;
        let calls = script.calls();
        let gaps: Vec<_> = calls.windows(2).map(|pair| (pair[1].at - pair[0].at) / lifetime as f64).collect();
        assert!(gaps.len() > 100 && gaps.iter().all(|gap| (0.7..=0.83).contains(gap)), "{lifetime}: {gaps:?}");
    }
}

/// The test knows by itself when each token ends: from when it was asked for, and how the clocks were set since.
#[tokio::test(start_paused = true)]
async fn under_load_no_ended_token_is_handed_out_however_the_clocks_jump() {
    const YEARS: i64 = 10 * 365 * 86_400;
    for step in [1, -1, 300, -300, 86_400, -86_400, YEARS, -YEARS, 0] {
        let script = Script::new(false);
        let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
        sleep(10 * S).await;
        let stepped = 15.0;
        let mut served = 0;
        let jump = || match step {
            0 => bench.clocks.suspend(8 * 3600),
            step => bench.clocks.step_wall(step),
        };
        let load: Vec<_> = (0..20)
            .map(|n| {
                let (bench, script) = (Arc::clone(&bench), script.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(n)).await;
                    let mut served = 0;
                    while script.0.start.elapsed() < 40 * S {
                        let value = bench.wait().await.unwrap();
                        let now = script.0.start.elapsed().as_secs_f64();
                        let number: usize = value.rsplit('-').next().unwrap().parse().unwrap();
                        let sent = script.calls()[number - 1].at;
                        let forward = if step == 0 { 8.0 * 3600.0 } else { step.max(0) as f64 };
                        let jumped = if sent < stepped && now > stepped { forward } else { 0.0 };
                        assert!(now + jumped < sent + 100.0, "{step}: {value} of {sent} at {now}");
                        served += 1;
                        sleep(Duration::from_millis(50)).await;
                    }
                    served
                })
            })
            .collect();
        sleep(5 * S).await;
        jump();
        for one in load {
            served += one.await.unwrap();
        }
        assert!(served > 5_000, "{served}");
        assert!(script.count() <= 2, "{step}: {} exchanges", script.count());
    }
}

/// A token server whose good answer is followed by heads without their bodies.
fn stalls_after_the_head() -> Upstream {
    let good = std::sync::atomic::AtomicBool::new(true);
    Upstream::start(move |_| {
        if good.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return Action::ok(r#"{"access_token":"stalls","token_type":"Bearer","expires_in":3600}"#);
        }
        Action::Take(Box::new(|mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").unwrap();
            let _ = stream.read(&mut [0]);
        }))
    })
}

#[test]
fn an_answer_that_drips_or_stalls_is_given_up_after_ten_seconds_and_delays_no_request() {
    let oauth = OAuth::start(HOUR);
    let stalling = stalls_after_the_head();
    let api = Upstream::ok();
    let drips = oauth.config("", "").replace(&oauth.api.url(), &api.url());
    let stalls = drips.replace(".api]", ".other]").replace(&oauth.server.url(), &stalling.url());
    let broker = Broker::start_in(oauth.directory(), &(drips + &stalls), |_| {});
    broker.wait_for_state("api", "valid");
    broker.wait_for_state("other", "valid");
    oauth.oauth.faults.set(Some(Fault::Drip), None);
    std::thread::scope(|scope| {
        let refreshes = ["api", "other"].map(|token| {
            let broker = &broker;
            scope.spawn(move || {
                let mut wire = Wire::open(broker.address("admin"));
                wire.stream().set_read_timeout(Some(2 * PATIENCE)).unwrap();
                wire.send(format!(
                    "POST /api/tokens/{token}/refresh HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
                    broker.address("admin"),
                    crate::support::ADMIN_KEY
                ));
                wire.reply("POST").unwrap()
            })
        });
        let began = std::time::Instant::now();
        let mut served = 0;
        while began.elapsed() < Duration::from_secs(9) {
            for route in ["api", "other"] {
                let asked = std::time::Instant::now();
                assert_eq!(broker.get(route, "/").status, 200);
                assert!(asked.elapsed() < Duration::from_secs(5), "it did not wait for the exchange");
                served += 1;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(served > 50, "{served}");
        for refresh in refreshes {
            let reply = refresh.join().unwrap();
            let token = reply.json();
            let error = token["last_error"].as_str().unwrap().to_owned();
            assert!(error.starts_with("transient: no answer from ") && error.contains("within 10 s"), "{error}");
            assert_eq!((reply.status, &token["state"]), (502, &"degraded".into()));
        }
    });
    assert_eq!(broker.get("api", "/").status, 200);
}

#[test]
fn what_is_wrong_with_a_gateway_before_the_token_server_passes() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    for status in [502, 504] {
        oauth.oauth.faults.set(Some(Fault::Status(status, None)), None);
        let token = broker.admin("POST", "/api/tokens/api/refresh").json();
        assert_eq!((&token["class"], &token["state"]), (&"transient".into(), &"degraded".into()), "{status}");
        assert!(token["last_error"].as_str().unwrap().contains(&format!("HTTP {status}")), "{token}");
    }
}

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
fn with_tokens(
    urls: &[(&str, String)],
    keys: &str,
    api: &Upstream,
    adjust: impl FnOnce(&mut std::process::Command),
) -> Broker {
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
    let began = std::time::Instant::now();
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
    let began = std::time::Instant::now();
    let reply = broker.get("hole", "/");
    assert_eq!((reply.status, reply.code().as_str()), (503, "token_unavailable"));
    assert!(began.elapsed() < Duration::from_secs(3), "no longer than token_wait");
    all_are_told(
        &broker,
        &[
            ("refused", "Connection refused"),
            ("hole", "within 3 s, no connection came about"),
            ("tls", "within 3 s, the TLS handshake did not end"),
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
            ("silent", "within 3 s, the name could not be resolved"),
        ],
    );
}

/// An API on that address.
fn api_at(address: SocketAddr) -> Option<SocketAddr> {
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
    let hosts = write(files.path(), "hosts", "127.0.0.1 localhost both.test\n::1 localhost both.test\n");
    let routes = BTreeMap::from([
        ("four", format!("localhost:{}", only_four.port())),
        ("six", format!("localhost:{}", only_six.port())),
        ("dead", format!("both.test:{}", half_dead.port())),
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
        let began = std::time::Instant::now();
        assert_eq!(broker.get(name, "/").status, 200, "{name}");
        assert!(began.elapsed() < Duration::from_secs(3), "{name}: {:?}", began.elapsed());
    }
}

#[test]
fn five_hundred_requests_that_hang_on_one_api_hold_up_no_other() {
    let full = FullListener::new();
    let api = Upstream::ok();
    let config = format!(
        "{}[route.hole]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{}\"\ntoken = false\nconnect_timeout = \"5s\"\n",
        crate::support::static_route(&api, ""),
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
        let began = std::time::Instant::now();
        let reply = broker.get("api", "/");
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_unreachable"));
        assert!(began.elapsed() < Duration::from_secs(2), "a refusal is told at once");
    }
    api_at(address).unwrap();
    eventually("it answers", || broker.get("api", "/").status == 200);
}
