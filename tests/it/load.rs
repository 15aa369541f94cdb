use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};
use rustix::process::Signal;
use tempfile::TempDir;
use tokenbroker::app::App;
use tokenbroker::clock::Clock;
use tokenbroker::config::{self, Listen};
use tokenbroker::server::Running;

use crate::support::{
    Action, Broker, Buffered, PATIENCE, RUNTIME, Reply, Upstream, Wire, eventually, has, output, static_route,
    with_static_token, write,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OPEN: &str = "tokenbroker_connections ";

/// A broker whose command was changed, with limits and the route of [`static_route`].
fn limited(limits: &str, upstream: &Upstream, adjust: impl FnOnce(&mut Command)) -> Broker {
    let config = format!("[limits]\n{limits}\n{}", static_route(upstream, ""));
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), &config, adjust);
    broker.wait_for_state("api", "valid");
    broker
}

/// Has the other side closed?
fn is_closed(wire: &Wire) -> bool {
    let mut stream = wire.stream();
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0; 1024]);
    stream.set_nonblocking(false).unwrap();
    match read {
        Ok(n) => n == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn connections_that_say_nothing_or_little_are_closed_while_others_are_served() {
    let upstream = Upstream::ok();
    let broker = limited("head_timeout = \"1s\"", &upstream, |_| {});
    let mut slow: Vec<_> = (0..50).map(|number| (number, Wire::open(broker.address("api")))).collect();
    // Some of them have had an answer before.
    for (_, wire) in &mut slow[..10] {
        wire.send(GET);
        assert_eq!(wire.reply("GET").unwrap().status, 200);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(broker.get("api", "/").status, 200);
                served += 1;
            }
            served
        });
        let began = Instant::now();
        // The end of a head never comes, and every other connection says nothing at all.
        for byte in b"GET /".iter().chain(std::iter::repeat(&b'x')) {
            slow.retain(|(_, wire)| !is_closed(wire));
            if slow.is_empty() || began.elapsed() > PATIENCE {
                break;
            }
            for (_, wire) in slow.iter().filter(|(number, _)| number % 2 == 0) {
                let _ = wire.stream().write_all(&[*byte]);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        done.store(true, Ordering::Relaxed);
        assert!(good.join().unwrap() > 5);
        assert!(slow.is_empty(), "{} are still open", slow.len());
    });
    eventually("their places are free", || broker.metric(OPEN) < 0.5);
}

/// User and system time of the broker so far, in hundredths of a second.
fn cpu(broker: &Broker) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", broker.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn without_a_free_descriptor_the_broker_waits_and_goes_on_when_there_is_one() {
    if !has("prlimit") {
        return;
    }
    let upstream = Upstream::ok();
    let mut broker = limited("threads = 2\nhead_timeout = \"1m\"", &upstream, |_| {});
    // A limit that it knows from the start it keeps away from.
    output(Command::new("prlimit").args(["--pid", &broker.pid().to_string(), "--nofile=64"]));
    let crowd: Vec<_> = (0..200).map(|_| Wire::open(broker.address("api"))).collect();
    eventually("there is no descriptor left", || broker.log().contains("a connection could not be accepted"));
    let before = cpu(&broker);
    std::thread::sleep(Duration::from_secs(3));
    let used = cpu(&broker) - before;
    assert!(used < 100, "{used} ms/10 of 3 s while it can do nothing");
    drop(crowd);
    assert_eq!(broker.get("api", "/").status, 200);
    assert_eq!(broker.admin("GET", "/livez").status, 200);
    assert_eq!(broker.stop().code(), Some(0));
}

const BLOCK: usize = 64 << 10;
/// 64 MiB.
const BLOCKS: u64 = 1024;

/// Every block is another.
fn block(number: u64) -> Vec<u8> {
    let mut block = vec![b'x'; BLOCK];
    block[..8].copy_from_slice(&number.to_be_bytes());
    block
}

fn hash_of_all() -> String {
    let mut hash = Context::new(&SHA256);
    (0..BLOCKS).for_each(|number| hash.update(&block(number)));
    format!("{:?}", hash.finish())
}

/// Reads so much, and hashes it.
fn hash_of(incoming: &mut Buffered, mut left: usize) -> String {
    let mut hash = Context::new(&SHA256);
    let first = incoming.buffer.len().min(left);
    hash.update(&incoming.buffer.drain(..first).collect::<Vec<_>>());
    left -= first;
    let mut chunk = vec![0; BLOCK];
    while left > 0 {
        let size = chunk.len().min(left);
        let n = incoming.stream.read(&mut chunk[..size]).unwrap();
        assert_ne!(n, 0, "cut short, {left} bytes before the end");
        hash.update(&chunk[..n]);
        left -= n;
    }
    format!("{:?}", hash.finish())
}

