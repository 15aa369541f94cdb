//! What is fuzzed. Each target takes any bytes, and panics when something that was promised does not hold. `tests/it/fuzz.rs`
//! has this file, too, and runs the committed corpus.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use tokenbroker::app::App;
use tokenbroker::clock::{Clock, Now};
use tokenbroker::config;
use tokenbroker::fields::{CLIENT_KEY, is_forwarding, is_hop_by_hop, is_ours, with_hyphens};
use tokenbroker::http1::{Bounds, Fields, Head, Request, Response as Answer};
use tokenbroker::oauth::TokenError;
use tokenbroker::oauth::builtin::{BUILT_IN, built_in};
use tokenbroker::oauth::dialect::Dialect;
use tokenbroker::oauth::file::{ClientAuth, Grant, Op};
use tokenbroker::oauth::place::Reply;
use tokenbroker::oauth::request::Inputs;
use tokenbroker::oauth::response;
use tokenbroker::oauth::rules::SameToken;
use tokenbroker::peer::Peer;
use tokenbroker::proxy::{Framing, Route, Routes, check_form, to_client, to_upstream};
use tokenbroker::rotation::{self, Rotation};
use tokenbroker::secret::Secret;
use tokenbroker::store::{Seal, SealError};
use tokenbroker::token::cache::Wishes;
use tokenbroker::token::kept::{Kept, KeptMoment};
use tokenbroker::token::schedule::{self, Schedule};
use tokenbroker::units::Budget;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All of them.
pub const TARGETS: [(&str, Target); 5] =
    [("head", head), ("target", target), ("answer", answer), ("config", config), ("record", record)];

/// Nothing is there, so that nothing but the text decides.
const FILE: &str = "/nonexistent/tokenbroker.toml";

fn time() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

const MARK: &str = "x-tokenbroker-hop";

const ROUTES: &str = r#"
[route.plain]
listen = "127.0.0.1:1"
upstream = "http://127.0.0.1:9"
token = false
authorization = "keep"
headers = { x-extra = "ours" }
[route.narrow]
listen = "127.0.0.1:1"
host = "narrow.localhost"
path = "/api/v1"
upstream = "https://api.example/base"
token = false
paths = ["/api/v1/a", "/api/v1/b/c"]
[route.whole]
listen = "127.0.0.1:1"
host = "whole.localhost"
path = "/x"
strip = false
upstream = "https://api.example"
token = false
"#;

/// Real routes, of a real configuration.
static PARTS: LazyLock<BTreeMap<String, Arc<Route>>> = LazyLock::new(|| {
    let (config, report) = config::check(Path::new(FILE), ROUTES, time());
    let config = config.unwrap_or_else(|| panic!("{report:?}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let app = App::open(&config, Clock::system()).await.unwrap();
        let plan = app.plan(config, None, &Default::default()).await.unwrap();
        app.parts(plan, None, BTreeMap::new()).routes.clone()
    })
});

static LISTENER: LazyLock<Routes> = LazyLock::new(|| Routes::new(PARTS.values().cloned().collect(), Some(1)));

fn read(bytes: Vec<u8>) -> Option<Request> {
    let mut head = Head::default();
    let length = head.scan(&bytes, Bounds { bytes: 1 << 20, fields: 1000 }).ok()??;
    (length == bytes.len()).then(|| head.request(bytes).ok())?
}

