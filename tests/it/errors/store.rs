//! A store that cannot be used: a directory, and what stands where a Redis should.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use super::Section;
use crate::door::free_port;
use crate::exchange::OAuth;
use crate::store::STORE;
use crate::support::{Broker, HOUR, answering, eventually, write};

#[test]
fn a_store_that_cannot_be_used_says_why() {
    let mut section = Section::default();
    directory(&mut section);
    redis(&mut section);
    section.is_golden("store");
}

fn directory(section: &mut Section) {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    let home = directory.path().to_owned();
    write(&home, "store_key", "0123456789abcdef0123456789abcdef");
    write(&home, "other_key", "another key of at least thirty-two bytes");
    write(&home, "short_key", "short");
    let config = format!("{STORE}{}", oauth.config("", ""));
    let kept = home.join("kept");
    let mut broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("api", "valid");
    broker.command(&["status"]);
    let say = |section: &mut Section, what: &str, change: (&str, &str), command: &str| {
        let text = std::fs::read_to_string(home.join("operator.toml")).unwrap();
        write(&home, "t.toml", text.replace(change.0, change.1));
        let arguments: Vec<_> = ["-c", "t.toml", "--log-format", "text", "--log-level", "error"]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        section.command(&format!("tokenbroker {command}: {what}"), &home, &arguments);
    };
    let listen = format!("\"{}\"", broker.listen("admin"));
    say(section, "another broker has the store", (&*listen, "\"127.0.0.1:0\""), "run");
    say(section, "there is no such record", ("", ""), "store forget token.none");
    let records = || {
        let entries = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("token.")).collect::<Vec<_>>()
    };
    eventually("it is saved", || !records().is_empty());
    say(section, "the file is there", ("", ""), "store export secret");
    assert!(broker.stop().success());
    for command in ["check", "store list", "run"] {
        say(section, "another key", ("store_key", "other_key"), command);
        say(section, "a short key", ("store_key", "short_key"), command);
    }
    for record in records() {
        write(&kept, record.file_name().unwrap().to_str().unwrap(), "damaged");
    }
    for command in ["check", "store list", "store export out", "run"] {
        say(section, "a damaged record", ("", ""), command);
    }
    std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o755)).unwrap();
    for command in ["check", "store list", "run"] {
        say(section, "others can read the directory", ("", ""), command);
    }
    say(section, "no directory can be made there", ("\"kept\"", "\"/proc/none/kept\""), "run");
}

/// What a Redis says, or what is none, and what is made of it.
const ANSWERS: &[(&str, &str)] = &[
    ("", ""),
    ("HTTP/1.1 400 Bad Request", ""),
    ("-DENIED Redis is running in protected mode", ""),
    ("-ERR max number of clients reached", ""),
    ("-LOADING Redis is loading the dataset in memory", ""),
    ("-MASTERDOWN Link with MASTER is down", ""),
    ("-WRONGPASS invalid username-password pair or user is disabled.", ""),
    ("-ERR AUTH <password> called without any password configured", ""),
    ("-ERR wrong number of arguments for 'auth' command", ""),
    ("-ERR DB index is out of range", ""),
    ("+PONG", ""),
    ("+PONG", "+OK"),
    ("+PONG", "-READONLY You can't write against a read only replica."),
    ("+PONG", "-OOM command not allowed when used memory > 'maxmemory'."),
    ("+PONG", "-MOVED 866 10.0.0.1:6379"),
    ("+PONG", "-MISCONF Redis is configured to save RDB snapshots"),
    ("+PONG", "-NOREPLICAS Not enough good replicas to write."),
    ("+PONG", "-BUSY Redis is busy running a script."),
    ("+PONG", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
    ("+PONG", "-ERR unknown command 'EVAL', with args"),
    ("+PONG", "-ERR Error: Write commands not allowed after non deterministic commands."),
    ("+PONG", "-NOPERM this user has no permissions to run the 'scan' command"),
    ("+PONG", "-ERR something new"),
];

fn redis(section: &mut Section) {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    write(home, "store_key", "0123456789abcdef0123456789abcdef");
    let mut say = |what: &str, url: &str, keys: &str| {
        let store = format!("[store]\nkind = \"redis\"\nkey = {{ file = \"store_key\" }}\nurl = \"{url}\"\n{keys}\n");
        let route = "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\ntoken = false\n";
        write(home, "t.toml", format!("{store}{route}"));
        section.command(&format!("tokenbroker store list: {what}"), home, &["-c", "t.toml", "store", "list"]);
    };
    say("nobody listens", &format!("redis://127.0.0.1:{}", free_port()), "");
    say("no such name", "redis://no-such-name.invalid", "");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    say("no answer", &format!("redis://{}", silent.local_addr().unwrap()), "");
    for (greeting, answer) in ANSWERS {
        let port = answering(greeting, answer);
        let what =
            if answer.is_empty() { format!("to PING it says {greeting:?}") } else { format!("it says {answer:?}") };
        say(&what, &format!("redis://127.0.0.1:{port}"), "");
    }
    let port = answering("HTTP/1.1 400 Bad Request", "");
    say("TLS to a port without", &format!("rediss://127.0.0.1:{port}"), "");
    say("its password is not there", &format!("redis://127.0.0.1:{port}"), "password = { exec = [\"false\"] }");
}
