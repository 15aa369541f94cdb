use serde_json::Value;

use crate::support::{Action, Broker, Upstream, Wire, run_to_end, static_route, with_static_token};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The log's line that has these words, as JSON.
#[track_caller]
fn logged(broker: &Broker, words: &str) -> Value {
    broker.logs(words);
    let log = broker.log();
    serde_json::from_str(log.lines().find(|line| line.contains(words)).unwrap()).unwrap()
}

fn is_random(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn an_error_of_the_broker_and_its_line_in_the_log_have_the_clients_own_id() {
    let upstream = Upstream::start(|_| Action::Close);
    let broker = with_static_token(&upstream, "methods = [\"GET\"]");
    for (method, id, code) in [("GET", "from-the-client/1", "upstream_protocol"), ("POST", "a\"b", "method_refused")] {
        let answer = broker.request("api", method, "/", &[("X-Request-Id", id)], b"");
        assert_eq!((answer.code().as_str(), answer.header("x-request-id")), (code, Some(id)));
        assert_eq!(answer.json()["request_id"], id);
        assert_eq!(logged(&broker, &format!("\"code\":\"{code}\""))["request_id"], id);
    }
}

#[test]
fn an_id_that_cannot_be_shown_or_is_not_there_is_replaced_by_a_random_one() {
    let upstream = Upstream::start(|_| Action::Close);
    let broker = with_static_token(&upstream, "");
    let mut seen = std::collections::BTreeSet::new();
    let long = "x".repeat(129);
    for sent in [None, Some(""), Some("two words"), Some("\u{e4}"), Some(&*long)] {
        let headers: Vec<_> = sent.map(|id| ("X-Request-Id", id)).into_iter().collect();
        let answer = broker.request("api", "GET", "/", &headers, b"");
        let id = answer.json()["request_id"].as_str().unwrap().to_owned();
        assert_eq!(answer.header("x-request-id"), Some(&*id));
        assert!(is_random(&id), "{id}");
        assert_eq!(logged(&broker, &id)["status"], 502);
        assert!(seen.insert(id), "no two are alike");
    }
    assert!(!broker.log().contains(&long));
}

#[test]
fn what_is_no_request_has_an_id_too_and_so_has_an_error_of_the_operators_listener() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    let mut wire = Wire::open(broker.address("api"));
    let answer = wire.send("nothing\r\n\r\n").reply("GET").unwrap();
    let id = answer.json()["request_id"].as_str().unwrap().to_owned();
    assert!(is_random(&id) && answer.header("x-request-id") == Some(&*id));
    assert_eq!(logged(&broker, &id)["code"], "bad_request");
    let answer = broker.request("admin", "GET", "/nothing", &[("X-Request-Id", "operator-7")], b"");
    assert_eq!(
        (answer.json()["request_id"].as_str(), answer.header("x-request-id")),
        (Some("operator-7"), Some("operator-7"))
    );
    assert_eq!(broker.admin("GET", "/livez").header("x-request-id"), None, "only errors have one");
}

