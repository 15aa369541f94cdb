use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokenbroker::standin::{Fault, OAuth2};

use crate::exchange::OAuth;
use crate::exec::{Running, at_a_terminal};
use crate::support::{Action, Upstream, binary, call, output, write};

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: (&str, &str) = ("TOKENBROKER_CLIENT_SECRET", OAuth2::CLIENT_SECRET);

fn session(oauth: &OAuth, arguments: &[&str]) -> Command {
    let mut command = binary();
    let url = format!("{}/token", oauth.server.url());
    command.args(["try", &oauth.api.url(), "--client-id", OAuth2::CLIENT_ID, "--token-url", &url]).args(arguments);
    command.env_remove(SECRET.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The lines up to the one that ends the introduction.
fn introduced(running: &mut Running) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.starts_with("Ctrl-C")) {
        lines.push(running.line());
        assert!(lines.len() < 20, "{lines:?}");
    }
    lines
}

/// The one line to paste.
fn curl(lines: &[String]) -> String {
    let curls: Vec<_> = lines.iter().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(curls.len(), 1, "{lines:?}");
    curls[0].clone()
}

fn answer(line: &str) -> Value {
    serde_json::from_str(&output(Command::new("sh").args(["-c", &format!("{line} -sS")]))).unwrap()
}

/// Runs to its end: exit status, stdout, stderr.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_url_and_a_client_id_are_a_session() {
    let oauth = OAuth::start(HOUR);
    let mut running = Running::start(session(&oauth, &["--scope", "read", "--scope", "write"]).env(SECRET.0, SECRET.1));
    let lines = introduced(&mut running);
    let line = curl(&lines);
    assert!(
        line.starts_with("curl http://127.0.0.1:") && line.ends_with('/') && line.split(' ').count() == 2,
        "{line}"
    );
    assert_eq!(answer(&line)["token_accepted"], true);
    let page = lines.iter().find_map(|line| line.split_once("in a browser: ")).unwrap().1.trim();
    assert!(output(Command::new("curl").args(["-sS", &format!("{page}readyz")])).ends_with("ok\n"));
    let seen: Value =
        serde_json::from_str(&output(Command::new("curl").args(["-sS", &format!("{page}api/requests")]))).unwrap();
    assert_eq!(seen["requests"].as_array().map(Vec::len), Some(1), "the inspector is on: {seen}");
    running.signal(Signal::INT);
    let (code, rest, stderr) = running.end();
    assert_eq!((code, rest.trim_end()), (0, ""), "{stderr}");
    assert!(!stderr.contains(SECRET.1) && !lines.concat().contains(SECRET.1));
    assert!(stderr.contains("a secret in the environment can be read in /proc"), "{stderr}");
}

#[test]
fn a_secret_is_asked_for_at_the_terminal_and_not_shown() {
    let oauth = OAuth::start(HOUR);
    let asked = json!(["expect", "client_secret: "]);
    let typed = format!("x\u{15}{}y\u{7f}\n", OAuth2::CLIENT_SECRET);
    let steps = json!([
        asked,
        ["send", typed],
        ["expect", "curl http://127.0.0.1:"],
        ["expect", "Ctrl-C ends it"],
        ["send", "\u{3}"]
    ]);
    let shown = at_a_terminal(&session(&oauth, &[]), &steps);
    assert!(shown.ends_with("ended with 0\n") && !shown.contains(OAuth2::CLIENT_SECRET), "{shown}");
    // Given up, and the terminal shows again what is typed.
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\"; echo it was $?; stty -a", "sh"]);
    let command = session(&oauth, &[]);
    shell.arg(command.get_program()).args(command.get_args()).env_remove(SECRET.0);
    let shown =
        at_a_terminal(&shell, &json!([asked, ["send", "abc\u{3}"], ["expect", "it was 0"], ["expect", " echo "]]));
    assert!(!shown.contains("abc"), "{shown}");
    // And so it does where a signal ends it.
    let killed = "(until stty -a </dev/tty | grep -q -e '-echo '; do sleep 0.05; done; kill -TERM $(pgrep -P $$ tokenbroker)) & \
                  \"$@\"; echo it was $?; stty -a";
    let mut shell = Command::new("sh");
    shell.args(["-c", killed, "sh"]).arg(command.get_program()).args(command.get_args()).env_remove(SECRET.0);
    at_a_terminal(&shell, &json!([asked, ["expect", "it was 143"], ["expect", " echo "]]));
}

