use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokenbroker::clock::Clock;
use tokenbroker::standin::demo::Vendor;
use tokenbroker::standin::pki::Clients;
use tokenbroker::standin::{Budget, Comap, Covata, Quirk, Slot, Vanco};

use crate::support::{ADMIN_KEY, HOUR, RedisServer, Reply, Setup, Stand, binary, call, eventually, issuer, write};

pub const QUICK: &str = "grace = \"1s\", settle = \"1s\", verify = { times = 3, every = \"1s\" }";
/// Brokers that are killed.
const KILLS: usize = 8;
const MANY: Duration = Duration::from_secs(1);
pub const STORE: &str = "store = { kind = \"file\", path = \"store\", key = { file = \"store_key\" } }\n";

/// A vendor with a token that may do more than its own limit allows, and how its secret is rotated.
pub fn comap(rotate: &str) -> Setup<Comap> {
    let mut vendor = Comap::new(issuer(HOUR));
    vendor.budget = Budget::new(1000, MANY);
    let mut setup = Setup::new("comap", vendor);
    let limit = "1000 per 1s".into();
    setup.token().insert("limit".into(), limit);
    with(setup, rotate)
}

pub fn with<V: Vendor>(mut setup: Setup<V>, rotate: &str) -> Setup<V> {
    let store: toml::Table = STORE.parse().unwrap();
    setup.config.extend(store);
    let rotate: toml::Table = format!("rotate = {{ {rotate} }}").parse().unwrap();
    setup.token().extend(rotate);
    setup
}

/// A command of the program, with that on stdin: exit status, stdout, stderr.
pub fn run<V>(stand: &Stand<V>, arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let path = |name: &str| stand.broker.directory.path().join(name);
    let text = std::fs::read_to_string(path("tokenbroker.toml")).unwrap();
    let admin = format!("\"{}\"", stand.broker.listen("admin"));
    write(stand.broker.directory.path(), "operator.toml", text.replacen("\"127.0.0.1:0\"", &admin, 1));
    let mut command = binary();
    command.arg("-c").arg(path("operator.toml")).args(arguments);
    finished(command, stdin)
}

