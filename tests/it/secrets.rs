use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use tokenbroker::standin::demo::Vendor;
use tokenbroker::standin::{Budget, Comap, Slot};

use crate::support::{HOUR, Setup, Stand, binary, issuer, write};

const MANY: Duration = Duration::from_secs(1);
const STORE: &str = "store = { kind = \"file\", path = \"store\", key = { file = \"store_key\" } }\n";

/// A vendor with a token that may do more than its own limit allows, and how its secret is rotated.
fn comap(rotate: &str) -> Setup<Comap> {
    let mut vendor = Comap::new(issuer(HOUR));
    vendor.budget = Budget::new(1000, MANY);
    let mut setup = Setup::new("comap", vendor);
    let limit = "1000 per 1s".into();
    setup.token().insert("limit".into(), limit);
    with(setup, rotate)
}

fn with<V: Vendor>(mut setup: Setup<V>, rotate: &str) -> Setup<V> {
    let store: toml::Table = STORE.parse().unwrap();
    setup.config.extend(store);
    let rotate: toml::Table = format!("rotate = {{ {rotate} }}").parse().unwrap();
    setup.token().extend(rotate);
    setup
}

/// A command of the program, with that on stdin: exit status, stdout, stderr.
fn run<V>(stand: &Stand<V>, arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let path = |name: &str| stand.broker.directory.path().join(name);
    let text = std::fs::read_to_string(path("tokenbroker.toml")).unwrap();
    let admin = format!("\"{}\"", stand.broker.listen("admin"));
    write(stand.broker.directory.path(), "operator.toml", text.replacen("\"127.0.0.1:0\"", &admin, 1));
    let mut command = binary();
    command.arg("-c").arg(path("operator.toml")).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{stdin}").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn values(slots: &[Slot]) -> Vec<String> {
    slots.iter().map(|slot| slot.value.clone()).collect()
}

#[test]
fn a_secret_is_rotated_with_a_persons_token_and_the_old_one_is_deleted_after_the_grace() {
    let stand = comap("grace = \"2s\", settle = \"1s\", verify = { times = 3, every = \"1s\" }").start();
    assert_eq!(stand.get().status, 200);
    let person = stand.vendor.users.access_token();
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    println!("{out}\n{err}\n{}", stand.broker.log());
    assert_eq!(code, 0);
    let slots = stand.vendor.secrets.lock().clone();
    assert_eq!(slots.len(), 1);
    assert!(!values(&slots).contains(&Comap::SECRET.to_owned()));
    assert_eq!(stand.refresh().status, 200);
    let (code, out, err) = run(&stand, &["secret", "list", "comap", "--admin-token-stdin"], &person);
    println!("{out}\n{err}");
    assert_eq!(code, 0);
}
