mod grammar;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use grammar::Case;
use servers::{Entry, Server};

use crate::support::{Broker, PATIENCE, has, size};

/// Connections at a time.
const CLIENTS: usize = 48;
/// Cases between two looks at the logs.
const BATCH: usize = 5_000;

/// Sends a case; everything that comes back until the broker closes, which it has to.
fn answers(address: SocketAddr, case: &Case) -> Vec<u8> {
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            // The ports of earlier connections are not free yet.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => panic!("{error}"),
        }
    };
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    for (index, part) in case.writes().enumerate() {
        if index > 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        // It may have seen enough.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    let mut answers = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answers) {
        let reset = error.kind() == ErrorKind::ConnectionReset;
        assert!(reset, "case {} hangs: {error}\n{}", case.number, case.bytes.escape_ascii());
    }
    answers
}

/// What the broker says that it did on a route.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    /// Forwarded, and answered by the API with 2xx.
    fine: u64,
    /// Forwarded, and answered by the API with something else.
    refused: u64,
    /// Answered by the broker: refused, or broken off on the way.
    own: u64,
    /// Sent to the API a second time.
    repeated: u64,
}

impl Ledger {
    fn of(broker: &Broker) -> BTreeMap<String, Self> {
        let text = broker.admin("GET", "/metrics").text();
        let mut ledgers = BTreeMap::<String, Self>::new();
        for line in text.lines() {
            let label = |name: &str| line.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            let (Some(route), Some(value)) = (label("route"), line.rsplit(' ').next()) else { continue };
            let ledger = ledgers.entry(route.to_owned()).or_default();
            let value = || value.parse::<u64>().unwrap();
            if line.starts_with("tokenbroker_upstream_retries_total{") {
                ledger.repeated += value();
            } else if line.starts_with("tokenbroker_requests_total{") {
                match (label("origin").unwrap(), label("status_class").unwrap()) {
                    ("upstream", "2xx") => ledger.fine += value(),
                    ("upstream", _) => ledger.refused += value(),
                    _ => ledger.own += value(),
                }
            }
        }
        ledgers
    }
}

/// What one server saw, by case.
#[derive(Default)]
struct Seen {
    fine: BTreeMap<Option<usize>, Vec<Entry>>,
    refused: BTreeMap<Option<usize>, u64>,
    lines: u64,
}

impl Seen {
    fn add(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.lines += 1;
            let case = entry.case();
            if entry.fine {
                self.fine.entry(case).or_default().push(entry);
            } else {
                *self.refused.entry(case).or_default() += 1;
            }
        }
    }

    fn fine(&self) -> u64 {
        self.fine.values().map(|entries| entries.len() as u64).sum()
    }
}

/// How often each of them is there.
fn tally(entries: Option<&Vec<Entry>>) -> BTreeMap<&Entry, u64> {
    let mut tally = BTreeMap::new();
    entries.into_iter().flatten().for_each(|entry| *tally.entry(entry).or_insert(0) += 1);
    tally
}

struct Run {
    broker: Broker,
    servers: Vec<Server>,
    seed: u64,
    before: BTreeMap<String, Ledger>,
    /// Cases in which the broker forwarded something, and in which it refused something.
    outcomes: [usize; 2],
}

