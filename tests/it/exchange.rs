use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tempfile::TempDir;
use tokenbroker::clock::Clock;
use tokenbroker::standin::pki::{Clients, Files, Leaf, Pki};
use tokenbroker::standin::{Comodo, Echo, Fault, Issuer, OAuth2, Quirk, Server};

use crate::support::{Action, Broker, RUNTIME, Upstream, eventually, has, run_to_end, write};

const SERIAL: u64 = 0x1122_3344_5566_7788;

/// An OAuth 2 server and an API that takes its tokens.
pub struct OAuth {
    pub oauth: Arc<OAuth2>,
    pub echo: Arc<Echo>,
    pub server: Server,
    pub api: Server,
}

impl OAuth {
    pub fn start(lifetime: Duration) -> Self {
        let issuer = Arc::new(Issuer::new(Clock::system(), lifetime));
        let echo = Arc::new(Echo::new(Arc::clone(&issuer)));
        let oauth = Arc::new(OAuth2::new(issuer));
        let server = RUNTIME.block_on(Server::start(Arc::clone(&oauth), None)).unwrap();
        let api = RUNTIME.block_on(Server::start(Arc::clone(&echo), None)).unwrap();
        Self { oauth, echo, server, api }
    }

    pub fn config(&self, token: &str, route: &str) -> String {
        format!(
            "[token.api]\nurl = \"{}/token\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n{token}\n\
             [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n{route}\n",
            self.server.url(),
            OAuth2::CLIENT_ID,
            self.api.url(),
        )
    }

    pub fn directory(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "secret", OAuth2::CLIENT_SECRET);
        write(directory.path(), "password", OAuth2::PASSWORD);
        directory
    }

    pub fn broker(&self, token: &str, route: &str) -> Broker {
        Broker::start_in(self.directory(), &self.config(token, route), |_| {})
    }

    fn calls(&self) -> u64 {
        self.oauth.faults.calls()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_application_that_knows_nothing_of_tokens_gets_its_answers() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    let reply = broker.request("api", "POST", "/v1/things?x=1", &[("Content-Type", "text/plain")], b"hello");
    assert_eq!((reply.status, reply.json()["body"].as_str()), (200, Some("hello")));
    assert_eq!(reply.json()["target"], "/v1/things?x=1");
    let token = broker.token("api");
    assert_eq!(
        (token["state"].as_str(), token["dialect"].as_str(), token["attempts"].as_u64()),
        (Some("valid"), Some("oauth2"), Some(0))
    );
    assert_eq!(oauth.calls(), 1);
}

#[test]
fn what_a_dialect_sends_beside_the_token_reaches_the_api_and_no_client_can_change_it() {
    let oauth = OAuth::start(Duration::from_secs(60));
    let dialect =
        "[dialect.keyed]\nextends = \"oauth2\"\n[dialect.keyed.inject]\nheaders = { X-Key = \"{headers.X-Key}\" }";
    let token = "dialect = \"keyed\"\nheaders = { X-Key = { file = \"password\" } }";
    let broker = oauth.broker(token, dialect);
    let reply = broker.request("api", "GET", "/", &[("X-Key", "mine"), ("X_Key", "mine")], b"");
    assert_eq!((reply.status, reply.json()["headers"]["x-key"].as_str()), (200, Some(OAuth2::PASSWORD)));
    assert!(reply.json()["headers"].get("x_key").is_none());
}

#[test]
fn tokens_are_renewed_while_requests_go_on_and_none_is_refused() {
    for token in ["", "grant = \"password\"\nusername = \"alice\"\npassword = { file = \"password\" }"] {
        let oauth = OAuth::start(Duration::from_secs(2));
        let broker = oauth.broker(token, "retry_unauthorized = false");
        let began = Instant::now();
        let mut requests = 0;
        while oauth.oauth.issuer.issued() < 3 {
            assert_eq!(broker.get("api", "/").status, 200, "after {requests} requests");
            requests += 1;
            assert!(began.elapsed() < crate::support::PATIENCE);
        }
        assert!(requests > 10);
        assert!(oauth.calls() <= 2 + began.elapsed().as_secs());
    }
}

