use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenbroker::standin::Fault;

use crate::exchange::OAuth;
use crate::store::{Home, PASSWORD, STORE};
use crate::support::{Action, Upstream, binary, eventually, has, static_route, write};

const HOUR: Duration = Duration::from_secs(3600);
const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

/// A directory with a configuration, and `exec` with it.
struct Site {
    directory: TempDir,
    file: PathBuf,
}

impl Site {
    fn new(config: &str) -> Self {
        Self::within(tempfile::tempdir().unwrap(), config)
    }

    fn within(directory: TempDir, config: &str) -> Self {
        let file = write(directory.path(), "tokenbroker.toml", format!("{ADMIN}{config}"));
        Self { directory, file }
    }

    fn of(oauth: &OAuth, token: &str) -> Self {
        Self::within(oauth.directory(), &oauth.config(token, ""))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary();
        command.arg("-c").arg(&self.file).arg("exec").args(arguments).current_dir(self.directory.path());
        command
    }

    /// To its end: exit status, stdout, stderr.
    fn exec(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&mut self.command(arguments))
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A `tokenbroker` at work.
pub struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// The next line of stdout; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn type_in(&mut self, text: &str) {
        drop(self.child.stdin.take().unwrap().write_all(text.as_bytes()));
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// Exit status, the rest of stdout, stderr.
    pub fn end(mut self) -> (i32, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let code = self.wait().code().unwrap();
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (code, out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program at a terminal of its own, does what the steps say, and prints what the terminal showed and how it ended.
const TERMINAL: &str = r#"
import json, os, pty, select, signal, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown, at = b"", 0
def more():
    global shown
    if select.select([fd], [], [], 0.05)[0]:
        try:
            data = os.read(fd, 65536)
        except OSError:
            return False
        shown += data
        return bool(data)
    return True
for what, text in json.loads(sys.argv[1]):
    if what == "send":
        os.write(fd, text.encode())
    elif what == "signal":
        os.kill(pid, getattr(signal, text))
    else:
        until = time.time() + 15
        while text.encode() not in shown[at:]:
            if time.time() > until or not more():
                sys.exit("never shown: %s in %s" % (text, shown.decode()))
        at = shown.index(text.encode(), at) + len(text)
while more():
    pass
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(shown.decode())
print("ended with", code)
"#;

/// What a terminal showed, with `ended with CODE` at the end.
pub fn at_a_terminal(command: &Command, steps: &Value) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", TERMINAL, &steps.to_string()]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        python.current_dir(directory);
    }
    crate::support::output(&mut python)
}

/// Counts the signals that it gets, says so, and ends with 5 at SIGTERM.
const COUNTS: &str = r#"
import os, signal, sys
count = {}
def got(number, frame):
    name = signal.Signals(number).name
    count[name] = count.get(name, 0) + 1
    os.write(1, ("%s %d\n" % (name, count[name])).encode())
    if number == signal.SIGTERM:
        os._exit(5)
for name in ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM"]:
    signal.signal(getattr(signal, name), got)
os.write(1, b"at work\n")
while True:
    line = sys.stdin.readline()
    if line.startswith("end"):
        os.write(1, ("in all %d\n" % sum(count.values())).encode())
        os._exit(0)
    if not line:
        signal.pause()
"#;

#[test]
fn a_command_gets_the_url_of_its_route_once_the_token_is_there() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_millis(500))), Some(1));
    let more = format!(
        "[route.my-Other_1]\nlisten = \"127.0.0.1:0\"\npath = \"/v1\"\nupstream = \"{}\"\ntoken = \"api\"\n",
        oauth.api.url()
    );
    let site = Site::within(oauth.directory(), &format!("{}{more}", oauth.config("", "token_wait = \"1ms\"")));
    let script =
        "curl -sS $API_URL/hello; echo; curl -sS $MY_OTHER_1_URL/x; echo; echo $API_URL $MY_OTHER_1_URL; cat; exit 7";
    let mut running = Running::start(
        site.command(&["--", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()),
    );
    running.type_in("from stdin\n");
    let answers = [(); 2].map(|()| {
        let mut lines = String::new();
        // The echo's answer may be of several lines.
        while serde_json::from_str::<Value>(&lines).is_err() {
            let line = running.line();
            assert!(!line.is_empty() || lines.is_empty(), "{lines}");
            lines.push_str(&line);
        }
        serde_json::from_str::<Value>(&lines).unwrap()
    });
    assert_eq!((&answers[0]["token_accepted"], &answers[0]["target"]), (&json!(true), &json!("/hello")));
    assert_eq!((&answers[1]["token_accepted"], &answers[1]["target"]), (&json!(true), &json!("/x")));
    let (code, out, err) = running.end();
    let lines: Vec<_> = out.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines[0].starts_with("http://127.0.0.1:") && lines[0].ends_with("/v1"), "{out}");
    assert_eq!((code, lines[1]), (7, "from stdin"), "{err}");
    assert!(err.lines().all(|line| line.starts_with('{')) && err.contains("token obtained"), "{err}");
    assert_eq!(oauth.oauth.issuer.issued(), 1);
}

