use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenbroker::clock::Clock;
use tokenbroker::secret::Secret;
use tokenbroker::standin::demo::{Shown, Vendor};
use tokenbroker::standin::{Comap, Covata, Fault, Issuer, Netrex, Quirk};

use crate::exchange::OAuth;
use crate::store::{Home, STORE};
use crate::support::{
    ADMIN_KEY, Action, Broker, RUNTIME, Reply, Upstream, Wire, binary, call, eventually, run_to_end, write,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A vendor, its API, and the files of a configuration.
pub struct Site<V> {
    pub vendor: Arc<V>,
    shown: Shown,
    directory: TempDir,
    pub config: String,
}

/// As the client of this vendor, with a redirect URI that is registered there.
pub fn netrex(lifetime: Duration) -> Site<Netrex> {
    let mut site = Site::start(Netrex::new, lifetime);
    let redirect_uri = format!("http://127.0.0.1:{}/callback", free_port());
    site.vendor.register(&redirect_uri);
    site.config = format!(
        "{STORE}[token.cams]\ndialect = \"netrex\"\nbase_url = \"{}\"\nclient_id = \"{}\"\n\
         client_secret = {{ file = \"netrex_secret\" }}\nredirect_uri = \"{redirect_uri}\"\nscope = [\"read\", \"write\"]\n\
         [route.cams]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
        site.shown.auth.url(),
        Netrex::CLIENT_ID,
        site.shown.api.url(),
    );
    site
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl<V: Vendor> Site<V> {
    fn start(make: impl FnOnce(Arc<Issuer>) -> V, lifetime: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "store_key", "0123456789abcdef0123456789abcdef\n");
        let vendor = Arc::new(make(Arc::new(Issuer::new(Clock::system(), lifetime))));
        let shown = RUNTIME.block_on(Shown::start(directory.path(), &vendor, None)).unwrap();
        Self { vendor, shown, directory, config: String::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A broker with the files of this directory, which it leaves behind.
    pub fn broker(&self, adjust: impl FnOnce(&mut Command)) -> Broker {
        let inner = TempDir::with_prefix("broker").unwrap();
        for entry in std::fs::read_dir(self.directory.path()).unwrap() {
            let entry = entry.unwrap();
            std::os::unix::fs::symlink(entry.path(), inner.path().join(entry.file_name())).unwrap();
        }
        let kept = format!("path = \"{}\"", self.path("kept").display());
        Broker::start_in(inner, &self.config.replace("path = \"kept\"", &kept), adjust)
    }

    /// The configuration, where no broker runs.
    fn file(&self) -> PathBuf {
        write(self.directory.path(), "t.toml", format!("[admin]\nlisten = \"127.0.0.1:0\"\n{}", self.config))
    }

    /// A command without a running broker.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(binary().arg("-c").arg(self.file()).args(arguments))
    }
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A `login` at work.
struct Login {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it printed.
    url: String,
}

impl Login {
    fn start(command: &mut Command, arguments: &[&str]) -> Self {
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        stdout.read_line(&mut url).unwrap();
        Self { child, stdout, url: url.trim_end().to_owned() }
    }

    /// Beside a running broker.
    fn beside(broker: &Broker, arguments: &[&str]) -> Self {
        // Writes the file with the address of its operator's listener.
        broker.command(&["status"]);
        Self::start(binary().arg("-c").arg(broker.directory.path().join("operator.toml")), arguments)
    }

    fn query(&self, name: &str) -> Option<String> {
        let query = self.url.split_once('?').unwrap_or_else(|| panic!("{self:?}")).1;
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    /// Where the browser comes back to: address and path.
    fn callback(&self) -> (SocketAddr, String) {
        let uri: http::Uri = self.query("redirect_uri").unwrap().parse().unwrap();
        (uri.authority().unwrap().as_str().parse().unwrap(), uri.path().to_owned())
    }

    /// The browser's request.
    fn come_back(&self, query: &str) -> Reply {
        let (address, path) = self.callback();
        call(address, "GET", &format!("{path}?{query}"), &[], b"")
    }

    /// A callback with this state and what follows.
    fn with_state(&self, rest: &str) -> String {
        format!("state={}&{rest}", self.query("state").unwrap())
    }

    /// Exit status, the rest of stdout, stderr.
    fn end(mut self) -> (i32, String, String) {
        drop(self.child.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code().unwrap(), out, err)
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

/// A person at the login page: the query that the browser comes back with.
fn person(url: &str, user: (&str, &str), answer: &str) -> String {
    let uri: http::Uri = url.parse().unwrap();
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("username", user.0), ("password", user.1), ("answer", answer)])
        .finish();
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let address = uri.authority().unwrap().as_str().replace("localhost", "127.0.0.1").parse().unwrap();
    let target = uri.path_and_query().unwrap().as_str();
    let reply = call(address, "POST", target, &headers, form.as_bytes());
    assert_eq!(reply.status, 302, "{}", reply.text());
    reply.header("location").unwrap().split_once('?').unwrap().1.to_owned()
}

const VIEWER: (&str, &str) = (Netrex::USERNAME, Netrex::PASSWORD);

/// Somebody logs in, beside a running broker.
pub fn log_in(broker: &Broker) -> String {
    let login = Login::beside(broker, &["login", "cams"]);
    let back = person(&login.url, VIEWER, "allow");
    assert_eq!(login.come_back(&back).status, 200);
    let (code, _, stderr) = login.end();
    assert_eq!(code, 0, "{stderr}");
    back
}

#[test]
fn a_token_needs_a_login_serves_after_it_and_is_renewed_and_kept() {
    let site = netrex(Duration::from_secs(4));
    let broker = site.broker(|_| {});
    assert_eq!(broker.token("cams")["state"], "needs_login");
    let refused = broker.get("cams", "/");
    assert_eq!((refused.status, refused.code().as_str()), (503, "login_required"));
    assert_eq!(broker.admin("GET", "/readyz").status, 503);
    assert_eq!(site.vendor.asked("/oauth2/token"), 0, "nobody is asked before somebody logged in");
    log_in(&broker);
    assert_eq!(broker.get("cams", "/").status, 200);
    assert_eq!(broker.token("cams")["state"], "valid");
    let first = broker.token("cams")["fingerprint"].clone();
    eventually("it is renewed", || broker.token("cams")["fingerprint"] != first);
    let grants = |site: &Site<Netrex>| {
        let calls = site.vendor.seen().into_iter().filter(|call| call.uri.path() == "/oauth2/token");
        calls.map(|call| call.query().get("grant_type").unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(grants(&site)[..2], ["authorization_code", "refresh_token"]);
    drop(broker);
    let broker = site.broker(|_| {});
    eventually("the login outlives the broker", || broker.get("cams", "/").status == 200);
    assert_eq!(grants(&site).iter().filter(|grant| *grant == "authorization_code").count(), 1);
}

#[test]
fn access_for_one_time_ends_in_needs_login_and_not_in_a_loop() {
    let site = netrex(Duration::from_secs(3));
    site.vendor.faults.turn(Quirk::OneTime, true);
    let broker = site.broker(|_| {});
    log_in(&broker);
    assert_eq!((broker.token("cams")["state"].as_str(), broker.get("cams", "/").status), (Some("valid"), 200));
    let before = Instant::now();
    eventually("it ends", || broker.token("cams")["state"] != "valid");
    assert!(before.elapsed() > Duration::from_secs(1), "it serves to its end");
    broker.wait_for_state("cams", "needs_login");
    assert_eq!(broker.get("cams", "/").code(), "login_required");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(broker.get("cams", "/").code(), "login_required");
    assert_eq!(site.vendor.asked("/oauth2/token"), 1);
    log_in(&broker);
    assert_eq!(broker.get("cams", "/").status, 200, "another login is as good as the first");
}

#[test]
fn a_failed_login_leaves_the_token_as_it_was() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    log_in(&broker);
    let before = broker.token("cams")["fingerprint"].clone();
    let login = Login::beside(&broker, &["login", "cams"]);
    let back = person(&login.url, VIEWER, "allow");
    site.vendor.faults.set(Some(Fault::Status(503, None)), Some(1));
    assert_eq!(login.come_back(&back).status, 200);
    let (code, _, stderr) = login.end();
    assert!(code == 1 && stderr.contains("HTTP 503"), "{stderr}");
    let after = broker.token("cams");
    assert_eq!((&after["fingerprint"], &after["state"]), (&before, &json!("valid")));
    assert_eq!(broker.get("cams", "/").status, 200);
}

#[test]
fn a_wrong_state_a_wrong_host_and_a_wrong_path_are_refused_and_the_login_goes_on() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    let login = Login::beside(&broker, &["login", "cams"]);
    let (address, path) = login.callback();
    let good = login.with_state("code=x");
    for query in
        ["", "code=x", "state=&code=x", "state=x&code=x", &format!("{good}&state=x"), &format!("{good}&code=y")]
    {
        let reply = login.come_back(query);
        assert_eq!((reply.status, reply.header("cache-control")), (400, Some("no-store")), "{query}");
    }
    let ask = |method: &str, target: &str, host: &str| {
        let mut wire = Wire::open(address);
        wire.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        wire.reply(method).unwrap()
    };
    let target = format!("{path}?{good}");
    for host in ["evil.example", "127.0.0.1:1", "localhost", "127.0.0.1"] {
        let reply = ask("GET", &target, host);
        assert_eq!((reply.status, reply.header("cache-control")), (421, Some("no-store")), "{host}");
    }
    let host = address.to_string();
    assert_eq!(ask("GET", &format!("/other?{good}"), &host).status, 404);
    assert_eq!(ask("GET", &format!("{path}/?{good}"), &host).status, 404);
    assert_eq!(ask("POST", &target, &host).status, 405);
    assert_eq!(site.vendor.asked("/oauth2/token"), 0);
    let back = person(&login.url, VIEWER, "allow");
    let reply = login.come_back(&back);
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(login.end().0, 0);
}

#[test]
fn ten_thousand_wrong_states_send_no_token_request_and_end_nothing() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    let login = Login::beside(&broker, &["login", "cams"]);
    let (address, path) = login.callback();
    let mut wire = Wire::open(address);
    for n in 0..10_000 {
        wire.send(format!("GET {path}?state={n:064x}&code=x HTTP/1.1\r\nHost: {address}\r\n\r\n"));
        let reply = wire.reply("GET").unwrap();
        assert_eq!(reply.status, 400);
        if reply.header("connection") == Some("close") {
            wire = Wire::open(address);
        }
    }
    assert_eq!(site.vendor.asked("/oauth2/token"), 0);
    let back = person(&login.url, VIEWER, "allow");
    assert_eq!(login.come_back(&back).status, 200);
    assert_eq!(login.end().0, 0);
}

#[test]
fn a_code_comes_back_once() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    let login = Login::beside(&broker, &["login", "cams"]);
    let (address, path) = login.callback();
    let back = person(&login.url, VIEWER, "allow");
    assert_eq!(login.come_back(&back).status, 200);
    let again = std::net::TcpStream::connect(address).ok().map(|mut stream| {
        let _ = write!(stream, "GET {path}?{back} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    assert!(again.as_ref().is_none_or(|answer| answer.is_empty() || answer.contains(" 400 ")), "{again:?}");
    assert_eq!(login.end().0, 0);
    assert_eq!((site.vendor.asked("/oauth2/token"), site.vendor.codes.reused()), (1, 0));
}

#[test]
fn an_error_ends_the_login_with_its_word_and_a_code_beside_an_error_is_refused() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    let login = Login::beside(&broker, &["login", "cams"]);
    let back = person(&login.url, VIEWER, "deny");
    assert!(back.contains("error=access_denied"));
    login.come_back(&back);
    let (code, _, stderr) = login.end();
    assert!(code == 1 && stderr.contains("access_denied"), "{stderr}");
    let login = Login::beside(&broker, &["login", "cams"]);
    let both = login.with_state("code=x&error=access_denied");
    assert_eq!(login.come_back(&both).status, 400);
    let (code, _, stderr) = login.end();
    assert!(code == 1 && stderr.contains("both a code and an error"), "{stderr}");
    let login = Login::beside(&broker, &["login", "cams"]);
    let foreign = login.with_state("code=x&iss=https%3A%2F%2Fevil.example");
    assert_eq!(login.come_back(&foreign).status, 400);
    let (code, _, stderr) = login.end();
    assert!(code == 1 && stderr.contains("another server"), "{stderr}");
    assert_eq!(site.vendor.asked("/oauth2/token"), 0, "no token request");
    let login = Login::beside(&broker, &["login", "cams"]);
    let back = person(&login.url, VIEWER, "allow");
    let iss = form_urlencoded::byte_serialize(site.shown.auth.url().as_bytes()).collect::<String>();
    assert_eq!(login.come_back(&format!("{back}&iss={iss}")).status, 200, "the right one is");
    assert_eq!(login.end().0, 0);
}

#[test]
fn a_pasted_url_is_judged_as_the_listener_would() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    let mut login = Login::beside(&broker, &["login", "cams", "--paste"]);
    let (address, _) = login.callback();
    assert!(std::net::TcpStream::connect(address).is_err(), "nothing listens");
    let uri = login.query("redirect_uri").unwrap();
    let back = person(&login.url, VIEWER, "allow");
    let stdin = login.child.stdin.as_mut().unwrap();
    write!(stdin, "https://evil.example/?{back}\n{uri}?state=x&code=y\n\n{uri}?{back}\n").unwrap();
    let (code, stdout, stderr) = login.end();
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("logged in") && stderr.contains("the state is not"), "{stdout} {stderr}");
    assert_eq!(broker.get("cams", "/").status, 200);
    let (code, _, stderr) = Login::beside(&broker, &["login", "cams", "--paste"]).end();
    assert!(code == 1 && stderr.contains("no URL came"), "{stderr}");
}

#[test]
fn without_a_broker_the_login_goes_into_the_store_and_the_next_broker_has_it() {
    let mut site = netrex(HOUR);
    let login = Login::start(binary().arg("-c").arg(site.file()), &["login", "cams"]);
    let back = person(&login.url, VIEWER, "allow");
    assert_eq!(login.come_back(&back).status, 200);
    let (code, stdout, stderr) = login.end();
    assert_eq!((code, stdout.as_str()), (0, "cams: logged in\n"), "{stderr}");
    let broker = site.broker(|_| {});
    assert_eq!(broker.get("cams", "/").status, 200);
    assert_eq!(site.vendor.asked("/oauth2/token"), 1);
    drop(broker);
    site.config = site.config.replace(STORE, "");
    let (code, stdout, stderr) = site.run(&["login", "cams"]);
    assert!(code == 1 && stdout.is_empty() && stderr.contains("[store] kind = \"file\""), "{stderr}");
}

#[test]
fn a_login_is_proved_by_pkce_where_the_dialect_knows_it_and_begins_afresh_each_time() {
    let token = Upstream::start(|_| Action::ok(r#"{"access_token":"at-1","expires_in":3600,"refresh_token":"rt-1"}"#));
    let config = format!(
        "[token.api]\ngrant = \"authorization_code\"\nclient_auth = \"none\"\nclient_id = \"app\"\nurl = \"{0}/token\"\n\
         authorize_url = \"{0}/login?tenant=a\"\n[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{0}\"\n",
        token.url()
    );
    let broker = Broker::start(&config);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let login = Login::beside(&broker, &["login", "api"]);
        assert!(login.url.starts_with(&format!("{}/login?tenant=a&", token.url())), "{login:?}");
        assert_eq!(login.query("code_challenge_method").as_deref(), Some("S256"));
        let (state, challenge) = (login.query("state").unwrap(), login.query("code_challenge").unwrap());
        let redirect_uri = login.query("redirect_uri").unwrap();
        assert!(redirect_uri.starts_with("http://127.0.0.1:") && redirect_uri.ends_with("/callback"));
        let back = login.with_state("code=c%2F1");
        assert_eq!(login.come_back(&back).status, 200);
        assert_eq!(login.end().0, 0);
        let request = token.requests().pop().unwrap();
        let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
        let sent = |name: &str| form.iter().find(|(known, _)| known == name).unwrap().1.clone();
        assert_eq!((sent("code"), sent("redirect_uri")), ("c/1".to_owned(), redirect_uri));
        let verifier = sent("code_verifier");
        assert!((43..=128).contains(&verifier.len()), "{verifier}");
        assert_eq!(URL_SAFE_NO_PAD.encode(Secret::new(verifier.clone()).digest()), challenge);
        seen.extend([state, challenge, verifier]);
    }
    let number = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), number, "nothing is used twice");
}

#[test]
fn no_log_at_trace_shows_the_url_of_a_request_with_secrets_in_it() {
    let site = netrex(Duration::from_secs(3));
    let broker = site.broker(|command| {
        command.args(["--log-level", "trace"]).env("RUST_LOG", "trace");
    });
    let back = log_in(&broker);
    let code = form_urlencoded::parse(back.as_bytes()).find(|(name, _)| name == "code").unwrap().1.into_owned();
    let first = broker.token("cams")["fingerprint"].clone();
    eventually("it is renewed", || broker.token("cams")["fingerprint"] != first);
    let call = site.vendor.seen().into_iter().find(|call| call.query().get("refresh_token").is_some()).unwrap();
    let refresh = call.query().get("refresh_token").unwrap().to_owned();
    assert!(call.headers.get("referer").is_none());
    let log = broker.log();
    assert!(log.len() > 1000);
    for secret in [&code, &refresh, Netrex::CLIENT_SECRET, "/oauth2/token", ADMIN_KEY] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[test]
fn a_login_needs_the_admin_key_a_body_that_is_one_and_a_token_that_is_logged_in_for() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    let key = format!("Bearer {ADMIN_KEY}");
    let post =
        |target: &str, key: &str, body: &[u8]| broker.request("admin", "POST", target, &[("Authorization", key)], body);
    let body = json!({ "code": "x", "redirect_uri": "http://127.0.0.1:1/", "code_verifier": null }).to_string();
    assert_eq!(post("/api/login/cams", "Bearer x", body.as_bytes()).status, 401);
    assert_eq!(post("/api/login/nobody", &key, body.as_bytes()).code(), "no_route");
    for wrong in ["", "{}", "[]", "{\"code\":1}", "code=x"] {
        let reply = post("/api/login/cams", &key, wrong.as_bytes());
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"), "{wrong}");
    }
    let long = json!({ "code": "x".repeat(65536), "redirect_uri": "" }).to_string();
    assert_eq!(post("/api/login/cams", &key, long.as_bytes()).code(), "body_too_long");
    assert_eq!(broker.admin("GET", "/api/login/cams").status, 405);
    assert_eq!(site.vendor.asked("/oauth2/token"), 0);
    let dead = post("/api/login/cams", &key, body.as_bytes());
    assert_eq!(
        (dead.status, dead.code().as_str(), dead.header("cache-control")),
        (502, "login_failed", Some("no-store"))
    );
    assert!(dead.text().contains("log in again") && !dead.text().contains(Netrex::CLIENT_SECRET), "{}", dead.text());
}

#[test]
fn a_login_is_configured_with_a_page_and_a_place_to_come_back_to() {
    let check = |keys: &str| {
        let config = format!(
            "[token.api]\n{keys}\nclient_id = \"c\"\nclient_auth = \"none\"\nurl = \"https://a.example/t\"\n\
             [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://a.example\"\n"
        );
        run_to_end(&config, &["check"])
    };
    let login = "grant = \"authorization_code\"\nauthorize_url = \"https://a.example/login\"";
    for fine in [
        "http://127.0.0.1:8484/callback",
        "http://localhost:1/",
        "http://[::1]:8484/cb",
        "https://app.example/cb",
        "urn:ietf:wg:oauth:2.0:oob",
        "com.example.app:/cb",
    ] {
        let (code, _, stderr) = check(&format!("{login}\nredirect_uri = \"{fine}\""));
        assert_eq!(code, 0, "{fine}: {stderr}");
    }
    for (wrong, why) in [
        ("http://127.0.0.1/callback", "its port is missing"),
        ("http://app.example:80/cb", "unencrypted"),
        ("callback", "is not a URI"),
        ("http://127.0.0.1:1/c#d", "is not a URI"),
        ("http://127.0.0.1:1/c?d", "is not a usable URI"),
    ] {
        let (code, _, stderr) = check(&format!("{login}\nredirect_uri = \"{wrong}\""));
        assert!(code == 78 && stderr.contains("token.api.redirect_uri") && stderr.contains(why), "{wrong}: {stderr}");
    }
    let (code, _, stderr) = check("grant = \"authorization_code\"");
    assert!(code == 78 && stderr.contains("needs `authorize_url`"), "{stderr}");
    let (code, _, stderr) = check("redirect_uri = \"http://127.0.0.1:1/\"");
    assert!(code == 78 && stderr.contains("is not used by the grant client_credentials"), "{stderr}");
    let (code, _, stderr) = check("grant = \"authorization_code\"\nauthorize_url = \"http://a.example/login\"");
    assert!(code == 78 && stderr.contains("token.api.authorize_url"), "{stderr}");
    let (_, _, stderr) = check(login);
    assert!(stderr.contains("a login is lost at a restart"), "{stderr}");
    let (code, _, stderr) = run_to_end(
        "[token.api]\ngrant = \"static\"\naccess_token = \"t\"\n[route.api]\nlisten = \"127.0.0.1:0\"\n\
         upstream = \"https://a.example\"\n",
        &["login", "api"],
    );
    assert!(code == 1 && stderr.contains("the grant static"), "{stderr}");
}

#[test]
fn a_script_gets_a_token_from_the_broker_from_the_store_or_by_an_exchange() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "eager = false");
    let broker = home.broker();
    let (code, token, stderr) = broker.command(&["token", "api"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(oauth.oauth.issuer.is_good(token.trim_end()), "{token}");
    assert_eq!(broker.command(&["token", "api", "--header"]).1, format!("Authorization: Bearer {token}"));
    let (_, as_json, _) = broker.command(&["token", "api", "--json"]);
    let as_json: Value = serde_json::from_str(&as_json).unwrap();
    let expires_at = broker.token("api")["expires_at"].clone();
    assert_eq!(as_json, json!({ "access_token": token.trim_end(), "expires_at": expires_at }));
    let answer = broker.admin("POST", "/api/tokens/api/access_token");
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert_eq!(broker.admin("GET", "/api/tokens/api/access_token").status, 405);
    assert_eq!(broker.request("admin", "POST", "/api/tokens/api/access_token", &[], b"").status, 401);
    assert_eq!(oauth.oauth.issuer.issued(), 1, "one exchange for all of them");
    drop(broker);
    assert_eq!(home.run(&["token", "api"]).1, token, "that of the store");
    assert_eq!(oauth.oauth.issuer.issued(), 1);
    oauth.oauth.issuer.revoke_access_tokens();
    home.run(&["store", "forget", "token.api"]);
    let (code, another, stderr) = home.run(&["token", "api"]);
    assert!(code == 0 && another != token, "{stderr}");
    assert_eq!(home.run(&["token", "api"]).1, another, "what an exchange brought is kept");
    assert_eq!(oauth.oauth.issuer.issued(), 2);
    let mut home = home;
    home.config = home.config.replace(STORE, "");
    let (code, third, _) = home.run(&["token", "api"]);
    assert!(code == 0 && oauth.oauth.issuer.is_good(third.trim_end()), "without a store");
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), None);
    let (code, stdout, stderr) = home.run(&["token", "api"]);
    assert!(code == 1 && stdout.is_empty() && stderr.contains("client_rejected"), "{stderr}");
    let (code, _, stderr) = home.run(&["token", "nobody"]);
    assert!(code == 1 && stderr.contains("there are: api"), "{stderr}");
}

