use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokenbroker::standin::pki::{Leaf, Pki};
use tokenbroker::telemetry::text::negotiated;

use crate::support::{
    Action, Broker, RawRequest, RedisServer, Upstream, eventually, has, output, with_static_token, write,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// An API and its token server. The API repeats each token in a field, and refuses under one path the first that it sees there.
fn api() -> Upstream {
    let (seen, refused) = (AtomicU64::new(0), OnceLock::new());
    Upstream::start(move |request: &RawRequest| {
        if request.line().starts_with("POST /token ") {
            let number = seen.fetch_add(1, Ordering::Relaxed);
            let answer = format!(
                r#"{{"access_token":"access-{number:04}","expires_in":3600,"refresh_token":"refresh","refresh_expires_in":7200}}"#
            );
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
            return Action::Reply(format!("{head}Content-Length: {}\r\n\r\n{answer}", answer.len()).into_bytes());
        }
        let token = request.one("authorization").unwrap_or_default();
        if request.line().starts_with("GET /refused ") && refused.get_or_init(|| token.to_owned()) == token {
            return Action::status("401 Unauthorized");
        }
        Action::Reply(format!("HTTP/1.1 200 OK\r\nX-Echo: {token}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    })
}

/// A broker in which everything has happened that a metric tells of, and what keeps it so.
struct Eventful {
    broker: Broker,
    _upstream: Upstream,
    _redis: RedisServer,
}

/// `None` where there is no Redis.
fn eventful() -> Option<Eventful> {
    let mut redis = RedisServer::start(&[])?;
    let upstream = api();
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(directory.path()).unwrap();
    pki.issue(&Leaf::client("client", 0x1234)).unwrap();
    write(directory.path(), "store_key", "a key of at least thirty-two bytes");
    write(directory.path(), "password", "the password");
    let (url, socket) = (upstream.url(), directory.path().join("closed.sock"));
    let collector = if cfg!(feature = "otlp") { format!("otlp = \"{url}/collector\"\n") } else { String::new() };
    let config = format!(
        "{collector}[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\nkey = {{ file = \"store_key\" }}\n\
         [identity.me]\ncert = \"client.pem\"\nkey = \"client.key\"\n\
         [token.api]\nurl = \"{url}/token\"\ngrant = \"password\"\nclient_id = \"id\"\nclient_secret = {{ file = \"password\" }}\n\
         username = \"u\"\npassword = {{ file = \"password\" }}\nsecret_expires = 2099-01-31\n\
         [token.service]\nurl = \"{url}/token\"\ngrant = \"client_credentials\"\nclient_id = \"id\"\nclient_secret = {{ file = \"password\" }}\n\
         [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\n\
         [route.service]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\nmethods = [\"GET\"]\n\
         [route.tls]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\ntoken = false\nidentity = \"me\"\nca = \"ca.pem\"\n\
         [route.closed]\nlisten = \"unix:{}\"\nupstream = \"{url}\"\ntoken = false\nclients = {{ uids = [4242] }}\n",
        redis.port,
        socket.display(),
    );
    let mut broker = Broker::start_in(directory, &config, |_| {});
    for token in ["api", "service"] {
        broker.wait_for_state(token, "valid");
    }
    // A load, with a token that the API refuses once, methods that are not allowed, and heads that are none.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..50 {
                    let target = if number % 10 == 0 { "/refused" } else { "/" };
                    assert_eq!(broker.get("api", target).status, 200);
                    assert_eq!(broker.request("service", "POST", "/", &[], b"").status, 405);
                }
            });
        }
    });
    let mut odd = std::net::TcpStream::connect(broker.address("api")).unwrap();
    odd.write_all(b"nothing\r\n\r\n").unwrap();
    odd.read_to_end(&mut Vec::new()).unwrap();
    let mut closed = UnixStream::connect(&socket).unwrap();
    let _ = closed.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!matches!(closed.read(&mut [0]), Ok(1..)), "nobody is let in there");
    assert_eq!(broker.reload().0, 0);
    redis.kill();
    assert_eq!(broker.admin("POST", "/api/tokens/service/refresh").status, 200);
    let metrics = || broker.admin("GET", "/metrics").text();
    eventually("the store is down, and a save failed", || {
        let text = metrics();
        let failed = text.lines().any(|line| {
            line.starts_with("tokenbroker_store_failures_total{token=\"service\"}") && !line.ends_with(" 0")
        });
        failed && text.contains("tokenbroker_store_up{kind=\"redis\"} 0")
    });
    if cfg!(feature = "otlp") {
        let exported = || broker.metric("tokenbroker_spans_total{outcome=\"exported\"} ");
        eventually("spans are exported", || exported() > 0.5);
    }
    Some(Eventful { broker, _upstream: upstream, _redis: redis })
}

