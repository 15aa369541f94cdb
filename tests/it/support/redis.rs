//! A real Redis on a port of its own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokenbroker::standin::pki::{Leaf, Pki};

use super::{eventually, has};

/// A running `redis-server`; killed when dropped. Tests order it about over a Unix socket of its own.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    pub directory: TempDir,
    options: Vec<String>,
    /// For the tests' own commands, once one is wanted.
    pub password: String,
}

impl RedisServer {
    /// With further options of its command line. `None` where there is no Redis.
    pub fn start(options: &[&str]) -> Option<Self> {
        Self::start_in(TempDir::with_prefix("redis").unwrap(), options)
    }

    /// One that speaks TLS only: `ca.pem`, and `me.pem` with `me.key` for a client, are in its directory.
    pub fn start_tls(options: &[&str]) -> Option<Self> {
        let directory = TempDir::with_prefix("redis").unwrap();
        let pki = Pki::new(directory.path()).unwrap();
        pki.issue(&Leaf::client("me", 7)).unwrap();
        let own = pki.issue(&Leaf::server("redis")).unwrap();
        let [cert, key, ca] = [&own.cert, &own.key, &pki.ca()].map(|path| path.display().to_string());
        let tls = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        Self::start_in(directory, &[&tls, options].concat())
    }

    fn start_in(directory: TempDir, options: &[&str]) -> Option<Self> {
        if !has("redis-server") {
            return None;
        }
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let child = Command::new("true").spawn().unwrap();
        let mut redis = Self { child, port: 0, directory, options, password: String::new() };
        // A port that was free may be taken by the time Redis binds it.
        for _ in 0..10 {
            redis.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if redis.restart() {
                return Some(redis);
            }
        }
        panic!("no Redis starts");
    }

    /// Starts it again, on the same port and with the data that it saved. False if it ends at once.
    pub fn restart(&mut self) -> bool {
        let tls = self.options.iter().any(|option| option.starts_with("--tls"));
        let mut command = Command::new("redis-server");
        let (port, tls_port) = if tls { (0, self.port) } else { (self.port, 0) };
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
        command.args(["--tls-port", &tls_port.to_string()]);
        command.arg("--dir").arg(self.directory.path()).arg("--unixsocket").arg(self.socket());
        self.child = command.args(&self.options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut ended = false;
        eventually("Redis answers", || {
            ended = self.child.try_wait().unwrap().is_some();
            let answer = self.try_cli(&["PING"]);
            ended || answer.starts_with("PONG") || answer.starts_with("NOAUTH")
        });
        !ended
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn try_cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket()).args(arguments).stderr(Stdio::null());
        if !self.password.is_empty() {
            command.env("REDISCLI_AUTH", &self.password);
        }
        String::from_utf8_lossy(&command.output().unwrap().stdout).trim_end().to_owned()
    }

    /// The answer to a command.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> String {
        let answer = self.try_cli(arguments);
        assert!(!answer.starts_with("ERR ") && !answer.starts_with("NOAUTH"), "{arguments:?}: {answer}");
        answer
    }

    /// A second client, whose lines go to a file until it is dropped.
    pub fn monitor(&self) -> Monitor {
        let file = self.directory.path().join("monitor");
        let lines = std::fs::File::create(&file).unwrap();
        let child = Command::new("redis-cli").arg("-s").arg(self.socket()).arg("MONITOR").stdout(lines).spawn();
        let monitor = Monitor { child: child.unwrap(), file };
        eventually("MONITOR begins", || monitor.seen().starts_with("OK"));
        monitor
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Monitor {
    child: Child,
    file: PathBuf,
}

impl Monitor {
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.file).unwrap()).into_owned()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Something on a port that answers PING and whatever else it is asked with these lines, until one is empty.
pub fn answering(greeting: &'static str, answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut asked) {
                let asked = String::from_utf8_lossy(&asked[..length]);
                let line = match asked {
                    asked if asked.contains("PING") => greeting,
                    asked if asked.contains("SETNAME") => "+OK",
                    asked if asked.contains("hunter2-canary") => "-ERR unknown command `AUTH`: `hunter2-canary`",
                    _ => answer,
                };
                if line.is_empty() || stream.write_all(format!("{line}\r\n").as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    port
}
