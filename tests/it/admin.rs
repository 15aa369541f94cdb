use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenbroker::standin::Fault;

use crate::exchange::OAuth;
use crate::support::{ADMIN_KEY, Broker, Reply, Upstream, Wire, exchange, static_route, with_static_token, write};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn liveness_depends_on_nothing_and_readiness_on_the_required_tokens() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(500, None)), None);
    let second = oauth.config("required = false", "").replace(".api]", ".extra]");
    let second = second.replace(&format!("{}/token", oauth.server.url()), "http://127.0.0.1:1/token");
    let broker = Broker::start_in(oauth.directory(), &(oauth.config("", "") + &second), |_| {});
    broker.wait_for_state("api", "expired");
    assert_eq!((broker.admin("GET", "/livez").status, broker.admin("GET", "/livez").text().as_str()), (200, "ok\n"));
    for path in ["/readyz", "/healthz"] {
        let reply = broker.admin("GET", path);
        assert_eq!((reply.status, reply.text().as_str()), (503, "not ready\n"), "says no more than that");
    }
    let verbose = broker.admin("GET", "/readyz?verbose").text();
    assert!(
        verbose.contains(
            "[-] token api: expired: transient: localhost: the token server failed (HTTP 500); the broker tries again"
        ),
        "{verbose}"
    );
    assert!(verbose.contains("[-] token extra: expired (not required): transient"), "{verbose}");
    oauth.oauth.faults.set(None, None);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    let reply = broker.admin("GET", "/readyz?verbose");
    assert_eq!(reply.status, 200);
    assert!(
        reply.text().starts_with("[+] token api: valid\n[-] token extra: ") && reply.text().ends_with("\nok\n"),
        "{}",
        reply.text()
    );
}

#[test]
fn status_shows_states_times_and_fingerprints_and_no_token() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    assert_eq!(broker.get("api", "/").status, 200);
    let reply = broker.admin("GET", "/api/status");
    assert_eq!(
        (reply.header("content-type"), reply.header("cache-control")),
        (Some("application/json"), Some("no-store"))
    );
    let status = reply.json();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let set = |names: &str| names.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(keys(&status), set("version started_at now inspector config store tokens routes latencies_ms expiring"));
    assert_eq!(status["store"], json!({ "kind": "memory", "error": null }));
    assert_eq!(keys(&status["config"]), set("file loaded_at error"));
    let token = &status["tokens"]["api"];
    let names = "state class dialect fingerprint obtained_at expires_at refreshes_at refresh_expires_at secret_expires_at \
                 certificate_expires_at last_error attempts exchanging login client_secrets rotation";
    assert_eq!(keys(token), set(names));
    let at = |key: &str| token[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(at("expires_at").duration_since(at("obtained_at")).as_secs(), 3600);
    let refresh = at("refreshes_at").duration_since(at("obtained_at")).as_secs();
    assert!((2519..=2881).contains(&refresh), "{refresh}");
    assert!(token["class"].is_null() && token["last_error"].is_null());
    let fingerprint = token["fingerprint"].as_str().unwrap();
    let sent = oauth.echo.seen()[0].headers["authorization"].to_str().unwrap().to_owned();
    let sent = sent.strip_prefix("Bearer ").unwrap();
    let expected = tokenbroker::secret::Secret::new(sent.to_owned()).fingerprint().to_string();
    assert_eq!(fingerprint, expected, "the first 8 hex digits of the SHA-256");
    assert!(!reply.text().contains(sent));
    let route = &status["routes"]["api"];
    assert_eq!(keys(route), set("listen upstream token requests errors answers latencies"));
    assert_eq!(route["listen"][0], broker.listen("api"));
    assert_eq!(
        (route["requests"].as_u64(), route["errors"].as_u64(), route["token"].as_str()),
        (Some(1), Some(0), Some("api"))
    );
}