/// Every way in which a token server can answer wrongly, and a word of the reason that has to be given.
fn wrong_answers() -> Vec<(Fault, &'static str)> {
    let body = |text: &str| Fault::Body(text.into());
    let utf16: Vec<u8> = r#"{"access_token":"t"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        (Fault::Html, "is not JSON"),
        (Fault::Empty, "is empty"),
        (Fault::Status(204, None), "is empty"),
        (Fault::Huge, "larger than 256 KiB"),
        (Fault::Drip, "within 0.5 s"),
        (Fault::Slow(HOUR), "within 0.5 s"),
        (Fault::Status(500, None), "HTTP 500"),
        (Fault::Status(429, Some(7)), "rate_limited"),
        (Fault::Lost, "cut off"),
        (body(r#"{"access_token":"t"#), "is not JSON"),
        (body("\u{feff}{\"access_token\":\"t\"}"), "is not JSON"),
        (Fault::Body(utf16), "is not JSON"),
        (Fault::Body(b"\x1f\x8b\x08\x00\x00".to_vec()), "is not JSON"),
        (body("{}"), "no access token"),
        (body(r#"{"error":"bad_verification_code"}"#), "bad_verification_code"),
        (body(r#"{"error":"Error message"}"#), "Error message"),
        (body(r#"{"access_token":"a\r\nX-Evil: 1"}"#), "no header may have"),
        (body(r#"{"access_token":"t","token_type":"mac"}"#), "type mac"),
    ]
}

#[test]
fn whatever_a_token_server_answers_the_old_token_stays_and_the_reason_is_told() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("timeout = \"500ms\"", "");
    assert_eq!(broker.get("api", "/").status, 200);
    let fingerprint = broker.token("api")["fingerprint"].clone();
    for (fault, reason) in wrong_answers() {
        oauth.oauth.faults.set(Some(fault.clone()), None);
        let before = oauth.calls();
        let began = Instant::now();
        let reply = broker.admin("POST", "/api/tokens/api/refresh");
        assert!(began.elapsed() < Duration::from_secs(5), "{fault:?}");
        let token = reply.json();
        let error = token["last_error"].as_str().unwrap_or_default().to_owned();
        assert_eq!((reply.status, token["state"].as_str()), (502, Some("degraded")), "{fault:?}: {error}");
        assert!(error.contains(reason), "{fault:?}: {error}");
        assert!(error.starts_with(token["class"].as_str().unwrap()), "{error}");
        let logged = serde_json::to_string(&error).unwrap();
        eventually("the same in the log", || broker.log().contains(&logged));
        assert_eq!(token["fingerprint"], fingerprint);
        assert_eq!(broker.get("api", "/").status, 200, "served with the old token");
        assert!(oauth.calls() - before <= 3, "{fault:?}");
    }
    oauth.oauth.faults.set(None, None);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    assert_eq!(broker.token("api")["state"], "valid");
}

#[test]
fn lifetimes_that_make_no_sense_become_the_default_and_cause_no_storm() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("default_lifetime = \"7m\"", "");
    broker.wait_for_state("api", "valid");
    let mut warned = 0;
    for value in ["0", "-1", "null", "1e308", "9e15", "\"soon\""] {
        let token = oauth.oauth.issuer.access_token();
        let body = format!(r#"{{"access_token":"{token}","expires_in":{value}}}"#);
        oauth.oauth.faults.set(Some(Fault::Body(body.into())), None);
        let before = oauth.calls();
        let reply = broker.admin("POST", "/api/tokens/api/refresh");
        assert_eq!(reply.status, 200, "{value}");
        let token = reply.json();
        let at = |key: &str| token[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let lifetime = at("expires_at").duration_since(at("obtained_at")).as_secs();
        assert_eq!(lifetime, 420, "{value}");
        assert_eq!(broker.get("api", "/").status, 200);
        assert!(oauth.calls() - before <= 1, "{value}");
        warned += usize::from(value != "null");
        let warnings = || broker.log().matches("using default_lifetime instead").count();
        eventually("a warning for each", || warnings() == warned);
    }
}

#[test]
fn a_huge_answer_is_not_read_into_memory() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Huge), None);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "expired");
    let status = || std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let peak = || {
        let text = status();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // The program's own pages that this needs are there after the first.
    broker.admin("POST", "/api/tokens/api/refresh");
    let before = peak();
    for _ in 0..5 {
        broker.admin("POST", "/api/tokens/api/refresh");
    }
    assert!(peak() - before < 1024, "{} KiB", peak() - before);
}

#[test]
fn redirects_of_a_token_server_are_never_followed() {
    let oauth = OAuth::start(HOUR);
    let elsewhere = Upstream::ok();
    let target = Upstream::start({
        let to = elsewhere.url();
        move |request| {
            let status = request.line().split('/').nth(1).unwrap().split(' ').next().unwrap().to_owned();
            Action::Reply(
                format!("HTTP/1.1 {status} R\r\nLocation: {to}/secret?q\r\nContent-Length: 0\r\n\r\n").into_bytes(),
            )
        }
    });
    for status in [301, 302, 303, 307, 308] {
        let config = oauth
            .config("", "")
            .replace(&format!("{}/token", oauth.server.url()), &format!("{}/{status}", target.url()));
        let broker = Broker::start_in(oauth.directory(), &config, |_| {});
        broker.wait_for_state("api", "expired");
        let error = broker.token("api")["last_error"].as_str().unwrap().to_owned();
        let named = format!("redirects to {} (HTTP {status}), which is never followed", elsewhere.url());
        assert!(error.starts_with("transient") && error.contains(&named), "{error}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn without_a_usable_token_requests_get_503_with_the_time_of_the_next_attempt_and_nothing_is_forwarded() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(503, None)), None);
    let broker = oauth.broker("", "");
    for _ in 0..20 {
        let began = Instant::now();
        let reply = broker.get("api", "/");
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!((reply.status, reply.code().as_str()), (503, "token_unavailable"));
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        assert!(reply.header("proxy-status").unwrap().starts_with("tokenbroker; error="));
        assert_eq!(reply.header("www-authenticate"), None);
    }
    assert!(oauth.echo.seen().is_empty(), "never without a token");
    oauth.oauth.faults.set(None, None);
    eventually("the server is back", || broker.get("api", "/").status == 200);
}

#[test]
fn refused_credentials_and_a_needed_login_are_told_apart() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    write(directory.path(), "secret", "wrong");
    let broker = Broker::start_in(directory, &oauth.config("", ""), |_| {});
    broker.wait_for_state("api", "rejected");
    let reply = broker.get("api", "/");
    assert_eq!((reply.status, reply.code().as_str()), (503, "credentials_rejected"));
    let error = broker.token("api")["last_error"].as_str().unwrap().to_owned();
    assert_eq!(
        error,
        "client_rejected: localhost: the token server refused the request for a token (HTTP 401, invalid_client); \
         check client_id and client_secret, and whether client_auth is the one the server expects"
    );
    assert_eq!(oauth.calls(), 1, "not hammered");
    write(broker.directory.path(), "secret", OAuth2::CLIENT_SECRET);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200, "the new file is read");

    let directory = oauth.directory();
    write(directory.path(), "password", "wrong");
    let password = "grant = \"password\"\nusername = \"alice\"\npassword = { file = \"password\" }";
    let broker = Broker::start_in(directory, &oauth.config(password, ""), |_| {});
    broker.wait_for_state("api", "needs_login");
    let reply = broker.get("api", "/");
    assert_eq!((reply.status, reply.code().as_str()), (503, "login_required"));
    assert!(oauth.echo.seen().is_empty());
}

#[test]
fn proxy_variables_of_the_environment_are_ignored() {
    let oauth = OAuth::start(HOUR);
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let url = format!("http://{}", trap.local_addr().unwrap());
    let broker = Broker::start_in(oauth.directory(), &oauth.config("", ""), |command| {
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env(name, &url);
        }
    });
    assert_eq!(broker.get("api", "/").status, 200);
    assert!(trap.accept().is_err(), "nobody came");
}

#[test]
fn a_401_of_the_api_costs_one_refresh_and_one_replay_whatever_the_method() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    for method in ["GET", "POST", "DELETE", "PROPFIND"] {
        let oauth_two = OAuth::start(HOUR);
        let broker = oauth_two.broker("", "");
        assert_eq!(broker.get("api", "/").status, 200);
        oauth_two.oauth.issuer.revoke_access_tokens();
        let body: &[u8] = if method == "GET" { b"" } else { b"the body" };
        let reply = broker.request("api", method, "/x", &[], body);
        assert_eq!((reply.status, reply.json()["body"].as_str().unwrap().as_bytes()), (200, body), "{method}");
        assert_eq!(oauth_two.calls(), 2);
        let seen = oauth_two.echo.seen();
        assert_eq!(seen.len(), 3, "once refused, once replayed");
        assert_eq!((seen[1].body.as_ref(), seen[2].body.as_ref()), (body, body));
        assert_ne!(seen[1].headers["authorization"], seen[2].headers["authorization"]);
    }
    assert_eq!(broker.get("api", "/").status, 200);
    oauth.oauth.issuer.revoke_access_tokens();
    let large = vec![b'x'; 70_000];
    let reply = broker.request("api", "POST", "/", &[], &large);
    assert_eq!(
        (reply.status, reply.header("www-authenticate")),
        (401, Some("Bearer error=\"invalid_token\"")),
        "too large to be held"
    );
    assert_eq!(broker.request("api", "POST", "/", &[], &large).status, 200, "but the token was refreshed");
}

#[test]
fn an_api_that_always_says_401_causes_two_refreshes_a_minute_and_its_own_401_passes() {
    let oauth = OAuth::start(HOUR);
    let api = Upstream::start(|_| {
        Action::Reply(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"x\"\r\nContent-Length: 4\r\n\r\nnope"
                .to_vec(),
        )
    });
    let config = oauth.config("", "").replace(&oauth.api.url(), &api.url());
    let broker = Broker::start_in(oauth.directory(), &config, |_| {});
    for _ in 0..200 {
        let reply = broker.get("api", "/");
        assert_eq!(
            (reply.status, reply.text().as_str(), reply.header("www-authenticate")),
            (401, "nope", Some("Bearer realm=\"x\""))
        );
    }
    assert_eq!(oauth.calls(), 3, "the first token, and two for the refusals");
    let metrics = broker.admin("GET", "/metrics").text();
    assert!(
        metrics.contains("tokenbroker_requests_total{route=\"api\",status_class=\"4xx\",origin=\"upstream\"} 200"),
        "{metrics}"
    );
}

#[test]
fn other_refusals_of_the_api_never_cause_a_refresh() {
    let oauth = OAuth::start(HOUR);
    let api =
        Upstream::start(|request| Action::status(&request.line().split(' ').nth(1).unwrap()[1..].replace('-', " ")));
    let config = oauth.config("", "").replace(&oauth.api.url(), &api.url());
    let broker = Broker::start_in(oauth.directory(), &config, |_| {});
    for status in ["400-Bad", "403-Forbidden", "407-Proxy", "429-Many", "500-Oops"] {
        let reply = broker.get("api", &format!("/{status}"));
        assert_eq!(reply.status.to_string(), status[..3]);
    }
    assert_eq!((oauth.calls(), api.requests().len()), (1, 5));
}

/// Comodo One, and an API that takes its tokens and wants the same client certificate.
pub struct ComodoOne {
    pub directory: TempDir,
    pki: Pki,
    server_files: Files,
    comodo: Arc<Comodo>,
    pub echo: Arc<Echo>,
    pub api: Server,
}

impl ComodoOne {
    pub fn new(lifetime: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path()).unwrap();
        let server_files = pki.issue(&Leaf::server("server")).unwrap();
        pki.issue(&Leaf::client("client", SERIAL)).unwrap();
        write(directory.path(), "secret", Comodo::CLIENT_SECRET);
        write(directory.path(), "password", Comodo::PASSWORD);
        let issuer = Arc::new(Issuer::new(Clock::system(), lifetime));
        let echo = Arc::new(Echo::new(Arc::clone(&issuer)));
        let tls = pki.server_config(&server_files, Clients::Must).unwrap();
        let api = RUNTIME.block_on(Server::start(Arc::clone(&echo), Some(tls))).unwrap();
        let comodo = Arc::new(Comodo::new(issuer, "11:22:33:44:55:66:77:88"));
        Self { directory, pki, server_files, comodo, echo, api }
    }

    fn server(&self, clients: Clients) -> Server {
        let tls = self.pki.server_config(&self.server_files, clients).unwrap();
        RUNTIME.block_on(Server::start(Arc::clone(&self.comodo), Some(tls))).unwrap()
    }

    fn config(&self, server: &Server, identity: &str) -> String {
        format!(
            "[identity.me]\ncert = \"{identity}.pem\"\nkey = \"{identity}.key\"\n\
             [token.c1]\ndialect = \"comodo-one\"\nbase_url = \"{}\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n\
             username = \"{}\"\npassword = {{ file = \"password\" }}\nidentity = \"me\"\nca = \"ca.pem\"\nroots = \"ca\"\n\
             [route.c1]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\nidentity = \"me\"\nca = \"ca.pem\"\nroots = \"ca\"\n",
            server.url(),
            Comodo::CLIENT_ID,
            Comodo::USERNAME,
            self.api.url(),
        )
    }

    /// The broker takes the directory with it.
    fn broker(self, config: &str) -> (Broker, Arc<Comodo>, Arc<Echo>, Server) {
        (Broker::start_in(self.directory, config, |_| {}), self.comodo, self.echo, self.api)
    }
}

#[test]
fn comodo_one_logs_in_with_its_certificate_and_renews_before_both_expiries() {
    for milliseconds in [false, true] {
        let fixture = ComodoOne::new(Duration::from_secs(2));
        fixture.comodo.faults.turn(Quirk::Milliseconds, milliseconds);
        let server = fixture.server(Clients::Must);
        let config = fixture.config(&server, "client");
        let (broker, comodo, echo, _api) = fixture.broker(&config);
        broker.wait_for_state("c1", "valid");
        assert_eq!(broker.get("c1", "/x").status, 200);
        assert!(echo.seen()[0].certificate.is_some(), "the API, too, saw the certificate");
        eventually("two renewals", || {
            assert_eq!(broker.get("c1", "/").status, 200);
            comodo.issuer.issued() >= 3
        });
        eventually("the log tells", || broker.log().matches("\"by\":\"Renew\"").count() >= 2);
        assert_eq!(broker.log().matches("\"by\":\"Acquire\"").count(), 1, "one login");
        let token = broker.token("c1");
        let at = |key: &str| token[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let week = at("refresh_expires_at").duration_since(at("obtained_at")).as_hours();
        assert!((167..=168).contains(&week), "{token}");
        assert_eq!(token["certificate_expires_at"], "2099-01-01T00:00:00.000Z");
    }
}

#[test]
fn a_refresh_token_that_comodo_refuses_leads_to_a_new_login() {
    let fixture = ComodoOne::new(HOUR);
    let server = fixture.server(Clients::Must);
    let config = fixture.config(&server, "client");
    let (broker, comodo, _echo, _api) = fixture.broker(&config);
    broker.wait_for_state("c1", "valid");
    comodo.issuer.forget_refresh_tokens();
    let before = comodo.faults.calls();
    assert_eq!(broker.admin("POST", "/api/tokens/c1/refresh").status, 200);
    assert_eq!(comodo.faults.calls() - before, 2, "a refused renewal, a login");
    assert_eq!(broker.token("c1")["state"], "valid");
}

#[test]
fn a_certificate_that_comodo_does_not_know_is_named_so_that_it_can_be_sent_to_them() {
    for (clients, plain) in [(Clients::May, false), (Clients::May, true), (Clients::Must, false)] {
        let fixture = ComodoOne::new(HOUR);
        fixture.comodo.faults.turn(Quirk::PlainErrors, plain);
        let server = fixture.server(clients);
        let identity = if clients == Clients::Must {
            // Of another CA: refused by an alert, which TLS 1.3 shows only when the answer is read.
            let other = tempfile::tempdir().unwrap();
            let files = Pki::new(other.path()).unwrap().issue(&Leaf::client("other", 7)).unwrap();
            for (from, to) in [(&files.cert, "other.pem"), (&files.key, "other.key")] {
                write(fixture.directory.path(), to, std::fs::read(from).unwrap());
            }
            "other"
        } else {
            fixture.pki.issue(&Leaf::client("unknown", 0x0102)).unwrap();
            "unknown"
        };
        let config = fixture.config(&server, identity);
        let (broker, comodo, ..) = fixture.broker(&config);
        broker.wait_for_state("c1", "rejected");
        let token = broker.token("c1");
        let error = token["last_error"].as_str().unwrap();
        assert_eq!(token["class"], "user_action", "{error}");
        assert!(error.contains(&format!("[identity.me], subject CN={identity}")), "{error}");
        assert!(error.contains("serial ") && error.contains("to 2099-01-01T00:00:00Z"), "{error}");
        assert!(comodo.faults.calls() <= 1);
        assert_eq!(broker.get("c1", "/").code(), "credentials_rejected");
    }
}

#[test]
fn comodos_words_for_a_wrong_password_are_understood_and_no_request_causes_another_try() {
    let fixture = ComodoOne::new(HOUR);
    write(fixture.directory.path(), "password", "wrong");
    let server = fixture.server(Clients::Must);
    let config = fixture.config(&server, "client");
    let (broker, comodo, ..) = fixture.broker(&config);
    broker.wait_for_state("c1", "rejected");
    let error = broker.token("c1")["last_error"].as_str().unwrap().to_owned();
    assert!(
        error.starts_with("client_rejected") && error.ends_with("The server says: Username or passsword is incorrect"),
        "{error}"
    );
    for _ in 0..20 {
        assert_eq!(broker.get("c1", "/").code(), "credentials_rejected");
    }
    assert_eq!(comodo.faults.calls(), 1, "requests cause no further try");
}

#[test]
fn whoever_demands_a_client_certificate_where_none_is_configured_is_named_with_what_to_do() {
    let fixture = ComodoOne::new(HOUR);
    let oauth = OAuth::start(HOUR);
    let demanding = fixture.server(Clients::Must);
    let config = format!(
        "[token.t]\nurl = \"{}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\nca = \"ca.pem\"\n\
         [route.t]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:1\"\n\
         [token.fine]\nurl = \"{}/token\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"fine\" }}\n\
         [route.fine]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\nca = \"ca.pem\"\n",
        demanding.url(),
        oauth.server.url(),
        OAuth2::CLIENT_ID,
        fixture.api.url(),
    );
    write(fixture.directory.path(), "fine", OAuth2::CLIENT_SECRET);
    let broker = Broker::start_in(fixture.directory, &config, |_| {});
    let words = "no TLS with localhost: it demands a client certificate (alert CertificateRequired), and none is \
                 configured; set `identity`";
    broker.wait_for_state("t", "rejected");
    let error = broker.token("t")["last_error"].as_str().unwrap().to_owned();
    assert_eq!(error, format!("user_action: {words}"));
    broker.wait_for_state("fine", "valid");
    for _ in 0..5 {
        let reply = broker.get("fine", "/");
        assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_tls"));
    }
    eventually("it is told", || broker.log().contains(words));
    let warnings = broker.log().lines().filter(|line| line.contains("WARN") && line.contains("upstream_tls")).count();
    assert_eq!(warnings, 1, "once, not with each request");
}

#[test]
fn a_log_tells_when_an_api_begins_to_fail_and_when_it_answers_again() {
    let oauth = OAuth::start(HOUR);
    let address = std::net::TcpListener::bind(("127.0.0.1", crate::door::free_port())).unwrap().local_addr().unwrap();
    let config = oauth.config("", "").replace(&oauth.api.url(), &format!("http://{address}"));
    let broker = Broker::start_in(oauth.directory(), &config, |_| {});
    let count = |what: &str| broker.log().matches(what).count();
    for round in 1..=2 {
        for _ in 0..3 {
            assert_eq!(broker.get("api", "/").code(), "upstream_unreachable");
        }
        let listener = std::net::TcpListener::bind(address).unwrap();
        let serving = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        });
        assert_eq!(broker.get("api", "/").status, 204);
        serving.join().unwrap();
        eventually("both are told once", || {
            count("answered by the broker, and so are the next ones") == round && count("answers again") == round
        });
    }
}

#[test]
fn token_servers_with_certificates_that_do_not_hold_are_refused_with_what_to_do() {
    let fixture = ComodoOne::new(HOUR);
    let serve = |leaf: &Leaf<'_>| {
        let files = fixture.pki.issue(leaf).unwrap();
        let tls = fixture.pki.server_config(&files, Clients::None).unwrap();
        RUNTIME.block_on(Server::start(Arc::clone(&fixture.comodo), Some(tls))).unwrap()
    };
    let expired = serve(&Leaf { years: (2000, 2001), ..Leaf::server("expired") });
    let other_name = serve(&Leaf { hosts: &["other.example"], ..Leaf::server("other-name") });
    let unknown_ca = serve(&Leaf::server("fine"));
    let token = |name: &str, server: &Server, ca: &str| {
        format!(
            "[token.{name}]\nurl = \"{}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n{ca}\n\
             [route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:1\"\n",
            server.url()
        )
    };
    let ours = "ca = \"ca.pem\"";
    let config = [
        token("expired", &expired, ours),
        token("name", &other_name, ours),
        token("named", &other_name, "ca = \"ca.pem\"\nserver_name = \"other.example\""),
        token("ca", &unknown_ca, ""),
    ]
    .concat();
    let comodo = Arc::clone(&fixture.comodo);
    let broker = Broker::start_in(fixture.directory, &config, |_| {});
    for (name, said) in [("expired", "Expired"), ("name", "set `server_name`"), ("ca", "name its CA with `ca`")] {
        broker.wait_for_state(name, "expired");
        let error = broker.token(name)["last_error"].as_str().unwrap().to_owned();
        assert!(
            error.contains("no TLS with localhost") && error.to_lowercase().contains(&said.to_lowercase()),
            "{name}: {error}"
        );
    }
    eventually("the named one was reached", || broker.token("named")["last_error"].is_string());
    assert!(!broker.token("named")["last_error"].as_str().unwrap().contains("TLS"));
    assert!(comodo.faults.calls() >= 1);
}

#[test]
fn old_tls_and_old_signatures_are_refused() {
    if !has("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(directory.path()).stderr(Stdio::null());
        command
    };
    let made = run("req -x509 -newkey rsa:2048 -nodes -sha1 -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout k.pem -out sha1.pem").status();
    assert!(made.unwrap().success());
    let mut servers = Vec::new();
    let mut config = String::new();
    for (name, options) in [("old", "-tls1_1 -cipher ALL:@SECLEVEL=0"), ("sha1", "-tls1_2")] {
        let port = crate::door::free_port();
        let child = run(&format!("s_server -accept {port} -cert sha1.pem -key k.pem -quiet {options}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        servers.push(child);
        eventually("s_server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        config += &format!(
            "[token.{name}]\nurl = \"https://localhost:{port}/\"\nclient_id = \"c\"\nclient_secret = \"s\"\nca = \"sha1.pem\"\n\
             [route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:1\"\n"
        );
    }
    let broker = Broker::start_in(directory, &config, |_| {});
    for name in ["old", "sha1"] {
        broker.wait_for_state(name, "expired");
        let error = broker.token(name)["last_error"].as_str().unwrap().to_owned();
        assert!(error.contains("no TLS with localhost"), "{name}: {error}");
    }
    for mut server in servers {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

#[test]
fn identities_that_cannot_work_are_named_with_subject_serial_and_dates_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let pki = Pki::new(path).unwrap();
    pki.issue(&Leaf::client("good", 0xABCD)).unwrap();
    pki.issue(&Leaf { years: (2019, 2020), ..Leaf::client("expired", 2) }).unwrap();
    pki.issue(&Leaf { years: (2090, 2091), ..Leaf::client("early", 3) }).unwrap();
    write(path, "garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    write(path, "cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    write(path, "empty.pem", "");
    write(path, "encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    write(path, "broken.key", "-----BEGIN PRIVATE KEY-----\n!!secret-bytes!!\n-----END PRIVATE KEY-----\n");
    write(path, "open.key", std::fs::read(path.join("good.key")).unwrap());
    std::fs::set_permissions(path.join("open.key"), PermissionsExt::from_mode(0o666)).unwrap();
    let said = |cert: &str, key: &str| {
        let config = format!(
            "[identity.me]\ncert = \"{cert}\"\nkey = \"{key}\"\n[route.r]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://a.example\"\ntoken = false\nidentity = \"me\"\n",
        );
        let file = write(path, "tokenbroker.toml", config);
        let output = crate::support::binary().arg("-c").arg(file).arg("check").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(said("good.pem", "good.key"), (0, String::new()));
    for (cert, key, words) in [
        (
            "good.pem",
            "expired.key",
            &[
                "does not go with",
                "subject CN=good, serial AB:CD",
                "valid 2020-01-01T00:00:00Z to 2099-01-01T00:00:00Z",
                "the private key is not the certificate's",
            ][..],
        ),
        ("expired.pem", "expired.key", &["has expired", "subject CN=expired, serial", "to 2020-01-01T00:00:00Z"]),
        ("early.pem", "early.key", &["is not valid yet", "subject CN=early", "check this machine's clock"]),
        ("garbage.pem", "good.key", &["does not hold a readable certificate"]),
        ("cut.pem", "good.key", &["is not valid PEM", "is it cut off?"]),
        ("empty.pem", "good.key", &["holds no certificate"]),
        ("good.pem", "empty.pem", &["holds no private key"]),
        ("good.pem", "good.pem", &["holds no private key"]),
        ("good.pem", "encrypted.key", &["is encrypted", "openssl pkey"]),
        ("good.pem", "broken.key", &["is not valid PEM"]),
        ("good.pem", "open.key", &["can be changed by others"]),
        ("missing.pem", "good.key", &["cannot read", "No such file"]),
        ("good.pem", "missing.key", &["cannot read", "No such file"]),
    ] {
        let (code, stderr) = said(cert, key);
        assert_eq!(code, 78, "{cert}, {key}: {stderr}");
        assert!(stderr.contains(": identity.me"), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{cert}, {key}: {word:?} in {stderr}");
        }
        assert!(!stderr.contains("secret-bytes"), "{stderr}");
    }
}

#[test]
fn a_plain_http_token_url_is_for_this_machine_only() {
    let (code, _, stderr) = run_to_end(
        "[token.a]\nurl = \"http://auth.example.com/\"\nclient_id = \"c\"\nclient_secret = \"s\"\n[route.a]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://a.example\"\n",
        &["check"],
    );
    assert!(code == 78 && stderr.contains("token.a.url: credentials would cross the network unencrypted"), "{stderr}");
}

#[test]
fn extra_parameters_headers_and_scopes_reach_the_token_server() {
    let server = Upstream::start(|_| {
        let body = r#"{"access_token":"t","expires_in":3600}"#;
        Action::Reply(
            format!("HTTP/1.1 {} OK\r\nContent-Length: {}\r\n\r\n{body}", StatusCode::OK.as_u16(), body.len())
                .into_bytes(),
        )
    });
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "key", "geheim");
    let config = format!(
        "[token.a]\nurl = \"{}/token?tenant=1\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"client_secret_post\"\n\
         scope = [\"read\", \"write\"]\nparams = {{ audience = \"https://api\", key = {{ file = \"key\" }} }}\n\
         headers = {{ X-Tenant = \"acme\", X-Key = {{ file = \"key\" }} }}\n\
         [route.a]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:1\"\n",
        server.url()
    );
    let broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("a", "valid");
    let request = server.only();
    assert_eq!(request.line(), "POST /token?tenant=1 HTTP/1.1");
    assert_eq!(
        String::from_utf8_lossy(&request.body),
        "audience=https%3A%2F%2Fapi&client_id=c&client_secret=s&grant_type=client_credentials&key=geheim&scope=read+write"
    );
    assert_eq!((request.one("x-tenant"), request.one("x-key")), (Some("acme"), Some("geheim")));
    assert_eq!(request.one("host"), Some(server.address.to_string().as_str()));
    assert_eq!(request.one("authorization"), None);
}

#[test]
fn a_secret_may_come_from_a_command_and_is_read_again_at_each_exchange() {
    let oauth = OAuth::start(HOUR);
    let config =
        oauth.config("", "").replace("{ file = \"secret\" }", "{ exec = [\"/bin/sh\", \"-c\", \"cat secret\"] }");
    let directory = oauth.directory();
    let path = directory.path().to_owned();
    let broker = Broker::start_in(directory, &config, |command| {
        command.current_dir(&path);
    });
    assert_eq!(broker.get("api", "/").status, 200);
    std::fs::remove_file(broker.directory.path().join("secret")).unwrap();
    let reply = broker.admin("POST", "/api/tokens/api/refresh");
    let error = reply.json()["last_error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("transient: the command \"/bin/sh\" failed (exit status: 1)"), "{error}");
    assert_eq!(broker.get("api", "/").status, 200, "the old token serves");
}

#[test]
fn a_routes_extra_header_follows_its_file_and_stays_where_that_cannot_be_used() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    write(directory.path(), "key", "first");
    let broker = Broker::start_in(directory, &oauth.config("", "headers = { X-Key = { file = \"key\" } }"), |_| {});
    let sent = || {
        assert_eq!(broker.get("api", "/").status, 200);
        oauth.echo.seen().last().unwrap().headers["x-key"].to_str().unwrap().to_owned()
    };
    assert_eq!(sent(), "first");
    write(broker.directory.path(), "key", "second\n");
    eventually("it is sent", || sent() == "second");
    write(broker.directory.path(), "key", "");
    eventually("it is told", || broker.log().contains("what was read before stays in use"));
    assert_eq!(sent(), "second");
}

#[test]
fn an_idle_connection_of_a_token_server_does_not_keep_an_exchange_open() {
    // Answers well, but never closes.
    let server = Upstream::start(|_| {
        Action::Take(Box::new(|mut stream| {
            use std::io::Write;
            let body = r#"{"access_token":"t","expires_in":3600}"#;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            let _ = stream.read(&mut [0]);
        }))
    });
    let config = format!(
        "[token.a]\nurl = \"{}/\"\nclient_id = \"c\"\nclient_secret = \"s\"\n[route.a]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://localhost:1\"\n",
        server.url()
    );
    let began = Instant::now();
    let broker = Broker::start(&config);
    broker.wait_for_state("a", "valid");
    assert!(began.elapsed() < Duration::from_secs(3));
}
