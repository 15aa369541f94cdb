use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokenbroker::clock::Clock;
use tokenbroker::connect::{Endpoint, Tls};
use tokenbroker::identity::{Identity, Roots, client_tls};
use tokenbroker::secret::Secret;
use tokenbroker::secret::source::SecretSource;
use tokenbroker::store::{Lease, Record, Redis, RedisStore, Saved, Seal, SealError, Store, StoreError, Taken, Version};
use zeroize::Zeroizing;

use crate::exchange::OAuth;
use crate::leaks::Scan;
use crate::store::PASSWORD;
use crate::support::{Broker, RUNTIME, RedisServer, answering, binary, eventually, write};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const NAME: &str = "token.api.0123456789abcdef";
const HELD: &str = "tokenbroker:token.api.0123456789abcdef";
const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Lease = Lease { lasts: MINUTE, after: MINUTE, force: false };

fn first() -> Version {
    Version { number: 1, tag: 0xa }
}

fn second() -> Version {
    Version { number: 2, tag: 0xb }
}

impl RedisServer {
    /// How a client without a password speaks to it.
    fn settings(&self) -> Redis {
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: self.port, tls: None };
        Redis { endpoint, username: None, password: None, database: 0, prefix: "tokenbroker:".into() }
    }

    fn store(&self) -> RedisStore {
        opened(self.settings())
    }

    /// As [`Self::settings`], over TLS that trusts this CA.
    fn secure(&self, ca: &Path, identity: Option<&Identity>) -> Redis {
        let client = client_tls(&Roots::load(false, Some(&ca.to_owned())).unwrap(), identity).unwrap();
        let certificate = identity.map(|identity| identity.leaf.to_string());
        let mut settings = self.settings();
        settings.endpoint.tls = Some(Tls { client, name: "localhost".try_into().unwrap(), certificate });
        settings
    }
}

fn opened(settings: Redis) -> RedisStore {
    RedisStore::new(settings, Seal::new(KEY.as_bytes()).unwrap(), Arc::default(), Clock::system())
}

fn inline(password: &str) -> Option<SecretSource> {
    Some(SecretSource::Inline(Secret::new(password.into())))
}

fn plain(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn save(store: &RedisStore, before: Version, version: Version, text: &str) -> Result<Saved, StoreError> {
    RUNTIME.block_on(store.save(NAME, before, version, plain(text), Duration::ZERO))
}

fn load(store: &RedisStore) -> Result<Option<Record>, StoreError> {
    RUNTIME.block_on(store.load(NAME))
}

fn take(store: &RedisStore, owner: u128, lease: Lease) -> Taken {
    RUNTIME.block_on(store.take(NAME, owner, lease)).unwrap()
}

fn text(record: Option<Record>) -> String {
    String::from_utf8(record.unwrap().plain.to_vec()).unwrap()
}

/// Why nothing can be had of it.
fn away(store: &RedisStore) -> String {
    match load(store).unwrap_err() {
        StoreError::Away(text) => text,
        other => panic!("{other}"),
    }
}

#[test]
fn what_one_replica_saves_another_loads_with_its_age_by_the_clock_of_redis() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let (one, other) = (redis.store(), redis.store());
    assert!(load(&one).unwrap().is_none());
    assert_eq!(RUNTIME.block_on(one.version(NAME)).unwrap(), Version::default());
    assert!(matches!(save(&one, Version::default(), first(), "one"), Ok(Saved::Done)));
    let record = load(&other).unwrap().unwrap();
    assert_eq!((record.version, record.plain), (first(), plain("one")));
    assert_eq!(RUNTIME.block_on(other.version(NAME)).unwrap(), first());
    let saved: u64 = redis.cli(&["HGET", HELD, "t"]).parse().unwrap();
    redis.cli(&["HSET", HELD, "t", &(saved - 90_000).to_string()]);
    let age = load(&other).unwrap().unwrap().age.unwrap();
    assert!((90..200).contains(&age.least.as_secs()) && age.most >= age.least, "{age:?}");
    // A clock that was set back makes nothing younger than new.
    redis.cli(&["HSET", HELD, "t", &(saved + 3_600_000).to_string()]);
    assert_eq!(load(&other).unwrap().unwrap().age.unwrap().least, Duration::ZERO);
    assert_eq!(redis.cli(&["KEYS", "*"]), HELD);
}

#[test]
fn a_save_that_was_on_its_way_for_long_counts_from_when_it_was_sent() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let (one, other) = (redis.store(), redis.store());
    assert!(load(&one).unwrap().is_none());
    redis.signal(Signal::STOP);
    // Redis has it, and does it only once it goes on.
    assert!(matches!(save(&one, Version::default(), first(), "one"), Err(StoreError::Away(_))));
    redis.signal(Signal::CONT);
    eventually("it is saved", || load(&other).is_ok_and(|record| record.is_some()));
    let age = load(&other).unwrap().unwrap().age.unwrap();
    assert!(age.most - age.least >= Duration::from_secs(2), "nobody gave up before two seconds had passed: {age:?}");
    // And so does what was put together long before it was sent.
    let late = other.save(NAME, first(), second(), plain("two"), MINUTE);
    assert!(matches!(RUNTIME.block_on(late), Ok(Saved::Done)));
    let age = load(&other).unwrap().unwrap().age.unwrap();
    assert!(age.most - age.least >= MINUTE, "{age:?}");
}