pub fn finished(mut command: Command, stdin: &str) -> (i32, String, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that reads nothing may be gone already.
    let _ = writeln!(child.stdin.take().unwrap(), "{stdin}");
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A POST of the operator's, about the secrets of the vendor's token.
fn post<V: Vendor>(stand: &Stand<V>, verb: &str, body: &Value) -> Reply {
    let key = format!("Bearer {ADMIN_KEY}");
    let target = format!("/api/secrets/{}/{verb}", V::NAME);
    let headers = [("Authorization", &*key)];
    call(stand.broker.address("admin"), "POST", &target, &headers, body.to_string().as_bytes())
}

/// With a token `person`, made by hand, of somebody who may manage the secrets.
fn with_person(mut setup: Setup<Comap>) -> Setup<Comap> {
    let person = setup.vendor.users.access_token();
    let auth = setup.shown.auth.url();
    let admin: toml::Table = format!(
        "grant = \"static\"\naccess_token = {{ file = \"person\" }}\nsend_to = [\"{auth}\"]\nrequired = false\n"
    )
    .parse()
    .unwrap();
    setup.config["token"].as_table_mut().unwrap().insert("person".into(), admin.into());
    setup.write("person", &person)
}

/// Killed, and started again with the same files after what `meanwhile` did to them.
fn stopped_and_started<V: Vendor>(stand: Stand<V>, meanwhile: impl FnOnce(&std::path::Path)) -> Stand<V> {
    let Stand { broker, vendor, shown } = stand;
    Stand { broker: broker.killed_and_started_after(meanwhile), vendor, shown }
}

/// Killed, and started again with the same files.
fn restarted<V: Vendor>(stand: Stand<V>) -> Stand<V> {
    let Stand { broker, vendor, shown } = stand;
    Stand { broker: broker.killed_and_started(), vendor, shown }
}

/// The secret in use.
fn exported_or_configured<V: Vendor>(stand: &Stand<V>) -> String {
    let path = stand.broker.directory.path();
    let file = path.join("exported");
    let (code, _, _) = run(stand, &["secret", "export", V::NAME, "--to", file.to_str().unwrap()], "");
    let found = if code == 0 { file } else { path.join(format!("{}_secret", V::NAME)) };
    std::fs::read_to_string(found).unwrap().trim_end().to_owned()
}

/// The same of the operator's listener, for a broker that another process may start or kill.
fn alone<V>(setup: &Setup<V>, arguments: &[&str], stdin: &str) -> (i32, String, String)
where
    V: Vendor,
{
    let file = write(setup.directory.path(), "alone.toml", setup.text());
    let mut command = binary();
    command.arg("-c").arg(file).args(arguments);
    finished(command, stdin)
}

fn values(slots: &[Slot]) -> Vec<String> {
    slots.iter().map(|slot| slot.value.clone()).collect()
}

pub fn another(ends_in_days: i64) -> Slot {
    let now = Clock::system().now().wall;
    let ends = now.checked_add(SignedDuration::from_hours(24 * ends_in_days)).unwrap();
    Slot::new("made by hand", now.checked_add(SignedDuration::from_hours(-24 * 400)).unwrap(), Some(ends))
}

/// What the vendor has afterwards is the one secret that the broker uses.
#[track_caller]
fn is_rotated(stand: &Stand<Comap>) {
    let slots = values(&stand.vendor.secrets.lock());
    assert_eq!(slots.len(), 1, "{slots:?}");
    assert_ne!(slots[0], Comap::SECRET);
    assert_eq!(stand.refresh().status, 200);
    assert_eq!(stand.get().status, 200);
    assert_eq!(exported(stand), slots[0]);
}

/// The secret in use, as `export` writes it.
#[track_caller]
fn exported<V: Vendor>(stand: &Stand<V>) -> String {
    let file = stand.broker.directory.path().join("exported");
    let (code, _, err) = run(stand, &["secret", "export", V::NAME, "--to", file.to_str().unwrap()], "");
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::read_to_string(file).unwrap().trim_end().to_owned()
}

#[test]
fn a_secret_is_rotated_with_a_persons_token_and_the_old_one_is_deleted_after_the_grace() {
    let stand = comap(QUICK).start();
    assert_eq!(stand.get().status, 200);
    let file = stand.broker.directory.path().join("tokenbroker.toml");
    let before = std::fs::read(&file).unwrap();
    let person = stand.vendor.users.access_token();
    let (code, _, err) = run(&stand, &["secret", "export", "comap", "--to", "x"], "");
    assert!(code == 1 && err.contains("the configured one is in use"), "{err}");
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    for part in [
        "looking at what the vendor has",
        "it is tried: 2 of 3 times",
        "is in use; the old one goes at",
        "the only one",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    is_rotated(&stand);
    assert_eq!(std::fs::read(&file).unwrap(), before, "the configuration is the user's");
    let (code, out, err) = run(&stand, &["secret", "list", "comap", "--json", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{err}");
    let listed: Value = serde_json::from_str(&out).unwrap();
    let slot = stand.vendor.secrets.lock()[0].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let one = &listed[0];
    assert_eq!((one["id"].as_str(), one["in_use"].as_bool()), (Some(&*slot.id), Some(true)), "{out}");
    assert!(one["name"].as_str().unwrap().starts_with("tb/") && one["days_left"] == 729, "{out}");
    assert!(!out.contains(&slot.value), "{out}");
    let status = stand.token();
    assert_eq!(
        (status["rotation"]["state"].as_str(), status["rotation"]["rotated"].as_bool()),
        (Some("stable"), Some(true))
    );
    assert!(status["secret_expires_at"].as_str().is_some_and(|end| end.starts_with("2028-")), "{status}");
    assert_eq!(status["client_secrets"][0]["in_use"], false);
    let (code, out, _) = run(&stand, &["store", "list"], "");
    assert!(code == 0 && out.contains("a rotated client secret is in use"), "{out}");
    let name = out.lines().find(|line| line.starts_with("secret.")).unwrap().split(' ').next().unwrap().to_owned();
    let (code, _, err) = run(&stand, &["store", "forget", &name], "");
    assert!(code == 1 && err.contains("may hold the only client secret that works"), "{err}");
    let log = stand.broker.log();
    assert!(!log.contains(&slot.value) && !log.contains(&person), "{log}");
}

#[test]
fn a_rotated_secret_that_replicas_share_is_listed_and_exported_and_not_forgotten() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let mut setup = comap(QUICK);
    let store = format!("url = \"redis://127.0.0.1:{}\"\nkey = {{ file = \"store_key\" }}\n", redis.port);
    let store: toml::Table = format!("kind = \"redis\"\n{store}").parse().unwrap();
    setup.config.insert("store".into(), store.into());
    let stand = setup.start();
    let person = stand.vendor.users.access_token();
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
    let (code, out, _) = run(&stand, &["store", "list"], "");
    assert!(code == 0 && out.contains("a rotated client secret is in use"), "{out}");
    let name = out.lines().find(|line| line.starts_with("secret.")).unwrap().split(' ').next().unwrap().to_owned();
    let (code, _, err) = run(&stand, &["store", "forget", &name], "");
    assert!(code == 1 && err.contains("may hold the only client secret that works"), "{err}");
}

#[test]
fn a_rotated_secret_outlives_a_restart_and_gives_way_to_another_configured_value() {
    let stand = comap(QUICK).start();
    let person = stand.vendor.users.access_token();
    assert_eq!(run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person).0, 0);
    let (rotated, stand) = (exported(&stand), restarted(stand));
    assert_eq!(stand.refresh().status, 200);
    assert_eq!(exported(&stand), rotated);
    let third = another(300);
    *stand.vendor.secrets.lock() = vec![third.clone()];
    assert_eq!(stand.refresh().status, 502, "the rotated one is gone at the vendor");
    write(stand.broker.directory.path(), "comap_secret", &third.value);
    eventually("the configured one is used", || stand.refresh().status == 200);
    assert_eq!(stand.token()["client_secrets"][0]["in_use"], true);
    // And it can be rotated itself.
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
}

#[test]
fn two_foreign_secrets_leave_no_room_and_the_operator_chooses() {
    let stand = comap(QUICK).start();
    let foreign = another(300);
    stand.vendor.secrets.lock().push(foreign.clone());
    let ours = stand.vendor.secrets.lock()[0].id.clone();
    let person = stand.vendor.users.access_token();
    let rotate =
        |more: &[&str]| run(&stand, &[&["secret", "rotate", "comap", "--admin-token-stdin"], more].concat(), &person);
    let (code, _, err) = rotate(&[]);
    assert!(code == 1 && err.contains(&foreign.id) && err.contains("--remove"), "{err}");
    assert_eq!(stand.vendor.secrets.lock().len(), 2, "nothing was changed");
    assert_eq!(stand.refresh().status, 200);
    let delete = |id: &str| run(&stand, &["secret", "delete", "comap", id, "--admin-token-stdin"], &person);
    let (code, _, err) = delete(&ours);
    assert!(code == 1 && stand.vendor.secrets.lock().len() == 2, "{err}");
    let (code, out, err) = rotate(&["--remove", &foreign.id]);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
    let id = stand.vendor.secrets.lock()[0].id.clone();
    let (code, _, err) = delete(&id);
    assert!(code == 1 && err.contains("it is in use"), "{err}");
    stand.vendor.secrets.lock().push(another(300));
    let foreign = stand.vendor.secrets.lock()[1].id.clone();
    let (code, out, err) = delete(&foreign);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
}

#[test]
fn an_expired_secret_of_anybody_makes_room() {
    let stand = comap(QUICK).start();
    stand.vendor.secrets.lock().push(another(-2));
    let person = stand.vendor.users.access_token();
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
}

#[test]
fn without_the_right_token_of_a_person_nothing_is_changed_and_the_way_is_named() {
    let stand = comap(QUICK).start();
    let before = values(&stand.vendor.secrets.lock());
    for (token, arguments) in [
        ("", vec!["secret", "rotate", "comap"]),
        ("", vec!["secret", "list", "comap"]),
        ("wrong-token-7f3a9c", vec!["secret", "rotate", "comap", "--admin-token-stdin"]),
        ("wrong-token-7f3a9c", vec!["secret", "delete", "comap", "x", "--admin-token-stdin"]),
    ] {
        let (code, out, err) = run(&stand, &arguments, token);
        assert!(code == 1 && err.contains("--admin-token-stdin"), "{arguments:?} {out}{err}");
        assert!(!err.contains("7f3a9c"), "{err}");
        assert_eq!(values(&stand.vendor.secrets.lock()), before);
        assert_eq!(stand.refresh().status, 200);
    }
    // What was refused is not half begun.
    assert_eq!(stand.token()["rotation"]["state"], "stable");
    let (code, _, err) = run(&stand, &["secret", "rotate", "nobody"], "");
    assert!(code == 1 && err.contains("there is no token nobody"), "{err}");
    let person = stand.vendor.users.access_token();
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
}

#[test]
fn a_secret_that_not_every_replica_knows_is_tried_again_while_the_old_one_serves() {
    let stand = comap(QUICK).start();
    *stand.vendor.replicas.lock().unwrap() = [0, 6, 9].map(Duration::from_secs).to_vec();
    stand.vendor.faults.turn(Quirk::Replicas, true);
    let person = stand.vendor.users.access_token();
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("not yet: client_rejected"), "{out}");
    is_rotated(&stand);
}

#[test]
fn the_quirks_of_the_list_and_of_the_creation_do_not_matter() {
    for quirks in [&[Quirk::EndsNow, Quirk::Created][..], &[Quirk::OldNames]] {
        let mut setup = comap(QUICK);
        for quirk in quirks {
            setup = setup.turn(*quirk);
        }
        let stand = setup.start();
        let person = stand.vendor.users.access_token();
        let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
        assert_eq!(code, 0, "{quirks:?} {out}{err}");
        is_rotated(&stand);
        assert!(stand.token()["secret_expires_at"].as_str().is_some_and(|end| end.starts_with("2028-")));
    }
}

#[test]
fn in_the_grace_the_old_secret_answers_for_the_new_one() {
    let stand = comap("grace = \"1h\", settle = \"1s\", verify = { times = 1, every = \"1s\" }").start();
    let person = stand.vendor.users.access_token();
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("the running broker deletes it then, or the next `secret rotate comap`"), "{out}");
    assert_eq!(stand.vendor.secrets.lock().len(), 2);
    assert_ne!(exported(&stand), Comap::SECRET);
    // A replica that does not know it after all.
    let new = stand.vendor.secrets.lock().pop().unwrap();
    for _ in 0..2 {
        assert_eq!(stand.refresh().status, 200, "{}", stand.token());
    }
    assert_eq!(stand.token()["rotation"]["state"], "swapped");
    assert_eq!(stand.refresh().status, 200);
    eventually("the old one serves again", || stand.token()["rotation"]["state"] == "verifying");
    assert_eq!(exported_or_configured(&stand), Comap::SECRET);
    stand.vendor.secrets.lock().push(new);
    assert_eq!(stand.refresh().status, 200);
}