#[test]
fn a_token_that_nobody_logged_in_for_is_not_printed() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    let (code, stdout, stderr) = broker.command(&["token", "cams"]);
    assert!(code == 1 && stdout.is_empty() && stderr.contains("tokenbroker login cams"), "{stderr}");
    assert_eq!(broker.admin("POST", "/api/tokens/cams/access_token").code(), "login_required");
    drop(broker);
    let (code, stdout, stderr) = site.run(&["token", "cams"]);
    assert!(code == 1 && stdout.is_empty() && stderr.contains("tokenbroker login cams"), "{stderr}");
}

/// The revocations that the stand-in was asked for.
fn revocations(site: &Site<Netrex>) -> Vec<String> {
    let calls = site.vendor.seen().into_iter().filter(|call| call.uri.path() == "/oauth2/revoke");
    calls.map(|call| call.query().get("access_token").unwrap().to_owned()).collect()
}

#[test]
fn a_logout_ends_the_token_for_requests_at_once_and_at_the_vendor() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    log_in(&broker);
    assert_eq!(broker.get("cams", "/").status, 200);
    let (code, stdout, stderr) = broker.command(&["logout", "cams"]);
    assert_eq!((code, stdout.as_str()), (0, "cams: logged out, and revoked at the vendor\n"), "{stderr}");
    assert_eq!((revocations(&site).len(), revocations(&site)), (1, site.vendor.issuer.revoked()));
    assert_eq!(broker.get("cams", "/").code(), "login_required");
    let token = broker.token("cams");
    assert_eq!((&token["state"], &token["fingerprint"]), (&json!("needs_login"), &Value::Null));
    drop(broker);
    let broker = site.broker(|_| {});
    assert_eq!(broker.get("cams", "/").code(), "login_required", "nothing of it comes back");
    assert_eq!(site.vendor.asked("/oauth2/token"), 1);
    log_in(&broker);
    assert_eq!(broker.get("cams", "/").status, 200);
    drop(broker);
    let (code, stdout, stderr) = site.run(&["logout", "cams"]);
    assert_eq!((code, stdout.as_str()), (0, "cams: logged out, and revoked at the vendor\n"), "{stderr}");
    assert_eq!(site.vendor.issuer.revoked().len(), 2, "without a broker too");
    assert!(site.run(&["store", "list"]).1.contains("access token none, no refresh token"));
}

