//! Token servers that refuse or answer wrongly, and what the status and the log say of the token then.

use super::{Section, logged, normal};
use crate::door::free_port;
use crate::support::{Action, Broker, Upstream, eventually, write};

/// What the token server answers under each path, and keys of the token.
const ANSWERS: &[(&str, &str, &str, &str)] = &[
    ("down", "503 Down", "", ""),
    ("error-page", "500 Oops", "<html>Oops</html>", ""),
    ("too-many", "429 Many", "", ""),
    ("teapot", "418 Teapot", "no coffee", ""),
    ("moved", "302 Moved", "", ""),
    ("not-found", "404 Not Found", "", ""),
    ("page", "200 OK", "<html>Log in</html>", ""),
    ("empty", "200 OK", "", ""),
    ("no-token", "200 OK", "{}", ""),
    ("not-json", "200 OK", "{\"access_token\":\"t", ""),
    ("line-break", "200 OK", "{\"access_token\":\"a\\r\\nX-Evil: 1\"}", ""),
    ("mac", "200 OK", "{\"access_token\":\"t\",\"token_type\":\"mac\"}", ""),
    ("over", "200 OK", "{\"access_token\":\"t\",\"expires\":\"2020-01-01T00:00:00Z\"}", "dialect = \"dated\""),
    ("refused", "200 OK", "{\"error\":\"bad_verification_code\",\"error_description\":\"The code is bad.\"}", ""),
    ("client", "401 No", "{\"error\":\"invalid_client\",\"error_description\":\"Unknown client.\"}", ""),
    ("client-or-user", "401 No", "{\"error\":\"invalid_client\"}", PASSWORD),
    ("user", "400 No", "{\"error\":\"invalid_grant\",\"error_description\":\"Bad credentials.\"}", PASSWORD),
    ("refresh-token", "400 No", "{\"error\":\"invalid_grant\"}", REFRESH),
    ("scope", "400 No", "{\"error\":\"invalid_scope\"}", ""),
    ("slow-down", "400 No", "{\"error\":\"slow_down\"}", ""),
    ("secret-ended", "401 No", "{\"error\":\"expired\"}", "dialect = \"ruled\""),
    ("certificate", "403 No", "{\"error\":\"certificate\"}", "dialect = \"ruled\""),
    ("own-fix", "403 No", "{\"error\":\"portal\"}", "dialect = \"ruled\""),
];
const PASSWORD: &str = "grant = \"password\"\nusername = \"u\"\npassword = { file = \"secret\" }";
const REFRESH: &str = "grant = \"refresh_token\"\nrefresh_token = { file = \"secret\" }";
const DIALECTS: &str = "[dialect.ruled]\nextends = \"oauth2\"\n\
    [[dialect.ruled.error]]\nwhen = { code = \"expired\" }\nclass = \"secret_expired\"\n\
    [[dialect.ruled.error]]\nwhen = { code = \"certificate\" }\nclass = \"user_action\"\n\
    [[dialect.ruled.error]]\nwhen = { code = \"portal\" }\nclass = \"user_action\"\nfix = \"ask the portal\"\n\
    [dialect.dated]\nextends = \"oauth2\"\n[dialect.dated.answer]\nexpires = { at = \"json:expires\" }\n";

/// Tokens that fail before anything is sent, or whose server is away.
const OTHERS: &[(&str, &str)] = &[
    ("gone", "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { file = \"gone\" }"),
    ("fails", "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { exec = [\"false\"] }"),
    ("killed", "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { exec = [\"sh\", \"-c\", \"kill -9 $$\"] }"),
    ("silent", "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { exec = [\"true\"] }"),
    (
        "long",
        "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { exec = [\"head\", \"-c\", \"70000\", \"/dev/zero\"] }",
    ),
    ("binary", "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { exec = [\"printf\", \"\\\\377\"] }"),
    (
        "header",
        "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\nheaders = { A = { exec = [\"printf\", \"a\\\\nb\"] } }",
    ),
    ("made-by-hand", "grant = \"static\"\naccess_token = { exec = [\"printf\", \"a\\\\nb\"] }"),
    (
        "over-by-hand",
        "grant = \"static\"\naccess_token = { exec = [\"printf\", \"eyJhbGciOiJub25lIn0.eyJleHAiOjE2MDAwMDAwMDB9.x\"] }",
    ),
    ("refused", "url = \"http://127.0.0.1:CLOSED/x\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }"),
    (
        "unknown-host",
        "url = \"https://no-such-name.invalid/x\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }",
    ),
    ("limited", "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\nlimit = \"1 per 1h\""),
    ("slow", "url = \"URL/slow\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\ntimeout = \"500ms\""),
    ("huge", "url = \"URL/huge\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }"),
    ("cut", "url = \"URL/cut\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }"),
    (
        "nobody-logged-in",
        "url = \"URL/x\"\nclient_id = \"c\"\nclient_secret = { file = \"secret\" }\ngrant = \"authorization_code\"\nauthorize_url = \"https://a.example\"",
    ),
];