#[test]
fn a_save_over_another_version_changes_nothing_and_tells_what_is_there() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let (one, other) = (redis.store(), redis.store());
    assert!(matches!(save(&one, Version::default(), first(), "one"), Ok(Saved::Done)));
    let theirs = Version { number: 1, tag: 0xff };
    for before in [Version::default(), theirs, second()] {
        let Saved::Stale(held) = save(&other, before, second(), "two").unwrap() else { panic!("{before:?}") };
        assert_eq!((held.as_ref().unwrap().version, text(held).as_str()), (first(), "one"));
    }
    assert!(matches!(save(&other, first(), second(), "two"), Ok(Saved::Done)));
    // Its answer was lost, so it is sent again.
    assert!(matches!(save(&other, first(), second(), "two"), Ok(Saved::Done)));
    assert_eq!(text(load(&one).unwrap()), "two");
    redis.cli(&["DEL", HELD]);
    assert!(matches!(save(&one, second(), Version { number: 3, tag: 1 }, "three"), Ok(Saved::Stale(None))));
}

#[test]
fn the_first_save_of_a_process_tells_what_it_has_read_and_does_not_ask_again() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    assert!(matches!(save(&redis.store(), Version::default(), first(), "one"), Ok(Saved::Done)));
    let monitor = redis.monitor();
    let Saved::Stale(held) = save(&redis.store(), Version::default(), second(), "two").unwrap() else { panic!() };
    assert_eq!((held.as_ref().unwrap().version, text(held).as_str()), (first(), "one"));
    redis.cli(&["ECHO", "the end"]);
    eventually("MONITOR has seen it", || monitor.seen().contains("the end"));
    assert_eq!(monitor.seen().matches("EVAL").count(), 1, "{}", monitor.seen());
}

#[test]
fn of_many_who_save_over_the_same_version_one_does() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    for round in 0..20 {
        let saves = (1..=8).map(|writer| {
            let (store, name) = (redis.store(), format!("token.{round}"));
            let version = Version { number: 1, tag: writer };
            RUNTIME.spawn(async move {
                store.save(&name, Version::default(), version, plain("x"), Duration::ZERO).await.unwrap()
            })
        });
        let saves: Vec<_> = saves.collect();
        let saved = saves.into_iter().map(|save| RUNTIME.block_on(save).unwrap());
        assert_eq!(saved.filter(|saved| matches!(saved, Saved::Done)).count(), 1);
    }
}

#[test]
fn a_lease_is_one_owners_until_it_is_given_back_and_a_lapsed_one_is_taken_by_force_only() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let (one, other) = (redis.store(), redis.store());
    assert!(matches!(take(&one, 1, LEASE), Taken::Yes(None)));
    assert!(load(&other).unwrap().is_none(), "a lease is no record");
    assert!(matches!(save(&one, Version::default(), first(), "one"), Ok(Saved::Done)));
    for force in [false, true] {
        let Taken::Held(left) = take(&other, 2, Lease { force, ..LEASE }) else { panic!("it is held") };
        assert!(left > MINUTE && left <= 2 * MINUTE, "{left:?}");
    }
    // Its owner makes it last anew, and reads what is there now.
    let Taken::Yes(held) = take(&one, 1, Lease { lasts: 10 * MINUTE, ..LEASE }) else { panic!("it is its own") };
    assert_eq!(text(held), "one");
    let Taken::Held(left) = take(&other, 2, LEASE) else { panic!("it is held") };
    assert!(left > 10 * MINUTE && left <= 11 * MINUTE, "{left:?}");
    RUNTIME.block_on(other.release(NAME, 2)).unwrap();
    assert!(matches!(take(&other, 2, LEASE), Taken::Held(_)), "only its owner gives it back");
    redis.cli(&["HSET", HELD, "u", "1"]);
    assert!(matches!(take(&other, 2, LEASE), Taken::Lapsed));
    assert!(matches!(take(&one, 1, LEASE), Taken::Yes(Some(_))), "its owner still may");
    redis.cli(&["HSET", HELD, "u", "1"]);
    let Taken::Yes(held) = take(&other, 2, Lease { force: true, ..LEASE }) else { panic!("it is taken by force") };
    assert_eq!(text(held), "one");
    assert!(matches!(take(&one, 1, LEASE), Taken::Held(_)));
    // A late answer of the former owner is saved all the same, if nobody saved meanwhile.
    assert!(matches!(save(&one, first(), second(), "two"), Ok(Saved::Done)));
    RUNTIME.block_on(other.release(NAME, 2)).unwrap();
    let Taken::Yes(held) = take(&one, 1, LEASE) else { panic!("it is free") };
    assert_eq!(text(held), "two");
}

