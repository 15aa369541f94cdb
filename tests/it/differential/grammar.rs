//! Requests by a grammar, most of them wrong in some place. The same number and seed always give the same bytes.

use fastrand::Rng;

/// What is sent on one connection.
pub struct Case {
    pub number: usize,
    pub bytes: Vec<u8>,
    /// Where it is cut into several writes.
    pub cuts: Vec<usize>,
    /// Were bytes changed at random? Then its name may be wrong in it.
    pub garbled: bool,
}

/// How a case is named in its targets, so that changed bytes do not make it another one.
fn name(number: usize) -> String {
    format!("{number}-{:04x}", (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48)
}

/// The case of that name.
pub fn named(name_of: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(name_of).ok()?;
    text.split('-').next()?.parse().ok().filter(|number| name(*number) == text)
}

const HOST: &str = "Host: localhost\r\n";

/// One of these; the first ones are the likely ones.
fn pick<'a>(rng: &mut Rng, usual: usize, of: &[&'a str]) -> &'a str {
    if rng.u8(..100) < 70 { of[rng.usize(..usual)] } else { of[rng.usize(..of.len())] }
}

impl Case {
    pub fn new(seed: u64, number: usize) -> Self {
        let mut rng = Rng::with_seed(seed.wrapping_mul(1_000_003) ^ (number as u64).wrapping_mul(0x9e37_79b9));
        let rng = &mut rng;
        let mut bytes = Vec::new();
        for index in 0..[1, 1, 1, 2, 3][rng.usize(..5)] {
            request(rng, &format!("/{}/{index}", name(number)), &mut bytes);
        }
        let garbled = rng.u8(..100) < 8;
        if garbled {
            (0..rng.usize(1..4)).for_each(|_| garble(rng, &mut bytes));
        }
        // So that the connection ends at once, if nothing took this for something else.
        if rng.u8(..100) < 90 {
            let last = format!("GET /{}/last HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n", name(number));
            bytes.extend_from_slice(last.as_bytes());
        }
        let cuts =
            if rng.u8(..100) < 20 { (0..rng.usize(1..4)).map(|_| rng.usize(..bytes.len())).collect() } else { vec![] };
        let mut case = Self { number, bytes, cuts, garbled };
        case.cuts.sort_unstable();
        case
    }

    /// What is sent, write by write.
    pub fn writes(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.cuts.iter().copied().chain([self.bytes.len()]);
        ends.scan(0, |from, to| Some(&self.bytes[std::mem::replace(from, to)..to]))
    }
}

fn garble(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.usize(..bytes.len());
    let any = if rng.bool() {
        rng.u8(..)
    } else {
        *b"\r\n \t:;,/0\0\x0b\x7f\x80\xff%#?*"[..].get(rng.usize(..18)).unwrap_or(&b' ')
    };
    match rng.u8(..4) {
        0 => bytes[at] = any,
        1 => bytes.insert(at, any),
        2 => drop(bytes.remove(at)),
        _ => {
            let end = (at + rng.usize(1..24)).min(bytes.len());
            let twice = bytes[at..end].to_vec();
            bytes.splice(at..at, twice);
        }
    }
    if bytes.is_empty() {
        bytes.push(any);
    }
}

fn request(rng: &mut Rng, marker: &str, out: &mut Vec<u8>) {
    let eol = if rng.u8(..100) < 94 { "\r\n" } else { ["\n", "\n", "\r\r\n", "\r"][rng.usize(..4)] };
    let (fields, body) = framing(rng, marker);
    if rng.u8(..100) < 3 {
        out.extend_from_slice(eol.as_bytes());
    }
    let line = format!("{}{}{}{}{eol}", method(rng), space(rng), target(rng, marker), version(rng));
    out.extend_from_slice(line.as_bytes());
    let mut lines = vec![host(rng)];
    lines.extend(fields);
    for _ in 0..rng.usize(..5) {
        lines.push(field(rng));
    }
    if rng.u8(..100) < 20 {
        rng.shuffle(&mut lines);
    }
    for line in lines.iter().filter(|line| !line.is_empty()) {
        out.extend_from_slice(line);
        let other = pick(rng, 1, &["\r\n", "\n", "\r", "\r\n ", "\r\n\t"]);
        out.extend_from_slice(if rng.u8(..200) < 3 { other } else { eol }.as_bytes());
    }
    out.extend_from_slice(eol.as_bytes());
    out.extend_from_slice(&body);
}

fn method(rng: &mut Rng) -> &'static str {
    if rng.u8(..100) < 97 {
        return ["GET", "POST", "PUT", "GET", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "FOO"]
            [rng.usize(..11)];
    }
    ["get", "", "CONNECT", "TRACE", "PRI", "G ET", "GET\t", "G\0T", "POST,GET", "M-SEARCH", "\"GET\"", "GÉT"]
        [rng.usize(..12)]
}