/// `METHOD TARGET`, and a field a line.
fn request(data: &[u8]) -> Option<Request> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut bytes = [lines.next()?, b" HTTP/1.1\r\n"].concat();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        bytes.extend([&line[..at], b": ", line[at + 1..].trim_ascii(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    read(bytes)
}

fn values<'h>(fields: &'h Fields, name: &'h str) -> Vec<&'h [u8]> {
    fields.all(name).collect()
}

/// A head is made anew for each side.
pub fn head(data: &[u8]) {
    let Some(head) = request(data) else { return };
    let route = &PARTS["plain"];
    let credential = HeaderValue::from_static("Bearer the-token");
    for (credential, websocket) in [(Some(&credential), false), (Some(&credential), true), (None, false)] {
        let bytes = to_upstream(&head, "/sent", route, &Peer::unix(None), credential, websocket);
        let Some(sent) = read(bytes.clone()) else { panic!("{}", bytes.escape_ascii()) };
        assert_eq!((sent.target(), &sent.method), ("/sent", &head.method));
        let (out, theirs) = (&sent.fields, &head.fields);
        assert_eq!(values(out, "host"), [b"127.0.0.1:9"]);
        assert_eq!(values(out, "x-extra"), [b"ours"]);
        match credential {
            Some(_) => assert_eq!(values(out, "authorization"), [b"Bearer the-token"]),
            None => assert_eq!(values(out, "authorization"), values(theirs, "authorization")),
        }
        assert_eq!(sent.body.length(), head.body.length());
        // Our mark stands behind those of others.
        let named = theirs.lists("connection", MARK);
        let before = if named { Vec::new() } else { values(theirs, MARK) };
        let marks = values(out, MARK);
        assert!(marks.last().is_some_and(|own| own.starts_with(b"tokenbroker-") && own.len() == 28), "{marks:?}");
        assert_eq!(marks[..marks.len() - 1], before);
        assert!(!out.has(CLIENT_KEY));
        for (name, _) in out.iter() {
            let text = std::str::from_utf8(name).unwrap();
            let switches = websocket && (text == "connection" || text == "upgrade");
            assert!(switches || text == "transfer-encoding" || !is_hop_by_hop(name), "{text}");
            assert!(!is_forwarding(name), "{text}");
            if let Some(read) = with_hyphens(name) {
                let is_set = ["authorization", CLIENT_KEY, "x-extra"].iter().any(|set| read == set.as_bytes());
                assert!(!is_ours(&read) && !is_set, "{text}");
            }
            let ours = ["host", "authorization", "content-length", "transfer-encoding", MARK, "x-extra"];
            // One hop less is left of it; nothing else of an OPTIONS changes.
            let counts = head.method == Method::OPTIONS && text == "max-forwards";
            let said = theirs.text(text).and_then(|said| said.parse::<u32>().ok());
            if let (true, Some(left @ 1..)) = (counts, said) {
                assert!(values(out, text).iter().all(|value| *value == (left - 1).to_string().as_bytes()));
            } else if !switches && !ours.contains(&text) {
                let common = ["keep-alive", "close", "upgrade"].contains(&text);
                assert!(common || !theirs.lists("connection", text), "{text}");
                assert_eq!(values(out, text), values(theirs, text), "{text}");
            }
        }
    }
    answered(&head, route);
}

/// The same fields in an answer.
fn answered(head: &Request, route: &Route) {
    let lines = head.fields.iter().map(|(name, value)| [name, b": ", value, b"\r\n"].concat());
    let bytes = [b"HTTP/1.1 200 OK\r\n".to_vec(), lines.collect::<Vec<_>>().concat(), b"\r\n".to_vec()].concat();
    let bounds = Bounds { bytes: 1 << 20, fields: 1000 };
    let Ok(answer) = Answer::parse(bytes, bounds) else { return };
    let (chunked, mut out) = (answer.fields.has("transfer-encoding"), Vec::new());
    to_client(&answer, route, head, None, Framing { chunked: false, keeps: true }, &mut out);
    let out = Answer::parse(out, bounds).unwrap().fields;
    assert!(out.iter().all(|(name, _)| !is_hop_by_hop(name)));
    assert!(values(&out, "content-length").len() <= usize::from(!chunked));
}

/// How a lenient server reads a path: everything decoded, backslashes turned, parameters dropped, dots resolved.
fn leniently(path: &str) -> String {
    let bytes = path.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let code = path.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                decoded.push(code);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    let text = String::from_utf8_lossy(&decoded).replace('\\', "/");
    let mut segments = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

fn under(path: &str, prefix: &str) -> bool {
    path == prefix || path.starts_with(&format!("{prefix}/"))
}

/// What is judged is what is sent, and no reading of it leads elsewhere.
pub fn target(data: &[u8]) {
    let Some(head) = request(data) else { return };
    if check_form(&head, "http").is_err() || head.path() == "*" {
        return;
    }
    let Ok(host) = tokenbroker::door::host(&head) else { return };
    let Ok(Some(route)) = LISTENER.find(host.as_ref(), head.path()) else { return };
    if LISTENER.check_path(head.path()).is_err() || route.check_allowed(&head).is_err() {
        return;
    }
    let sent = route.target(&head);
    let path = sent.split('?').next().unwrap();
    let asked = head.target();
    assert!(!sent.bytes().any(|byte| byte <= b' ' || byte == 0x7f), "{sent:?}");
    match route.config.name.as_str() {
        "narrow" => {
            let rest = asked.strip_prefix("/api/v1").unwrap();
            assert_eq!(sent, format!("/base{rest}"));
            let read = leniently(path);
            assert!(under(&read, "/base/a") || under(&read, "/base/b/c"), "{sent:?} is read as {read:?}");
        }
        "whole" => {
            assert_eq!(sent, asked);
            assert!(under(&leniently(path), "/x"), "{sent:?}");
        }
        _ => assert_eq!(sent.strip_prefix('/').unwrap_or(&sent), asked.strip_prefix('/').unwrap_or(asked)),
    }
}

/// In no message, whatever the server says.
const SECRETS: [&str; 3] = ["the-client-secret-42", "the-password-43", "the-refresh-token-44"];

static DIALECTS: LazyLock<Vec<Dialect>> =
    LazyLock::new(|| BUILT_IN.iter().map(|(name, _)| built_in(name).unwrap()).collect());

fn inputs(dialect: &Dialect) -> Inputs {
    let [client_secret, password, refresh_token] = SECRETS.map(|secret| Some(Secret::new(secret.to_owned())));
    Inputs {
        url: Some("https://login.example/token".into()),
        base_url: dialect.base_url.clone(),
        client_id: Some("the-client".into()),
        client_secret,
        username: Some("somebody".into()),
        password,
        refresh_token,
        vars: dialect.vars.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect(),
        ..Inputs::new(
            dialect.grant.unwrap_or(Grant::ClientCredentials),
            dialect.client_auth.unwrap_or(ClientAuth::ClientSecretBasic),
        )
    }
}

fn is_told_well(error: &TokenError) {
    let told = error.to_string();
    assert!(!told.chars().any(char::is_control), "{told:?}");
    for secret in SECRETS {
        assert!(!told.contains(secret), "{told:?}");
    }
    assert!(error.vendor.as_ref().is_none_or(|vendor| vendor.chars().count() <= 201), "{told:?}");
}

/// Three bytes say which dialect, request and status; then a field a line, an empty line, and the body.
pub fn answer(data: &[u8]) {
    let Some(([dialect, op, status], rest)) = data.split_first_chunk() else { return };
    let dialect = &DIALECTS[usize::from(*dialect) % DIALECTS.len()];
    let op = [Op::Acquire, Op::Renew, Op::Exchange, Op::Revoke][usize::from(*op) % 4];
    let statuses = [200, 400, 401, 201, 204, 302, 403, 404, 429, 500, 502, 503];
    let status = StatusCode::from_u16(statuses[usize::from(*status) % statuses.len()]).unwrap();
    let at = rest.windows(2).position(|window| window == b"\n\n");
    let (fields, body) = at.map_or((&rest[..0], rest), |at| (&rest[..at], &rest[at + 2..]));
    let mut headers = HeaderMap::new();
    for line in fields.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(line[at + 1..].trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    let (reply, inputs) = (Reply { status, headers, body: body.to_vec() }, inputs(dialect));
    if op == Op::Revoke {
        let _ = response::done(dialect, op, &inputs, &reply, time()).inspect_err(is_told_well);
        return;
    }
    match response::read(dialect, op, &inputs, &reply, time()) {
        Ok(answer) => match answer.access {
            Ok(access) => {
                assert!(status.is_success() && !access.token.is_empty() && access.token.fits_a_header());
                let warning = access.warning.unwrap_or_default();
                assert!(!warning.chars().any(char::is_control), "{warning:?}");
            }
            Err(error) => is_told_well(&error),
        },
        Err(error) => is_told_well(&error),
    }
}

/// There is a configuration exactly if there is no problem, and every problem can be told.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (config, report) = config::check(Path::new(FILE), text, time());
    assert_eq!(config.is_some(), report.problems.is_empty());
    for problem in &report.problems {
        assert!(!report.line(problem).is_empty());
    }
}

static SEAL: LazyLock<Seal> = LazyLock::new(|| Seal::new(b"0123456789abcdef0123456789abcdef").unwrap());

/// Nothing opens that was not sealed; and what is read of an older or damaged record can be gone on with.
pub fn record(data: &[u8]) {
    assert!(matches!(SEAL.open("token.a", 1, data), Err(SealError::Damaged | SealError::Format)));
    let mut sealed = SEAL.seal("token.a", 1, data).unwrap();
    assert_eq!(*SEAL.open("token.a", 1, &sealed).unwrap(), data);
    let at = data.first().map_or(0, |byte| usize::from(*byte)) % sealed.len();
    sealed[at] ^= 1;
    assert!(SEAL.open("token.a", 1, &sealed).is_err());

    let now = Now { wall: time(), boot: Duration::from_secs(5000) };
    if let Some(kept) = Kept::read(data) {
        let again = serde_json::to_vec(&kept).unwrap();
        assert_eq!(serde_json::to_vec(&Kept::read(&again).unwrap()).unwrap(), again, "it is read as it was written");
        for same_boot in [true, false] {
            let mut kept = Kept::read(data).unwrap();
            let moment = |moment: Option<KeptMoment>| moment.map(|moment| moment.moment(same_boot, now));
            let due = moment(kept.access.as_ref().and_then(|access| access.due));
            let _ = (moment(kept.access.as_ref().and_then(|access| access.expires)), moment(kept.saved));
            let _ = kept.error.clone().map(|error| TokenError::from(error).to_string());
            let mut schedule = Schedule::new(policy());
            schedule.restore(&mut kept, due, same_boot, now);
            let wishes = Wishes { wanted: true, forced: false, suspect: false, mended: false };
            let _ = schedule.next(now, None, wishes);
            let _ = schedule.keep(now);
        }
    }
    if let Ok(record) = serde_json::from_slice::<rotation::Record>(data) {
        let mut rotation = Rotation::resume(rotation_policy(), record, fastrand::Rng::with_seed(1));
        let _ = rotation.next(time());
        let again = serde_json::to_vec(rotation.record()).unwrap();
        assert!(serde_json::from_slice::<rotation::Record>(&again).is_ok());
    }
}

fn policy() -> schedule::Policy {
    schedule::Policy {
        grant: Grant::Password,
        renews: true,
        refresh_at: 0.75,
        default_lifetime: Some(Duration::from_secs(300)),
        eager: true,
        rereads: false,
        secrets: 2,
        same_token: SameToken::Never,
        limit: Some(Budget { max: 5, per: Duration::from_secs(300) }),
        timeout: Duration::from_secs(10),
    }
}

fn rotation_policy() -> rotation::Policy {
    rotation::Policy {
        instance: "here".into(),
        current: None,
        slots: Some(2),
        lifetime: Duration::from_secs(90 * 86_400),
        grace: Duration::from_secs(86_400),
        times: 3,
        every: Duration::from_secs(10),
        settle: Duration::from_secs(30),
    }
}
