use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::exchange::OAuth;
use crate::support::{Broker, has, output, write};

fn started() -> (OAuth, Broker, String) {
    let oauth = OAuth::start(Duration::from_secs(3600));
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    let url = format!("http://{}", broker.listen("api"));
    (oauth, broker, url)
}

/// The bodies that a client printed: each must have come from the API, with the token accepted.
#[track_caller]
fn answers(printed: &str) -> Vec<(String, String)> {
    let lines = printed.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let answer: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert_eq!(answer["token_accepted"], true, "{answer}");
            let text = |key: &str| answer[key].as_str().unwrap().to_owned();
            (text("target"), text("body"))
        })
        .collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(target, body)| ((*target).to_owned(), (*body).to_owned())).collect()
}

/// `tests/clients/NAME`.
fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn curl_works_in_every_version_of_http_it_offers_and_with_every_framing() {
    if !has("curl") {
        return;
    }
    let (_oauth, broker, url) = started();
    let big = "b".repeat(1_500_000);
    let file = write(broker.directory.path(), "big", &big);
    let curl = |arguments: &[&str]| {
        let out = output(Command::new("curl").args(["-sS", "--fail", "--max-time", "20"]).args(arguments));
        let answer: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
        assert_eq!(answer["token_accepted"], true);
        answer
    };
    let target = format!("{url}/x?y=z");
    for version in ["--http1.1", "--http1.0", "--http2"] {
        assert_eq!(curl(&[version, &target])["target"], "/x?y=z", "{version}");
        assert_eq!(curl(&[version, "-d", "hello", &target])["body"], "hello", "{version}");
    }
    let upload = format!("@{}", file.display());
    let answer = curl(&["-H", "Expect: 100-continue", "--data-binary", &upload, &target]);
    assert_eq!(answer["body"].as_str().unwrap().len(), big.len());
    let answer = curl(&["-H", "Transfer-Encoding: chunked", "--data-binary", &upload, &target]);
    assert_eq!(answer["body"].as_str().unwrap().len(), big.len());
    assert_eq!(curl(&["-X", "DELETE", &target])["method"], "DELETE");
    assert_eq!(curl(&["-u", "user:password", &target])["target"], "/x?y=z", "its own credential is replaced");
    let head = output(Command::new("curl").args(["-sSI", &target]));
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.to_lowercase().contains("content-length: "), "{head}");
    let twice = output(Command::new("curl").args([
        "-sS",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}:%{num_connects} ",
        &target,
        &target,
    ]));
    assert_eq!(twice, "200:1 200:0 ", "the connection is kept");
}

#[test]
fn python_clients_simply_work() {
    if !has("python3") {
        return;
    }
    let (_oauth, _broker, url) = started();
    let printed = output(Command::new("python3").arg(script("client.py")).arg(&url));
    let expected = [
        ("/python?get", ""),
        ("/python?post", "from urllib"),
        ("/python?put", "known length"),
        ("/python?chunked", "in chunks"),
    ];
    assert_eq!(answers(&printed), pairs(&expected));
}

#[test]
fn node_clients_simply_work() {
    if !has("node") {
        return;
    }
    let (oauth, _broker, url) = started();
    let printed = output(Command::new("node").arg(script("client.mjs")).arg(&url));
    let expected = [
        ("/node?get", ""),
        ("/node?post", "from fetch"),
        ("/node?stream", "in chunks"),
        ("/node?agent-1", ""),
        ("/node?agent-2", ""),
    ];
    assert_eq!(answers(&printed), pairs(&expected));
    assert_eq!(oauth.echo.seen()[0].headers["sec-fetch-mode"], "cors", "it does send this");
}

#[test]
fn java_clients_simply_work() {
    if !has("java") {
        return;
    }
    let (oauth, _broker, url) = started();
    let printed = output(Command::new("java").arg(script("Client.java")).arg(&url));
    let old = ("/java?old", "from HttpURLConnection");
    assert_eq!(answers(&printed), pairs(&[("/java?get", ""), ("/java?post", "from HttpClient"), old, old]));
    for seen in oauth.echo.seen() {
        assert!(
            !seen.headers.contains_key("http2-settings") && !seen.headers.contains_key("upgrade"),
            "{:?}",
            seen.headers
        );
    }
}

#[test]
fn ab_keeps_its_connections_and_gets_every_answer() {
    if !has("ab") {
        return;
    }
    let (_oauth, broker, url) = started();
    let report = output(Command::new("ab").args(["-k", "-q", "-n", "3000", "-c", "24", &format!("{url}/ab")]));
    let figure = |name: &str| {
        let line = report.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {report}"));
        line.split(':').nth(1).unwrap().trim().split(' ').next().unwrap().to_owned()
    };
    assert_eq!((figure("Complete requests").as_str(), figure("Failed requests").as_str()), ("3000", "0"));
    assert_eq!(figure("Keep-Alive requests"), "3000");
    assert_eq!(broker.status()["routes"]["api"]["requests"], 3000);
}
