use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::{
    Action, Broker, Upstream, Wire, eventually, has, in_namespace, size, static_route, through, write,
};
use crate::unreachable::api_at;

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OPEN: &str = "tokenbroker_connections ";

fn started(limits: &str, config: &str, adjust: impl FnOnce(&mut std::process::Command)) -> Broker {
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), &format!("[limits]\n{limits}\n{config}"), adjust);
    broker.wait_for_state("api", "valid");
    broker
}

/// Another route of the same broker.
fn route(name: &str, upstream: &str, keys: &str) -> String {
    format!("[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{upstream}\"\ntoken = false\n{keys}\n")
}

/// Does something while another client asks for one thing after the other on the route `api`, and gets all of it.
fn while_others_are_served<T>(broker: &Broker, work: impl FnOnce() -> T) -> T {
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) || served.load(Ordering::Relaxed) < 10 {
                assert_eq!(broker.get("api", "/").status, 200);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        other.join().unwrap();
        result
    })
}

/// How much more memory it took at its peak than at that time, in KiB.
fn grown(broker: &Broker, before: u64) -> u64 {
    broker.process("VmHWM").saturating_sub(before)
}

#[test]
fn thousands_of_idle_connections_cost_little_and_hold_up_nobody() {
    let number = size("IDLE_CONNECTIONS", 1000);
    let files = getrlimit(Resource::Nofile);
    let wanted = (2 * number + 500) as u64;
    assert!(files.maximum.is_none_or(|maximum| maximum >= wanted), "{wanted} files have to be allowed: {files:?}");
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let upstream = Upstream::ok();
    let limits = format!("connections = {}\nhead_timeout = \"5m\"", number + 100);
    let broker = started(&limits, &static_route(&upstream, ""), |_| {});
    let (before, open) = (broker.process("VmRSS"), broker.files());
    let mut idle: Vec<_> = while_others_are_served(&broker, || {
        let idle = (0..number).map(|number| {
            let mut wire = Wire::open(broker.address("api"));
            // Some have had an answer before, and some are in the middle of a head.
            match number % 3 {
                0 => assert_eq!(wire.send(GET).reply("GET").unwrap().status, 200),
                1 => drop(wire.send(&GET[..20])),
                _ => {}
            }
            wire
        });
        idle.collect()
    });
    eventually("all are open", || broker.metric(OPEN) >= number as f64);
    let each = grown(&broker, before) * 1024 / number as u64;
    assert!(each < 40_000, "{each} bytes a connection");
    while_others_are_served(&broker, || std::thread::sleep(Duration::from_millis(500)));
    for (number, wire) in idle.iter_mut().enumerate().rev().take(30) {
        if number % 3 != 1 {
            assert_eq!(wire.send(GET).reply("GET").unwrap().status, 200, "it is still there");
        }
    }
    drop(idle);
    eventually("their places are free", || broker.metric(OPEN) < 0.5);
    eventually("and their descriptors, but for what is kept for the API", || {
        broker.files().zip(open).is_none_or(|(now, then)| now < then + 40)
    });
}

