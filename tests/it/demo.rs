use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokenbroker::standin::fault;

use crate::support::{binary, call, eventually, output};

struct Demo {
    child: Child,
    out: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
}

fn collect(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            sink.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    text
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut command = binary();
        command.arg("demo").args(arguments).current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, log) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        let demo = Self { child, out, log };
        eventually("the demo is introduced", || demo.out.lock().unwrap().contains("Ctrl-C ends the demo"));
        demo
    }

    /// The `curl` lines, as they were printed.
    fn curls(&self) -> Vec<String> {
        self.out.lock().unwrap().lines().filter(|line| line.starts_with("curl")).map(str::to_owned).collect()
    }

    fn stop(&mut self) -> Option<i32> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut status = None;
        eventually("the demo ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demo_prints_curl_lines_that_work_as_they_stand() {
    let mut demo = Demo::start(&[]);
    let curls = demo.curls();
    assert_eq!(curls.len(), 6, "{curls:?}");
    for line in &curls {
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words.len(), 2, "a URL and nothing after it: {line}");
        assert!(words[1].starts_with("http://127.0.0.1:"), "{line}");
        let answer = output(Command::new("sh").args(["-c", &format!("{line} -sS")]));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["token_accepted"], true, "{answer}");
        let shown = answer["headers"]["authorization"].as_str().unwrap();
        let hash = shown.strip_prefix("Bearer ").unwrap();
        assert!(
            hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "only its hash is shown: {shown}"
        );
        let bare = words[1];
        assert_eq!(
            output(Command::new("curl").args([
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                "Origin: https://evil.example",
                bare
            ])),
            "403"
        );
    }
    let said = demo.out.lock().unwrap().clone();
    let readyz = said.split_whitespace().find(|word| word.ends_with("/readyz?verbose")).unwrap();
    assert!(output(Command::new("curl").args(["-sS", readyz])).ends_with("\nok\n"));
    let log = demo.log.lock().unwrap().clone();
    for token in VENDORS {
        assert!(log.contains(&format!("token obtained token=\"{token}\"")), "{token}: {log}");
    }
    let file =
        demo.out.lock().unwrap().lines().find_map(|line| line.split("in use: ").nth(1).map(str::to_owned)).unwrap();
    let checked = binary().arg("-c").arg(&file).arg("check").output().unwrap();
    assert!(checked.status.success(), "the configuration in use passes check");
    assert_eq!(said.matches("Tokens live 30 s.").count(), 5, "{said}");
    assert_eq!(said.matches("Tokens live 300 s.").count(), 1, "the one with a budget");
    assert_eq!(demo.stop(), Some(0));
    assert!(!std::path::Path::new(&file).exists(), "nothing is left behind");
}

/// In the order of the `curl` lines.
const VENDORS: [&str; 6] = ["comap", "vanco", "comodo", "covata", "netrex", "oauth2"];

/// Faults that show at once: whose it is, and what the `curl` line answers then. All others are good at first.
const AT_ONCE: &[(&str, &str, u16)] = &[
    ("key-refused", "comap", 503),
    ("secret-expired", "comap", 503),
    ("malformed", "comap", 503),
    ("serial-unknown", "comodo", 503),
    ("other-header", "comodo", 401),
];

fn statuses(demo: &Demo) -> Vec<u16> {
    let curls = demo.curls();
    let status = |line: &String| {
        let words = format!("{line} -sS -o /dev/null -w '%{{http_code}}'");
        output(Command::new("sh").args(["-c", &words])).parse().unwrap()
    };
    curls.iter().map(status).collect()
}

#[test]
fn every_fault_can_be_watched_and_those_of_one_vendor_concern_that_one_alone() {
    let names: Vec<_> = fault::names().collect();
    assert!(names.len() > 30);
    let watch = |fault: &fault::Named| {
        let demo = Demo::start(&["--fault", fault.name]);
        let said = demo.out.lock().unwrap().clone();
        let concerned = VENDORS.iter().filter(|vendor| fault.concerns(vendor)).count();
        assert_eq!(
            said.matches(&format!("with --fault {} it {}.\n", fault.name, fault.what)).count(),
            concerned,
            "{said}"
        );
        let expected = VENDORS.map(|vendor| {
            let found = AT_ONCE.iter().find(|(name, of, _)| (*name, *of) == (fault.name, vendor));
            found.map_or(200, |(_, _, status)| *status)
        });
        assert_eq!(statuses(&demo), expected, "{fault:?}: {}", demo.log.lock().unwrap());
    };
    std::thread::scope(|scope| {
        for some in names.chunks(names.len().div_ceil(3)) {
            scope.spawn(move || some.iter().for_each(watch));
        }
    });
}

#[test]
fn a_fault_comes_with_every_other_call_and_the_old_token_serves_meanwhile() {
    let demo = Demo::start(&["--fault", "html"]);
    let said = demo.out.lock().unwrap().clone();
    let operator = said.split("http://").find_map(|rest| rest.split_once("/readyz?verbose")).unwrap().0;
    let file = said.lines().find_map(|line| line.split("in use: ").nth(1)).unwrap();
    let key = std::fs::read_to_string(Path::new(file).with_file_name("admin_key")).unwrap();
    let address = operator.parse().unwrap();
    let refresh = |token: &str| {
        let bearer = format!("Bearer {key}");
        call(address, "POST", &format!("/api/tokens/{token}/refresh"), &[("Authorization", &bearer)], b"")
    };
    assert_eq!(statuses(&demo), [200; 6]);
    for token in VENDORS {
        let failed = refresh(token);
        let error = failed.json()["last_error"].as_str().unwrap_or_default().to_owned();
        assert_eq!((failed.status, failed.json()["state"].as_str()), (502, Some("degraded")), "{token}: {error}");
        assert!(error.contains("is not JSON"), "{token}: {error}");
    }
    // One vendor's renewal ended the old token before its answer was lost: the next exchange mends that.
    eventually("all are served", || statuses(&demo) == [200; 6]);
    // Where the lost answer took a refresh token with it, the password is not sent again so soon.
    for token in VENDORS.into_iter().filter(|token| *token != "comodo") {
        eventually(&format!("{token} is well again"), || {
            let status = call(address, "GET", "/api/status", &[], b"").json();
            status["tokens"][token]["state"] == "valid"
        });
    }
}

#[test]
fn an_unknown_fault_is_refused_by_name() {
    let refused = binary().args(["demo", "--fault", "nonsense"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("html"), "the names are listed");
}

#[test]
fn the_demo_says_what_it_cannot_do_and_what_its_faults_are() {
    let run = |arguments: &[&str], directory: &str| {
        let output = binary().args(arguments).env("TMPDIR", directory).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    for arguments in [["-c", "x.toml", "demo"], ["demo", "-c", "x.toml"]] {
        let (code, _, stderr) = run(&arguments, "/tmp");
        assert!(code == 2 && stderr.contains("leave out -c"), "{stderr}");
    }
    let (code, _, stderr) = run(&["demo"], "/no/such/directory");
    assert!(code == 1 && stderr.contains("cannot be made") && stderr.contains("set TMPDIR"), "{stderr}");
    let (_, stdout, _) = run(&["demo", "--help"], "/tmp");
    assert!(stdout.contains("acts on the request, then closes the connection"), "{stdout}");
    assert!(stdout.contains("comap: says that the subscription key has ended"), "{stdout}");
}