#[test]
fn a_clock_of_redis_that_is_set_back_makes_no_lease_longer_than_it_is() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let (one, other) = (redis.store(), redis.store());
    assert!(matches!(take(&one, 1, LEASE), Taken::Yes(None)));
    let until: u64 = redis.cli(&["HGET", HELD, "u"]).parse().unwrap();
    redis.cli(&["HSET", HELD, "u", &(until + 86_400_000).to_string()]);
    let Taken::Held(left) = take(&other, 2, LEASE) else { panic!("it is held") };
    assert!(left <= 2 * MINUTE, "{left:?}");
    let now: u64 = redis.cli(&["HGET", HELD, "u"]).parse().unwrap();
    assert!(now < until + 3_600_000, "and it ends: {now} {until}");
}

#[test]
fn a_lease_that_was_given_back_leaves_nothing_behind() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let store = redis.store();
    take(&store, 1, LEASE);
    RUNTIME.block_on(store.release(NAME, 1)).unwrap();
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
}

#[test]
fn the_names_are_those_below_the_prefix_and_no_sign_of_it_is_a_wildcard() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let store = opened(Redis { prefix: "a*[b]?:".into(), ..redis.settings() });
    RUNTIME.block_on(store.save("token.b", Version::default(), first(), plain("x"), Duration::ZERO)).unwrap();
    RUNTIME.block_on(store.save("token.a", Version::default(), first(), plain("x"), Duration::ZERO)).unwrap();
    redis.cli(&["SET", "axxb?:token.c", "another's"]);
    redis.cli(&["SET", "a*b?:token.d", "another's"]);
    redis.cli(&["EVAL", "for i = 1, 5000 do redis.call('SET', 'other:' .. i, i) end", "0"]);
    assert_eq!(RUNTIME.block_on(store.names()).unwrap(), ["token.a", "token.b"]);
    redis.cli(&["EVAL", "for i = 1, 10001 do redis.call('SET', 'a*[b]?:' .. i, i) end", "0"]);
    let error = RUNTIME.block_on(store.names()).unwrap_err().to_string();
    assert!(error.contains("too many keys"), "{error}");
}

#[test]
fn what_is_forgotten_is_empty_then_and_a_damaged_record_can_be_forgotten() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let store = redis.store();
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    RUNTIME.block_on(store.forget(NAME, b"{}")).unwrap();
    let held = load(&store).unwrap();
    assert_eq!((held.as_ref().unwrap().version.number, text(held).as_str()), (2, "{}"));
    for damage in [["HSET", HELD, "d", "garbage"], ["HSET", HELD, "v", "nonsense"]] {
        redis.cli(&damage);
        assert!(matches!(load(&store), Err(StoreError::Record { .. })), "{damage:?}");
        // By a process that asks for the first time, too.
        RUNTIME.block_on(redis.store().forget(NAME, b"{}")).unwrap();
        assert_eq!(text(load(&store).unwrap()), "{}", "{damage:?}");
    }
}

#[test]
fn a_record_counts_under_its_own_key_version_and_seal_only() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let store = redis.store();
    let refused = |store: &RedisStore, name: &str, expected: SealError| {
        let error = RUNTIME.block_on(store.load(name)).unwrap_err();
        let text = error.to_string();
        let StoreError::Record { name: told, place, why } = error else { panic!("{text}") };
        let expected_place = format!("redis://127.0.0.1:{}, key tokenbroker:{name}", redis.port);
        assert_eq!((told.as_str(), place, why), (name, expected_place, expected));
        assert!(text.contains(&format!("`tokenbroker store forget {name}`")), "{text}");
    };
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    redis.cli(&["COPY", HELD, "tokenbroker:token.other"]);
    refused(&store, "token.other", SealError::Damaged);
    let stranger = RedisStore::new(
        redis.settings(),
        Seal::new(b"another key, which is long enough too").unwrap(),
        Arc::default(),
        Clock::system(),
    );
    refused(&stranger, NAME, SealError::Damaged);
    redis.cli(&["HSET", HELD, "v", "7-000000000000000a"]);
    refused(&store, NAME, SealError::Damaged);
    redis.cli(&["HDEL", HELD, "d"]);
    refused(&store, NAME, SealError::Damaged);
    redis.cli(&["HSET", HELD, "v", "seven"]);
    redis.cli(&["HSET", HELD, "d", "x"]);
    refused(&store, NAME, SealError::Format);
    let long = "redis.call('HSET', KEYS[1], 'd', string.rep('x', 1048577))";
    redis.cli(&["EVAL", long, "1", HELD]);
    refused(&store, NAME, SealError::Long);
    let huge = "x".repeat(1 << 20);
    let error = save(&store, second(), Version { number: 3, tag: 0 }, &huge).unwrap_err();
    assert!(matches!(error, StoreError::Record { why: SealError::Long, .. }), "{error}");
    redis.cli(&["SET", "tokenbroker:token.string", "another's"]);
    let error = RUNTIME.block_on(store.load("token.string")).unwrap_err().to_string();
    assert!(error.contains("choose another [store] prefix"), "{error}");
}

