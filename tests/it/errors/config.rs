//! `check` with the wrong configurations of `config.txt`: each message below the line that it is about.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokenbroker::standin::pki::{Leaf, Pki};

use super::Section;
use crate::support::{binary, write};

const CLIENT: &str = "url = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = { exec = [\"true\"] }";
const ROUTE: &str = "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\ntoken = false";

/// What the configurations name.
fn files(directory: &Path) {
    let pki = Pki::new(directory).unwrap();
    pki.issue(&Leaf::client("me", 7)).unwrap();
    pki.issue(&Leaf::client("other", 8)).unwrap();
    pki.issue(&Leaf::server("server")).unwrap();
    pki.issue(&Leaf { years: (2020, 2021), ..Leaf::client("old", 9) }).unwrap();
    pki.issue(&Leaf { years: (2098, 2099), ..Leaf::client("future", 10) }).unwrap();
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(directory.join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    let key = std::fs::read(directory.join("me.key")).unwrap();
    let text = String::from_utf8(key.clone()).unwrap();
    write(directory, "empty", "");
    write(directory, "bytes", b"\xff\xfe\xff");
    write(directory, "large", vec![b'x'; 70_000]);
    write(directory, "huge", vec![b'x'; (4 << 20) + 1]);
    for (name, bits) in [("writable", 0o622), ("readable", 0o644)] {
        write(directory, name, "a secret");
        mode(name, bits);
    }
    write(directory, "open.key", &key);
    mode("open.key", 0o622);
    std::fs::create_dir(directory.join("open")).unwrap();
    mode("open", 0o777);
    write(directory, "broken.key", &text[..text.len() / 2]);
    let cert = std::fs::read_to_string(directory.join("me.pem")).unwrap();
    write(directory, "broken.pem", &cert[..cert.len() / 2]);
    let odd = |what: &str| format!("-----BEGIN {what}-----\naGVsbG8=\n-----END {what}-----\n");
    write(directory, "odd.pem", odd("CERTIFICATE"));
    write(directory, "dsa.key", odd("PRIVATE KEY"));
    write(directory, "encrypted.key", odd("ENCRYPTED PRIVATE KEY"));
    write(directory, "me.p12", b"0\x82\x04\x00\x02\x01\x03");
    write(directory, "over.jwt", "eyJhbGciOiJub25lIn0.eyJleHAiOjE2MDAwMDAwMDB9.x");
    let elsewhere = directory.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    Pki::until(&elsewhere, Some(1_600_000_000)).unwrap();
    std::fs::copy(elsewhere.join("ca.pem"), directory.join("old_ca.pem")).unwrap();
}

#[test]
fn everything_that_a_configuration_can_have_wrong_reads_well() {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path());
    let mut section = Section::default();
    for case in include_str!("config.txt").split("### ").skip(1) {
        let (title, text) = case.split_once('\n').unwrap();
        let text = text.replace("@client", CLIENT).replace("@route", ROUTE).replace("@secret", "{ exec = [\"true\"] }");
        write(directory.path(), "tokenbroker.toml", &text);
        let mut command = binary();
        command.args(["-c", "tokenbroker.toml", "check"]).current_dir(directory.path());
        let said = command.output().unwrap();
        let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
        for message in said.lines() {
            let message = message.replace(&format!("{}/", directory.path().display()), "");
            // The same of another key is not shown.
            let what = message.trim_start_matches("warning: ").splitn(3, ": ").last().unwrap_or_default();
            section.add(&about(title, &text, &message), &fixed(&message), what);
        }
    }
    section.is_golden("config");
}

/// Without what the day and the generator of certificates decide.
fn fixed(message: &str) -> String {
    // The times of the certificates are always the same, and a date is an example.
    let (before, after) = message.split_once("written like").unwrap_or((message, ""));
    if after.is_empty() { super::normal(before) } else { message.to_owned() }
}

/// The line of the configuration that a message is about.
fn about(title: &str, text: &str, message: &str) -> String {
    let place = message.trim_start_matches("warning: ").split(':').nth(1).and_then(|line| line.parse::<usize>().ok());
    let line = place.and_then(|line| text.lines().nth(line - 1)).unwrap_or(title);
    line.chars().take(110).collect()
}