#[test]
fn what_changes_something_needs_a_post_with_the_admin_key() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    let path = "/api/tokens/api/refresh";
    let before = oauth.oauth.faults.calls();
    let authorization = |value: &str| vec![("Authorization".to_owned(), value.to_owned())];
    for headers in [
        vec![],
        authorization("Bearer wrong"),
        authorization(&format!("Basic {ADMIN_KEY}")),
        authorization(ADMIN_KEY),
        authorization(&format!("Bearer {ADMIN_KEY}x")),
        vec![("Proxy-Authorization".to_owned(), format!("Bearer {ADMIN_KEY}"))],
        vec![("Cookie".to_owned(), format!("key={ADMIN_KEY}"))],
    ] {
        let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let reply = broker.request("admin", "POST", &format!("{path}?key={ADMIN_KEY}"), &headers, b"");
        assert_eq!((reply.status, reply.code().as_str()), (401, "admin_key_required"), "{headers:?}");
    }
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let reply = broker.request("admin", method, path, &[("Authorization", &format!("Bearer {ADMIN_KEY}"))], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(oauth.oauth.faults.calls(), before, "nothing happened");
    assert_eq!(broker.admin("POST", path).status, 200);
    assert_eq!(oauth.oauth.faults.calls(), before + 1);
    for unknown in [
        "/api/tokens/nobody/refresh",
        "/api/tokens//refresh",
        "/api/tokens/api/x/refresh",
        "/api/store//forget",
        "/api/reload/x",
        "/quit",
    ] {
        assert_eq!(broker.admin("POST", unknown).status, 404, "{unknown}");
    }
    assert!(!broker.log().contains(ADMIN_KEY));
    for field in ["X-Forwarded-For", "Forwarded", "Via"] {
        let reply = broker.request("admin", "GET", "/livez", &[(field, "x")], b"");
        assert_eq!((reply.status, reply.code().as_str()), (403, "client_refused"), "{field}");
    }
}

#[test]
fn reading_every_path_of_the_operators_listener_changes_nothing() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    let state = || {
        let status = broker.status();
        (status["tokens"].clone(), status["config"].clone(), oauth.oauth.faults.calls())
    };
    let before = state();
    let key = format!("Bearer {ADMIN_KEY}");
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/readyz?verbose",
        "/healthz",
        "/metrics",
        "/api/status",
        "/api/requests",
        "/dashboard/page.js",
        "/api/reload",
        "/api/shutdown",
        "/api/tokens/api/refresh",
        "/api/tokens/api/revoke",
        "/api/tokens/api/token",
        "/api/login/api",
        "/api/clients/api/list",
        "/api/clients/api/register",
        "/api/clients/api/delete",
        "/api/store/token.api/forget",
        "/quitquitquit",
        "/quit",
    ] {
        for method in ["GET", "HEAD", "OPTIONS", "get", "POST "] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n"
            );
            let answer = exchange(broker.address("admin"), request);
            let status = String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap().to_owned();
            assert!(["200", "400", "404", "405"].contains(&status.as_str()), "{method} {path}: {status}");
        }
    }
    assert_eq!(state(), before);
    assert_eq!(broker.get("api", "/").status, 200);
}

#[test]
fn whoever_tries_keys_has_to_wait_and_whoever_has_the_key_does_not() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let wrong = || broker.request("admin", "POST", "/api/reload", &[("Authorization", "Bearer wrong")], b"").status;
    (0..5).for_each(|_| assert_eq!(wrong(), 401));
    let began = Instant::now();
    assert_eq!(wrong(), 401);
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(broker.admin("POST", "/api/reload").status, 200);
}

/// A broker whose admin key is made at its start, below `runtime`.
fn with_made_key(upstream: &Upstream, runtime: &Path) -> Broker {
    let child = tempfile::tempdir().unwrap();
    let config = static_route(upstream, "");
    let file = write(child.path(), "t.toml", format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}"));
    Broker::start_in(child, &config, |command| {
        // Its own configuration instead of the one with a known key.
        *command = crate::support::binary();
        command.args(["run", "-c"]).arg(&file).env("XDG_RUNTIME_DIR", runtime).env_remove("RUNTIME_DIRECTORY");
        command.stderr(std::process::Stdio::piped());
    })
}

