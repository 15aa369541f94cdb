//! Request bytes in, verdict and upstream bytes out: the cases of `tests/corpus`, each sent whole, one byte at a time, and
//! cut behind each CR and each LF. The format of the files is told in `tests/corpus/README.md`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Action, Broker, RawRequest, Upstream, Wire};

/// Routes that work at the same time, each with an upstream of its own.
const LANES: usize = 6;
/// Longer requests are dripped without a pause.
const PAUSED_MAX: usize = 1024;

#[derive(Clone, Debug, Default)]
struct Case {
    name: String,
    request: Vec<u8>,
    /// Does the client close its side afterwards?
    fin: bool,
    verdicts: Vec<Verdict>,
}

/// One answer and what went upstream for it, or the end of the connection.
#[derive(Clone, Debug, Default)]
struct Verdict {
    status: Option<u16>,
    code: Option<String>,
    closed: bool,
    upstream: Option<Forwarded>,
}

/// A request as the upstream has to see it, without its `host`, our mark and the credential, which are always there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Forwarded {
    head: Vec<u8>,
    body: Vec<u8>,
}

/// A file: keys for the route, and its cases.
struct Group {
    keys: String,
    /// Fields that are in each request to the API.
    adds: Vec<String>,
    cases: Vec<Case>,
}

fn unescape(text: &str, slot: &str) -> Vec<u8> {
    let text = text.replace("{}", slot);
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let (escape, after) = rest.split_first().unwrap_or_else(|| panic!("an escape without an end: {text}"));
        rest = after;
        match escape {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b's' => out.push(b' '),
            b'0' => out.push(0),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &rest[2..];
            }
            // \(text*3): that text, three times.
            b'(' => {
                let end = rest.iter().position(|byte| *byte == b')').unwrap();
                let (text, times) = std::str::from_utf8(&rest[..end]).unwrap().rsplit_once('*').unwrap();
                out.extend(unescape(text, "").repeat(times.parse().unwrap()));
                rest = &rest[end + 1..];
            }
            other => panic!("no such escape: \\{} in {text}", char::from(*other)),
        }
    }
    out
}

/// Lines, each ended by CRLF unless it ends with a backslash.
fn lines(lines: &[&str], slot: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let odd = line.len() - line.trim_end_matches('\\').len();
        match line.strip_suffix('\\') {
            Some(open) if odd % 2 == 1 => out.extend(unescape(open, slot)),
            _ => out.extend([unescape(line, slot), b"\r\n".to_vec()].concat()),
        }
    }
    out
}

fn verdict(text: &str) -> Verdict {
    let mut verdict = Verdict::default();
    for word in text.split_whitespace() {
        match word.parse() {
            Ok(status) => verdict.status = Some(status),
            Err(_) if word == "closed" => verdict.closed = true,
            Err(_) => verdict.code = Some(word.to_owned()),
        }
    }
    let short = match verdict.status {
        Some(400) => "bad_request",
        Some(414) => "target_too_long",
        Some(431) => "head_too_large",
        _ => return verdict,
    };
    if verdict.code.is_none() {
        (verdict.code, verdict.closed) = (Some(short.to_owned()), true);
    }
    verdict
}

fn forwarded(text: &[&str], slot: &str) -> Option<Forwarded> {
    let used = text.iter().rposition(|line| !line.is_empty())? + 1;
    let text = &text[..used];
    let end = text.iter().position(|line| line.is_empty()).unwrap_or(text.len());
    let body = text.get(end + 1..).map(|body| lines(body, slot)).unwrap_or_default();
    Some(Forwarded { head: lines(&text[..end], slot), body })
}