#[test]
fn without_a_terminal_secrets_come_on_stdin_a_line_each_or_it_is_said_where_they_may_stand() {
    let oauth = OAuth::start(HOUR);
    let password = ["--grant", "password", "--set", "username=alice"];
    let mut running = Running::start(session(&oauth, &password).arg("--secret-stdin"));
    running.type_in(&format!("{}\r\n{}\n", OAuth2::CLIENT_SECRET, OAuth2::PASSWORD));
    assert_eq!(answer(&curl(&introduced(&mut running)))["token_accepted"], true);
    // Without a terminal of its own.
    let mut alone = Command::new("setsid");
    let command = session(&oauth, &password);
    let (code, stdout, stderr) =
        run(alone.arg("-w").arg(command.get_program()).args(command.get_args()).env_remove(SECRET.0));
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    for words in [
        "client_secret is missing",
        "set TOKENBROKER_CLIENT_SECRET",
        "password is missing",
        "--set password.file=PATH",
        "--secret-stdin",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    let (code, _, stderr) = run(session(&oauth, &["--secret-stdin"]).stdin(Stdio::null()));
    assert!(code == 2 && stderr == "client_secret is empty\n", "{stderr}");
    let mut running = Running::start(session(&oauth, &["--secret-stdin"]).stdin(Stdio::piped()));
    running.type_in("abc\u{1b}[D\n");
    let (code, _, stderr) = running.end();
    assert!(code == 2 && stderr.starts_with("client_secret: this has control characters"), "{stderr}");
    // Nothing is cut and sent.
    let mut running = Running::start(session(&oauth, &["--secret-stdin"]).stdin(Stdio::piped()));
    running.type_in(&"x".repeat(64 * 1024 + 1));
    let (code, _, stderr) = running.end();
    assert!(code == 2 && stderr == "client_secret: this is longer than 64 KiB\n", "{stderr}");
    assert_eq!(oauth.oauth.faults.calls(), 1);
    let mut keyed = Command::new("setsid");
    keyed.arg("-w").arg(binary().get_program()).args(["try", "https://api.example.com", "--dialect", "comap"]);
    let (_, _, stderr) = run(keyed.args(["--client-id", "x"]).env_remove(SECRET.0));
    assert!(
        stderr.contains("headers.Comap-Key is missing") && stderr.contains("set TOKENBROKER_COMAP_KEY"),
        "{stderr}"
    );
}

#[test]
fn what_is_wrong_is_named_by_its_flag_all_of_it_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let wrong = |arguments: &[&str]| {
        let (code, stdout, stderr) =
            run(binary().arg("try").args(arguments).env(SECRET.0, "x").current_dir(directory.path()));
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        stderr
    };
    let (api, token) = ("https://api.example.com", "https://a.example/t");
    for (arguments, expected) in [
        (&[api, "--client-id", "c"][..], &["--token-url is missing: the dialect oauth2 needs `url`"][..]),
        (
            &["api.example.com", "--token-url", "nonsense"],
            &["URL: is not a usable URL", "--token-url: is not a usable URL", "--client-id is missing: "],
        ),
        (
            &["http://api.example.com", "--client-id", "c", "--token-url", token],
            &["URL: the token would cross the network unencrypted"],
        ),
        (
            &[api, "--client-id", "c", "--token-url", token, "--grant", "pasword"],
            &["--grant: ", "did you mean", "password"],
        ),
        (
            &[api, "--client-id", "c", "--dialect", "oauht2"],
            &["--dialect: there is no dialect", "did you mean \"oauth2\"?"],
        ),
        (
            &[api, "--client-id", "c", "--dialect", "vanco", "--token-url", token],
            &["--set vars.tenant is missing: the dialect vanco needs"],
        ),
        (
            &[api, "--client-id", "c", "--dialect", "comodo-one"],
            &["--cert and --key are missing: ", "--set username is missing: "],
        ),
        (
            &[api, "--client-id", "c", "--token-url", token, "--login"],
            &["--authorize-url is missing: the login of the dialect oauth2 needs"],
        ),
        (&[api, "--client-id", "c", "--token-url", token, "--scope", "a b"], &["--scope: a scope is one word"]),
        (&[api, "--client-id", "c", "--token-url", token, "--listen", "0.0.0.0:1"], &["--listen: "]),
        (
            &[api, "--client-id", "c", "--token-url", token, "--set", "tiemout=3s"],
            &["--set tiemout: unknown key", "timeout"],
        ),
        (
            &[api, "--client-id", "c", "--token-url", token, "--set", "timeout=soon", "--set", "route.token_wait=x"],
            &["--set timeout: ", "--set route.token_wait: "],
        ),
        (&[api, "--login", "--grant", "password"], &["--login: nobody logs in for the grant password"]),
        (&[api, "--set", "params", "--set", "=x", "--set", "a b=c"], &["--set: is written KEY=VALUE"]),
        (
            &[api, "--set", "params={ a = \"b\" }"],
            &["--set params: this is a table: name the key in it, as in params.NAME=VALUE"],
        ),
        (&[api, "--set", "timeout=3s", "--set", "timeout=4s"], &["--set timeout: is given twice"]),
        (&[api, "--set", "refresh_at=x"], &["--set refresh_at: this value is written as in TOML"]),
        (
            &[api, "--client-id", "c", "--token-url", token, "--save", "name"],
            &["--save: name is no name of a configuration"],
        ),
    ] {
        let said = wrong(arguments);
        for words in expected {
            assert!(said.contains(words), "{arguments:?}: {words}: {said}");
        }
        for words in ["tokenbroker.toml", "[token", "this table", "route.api", "token.api"] {
            assert!(!said.contains(words), "{arguments:?}: nobody wrote that file: {said}");
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let (code, _, stderr) = run(binary().args(["-c", "x.toml", "try", api]));
    assert!(code == 2 && stderr.contains("leave out -c"), "{stderr}");
}

#[test]
fn no_secret_is_taken_from_the_command_line() {
    for set in [
        "client_secret=hunter2",
        "client_secret=[\"hunter2\", \"x\"]",
        "password=hunter2",
        "refresh_token=hunter2",
        "access_token=hunter2",
        "params.client_assertion=hunter2",
        "params.api_key=hunter2",
        "headers.Comap-Key=hunter2",
        "route.headers.X-Api-Key=hunter2",
        "route.clients.key=hunter2",
    ] {
        let mut command = binary();
        command.args([
            "try",
            "https://api.example.com",
            "--client-id",
            "c",
            "--token-url",
            "https://a.example/t",
            "--set",
            set,
        ]);
        let (code, _, stderr) = run(command.env(SECRET.0, "x"));
        let key = set.split('=').next().unwrap();
        assert_eq!(code, 2, "{set}: {stderr}");
        assert!(stderr.contains(&format!("--set {key}: a secret does not belong on a command line")), "{stderr}");
        assert!(stderr.contains(&format!("--set {key}.file=PATH")) && !stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn other_keys_and_files_of_secrets_are_set() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    let sets = [
        "client_secret.file=secret",
        "params.audience=12345",
        "route.path=/v1",
        "route.headers.X-Tenant=acme",
        "refresh_at=0.5",
        "roots=system",
        "limit=5 per 5m",
        "eager=false",
        "secret_expires=2999-01-01",
        "route.authorization=keep",
        "route.methods=[\"GET\"]",
    ];
    let mut command = session(&oauth, &[]);
    for set in sets {
        command.args(["--set", set]);
    }
    let mut running = Running::start(command.current_dir(directory.path()));
    let line = curl(&introduced(&mut running));
    assert!(line.ends_with("/v1/"), "{line}");
    let got = answer(&line);
    assert_eq!((&got["token_accepted"], &got["headers"]["x-tenant"]), (&json!(true), &json!("acme")));
    let refused =
        output(Command::new("sh").args(["-c", &format!("{line} -sS -X POST -o /dev/null -w '%{{http_code}}'")]));
    assert_eq!(refused, "405");
}

#[test]
fn a_session_without_a_token_ends_with_the_reason_and_keeps_nothing() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), None);
    let directory = tempfile::tempdir().unwrap();
    let mut command = session(&oauth, &["--secret-stdin", "--save", "api.toml"]);
    let mut running = Running::start(command.current_dir(directory.path()));
    running.type_in("wrong-secret\n");
    let (code, stdout, stderr) = running.end();
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains("token api: rejected: client_rejected: ") && stderr.contains("api.toml is not kept"),
        "{stderr}"
    );
    assert!(!stderr.contains("wrong-secret"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// With a port of its own for the operator.
fn with(file: &Path, arguments: &[&str]) -> (i32, String, String) {
    let text = std::fs::read_to_string(file).unwrap();
    let beside = write(file.parent().unwrap(), "with.toml", format!("[admin]\nlisten = \"127.0.0.1:0\"\n{text}"));
    run(binary().arg("-c").arg(beside).args(arguments))
}

#[test]
fn a_session_is_kept_in_private_files_that_pass_check_and_run() {
    let oauth = OAuth::start(HOUR);
    let directory = tempfile::tempdir().unwrap();
    let save = |stdin: &str| {
        let mut command = session(&oauth, &["--secret-stdin", "--save", "api.toml", "--set", "params.audience=\"q\""]);
        let mut running = Running::start(command.current_dir(directory.path()));
        running.type_in(stdin);
        running
    };
    let mut running = save(&format!("{}\n", OAuth2::CLIENT_SECRET));
    let lines = introduced(&mut running);
    let line = curl(&lines);
    assert!(lines.iter().any(|line| line == "Kept in api.toml: tokenbroker -c api.toml run"), "{lines:?}");
    assert_eq!(answer(&line)["token_accepted"], true);
    running.signal(Signal::TERM);
    assert_eq!(running.end().0, 0);
    let (file, secret) = (directory.path().join("api.toml"), directory.path().join("api.client_secret"));
    assert_eq!((mode(&file), mode(&secret)), (0o600, 0o600));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains(OAuth2::CLIENT_SECRET) && text.contains("client_secret = { file = \"api.client_secret\" }"),
        "{text}"
    );
    assert!(
        text.contains(&format!("listen = \"{}\"", line.trim_start_matches("curl http://").trim_end_matches('/'))),
        "{text}"
    );
    let (code, stdout, stderr) = run(binary().arg("-c").arg(&file).arg("check"));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let (code, stdout, stderr) = with(&file, &["exec", "--", "sh", "-c", "curl -sS $API_URL"]);
    assert!(code == 0 && serde_json::from_str::<Value>(&stdout).unwrap()["token_accepted"] == true, "{stderr}");
    let (code, _, stderr) = save("other\n").end();
    assert!(
        code == 2 && stderr.contains("--save: there already, and left as it is: api.toml, api.client_secret; choose"),
        "{stderr}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn what_cannot_be_written_is_a_failure_and_nothing_is_left() {
    let oauth = OAuth::start(HOUR);
    let directory = tempfile::tempdir().unwrap();
    let mut command = session(&oauth, &["--save", "nowhere/api.toml"]);
    let (code, _, stderr) = run(command.current_dir(directory.path()).env(SECRET.0, SECRET.1));
    assert!(code == 1 && stderr.contains("--save: nowhere/api.toml cannot be written"), "{stderr}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_session_without_a_file_cannot_be_reloaded() {
    let oauth = OAuth::start(HOUR);
    let directory = tempfile::tempdir().unwrap();
    let mut command = session(&oauth, &[]);
    command.env("XDG_RUNTIME_DIR", directory.path()).env_remove("RUNTIME_DIRECTORY").env(SECRET.0, SECRET.1);
    let mut running = Running::start(&mut command);
    let lines = introduced(&mut running);
    let page = lines.iter().find_map(|line| line.split_once("in a browser: http://")).unwrap().1.trim_end_matches('/');
    let mut files = std::fs::read_dir(directory.path().join("tokenbroker")).unwrap();
    let key = files.next().unwrap().unwrap().path();
    let bearer = format!("Bearer {}", std::fs::read_to_string(key).unwrap().trim_end());
    let reply = call(page.parse().unwrap(), "POST", "/api/reload", &[("Authorization", &bearer)], b"");
    assert!(reply.status != 200 && reply.text().contains("there is no configuration file"), "{}", reply.text());
}

#[test]
fn what_stands_in_the_environment_or_in_a_file_is_kept_as_that() {
    let oauth = OAuth::start(HOUR);
    let directory = tempfile::tempdir().unwrap();
    let mut command = session(&oauth, &["--save", "api.toml"]);
    let mut running = Running::start(command.current_dir(directory.path()).env(SECRET.0, SECRET.1));
    introduced(&mut running);
    let text = std::fs::read_to_string(directory.path().join("api.toml")).unwrap();
    assert!(text.contains("client_secret = { env = \"TOKENBROKER_CLIENT_SECRET\" }"), "{text}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    write(directory.path(), "held", OAuth2::CLIENT_SECRET);
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mut command = session(&oauth, &["--save", "sub/api.toml", "--set", "client_secret.file=held"]);
    introduced(&mut Running::start(command.current_dir(directory.path())));
    let (code, _, stderr) = run(binary().arg("-c").arg(directory.path().join("sub/api.toml")).arg("check"));
    assert_eq!((code, stderr.as_str()), (0, ""), "its path starts where the session began");
    assert_eq!(std::fs::read_dir(directory.path().join("sub")).unwrap().count(), 1);
}

/// A token server with a page: gives a refresh token that is good once.
fn page() -> Upstream {
    let used = std::sync::Mutex::new(0_u32);
    Upstream::start(move |request| {
        if !request.line().starts_with("POST") {
            return Action::ok(request.one("authorization").unwrap_or("none"));
        }
        let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
        let sent = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let mut used = used.lock().unwrap();
        let fine = match sent("grant_type") {
            Some("authorization_code") => sent("code") == Some("c-1") && sent("code_verifier").is_some(),
            _ => sent("refresh_token") == Some(&*format!("rt-{used}")),
        };
        *used += u32::from(fine);
        if fine {
            Action::ok(&format!(r#"{{"access_token":"at-{used}","expires_in":3600,"refresh_token":"rt-{used}"}}"#))
        } else {
            let body = r#"{"error":"invalid_grant"}"#;
            let head =
                format!("HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            Action::Reply((head + body).into_bytes())
        }
    })
}

#[test]
fn a_login_comes_first_and_one_that_is_kept_is_not_needed_again() {
    let server = page();
    let directory = tempfile::tempdir().unwrap();
    let start = |more: &[&str]| {
        let mut command = binary();
        let url = server.url();
        command.args(["try", &url, "--client-id", "app", "--login", "--set", "client_auth=none"]);
        command.args(["--token-url", &format!("{url}/token"), "--authorize-url", &format!("{url}/login")]).args(more);
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(&mut command)
    };
    let log_in = |running: &mut Running, query: &str| {
        let page: http::Uri = running.line().parse().unwrap();
        let sent: Vec<(String, String)> =
            form_urlencoded::parse(page.query().unwrap().as_bytes()).into_owned().collect();
        let sent = |name: &str| sent.iter().find(|(key, _)| key == name).unwrap().1.clone();
        let back: http::Uri = sent("redirect_uri").parse().unwrap();
        let target = format!("{}?state={}&{query}", back.path(), sent("state"));
        call(back.authority().unwrap().as_str().parse().unwrap(), "GET", &target, &[], b"").status
    };
    let mut running = start(&[]);
    assert_eq!(log_in(&mut running, "error=access_denied"), 400);
    let (code, _, stderr) = running.end();
    assert!(code == 1 && stderr.contains("access_denied"), "{stderr}");
    let mut running = start(&[]);
    assert!(running.line().contains("/login?"));
    running.signal(Signal::INT);
    assert_eq!(running.end().0, 0, "nobody has to wait for five minutes");
    let mut running = start(&["--save", "api.toml"]);
    assert_eq!(log_in(&mut running, "code=c-1"), 200);
    let line = curl(&introduced(&mut running));
    assert_eq!(output(Command::new("sh").args(["-c", &format!("{line} -sS")])), "Bearer at-1");
    running.signal(Signal::INT);
    assert_eq!(running.end().0, 0);
    let file = directory.path().join("api.toml");
    let (code, _, stderr) = run(binary().arg("-c").arg(&file).arg("check"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (code, stdout, stderr) = with(&file, &["exec", "--", "sh", "-c", "curl -sS $API_URL"]);
    assert_eq!((code, stdout.as_str()), (0, "Bearer at-1"), "{stderr}");
}

#[test]
fn a_client_without_a_secret_answers_with_nothing() {
    let server = page();
    let url = server.url();
    let mut command = binary();
    command.args(["try", &url, "--client-id", "app", "--login", "--token-url", &format!("{url}/token")]);
    command.args(["--authorize-url", &format!("{url}/login")]).env_remove(SECRET.0);
    let steps = json!([
        ["expect", "client_secret: "],
        ["send", "\n"],
        ["expect", "client_auth = \"none\""],
        ["expect", "code_challenge="],
        ["send", "\u{3}"]
    ]);
    let shown = at_a_terminal(&command, &steps);
    assert!(shown.ends_with("ended with 0\n"), "{shown}");
}

#[test]
fn a_refresh_token_that_changes_is_kept_with_the_session_or_warned_about() {
    let server = page();
    let url = server.url();
    let directory = tempfile::tempdir().unwrap();
    let start = |more: &[&str], seed: &str| {
        let mut command = binary();
        command.args(["try", &url, "--client-id", "app", "--grant", "refresh_token", "--set", "client_auth=none"]);
        command
            .args(["--secret-stdin", "--token-url", &format!("{url}/token")])
            .args(more)
            .current_dir(directory.path());
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        running.type_in(seed);
        running
    };
    let mut running = start(&["--save", "api.toml"], "rt-0\n");
    introduced(&mut running);
    running.signal(Signal::INT);
    let (code, _, stderr) = running.end();
    assert!(code == 0 && !stderr.contains("may use up"), "{stderr}");
    let file = directory.path().join("api.toml");
    let (code, stdout, stderr) = with(&file, &["exec", "--", "sh", "-c", "curl -sS $API_URL"]);
    assert_eq!((code, stdout.as_str()), (0, "Bearer at-1"), "{stderr}");
    let mut running = start(&[], "rt-1\n");
    introduced(&mut running);
    running.signal(Signal::INT);
    assert!(running.end().2.contains("this session may use up the refresh token"));
    // One that was refused has used nothing up, and what it made is not of use.
    let (code, _, stderr) = start(&["--save", "other.toml"], "rt-1\n").end();
    assert!(code == 1 && stderr.contains("needs_login") && stderr.contains("other.toml is kept"), "{stderr}");
}