#[test]
fn no_value_and_no_password_can_be_read_in_what_redis_shows_and_writes() {
    let Some(mut redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    redis.cli(&["ACL", "SETUSER", "broker", "on", ">hunter2-canary", "~*", "+@all"]);
    let monitor = redis.monitor();
    let settings = Redis { username: Some("broker".into()), password: inline("hunter2-canary"), ..redis.settings() };
    let store = opened(settings);
    take(&store, 1, LEASE);
    let text = "{\"refresh_token\":\"refresh-canary\"}";
    assert!(matches!(save(&store, Version::default(), first(), text), Ok(Saved::Done)));
    assert!(load(&store).unwrap().is_some());
    RUNTIME.block_on(store.release(NAME, 1)).unwrap();
    redis.cli(&["SAVE"]);
    redis.cli(&["ECHO", "the end"]);
    eventually("MONITOR has seen it", || monitor.seen().contains("the end"));
    assert!(monitor.seen().contains("EVAL") && monitor.seen().contains("tkbrkr"), "{}", monitor.seen());
    let mut looked_at = 0;
    let mut folders = vec![redis.directory.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                looked_at += usize::from(bytes.windows(6).any(|window| window == b"tkbrkr"));
                // The order that made the user has its password, and is the test's own.
                let text = String::from_utf8_lossy(&bytes);
                let text: String = text.lines().filter(|line| !line.contains("SETUSER")).collect();
                assert!(!text.contains("refresh-canary") && !text.contains("hunter2-canary"), "{}", path.display());
            }
        }
    }
    assert!(looked_at >= 3, "MONITOR, AOF and RDB: {looked_at}");
    redis.kill();
    assert!(redis.restart());
    assert_eq!(self::text(load(&redis.store()).unwrap()), text, "and what is durable can be read again");
}

/// The line of the documentation that makes a user.
fn rule() -> Vec<&'static str> {
    let docs = include_str!("../../docs/operations.md");
    let line = docs.lines().find(|line| line.trim_start().starts_with("ACL SETUSER broker")).unwrap();
    line.split_whitespace().collect()
}

#[test]
fn a_user_who_may_do_what_the_documentation_says_and_nothing_else_is_enough() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    redis.cli(&rule());
    let settings = Redis { username: Some("broker".into()), password: inline("PASSWORD"), ..redis.settings() };
    let store = opened(settings.clone());
    assert!(matches!(take(&store, 1, LEASE), Taken::Yes(None)));
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    assert_eq!(text(load(&store).unwrap()), "one");
    assert_eq!(RUNTIME.block_on(store.version(NAME)).unwrap(), first());
    assert_eq!(RUNTIME.block_on(store.names()).unwrap(), [NAME]);
    RUNTIME.block_on(store.forget(NAME, b"{}")).unwrap();
    RUNTIME.block_on(store.release(NAME, 1)).unwrap();
    assert!(redis.cli(&["CLIENT", "LIST"]).contains("name=tokenbroker"));

    let other = opened(Redis { prefix: "other:".into(), ..settings.clone() });
    let error = away(&other);
    assert!(error.contains("ACL SETUSER broker ~other:* +eval"), "{error}");
    for command in ["-eval", "-hset"] {
        redis.cli(&rule());
        redis.cli(&["ACL", "SETUSER", "broker", command]);
        let error = RUNTIME.block_on(store.take(NAME, 1, LEASE)).unwrap_err().to_string();
        assert!(error.contains("does not permit its user to do that; give it: ACL SETUSER broker"), "{error}");
    }
    redis.cli(&rule());
    redis.cli(&["ACL", "SETUSER", "broker", "-client"]);
    redis.cli(&["CLIENT", "KILL", "USER", "broker"]);
    eventually("its name may be forbidden", || load(&store).is_ok());
}

#[test]
fn a_wrong_a_missing_and_an_unwanted_password_are_told_apart_and_a_new_one_is_read_for_the_next_connection() {
    let Some(mut redis) = RedisServer::start(&[]) else { return };
    let settings = |password| Redis { password, ..redis.settings() };
    let error = away(&opened(settings(inline("hunter2-canary"))));
    assert!(error.contains("has no password of its own; set one there"), "{error}");
    redis.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let error = away(&opened(settings(None)));
    assert!(error.ends_with("wants a password; set [store] password"), "{error}");
    let file = write(redis.directory.path(), "password", "hunter2-canary\n");
    let store = opened(settings(Some(SecretSource::File(file))));
    let error = away(&store);
    let place = format!("redis://127.0.0.1:{}", redis.port);
    assert_eq!(error, format!("{place} refuses the password; correct [store] password, or the user name in url"));
    write(redis.directory.path(), "password", "right\n");
    eventually("it is read again", || load(&store).is_ok());
    let user = Redis { username: Some("nobody".into()), ..settings(inline("right")) };
    assert!(away(&opened(user)).contains("or the user name in url"));
    let error = away(&opened(settings(Some(SecretSource::File("/no/such/file".into())))));
    assert!(error.starts_with("store.password: cannot read the file /no/such/file"), "{error}");
    let slow = SecretSource::Exec("sleep".into(), vec!["60".into()]);
    let error = away(&opened(settings(Some(slow))));
    assert_eq!(error, "store.password: the command \"sleep\" has not ended within 2 s");
    // The password is gone, and so is everybody's connection.
    redis.password = "right".into();
    redis.cli(&["CONFIG", "SET", "requirepass", "newer"]);
    redis.password = "newer".into();
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    write(redis.directory.path(), "password", "newer\n");
    eventually("it is read again", || load(&store).is_ok());
}