/// The case of a block with something in its slot.
fn case(name: &str, block: &[&str], (slot, sent): (&str, &str), instead: Option<Verdict>) -> Case {
    let mut parts = block.split(|line| line.starts_with("-> "));
    let mut request = parts.next().unwrap().to_vec();
    let fin = request.last() == Some(&"<FIN>");
    if fin {
        request.pop();
    }
    let said = block.iter().filter_map(|line| line.strip_prefix("-> "));
    let verdicts =
        said.zip(parts).map(|(said, upstream)| Verdict { upstream: forwarded(upstream, sent), ..verdict(said) });
    let verdicts = instead.map_or_else(|| verdicts.collect(), |instead| vec![instead]);
    assert!(!verdicts.is_empty(), "{name}: no verdict");
    Case { name: name.to_owned(), request: lines(&request, slot), fin, verdicts }
}

fn parse(text: &str) -> Group {
    let text = format!("\n{text}");
    let mut blocks = text.split("\n= ");
    let top: Vec<_> = blocks.next().unwrap().lines().collect();
    let said =
        |what: &str| top.iter().filter_map(|line| line.strip_prefix(what)).map(str::to_owned).collect::<Vec<_>>();
    let (keys, adds) = (said("route: ").join("\n"), said("adds: "));
    let mut cases = Vec::new();
    for block in blocks {
        let mut lines = block.lines();
        let name = lines.next().unwrap();
        let mut told = false;
        // Behind the first verdict `#` begins a comment.
        let lines: Vec<_> = lines
            .filter(|line| {
                told |= line.starts_with("-> ") || *line == "rows";
                !(told && line.starts_with('#'))
            })
            .collect();
        let Some(rows) = lines.iter().position(|line| *line == "rows") else {
            cases.push(case(name, &lines, ("", ""), None));
            continue;
        };
        for row in lines[rows + 1..].iter().filter(|row| !row.is_empty()) {
            let mut cells = row.split('|').map(str::trim);
            let (said, slot) = (cells.next().unwrap(), cells.next().unwrap_or_else(|| panic!("{name}: {row}")));
            let sent = cells.next().unwrap_or(slot);
            let instead = (said != "ok").then(|| verdict(said));
            cases.push(case(&format!("{name}: {slot}"), &lines[..rows], (slot, sent), instead));
        }
    }
    Group { keys, adds, cases }
}

/// Where a request is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Nowhere,
    Everywhere,
    Behind(u8),
}

fn pieces(bytes: &[u8], cut: Cut) -> Vec<&[u8]> {
    match cut {
        Cut::Nowhere => vec![bytes],
        Cut::Everywhere => bytes.chunks(1).collect(),
        Cut::Behind(end) => bytes.split_inclusive(|byte| *byte == end).collect(),
    }
}

/// Our mark begins so; sixteen hexadecimal digits follow.
const MARK: &str = "x-tokenbroker-hop: tokenbroker-";

/// The line of our mark: behind those of others, so the last that looks like one.
fn mark(head: &str) -> Option<String> {
    let own = head.lines().rfind(|line| line.starts_with(MARK))?;
    let digits = &own[MARK.len()..];
    let is_ours = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_ours.then(|| format!("{own}\r\n"))
}

/// What the upstream saw of a request; its `host`, one mark, our credential and what else we add taken out.
fn seen(request: &RawRequest, upstream: SocketAddr, adds: &[String]) -> Result<Forwarded, String> {
    let mut head = request.raw.clone();
    head.truncate(head.len() - 2);
    let mut take = |own: &str| {
        let at = head.windows(own.len()).position(|window| window == own.as_bytes())?;
        head.drain(at..at + own.len());
        Some(())
    };
    take(&format!("host: {upstream}\r\n")).ok_or_else(|| format!("no host of the API's: {}", request.head))?;
    mark(&request.head).and_then(|own| take(&own)).ok_or_else(|| format!("no mark of ours: {}", request.head))?;
    for own in adds {
        take(&format!("{own}\r\n")).ok_or_else(|| format!("no {own}: {}", request.head))?;
    }
    if take("authorization: Bearer the-token\r\n").is_none() {
        head.extend_from_slice(b"(no credential of ours)\r\n");
    }
    Ok(Forwarded { head, body: request.body.clone() })
}