fn space(rng: &mut Rng) -> &'static str {
    if rng.u8(..100) < 98 { " " } else { ["", "  ", "\t", " \t", "\u{b}", "\u{a0}"][rng.usize(..6)] }
}

fn target(rng: &mut Rng, marker: &str) -> String {
    if rng.u8(..100) < 80 {
        return format!("{marker}/plain?a=1&b=%20");
    }
    match rng.u8(..24) {
        0 => format!("http://localhost{marker}/absolute"),
        1 => format!("HTTP://LOCALHOST{marker}"),
        2 => format!("http://evil.example{marker}"),
        3 => format!("http://user@localhost{marker}"),
        4 => format!("http://localhost?{marker}"),
        5 => "localhost:80".into(),
        6 => "*".into(),
        7 => String::new(),
        8 => format!("/{marker}//double//"),
        9 => format!("{marker}/../{marker}/./x"),
        10 => format!("{marker}/%2e%2e/%2F..%5c"),
        11 => format!("{marker}/a%00b%0d%0aX:%20y"),
        12 => format!("{marker}/\\back|pipe^\"quote\"{{}}<>`"),
        13 => format!("{marker}/é\u{7f}"),
        14 => format!("{marker}/x#fragment"),
        15 => format!("{marker}?{}", "q=1&".repeat(rng.usize(1..2000))),
        16 => format!("{marker}/{}", "long/".repeat(rng.usize(1..4000))),
        17 => format!("{marker}/with space"),
        18 => format!("{marker};v=1/..;/x"),
        19 => format!("?{marker}"),
        20 => marker[1..].into(),
        21 => format!("{marker}/%zz%"),
        22 => format!("{marker}/\ttab"),
        _ => format!("https://localhost:443{marker}?x#y"),
    }
}

fn version(rng: &mut Rng) -> &'static str {
    if rng.u8(..100) < 94 {
        return " HTTP/1.1";
    }
    let odd = [
        " HTTP/1.0",
        " HTTP/1.0",
        " HTTP/1.0",
        "",
        " HTTP/0.9",
        " HTTP/2.0",
        " HTTP/1.2",
        " http/1.1",
        " HTTP/1.10",
        " HTTP/01.1",
        " HTTP/1",
        "  HTTP/1.1",
        " HTTP/1.1 ",
        " HTTP/1.1 x",
        "\tHTTP/1.1",
        " HTTP /1.1",
    ];
    odd[rng.usize(..odd.len())]
}

fn host(rng: &mut Rng) -> Vec<u8> {
    if rng.u8(..100) < 96 {
        return b"Host: localhost".to_vec();
    }
    let odd = [
        "",
        "Host:",
        "Host: ",
        "Host: evil.example",
        "Host: localhost\r\nHost: localhost",
        "Host: localhost, evil.example",
        "Host: localhost\r\nHost: evil.example",
        "Host : localhost",
        "Host: user@localhost",
        "Host: localhost/x",
        " Host: localhost",
        "hOsT:localhost",
        "Host:\tlocalhost\t",
        "Host: localhost:99999",
        "Host: [::1]",
        "Host: localhost\r\nhost_: x",
    ];
    odd[rng.usize(..odd.len())].into()
}

fn field(rng: &mut Rng) -> Vec<u8> {
    let fields: &[&[u8]] = &[
        b"Accept: */*",
        b"User-Agent: grammar/1.0",
        b"X-A: b",
        b"Cookie: a=b; c=d",
        b"Accept-Encoding: gzip, br",
        b"Range: bytes=0-1",
        b"Content-Type: application/json",
        b"X-Empty:",
        b"Connection: keep-alive",
        b"Connection: close",
        b"TE: trailers",
        b"X-A: c",
        // From here on, doubtful.
        b"Connection: content-length",
        b"Connection: host, transfer-encoding",
        b"Connection: x-a, close",
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Trailer: X-Sum",
        b"Keep-Alive: timeout=1",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic eDp5",
        b"Content_Length: 5",
        b"Transfer_Encoding: chunked",
        b"Authorization: Basic eDp5",
        b"X-HTTP-Method-Override: DELETE",
        b"X-Forwarded-For: 1.2.3.4",
        b"Max-Forwards: 10",
        b": no name",
        b"no colon",
        b"X A: space in name",
        b"X-A : space after",
        b" X-A: space before",
        b"X-Fold: a\r\n b",
        b"X-Nul: a\0b",
        b"X-Cr: a\rb",
        b"X-Obs: \xe9\xff",
        b"X-Ctl: \x01\x7f",
        b"X-Vt: a\x0bb",
        b"X(A): b",
        b"\xe9: x",
        b"X-A: b\r\n\tc",
        b"X-Quote: \"\\\"\"",
        b"Content-Encoding: gzip",
        b"X-Rewrite-URL: /admin",
    ];
    let usual = rng.u8(..100) < 88;
    let mut field = fields[if usual { rng.usize(..12) } else { rng.usize(..fields.len()) }].to_vec();
    match rng.u8(..60) {
        0 => field.extend(vec![b'x'; rng.usize(..20_000)]),
        1 => field = field.to_ascii_uppercase(),
        2 => field.extend_from_slice(b" \t "),
        _ => {}
    }
    field
}