impl Run {
    /// These cases through the broker to each server; then every account is compared with every other.
    fn batch(&mut self, from: usize, to: usize) {
        let (next, broker, servers) = (AtomicUsize::new(from), &self.broker, &self.servers);
        // For each case, the answers of the servers and of the broker that its client got, by server.
        let counts: BTreeMap<usize, Vec<[usize; 2]>> = std::thread::scope(|scope| {
            let client = || {
                let mut counts = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= to {
                        return counts;
                    }
                    let case = Case::new(self.seed, number);
                    let of = |server: &Server| count(&answers(broker.address(server.name), &case));
                    counts.push((number, servers.iter().map(of).collect()));
                }
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        self.outcomes[0] += counts.values().filter(|counts| counts[0][0] > 0).count();
        self.outcomes[1] += counts.values().filter(|counts| counts[0][1] > 0).count();

        let mut all: Vec<_> = self.servers.iter().map(|_| Seen::default()).collect();
        let ledgers = Ledger::of(&self.broker);
        let (mut unnamed, mut differences) = (Vec::new(), Vec::new());
        for (server, seen) in self.servers.iter_mut().zip(&mut all) {
            let (now, then) = (ledgers[server.name], self.before[server.name]);
            // Its log may be a little behind.
            let began = Instant::now();
            while seen.fine() < now.fine - then.fine && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
                seen.add(server.news());
            }
            // Nor may any more come.
            std::thread::sleep(Duration::from_millis(50));
            seen.add(server.news());
            let forwarded = (now.refused + now.own + now.repeated) - (then.refused + then.own + then.repeated);
            differences.push((server.name, seen.fine(), now.fine - then.fine));
            assert!(seen.lines <= seen.fine() + forwarded, "{}: {} lines, {now:?} {then:?}", server.name, seen.lines);
            // What it refused it may not write down, or not yet, or without a target; and it took what came behind it with it.
            unnamed.push(3 * (now.refused - then.refused));
        }
        self.before = ledgers;
        // This tells more.
        self.compare(&all, &unnamed, &counts);
        for (name, seen, forwarded) in differences {
            assert_eq!(seen, forwarded, "what {name} saw, and the ledger");
        }
    }

    /// Of each case, every server saw the same; but one that refused something may have missed what came with it. And no
    /// client got another number of answers than its server gave.
    fn compare(&self, all: &[Seen], unnamed: &[u64], counts: &BTreeMap<usize, Vec<[usize; 2]>>) {
        let cases: BTreeSet<_> = all.iter().flat_map(|seen| seen.fine.keys().copied()).collect();
        let mut unexplained = vec![0; all.len()];
        for case in cases {
            // Each entry as often as the server saw it that saw it most often.
            let seen: Vec<_> = all.iter().map(|seen| tally(seen.fine.get(&case))).collect();
            let mut union = BTreeMap::new();
            for (entry, times) in seen.iter().flatten() {
                let most = union.entry(*entry).or_insert(0);
                *most = (*times).max(*most);
            }
            for (index, own) in seen.iter().enumerate() {
                let name = self.servers[index].name;
                let missed = |(entry, times): (&&Entry, &u64)| times - own.get(*entry).copied().unwrap_or(0);
                let missed: u64 = union.iter().map(missed).sum();
                if missed > 0 && (case.is_none() || !all[index].refused.contains_key(&case)) {
                    unexplained[index] += missed;
                    assert!(
                        unexplained[index] <= unnamed[index],
                        "{name} missed something, {unexplained:?} of {unnamed:?}\n{}",
                        self.tell(case, all)
                    );
                }
                let Some(number) = case.filter(|number| !Case::new(self.seed, *number).garbled) else { continue };
                let (answers, given) = (counts[&number][index][0] as u64, own.values().sum::<u64>());
                assert_eq!(answers, given, "{name} gave so many answers\n{}", self.tell(case, all));
            }
        }
    }

    fn tell(&self, case: Option<usize>, all: &[Seen]) -> String {
        let bytes = case.map(|case| Case::new(self.seed, case).bytes);
        let bytes = bytes.map(|bytes| bytes[..bytes.len().min(4000)].escape_ascii().to_string());
        let mut text = format!("seed {}, case {case:?}: {}\n", self.seed, bytes.unwrap_or_default());
        for (server, seen) in self.servers.iter().zip(all) {
            text.push_str(&format!("  {} refused {:?} and saw\n", server.name, seen.refused.get(&case)));
            for entry in seen.fine.get(&case).into_iter().flatten() {
                text.push_str(&format!("    {entry}\n"));
            }
        }
        text
    }
}

/// Answers with 200 or 206, which only the servers give, and others.
fn count(answers: &[u8]) -> [usize; 2] {
    let count = |status: &str| {
        let both = [format!("HTTP/1.1 {status}"), format!("HTTP/1.0 {status}")];
        both.iter().map(|line| answers.windows(line.len()).filter(|window| *window == line.as_bytes()).count()).sum()
    };
    let fine: usize = count("200 ") + count("206 ");
    let all: usize = count("");
    [fine, all - fine - count("100 ")]
}

#[test]
fn five_servers_see_exactly_the_requests_that_the_broker_says_it_forwarded() {
    for program in ["nginx", "haproxy", "apache2", "python3"] {
        if !has(program) {
            return;
        }
    }
    // Each goes to each of the five.
    let cases = size("CASES", 2_000);
    let directory = tempfile::tempdir().unwrap();
    let servers = servers::all(&directory);
    let routes: String = servers
        .iter()
        .map(|server| {
            format!(
                "[token.{0}]\ngrant = \"static\"\naccess_token = \"the-token\"\n\
                 [route.{0}]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{1}\"\nidle_timeout = \"1s\"\n",
                server.name, server.address
            )
        })
        .collect();
    let config = format!("[limits]\nthreads = 2\nhead_timeout = \"1s\"\n{routes}");
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), &config, |command| {
        command.args(["--log-level", "info"]);
    });
    for server in &servers {
        broker.wait_for_state(server.name, "valid");
    }
    let before = Ledger::of(&broker);
    let mut run = Run { broker, servers, seed: size("SEED", 1) as u64, before, outcomes: [0, 0] };
    for from in (0..cases).step_by(BATCH) {
        run.batch(from, cases.min(from + BATCH));
    }
    let [forwarded, refused] = run.outcomes;
    println!("{cases} cases: something forwarded in {forwarded}, something refused in {refused}; {:?}", run.before);
    assert!(
        forwarded > cases / 2 && refused > cases / 4,
        "the grammar is too wild or too tame: {forwarded}, {refused}"
    );
}
