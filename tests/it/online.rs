use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokenbroker::standin::pki::{Clients, Leaf, Pki};
use tokenbroker::standin::{Echo, Fault, Issuer, OAuth2, Server};

use crate::door::free_port;
use crate::exchange::OAuth;
use crate::store::{Home, PASSWORD, STORE};
use crate::support::{Action, Broker, HOUR, RUNTIME, RedisServer, Upstream, binary, eventually, write};

const ONLINE: [&str; 2] = ["check", "--online"];

/// `check --online` in a directory: exit status, stdout, stderr.
fn check(directory: &TempDir, config: &str, flags: &[&str]) -> (i32, String, String) {
    // Nothing may be found at the operator's own default.
    let config = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n{config}", free_port());
    let file = write(directory.path(), "online.toml", config);
    let output = binary().arg("-c").arg(file).args(ONLINE).args(flags).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    for secret in [OAuth2::CLIENT_SECRET, OAuth2::PASSWORD, "at-"] {
        assert!(!stdout.contains(secret) && !stderr.contains(secret), "{secret}: {stdout}{stderr}");
    }
    (output.status.code().unwrap(), stdout, stderr)
}

/// The exit status, and each step of a route with its result, what was said of it, and what to do.
fn steps(directory: &TempDir, config: &str, route: &str) -> (i32, Vec<(String, String, String)>) {
    let (code, stdout, stderr) = check(directory, config, &["--json"]);
    let json: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
    assert_eq!(json["ok"], code == 0, "{json}");
    let steps = json["routes"][route]["steps"].as_array().unwrap_or_else(|| panic!("{json}")).iter();
    let word = |step: &Value, key: &str| step[key].as_str().unwrap_or_default().to_owned();
    let steps = steps.map(|step| {
        assert!(step["seconds"].is_f64(), "{step}");
        let said = ["detail", "fix", "explain"].map(|key| word(step, key)).join("|");
        (word(step, "step"), word(step, "result"), said)
    });
    (code, steps.collect())
}

/// The results alone, in order.
fn results(steps: &[(String, String, String)]) -> Vec<String> {
    steps.iter().map(|(step, result, _)| format!("{step} {result}")).collect()
}

fn with_upstream(oauth: &OAuth, upstream: &Upstream, token: &str, route: &str) -> String {
    oauth.config(token, route).replace(&oauth.api.url(), &upstream.url())
}

#[test]
fn each_step_of_a_route_is_proved_with_one_exchange_and_one_request() {
    let (oauth, upstream) = (OAuth::start(HOUR), Upstream::ok());
    let config = with_upstream(&oauth, &upstream, "", "headers = { X-Plan = \"gold\" }");
    let (code, stdout, stderr) = check(&oauth.directory(), &config, &[]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].ends_with("online.toml: ok (1 route, 1 token)"), "{stdout}");
    assert_eq!(lines[1], "route api");
    for (line, step, said) in [
        (lines[2], "  secrets   ok ", "1 secret read"),
        (lines[3], "  token     ok ", "oauth2, client_credentials; it ends at 20"),
        (lines[4], "  connect   ok ", "TCP with 127.0.0.1, port "),
        (lines[5], "  answer    ok ", "GET /: 200"),
    ] {
        assert!(line.starts_with(step) && line.contains(" s  ") && line.contains(said), "{line}");
    }
    assert_eq!((lines.len(), oauth.oauth.faults.calls()), (6, 1));
    let request = upstream.only();
    assert!(request.head.starts_with("GET / HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.one("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(request.one("x-plan"), Some("gold"));
    let token = request.one("authorization").unwrap().strip_prefix("Bearer ").unwrap();
    assert!(oauth.oauth.issuer.is_good(token), "{token}");
}

#[test]
fn a_token_that_the_store_has_is_used_and_a_new_one_is_kept_for_the_broker() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    for kept in [false, true] {
        let (code, stdout, stderr) = home.run(&ONLINE);
        assert_eq!(code, 0, "{stdout}{stderr}");
        let said = stdout.contains("; it was in the store, so the credentials were not tried\n");
        assert_eq!(said, kept, "{stdout}");
    }
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.faults.calls(), 1);
}

#[test]
fn a_running_broker_is_asked_for_its_token() {
    let oauth = OAuth::start(HOUR);
    for store in ["", STORE] {
        let directory = oauth.directory();
        write(directory.path(), "store_key", "0123456789abcdef0123456789abcdef");
        let broker = Broker::start_in(directory, &format!("{store}{}", oauth.config(PASSWORD, "")), |_| {});
        broker.wait_for_state("api", "valid");
        let before = oauth.oauth.faults.calls();
        let (code, stdout, stderr) = broker.command(&ONLINE);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert_eq!(oauth.oauth.faults.calls(), before, "{stdout}");
        assert!(stdout.contains("; it is the running broker's\n"), "{stdout}");
    }
}