/// The families that the documentation lists, with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let docs = read("docs/operations.md");
    let section = docs.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `tokenbroker_"));
    rows.map(|row| {
        let mut cells = row.split('|');
        let name = format!("tokenbroker_{}", cells.next().unwrap().trim().trim_end_matches('`'));
        let labels = cells.next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name, labels)
    })
    .collect()
}

/// The names of samples in OpenMetrics text, with the labels that each has; those of histograms without `le` and suffix.
fn sampled(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let labels = rest.strip_prefix('{').map_or("", |rest| rest.split_once('}').unwrap().0);
        let keys = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        out.entry(base.to_owned()).or_default().extend(keys.filter(|key| key != "le"));
    }
    out
}

#[test]
fn every_documented_metric_is_there_under_load_and_every_parser_takes_it() {
    let Some(eventful) = eventful() else { return };
    let broker = &eventful.broker;
    let answer = broker.admin("GET", "/metrics");
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = answer.text();
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let mut wanted = documented();
    assert!(wanted.len() >= 24, "{wanted:?}");
    if cfg!(not(feature = "otlp")) {
        wanted.remove("tokenbroker_spans_total");
    }
    assert_eq!(sampled(&text), wanted, "{text}");
    let value = |start: &str| broker.metric(start);
    let near = |one: f64, other: f64| (one - other).abs() < 0.1;
    assert!(near(value("tokenbroker_problems_total{route=\"service\",code=\"method_refused\"} "), 200.0));
    assert!(near(value("tokenbroker_problems_total{route=\"\",code=\"bad_request\"} "), 1.0));
    assert!(value("tokenbroker_upstream_retries_total{route=\"api\"} ") > 0.5);
    assert!(near(value("tokenbroker_echoed_tokens_total{route=\"api\"} "), 200.0));
    assert!(near(value("tokenbroker_requests_in_flight{route=\"api\"} "), 0.0));
    assert!(near(value("tokenbroker_config_last_reload_successful "), 1.0));
    assert!(value("tokenbroker_connections_limit ") > 0.5);
    assert!(value("tokenbroker_token_refresh_duration_seconds_count{token=\"service\"} ") > 1.5);
    for outside in ["/refused", "127.0.0.1", "example.com", "access-", "the password"] {
        assert!(!text.contains(outside), "{outside} is no part of a metric");
    }

    if has("prometheus-client") {
        let parsed = piped(
            Command::new(format!("{ROOT}/target/venv/bin/python")).arg(format!("{ROOT}/tests/prometheus/parse.py")),
            &text,
        );
        let parsed: BTreeMap<String, Value> = serde_json::from_str(&parsed).unwrap();
        assert_eq!(parsed.len(), wanted.len(), "{parsed:?}");
        for (name, family) in &parsed {
            let unit = if name.ends_with("_seconds") { "seconds" } else { "" };
            assert_eq!(family["unit"], unit, "{name}");
            assert!(!family["help"].as_str().unwrap().is_empty(), "{name}");
        }
    }
    let older =
        broker.request("admin", "GET", "/metrics", &[("Accept", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1")], b"");
    assert_eq!(older.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(sampled(&older.text()).keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    if has("promtool") {
        let said = piped(Command::new("promtool").args(["check", "metrics"]), &older.text());
        assert_eq!(said, "", "promtool has nothing to say");
    }
    for name in ["examples/prometheus/alerts.yaml", "examples/grafana/dashboard.json"] {
        assert_uses(name, &text);
    }
}

/// Runs a program with that input; its stdout. It must succeed.
#[track_caller]
fn piped(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}\n{input}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

/// The expressions of an example.
fn expressions(file: &str) -> Vec<String> {
    let text = read(file);
    if file.ends_with(".json") {
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let targets = dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
        let exprs = targets.flatten().map(|target| target["expr"].as_str().unwrap().to_owned());
        let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
        return exprs
            .chain(variables.filter_map(|variable| Some(variable["definition"].as_str()?.to_owned())))
            .collect();
    }
    // An expression goes on for as long as lines are indented further.
    let mut out: Vec<String> = Vec::new();
    let mut within = false;
    for line in text.lines() {
        match line.strip_prefix("        expr: ") {
            Some(expr) => {
                out.push(expr.to_owned());
                within = true;
            }
            None if within && line.starts_with("          ") => out.last_mut().unwrap().push_str(line),
            None => within = false,
        }
    }
    out
}

/// Holds every name and label of an example against what a broker shows.
#[track_caller]
fn assert_uses(file: &str, text: &str) {
    let there = sampled(text);
    let mut names = BTreeSet::new();
    for expr in expressions(file) {
        for (at, _) in expr.match_indices("tokenbroker_") {
            let rest = &expr[at..];
            let (name, rest) =
                rest.split_at(rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len()));
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            if cfg!(not(feature = "otlp")) && name == "tokenbroker_spans_total" {
                continue;
            }
            let labels = there.get(name).unwrap_or_else(|| panic!("{file}: no metric {name}: {expr}"));
            let selector = rest.strip_prefix('{').map_or("", |rest| rest.split_once('}').unwrap().0);
            // What Prometheus adds.
            for matcher in selector.split(',').filter(|matcher| !matcher.is_empty()) {
                let label = matcher.split(['=', '!']).next().unwrap();
                assert!(label == "instance" || labels.contains(label), "{file}: {name} has no {label}");
                for value in matcher.split('"').nth(1).unwrap().split('|').filter(|value| !value.starts_with('$')) {
                    let known = format!("{label}=\"{value}\"");
                    assert!(text.contains(&known), "{file}: {known} is never there");
                }
            }
            // Of what it is taken together by, each label is one of the metric.
            if let Some(by) = expr[..at].rfind(" by (").filter(|by| !expr[*by..at].contains(" / ")) {
                let by = expr[by + 5..].split(')').next().unwrap();
                for label in by.split(", ").filter(|label| !["le", "instance"].contains(label)) {
                    assert!(labels.contains(label), "{file}: {name} has no {label}: {expr}");
                }
            }
            names.insert(name.to_owned());
        }
    }
    assert!(names.len() >= 14, "{file}: {names:?}");
}

/// The names of all alerts.
fn alerts() -> Vec<String> {
    let text = read("examples/prometheus/alerts.yaml");
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned);
    let names: Vec<_> = names.collect();
    assert!(names.len() >= 15, "{names:?}");
    names
}

#[test]
fn every_alert_fires_when_it_has_to_and_is_quiet_otherwise() {
    let tests = read("tests/prometheus/alerts.yaml");
    for alert in alerts() {
        let of =
            |expected: &str| tests.matches(&format!("alertname: {alert}\n        exp_alerts:{expected}\n")).count();
        assert_eq!((of(""), of(" []")), (1, 1), "{alert} has one test in which it fires, and one in which it does not");
    }
    if has("promtool") {
        output(Command::new("promtool").args(["check", "rules", "examples/prometheus/alerts.yaml"]).current_dir(ROOT));
        output(Command::new("promtool").args(["test", "rules", "tests/prometheus/alerts.yaml"]).current_dir(ROOT));
    }
}

#[test]
fn every_alert_has_a_heading_in_the_documentation_that_its_runbook_names() {
    let (docs, rules) = (read("docs/operations.md"), read("examples/prometheus/alerts.yaml"));
    let section = docs.split("\n## Every alert and what to do\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let headings: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(headings, alerts());
    for alert in headings {
        assert!(rules.contains(&format!("runbook: docs/operations.md#{}\n", alert.to_lowercase())), "{alert}");
        let text = section.split(&format!("### {alert}\n")).nth(1).unwrap().split("###").next().unwrap();
        assert!(text.trim().len() > 80, "{alert} says what to do: {text}");
    }
}

#[test]
fn the_panels_of_the_dashboard_ask_what_prometheus_understands() {
    let dashboard: Value = serde_json::from_str(&read("examples/grafana/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(panel["type"] == "row" || !panel["description"].as_str().unwrap().is_empty(), "{panel}");
        let at = &panel["gridPos"];
        assert!(places.insert((at["y"].as_u64(), at["x"].as_u64())), "two panels are in one place: {panel}");
    }
    let expressions = expressions("examples/grafana/dashboard.json");
    assert!(expressions.len() >= 25, "{}", expressions.len());
    if !has("promtool") {
        return;
    }
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, expr) in expressions.iter().filter(|expr| !expr.starts_with("label_values(")).enumerate() {
        let expr = Value::from(expr.replace("$__rate_interval", "5m"));
        rules.push_str(&format!("  - record: panel:{number}\n    expr: {expr}\n"));
    }
    let directory = tempfile::tempdir().unwrap();
    output(Command::new("promtool").args(["check", "rules"]).arg(write(directory.path(), "rules.yaml", rules)));
}

#[test]
fn a_client_that_knows_only_the_older_format_gets_it() {
    let open = "# HELP a Words.\n# TYPE a counter\na_total 1\n# HELP b Build.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                # HELP c_seconds Time.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2\n# EOF\n";
    let older = "# HELP a_total Words.\n# TYPE a_total counter\na_total 1\n# HELP b_info Build.\n# TYPE b_info gauge\n\
                 b_info{v=\"1\"} 1\n# HELP c_seconds Time.\n# TYPE c_seconds gauge\nc_seconds 2\n";
    for (accept, text) in [
        (None, open),
        (Some("*/*"), open),
        (Some("text/html"), open),
        (Some("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), open),
        (Some("text/plain;version=0.0.4;q=1,*/*;q=0.1"), older),
        (Some("text/plain"), older),
    ] {
        let (content_type, body) = negotiated(accept, open.to_owned());
        assert_eq!((body.as_str(), content_type.starts_with("text/plain")), (text, text == older), "{accept:?}");
    }
}

#[test]
fn a_configuration_that_is_not_in_force_shows_until_it_is() {
    let upstream = Upstream::ok();
    let mut broker = with_static_token(&upstream, "");
    let good = std::fs::read_to_string(broker.directory.path().join("tokenbroker.toml")).unwrap();
    let shown = |broker: &Broker| broker.metric("tokenbroker_config_last_reload_successful ") > 0.5;
    assert!(shown(&broker));
    write(broker.directory.path(), "tokenbroker.toml", format!("{good}\nnonsense = 1\n"));
    assert_ne!(broker.reload().0, 0);
    assert!(!shown(&broker));
    write(broker.directory.path(), "tokenbroker.toml", good);
    assert_eq!(broker.reload().0, 0);
    assert!(shown(&broker));
}

#[test]
fn a_request_is_in_flight_until_its_answer_has_gone_out() {
    let (held, release) = (std::sync::Mutex::new(None), std::sync::mpsc::channel::<()>());
    *held.lock().unwrap() = Some(release.1);
    let upstream = Upstream::start(move |_| {
        let _ = held.lock().unwrap().as_ref().unwrap().recv();
        Action::ok("")
    });
    let broker = with_static_token(&upstream, "");
    let flying = || broker.metric("tokenbroker_requests_in_flight{route=\"api\"} ").round() as i64;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| broker.get("api", "/").status);
        eventually("it is in flight", || flying() == 1);
        release.0.send(()).unwrap();
        assert_eq!(waiting.join().unwrap(), 200);
    });
    eventually("it has landed", || flying() == 0);
    assert_eq!(broker.request("api", "TRACE", "/", &[], b"").status, 405);
    assert_eq!(flying(), 0, "what is refused at once never was");
}
