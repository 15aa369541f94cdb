//! The tools for first steps and scripts: `init`, `try`, `exec`, `check --online`, `man`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Section;
use super::tls::answering;
use crate::door::free_port;
use crate::support::{Action, Upstream, binary, write};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\nkey = { file = \"secret\" }\n";
const STATIC: &str = "[token.api]\ngrant = \"static\"\naccess_token = { file = \"secret\" }\n";

fn route(name: &str, upstream: &str, keys: &str) -> String {
    format!("[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{upstream}\"\n{keys}\n")
}

fn client(url: &str, keys: &str) -> String {
    format!("url = \"{url}\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n{keys}\n")
}

/// Without a terminal, where somebody could be asked.
fn alone(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.arg("-w").arg(binary().get_program()).args(arguments).current_dir(home).stdin(Stdio::null());
    for name in ["TOKENBROKER_CLIENT_SECRET", "TOKENBROKER_PASSWORD", "TOKENBROKER_CONFIG", "TOKENBROKER_LOG_LEVEL"] {
        command.env_remove(name);
    }
    command
}

fn run(section: &mut Section, home: &Path, command: &str) {
    let arguments: Vec<_> = command.split(' ').collect();
    section.run(&format!("tokenbroker {command}"), home, &mut alone(home, &arguments));
}

/// A token server and an API that both refuse.
fn refusing() -> Upstream {
    Upstream::start(|request| {
        let reply = |status: &str| {
            let body = "{\"error\":\"invalid_client\",\"error_description\":\"Unknown client.\"}";
            Action::Reply(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into())
        };
        match request.line().split(['/', ' ']).nth(2).unwrap() {
            "token" => reply("401 Unauthorized"),
            "unauthorized" => reply("401 Unauthorized"),
            "forbidden" => reply("403 Forbidden"),
            "broken" => reply("500 Internal Server Error"),
            "silent" => Action::Take(Box::new(|stream| {
                std::thread::sleep(Duration::from_secs(60));
                drop(stream);
            })),
            _ => Action::ok(""),
        }
    })
}

#[test]
fn what_the_tools_for_first_steps_and_scripts_say_reads_well() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    write(home, "secret", "the-secret-of-it");
    write(home, "empty", "");
    write(home, "there.toml", "");
    let mut section = Section::default();
    let server = refusing();
    starters(&mut section, home);
    sessions(&mut section, home, &server.url());
    commands(&mut section, home, &server.url());
    online(&mut section, home, &server.url());
    run(&mut section, home, "man nothing");
    section.is_golden("tools");
}

/// `init`, and what it writes before anything is filled in.
fn starters(section: &mut Section, home: &Path) {
    for command in [
        "init comodo",
        "init oauth2 oauth2",
        "init oauth2 --compose --systemd",
        "init --dir empty/x",
        "init comodo-one --dir new",
        "init oauth2 --dir new",
        "-c new.toml init",
        "-c new/tokenbroker.toml check",
        "-c new/tokenbroker.toml run",
    ] {
        run(section, home, command);
    }
    let plain =
        format!("{ADMIN}[token.api]\n{}{}", client("http://127.0.0.1:9/x", ""), route("api", "https://a.example", ""));
    write(
        home,
        "unfilled.toml",
        plain.replace("client_secret = { file = \"secret\" }", "client_secret = { file = \"unfilled\" }"),
    );
    write(home, "unfilled", "FILL-ME-IN\n");
    run(section, home, "-c unfilled.toml check --online");
}

/// `try`, flag by flag.
fn sessions(section: &mut Section, home: &Path, server: &str) {
    let fine = "try https://api.example.com --client-id c --token-url https://a.example/token";
    for flags in [
        "",
        "--login --grant password",
        "--cert me.pem",
        "--set scope",
        "--set client_secret=abc",
        "--set params=x",
        "--set params.a=b --set params.a=c",
        "--set refresh_at=soon",
        "--set refresh_at=7",
        "--set route.nothing=x",
        "--set unknwon=x",
        "--dialect comodo",
        "--dialect comodo-one",
        "--grant guess",
        "--grant password --secret-stdin",
        "--secret-stdin",
        "--listen 0.0.0.0:80",
        "--save api --set client_secret.file=secret",
        "--save there.toml --set client_secret.file=secret",
        "--save nowhere/api.toml --set client_secret.file=secret",
        "--set client_secret.file=nothing",
        "--set client_secret.file=empty",
    ] {
        run(section, home, format!("{fine} {flags}").trim_end());
    }
    for command in ["try", "try api.example.com", "try http://api.example.com", "try https://api.example.com"] {
        run(section, home, command);
    }
    write(home, "typed", b"\xff\n");
    let arguments: Vec<_> = fine.split(' ').chain(["--secret-stdin"]).collect();
    let mut command = alone(home, &arguments);
    command.stdin(std::fs::File::open(home.join("typed")).unwrap());
    section.run("tokenbroker try with what is no text on stdin", home, &mut command);
    let refused = format!("try {server} --token-url {server}/token --client-id c --set client_secret.file=secret");
    run(section, home, &format!("--log-level error {refused} --save mine.toml"));
    run(section, home, &format!("--log-level warn {refused} --grant refresh_token --set refresh_token.file=secret"));
}