#[test]
fn ids_and_traces_of_a_client_pass_unchanged_and_none_is_made_up() {
    let upstream = Upstream::start(|_| {
        Action::Reply(b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n".to_vec())
    });
    let broker = with_static_token(&upstream, "");
    let headers = [("X-Request-Id", "two words pass, too"), ("traceparent", PARENT), ("tracestate", "a=1,b=2")];
    let answer = broker.request("api", "GET", "/", &headers, b"");
    assert_eq!(answer.header("x-request-id"), Some("theirs"), "the API's own answer is as it was");
    broker.get("api", "/");
    let requests = upstream.requests();
    for (name, value) in headers {
        assert_eq!((requests[0].one(name), requests[1].one(name)), (Some(value), None), "{name}");
    }
    assert_eq!(broker.request("api", "GET", "/", &[("X-Request-Id", "seen")], b"").status, 200);
    assert_eq!(logged(&broker, "\"request_id\":\"seen\"")["message"], "forwarded");
}

#[test]
fn a_build_that_exports_no_traces_refuses_the_key_with_the_reason() {
    let config = format!("[admin]\notlp = \"http://127.0.0.1:4318\"\n{}", static_route(&Upstream::ok(), ""));
    let refused = |status: i32, stderr: &str| {
        assert_eq!(status, 78, "{stderr}");
        let line = ":2:8: admin.otlp: this build exports no traces; remove it, or build the program with: cargo build";
        assert!(stderr.contains(line), "{stderr}");
    };
    let (status, _, stderr) = run_to_end(&config, &["check"]);
    match cfg!(feature = "otlp") {
        true => assert!(status == 0 && !stderr.contains("otlp"), "{stderr}"),
        false => refused(status, &stderr),
    }
    if crate::support::has("static") {
        let directory = tempfile::tempdir().unwrap();
        let file = crate::support::write(directory.path(), "tokenbroker.toml", config);
        let mut command = std::process::Command::new(std::env::var_os("TOKENBROKER_TEST_STATIC").unwrap());
        let output = command.arg("-c").arg(file).arg("check").output().unwrap();
        refused(output.status.code().unwrap(), &String::from_utf8_lossy(&output.stderr));
    }
}

/// With a collector.
#[cfg(feature = "otlp")]
mod exported {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use tokenbroker::standin::pki::{Clients, Leaf, Pki};
    use tokenbroker::standin::{Echo, Server};

    use super::*;
    use crate::exchange::OAuth;
    use crate::support::{HOUR, RUNTIME, eventually, issuer};

    /// Of [`PARENT`].
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    /// Everything that a collector got.
    fn spans(collector: &Upstream) -> Vec<Value> {
        let mut out = Vec::new();
        for request in collector.requests() {
            assert_eq!(request.line(), "POST /base/v1/traces HTTP/1.1");
            assert_eq!(request.one("content-type"), Some("application/json"));
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let resource = &body["resourceSpans"][0];
            assert_eq!(attribute(&resource["resource"], "service.name"), "tokenbroker");
            assert_eq!(resource["scopeSpans"][0]["scope"]["name"], "tokenbroker");
            out.extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
        }
        out
    }

    /// As text; empty if there is no such attribute.
    fn attribute(of: &Value, key: &str) -> String {
        let found = of["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == key);
        let value = found.map(|attribute| &attribute["value"]);
        let text = value.and_then(|value| value.get("stringValue").or(value.get("intValue")));
        text.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The spans of one trace, once there are so many.
    #[track_caller]
    fn of_trace(collector: &Upstream, trace: &str, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        eventually("the spans arrive", || {
            found = spans(collector);
            found.retain(|span| span["traceId"] == trace);
            found.len() >= count
        });
        found.sort_by_key(|span| span["kind"].as_i64());
        found
    }

    fn traced(upstream: &Upstream, collector: &Upstream, keys: &str) -> Broker {
        let broker = Broker::start(&format!("otlp = \"{}/base\"\n{}", collector.url(), static_route(upstream, keys)));
        broker.wait_for_state("api", "valid");
        broker
    }

    /// Trace and span of the request that the API got.
    fn seen(upstream: &Upstream) -> (String, String) {
        let request = upstream.requests().pop().unwrap();
        let parts: Vec<_> = request.one("traceparent").unwrap().split('-').map(str::to_owned).collect();
        assert_eq!((parts.len(), &*parts[0], &*parts[3]), (4, "00", "01"));
        (parts[1].clone(), parts[2].clone())
    }

    #[test]
    fn a_trace_goes_through_the_broker_and_its_spans_to_the_collector() {
        let (upstream, collector) = (Upstream::start(|_| Action::status("404 Not Found")), Upstream::ok());
        let broker = traced(&upstream, &collector, "");
        let headers = [("traceparent", PARENT), ("tracestate", "a=1"), ("X-Secret", "a-secret-value")];
        assert_eq!(broker.request("api", "GET", "/a-secret-path?a-secret-query", &headers, b"").status, 404);
        let (trace, span) = seen(&upstream);
        assert_eq!((&*trace, upstream.only().one("tracestate")), (TRACE, Some("a=1")));
        let spans = of_trace(&collector, TRACE, 2);
        let (server, client) = (&spans[0], &spans[1]);
        assert_eq!((&server["kind"], &client["kind"]), (&Value::from(2), &Value::from(3)));
        assert_eq!(server["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!((&client["parentSpanId"], client["spanId"].as_str()), (&server["spanId"], Some(&*span)));
        for span in [server, client] {
            assert_eq!(span["name"], "GET api");
            assert_eq!(attribute(span, "http.request.method"), "GET");
            assert_eq!(attribute(span, "http.response.status_code"), "404");
            assert_eq!(attribute(span, "tokenbroker.route"), "api");
            let at = |key: &str| span[key].as_str().unwrap().parse::<i128>().unwrap();
            let now = tokenbroker::clock::Clock::system().now().wall.as_nanosecond();
            assert!(at("startTimeUnixNano") <= at("endTimeUnixNano"), "{span}");
            assert!((now - at("startTimeUnixNano")).abs() < 60_000_000_000, "{span}");
        }
        assert_eq!(attribute(server, "tokenbroker.origin"), "upstream");
        assert_eq!(server["status"], serde_json::json!({}), "a 404 is no failure of the server");
        assert_eq!(client["status"]["code"], 2);
        assert_eq!(attribute(client, "server.address"), "127.0.0.1");
        assert_eq!(attribute(client, "server.port"), upstream.address.port().to_string());
        for secret in ["a-secret", "the-token"] {
            assert!(!collector.bytes().contains(secret), "{secret}");
        }
        eventually("they are counted", || broker.metric("tokenbroker_spans_total{outcome=\"exported\"}") > 1.5);
    }

    #[test]
    fn a_new_trace_begins_where_there_is_none_and_what_is_not_sampled_passes_unrecorded() {
        let (upstream, collector) = (Upstream::ok(), Upstream::ok());
        let broker = traced(&upstream, &collector, "");
        let unsampled = PARENT.replace("-01", "-00");
        broker.request("api", "GET", "/", &[("traceparent", &unsampled), ("tracestate", "a=1")], b"");
        let request = upstream.only();
        assert_eq!((request.one("traceparent"), request.one("tracestate")), (Some(&*unsampled), Some("a=1")));
        for headers in [
            &[][..],
            &[("traceparent", "nonsense"), ("tracestate", "a=1")],
            &[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")],
        ] {
            broker.request("api", "GET", "/", headers, b"");
            let (trace, span) = seen(&upstream);
            assert_ne!(trace, TRACE);
            assert_eq!(upstream.requests().pop().unwrap().all("tracestate"), [""; 0], "it is of another trace");
            let spans = of_trace(&collector, &trace, 2);
            assert_eq!((spans[0].get("parentSpanId"), spans[1]["spanId"].as_str()), (None, Some(&*span)));
        }
        assert!(!collector.bytes().contains(TRACE));
    }

    #[test]
    fn an_answer_of_the_brokers_own_is_a_span_with_its_code() {
        let (upstream, collector) = (Upstream::start(|_| Action::Close), Upstream::ok());
        let broker = traced(&upstream, &collector, "methods = [\"GET\"]");
        broker.request("api", "GET", "/", &[("traceparent", PARENT)], b"");
        let spans = of_trace(&collector, TRACE, 2);
        for span in &spans {
            assert_eq!(
                (attribute(span, "error.type").as_str(), &span["status"]["code"]),
                ("upstream_protocol", &2.into())
            );
        }
        assert_eq!(attribute(&spans[0], "tokenbroker.origin"), "broker");
        assert_eq!(
            (attribute(&spans[0], "http.response.status_code"), attribute(&spans[1], "http.response.status_code")),
            ("502".into(), String::new())
        );
        let other = PARENT.replace("4bf9", "5bf9");
        broker.request("api", "PROPFIND", "/", &[("traceparent", &other)], b"");
        let spans = of_trace(&collector, &TRACE.replace("4bf9", "5bf9"), 1);
        assert_eq!((spans.len(), spans[0]["name"].as_str()), (1, Some("HTTP api")), "it never went to the API");
        assert_eq!(attribute(&spans[0], "http.request.method"), "_OTHER");
        assert_eq!(
            (attribute(&spans[0], "error.type").as_str(), &spans[0]["status"]),
            ("method_refused", &serde_json::json!({}))
        );
    }

    #[test]
    fn each_token_exchange_is_a_span_with_the_class_of_its_failure() {
        let (oauth, collector) = (OAuth::start(Duration::from_secs(3600)), Upstream::ok());
        let config = format!("otlp = \"{}/base\"\n{}", collector.url(), oauth.config("", ""));
        let broker = Broker::start_in(oauth.directory(), &config, |_| {});
        broker.wait_for_state("api", "valid");
        let exchanges = || spans(&collector).into_iter().filter(|span| attribute(span, "tokenbroker.token") == "api");
        eventually("the exchange is a span", || exchanges().count() == 1);
        let first = exchanges().next().unwrap();
        assert_eq!((first["kind"].as_i64(), first["name"].as_str()), (Some(3), Some("POST api")));
        assert_eq!(attribute(&first, "tokenbroker.operation"), "acquire");
        assert_eq!(attribute(&first, "http.response.status_code"), "200");
        assert_eq!((attribute(&first, "error.type").as_str(), first.get("parentSpanId")), ("", None));
        crate::support::write(broker.directory.path(), "secret", "another one");
        broker.admin("POST", "/api/tokens/api/refresh");
        let failed = || exchanges().find(|span| span["status"]["code"] == 2);
        eventually("so is one that fails", || failed().is_some());
        assert_eq!(attribute(&failed().unwrap(), "error.type"), broker.token("api")["class"].as_str().unwrap());
    }

    #[test]
    fn a_collector_that_hangs_delays_nobody_and_what_it_does_not_take_is_counted() {
        let (upstream, collector) = (
            Upstream::ok(),
            Upstream::start(|_| {
                Action::Take(Box::new(|stream| {
                    std::thread::sleep(Duration::from_secs(60));
                    drop(stream);
                }))
            }),
        );
        let mut broker = traced(&upstream, &collector, "");
        let began = Instant::now();
        let mut wire = Wire::open(broker.address("api"));
        // Two spans each, and more of them than a batch and the queue can hold.
        for _ in 0..1500 {
            assert_eq!(wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").reply("GET").unwrap().status, 200);
        }
        assert!(began.elapsed() < crate::support::PATIENCE);
        assert!(broker.metric("tokenbroker_spans_total{outcome=\"dropped\"}") > 0.5);
        eventually("what was sent is lost", || broker.metric("tokenbroker_spans_total{outcome=\"failed\"}") > 0.5);
        let line = logged(&broker, "spans are not exported");
        assert_eq!(line["collector"], collector.address.to_string());
        drop(wire);
        assert_eq!(broker.stop().code(), Some(0), "no drain waits for a collector for long");
        broker.logs("the collector did not take the last spans in time");
    }

    #[test]
    fn a_collector_that_keeps_up_gets_every_span() {
        let (upstream, collector) = (Upstream::ok(), Upstream::ok());
        let mut broker = traced(&upstream, &collector, "");
        let mut wire = Wire::open(broker.address("api"));
        for _ in 0..1500 {
            assert_eq!(wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").reply("GET").unwrap().status, 200);
        }
        drop(wire);
        assert_eq!(broker.stop().code(), Some(0));
        assert_eq!(spans(&collector).len(), 3000);
    }

    #[test]
    fn what_is_left_goes_out_when_the_broker_ends() {
        let (upstream, collector) = (Upstream::ok(), Upstream::ok());
        let mut broker = traced(&upstream, &collector, "");
        broker.request("api", "GET", "/", &[("traceparent", PARENT)], b"");
        assert_eq!(broker.stop().code(), Some(0));
        assert_eq!(spans(&collector).iter().filter(|span| span["traceId"] == TRACE).count(), 2);
    }

    #[test]
    fn a_collector_elsewhere_is_spoken_to_over_tls_with_the_roots_of_the_system() {
        let echo = Arc::new(Echo::new(issuer(HOUR)));
        for (trusted, said) in [(true, "the collector answers 401"), (false, "no TLS with localhost: ")] {
            let directory = tempfile::tempdir().unwrap();
            let pki = Pki::new(directory.path()).unwrap();
            let tls = pki.server_config(&pki.issue(&Leaf::server("server")).unwrap(), Clients::None).unwrap();
            let collector = RUNTIME.block_on(Server::start(Arc::clone(&echo), Some(tls))).unwrap();
            assert!(collector.url().starts_with("https://localhost:"), "{}", collector.url());
            let upstream = Upstream::ok();
            let config = format!("otlp = \"{}\"\n{}", collector.url(), static_route(&upstream, ""));
            let roots = directory.path().join("ca.pem");
            let broker = Broker::start_in(directory, &config, |command| {
                if trusted {
                    command.env("SSL_CERT_FILE", roots);
                }
            });
            assert_eq!(broker.get("api", "/").status, 200);
            // The stand-in wants a token, which no collector gets.
            assert!(logged(&broker, "spans are not exported")["error"].as_str().unwrap().contains(said));
        }
    }

    #[test]
    fn a_collectors_url_is_checked_and_never_shown() {
        let route = static_route(&Upstream::ok(), "");
        for (url, problem) in [
            ("http://collector.example.com:4318", "the traces would cross the network unencrypted; use https://"),
            ("http://planted-user:planted-word@127.0.0.1:4318", "is not a usable URL; no user name, query or fragment"),
            ("http://127.0.0.1:4318?planted-query", "is not a usable URL; no user name, query or fragment"),
            ("127.0.0.1:4318", "is not a usable URL; written like"),
        ] {
            let (status, stdout, stderr) = run_to_end(&format!("[admin]\notlp = \"{url}\"\n{route}"), &["check"]);
            assert!(status == 78 && stderr.contains(&format!(":2:8: admin.otlp: {problem}")), "{url}: {stderr}");
            assert!(!(stdout + &stderr).contains("planted"), "{url}");
        }
        let (status, _, stderr) =
            run_to_end(&format!("[admin]\notlp = \"https://collector.example.com/base/\"\n{route}"), &["check"]);
        assert!(status == 0 && !stderr.contains("otlp"), "{stderr}");
    }
}