fn send_all(stream: &mut TcpStream) {
    (0..BLOCKS).for_each(|number| stream.write_all(&block(number)).unwrap());
}

/// Takes uploads and answers with their hash, and gives downloads.
fn bulk_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut incoming = Buffered::new(stream);
                let head = incoming.until(b"\r\n\r\n").unwrap();
                let answer = if head.starts_with(b"GET") {
                    let length = BLOCKS * BLOCK as u64;
                    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
                    incoming.stream.write_all(head.as_bytes()).unwrap();
                    return send_all(&mut incoming.stream);
                } else {
                    hash_of(&mut incoming, BLOCKS as usize * BLOCK)
                };
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", answer.len());
                incoming.stream.write_all((head + &answer).as_bytes()).unwrap();
            });
        }
    });
    address
}

#[test]
fn large_bodies_in_both_directions_at_once_arrive_whole_and_are_not_held_in_memory() {
    let config =
        format!("[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{}\"\ntoken = false\n", bulk_server());
    let broker = Broker::start(&config);
    let expected = hash_of_all();
    let length = BLOCKS as usize * BLOCK;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut wire = Wire::open(broker.address("api"));
                wire.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"));
                send_all(&mut wire.stream().try_clone().unwrap());
                assert_eq!(wire.reply("POST").unwrap().text(), expected);
            });
            scope.spawn(|| {
                let mut incoming = Buffered::new(TcpStream::connect(broker.address("api")).unwrap());
                incoming.stream.write_all(GET.as_bytes()).unwrap();
                incoming.until(b"\r\n\r\n").unwrap();
                assert_eq!(hash_of(&mut incoming, length), expected);
            });
        }
    });
    let peak = broker.process("VmHWM");
    assert!(peak < 96 << 10, "{peak} KiB");
}

/// A request that ends at some point of its life.
fn abort(address: SocketAddr, phase: usize) {
    let mut wire = Wire::open(address);
    match phase {
        0 => {}
        1 => drop(wire.send(&GET[..20])),
        2 => drop(wire.send(GET)),
        3 => drop(wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nhalf")),
        4 => drop(wire.send(GET).head().unwrap()),
        _ => drop(wire.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal")),
    }
}

#[test]
fn two_thousand_requests_of_which_a_fifth_is_aborted_leave_nothing_behind() {
    let upstream = Upstream::start(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n".to_vec();
        answer.extend(vec![b'x'; 100_000]);
        Action::Last(answer)
    });
    let broker = limited("threads = 2", &upstream, |_| {});
    let address = broker.address("api");
    let whole = || {
        let reply = broker.request("api", "POST", "/", &[], b"a body");
        assert_eq!((reply.status, reply.body.len(), reply.complete), (200, 100_000, true));
    };
    let run = |requests: usize| {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for n in 0..requests / 8 {
                        if n % 5 == 0 { abort(address, (n / 5 + thread) % 6) } else { whole() }
                    }
                });
            }
        });
        eventually("all connections are closed", || broker.metric(OPEN) < 0.5);
    };
    run(200);
    // One descriptor is the connection of whoever asks.
    let (files, threads, memory) = (broker.files(), broker.process("Threads"), broker.process("VmRSS"));
    run(2000);
    eventually("the descriptors are as before", || broker.files() <= files);
    // Looking at its files may have brought a thread or two, for a while.
    assert!(broker.process("Threads") <= threads + 2, "{} threads, {threads} before", broker.process("Threads"));
    let grown = broker.process("VmRSS").saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB");
}

/// A broker inside this process: nothing else lets a test make it panic.
fn in_process(upstream: &Upstream, clock: Clock) -> (Running, SocketAddr, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let limits = "[limits]\nconnections = 3\nthreads = 2\n";
    let file = write(directory.path(), "t.toml", format!("{limits}{}", static_route(upstream, "")));
    let (config, report) = config::load(&file, clock.now().wall);
    let config = config.unwrap_or_else(|| panic!("{report:?}"));
    let running = RUNTIME.block_on(async {
        let app = App::open(&config, clock).await.unwrap();
        let plan = app.plan(config, None, &BTreeSet::new()).await.unwrap();
        Running::start(app, plan).await.unwrap()
    });
    let Listen::Tcp(address) = running.addresses()[0].1 else { panic!("it listens elsewhere") };
    (running, address, directory)
}

