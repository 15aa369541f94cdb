mod cli;
mod config;
mod secret;
mod store;
mod tls;
mod token;
mod tools;
mod upstream;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::support::{Broker, binary, eventually};

/// What users see, a section a test.
const GOLDEN: &str = "tests/golden/errors.txt";

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(in_tree(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What is different at each run, and the word that stands for it.
static CHANGING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let words = [
        (r"(127\.0\.0\.1|localhost|\[::1\]):[1-9]\d{4}\b", "$1:PORT"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", "TIME"),
        (r"\b\d+ days ago", "N days ago"),
        (r"\b\d{6,} s\b", "N s"),
        (r"\bport [1-9]\d{4}\b", "port PORT"),
        (r" +\d+\.\d{3} s\b", " N s"),
        (r"\. Nothing was sent: the next attempt is in \d+ s", ""),
        (r"/tmp/\.?[A-Za-z0-9_.-]+", "DIR"),
        (r"\b(pid|process) \d+", "$1 PID"),
        (r"serial ([0-9A-F]{2}:){15,}[0-9A-F]{2}", "serial SERIAL"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
        (r"code_challenge=[\w-]+", "code_challenge=CHALLENGE"),
        (r"\b[0-9a-f]{16,}\b", "HEX"),
        (concat!("tokenbroker ", env!("CARGO_PKG_VERSION")), "tokenbroker VERSION"),
    ];
    words.map(|(pattern, word)| (Regex::new(pattern).unwrap(), word)).to_vec()
});

fn normal(text: &str) -> String {
    CHANGING.iter().fold(text.to_owned(), |text, (pattern, word)| pattern.replace_all(&text, *word).into_owned())
}

/// What was provoked, and what was said.
#[derive(Default)]
struct Section {
    text: String,
    provoked: String,
    seen: BTreeSet<String>,
}

impl Section {
    /// What was said before under that `name` is not shown again.
    fn add(&mut self, provoked: &str, said: &str, name: &str) {
        if !self.seen.insert(name.to_owned()) {
            return;
        }
        if self.provoked != provoked {
            self.text.push_str(&format!("\n  {provoked}\n"));
            self.provoked = provoked.to_owned();
        }
        said.trim_end().lines().for_each(|line| self.text.push_str(&format!("{line}\n")));
    }

    fn show(&mut self, provoked: &str, said: &str) {
        let (provoked, said) = (normal(provoked), normal(said));
        self.add(&provoked, &said, &said);
    }

    /// A command of the program to its end, its exit status before what it says.
    fn command(&mut self, provoked: &str, directory: &Path, arguments: &[&str]) {
        let mut command = binary();
        command.current_dir(directory).args(arguments);
        self.run(provoked, directory, &mut command);
    }

    fn run(&mut self, provoked: &str, directory: &Path, command: &mut Command) {
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&directory.display().to_string(), "DIR");
        let (out, err, code) = (text(&output.stdout), text(&output.stderr), output.status.code().unwrap());
        self.show(provoked, &format!("exit {code}\n{out}{err}"));
    }

    /// Held against the golden file, or written into it.
    #[track_caller]
    fn is_golden(&self, name: &str) {
        // Each test is a process of its own.
        let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("errors.lock")).unwrap();
        lock.lock().unwrap();
        let mut sections = sections();
        let now = self.text.trim_matches('\n').to_owned();
        let before = sections.insert(name.to_owned(), now.clone()).unwrap_or_default();
        if std::env::var("TOKENBROKER_TEST_GOLDEN").is_ok_and(|what| what == "write") {
            let text: String = sections.iter().map(|(name, text)| format!("\n## {name}\n\n{text}\n")).collect();
            return std::fs::write(in_tree(GOLDEN), format!("{ABOUT}{text}")).unwrap();
        }
        assert!(
            before == now,
            "{GOLDEN}, section {name}: what users see has changed.\n{}Read it as a stranger would. If it is meant: \
             TOKENBROKER_TEST_GOLDEN=write cargo nextest run --locked -E 'test(errors::)'",
            difference(&before, &now)
        );
    }
}

/// The first line of the log that is so, without its time.
fn logged(broker: &Broker, wanted: impl Fn(&Value) -> bool) -> String {
    let mut found = String::new();
    eventually("a line of the log", || {
        let log = broker.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let Some(line) = lines.find(|line| wanted(line)) else { return false };
        let fields =
            line.as_object().unwrap().iter().filter(|(key, _)| !["timestamp", "target"].contains(&key.as_str()));
        let fields = fields.map(|(key, value)| format!("{key}: {}", value.as_str().unwrap_or(&value.to_string())));
        found = format!("log: {}", fields.collect::<Vec<_>>().join("; "));
        true
    });
    found
}

const ABOUT: &str = "# What users see when something is wrong, as `tests/it/errors` provokes it: first what was done, behind two \
                     spaces, then what was said.\n# What differs at each run is a word in capitals. Written by: \
                     TOKENBROKER_TEST_GOLDEN=write cargo nextest run --locked -E 'test(errors::)'\n";

/// The golden file, by section.
fn sections() -> BTreeMap<String, String> {
    let golden = std::fs::read_to_string(in_tree(GOLDEN)).unwrap_or_default();
    let sections = golden.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap());
    sections.map(|(name, text)| (name.to_owned(), text.trim_matches('\n').to_owned())).collect()
}

/// The lines that one has and the other has not.
fn difference(before: &str, now: &str) -> String {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| other == line);
    let gone = before.lines().filter(|line| lacks(now, line)).map(|line| format!("- {line}\n"));
    let new = now.lines().filter(|line| lacks(before, line)).map(|line| format!("+ {line}\n"));
    gone.chain(new).collect()
}