#[test]
fn another_database_has_other_records() {
    let Some(redis) = RedisServer::start(&["--databases", "4"]) else { return };
    let in_database = |database| opened(Redis { database, ..redis.settings() });
    assert!(matches!(save(&in_database(3), Version::default(), first(), "one"), Ok(Saved::Done)));
    assert!(load(&redis.store()).unwrap().is_none());
    assert_eq!(text(load(&in_database(3)).unwrap()), "one");
    let error = away(&in_database(4));
    assert!(error.contains("/4 has no database of that number; correct the one in [store] url"), "{error}");
}

#[test]
fn tls_with_a_private_ca_works_and_with_another_it_is_refused() {
    let Some(redis) = RedisServer::start_tls(&["--tls-auth-clients", "no"]) else { return };
    let ca = redis.directory.path().join("ca.pem");
    let store = opened(redis.secure(&ca, None));
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    assert_eq!(text(load(&store).unwrap()), "one");
    assert!(store.place(NAME, first()).starts_with("rediss://127.0.0.1:"));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = tokenbroker::standin::pki::Pki::new(elsewhere.path()).unwrap();
    let error = away(&opened(redis.secure(&other.ca(), None)));
    assert!(error.contains("no CA that is trusted has signed its certificate; name its CA with `ca`"), "{error}");
    let error = away(&redis.store());
    assert!(
        error.contains("has ended the connection") && error.ends_with("is it up? If it speaks TLS, write rediss://"),
        "{error}"
    );
    let Some(plain) = RedisServer::start(&[]) else { return };
    let error = away(&opened(plain.secure(&ca, None)));
    assert!(error.contains("within 1.9 s: the TLS handshake did not end (is this port really TLS?)"), "{error}");
}

#[test]
fn a_redis_that_demands_a_client_certificate_gets_it() {
    let Some(redis) = RedisServer::start_tls(&["--tls-auth-clients", "yes"]) else { return };
    let file = |name: &str| redis.directory.path().join(name);
    let identity = Identity::load(&file("me.pem"), &file("me.key"), Clock::system().now().wall).unwrap();
    let store = opened(redis.secure(&file("ca.pem"), Some(&identity)));
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    let error = away(&opened(redis.secure(&file("ca.pem"), None)));
    assert!(error.contains("it demands a client certificate") && error.ends_with("set `identity`"), "{error}");
}

#[test]
fn a_replica_is_left_for_the_primary_once_it_is_one() {
    let Some(primary) = RedisServer::start(&[]) else { return };
    let Some(redis) = RedisServer::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]) else { return };
    let store = redis.store();
    let refused = |result: Result<(), StoreError>| {
        let error = result.unwrap_err().to_string();
        error.contains("is a replica, which changes nothing; after a fail-over, point [store] url at the primary")
    };
    eventually("it follows", || redis.cli(&["INFO", "replication"]).contains("master_link_status:up"));
    assert!(refused(save(&store, Version::default(), first(), "one").map(drop)));
    eventually("the pause is over", || refused(RUNTIME.block_on(store.take(NAME, 1, LEASE)).map(drop)));
    assert!(matches!(save(&primary.store(), Version::default(), first(), "one"), Ok(Saved::Done)));
    eventually("it can be read", || load(&store).is_ok_and(|record| record.is_some()));
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    eventually("it is the primary", || save(&store, first(), second(), "two").is_ok());
}

#[test]
fn a_redis_without_memory_or_disk_keeps_what_it_has_and_says_so() {
    let Some(redis) = RedisServer::start(&["--maxmemory-policy", "noeviction"]) else { return };
    let store = redis.store();
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    redis.cli(&["SET", "filler", &"x".repeat(100_000)]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let error = save(&store, first(), second(), "two").unwrap_err().to_string();
    assert!(error.contains("has no memory left; give it more (maxmemory)"), "{error}");
    assert_eq!(text(load(&store).unwrap()), "one", "and reading goes on at once");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(matches!(save(&store, first(), second(), "two"), Ok(Saved::Done)));
}

#[test]
fn a_redis_that_hangs_is_told_of_in_time_and_works_again_by_itself() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let store = redis.store();
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    redis.signal(Signal::STOP);
    let place = format!("redis://127.0.0.1:{}", redis.port);
    let late = format!("{place} has not answered within 2 s; ");
    assert!(away(&store).starts_with(&late));
    assert!(away(&store).starts_with(&late), "and whoever asks at once is told the same");
    redis.signal(Signal::CONT);
    eventually("it works again", || load(&store).is_ok());
    assert_eq!(text(load(&store).unwrap()), "one");
}