#[test]
fn the_exit_status_is_the_commands_or_128_and_its_signal() {
    let upstream = Upstream::ok();
    let site = Site::new(&static_route(&upstream, ""));
    for (script, expected) in
        [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
    {
        let (code, _, stderr) = site.exec(&["--", "sh", "-c", script]);
        assert_eq!(code, expected, "{script}: {stderr}");
    }
    write(site.directory.path(), "plain", "#!/bin/sh\n");
    for (program, expected, words) in [
        ("/no/such/program", 127, "cannot run /no/such/program: No such file or directory"),
        ("no-such-program", 127, "that PATH leads to it"),
        ("./plain", 126, "chmod +x"),
        ("/", 126, "permission to execute"),
    ] {
        let (code, stdout, stderr) = site.exec(&["--", program, "argument"]);
        assert!(code == expected && stdout.is_empty() && stderr.contains(words), "{program}: {code} {stderr}");
    }
    for arguments in [&[][..], &["--"], &["sh"]] {
        assert_eq!(site.exec(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn signals_go_to_the_command_each_once() {
    let upstream = Upstream::ok();
    let site = Site::new(&static_route(&upstream, ""));
    let mut running = site.start(&["--", "python3", "-c", COUNTS]);
    assert_eq!(running.line(), "at work");
    for (signal, name) in [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::INT, "SIGINT"),
    ] {
        running.signal(signal);
        let line = running.line();
        assert!(line.starts_with(name), "{line}");
    }
    running.signal(Signal::TERM);
    assert_eq!(running.line(), "SIGTERM 1");
    let (code, rest, stderr) = running.end();
    assert_eq!((code, rest.as_str()), (5, ""), "{stderr}");
    assert!(stderr.contains("\"stopped\""), "{stderr}");
}

#[test]
fn at_a_terminal_a_key_reaches_the_command_once_and_a_signal_of_a_process_does_too() {
    let upstream = Upstream::ok();
    let site = Site::new(&static_route(&upstream, ""));
    let mut command = site.command(&["--log-level", "debug", "--", "python3", "-c", COUNTS]);
    command.env("NO_COLOR", "1");
    // What passes on the last signal has seen the key's before it.
    let shown = at_a_terminal(
        &command,
        &json!([
            ["expect", "at work"],
            ["signal", "SIGINT"],
            ["expect", "SIGINT 1"],
            ["send", "\u{3}"],
            ["expect", "SIGINT 2"],
            ["signal", "SIGUSR1"],
            ["expect", "SIGUSR1 1"],
            ["send", "end\n"],
            ["expect", "in all 3"],
        ]),
    );
    assert!(shown.ends_with("ended with 0\n"), "{shown}");
    // Two that come close together count as one, so the count alone does not tell.
    assert_eq!(shown.matches("passed on to the command signal=").count(), 2, "{shown}");
}

#[test]
fn ctrl_c_at_a_terminal_ends_the_wait() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_secs(2))), None);
    let site = Site::of(&oauth, "");
    let command = site.command(&["--", "echo", "it was started"]);
    let shown = at_a_terminal(&command, &json!([["expect", "listening"], ["send", "\u{3}"]]));
    assert!(shown.ends_with("ended with 130\n") && !shown.contains("it was started"), "{shown}");
}