/// `exec`.
fn commands(section: &mut Section, home: &Path, server: &str) {
    let logs = "--log-format text --log-level error";
    write(home, "no-permission", "");
    write(home, "no-program", "nothing");
    std::fs::set_permissions(home.join("no-program"), PermissionsExt::from_mode(0o755)).unwrap();
    let two = format!("{}{}", route("my-api", server, "token = \"api\""), route("my_api", server, "token = \"api\""));
    write(home, "exec.toml", format!("{ADMIN}{STATIC}{two}"));
    for command in ["exec", "exec --route none -- true", "exec -- true"] {
        run(section, home, &format!("-c exec.toml {logs} {command}"));
    }
    for program in ["nothing-like-it", "./nothing-like-it", "./no-permission", "./no-program"] {
        run(section, home, &format!("-c exec.toml {logs} exec --route my_api -- {program}"));
    }
    let refused = format!("{ADMIN}[token.api]\n{}{}", client(&format!("{server}/token"), ""), route("api", server, ""));
    write(home, "refused.toml", &refused);
    run(section, home, &format!("-c refused.toml {logs} exec -- true"));
    let rotates = "[token.api]\ngrant = \"refresh_token\"\nrefresh_token = { file = \"secret\" }\n";
    write(home, "rotates.toml", refused.replace("[token.api]\n", rotates));
    run(section, home, "-c rotates.toml --log-format text --log-level warn exec -- true");
}

/// `check --online`: a route a failure.
fn online(section: &mut Section, home: &Path, server: &str) {
    let ssh = format!("http://{}", answering(b"SSH-2.0\r\n\r\n"));
    let operator = format!("[admin]\nlisten = \"127.0.0.1:{}\"\nkey = {{ file = \"secret\" }}\n", free_port());
    let refusing = client(&format!("{server}/token"), "");
    let api = "token = \"api\"\n";
    let cases = [
        ("ok", STATIC.to_owned(), route("api", server, "")),
        ("401", STATIC.to_owned(), route("api", &format!("{server}/unauthorized"), "")),
        ("401 without a token", String::new(), route("api", &format!("{server}/unauthorized"), "token = false")),
        ("403", STATIC.to_owned(), route("api", &format!("{server}/forbidden"), "")),
        ("500", STATIC.to_owned(), route("api", &format!("{server}/broken"), "")),
        ("no answer", STATIC.to_owned(), route("api", &format!("{server}/silent"), "response_timeout = \"1s\"")),
        ("no HTTP", STATIC.to_owned(), route("api", &ssh, "")),
        ("no TLS", STATIC.to_owned(), route("api", &ssh.replace("http:", "https:"), "")),
        ("nothing listens", STATIC.to_owned(), route("api", "http://127.0.0.1:9", "")),
        ("no such name", STATIC.to_owned(), route("api", "https://no-such-name.invalid", "")),
        ("methods", STATIC.to_owned(), route("api", server, "methods = [\"POST\"]")),
        ("a token server that refuses", format!("[token.api]\n{refusing}"), route("api", server, "")),
        (
            "a token server that is away",
            format!("[token.api]\n{}", client("http://127.0.0.1:9/x", "")),
            route("api", server, ""),
        ),
        (
            "secrets that cannot be read",
            format!("[token.api]\n{}", refusing.replace("file = \"secret\"", "exec = [\"false\"]")),
            route("api", server, ""),
        ),
        (
            "a field that cannot be read",
            String::new(),
            route("api", server, "token = false\nheaders = { X-Key = { exec = [\"false\"] } }"),
        ),
        (
            "a token with a line break",
            STATIC.replace("file = \"secret\"", "exec = [\"printf\", \"a\\\\nb\"]"),
            route("api", server, api),
        ),
        (
            "a refresh token that rotates, and no store",
            format!("[token.api]\ngrant = \"refresh_token\"\nrefresh_token = {{ file = \"secret\" }}\n{refusing}"),
            route("api", server, ""),
        ),
    ];
    for (what, token, route) in cases {
        write(home, "online.toml", format!("{operator}{token}{route}"));
        let mut command = alone(home, &["-c", "online.toml", "check", "--online"]);
        section.run(&format!("tokenbroker check --online: {what}"), home, &mut command);
    }
}