/// Whatever reads the clock may be where a fault is: before, during and after the exchange with the API, and while what one
/// request holds is given back.
#[test]
fn a_panic_anywhere_in_a_request_costs_that_request_and_leaves_nothing_locked_or_taken() {
    let upstream = Upstream::start(|request| {
        if request.line().contains("/slow") {
            std::thread::sleep(Duration::from_millis(200));
        }
        Action::ok("fine")
    });
    // At which of the next readings by a worker to panic; below zero at none.
    let fuse = Arc::new(AtomicI64::new(-1));
    let clock = Clock::new({
        let (fuse, system) = (Arc::clone(&fuse), Clock::system());
        move || {
            let worker = std::thread::current().name().is_some_and(|name| name.starts_with("worker-"));
            if worker && fuse.load(Ordering::Relaxed) >= 0 && fuse.fetch_sub(1, Ordering::Relaxed) == 0 {
                panic!("scripted");
            }
            system.now()
        }
    });
    let (running, address, _directory) = in_process(&upstream, clock);
    let ask = |method: &str, target: &str| {
        let mut wire = Wire::open(address);
        let body = if method == "POST" { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
        wire.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{body}"));
        wire
    };
    let is_fine =
        |reply: Option<Reply>| reply.is_some_and(|reply| (reply.status, reply.text().as_str()) == (200, "fine"));
    eventually("the token is there", || is_fine(ask("GET", "/").reply("GET")));
    let (mut problems, mut panics) = (0, 0);
    for method in ["GET", "POST"] {
        for reading in 0..4 {
            let seen = upstream.requests().len();
            let mut other = ask("GET", "/slow");
            eventually("another one is under way", || upstream.requests().len() > seen);
            fuse.store(reading, Ordering::Relaxed);
            let reply = ask(method, "/").reply(method);
            if let Some(reply) = reply.filter(|reply| reply.status != 200) {
                assert_eq!((reply.status, reply.code().as_str()), (500, "internal"), "{method} {reading}");
                problems += 1;
            }
            assert!(is_fine(other.reply("GET")), "{method} {reading}: the other one is not concerned");
            // By then the first one gave back all that it held, which comes after its answer.
            panics += i64::from(fuse.swap(-1, Ordering::Relaxed) < 0);
            for _ in 0..5 {
                assert!(is_fine(ask("GET", "/").reply("GET")), "{method} {reading}");
            }
        }
    }
    assert!(problems >= 2 && panics > problems, "{problems} problems, {panics} panics");
    eventually("each is counted", || running.app.metrics.panics.get() == panics as u64);
    for request in upstream.requests() {
        assert_eq!(request.one("authorization"), Some("Bearer the-token"));
    }
    eventually("no place is taken", || running.app.metrics.connections.get() == 0);
    assert!(RUNTIME.block_on(running.drain(tokio_util::sync::CancellationToken::new())), "and it ends well");
}

#[test]
fn a_drain_under_load_cuts_no_request_in_flight() {
    let upstream = Upstream::start(|request| {
        if request.line().contains("/slow") {
            std::thread::sleep(Duration::from_secs(1));
        }
        Action::ok("done")
    });
    let mut broker = with_static_token(&upstream, "");
    let address = broker.address("api");
    let mut slow: Vec<_> = (0..100).map(|_| Wire::open(address)).collect();
    let mut idle: Vec<_> = (0..20).map(|_| Wire::open(address)).collect();
    for wire in &mut idle {
        wire.send(GET);
        assert_eq!(wire.reply("GET").unwrap().status, 200);
    }
    for wire in &mut slow {
        wire.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    let in_flight = || upstream.requests().iter().filter(|request| request.line().contains("/slow")).count();
    eventually("all are in flight", || in_flight() == 100);
    let (answered, unanswered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Until nobody is accepted any more.
                while let Ok(stream) = TcpStream::connect(address) {
                    let mut incoming = Buffered::new(stream);
                    let _ = incoming.stream.write_all(GET.as_bytes());
                    let answer = String::from_utf8(incoming.until(b"done").unwrap_or_default()).unwrap();
                    if answer.starts_with("HTTP/1.1 200") {
                        answered.fetch_add(1, Ordering::Relaxed);
                    } else {
                        // The kernel took it between the last look and the close of the listener: nobody has seen it.
                        assert_eq!((answer.as_str(), incoming.buffer.len()), ("", 0), "cut");
                        unanswered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        broker.signal(Signal::TERM);
        for wire in &mut idle {
            assert!(wire.is_closed_within(PATIENCE), "idle ones are closed");
        }
    });
    for wire in &mut slow {
        let reply = wire.reply("GET").unwrap();
        assert_eq!((reply.status, reply.text().as_str(), reply.header("connection")), (200, "done", Some("close")));
    }
    assert_eq!(broker.wait().code(), Some(0));
    let (answered, unanswered) = (answered.into_inner(), unanswered.into_inner());
    assert!(answered > 5 && unanswered <= 8, "{answered} answered, {unanswered} not");
}