#[test]
fn a_redis_that_is_killed_is_told_of_and_works_again_when_it_is_back() {
    let Some(mut redis) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let store = redis.store();
    assert!(matches!(save(&store, Version::default(), first(), "one"), Ok(Saved::Done)));
    redis.kill();
    let place = format!("redis://127.0.0.1:{}", redis.port);
    assert!(away(&store).starts_with(&place));
    eventually("it is looked for", || away(&store).contains("cannot be reached: cannot connect to 127.0.0.1:"));
    assert!(redis.restart());
    eventually("it works again", || load(&store).is_ok());
    assert_eq!(text(load(&store).unwrap()), "one");
}

#[test]
fn a_connection_that_was_closed_while_it_was_idle_is_made_anew_and_nobody_is_told() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let store = redis.store();
    for _ in 0..20 {
        assert!(load(&store).is_ok_and(|record| record.is_none()));
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        eventually("it is closed", || !redis.cli(&["CLIENT", "LIST"]).contains("name=tokenbroker"));
        take(&store, 1, LEASE);
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        RUNTIME.block_on(store.release(NAME, 1)).unwrap();
    }
}

#[test]
fn many_at_once_share_one_connection() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let store = Arc::new(redis.store());
    let asked: Vec<_> = (0..200)
        .map(|number| {
            let store = Arc::clone(&store);
            RUNTIME.spawn(async move {
                let name = format!("token.{number}");
                store.save(&name, Version::default(), first(), plain(&name), Duration::ZERO).await.unwrap();
                store.load(&name).await.unwrap().unwrap().plain == plain(&name)
            })
        })
        .collect();
    assert!(asked.into_iter().all(|asked| RUNTIME.block_on(asked).unwrap()));
    let clients = redis.cli(&["CLIENT", "LIST"]);
    assert_eq!(clients.matches("name=tokenbroker").count(), 1, "{clients}");
    drop(store);
    eventually("and it ends with the store", || !redis.cli(&["CLIENT", "LIST"]).contains("name=tokenbroker"));
}

/// As [`answering`].
fn in_place_of_redis(greeting: &'static str, answer: &'static str) -> Redis {
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: answering(greeting, answer), tls: None };
    Redis { endpoint, username: None, password: None, database: 0, prefix: "tokenbroker:".into() }
}

#[test]
fn whatever_else_is_said_instead_of_an_answer_tells_what_to_do() {
    for (greeting, answer, expected) in [
        ("", "", "has ended the connection (unexpected end of file); is it up? If it speaks TLS, write rediss://"),
        ("HTTP/1.1 400 Bad Request", "", "does not answer as a Redis does; is this a Redis, version 5 or later?"),
        ("-DENIED Redis is running in protected mode", "", "is in protected mode; set a password there"),
        ("-ERR max number of clients reached", "", "has too many clients; raise maxclients there"),
        ("-LOADING Redis is loading the dataset in memory", "", "is still reading its data; wait until it has"),
        ("-MASTERDOWN Link with MASTER is down", "", "has lost its primary; point [store] url at the primary"),
        ("+PONG", "", "has ended the connection"),
        ("+PONG", "+OK", "does not answer as a Redis does"),
        ("+PONG", ":1", "does not answer as a Redis does"),
        ("+PONG", "*1\r\n$1\r\nx", "does not answer as a Redis does"),
        ("+PONG", "*3\r\n$5\r\nthere\r\n:1\r\n*1\r\n$1\r\nx", "is damaged, or was sealed with another store key"),
        ("+PONG", "-MOVED 866 10.0.0.1:6379", "is a node of a cluster; point [store] url at a proxy"),
        ("+PONG", "-CLUSTERDOWN The cluster is down", "is a node of a cluster"),
        (
            "+PONG",
            "-MISCONF Redis is configured to save RDB snapshots",
            "takes no changes, because it cannot save them",
        ),
        ("+PONG", "-NOREPLICAS Not enough good replicas to write.", "too few replicas follow it"),
        ("+PONG", "-BUSY Redis is busy running a script.", "is busy with a script of somebody else's"),
        ("+PONG", "-ERR unknown command 'EVAL', with args", "lacks a command; take Redis 5 or later, and rename none"),
        (
            "+PONG",
            "-ERR Error running script: @user_script: Write commands not allowed after non deterministic commands.",
            "is older than Redis 5; take a newer one",
        ),
        (
            "+PONG",
            "-ERR Error running script: @user_script:5: -READONLY You can't write against a read only replica.",
            "is a replica, which changes nothing",
        ),
        (
            "+PONG",
            "-ERR Error running script: The user executing the script can't run this command or subcommand",
            "does not permit its user to do that; give it: ACL SETUSER default ~tokenbroker:*",
        ),
        ("+PONG", "-ERR something\tnew", "says: ERR something new; see its log"),
    ] {
        let settings = in_place_of_redis(greeting, answer);
        let error = load(&opened(settings.clone())).unwrap_err().to_string();
        assert!(error.contains(expected), "{greeting} {answer}: {error}");
        assert!(error.contains(&format!("redis://127.0.0.1:{}", settings.endpoint.port)), "{error}");
    }
    let error = away(&opened(Redis { password: inline("hunter2-canary"), ..in_place_of_redis("+PONG", "") }));
    assert!(error.contains("lacks a command") && !error.contains("canary"), "{error}");
}

