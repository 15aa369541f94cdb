//! What a person does on one replica holds for all.

use serde_json::Value;
use tokenbroker::standin::demo::Vendor;
use tokenbroker::standin::{Comap, Netrex};

use super::*;
use crate::login::{Site, log_in, netrex};
use crate::secrets::{QUICK, comap, finished};
use crate::support::{binary, eventually};

/// Three brokers before Netrex, where somebody has to log in.
fn site() -> Option<(Site<Netrex>, RedisServer, Vec<Broker>)> {
    let redis = RedisServer::start(&[])?;
    let mut site = netrex(HOUR);
    site.config = site.config.replace(crate::store::STORE, &store(redis.port, ""));
    let brokers = (0..3).map(|_| site.broker(|_| {})).collect();
    Some((site, redis, brokers))
}

fn all_are(brokers: &[Broker], state: &str, status: u16) {
    for broker in brokers {
        broker.wait_for_state("cams", state);
        let reply = broker.get("cams", "/");
        assert_eq!(reply.status, status, "{}", reply.text());
        if state == "needs_login" {
            assert_eq!(reply.code(), "login_required");
        }
    }
}

#[test]
fn a_login_a_logout_and_a_forgotten_record_on_one_replica_hold_for_all() {
    let Some((site, _redis, mut brokers)) = site() else { return };
    all_are(&brokers, "needs_login", 503);
    log_in(&brokers[0]);
    all_are(&brokers, "valid", 200);
    let (code, _, stderr) = brokers[1].command(&["logout", "cams"]);
    assert_eq!(code, 0, "{stderr}");
    all_are(&brokers, "needs_login", 503);
    assert_eq!(site.vendor.issuer.revoked().len(), 1, "the vendor is told once");
    log_in(&brokers[2]);
    all_are(&brokers, "valid", 200);
    let (code, stdout, stderr) = brokers[0].command(&["store", "forget", "token.cams"]);
    assert!(code == 0 && stdout.starts_with("forgotten: token.cams."), "{stderr}");
    all_are(&brokers, "needs_login", 503);
    log_in(&brokers[1]);
    all_are(&brokers, "valid", 200);
    brokers.push(site.broker(|_| {}));
    all_are(&brokers, "valid", 200);
    assert_eq!(site.vendor.asked("/oauth2/token"), 3, "one for each login");
}

#[test]
fn a_client_secret_that_one_replica_rotates_is_used_by_all_no_two_rotate_at_once_and_redis_sees_none() {
    let Some(redis) = RedisServer::start(&["--appendonly", "yes"]) else { return };
    let monitor = redis.monitor();
    let mut setup = comap(QUICK);
    let table: toml::Table = store(redis.port, "").parse().unwrap();
    setup.config.extend(table);
    let brokers: Vec<_> = (0..3)
        .map(|_| {
            let inner = TempDir::with_prefix("broker").unwrap();
            for entry in std::fs::read_dir(setup.directory.path()).unwrap().map(Result::unwrap) {
                std::os::unix::fs::symlink(entry.path(), inner.path().join(entry.file_name())).unwrap();
            }
            Broker::start_in(inner, &setup.text(), |_| {})
        })
        .collect();
    for broker in &brokers {
        broker.wait_for_state("comap", "valid");
    }
    let person = setup.vendor.users.access_token();
    let order = |broker: &Broker, arguments: &[&str]| {
        broker.command(&["status"]);
        let mut command = binary();
        command.arg("-c").arg(broker.directory.path().join("operator.toml")).args(arguments);
        finished(command, &person)
    };
    let rotate = ["secret", "rotate", "comap", "--admin-token-stdin"];
    let ends: Vec<_> = std::thread::scope(|scope| {
        let orders: Vec<_> = brokers[..2].iter().map(|broker| scope.spawn(|| order(broker, &rotate))).collect();
        orders.into_iter().map(|order| order.join().unwrap()).collect()
    });
    let done = ends.iter().filter(|(code, ..)| *code == 0).count();
    assert!(done >= 1, "{ends:?}");
    for (_, _, stderr) in ends.iter().filter(|(code, ..)| *code != 0) {
        assert!(stderr.contains("another replica is at work on it"), "{ends:?}");
    }
    let stable = |broker: &Broker| {
        let rotation = broker.token("comap")["rotation"].clone();
        rotation["state"] == "stable" && rotation["rotated"] == true
    };
    let slots = || setup.vendor.secrets.lock().iter().map(|slot| slot.value.clone()).collect::<Vec<_>>();
    for (index, broker) in brokers.iter().enumerate() {
        eventually(&format!("broker {index} is told"), || stable(broker));
        eventually("the former one is gone", || slots().len() == 1 && slots()[0] != Comap::SECRET);
        assert_eq!(broker.admin("POST", "/api/tokens/comap/refresh").status, 200);
        assert_eq!(broker.get(Comap::NAME, "/hello").status, 200);
        let file = broker.directory.path().join("exported");
        let (code, _, stderr) = order(broker, &["secret", "export", "comap", "--to", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(std::fs::read_to_string(file).unwrap().trim_end(), slots()[0]);
    }
    let made = |call: &tokenbroker::standin::Call| call.uri.path().ends_with("/createSecret");
    let all: Value = brokers[2].status();
    assert!(all["tokens"]["comap"]["last_error"].is_null(), "{all}");
    let calls = setup.vendor.seen();
    assert_eq!(calls.iter().filter(|call| made(call)).count(), done, "one for each rotation");
    // And again, on another one.
    let before = slots();
    let (code, _, stderr) = order(&brokers[2], &rotate);
    assert_eq!(code, 0, "{stderr}");
    for broker in &brokers {
        eventually("all are told", || stable(broker));
        assert_eq!(broker.admin("POST", "/api/tokens/comap/refresh").status, 200);
    }
    assert!(slots().len() == 1 && slots() != before);
    let mut scan =
        Scan { secrets: [before, slots(), vec![Comap::SECRET.to_owned(), person.clone()]].concat(), ..Scan::default() };
    scan.secrets.extend(setup.vendor.issuer.tokens());
    redis.cli(&["SAVE"]);
    scan.look(&monitor.seen());
    assert!(look_below(redis.directory.path(), &mut scan) >= 3);
    scan.nothing_came_out();
}

#[test]
fn a_logout_holds_also_where_a_password_could_log_in_and_where_files_have_changed_since() {
    let Some(fleet) = Fleet::new(HOUR, "", &[("main", PASSWORD)]) else { return };
    let fleet = fleet.start(3);
    fleet.all_serve("main");
    // What one of them sends may have changed: that is tried once it has to be, and a logout is no failure.
    let changed = &fleet.brokers[1];
    write(changed.directory.path(), "password", "another one\n");
    assert_eq!(changed.command(&["reload"]).0, 0);
    let before = fleet.calls();
    let (code, _, stderr) = fleet.brokers[0].command(&["logout", "main"]);
    assert_eq!(code, 0, "{stderr}");
    let given_up = |status: &Value| status["state"] != "valid" && status["fingerprint"].is_null();
    fleet.all("is given up", "main", given_up);
    std::thread::sleep(seconds(3));
    fleet.all("stays given up", "main", given_up);
    assert_eq!(fleet.calls(), before, "nobody logs in");
}