fn server() -> Upstream {
    Upstream::start(|request| {
        let path = request.line().split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
        if let Some((name, status, body, _)) = ANSWERS.iter().find(|(name, ..)| *name == path) {
            let kind = if body.starts_with('<') { "text/html" } else { "application/json" };
            let kind = if body.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
            let to = if *name == "moved" { "Location: https://elsewhere.example/x\r\n" } else { "" };
            let head = format!("HTTP/1.1 {status}\r\n{kind}{to}Content-Length: {}\r\n\r\n{body}", body.len());
            return Action::Reply(head.into_bytes());
        }
        match path.as_str() {
            "slow" => Action::Take(Box::new(|stream| {
                std::thread::sleep(std::time::Duration::from_secs(60));
                drop(stream);
            })),
            "huge" => Action::ok(&"x".repeat(300_000)),
            "cut" => Action::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec()),
            _ => Action::ok("{\"access_token\":\"t\",\"expires_in\":3600}"),
        }
    })
}

#[test]
fn every_failure_of_a_token_reads_well() {
    let server = server();
    let mut config = DIALECTS.to_owned();
    let mut names = Vec::new();
    let mut table = |name: &str, keys: &str| {
        let (keys, port) = (keys.replace("URL", &server.url()), free_port().to_string());
        config.push_str(&format!("[token.{name}]\n{}\nrequired = true\n", keys.replace("CLOSED", &port)));
        names.push(name.to_owned());
    };
    for (name, _, _, keys) in ANSWERS {
        let client = format!("url = \"URL/{name}\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}");
        table(&format!("answer-{name}"), &format!("{client}\n{keys}"));
    }
    OTHERS.iter().for_each(|(name, keys)| table(name, keys));
    config.push_str(
        "[route.one]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\ntoken = \"answer-down\"\n",
    );
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "secret", "a secret");
    write(directory.path(), "gone", "a secret");
    let home = directory.path().to_owned();
    let broker = Broker::start_in(directory, &config, |command| {
        // What check has read is gone when it is used.
        command.env("HOME", "/");
    });
    std::fs::remove_file(home.join("gone")).unwrap();
    broker.wait_for_state("limited", "valid");
    for name in ["gone", "limited"] {
        broker.admin("POST", &format!("/api/tokens/{name}/refresh"));
    }
    let mut section = Section::default();
    for name in &names {
        let error = || broker.token(name)["last_error"].as_str().map(str::to_owned);
        eventually(name, || error().is_some());
        let state = broker.token(name)["state"].as_str().unwrap().to_owned();
        let said = error().unwrap().replace(&format!("{}/", home.display()), "");
        section.show(name.trim_start_matches("answer-"), &format!("{state}: {said}"));
    }
    for _ in 0..2 {
        broker.admin("POST", "/api/tokens/answer-user/refresh");
    }
    section.show("user, asked again and again", broker.token("answer-user")["last_error"].as_str().unwrap());
    let log = logged(&broker, |line| line["token"] == "answer-client" && !line["error"].is_null());
    section.show("the log of one of them", &log);
    let ready = broker.admin("GET", "/readyz?verbose").text();
    section.show("its line in /readyz?verbose", ready.lines().find(|line| line.contains("answer-client")).unwrap());
    let status = broker.command(&["status"]).1;
    let at = status.lines().position(|line| line.contains("token answer-client")).unwrap();
    let lines: Vec<_> = status.lines().skip(at).take(2).collect();
    section.show("its lines in tokenbroker status", &normal(&lines.join("\n")));
    section.is_golden("token");
}