/// The fields that frame a body, and the body. Often they do not fit.
fn framing(rng: &mut Rng, marker: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
    let inner = format!("GET {marker}/smuggled HTTP/1.1\r\n{HOST}\r\n");
    let plain = match rng.u8(..6) {
        0 => inner,
        1 => "0\r\n\r\n".into(),
        2 => "x".repeat(rng.usize(..9000)),
        3 => format!("G{inner}"),
        _ => "a plain body".into(),
    };
    let length = plain.len();
    let some = |lines: &[&str]| lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>();
    match rng.u8(..100) {
        0..37 => (vec![], vec![]),
        37..59 => (some(&[&format!("Content-Length: {length}")]), plain.into()),
        59..82 => (some(&["Transfer-Encoding: chunked"]), chunks(rng, plain.as_bytes())),
        82..86 => {
            let wrong = [length / 2, length + 1, length + 40, 0, 1][rng.usize(..5)];
            (some(&[&format!("Content-Length: {wrong}")]), plain.into())
        }
        86..91 => {
            let value = match rng.u8(..14) {
                0 => format!("+{length}"),
                1 => format!("-{length}"),
                2 => format!("0{length}"),
                3 => format!("{length}, {length}"),
                4 => format!("{length}, {}", length + 1),
                5 => format!("0x{length:x}"),
                6 => format!("{length}\r\nContent-Length: {length}"),
                7 => format!("{length}\r\nContent-Length: {}", length / 2),
                8 => format!("{length} 1"),
                9 => String::new(),
                10 => format!("\t{length} "),
                11 => "18446744073709551617".into(),
                12 => format!("{length};"),
                _ => format!("\u{b}{length}"),
            };
            (some(&[&format!("Content-Length: {value}")]), plain.into())
        }
        91..96 => {
            let odd = [
                "xchunked",
                "Chunked",
                "chunked, chunked",
                "identity",
                "gzip, chunked",
                "chunked, gzip",
                "chunked;q=1",
                "chunked,",
                "\"chunked\"",
                "",
                "\tchunked\t",
                "\u{b}chunked",
                "chunked\r\nTransfer-Encoding: chunked",
                "identity, chunked",
                "chunked\r\nTransfer-Encoding: identity",
                "chunke",
                "chunked\0",
            ];
            let value = odd[rng.usize(..odd.len())];
            (some(&[&format!("Transfer-Encoding: {value}")]), chunks(rng, plain.as_bytes()))
        }
        _ => {
            let body = chunks(rng, plain.as_bytes());
            let length = format!("Content-Length: {}", [4, 6, length, body.len()][rng.usize(..4)]);
            let coding =
                pick(rng, 1, &["Transfer-Encoding: chunked", "Transfer-Encoding : chunked", "Transfer-Encoding: x"]);
            (if rng.bool() { some(&[&length, coding]) } else { some(&[coding, &length]) }, body)
        }
    }
}

/// A chunked body; some have something wrong.
fn chunks(rng: &mut Rng, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let wrong = rng.u8(..100) < 15;
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(rng.usize(1..=rest.len()));
        rest = later;
        let n = chunk.len();
        let odd = wrong && rng.u8(..100) < 60;
        let size = match rng.u8(..16) {
            0 if odd => format!("0x{n:x}"),
            1 if odd => format!("+{n:x}"),
            2 if odd => format!("{:x}", n + 1),
            3 if odd => format!("{:x}", n / 2),
            4 if odd => format!("{n:x}g"),
            5 if odd => String::new(),
            6 if odd => format!("{n:017x}"),
            7 if odd => format!("{n:x};a=b\n"),
            8 if odd => format!(" {n:x}"),
            9 if odd => format!("{n:x} "),
            10 if odd => format!("{n:x};{}", "e".repeat(rng.usize(..3000))),
            11 if odd => format!("fffffffffffffff{n:x}"),
            12 => format!("{n:X};name=\"value\""),
            13 => format!("0{n:x}"),
            _ => format!("{n:x}"),
        };
        out.extend_from_slice(size.as_bytes());
        out.extend_from_slice(if odd { pick(rng, 1, &["\r\n", "\n", "\r", ""]) } else { "\r\n" }.as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(if odd { pick(rng, 1, &["\r\n", "\n", "XX", ""]) } else { "\r\n" }.as_bytes());
    }
    let end = if wrong && rng.bool() {
        ["0\n\r\n", "0\r\n\n", "0\r\n", "", "00\r\n\r\n", "0;x\r\n\r\n", "0\r\nX-Trailer\r\n\r\n"][rng.usize(..7)]
    } else {
        pick(rng, 1, &["0\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n", "0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n"])
    };
    out.extend_from_slice(end.as_bytes());
    out
}