/// A directory for brokers with that store, and commands beside them.
struct Home {
    directory: TempDir,
    config: String,
}

impl Home {
    /// With further keys of its store, in which KEPT is a place for its copy.
    fn new(oauth: &OAuth, redis: &RedisServer, keys: &str) -> Self {
        let directory = oauth.directory();
        write(directory.path(), "store_key", KEY);
        let (port, token) = (redis.port, oauth.config(PASSWORD, ""));
        let keys = keys.replace("KEPT", &format!("\"{}\"", directory.path().join("kept").display()));
        let store = format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{port}\"\nkey = {{ file = \"store_key\" }}");
        Self { directory, config: format!("[store]\n{store}\n{keys}\n{token}") }
    }

    fn broker(&self) -> Broker {
        self.broker_as(|_| {})
    }

    fn broker_as(&self, adjust: impl FnOnce(&mut Command)) -> Broker {
        let directory = TempDir::with_prefix("broker").unwrap();
        for name in ["secret", "password", "store_key", "redis_password"] {
            std::os::unix::fs::symlink(self.directory.path().join(name), directory.path().join(name)).unwrap();
        }
        Broker::start_in(directory, &self.config, adjust)
    }

    /// A command of the program: exit status, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let config = format!("[admin]\nlisten = \"127.0.0.1:0\"\n{}", self.config);
        let file = write(self.directory.path(), "t.toml", config);
        let output = binary().arg("-c").arg(file).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn what_replicas_share_is_listed_exported_and_forgotten_by_commands_with_and_without_a_broker() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let oauth = OAuth::start(MINUTE * 60);
    let home = Home::new(&oauth, &redis, "");
    assert_eq!(home.run(&["store", "list"]), (0, String::new(), String::new()));
    let mut broker = home.broker();
    broker.wait_for_state("api", "valid");
    let fingerprint = broker.token("api")["fingerprint"].as_str().unwrap().to_owned();
    let listed = || {
        let (code, stdout, stderr) = home.run(&["store", "list"]);
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    eventually("it is shared", || listed().contains(&format!(": access token {fingerprint} until 20")));
    let name = listed().split(' ').next().unwrap().to_owned();
    let (_, json, _) = home.run(&["store", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    let place = format!("redis://127.0.0.1:{}, key tokenbroker:{name}", redis.port);
    assert_eq!((&list[&name]["place"], &list[&name]["kept"]["refresh_token"]), (&place.into(), &true.into()));
    let file = home.directory.path().join("export.json");
    let (code, _, stderr) = home.run(&["store", "export", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    let exported: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let token = exported[&name]["access"]["token"].as_str().unwrap();
    assert!(oauth.oauth.issuer.is_good(token) && !json.contains(token));
    assert_eq!(broker.stop().code(), Some(0));

    let (code, _, stderr) = home.run(&["store", "forget", "token.other"]);
    assert!(code == 1 && stderr.contains(&format!("there is no record token.other; there are: {name}")), "{stderr}");
    let (code, stdout, stderr) = home.run(&["store", "forget", "token.api"]);
    assert_eq!((code, stdout), (0, format!("forgotten: {name}\n")), "{stderr}");
    assert!(listed().ends_with(": access token none, no refresh token\n"), "{}", listed());
    assert_eq!(redis.cli(&["HEXISTS", &format!("tokenbroker:{name}"), "o"]), "0", "nobody's turn");
    let issued = oauth.oauth.issuer.issued();
    home.broker().wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.issuer.issued(), issued + 1, "it is obtained anew");
}

#[test]
fn what_another_replica_works_on_is_not_forgotten_and_a_damaged_record_is() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let oauth = OAuth::start(MINUTE);
    let home = Home::new(&oauth, &redis, "");
    let store = redis.store();
    assert!(matches!(save(&store, Version::default(), first(), "{}"), Ok(Saved::Done)));
    take(&store, 1, LEASE);
    let (code, _, stderr) = home.run(&["store", "forget", "token.api"]);
    assert!(code == 1 && stderr.contains(&format!("another replica works on {NAME}, for 1")), "{stderr}");
    assert_eq!(load(&store).unwrap().unwrap().version, first());
    redis.cli(&["HSET", HELD, "u", "1", "d", "garbage"]);
    let (code, stdout, stderr) = home.run(&["store", "list"]);
    assert!(code == 1 && stdout.contains("is damaged, or was sealed with another store key"), "{stdout}{stderr}");
    let (code, stdout, stderr) = home.run(&["store", "forget", NAME]);
    assert_eq!((code, stdout), (0, format!("forgotten: {NAME}\n")), "{stderr}");
    assert_eq!(home.run(&["store", "list"]).0, 0);
    assert!(matches!(save(&store, Version::default(), first(), "{}"), Ok(Saved::Stale(Some(_)))));
    RUNTIME.block_on(store.save("secret.api", Version::default(), first(), plain("{}"), Duration::ZERO)).unwrap();
    let (code, _, stderr) = home.run(&["store", "forget", "secret.api"]);
    assert!(code == 1 && stderr.contains("may hold the only client secret that works"), "{stderr}");
}

#[test]
fn check_asks_no_redis_and_opens_what_lies_beside_it() {
    let Some(mut redis) = RedisServer::start(&[]) else { return };
    let oauth = OAuth::start(MINUTE * 60);
    let home = Home::new(&oauth, &redis, "path = KEPT");
    let mut broker = home.broker();
    broker.wait_for_state("api", "valid");
    assert_eq!(broker.stop().code(), Some(0));
    redis.kill();
    let (code, stdout, stderr) = home.run(&["check"]);
    assert!(code == 0 && stdout.ends_with(": ok (1 route, 1 token)\n") && stderr.is_empty(), "{stdout}{stderr}");
    let (code, _, stderr) = home.run(&["store", "list"]);
    let place = format!("redis://127.0.0.1:{} cannot be reached: cannot connect to ", redis.port);
    assert!(code == 1 && stderr.contains(&place), "{stderr}");
    let kept = std::fs::read_dir(home.directory.path().join("kept")).unwrap().map(|entry| entry.unwrap().path());
    let records: Vec<_> = kept.filter(|file| file.to_string_lossy().contains("/token.")).collect();
    assert!(!records.is_empty(), "the replica's own copy");
    for file in records {
        std::fs::write(file, "garbage").unwrap();
    }
    let (code, _, stderr) = home.run(&["check"]);
    assert!(code == 1 && stderr.contains("is damaged, or was sealed with another store key"), "{stderr}");
}

#[test]
fn what_a_running_broker_keeps_beside_redis_is_forgotten_by_it() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    let oauth = OAuth::start(MINUTE * 60);
    let home = Home::new(&oauth, &redis, "path = KEPT");
    let broker = home.broker();
    broker.wait_for_state("api", "valid");
    let before = broker.token("api")["fingerprint"].clone();
    eventually("it is shared", || redis.cli(&["KEYS", "*"]).contains("token.api."));
    let (code, stdout, stderr) = broker.command(&["store", "forget", "token.api"]);
    assert!(code == 0 && stdout.starts_with("forgotten: token.api."), "{stdout}{stderr}");
    eventually("it has another", || {
        broker.token("api")["state"] == "valid" && broker.token("api")["fingerprint"] != before
    });
}

#[test]
fn nothing_that_the_broker_shows_has_the_password_of_redis_or_the_key_of_the_store() {
    let Some(redis) = RedisServer::start(&[]) else { return };
    redis.cli(&["ACL", "SETUSER", "broker", "on", ">redis-password-canary", "~*", "+@all"]);
    let oauth = OAuth::start(Duration::from_secs(2));
    let mut home = Home::new(&oauth, &redis, "password = { file = \"redis_password\" }");
    home.config = home.config.replace("redis://", "redis://broker@");
    write(home.directory.path(), "redis_password", "redis-password-canary");
    write(home.directory.path(), "store_key", "store-key-canary-of-more-than-thirty-two-bytes");
    let broker = home.broker_as(|command| {
        command.args(["--log-level", "trace"]).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    });
    broker.wait_for_state("api", "valid");
    eventually("it is shared", || redis.cli(&["KEYS", "*"]).contains("token.api."));
    let mut scan = Scan::default();
    let canaries = ["redis-password-canary", "store-key-canary-of-more-than-thirty-two-bytes", "other-password-canary"];
    scan.secrets.extend(canaries.map(str::to_owned));
    scan.look(&home.run(&["store", "list"]).1);
    scan.look(&home.run(&["store", "list", "--json"]).1);
    scan.look(&home.run(&["check", "--json"]).1);
    for target in ["/metrics", "/api/status", "/healthz?verbose"] {
        scan.answer(&broker.admin("GET", target));
    }
    write(home.directory.path(), "redis_password", "other-password-canary");
    redis.cli(&["CLIENT", "KILL", "USER", "broker"]);
    eventually("it is told", || broker.log().contains("refuses the password; correct [store] password"));
    for target in ["/metrics", "/api/status", "/healthz?verbose"] {
        scan.answer(&broker.admin("GET", target));
    }
    let (code, stdout, stderr) = home.run(&["store", "list"]);
    assert_eq!(code, 1, "{stdout}");
    scan.look(&(stdout + &stderr));
    scan.look(&home.run(&["check"]).2);
    scan.look(&broker.log());
    scan.nothing_came_out();
}