#[test]
fn a_refresh_token_that_rotates_is_kept_or_not_used_at_all() {
    let oauth = OAuth::start(Duration::from_secs(1));
    let mut home = Home::new(&oauth, "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }");
    write(home.directory.path(), "seed", oauth.oauth.issuer.refresh_token(None));
    let kept = home.config.clone();
    home.config = kept.strip_prefix(STORE).unwrap().to_owned();
    let (code, stdout, _) = home.run(&ONLINE);
    assert!(code == 1 && stdout.contains("the store is in memory: the next one would be lost"), "{stdout}");
    assert!(stdout.contains("set [store] kind = \"file\""), "{stdout}");
    assert_eq!(oauth.oauth.faults.calls(), 0);
    home.config = kept;
    for _ in 0..2 {
        let issued = oauth.oauth.issuer.issued();
        eventually("the token before has ended", || {
            let (_, stdout, stderr) = home.run(&ONLINE);
            assert!(stdout.contains("  token     ok"), "{stdout}{stderr}");
            oauth.oauth.issuer.issued() > issued
        });
    }
    assert_eq!(oauth.oauth.issuer.ended(), 0, "none was sent twice");
}

/// A command whose exchange the server has acted on, and not answered yet.
fn in_flight(home: &Home, oauth: &OAuth, command: &[&str], late: Duration) -> Child {
    write(home.directory.path(), "seed", oauth.oauth.issuer.refresh_token(None));
    oauth.oauth.faults.set(Some(Fault::Slow(late)), None);
    let before = oauth.oauth.issuer.issued();
    let file = write(home.directory.path(), "flight.toml", &home.config);
    let child = binary().arg("-c").arg(file).args(command).stdout(Stdio::null()).spawn().unwrap();
    eventually("it is in flight", || oauth.oauth.issuer.issued() == before + 1);
    oauth.oauth.faults.set(None, None);
    child
}

const ROTATING: &str = "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }\ntimeout = \"60s\"";

#[test]
fn a_signal_ends_a_command_after_the_exchange_in_flight_whose_refresh_token_is_kept() {
    let oauth = OAuth::start(HOUR);
    for (command, signal, status) in [
        (&ONLINE[..], Signal::INT, 130),
        (&["token", "api"], Signal::TERM, 143),
        (&["token", "api", "--json"], Signal::HUP, 129),
    ] {
        let home = Home::new(&oauth, ROTATING);
        let mut child = in_flight(&home, &oauth, command, Duration::from_millis(800));
        let issued = oauth.oauth.issuer.issued();
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status), "{command:?}");
        let (code, stdout, stderr) = home.run(&ONLINE);
        assert_eq!(code, 0, "{stdout}{stderr}");
        assert_eq!((oauth.oauth.issuer.issued(), oauth.oauth.issuer.ended()), (issued, 0), "{command:?}");
    }
}

