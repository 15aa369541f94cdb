use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;
use tokenbroker::standin::{Fault, OAuth2};

use crate::exchange::OAuth;
use crate::support::{ADMIN_KEY, Broker, Reply, Wire, exchange, has, write};

/// Every spelling in which a secret could come out: raw, in JSON, hexadecimal, URL-encoded (as little, as a form, or as much as can
/// be), and base64 at its three offsets.
pub fn spellings(secret: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::from([secret.to_owned()]);
    out.insert(serde_json::to_string(secret).unwrap().trim_matches('"').to_owned());
    out.insert(format!("{secret:?}").trim_matches('"').to_owned());
    let escaped: String = utf8_percent_encode(secret, NON_ALPHANUMERIC).collect();
    out.insert(secret.bytes().map(|byte| format!("%{byte:02X}")).collect());
    out.insert(secret.bytes().map(|byte| format!("%{byte:02x}")).collect());
    out.extend([utf8_percent_encode(secret, CONTROLS).collect(), escaped.to_lowercase(), escaped]);
    out.insert(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    out.insert(secret.bytes().map(|byte| format!("{byte:02X}")).collect());
    out.insert(form_urlencoded::byte_serialize(secret.as_bytes()).collect());
    for offset in 0..3 {
        for engine in [STANDARD, URL_SAFE] {
            let text = engine.encode(format!("{}{secret}", "\0".repeat(offset)));
            // Only the characters that depend on the secret alone.
            let from = (offset * 8).div_ceil(6);
            let to = ((offset + secret.len()) * 8) / 6;
            out.insert(text[from..to].to_owned());
        }
    }
    out
}

/// What is planted, and everything that could show it.
#[derive(Default)]
pub struct Scan {
    pub secrets: Vec<String>,
    pub seen: String,
}

impl Scan {
    pub fn look(&mut self, what: &str) {
        self.seen.push_str(what);
        self.seen.push('\n');
    }

    pub fn answer(&mut self, reply: &Reply) {
        self.look(&format!("{:?} {}", reply.headers, reply.text()));
    }

    #[track_caller]
    pub fn nothing_came_out(&self) {
        assert!(self.seen.len() > 10_000, "there was something to look at: {}", self.seen.len());
        for secret in &self.secrets {
            assert!(secret.len() >= 8, "too short to be looked for: {secret}");
            for spelling in spellings(secret) {
                if let Some(at) = self.seen.find(&spelling) {
                    let start = at.saturating_sub(300);
                    panic!(
                        "{secret} came out as {spelling}:\n{}",
                        String::from_utf8_lossy(&self.seen.as_bytes()[start..at + spelling.len()])
                    );
                }
            }
        }
    }
}

#[test]
fn no_log_at_trace_no_endpoint_no_error_and_no_metric_shows_a_planted_secret() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let directory = oauth.directory();
    for name in ["route-header", "param", "token-header", "password-file"] {
        write(directory.path(), name, format!("canary-{name}-7f3a9c"));
    }
    let token = "params = { extra = { file = \"param\" } }\nheaders = { X-Vendor-Key = { file = \"token-header\" } }";
    let route = "headers = { X-Route-Key = { file = \"route-header\" } }\naccept_origins = [\"https://app.example\"]";
    let broken = "[token.broken]\nurl = \"http://127.0.0.1:1/\"\ngrant = \"password\"\nclient_id = \"c\"\nclient_secret = \"canary-inline-7f3a9c\"\n\
                  username = \"u\"\npassword = { file = \"password-file\" }\n\
                  [route.broken]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://127.0.0.1:1\"\n";
    let config = format!("inspector = true\n{}{broken}", oauth.config(token, route));
    let broker = Broker::start_in(directory, &config, |command| {
        command.args(["--log-level", "trace"]).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    });
    broker.wait_for_state("api", "valid");
    let mut scan = Scan {
        secrets: ["route-header", "param", "token-header", "password-file", "inline"]
            .map(|name| format!("canary-{name}-7f3a9c"))
            .to_vec(),
        seen: String::new(),
    };
    scan.secrets.extend([OAuth2::CLIENT_SECRET.to_owned(), ADMIN_KEY.to_owned()]);
    scan.secrets.extend(["canary-query-7f3a9c", "canary-cookie-7f3a9c", "canary-own-credential"].map(str::to_owned));

    let theirs = [("Cookie", "a=canary-cookie-7f3a9c"), ("Authorization", "Bearer canary-own-credential")];
    let target = "/path?key=canary-query-7f3a9c";
    assert_eq!(broker.request("api", "POST", target, &theirs, b"body").status, 200);
    for (status, headers) in [(421, vec![("Host", "evil.example")]), (403, vec![("Origin", "https://evil.example")])] {
        let reply = broker.request("api", "GET", target, &[theirs[0], headers[0]], b"");
        assert!(reply.status == status || reply.status == 400);
        scan.answer(&reply);
    }
    scan.answer(&broker.request("api", "TRACE", target, &theirs, b""));
    scan.answer(&broker.request("broken", "GET", target, &theirs, b""));
    scan.look(&String::from_utf8_lossy(&exchange(
        broker.address("api"),
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nBad Name: x\r\n\r\n"),
    )));
    let echoing =
        format!(r#"{{"error":"e","error_description":"you sent {} and canary-param-7f3a9c"}}"#, OAuth2::CLIENT_SECRET);
    // Tokens in answers that are not understood.
    let body = |text: &str| Fault::Body(text.replace("TOKEN", "canary-body-token-7f3a9c").into());
    scan.secrets.push("canary-body-token-7f3a9c".into());
    for fault in [
        body("access_token=TOKEN&expires_in=3600"),
        body("\"TOKEN\""),
        body("TOKEN"),
        body("<input name=token value=TOKEN>"),
        body(r#"{"token":"TOKEN"}"#),
        body(r#"{"access_token":["TOKEN"]}"#),
        body(r#"{"access_token":"TO\u000aKEN TOKEN"}"#),
        body(r#"{"access_token":"TOKEN","expires_in":"TOKEN"}"#),
        body(r#"{"access_token":"TOKEN","token_type":"mac"}"#),
        Fault::Body(echoing.into()),
        Fault::Html,
        Fault::Redirect("https://x.invalid/?s=1".into()),
        Fault::Lost,
        Fault::Status(401, None),
    ] {
        oauth.oauth.faults.set(Some(fault), None);
        scan.answer(&broker.admin("POST", "/api/tokens/api/refresh"));
        scan.answer(&broker.admin("GET", "/readyz?verbose"));
    }
    oauth.oauth.faults.set(None, None);
    scan.answer(&broker.admin("GET", "/api/status"));
    scan.answer(&broker.admin("POST", "/api/tokens/api/refresh"));
    oauth.oauth.issuer.revoke_access_tokens();
    assert_eq!(broker.request("api", "GET", target, &theirs, b"").status, 200);
    for path in [
        "/livez",
        "/readyz",
        "/readyz?verbose",
        "/healthz",
        "/metrics",
        "/api/status",
        "/api/requests",
        "/",
        "/nothing",
        "/api/tokens/api/access_token",
    ] {
        scan.answer(&broker.admin("GET", path));
    }
    for seen in oauth.echo.seen() {
        let sent = seen.headers["authorization"].to_str().unwrap();
        scan.secrets.push(sent.strip_prefix("Bearer ").unwrap().to_owned());
        assert_eq!(seen.headers["x-route-key"], "canary-route-header-7f3a9c", "it did go where it should");
    }
    scan.look(&broker.log());
    let process = |name: &str| {
        let bytes = std::fs::read(format!("/proc/{}/{name}", broker.pid())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    for name in ["cmdline", "environ", "maps", "status"] {
        scan.look(&process(name));
    }
    scan.nothing_came_out();
    assert!(
        spellings("abc").contains("616263") && spellings("abc").contains("YWJj"),
        "the scanner knows its spellings"
    );
}

#[test]
fn a_secret_cannot_be_given_as_an_argument_and_one_in_the_environment_is_reported() {
    for argument in ["--client-secret", "--password", "--token"] {
        let (code, _, stderr) = crate::support::run_to_end("", &["run", argument, "geheimnis"]);
        assert_eq!(code, 2, "{stderr}");
    }
    let oauth = OAuth::start(Duration::from_secs(3600));
    let config = oauth.config("", "").replace("{ file = \"secret\" }", "{ env = \"API_SECRET\" }");
    let broker = Broker::start_in(oauth.directory(), &config, |command| {
        command.env("API_SECRET", OAuth2::CLIENT_SECRET);
    });
    assert_eq!(broker.get("api", "/").status, 200);
    broker.logs("a secret in the environment can be read in /proc");
}

#[test]
fn a_crash_leaves_no_core_file() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let directory = oauth.directory();
    let path = directory.path().to_owned();
    let mut broker = Broker::start_in(directory, &oauth.config("", ""), |command| {
        command.current_dir(&path);
    });
    broker.wait_for_state("api", "valid");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    // Rust's own handler for stack overflows takes the first one, and gives the signal its default back.
    for _ in 0..2 {
        broker.signal(Signal::SEGV);
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = broker.wait();
    assert_eq!((status.signal(), status.core_dumped()), (Some(Signal::SEGV.as_raw()), false));
    let left: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("core"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The same user, but not root, may neither attach nor read its environment.
#[test]
fn nobody_looks_into_the_process() {
    const USER: u32 = 65_532;
    if !has("root") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let owned = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
    owned(directory.path());
    let binary = directory.path().join("tokenbroker");
    std::fs::copy(env!("CARGO_BIN_EXE_tokenbroker"), &binary).unwrap();
    let config = "[admin]\nlisten = \"127.0.0.1:0\"\n\
                  [route.a]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://a.example\"\ntoken = false\n";
    let file = write(directory.path(), "t.toml", config);
    owned(&file);
    let mut child = Command::new(&binary);
    child.uid(USER).gid(USER).arg("-c").arg(&file).arg("run").stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"listening\"") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it listened");
    }
    let pid = child.id().to_string();
    let as_user = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).uid(USER).gid(USER).args(arguments).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    assert!(as_user("cat", &[&format!("/proc/{pid}/stat")]).0, "it is there");
    for name in ["environ", "mem", "maps"] {
        let (read, said) = as_user("cat", &[&format!("/proc/{pid}/{name}")]);
        assert!(!read && said.contains("Permission denied"), "{name}: {said}");
    }
    if has("gdb") {
        let (_, said) = as_user("gdb", &["-p", &pid, "-batch", "-ex", "info registers rip"]);
        assert!(said.contains("Operation not permitted") && !said.contains("rip "), "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_error_answer_never_carries_an_upstreams_or_a_vendors_words() {
    let oauth = OAuth::start(Duration::from_secs(3600));
    oauth
        .oauth
        .faults
        .set(Some(Fault::Body(br#"{"error":"invalid_client","error_description":"vendor words"}"#.to_vec())), None);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "rejected");
    let reply = broker.get("api", "/");
    assert_eq!(reply.status, 503);
    assert!(!reply.text().contains("vendor words"), "{}", reply.text());
    assert!(broker.token("api")["last_error"].as_str().unwrap().contains("vendor words"), "the operator sees them");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET /<script>alert(1)</script> HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(!String::from_utf8_lossy(&wire.rest()).contains("script"));
}
