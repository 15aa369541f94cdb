//! The broker as a process of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::{Reply, call, eventually};

/// Every test's operator's listener has a free port, and a key that is known.
const HEAD: &str = "[admin]\nlisten = \"127.0.0.1:0\"\nkey = { file = \"admin_key\" }\n";
pub const ADMIN_KEY: &str = "0123456789abcdef-admin-key";

/// A running broker; killed when dropped.
pub struct Broker {
    child: Child,
    pub directory: TempDir,
    log: Arc<Mutex<String>>,
    addresses: HashMap<String, String>,
}

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenbroker"));
    for name in ["TOKENBROKER_CONFIG", "TOKENBROKER_LOG_LEVEL", "TOKENBROKER_LOG_FORMAT"] {
        command.env_remove(name);
    }
    command
}

/// Writes a private file.
pub fn write(directory: &Path, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, contents).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// Runs a command of the broker through another program that becomes it, such as `prlimit --nofile=64`.
pub fn through(command: &mut Command, program: &[&str]) {
    let mut outer = Command::new(program[0]);
    outer.args(&program[1..]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.stdout(Stdio::null()).stderr(Stdio::piped());
    *command = outer;
}

/// As [`through`], in a mount namespace of its own, after these commands of a shell. As root only.
pub fn in_namespace(command: &mut Command, mounts: &str) {
    through(command, &["unshare", "-m", "sh", "-c", &format!("{mounts} && exec \"$@\""), "sh"]);
}

/// Runs the binary to its end with this configuration: status, stdout, stderr.
pub fn run_to_end(config: &str, arguments: &[&str]) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "tokenbroker.toml", config);
    let output = binary().arg("-c").arg(&file).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

impl Broker {
    /// Starts with this configuration, behind [`HEAD`].
    pub fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config, |_| {})
    }

    /// Starts in a directory that holds the files the configuration names.
    pub fn start_in(directory: TempDir, config: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        write(directory.path(), "admin_key", ADMIN_KEY);
        let file = write(directory.path(), "tokenbroker.toml", format!("{HEAD}{config}"));
        let mut command = binary();
        command.arg("-c").arg(&file).args(["--log-level", "debug", "run"]).stdout(Stdio::null()).stderr(Stdio::piped());
        adjust(&mut command);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (reader, sink) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut broker = Self { child, directory, log, addresses: HashMap::new() };
        broker.wait_until_it_listens();
        broker
    }

    fn wait_until_it_listens(&mut self) {
        let routes = std::fs::read_to_string(self.directory.path().join("tokenbroker.toml")).unwrap();
        let route = |line: &&str| line.starts_with("[route.") && line.matches('.').count() == 1;
        let wanted = routes.lines().filter(route).count() + 1;
        eventually("the broker listens", || {
            let log = self.log();
            let listening = |line: &str| {
                let entry: Value = serde_json::from_str(line).ok()?;
                let listen = entry.get("listen")?.as_str()?.to_owned();
                let route = entry.get("route").and_then(Value::as_str).unwrap_or("admin").to_owned();
                Some((route, listen))
            };
            self.addresses = log.lines().filter_map(listening).collect();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the broker ended: {status}\n{log}");
            }
            self.addresses.len() >= wanted
        });
    }

    /// Writes another configuration over the one there, without telling the broker.
    pub fn reconfigure(&self, config: &str) {
        write(self.directory.path(), "tokenbroker.toml", format!("{HEAD}{config}"));
    }

    /// `reload` of the program, with this broker's configuration: exit status, stdout, stderr.
    pub fn reload(&mut self) -> (i32, String, String) {
        let done = self.command(&["reload"]);
        self.wait_until_it_listens();
        done
    }

    /// A command of the program with this broker's configuration and the address that its operator's listener really has:
    /// exit status, stdout, stderr.
    pub fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let path = |name: &str| self.directory.path().join(name);
        let text = std::fs::read_to_string(path("tokenbroker.toml")).unwrap();
        let admin = format!("\"{}\"", self.listen("admin"));
        write(self.directory.path(), "operator.toml", text.replacen("\"127.0.0.1:0\"", &admin, 1));
        let output = binary().arg("-c").arg(path("operator.toml")).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A line is written after what it is about, and read here later still.
    pub fn logs(&self, words: &str) {
        super::eventually(words, || self.log().contains(words));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A number of `/proc/PID/status`, such as `Threads` or `VmRSS` (in KiB).
    pub fn process(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Open file descriptors; `None` for who may not know.
    pub fn files(&self) -> Option<usize> {
        Some(std::fs::read_dir(format!("/proc/{}/fd", self.pid())).ok()?.count())
    }

    /// The value of the one series that begins so.
    #[track_caller]
    pub fn metric(&self, start: &str) -> f64 {
        let text = self.admin("GET", "/metrics").text();
        let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(start)).collect();
        assert_eq!(lines.len(), 1, "{start}: {text}");
        lines[0].trim().parse().unwrap()
    }

    /// Where a route listens, as text: an address or `unix:…`.
    pub fn listen(&self, route: &str) -> &str {
        &self.addresses[route]
    }

    pub fn address(&self, route: &str) -> SocketAddr {
        self.listen(route).parse().unwrap()
    }

    /// A plain GET.
    pub fn get(&self, route: &str, target: &str) -> Reply {
        self.request(route, "GET", target, &[], b"")
    }

    pub fn request(&self, route: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        call(self.address(route), method, target, headers, body)
    }

    pub fn admin(&self, method: &str, target: &str) -> Reply {
        let key = format!("Bearer {ADMIN_KEY}");
        let headers: &[(&str, &str)] = if method == "POST" { &[("Authorization", &key)] } else { &[] };
        self.request("admin", method, target, headers, b"")
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.admin("GET", "/api/status").body).unwrap()
    }

    /// The status of one token.
    pub fn token(&self, name: &str) -> Value {
        self.status()["tokens"][name].clone()
    }

    pub fn wait_for_state(&self, token: &str, state: &str) {
        eventually(&format!("{token} is {state}"), || self.token(token)["state"] == state);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Killed, and started again with the same files.
    pub fn killed_and_started(self) -> Self {
        self.killed_and_started_after(|_| {})
    }

    pub fn killed_and_started_after(mut self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.signal(Signal::KILL);
        self.wait();
        meanwhile(self.directory.path());
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        let text = std::fs::read_to_string(directory.path().join("tokenbroker.toml")).unwrap();
        Self::start_in(directory, text.strip_prefix(HEAD).unwrap(), |_| {})
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the broker ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker's log ---\n{}", self.log());
        }
    }
}