#[test]
fn another_broker_with_the_store_is_named_with_a_way_out() {
    let oauth = OAuth::start(HOUR);
    let home = Home::new(&oauth, "");
    let broker = home.broker();
    let (code, stdout, stderr) = home.run(&["exec", "--", "echo", "started"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let owner = format!("belongs to a broker that runs (admin {}, pid {})", broker.listen("admin"), broker.pid());
    assert!(stderr.contains(&owner) && stderr.contains("use that one, stop it, or choose another path"), "{stderr}");
}

#[test]
fn what_a_person_has_to_mend_ends_the_wait_at_once_with_the_reason() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), None);
    let site = Site::of(&oauth, "");
    let (code, stdout, stderr) = site.exec(&["--", "echo", "started"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains("the command was not started: there is no token\ntoken api: rejected: client_rejected: "),
        "{stderr}"
    );
    assert!(stderr.contains("check client_id and client_secret"), "{stderr}");
    oauth.oauth.faults.set(Some(Fault::Status(429, Some(300))), None);
    let (code, _, stderr) = site.exec(&["--", "echo", "started"]);
    assert!(code == 1 && stderr.contains("rate_limited"), "one that is known to come later than the bound: {stderr}");
    let login = format!("authorize_url = \"{}/authorize\"\ngrant = \"authorization_code\"", oauth.server.url());
    let (code, _, stderr) = Site::of(&oauth, &login).exec(&["--", "echo", "started"]);
    assert!(
        code == 1 && stderr.contains("token api: needs_login: ") && stderr.contains("tokenbroker login api"),
        "{stderr}"
    );
}

#[test]
fn what_does_not_count_for_readiness_is_not_waited_for() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), None);
    for keys in ["required = false", "eager = false"] {
        assert_eq!(Site::of(&oauth, keys).exec(&["--", "true"]).0, 0, "{keys}");
    }
    let upstream = Upstream::ok();
    let both = format!("{}{}", oauth.config("", ""), static_route(&upstream, "").replace("api]", "fine]"));
    let site = Site::within(oauth.directory(), &both);
    let (code, stdout, stderr) = site.exec(&["--route", "fine", "--", "sh", "-c", "curl -sS $FINE_URL; echo $API_URL"]);
    assert_eq!((code, stdout.lines().last()), (0, Some("")), "only its own route: {stderr}");
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(site.exec(&["--route", "api", "--", "true"]).0, 1);
}

#[test]
fn with_one_route_nothing_of_the_others_runs_and_a_reload_does_not_change_that() {
    let oauth = OAuth::start(HOUR);
    let upstream = Upstream::ok();
    let home = Home::new(&oauth, PASSWORD);
    let fine = static_route(&upstream, "").replace("api", "fine");
    let site = Site::within(home.directory, &format!("{}{fine}", home.config));
    let reload = format!("{} -c {} reload", binary().get_program().display(), site.file.display());
    let script = format!("{reload} && curl -sSf $FINE_URL && {reload}");
    let (code, stdout, stderr) = site.exec(&["--route", "fine", "--", "sh", "-c", &script]);
    assert_eq!((code, stdout.matches("reloaded").count(), upstream.requests().len()), (0, 2, 1), "{stderr}");
    assert_eq!(oauth.oauth.faults.calls(), 0, "{stderr}");
    let (code, _, stderr) = site.exec(&["--route", "api", "--", "sh", "-c", "curl -sSf $API_URL"]);
    assert_eq!((code, oauth.oauth.faults.calls()), (0, 1), "{stderr}");
}

#[test]
fn a_signal_ends_the_wait_at_once_and_the_exchange_in_flight_is_finished_and_kept() {
    let oauth = OAuth::start(HOUR);
    for (signal, expected) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_millis(800))), None);
        let home = Home::new(&oauth, PASSWORD);
        let before = oauth.oauth.issuer.issued();
        let config = format!("{STORE}{}", oauth.config(PASSWORD, ""));
        let site = Site::within(home.directory, &config);
        let running = site.start(&["--", "echo", "started"]);
        eventually("it is in flight", || oauth.oauth.issuer.issued() == before + 1);
        running.signal(Signal::USR1);
        // As `timeout` does: to the process, and to its group.
        running.signal(signal);
        running.signal(signal);
        let (code, stdout, stderr) = running.end();
        assert_eq!((code, stdout.as_str()), (expected, ""), "{stderr}");
        assert!(
            stderr.contains("ended before the command was started") && stderr.contains("token obtained"),
            "{stderr}"
        );
        oauth.oauth.faults.set(None, None);
        assert_eq!(site.exec(&["--", "sh", "-c", "curl -sS $API_URL"]).0, 0);
        assert_eq!(oauth.oauth.issuer.issued(), before + 1, "what came of it was kept");
    }
}