#[test]
fn with_few_descriptors_who_is_served_is_served_whole_and_the_rest_waits() {
    if !has("prlimit") {
        return;
    }
    let upstream = Upstream::start(|_| {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfine";
        Action::Last(answer.as_bytes().to_vec())
    });
    let limits = "threads = 2\nhead_timeout = \"3s\"";
    let mut broker = started(limits, &static_route(&upstream, ""), |command| {
        through(command, &["prlimit", "--nofile=220"]);
    });
    // The API closes after each answer, so that each request needs another descriptor for it.
    let mut early = Wire::open(broker.address("api"));
    assert_eq!(early.send(GET).reply("GET").unwrap().status, 200);
    let mut crowd: Vec<_> = (0..250).map(|_| Wire::open(broker.address("api"))).collect();
    for _ in 0..20 {
        assert_eq!(early.send(GET).reply("GET").unwrap().status, 200, "a place has what a request needs");
        assert_eq!(broker.admin("GET", "/livez").status, 200, "and the operator gets in");
    }
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    // Each has its turn, as those before it are done or have had their time.
    for wire in &mut crowd {
        wire.send(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    }
    // Those that came first may have been idle for too long.
    let answers: Vec<_> = crowd.iter_mut().filter_map(|wire| wire.reply("GET")).collect();
    assert!(answers.len() >= 200, "{}", answers.len());
    assert!(answers.iter().all(|reply| (reply.status, reply.text().as_str()) == (200, "fine")));
    drop((crowd, early));
    assert_eq!(broker.get("api", "/").status, 200);
    assert!(!broker.log().contains("Too many open files"), "{}", broker.log());
    assert_eq!(broker.stop().code(), Some(0));
}

#[test]
fn bodies_that_drip_byte_by_byte_arrive_whole_and_hold_up_nobody() {
    let echo = Upstream::start(|request| {
        let body = request.body.clone();
        Action::Take(Box::new(move |mut stream: TcpStream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            for byte in [head.as_bytes(), &body].concat() {
                stream.write_all(&[byte]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        }))
    });
    let api = Upstream::ok();
    let config = static_route(&api, "") + &route("slow", &echo.url(), "response_timeout = \"1s\"");
    let broker = started("threads = 1", &config, |_| {});
    let before = broker.process("VmRSS");
    while_others_are_served(&broker, || {
        std::thread::scope(|scope| {
            for number in 0..60 {
                let broker = &broker;
                scope.spawn(move || {
                    let body = format!("the body of number {number}, and no other");
                    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
                    let mut wire = Wire::open(broker.address("slow"));
                    for byte in [head, body.clone()].concat().bytes() {
                        wire.send([byte]);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    assert_eq!(wire.reply("POST").unwrap().text(), body);
                });
            }
        });
    });
    assert!(grown(&broker, before) < 16 << 10, "{} KiB", grown(&broker, before));
}

#[test]
fn clients_that_never_read_cost_little_and_are_cut_in_time() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let endless = Upstream::start(move |_| {
        let count = Arc::clone(&count);
        Action::Take(Box::new(move |mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 1 << 16], b"\r\n".to_vec()].concat();
            while stream.write_all(&chunk).is_ok() {}
            count.fetch_add(1, Ordering::Relaxed);
        }))
    });
    let api = Upstream::ok();
    let config =
        static_route(&api, "idle_timeout = \"2s\"") + &route("endless", &endless.url(), "idle_timeout = \"2s\"");
    let broker = started("threads = 2", &config, |_| {});
    let before = broker.process("VmRSS");
    let greedy: Vec<_> = (0..100)
        .map(|_| {
            let mut wire = Wire::open(broker.address("endless"));
            wire.send(GET);
            wire
        })
        .collect();
    while_others_are_served(&broker, || {
        eventually("all are cut, and the API is told", || ended.load(Ordering::Relaxed) == 100);
    });
    eventually("their places are free", || broker.metric(OPEN) < 0.5);
    assert!(grown(&broker, before) < 64 << 10, "{} KiB", grown(&broker, before));
    drop(greedy);
}

#[test]
fn an_api_that_hangs_at_any_point_holds_up_nobody_and_is_given_up_in_time() {
    // Where it hangs: what it has sent by then. The last drips a field for ever.
    let points: [&str; 5] = [
        "",
        "HTTP/1.1 200 O",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nX-Drip: ",
    ];
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let hangs = Upstream::start(move |request| {
        let Some(point) =
            request.line().split('/').nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok())
        else {
            return Action::ok("fine");
        };
        let count = Arc::clone(&count);
        Action::Take(Box::new(move |mut stream: TcpStream| {
            stream.write_all(points[point].as_bytes()).unwrap();
            if point == 4 {
                while stream.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            } else {
                let _ = stream.read(&mut [0]);
            }
            count.fetch_add(1, Ordering::Relaxed);
        }))
    });
    let config = static_route(&Upstream::ok(), "")
        + &route("hangs", &hangs.url(), "response_timeout = \"2s\"\nidle_timeout = \"2s\"");
    let broker = started("threads = 1", &config, |_| {});
    let before = broker.process("VmRSS");
    while_others_are_served(&broker, || {
        let mut hanging: Vec<_> = (0..200)
            .map(|number| {
                let mut wire = Wire::open(broker.address("hangs"));
                wire.send(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", number % points.len()));
                (number % points.len(), wire)
            })
            .collect();
        assert_eq!(broker.get("hangs", "/").text(), "fine", "another request to the same API passes them by");
        for (point, wire) in &mut hanging {
            let reply = wire.reply("GET").unwrap();
            if *point == 3 {
                assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "half", false));
            } else {
                assert_eq!((reply.status, reply.code().as_str()), (504, "upstream_timeout"), "{point}");
            }
        }
    });
    eventually("no connection to the API is left behind", || closed.load(Ordering::Relaxed) == 200);
    assert!(grown(&broker, before) < 24 << 10, "{} KiB", grown(&broker, before));
    assert_eq!(broker.get("hangs", "/").text(), "fine");
}