#[test]
fn a_revocation_that_fails_is_kept_and_tried_again_also_after_a_crash() {
    let site = netrex(HOUR);
    let broker = site.broker(|_| {});
    log_in(&broker);
    site.vendor.faults.set(Some(Fault::Status(503, None)), None);
    // A fault loses the answer, not what was done.
    let (code, stdout, stderr) = broker.command(&["logout", "cams"]);
    assert!(code == 0 && stdout.contains("the vendor was not told yet"), "{stdout}{stderr}");
    assert_eq!(broker.get("cams", "/").code(), "login_required");
    eventually("it is tried again", || revocations(&site).len() > 1);
    crate::store::kill(broker);
    let before = revocations(&site).len();
    let broker = site.broker(|_| {});
    eventually("the next broker tries again", || revocations(&site).len() > before);
    site.vendor.faults.set(None, None);
    eventually("until the vendor says what became of it", || {
        broker.log().contains("\"revoked\"") || broker.log().contains("not tried again")
    });
    let after = revocations(&site).len();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(revocations(&site).len(), after, "then no more");
    assert!(!broker.log().contains(&revocations(&site)[0]));
}

#[test]
fn a_logout_revokes_the_refresh_token_first_and_then_the_access_token() {
    let token = Upstream::start(|request| match request.line() {
        line if line.contains("/revoke") => Action::ok(""),
        _ => Action::ok(r#"{"access_token":"at-1","expires_in":3600,"refresh_token":"rt-1"}"#),
    });
    let config = format!(
        "[token.api]\ngrant = \"refresh_token\"\nclient_auth = \"none\"\nclient_id = \"app\"\nurl = \"{0}/token\"\n\
         refresh_token = \"rt-0\"\nREVOKE[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{0}\"\n",
        token.url()
    );
    let broker = Broker::start(&config.replace("REVOKE", &format!("revoke_url = \"{}/revoke\"\n", token.url())));
    broker.wait_for_state("api", "valid");
    let (code, stdout, stderr) = broker.command(&["logout", "api"]);
    assert!(code == 0 && stdout.contains("and revoked"), "{stderr}");
    let asked: Vec<_> =
        token.requests().iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
    assert_eq!(asked[1..], ["client_id=app&token=rt-1", "client_id=app&token=at-1"]);
    assert_eq!(broker.token("api")["state"], "needs_login");
    broker.admin("POST", "/api/tokens/api/refresh");
    assert_eq!(token.requests().len(), 3, "the configured one is given up, too");
    assert_eq!(broker.token("api")["state"], "needs_login");
    let broker = Broker::start(&config.replace("REVOKE", ""));
    broker.wait_for_state("api", "valid");
    let (_, stdout, _) = broker.command(&["logout", "api"]);
    assert!(stdout.contains("no request to revoke"), "{stdout}");
    let upstream = Upstream::ok();
    let broker = crate::support::with_static_token(&upstream, "");
    assert_eq!(broker.admin("POST", "/api/tokens/api/revoke").code(), "logout_refused");
    assert_eq!(broker.request("admin", "POST", "/api/tokens/api/revoke", &[], b"").status, 401);
}

/// An administrator of the service, as a token.
fn covata() -> Site<Covata> {
    let mut site = Site::start(Covata::new, HOUR);
    write(site.directory.path(), "admin_password", Covata::ADMIN_PASSWORD);
    site.config = format!(
        "{STORE}[token.share]\ndialect = \"covata\"\nbase_url = \"{}\"\nclient_id = \"{}\"\n\
         client_secret = {{ file = \"covata_secret\" }}\nusername = \"{}\"\npassword = {{ file = \"admin_password\" }}\n\
         [route.share]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
        site.shown.auth.url(),
        Covata::CLIENT_ID,
        Covata::ADMIN,
        site.shown.api.url(),
    );
    site
}

/// Exit status, stdout, stderr.
type Ended = (i32, String, String);

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

#[test]
fn client_applications_are_registered_listed_and_deleted_beside_a_broker_and_without_one() {
    let site = covata();
    let broker = site.broker(|_| {});
    broker.wait_for_state("share", "valid");
    let with_broker = |arguments: &[&str]| broker.command(arguments);
    let alone = |arguments: &[&str]| site.run(arguments);
    let mut kept = 0;
    let mut use_all = |run: &dyn Fn(&[&str]) -> Ended| {
        kept += 1;
        let file = site.path(&format!("new_secret_{kept}"));
        let to = file.to_str().unwrap();
        let (code, made, stderr) = run(&["client", "register", "share", "--name", "Second", "--secret-to", to]);
        assert_eq!(code, 0, "{stderr}");
        let made = lines(&made).remove(0);
        let there = site.vendor.clients().iter().find(|client| client["id"] == made["id"]).cloned().unwrap();
        assert_eq!(there["authorizedGrantTypes"], json!(["password", "refresh_token"]));
        assert_eq!(
            (&there["accessTokenValiditySeconds"], &there["refreshTokenValiditySeconds"]),
            (&json!(3600), &json!(2_592_000))
        );
        let secret = std::fs::read_to_string(&file).unwrap();
        assert_eq!(there["clientSecret"], secret.trim_end());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(made.get("client_secret").is_none() && secret.len() > 40);
        let (code, _, stderr) = run(&["client", "register", "share", "--name", "Third", "--secret-to", to]);
        assert!(code == 1 && stderr.contains("exists"), "{stderr}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), secret, "nobody's file is written over");
        let options = ["--id", "mine", "--grants", "password,implicit", "--redirect-uri", "https://a.example/1"];
        let more = ["--redirect-uri", "https://a.example/2", "--access-ttl", "10m", "--refresh-ttl", "7d"];
        let (code, other, stderr) =
            run(&[&["client", "register", "share", "--name", "Own"], &options[..], &more[..]].concat());
        assert_eq!(code, 0, "{stderr}");
        let other = lines(&other).remove(0);
        assert_eq!(other["client_id"], "mine");
        let there = site.vendor.clients().iter().find(|client| client["clientId"] == "mine").cloned().unwrap();
        assert_eq!(other["client_secret"], there["clientSecret"], "once, on stdout");
        assert_eq!(there["registeredRedirectUris"], json!(["https://a.example/1", "https://a.example/2"]));
        assert_eq!(
            (&there["accessTokenValiditySeconds"], &there["refreshTokenValiditySeconds"]),
            (&json!(600), &json!(604_800))
        );
        let (_, listed, _) = run(&["client", "list", "share"]);
        assert_eq!(lines(&listed).len(), 3);
        for hidden in [secret.trim_end(), Covata::CLIENT_SECRET, there["clientSecret"].as_str().unwrap()] {
            assert!(!listed.contains(hidden), "{listed}");
        }
        let (_, shown, _) = run(&["client", "list", "share", "--show-secrets"]);
        assert!(shown.contains(secret.trim_end()) && shown.contains(Covata::CLIENT_SECRET));
        let (_, sorted, _) =
            run(&["client", "list", "share", "--sort", "appName", "--desc", "--limit", "2", "--offset", "1"]);
        let names: Vec<_> = lines(&sorted).iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names, ["Own", "Acme Share"]);
        for id in [&made["id"], &other["id"]] {
            let (code, _, stderr) = run(&["client", "delete", "share", id.as_str().unwrap()]);
            assert_eq!(code, 0, "{stderr}");
        }
        assert_eq!(site.vendor.clients().len(), 1);
        let (code, _, stderr) = run(&["client", "delete", "share", "none"]);
        assert!(code == 1 && stderr.contains("no such client application"), "{stderr}");
    };
    use_all(&with_broker);
    let log = broker.log();
    assert!(!log.contains(std::fs::read_to_string(site.path("new_secret_1")).unwrap().trim_end()));
    drop(broker);
    use_all(&alone);
}

#[test]
fn a_list_asks_for_pages_until_it_has_all() {
    let site = covata();
    let client = site.vendor.clients()[0].clone();
    for n in 0..250 {
        let mut another = client.clone();
        another.insert("id".into(), format!("id-{n}").into());
        another.insert("clientId".into(), format!("client-{n}").into());
        site.vendor.clients().push(another);
    }
    let (code, listed, stderr) = site.run(&["client", "list", "share"]);
    assert_eq!((code, lines(&listed).len()), (0, 251), "{stderr}");
    let limits: Vec<_> = site
        .vendor
        .seen()
        .iter()
        .filter(|call| call.uri.path() == "/api/v1/clientapps")
        .map(|call| call.query().get("limit").unwrap().to_owned())
        .collect();
    assert_eq!(limits, ["100", "100", "100"]);
    assert_eq!(lines(&site.run(&["client", "list", "share", "--limit", "120", "--offset", "5"]).1).len(), 120);
}

#[test]
fn the_application_of_a_person_is_managed_with_that_persons_token_from_stdin() {
    let mut site = Site::start(Comap::new, HOUR);
    site.config = format!("{STORE}{}", site.shown.config);
    let person = site.vendor.users.access_token();
    let client = |arguments: &[&str], token: &str| {
        let arguments = [&["client"], arguments, &["--admin-token-stdin"]].concat();
        let mut command = binary();
        command.arg("-c").arg(site.file()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{token}").unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, listed, stderr) = client(&["list", "comap"], &person);
    assert_eq!((code, lines(&listed)), (0, vec![json!({ "client_id": Comap::CLIENT_ID })]), "{stderr}");
    let (code, _, stderr) = client(&["delete", "comap", "another"], &person);
    assert!(code == 1 && stderr.contains("there is no client application another"), "{stderr}");
    let (code, _, stderr) = client(&["delete", "comap", Comap::CLIENT_ID], &person);
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = client(&["list", "comap"], &person);
    assert!(code == 1 && stderr.contains("register one first"), "{stderr}");
    let (code, made, stderr) = client(&["register", "comap"], &person);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(lines(&client(&["list", "comap"], &person).1), lines(&made));
    let (code, _, stderr) = client(&["register", "comap", "--name", "x"], &person);
    assert!(code == 1 && stderr.contains("has no --name"), "{stderr}");
    let (code, _, stderr) = client(&["list", "comap"], "wrong-token-7f3a9c");
    assert!(code == 1 && stderr.contains("user_action") && !stderr.contains("7f3a9c"), "{stderr}");
    let (code, _, stderr) = client(&["list", "comap"], "");
    assert!(code == 1 && stderr.contains("no access token came on stdin"), "{stderr}");
    assert_eq!(site.vendor.asked("/identity/application/authenticate"), 0, "none of the budget is spent");
}