/// A route of its own, and what it leads to.
struct Lane<'g> {
    group: &'g Group,
    address: SocketAddr,
    upstream: Upstream,
}

impl Lane<'_> {
    fn run(&self, case: &Case, cut: Cut) -> Result<(), String> {
        let before = self.upstream.requests().len();
        let mut wire = Wire::open(self.address);
        let pause = match cut {
            Cut::Nowhere => None,
            Cut::Everywhere => (case.request.len() <= PAUSED_MAX).then_some(Duration::from_micros(10)),
            Cut::Behind(_) => Some(Duration::from_millis(1)),
        };
        let parts = pieces(&case.request, cut);
        // A thousand lines need no pause behind each.
        let pause = pause.filter(|_| parts.len() <= PAUSED_MAX);
        for piece in parts {
            wire.send(piece);
            pause.inspect(|pause| std::thread::sleep(*pause));
        }
        if case.fin {
            wire.stream().shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
        }
        let mut closed = false;
        for verdict in &case.verdicts {
            closed = verdict.closed;
            if let Some(status) = verdict.status {
                let method = if case.request.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
                answer(&mut wire, method, status, verdict)?;
            }
        }
        let mut expected: Vec<_> = case.verdicts.iter().filter_map(|verdict| verdict.upstream.clone()).collect();
        let next =
            |target: &str| Forwarded { head: format!("GET {target} HTTP/1.1\r\n").into_bytes(), body: Vec::new() };
        if closed {
            let rest = wire.rest();
            if !rest.is_empty() {
                return Err(format!("more came before the end: {:?}", String::from_utf8_lossy(&rest)));
            }
        } else {
            // What comes next on that connection is a request of its own.
            wire.send("GET /open/next HTTP/1.1\r\nHost: localhost\r\n\r\n");
            answer(&mut wire, "GET", 200, &Verdict::default())?;
            expected.push(next("/open/next"));
        }
        let mut fresh = Wire::open(self.address);
        fresh.send("GET /open/fresh HTTP/1.1\r\nHost: localhost\r\n\r\n");
        answer(&mut fresh, "GET", 200, &Verdict::default())?;
        expected.push(next("/open/fresh"));
        let requests = self.upstream.requests();
        let requests: Result<Vec<_>, _> =
            requests[before..].iter().map(|request| seen(request, self.upstream.address, &self.group.adds)).collect();
        if requests.as_ref() != Ok(&expected) {
            return Err(format!("the API saw {}\nand not {}", shown(&requests?), shown(&expected)));
        }
        Ok(())
    }
}

fn shown(requests: &[Forwarded]) -> String {
    let one = |request: &Forwarded| format!("\n    {}", [&request.head[..], &request.body[..]].concat().escape_ascii());
    requests.iter().map(one).collect()
}

/// The next answer, which has to be that one; and if it is our own refusal, all that such an answer must have.
fn answer(wire: &mut Wire, method: &str, status: u16, verdict: &Verdict) -> Result<(), String> {
    let reply = wire.reply(method).ok_or("no answer")?;
    if reply.status != status {
        return Err(format!("{} and not {status}: {}", reply.status, reply.text()));
    }
    if let Some(code) = &verdict.code {
        let whole = reply.header("content-type") == Some("application/problem+json")
            && reply.header("cache-control") == Some("no-store")
            && reply.header("proxy-status").is_some_and(|value| value.starts_with("tokenbroker; error="))
            && (reply.header("connection") == Some("close")) == verdict.closed;
        let told = method == "HEAD" || reply.json()["code"] == code.as_str();
        if !whole || !told {
            return Err(format!("not {code} as it has to be: {reply:?}"));
        }
    }
    Ok(())
}