#[test]
fn without_a_broker_the_command_does_it_itself_and_the_broker_goes_on_from_there() {
    let setup = comap(QUICK);
    let person = setup.vendor.users.access_token();
    let (code, out, err) = alone(&setup, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    let stand = setup.start();
    is_rotated(&stand);
}

#[test]
fn a_store_in_memory_is_refused_before_anything_is_asked() {
    let mut setup = comap(QUICK);
    setup.config.remove("store");
    setup.token().remove("rotate");
    let person = setup.vendor.users.access_token();
    let (code, _, err) = alone(&setup, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert!(code == 1 && err.contains("[store]"), "{err}");
    let stand = setup.start();
    let (code, _, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert!(code == 1 && err.contains("the store is in memory") && err.contains("[store]"), "{err}");
    assert_eq!(values(&stand.vendor.secrets.lock()), [Comap::SECRET]);
}

#[test]
fn a_store_that_cannot_be_written_is_found_out_before_anything_is_made() {
    let stand = comap(QUICK).start();
    assert_eq!(stand.get().status, 200);
    let directory = stand.broker.directory.path();
    std::fs::rename(directory.join("store"), directory.join("elsewhere")).unwrap();
    let person = stand.vendor.users.access_token();
    let asked = json!({ "admin_token": person });
    let reply = post(&stand, "rotate", &asked);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let progress = || post(&stand, "progress", &json!({})).json();
    eventually("it is told", || progress()["problem"].is_string());
    let told = progress();
    assert!(told["problem"].as_str().unwrap().contains("nothing was begun"), "{told}");
    assert_eq!(values(&stand.vendor.secrets.lock()), [Comap::SECRET]);
    std::fs::rename(directory.join("elsewhere"), directory.join("store")).unwrap();
    let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
}

#[test]
fn a_secret_is_rotated_by_itself_before_it_ends_with_the_token_of_another() {
    let setup = comap(&format!("before = \"400d\", admin = \"person\", {QUICK}"));
    let stand = with_person(setup).start();
    eventually("it is rotated", || {
        let token = stand.token();
        token["rotation"]["state"] == "stable" && token["rotation"]["rotated"] == true
    });
    is_rotated(&stand);
    // What lives for two years is not rotated again.
    let arrived = stand.vendor.asked("/identity/application/createSecret");
    let stand = restarted(stand);
    assert_eq!(stand.refresh().status, 200);
    assert_eq!(stand.vendor.asked("/identity/application/createSecret"), arrived);
}

#[test]
fn the_new_secret_is_written_where_the_operator_wants_it_also_over_the_old_one() {
    for file in ["new_secret", "comap_secret"] {
        let stand = comap(&format!("write = \"{file}\", {QUICK}")).start();
        let person = stand.vendor.users.access_token();
        let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
        assert_eq!(code, 0, "{out}{err}");
        let path = stand.broker.directory.path().join(file);
        let written = || std::fs::read_to_string(&path).unwrap_or_default().trim_end().to_owned();
        eventually("it is written", || written() == stand.vendor.secrets.lock()[0].value);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        is_rotated(&stand);
        let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
        assert_eq!(code, 0, "{out}{err}");
        eventually("again", || written() == stand.vendor.secrets.lock()[0].value);
        is_rotated(&stand);
    }
}

#[test]
fn a_secret_made_by_hand_is_imported_once_it_is_proved() {
    let stand = comap(QUICK).start();
    let by_hand = another(300);
    let (code, _, err) = run(&stand, &["secret", "import", "comap"], "");
    assert!(code == 1 && err.contains("no client secret came on stdin"), "{err}");
    let (code, _, err) = run(&stand, &["secret", "import", "comap"], Comap::SECRET);
    assert!(code == 1 && err.contains("in use already"), "{err}");
    // A mistyped one is tried for a while, and the right one takes its place.
    let reply = post(&stand, "import", &json!({ "secret": "not-a-secret-7f3a9c" }));
    assert_eq!(reply.status, 200, "{}", reply.text());
    eventually("it is refused", || stand.token()["rotation"]["said"].is_string());
    assert_eq!(stand.refresh().status, 200, "the old one serves");
    stand.vendor.secrets.lock().push(by_hand.clone());
    let import = ["secret", "import", "comap", "--id", &by_hand.id, "--expires", "2027-01-31"];
    let (code, out, err) = run(&stand, &import, &by_hand.value);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(exported(&stand), by_hand.value);
    assert_eq!(stand.token()["secret_expires_at"], "2027-01-31T00:00:00.000Z");
    assert_eq!(stand.vendor.secrets.lock().len(), 2, "the old one is deleted by whoever made this one");
    *stand.vendor.secrets.lock() = vec![by_hand];
    assert_eq!(stand.refresh().status, 200);
    assert!(!stand.broker.log().contains("7f3a9c"));
}

#[test]
fn tokens_of_the_same_client_share_the_secret() {
    let mut setup = comap(QUICK);
    let mut other = setup.token().clone();
    other.remove("rotate");
    setup.config["token"].as_table_mut().unwrap().insert("another".into(), other.into());
    let stand = setup.start();
    let person = stand.vendor.users.access_token();
    let (code, out, err) = run(&stand, &["secret", "rotate", "another", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
    assert_eq!(stand.broker.admin("POST", "/api/tokens/another/refresh").status, 200);
}

#[test]
fn a_secret_without_an_id_is_found_by_its_end() {
    for quirks in [&[][..], &[Quirk::OneObject, Quirk::HidesDeleted], &[Quirk::SlowDeath]] {
        let mut setup = with(Setup::new("vanco", Vanco::new(issuer(HOUR))), QUICK);
        for quirk in quirks {
            setup = setup.turn(*quirk);
        }
        let stand = setup.start();
        assert_eq!(stand.get().status, 200);
        let admin = stand.vendor.admins.access_token();
        let (code, _, err) = run(&stand, &["secret", "rotate", "vanco"], "");
        assert!(code == 1 && err.contains("ids:app_admin"), "{err}");
        let (code, out, err) = run(&stand, &["secret", "rotate", "vanco", "--admin-token-stdin"], &admin);
        assert_eq!(code, 0, "{quirks:?} {out}{err}");
        let live: Vec<_> = stand.vendor.secrets.lock().iter().filter(|slot| slot.deleted.is_none()).cloned().collect();
        assert_eq!(values(&live), [exported(&stand)]);
        assert_eq!(stand.refresh().status, 200);
        let (code, out, err) = run(&stand, &["secret", "list", "vanco", "--admin-token-stdin"], &admin);
        assert_eq!(code, 0, "{err}");
        let line = out.lines().find(|line| line.starts_with(&live[0].id)).unwrap();
        assert!(line.ends_with("in use"), "{out}");
        let deleted = out.lines().filter(|line| line.ends_with("deleted")).count();
        assert_eq!(deleted, usize::from(!quirks.contains(&Quirk::HidesDeleted)), "{out}");
    }
}

#[test]
fn where_the_list_does_not_tell_which_one_is_in_use_the_operator_says_it() {
    let stand = with(Setup::new("vanco", Vanco::new(issuer(HOUR))), QUICK).start();
    let foreign = another(300);
    stand.vendor.secrets.lock().push(foreign.clone());
    let ours = stand.vendor.secrets.lock()[0].id.clone();
    let admin = stand.vendor.admins.access_token();
    let rotate =
        |more: &[&str]| run(&stand, &[&["secret", "rotate", "vanco", "--admin-token-stdin"], more].concat(), &admin);
    let (code, _, err) = rotate(&[]);
    assert!(code == 1 && err.contains(&foreign.id) && err.contains(&ours) && err.contains("--current"), "{err}");
    let (code, out, _) = run(&stand, &["secret", "list", "vanco", "--admin-token-stdin"], &admin);
    assert!(code == 0 && out.matches("in use?").count() == 2, "{out}");
    let (code, _, err) = run(&stand, &["secret", "delete", "vanco", &foreign.id, "--admin-token-stdin"], &admin);
    assert!(code == 1 && err.contains("which one is in use cannot be told"), "{err}");
    let (code, out, err) = rotate(&["--current", &ours]);
    assert_eq!(code, 0, "{out}{err}");
    let slots = stand.vendor.secrets.lock().clone();
    let live: Vec<_> = slots.iter().filter(|slot| slot.deleted.is_none()).cloned().collect();
    assert_eq!(values(&live), [foreign.value, exported(&stand)]);
}

#[test]
fn a_secret_is_replaced_in_place_where_there_is_only_one() {
    let stand = with(Setup::new("covata", Covata::new(issuer(HOUR))), QUICK).start();
    assert_eq!(stand.get().status, 200);
    let admin = covata_admin(&stand);
    let (code, _, err) = run(&stand, &["secret", "rotate", "covata"], "");
    assert!(code == 1 && stand.vendor.clients()[0]["clientSecret"] == Covata::CLIENT_SECRET, "{err}");
    let (code, out, err) = run(&stand, &["secret", "rotate", "covata", "--admin-token-stdin"], &admin);
    assert_eq!(code, 0, "{out}{err}");
    let now = stand.vendor.clients()[0]["clientSecret"].as_str().unwrap().to_owned();
    assert_ne!(now, Covata::CLIENT_SECRET);
    assert_eq!(exported(&stand), now);
    assert_eq!(stand.refresh().status, 200);
    assert_eq!(stand.get().status, 200);
}

/// The access token of a person who may change client applications.
fn covata_admin(stand: &Stand<Covata>) -> String {
    let basic = STANDARD.encode(format!("{}:{}", Covata::CLIENT_ID, Covata::CLIENT_SECRET));
    let authorization = format!("Basic {basic}");
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-www-form-urlencoded")];
    let body = format!("grant_type=password&username={}&password={}", Covata::ADMIN, Covata::ADMIN_PASSWORD);
    let address = stand.shown.auth.url().strip_prefix("http://").unwrap().replace("localhost", "127.0.0.1");
    let reply = call(address.parse().unwrap(), "POST", "/api/oauth/token", &headers, body.as_bytes());
    reply.json()["access_token"].as_str().unwrap_or_else(|| panic!("{}", reply.text())).to_owned()
}

#[test]
fn where_the_vendor_has_a_portal_only_the_way_is_an_import() {
    let stand = with(Setup::comodo(HOUR, Clients::Must), QUICK).start();
    let (code, _, err) = run(&stand, &["secret", "rotate", "comodo"], "");
    assert!(code == 1 && err.contains("tokenbroker secret import comodo"), "{err}");
    let (code, _, err) = run(&stand, &["secret", "list", "comodo"], "");
    assert!(code == 1 && err.contains("no request secrets.list"), "{err}");
}

#[test]
fn a_broker_that_is_killed_anywhere_in_a_rotation_ends_it_when_it_is_asked_again() {
    let rng = &mut fastrand::Rng::with_seed(20_261_122);
    let mut killed_in = BTreeMap::<String, usize>::new();
    for round in 0..KILLS {
        let mut stand = comap(QUICK).start();
        let foreign = (round % 3 == 0).then(|| another(-3));
        stand.vendor.secrets.lock().extend(foreign);
        let person = stand.vendor.users.access_token();
        assert_eq!(post(&stand, "rotate", &json!({ "admin_token": person })).status, 200);
        std::thread::sleep(Duration::from_millis(rng.u64(0..3500)));
        let state = stand.token()["rotation"]["state"].as_str().unwrap().to_owned();
        *killed_in.entry(state).or_default() += 1;
        stand = restarted(stand);
        // At no instant is there nothing that works.
        let reply = stand.refresh();
        assert_eq!(reply.status, 200, "{killed_in:?} {}", reply.text());
        let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
        assert_eq!(code, 0, "{killed_in:?} {out}{err}");
        is_rotated(&stand);
    }
    println!("{killed_in:?}");
    assert!(killed_in.len() > 2, "{killed_in:?}");
}

#[test]
fn what_the_operator_puts_into_the_file_of_the_secret_is_never_written_over() {
    let stand = comap(&format!("write = \"comap_secret\", {QUICK}")).start();
    let person = stand.vendor.users.access_token();
    assert_eq!(run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person).0, 0);
    let path = stand.broker.directory.path().join("comap_secret");
    let rotated = stand.vendor.secrets.lock()[0].value.clone();
    eventually("it is written", || std::fs::read_to_string(&path).unwrap().trim_end() == rotated);
    let by_hand = another(300);
    stand.vendor.secrets.lock().push(by_hand.clone());
    let stand = stopped_and_started(stand, |directory| drop(write(directory, "comap_secret", &by_hand.value)));
    assert_eq!(stand.refresh().status, 200);
    *stand.vendor.secrets.lock() = vec![by_hand.clone()];
    assert_eq!(stand.refresh().status, 200, "the one that was put there is used");
    let path = stand.broker.directory.path().join("comap_secret");
    assert_eq!(std::fs::read_to_string(path).unwrap().trim_end(), by_hand.value);
}

#[test]
fn a_bad_token_from_stdin_is_not_kept_and_the_configured_one_is_used_the_next_time() {
    let stand = with_person(comap(&format!("admin = \"person\", {QUICK}"))).start();
    let rotate = |more: &[&str], stdin: &str| run(&stand, &[&["secret", "rotate", "comap"], more].concat(), stdin);
    let (code, _, err) = rotate(&["--admin-token-stdin"], "wrong-token-7f3a9c");
    assert!(code == 1 && err.contains("user_action"), "{err}");
    let (code, out, err) = rotate(&[], "");
    assert_eq!(code, 0, "{out}{err}");
    is_rotated(&stand);
}

#[test]
fn of_two_configured_secrets_the_other_one_takes_over_also_after_a_rotation_that_failed() {
    let mut setup = comap(QUICK);
    let second = another(300);
    setup.vendor.secrets.lock().push(second.clone());
    let both: toml::Table = "client_secret = [{ file = \"comap_secret\" }, { file = \"second\" }]".parse().unwrap();
    setup.token().extend(both);
    let stand = setup.write("second", &second.value).start();
    assert_eq!(stand.get().status, 200);
    let person = stand.vendor.users.access_token();
    let (code, _, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
    assert!(code == 1 && err.contains("--remove"), "both slots are taken: {err}");
    stand.vendor.secrets.lock().remove(0);
    assert_eq!(stand.refresh().status, 200);
    assert_eq!(stand.token()["client_secrets"][1]["in_use"], true, "{}", stand.token());
}

#[test]
fn tokens_of_one_client_with_files_of_their_own_go_on_together() {
    let mut setup = comap(&format!("write = \"comap_secret\", {QUICK}"));
    let mut other = setup.token().clone();
    other.remove("rotate");
    let own: toml::Table = "client_secret = { file = \"copy\" }".parse().unwrap();
    other.extend(own);
    setup.config["token"].as_table_mut().unwrap().insert("another".into(), other.into());
    let stand = setup.write("copy", Comap::SECRET).start();
    let person = stand.vendor.users.access_token();
    for _ in 0..2 {
        let (code, out, err) = run(&stand, &["secret", "rotate", "comap", "--admin-token-stdin"], &person);
        assert_eq!(code, 0, "{out}{err}");
        assert_eq!(stand.broker.admin("POST", "/api/tokens/another/refresh").status, 200);
        is_rotated(&stand);
    }
}

#[test]
fn a_record_that_cannot_be_read_can_be_forgotten() {
    let setup = comap(QUICK);
    let person = setup.vendor.users.access_token();
    assert_eq!(alone(&setup, &["secret", "rotate", "comap", "--admin-token-stdin"], &person).0, 0);
    let store = setup.directory.path().join("store");
    let mut name = String::new();
    for entry in std::fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if file.starts_with("secret.") {
            name = file.split('.').take(2).collect::<Vec<_>>().join(".");
            std::fs::write(path, "damaged").unwrap();
        }
    }
    let (code, _, err) = alone(&setup, &["secret", "list", "comap", "--admin-token-stdin"], &person);
    assert!(code == 1 && err.contains(&format!("store forget {name}")), "{err}");
    let (code, out, err) = alone(&setup, &["store", "forget", &name], "");
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = alone(&setup, &["secret", "list", "comap", "--admin-token-stdin"], &person);
    assert_eq!(code, 0, "{err}");
}