/// One side ends its half of the stream and keeps the other.
#[test]
fn connections_of_which_one_half_is_closed_are_not_left_behind() {
    let upstream = Upstream::start(|request| {
        if !request.line().contains("/half") {
            return Action::ok("fine");
        }
        Action::Take(Box::new(|mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // Until the broker ends its half, too.
            let _ = stream.read_to_end(&mut Vec::new());
        }))
    });
    // Far longer than the test has patience.
    let keys = "idle_timeout = \"5m\"\nresponse_timeout = \"5m\"";
    let broker = started("head_timeout = \"5m\"", &static_route(&upstream, keys), |_| {});
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\n";
    let sent = [
        String::new(),
        GET[..20].to_owned(),
        GET.to_owned(),
        format!("{post}Content-Length: 10\r\n\r\nhalf"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n5\r\nhal"),
        GET.replace("GET /", "GET /half"),
    ];
    let before = broker.files();
    let halves: Vec<_> = (0..60)
        .map(|number| {
            let mut wire = Wire::open(broker.address("api"));
            wire.send(&sent[number % sent.len()]).stream().shutdown(Shutdown::Write).unwrap();
            wire
        })
        .collect();
    eventually("no place is taken", || broker.metric(OPEN) < 0.5);
    // What was answered to its end may be kept for the next request.
    eventually("no descriptor either", || broker.files().zip(before).is_none_or(|(now, then)| now <= then + 20));
    drop(halves);
    assert_eq!(broker.get("api", "/").text(), "fine");
}

/// Where an API may be that a name leads to: loopback would be refused.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Moves this thread, and what it starts from now on, to a network of its own, with that address.
fn move_to_a_network_of_its_own() {
    let settings = format!("ip link set lo up && ip addr add {ELSEWHERE}/32 dev lo && echo made && exec cat");
    let mut first = Command::new("unshare");
    first.args(["-n", "sh", "-c", &settings]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut first = first.spawn().unwrap();
    let mut made = [0; 5];
    first.stdout.as_mut().unwrap().read_exact(&mut made).unwrap();
    let network = std::fs::File::open(format!("/proc/{}/ns/net", first.id())).unwrap();
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
}

/// A name server that says nothing until it is told to, and then that everything is [`ELSEWHERE`].
fn name_server() -> Arc<AtomicBool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
    let alive = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&alive);
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut packet) {
            if !answers.load(Ordering::Relaxed) {
                continue;
            }
            // The question ends after its name, type and class; what follows it is left out.
            let name = packet[12..n].iter().position(|byte| *byte == 0).unwrap();
            let question = &packet[12..12 + name + 5];
            let is_a = question[name + 1..name + 3] == [0, 1];
            let mut answer = vec![packet[0], packet[1], 0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
            answer.extend_from_slice(question);
            if is_a {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend_from_slice(&ELSEWHERE.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    alive
}

#[test]
fn a_dead_name_server_piles_up_neither_threads_nor_descriptors_and_its_return_is_noticed_at_once() {
    if !has("root") || !has("unshare") || !has("ip") {
        return;
    }
    move_to_a_network_of_its_own();
    let alive = name_server();
    let files = tempfile::tempdir().unwrap();
    let resolv = write(files.path(), "resolv.conf", "nameserver 127.0.0.1\n");
    let named = api_at((ELSEWHERE, 0).into()).unwrap();
    let api = Upstream::ok();
    let url = format!("http://api.example:{}", named.port());
    let config =
        static_route(&api, "") + &route("named", &url, "unsafe_plain_upstream = true\nconnect_timeout = \"4s\"");
    let broker = started("threads = 2", &config, |command| {
        in_namespace(command, &format!("mount --bind {} /etc/resolv.conf", resolv.display()));
    });
    let (threads, open) = (broker.process("Threads"), broker.files().unwrap());
    while_others_are_served(&broker, || {
        let mut waiting: Vec<_> = (0..300)
            .map(|_| {
                let mut wire = Wire::open(broker.address("named"));
                wire.send(GET);
                wire
            })
            .collect();
        eventually("all are waiting", || broker.metric(OPEN) >= 300.0);
        let (now, files) = (broker.process("Threads"), broker.files().unwrap());
        assert!(now <= threads + 2, "{now} threads, {threads} before");
        assert!(files < open + 300 + 40, "{files} descriptors, {open} before, and 300 clients");
        for wire in &mut waiting {
            let reply = wire.reply("GET").unwrap();
            assert_eq!((reply.status, reply.code().as_str()), (504, "upstream_timeout"));
        }
    });
    alive.store(true, Ordering::Relaxed);
    assert_eq!(broker.get("named", "/").status, 200);
}