#[test]
fn a_signal_while_it_drains_cuts_requests_and_no_exchange() {
    let oauth = OAuth::start(HOUR);
    let upstream = Upstream::start(|_| {
        std::thread::sleep(Duration::from_secs(30));
        Action::ok("late")
    });
    let home = Home::new(&oauth, PASSWORD);
    let slow = format!("[route.slow]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\ntoken = \"api\"\n", upstream.url());
    let key = "key = { file = \"store_key\" }\n";
    let site = Site::within(home.directory, &format!("{key}{STORE}{}{slow}", oauth.config(PASSWORD, "")));
    let port = crate::door::free_port();
    let text = std::fs::read_to_string(&site.file).unwrap();
    std::fs::write(&site.file, text.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1)).unwrap();
    // Both go on when the command has ended.
    let script = format!(
        "setsid curl -sS $SLOW_URL >/dev/null 2>&1 & \
         setsid curl -sS -X POST -H \"Authorization: Bearer $(cat store_key)\" \
         http://127.0.0.1:{port}/api/tokens/api/refresh >/dev/null 2>&1 & read line; exit 4"
    );
    let mut command = site.command(&["--log-level", "debug", "--", "sh", "-c", &script]);
    let file = site.directory.path().join("log");
    let log = || std::fs::read_to_string(&file).unwrap();
    command.stderr(std::fs::File::create(&file).unwrap());
    let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    eventually("the token is there", || oauth.oauth.issuer.issued() == 1);
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_secs(2))), None);
    eventually("both are in flight", || oauth.oauth.issuer.issued() == 2 && upstream.requests().len() == 1);
    running.type_in("\n");
    eventually("the command has ended", || {
        let children = format!("/proc/{0}/task/{0}/children", running.child.id());
        std::fs::read_to_string(children).is_ok_and(|children| children.trim().is_empty())
    });
    let mut sent = 0;
    eventually("requests are cut", || {
        // One that comes at once may be what ended the command.
        if log().matches("the same as the one before").count() == sent {
            running.signal(Signal::INT);
            sent += 1;
        }
        log().contains("requests in flight are cut")
    });
    assert_eq!(running.wait().code(), Some(4), "{}", log());
    assert_eq!(log().matches("token obtained").count(), 2, "{}", log());
    oauth.oauth.faults.set(Some(Fault::Status(500, None)), None);
    assert_eq!(site.exec(&["--", "sh", "-c", "curl -sSf $API_URL"]).0, 0, "the store has the last one");
}

#[test]
fn routes_whose_variables_would_be_the_same_are_named() {
    let upstream = Upstream::ok();
    let route = |name: &str| static_route(&upstream, "").replace("api]", &format!("{name}]"));
    let site = Site::new(&format!("{}{}{}", route("my-api"), route("my_api"), route("MY-api")));
    let (code, stdout, stderr) = site.exec(&["--", "echo", "started"]);
    assert_eq!((code, stdout.as_str()), (78, ""), "{stderr}");
    assert_eq!(stderr.matches("would both be MY_API_URL: rename one of them, or choose one with --route").count(), 2);
    let (code, stdout, _) = site.exec(&["--route", "my_api", "--", "sh", "-c", "curl -sSf $MY_API_URL/ && echo fine"]);
    assert_eq!((code, stdout.as_str()), (0, "fine\n"));
    let (code, _, stderr) = site.exec(&["--route", "other", "--", "true"]);
    assert!(code == 1 && stderr.contains("there is no route other; there are: MY-api, my-api, my_api"), "{stderr}");
}