#[test]
fn the_admin_key_is_made_at_each_start_in_a_private_file() {
    let upstream = Upstream::ok();
    let directory = tempfile::tempdir().unwrap();
    let runtime = directory.path().join("runtime");
    let mut keys = Vec::new();
    for _ in 0..2 {
        let broker = with_made_key(&upstream, &runtime);
        let key = std::fs::read_to_string(runtime.join("tokenbroker/admin.key")).unwrap();
        let mode = |path: &str| runtime.join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("tokenbroker"), mode("tokenbroker/admin.key")), (0o700, 0o600));
        assert_eq!(key.trim().len(), 64);
        let authorization = format!("Bearer {}", key.trim());
        let reply =
            broker.request("admin", "POST", "/api/tokens/api/refresh", &[("Authorization", &authorization)], b"");
        assert_eq!(reply.status, 200);
        assert!(!broker.log().contains(key.trim()));
        keys.push(key);
    }
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn a_second_broker_does_not_take_the_admin_key_of_the_first_and_each_removes_its_own() {
    let upstream = Upstream::ok();
    let directory = tempfile::tempdir().unwrap();
    let files = || {
        let entries = std::fs::read_dir(directory.path().join("tokenbroker")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let mut first = with_made_key(&upstream, directory.path());
    let key = std::fs::read(directory.path().join("tokenbroker/admin.key")).unwrap();
    let mut second = with_made_key(&upstream, directory.path());
    let other = format!("admin-{}.key", second.address("admin").port());
    assert_eq!(files(), BTreeSet::from(["admin.key".to_owned(), other.clone()]));

    // One that cannot start changes nothing.
    let config = static_route(&upstream, "").replace("127.0.0.1:0", first.listen("api"));
    let file = write(second.directory.path(), "taken.toml", format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}"));
    let mut taken = crate::support::binary();
    let taken = taken.args(["run", "-c"]).arg(file).env("XDG_RUNTIME_DIR", directory.path()).output().unwrap();
    assert_eq!(taken.status.code(), Some(1));
    assert_eq!(std::fs::read(directory.path().join("tokenbroker/admin.key")).unwrap(), key);

    assert_eq!(first.stop().code(), Some(0));
    assert_eq!(files(), BTreeSet::from([other]));
    assert_eq!(second.stop().code(), Some(0));
    assert_eq!(files(), BTreeSet::new());
}

#[test]
fn metrics_have_the_promised_names_and_no_path_or_url_is_a_label() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    for n in 0..30 {
        broker.request("api", "GET", &format!("/secret-path-{n}?q={n}"), &[("Host-X", "x")], b"");
    }
    broker.request("api", "TRACE", "/", &[], b"");
    oauth.oauth.faults.set(Some(Fault::Html), Some(1));
    broker.admin("POST", "/api/tokens/api/refresh");
    let reply = broker.admin("GET", "/metrics");
    assert_eq!(reply.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = reply.text();
    for line in [
        "tokenbroker_requests_total{route=\"api\",status_class=\"2xx\",origin=\"upstream\"} 30",
        "tokenbroker_requests_total{route=\"api\",status_class=\"5xx\",origin=\"broker\"} 0",
        "tokenbroker_request_duration_seconds_count{route=\"api\"} 30",
        "tokenbroker_upstream_retries_total{route=\"api\"} 0",
        "tokenbroker_token_refreshes_total{token=\"api\",outcome=\"success\"} 1",
        "tokenbroker_token_refreshes_total{token=\"api\",outcome=\"transient\"} 1",
        "tokenbroker_token_state{token=\"api\",state=\"degraded\"} 1",
        "tokenbroker_token_state{token=\"api\",state=\"valid\"} 0",
        "tokenbroker_build_info{version=\"0.1.0\"} 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(text.contains("tokenbroker_token_expiry_timestamp_seconds{token=\"api\"} 1"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("secret-path") && !text.contains("localhost"), "{text}");
    assert!(text.lines().count() < 200);
}

#[test]
fn errors_of_the_operators_listener_are_problems_that_nobody_stores() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    for (method, path, status) in
        [("GET", "/nothing", 404), ("GET", "/dashboard/", 404), ("PUT", "/livez", 405), ("POST", "/livez", 405)]
    {
        let reply = broker.admin(method, path);
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let problem = reply.json();
        assert_eq!(problem["status"].as_u64(), Some(u64::from(status)));
        assert!(problem["type"].is_string() && problem["title"].is_string() && problem["detail"].is_string());
    }
}

#[test]
fn two_thousand_different_paths_and_hosts_add_no_series() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    broker.get("api", "/");
    exchange(broker.address("api"), "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n");
    let series = || broker.admin("GET", "/metrics").text().lines().count();
    let before = series();
    let mut wire = Wire::open(broker.address("api"));
    for n in 0..1000 {
        wire.send(format!("GET /{n}/{n}?q={n} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(wire.reply("GET").unwrap().status, 200);
    }
    for n in 0..1000 {
        let mut wire = Wire::open(broker.address("api"));
        wire.send(format!("GET / HTTP/1.1\r\nHost: host-{n}.example\r\n\r\n"));
        assert_eq!(wire.reply("GET").unwrap().code(), "host_refused");
    }
    let began = Instant::now();
    assert_eq!(series(), before);
    assert!(began.elapsed() < Duration::from_secs(2) && before < 2000, "{before}");
}

#[test]
fn no_answer_of_the_brokers_own_may_be_stored_by_anybody() {
    let upstream = Upstream::ok();
    let gone = format!("http://127.0.0.1:{}", crate::door::free_port());
    let config = format!(
        "{}methods = [\"GET\", \"POST\"]\npaths = [\"/here\"]\n\
         [token.none]\nurl = \"{gone}/token\"\nclient_id = \"c\"\nclient_secret = \"s\"\n\
         [route.none]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n\
         [route.gone]\nlisten = \"127.0.0.1:0\"\nupstream = \"{gone}\"\ntoken = false\n",
        static_route(&upstream, ""),
        upstream.url()
    );
    let broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let not_stored = |reply: &Reply, what: &str| {
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{what}: {reply:?}");
    };
    for path in ["/livez", "/readyz", "/readyz?verbose", "/healthz", "/metrics", "/api/status", "/", "/nothing"] {
        not_stored(&broker.admin("GET", path), path);
    }
    for (method, path) in [("POST", "/api/tokens/api/refresh"), ("POST", "/api/tokens/x/refresh"), ("PUT", "/livez")] {
        not_stored(&broker.admin(method, path), path);
    }
    not_stored(&broker.request("admin", "POST", "/api/tokens/api/refresh", &[], b""), "without a key");
    let long = format!("/here/{}", "x".repeat(20_000));
    for (route, method, target, field, status) in [
        ("none", "GET", "/", ("X", "x"), 503),
        ("gone", "GET", "/", ("X", "x"), 502),
        ("api", "PUT", "/here", ("X", "x"), 405),
        ("api", "TRACE", "/here", ("X", "x"), 405),
        ("api", "GET", "/there", ("X", "x"), 403),
        ("api", "GET", "/here", ("Origin", "https://evil.example"), 403),
        ("api", "GET", "/here", ("Host", "evil.example"), 400),
        ("api", "POST", "/here", ("Expect", "200-ok"), 417),
        ("api", "GET", &long, ("X", "x"), 414),
    ] {
        let reply = broker.request(route, method, target, &[field], b"");
        assert_eq!(reply.status, status, "{method} {target:.20} {field:?}");
        not_stored(&reply, &format!("{method} {target:.20} {field:?}"));
    }
}
