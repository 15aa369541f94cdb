use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use ring::digest::{Context, SHA256};

use crate::support::{
    Action, Broker, Buffered, PATIENCE, Upstream, Wire, eventually, has, output, size, with_static_token,
};

/// What `tests/run` puts there.
fn target(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(path)
}

/// A Python of its own, with what `tests/peers/requirements.txt` lists.
fn python() -> Command {
    let mut command = Command::new(target("venv/bin/python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn script(name: &str) -> String {
    format!("{}/tests/peers/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server as a process of its own that prints its port, and then a line for whatever it did.
struct Peer {
    child: Child,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { child, port: first.trim().parse().unwrap(), lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Version and number of tests belong together: another release has others.
const SUITE: &str = "peers/requests-2.34.2";
/// Those which use httpbin: they pass, but for one that is expected to fail, as it does without a broker.
const TESTS: [usize; 2] = [199, 1];

/// It wants `Proxy-Authorization` to reach the server, which no proxy may let through (RFC 9110 §11.7.2).
const ENDS_AT_A_PROXY: &str = "test_requests.py::TestRequests::test_proxy_authorization_preserved_on_request";

/// They log in with Basic or Digest, and read what only then is answered.
const OWN_PASSWORD: [&str; 6] = [
    "test_requests.py::TestRequests::test_BASICAUTH_TUPLE_HTTP_200_OK_GET",
    "test_requests.py::TestRequests::test_DIGEST_AUTH_RETURNS_COOKIE",
    "test_requests.py::TestRequests::test_DIGEST_HTTP_200_OK_GET",
    "test_requests.py::TestRequests::test_DIGEST_STREAM",
    "test_requests.py::TestRequests::test_basicauth_with_netrc",
    "test_requests.py::TestRequests::test_basicauth_with_netrc_leak",
];

/// A run of the suite.
struct Suite {
    passed: BTreeSet<String>,
    /// Failed, as expected.
    expected: BTreeSet<String>,
    /// What the server saw.
    seen: Vec<String>,
}

impl Suite {
    fn run(url: &str, server: &Peer) -> Self {
        let mut command = python();
        command.args([
            "-m",
            "pytest",
            "-q",
            "-p",
            "plugin",
            "-p",
            "no:httpbin",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
        ]);
        command.args(["-rA", "--tb=no", "--show-capture=no", "tests"]).current_dir(target(SUITE));
        command.env("TOKENBROKER_HTTPBIN", url).env("PYTHONPATH", format!("{}:src", script("")));
        let done = command.output().unwrap();
        let printed = String::from_utf8_lossy(&done.stdout).into_owned();
        let with = |outcome: &str| -> BTreeSet<_> {
            let lines = printed.lines().filter_map(|line| line.strip_prefix(outcome)?.strip_prefix(" tests/"));
            lines.map(|line| line.split(" - ").next().unwrap().to_owned()).collect()
        };
        let [passed, expected, failed, broken] = ["PASSED", "XFAIL", "FAILED", "ERROR"].map(with);
        let all = passed.len() + expected.len() + failed.len();
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!((all, broken.len()), (TESTS[0] + TESTS[1], 0), "{printed}\n{told}");
        Self { passed, expected, seen: seen(server) }
    }
}

/// What a server saw, in no order; `/delay` is left by clients that do not wait, and addresses in queries differ.
fn seen(server: &Peer) -> Vec<String> {
    let lines = server.lines().into_iter().filter(|line| !line.contains(" /delay/"));
    let mut lines: Vec<_> = lines
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let path = words[1].split("127.0.0.1").next().unwrap();
            format!("{} {path} {}", words[0], words[2])
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn the_suite_of_requests_passes_with_keep_and_fails_with_replace_only_where_its_own_password_counts() {
    if !has("requests-suite") {
        return;
    }
    let run = |authorization: Option<&str>| {
        let server = Peer::start(python().arg(script("httpbin_server.py")));
        let url = format!("http://127.0.0.1:{}", server.port);
        let Some(authorization) = authorization else { return Suite::run(&url, &server) };
        let config = format!(
            "[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n[route.api]\nlisten = \"127.0.0.1:0\"\n\
             upstream = \"{url}\"\nauthorization = \"{authorization}\"\n\
             accept_hosts = [\"127.0.0.1\", \"httpbin.org\"]\n"
        );
        let broker = Broker::start(&config);
        broker.wait_for_state("api", "valid");
        let suite = Suite::run(&format!("http://{}", broker.listen("api")), &server);
        // The server's own count and the broker's.
        let total = |origin: &str| {
            ["2xx", "3xx", "4xx", "5xx"].map(|class| {
                let labels = format!("{{route=\"api\",status_class=\"{class}\",origin=\"{origin}\"}} ");
                broker.metric(&format!("tokenbroker_requests_total{labels}")) as usize
            })
        };
        assert_eq!(total("broker"), [0; 4], "{authorization}: the broker refused nothing");
        let repeated = broker.metric("tokenbroker_upstream_retries_total{route=\"api\"} ") as usize;
        assert_eq!(total("upstream").iter().sum::<usize>() + repeated, suite.seen.len(), "{authorization}");
        suite
    };
    std::thread::scope(|scope| {
        let [direct, keep, replace] = [None, Some("keep"), Some("replace")].map(|how| scope.spawn(move || run(how)));
        let (direct, keep, replace) = (direct.join().unwrap(), keep.join().unwrap(), replace.join().unwrap());
        assert_eq!([direct.passed.len(), direct.expected.len()], TESTS, "without a broker");
        let lost = |run: &Suite| direct.passed.difference(&run.passed).cloned().collect::<Vec<_>>();
        assert_eq!(lost(&keep), [ENDS_AT_A_PROXY], "with the broker as without it");
        assert_eq!(keep.seen, direct.seen, "and the server saw the same");
        assert!(keep.seen.len() > 200, "{}", keep.seen.len());
        assert_eq!(lost(&replace), OWN_PASSWORD.iter().chain([&ENDS_AT_A_PROXY]).copied().collect::<Vec<_>>());
    });
}

#[test]
fn a_websocket_carries_as_much_as_one_likes_in_both_directions() {
    if !has("requests-suite") {
        return;
    }
    let mib = size("WEBSOCKET_MIB", 16);
    let server = Peer::start(python().args([&script("websocket.py"), "serve"]));
    let url = format!("http://127.0.0.1:{}", server.port);
    let config = format!(
        "[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n\
         [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\n"
    );
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let before = broker.process("VmRSS");
    let url = format!("ws://{}", broker.listen("api"));
    let ask = || output(python().args([&script("websocket.py"), "ask", &url, &mib.to_string()]));
    let printed = ask();
    assert!(printed.starts_with(&format!("{} ", mib << 20)), "{printed}");
    eventually("the server has seen the end", || !server.lines().is_empty());
    assert_eq!(server.lines(), [printed.trim()], "the same bytes came to the server");
    let grown = broker.process("VmHWM").saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB");
}

const BLOCK: usize = 64 << 10;

/// Every block is another.
fn block(number: usize) -> Vec<u8> {
    let mut block = vec![b'x'; BLOCK];
    block[..8].copy_from_slice(&number.to_be_bytes());
    block
}

fn send(stream: &mut TcpStream, blocks: usize, chunked: bool) {
    for number in 0..blocks {
        if chunked {
            write!(stream, "{BLOCK:x}\r\n").unwrap();
        }
        stream.write_all(&block(number)).unwrap();
        if chunked {
            stream.write_all(b"\r\n").unwrap();
        }
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n").unwrap();
    }
}

/// Reads a body, and hashes it; how it is framed, its head says.
fn receive(incoming: &mut Buffered, head: &str) -> String {
    let mut hash = Context::new(&SHA256);
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    if let Some(mut left) = length {
        while left > 0 {
            let part = incoming.exactly(BLOCK.min(left)).unwrap();
            hash.update(&part);
            left -= part.len();
        }
    } else {
        assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
        loop {
            let chunk = incoming.chunk().unwrap();
            if chunk.is_empty() {
                break;
            }
            hash.update(&chunk);
        }
    }
    format!("{:?}", hash.finish())
}

fn framing(blocks: usize, chunked: bool) -> String {
    if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {}", blocks * BLOCK) }
}

/// Answers an upload with its hash, and gives downloads, framed as the target says.
fn bulk_server(blocks: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut incoming = Buffered::new(stream);
                while let Some(head) = incoming.until(b"\r\n\r\n") {
                    let head = String::from_utf8(head).unwrap();
                    if head.starts_with("GET") {
                        let chunked = head.starts_with("GET /chunked");
                        let head = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", framing(blocks, chunked));
                        incoming.stream.write_all(head.as_bytes()).unwrap();
                        send(&mut incoming.stream, blocks, chunked);
                    } else {
                        let hash = receive(&mut incoming, &head);
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{hash}", hash.len());
                        incoming.stream.write_all(head.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_huge_body_passes_either_way_with_a_length_or_in_chunks_and_takes_no_memory() {
    let blocks = size("BODY_MIB", 64) * (1 << 20) / BLOCK;
    let config = format!(
        "[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n\
         [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{}\"\n",
        bulk_server(blocks)
    );
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let mut whole = Context::new(&SHA256);
    (0..blocks).for_each(|number| whole.update(&block(number)));
    let whole = format!("{:?}", whole.finish());
    let before = broker.process("VmRSS");
    for chunked in [false, true] {
        let target = if chunked { "/chunked" } else { "/length" };
        let mut wire = Wire::open(broker.address("api"));
        let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", framing(blocks, chunked));
        wire.send(head);
        send(&mut wire.stream().try_clone().unwrap(), blocks, chunked);
        assert_eq!(wire.reply("POST").unwrap().text(), whole, "{target}");
        let mut incoming = Buffered::new(TcpStream::connect(broker.address("api")).unwrap());
        write!(incoming.stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let head = String::from_utf8(incoming.until(b"\r\n\r\n").unwrap()).unwrap();
        assert_eq!(head.contains("chunked"), chunked, "{head}");
        assert_eq!(receive(&mut incoming, &head), whole, "{target}");
    }
    let grown = broker.process("VmHWM").saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB");
}

#[test]
fn each_event_arrives_before_the_next_one_is_sent() {
    let (next, told) = mpsc::channel::<()>();
    let told = Mutex::new(Some(told));
    let upstream = Upstream::start(move |_| {
        let told = told.lock().unwrap().take().unwrap();
        Action::Take(Box::new(move |mut stream: TcpStream| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            for number in 0.. {
                let event = format!("data: {number}\n\n");
                write!(stream, "{:x}\r\n{event}\r\n", event.len()).unwrap();
                // The next one only when this one has arrived.
                if told.recv_timeout(PATIENCE).is_err() {
                    break;
                }
            }
            stream.write_all(b"0\r\n\r\n").unwrap();
            let _ = stream.read(&mut [0]);
        }))
    });
    let broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let head = wire.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    for number in 0..1000 {
        assert_eq!(String::from_utf8(wire.chunk().expect("the event")).unwrap(), format!("data: {number}\n\n"));
        if number < 999 {
            next.send(()).unwrap();
        }
    }
    drop(next);
    assert_eq!(wire.chunk(), Some(vec![]), "and the end is an end");
}