#[test]
fn the_variable_names_the_first_tcp_listener_or_the_socket() {
    let upstream = Upstream::ok();
    let site = Site::new(&static_route(&upstream, ""));
    let socket = site.directory.path().join("api.sock").display().to_string();
    let (one, two) = (crate::door::free_port(), crate::door::free_port());
    for (listen, expected) in [
        (format!("[\"unix:{socket}\", \"127.0.0.1:{one}\", \"127.0.0.1:{two}\"]"), format!("http://127.0.0.1:{one}")),
        (format!("\"[::1]:{one}\""), format!("http://[::1]:{one}")),
        (format!("\"unix:{socket}\""), format!("unix:{socket}")),
    ] {
        let config = static_route(&upstream, "").replace("\"127.0.0.1:0\"", &listen);
        let site = Site::new(&config);
        let (code, stdout, stderr) = site.exec(&["--", "sh", "-c", "echo $API_URL"]);
        assert_eq!((code, stdout.trim_end()), (0, &*expected), "{stderr}");
    }
}

#[test]
fn nothing_of_the_broker_is_left_in_the_command() {
    let upstream = Upstream::ok();
    let site = Site::new(&format!("{STORE}{}", static_route(&upstream, "")));
    write(site.directory.path(), "store_key", "0123456789abcdef0123456789abcdef\n");
    let script = "import os; print([os.readlink('/proc/self/fd/%s' % fd) for fd in os.listdir('/proc/self/fd') if int(fd) > 2 \
                  and os.path.lexists('/proc/self/fd/%s' % fd)])";
    let (code, stdout, stderr) = site.exec(&["--", "python3", "-c", script]);
    assert_eq!(code, 0, "{stderr}");
    for word in ["socket:", "anon_inode", "admin", "kept", "tokenbroker.toml"] {
        assert!(!stdout.contains(word), "{word}: {stdout}");
    }
    let (_, stdout, _) = site.exec(&["--", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    assert!(stdout.lines().all(|line| line.ends_with("0000000")), "signals 1 to 28: {stdout}");
    if has("prlimit") {
        let mut command = site.command(&["--", "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc"]);
        crate::support::through(&mut command, &["prlimit", "--nofile=256:2048", "--core=1024:4096"]);
        let (code, stdout, stderr) = run(command.stdout(Stdio::piped()));
        assert_eq!((code, stdout.as_str()), (0, "256\n2048\n2\n8\n"), "{stderr}");
    }
    let mut command = site.command(&["--", "sh", "-c", "echo \"[$NOTIFY_SOCKET$LISTEN_FDS$LISTEN_FDNAMES]\""]);
    command.env("NOTIFY_SOCKET", "/nowhere").env("LISTEN_FDS", "0").env("LISTEN_FDNAMES", "name");
    assert_eq!(run(command.stdout(Stdio::piped())).1, "[]\n");
    // What was to be ignored stays so, as with nohup.
    let mut command = site.command(&["--", "sh", "-c", "kill -HUP $PPID; kill -HUP $$; echo still"]);
    crate::support::through(&mut command, &["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]);
    assert_eq!(run(command.stdout(Stdio::piped())).1, "still\n");
}

#[test]
fn a_broker_that_listens_for_the_operator_already_is_said_with_a_way_out() {
    let upstream = Upstream::ok();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site::new(&static_route(&upstream, ""));
    let text = std::fs::read_to_string(&site.file).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    std::fs::write(&site.file, text.replacen("127.0.0.1:0", &address, 1)).unwrap();
    let (code, stdout, stderr) = site.exec(&["--", "echo", "started"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains("admin.listen: cannot listen on") && stderr.contains("127.0.0.1:0 is one that is free"),
        "{stderr}"
    );
}

#[test]
fn a_refresh_token_that_one_run_may_use_up_is_warned_about() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), None);
    let home = Home::new(&oauth, "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }");
    let text = "this run may use up the configured refresh token";
    let kept = Site::within(home.directory, &home.config);
    assert!(!kept.exec(&["--", "true"]).2.contains(text), "a store keeps what follows");
    let site = Site::within(kept.directory, &home.config.replace(STORE, ""));
    let (_, _, stderr) = site.exec(&["--", "true"]);
    assert!(stderr.contains(text) && stderr.contains("set [store] kind"), "{stderr}");
    let calls = oauth.oauth.faults.calls();
    let (code, _, stderr) = run(binary().arg("-c").arg(&site.file).args(["token", "api"]));
    assert!(code == 1 && stderr.contains("the store is in memory: the next one would be lost"), "{stderr}");
    assert_eq!(oauth.oauth.faults.calls(), calls);
}