#[test]
fn a_second_signal_ends_a_command_at_once() {
    let oauth = OAuth::start(HOUR);
    let mut child = in_flight(&Home::new(&oauth, ROTATING), &oauth, &ONLINE, Duration::from_secs(300));
    eventually("it has ended without an answer", || {
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn where_the_budget_is_used_up_nothing_is_sent_and_the_time_of_the_next_is_told() {
    let oauth = OAuth::start(Duration::from_secs(1));
    let home = Home::new(&oauth, "limit = \"1 per 1h\"");
    assert_eq!(home.run(&ONLINE).0, 0);
    let mut told = String::new();
    eventually("the token has ended", || {
        let (code, stdout, _) = home.run(&ONLINE);
        told = stdout;
        code == 1 && told.contains("  token     failed")
    });
    assert!(told.contains("rate_limited: the limit of 1 per 3600 s is used up. Nothing was sent: "), "{told}");
    assert!(
        told.contains("the next attempt is in 3") && told.contains("see: tokenbroker explain rate_limited"),
        "{told}"
    );
    let broker = home.broker();
    let (code, told, _) = broker.command(&ONLINE);
    assert!(code == 1 && told.contains("the limit of 1 per 3600 s is used up. Nothing was sent: "), "{told}");
    assert_eq!(oauth.oauth.faults.calls(), 1);
}

#[test]
fn a_person_who_mended_something_at_the_vendor_need_not_wait_but_no_password_is_sent_for_ever() {
    let oauth = OAuth::start(HOUR);
    for (keys, refusal, calls) in [("", "invalid_client", 3), (PASSWORD, "invalid_grant", 1)] {
        let server = Upstream::start(move |_| {
            let body = format!("{{\"error\":\"{refusal}\"}}");
            Action::Reply(format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into())
        });
        let mut home = Home::new(&oauth, keys);
        home.config = home.config.replace(&oauth.server.url(), &server.url());
        for _ in 0..3 {
            assert_eq!(home.run(&ONLINE).0, 1);
        }
        assert_eq!(server.requests().len(), calls, "{refusal}");
        let (code, _, stderr) = home.run(&["token", "api"]);
        assert!(code == 1 && server.requests().len() == calls, "a script waits: {stderr}");
    }
}

#[test]
fn a_wrong_secret_stops_its_own_route_where_it_is_and_the_others_are_tried() {
    let (oauth, upstream) = (OAuth::start(HOUR), Upstream::ok());
    let directory = oauth.directory();
    write(directory.path(), "secret", "wrong");
    let other = format!(
        "[token.other]\ngrant = \"static\"\naccess_token = {{ file = \"password\" }}\n\
         [route.other]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
        upstream.url()
    );
    let config = format!("{}{other}", oauth.config("", ""));
    let (code, wrong) = steps(&directory, &config, "api");
    assert_eq!(code, 1);
    assert_eq!(results(&wrong), ["secrets ok", "token failed", "connect ok", "answer skipped"], "{wrong:?}");
    let said = &wrong[1].2;
    assert!(
        said.starts_with("client_rejected: localhost: ") && said.contains("check client_id and client_secret"),
        "{said}"
    );
    assert!(said.ends_with("|client_rejected"), "{said}");
    assert!(wrong[3].2.starts_with("there is no token to send"), "{wrong:?}");
    let (_, fine) = steps(&directory, &config, "other");
    assert_eq!(results(&fine), ["secrets ok", "token ok", "connect ok", "answer ok"], "{fine:?}");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn a_token_server_that_is_not_there_and_a_secret_that_cannot_be_read_are_named() {
    let oauth = OAuth::start(HOUR);
    let gone =
        oauth.config("timeout = \"2s\"", "").replace(&oauth.server.url(), &format!("http://127.0.0.1:{}", free_port()));
    let (code, found) = steps(&oauth.directory(), &gone, "api");
    assert_eq!(code, 1);
    assert_eq!(results(&found), ["secrets ok", "token failed", "connect ok", "answer skipped"], "{found:?}");
    assert!(found[1].2.contains("cannot connect to 127.0.0.1:"), "{found:?}");

    let failing = oauth.config("", "").replace("{ file = \"secret\" }", "{ exec = [\"false\"] }");
    let (code, found) = steps(&oauth.directory(), &failing, "api");
    assert_eq!(code, 1);
    assert_eq!(results(&found), ["secrets failed", "token skipped", "connect ok", "answer skipped"], "{found:?}");
    assert!(found[0].2.starts_with("the command \"false\" failed"), "{found:?}");
    assert_eq!(oauth.oauth.faults.calls(), 0);
}

#[test]
fn a_certificate_that_nobody_trusts_an_api_that_is_away_and_one_that_is_no_http_are_named() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    let pki = Pki::new(directory.path()).unwrap();
    let files = pki.issue(&Leaf::server("server")).unwrap();
    let tls = pki.server_config(&files, Clients::None).unwrap();
    let issuer = std::sync::Arc::new(Issuer::new(tokenbroker::clock::Clock::system(), HOUR));
    let api = RUNTIME.block_on(Server::start(std::sync::Arc::new(Echo::new(issuer)), Some(tls))).unwrap();
    let odd = Upstream::start(|_| Action::Last(b"SSH-2.0-x\r\n\r\n".to_vec()));
    let away = format!("http://127.0.0.1:{}", free_port());
    for (url, route, wanted, said) in [
        (
            api.url(),
            "",
            ["connect failed", "answer skipped"],
            "no CA that is trusted has signed its certificate; name its CA with `ca`||upstream_tls",
        ),
        (away, "", ["connect failed", "answer skipped"], "Check the route's `upstream` and the network"),
        (odd.url(), "", ["connect ok", "answer failed"], "upstream_protocol"),
        (api.url(), "ca = \"ca.pem\"", ["connect ok", "answer failed"], "invalid_token"),
    ] {
        let config = oauth.config("", route).replace(&oauth.api.url(), &url);
        let (code, found) = steps(&directory, &config, "api");
        assert_eq!(code, 1, "{found:?}");
        assert_eq!(results(&found), [&["secrets ok", "token ok"], &wanted[..]].concat(), "{found:?}");
        let failed = found.iter().find(|(_, result, _)| result == "failed").unwrap();
        assert!(failed.2.contains(said), "{said}: {failed:?}");
    }
}

#[test]
fn any_status_proves_that_the_api_is_there_but_401_refuses_the_token() {
    let oauth = OAuth::start(HOUR);
    for (status, code, result, said) in [
        ("204 No Content", 0, "ok", "GET /: 204||"),
        ("404 Not Found", 0, "ok", "GET /: 404||"),
        ("403 Forbidden", 0, "ok", "GET /: 403: the API knows the token, and may not allow it this path"),
        ("503 Service Unavailable", 0, "ok", "GET /: 503: the API is there, and in trouble itself"),
        ("401 Unauthorized", 1, "failed", "GET /: 401: the API does not take the token|If it stays"),
    ] {
        let upstream = Upstream::start(move |_| Action::status(status));
        let (ended, found) = steps(&oauth.directory(), &with_upstream(&oauth, &upstream, "", ""), "api");
        assert_eq!((ended, found[3].1.as_str()), (code, result), "{found:?}");
        assert!(found[3].2.starts_with(said), "{said}: {found:?}");
    }
    let upstream = Upstream::start(|_| Action::status("401 Unauthorized"));
    let open = format!("[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\ntoken = false\n", upstream.url());
    let (code, found) = steps(&oauth.directory(), &open, "api");
    assert_eq!(code, 0, "{found:?}");
    assert_eq!(results(&found), ["secrets ok", "connect ok", "answer ok"], "nobody promised a token: {found:?}");
    assert_eq!(upstream.only().one("authorization"), None);
}

#[test]
fn the_api_is_asked_for_nothing_that_the_route_does_not_allow() {
    let oauth = OAuth::start(HOUR);
    for (route, asked) in [
        ("paths = [\"/v1/units\", \"/v2\"]", Some("GET /base/v1/units HTTP/1.1\r\n")),
        ("path = \"/api\"", Some("GET /base/ HTTP/1.1\r\n")),
        ("path = \"/api\"\nstrip = false", Some("GET /base/api HTTP/1.1\r\n")),
        ("methods = [\"HEAD\", \"POST\"]", Some("HEAD /base/ HTTP/1.1\r\n")),
        ("methods = [\"POST\"]", None),
    ] {
        let upstream = Upstream::ok();
        let config = oauth.config("", route).replace(&oauth.api.url(), &format!("{}/base", upstream.url()));
        let (code, found) = steps(&oauth.directory(), &config, "api");
        assert_eq!(code, 0, "{found:?}");
        match asked {
            Some(asked) => assert!(upstream.only().head.starts_with(asked), "{}", upstream.only().head),
            None => {
                assert_eq!(results(&found)[2..], ["connect ok", "answer skipped"], "{found:?}");
                assert!(upstream.requests().is_empty());
            }
        }
    }
}

#[test]
fn a_mistake_in_the_configuration_or_a_damaged_store_comes_before_anything_is_sent() {
    let oauth = OAuth::start(HOUR);
    let (code, _, stderr) = check(&oauth.directory(), &format!("{}bogus = 1\n", oauth.config("", "")), &[]);
    assert!(code == 78 && stderr.contains("route.api.bogus"), "{stderr}");
    let home = Home::new(&oauth, "");
    assert_eq!(home.run(&ONLINE).0, 0);
    for entry in std::fs::read_dir(home.path("kept")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().contains("api") {
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
    }
    let (code, stdout, stderr) = home.run(&ONLINE);
    assert!(code == 1 && stderr.contains("damaged") && !stdout.contains("route api"), "{stdout}{stderr}");
    assert_eq!(oauth.oauth.faults.calls(), 1);
}

#[test]
fn with_a_shared_store_what_one_machine_obtained_is_the_others_too() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let oauth = OAuth::start(HOUR);
    let seed = oauth.oauth.issuer.refresh_token(None);
    let store =
        format!("[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\nkey = {{ file = \"key\" }}\n", redis.port);
    let config = oauth.config("grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }", "");
    for _ in 0..2 {
        let directory = oauth.directory();
        write(directory.path(), "key", "0123456789abcdef0123456789abcdef");
        write(directory.path(), "seed", &seed);
        let (code, stdout, stderr) = check(&directory, &format!("{store}{config}"), &[]);
        assert_eq!(code, 0, "{stdout}{stderr}");
    }
    assert_eq!((oauth.oauth.faults.calls(), oauth.oauth.issuer.ended()), (1, 0));
}