#[track_caller]
fn run(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(file);
    let group = parse(&std::fs::read_to_string(&path).unwrap());
    let upstreams: Vec<_> = (0..LANES).map(|_| Upstream::start(|_| Action::ok(""))).collect();
    let mut config = "[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n".to_owned();
    for (lane, upstream) in upstreams.iter().enumerate() {
        let (url, keys) = (upstream.url(), &group.keys);
        let _ = writeln!(config, "[route.lane{lane}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"");
        let _ = writeln!(config, "token = \"api\"\n{keys}");
    }
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let next = AtomicUsize::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let lanes: Vec<_> = upstreams
            .into_iter()
            .enumerate()
            .map(|(lane, upstream)| {
                let lane = Lane { group: &group, address: broker.address(&format!("lane{lane}")), upstream };
                let (next, cases) = (&next, &group.cases);
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        for cut in [Cut::Nowhere, Cut::Everywhere, Cut::Behind(b'\r'), Cut::Behind(b'\n')] {
                            if let Err(why) = lane.run(case, cut) {
                                failures.push(format!("{} ({cut:?}): {why}", case.name));
                                break;
                            }
                        }
                    }
                    failures
                })
            })
            .collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{file}: {} of {}:\n{}", failures.len(), group.cases.len(), failures.join("\n"));
    assert!(broker.metric("tokenbroker_panics_total ").abs() < 0.5);
}

/// A test for each file of the corpus.
macro_rules! groups {
    ($($file:literal => $name:ident,)*) => {
        $(#[test]
        fn $name() {
            run($file);
        })*
        const FILES: &[&str] = &[$($file),*];
    };
}

groups! {
    "request-line.txt" => a_request_line_is_a_method_a_target_and_a_version_and_one_blank_between_each,
    "target.txt" => a_target_goes_on_byte_for_byte_or_not_at_all,
    "path.txt" => a_path_that_servers_read_in_two_ways_passes_no_allow_list,
    "fields.txt" => a_field_is_a_name_a_colon_and_a_value_without_control_characters,
    "line-ends.txt" => a_line_ends_with_cr_and_lf_and_nothing_else,
    "host.txt" => a_host_is_one_of_the_listeners_own_names_or_nothing_is_asked,
    "length.txt" => a_length_is_one_number_in_one_field,
    "transfer-encoding.txt" => a_transfer_coding_is_chunked_once_and_alone,
    "chunks.txt" => chunks_are_taken_apart_strictly_and_made_anew,
    "hop-by-hop.txt" => what_belongs_to_the_hop_ends_here,
    "credentials.txt" => a_clients_credential_does_not_pass_however_it_is_spelled,
    "keep.txt" => a_route_that_keeps_a_clients_credential_sends_that_or_ours_never_both,
    "pipeline.txt" => requests_in_a_row_are_each_judged_and_answered_in_order,
    "limits.txt" => sizes_at_the_limit_pass_and_one_more_does_not,
    "unchanged.txt" => what_is_the_applications_own_passes_unchanged,
}

#[test]
fn the_corpus_has_six_hundred_cases_with_names_of_their_own_and_every_file_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let there = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<_> = there.filter(|name| name != "README.md").collect();
    assert_eq!(there, FILES.iter().map(|file| (*file).to_owned()).collect());
    let mut names = BTreeSet::new();
    let mut requests = BTreeSet::new();
    let mut twice = Vec::new();
    for file in FILES {
        let group = parse(&std::fs::read_to_string(folder.join(file)).unwrap());
        for case in group.cases {
            assert!(names.insert(format!("{file}: {}", case.name)), "{file}: {} stands there twice", case.name);
            if !requests.insert((group.keys.clone(), case.request, case.fin)) {
                twice.push(format!("{file}: {}", case.name));
            }
        }
    }
    assert!(twice.is_empty(), "these send what others send: {twice:#?}");
    assert!(names.len() >= 600, "{}", names.len());
}
