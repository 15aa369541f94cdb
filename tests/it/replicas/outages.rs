//! Redis is away, each time in another way: what serves goes on serving, what others might send too is not sent, and afterwards
//! all is as before.

use super::*;
use crate::support::Way;

const TOKENS: [(&str, &str); 3] = [
    ("rotating", "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }\ntimeout = \"1s\""),
    ("plain", "scope = [\"plain\"]\ntimeout = \"1s\""),
    ("limited", "scope = [\"limited\"]\nlimit = \"1000 per 1m\"\ntimeout = \"1s\""),
];
const BROKERS: usize = 3;

/// Makes Redis unusable in the middle, and then usable again. `says`: what every broker tells the operator meanwhile.
fn goes_away(fleet: Fleet, trouble: impl FnOnce(&mut Fleet), says: &str, back: impl FnOnce(&mut Fleet)) {
    let mut fleet = fleet.start(BROKERS);
    for (token, _) in TOKENS {
        fleet.all_serve(token);
    }
    fleet.refreshed(0, "rotating");
    fleet.refreshed(1, "limited");
    let ends = |token: &str, broker: &Broker| broker.token(token)["expires_at"].as_str().unwrap().to_owned();
    let ends: Vec<jiff::Timestamp> = fleet.brokers.iter().map(|b| ends("rotating", b).parse().unwrap()).collect();
    let plain: Vec<_> = (0..BROKERS).map(|index| fleet.fingerprint(index, "plain")).collect();
    trouble(&mut fleet);
    let before = (fleet.sent().len(), fleet.scoped("limited"));
    fleet.serving(0..BROKERS, "plain", || {
        for (broker, ends) in fleet.brokers.iter().zip(&ends) {
            while jiff::Timestamp::now() < *ends {
                let reply = broker.get("rotating", "/");
                assert!(reply.status == 200 || jiff::Timestamp::now() >= *ends, "{}", reply.text());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        for token in ["rotating", "limited"] {
            fleet.all("has ended, and why is told", token, |status| {
                let error = status["last_error"].as_str().unwrap_or_default();
                let told =
                    error.contains(says) && error.contains("redis://127.0.0.1:") && error.contains("mend the store");
                status["state"] == "expired" && told
            });
        }
        for (broker, plain) in fleet.brokers.iter().zip(&plain) {
            eventually("what is nobody else's is renewed", || broker.token("plain")["fingerprint"] != *plain);
            assert_eq!(broker.get("rotating", "/").code(), "token_unavailable");
        }
    });
    assert_eq!((fleet.sent().len(), fleet.scoped("limited")), before, "nothing that others might send too");
    back(&mut fleet);
    for (token, _) in TOKENS {
        fleet.all_serve(token);
    }
    fleet.refreshed(1, "rotating");
    fleet.refreshed(2, "limited");
    assert_eq!((fleet.replays(), fleet.oauth.oauth.issuer.ended()), (0, 0));
}

fn through_the_gate(way: Way, says: &str) {
    let Some(fleet) = Fleet::new(seconds(5), "", &TOKENS) else { return };
    goes_away(fleet, |fleet| fleet.gate.set(way), says, |fleet| fleet.gate.set(Way::Pass));
}

#[test]
fn nothing_is_lost_while_redis_ends_connections() {
    through_the_gate(Way::Cut, "has ended the connection");
}

/// Five seconds for an answer; none to what is done; nothing at all.
#[test]
fn nothing_is_lost_while_redis_is_late_or_deaf_or_silent() {
    let ways = [Way::Late(seconds(5)), Way::Deaf, Way::Silent];
    std::thread::scope(|scope| {
        for way in ways {
            scope.spawn(move || through_the_gate(way, "has not answered within 2 s"));
        }
    });
}

#[test]
fn nothing_is_lost_while_redis_is_dead_and_also_if_it_comes_back_empty() {
    let killed = |keeps| {
        let Some(redis) = RedisServer::start(&["--appendonly", keeps]) else { return };
        let fleet = Fleet::with(redis, seconds(5), "", &TOKENS);
        let back = |fleet: &mut Fleet| assert!(fleet.redis.restart());
        goes_away(fleet, |fleet| fleet.redis.kill(), "has ended the connection", back);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| killed("yes"));
        scope.spawn(|| killed("no"));
    });
}

#[test]
fn nothing_is_lost_while_redis_has_no_memory_left() {
    let Some(fleet) = Fleet::new(seconds(5), "", &TOKENS) else { return };
    let full = |fleet: &mut Fleet| {
        fleet.redis.cli(&["SET", "filler", &"x".repeat(100_000)]);
        fleet.redis.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    };
    let room = |fleet: &mut Fleet| drop(fleet.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]));
    goes_away(fleet, full, "has no memory left; give it more (maxmemory)", room);
}

#[test]
fn nothing_is_lost_while_redis_is_a_replica_of_another() {
    let Some(fleet) = Fleet::new(seconds(5), "", &TOKENS) else { return };
    let replica = |fleet: &mut Fleet| drop(fleet.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]));
    let primary = |fleet: &mut Fleet| drop(fleet.redis.cli(&["REPLICAOF", "NO", "ONE"]));
    goes_away(fleet, replica, "is a replica, which changes nothing; after a fail-over, point [store] url", primary);
}

#[test]
fn nothing_is_lost_while_redis_has_another_password() {
    let Some(mut redis) = RedisServer::start(&["--requirepass", "first"]) else { return };
    redis.password = "first".into();
    let fleet = Fleet::with(redis, seconds(5), "password = { file = \"redis_password\" }", &TOKENS);
    let changed = |fleet: &mut Fleet| {
        fleet.redis.cli(&["CONFIG", "SET", "requirepass", "second"]);
        fleet.redis.password = "second".into();
        fleet.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    };
    let told = |fleet: &mut Fleet| {
        for broker in &fleet.brokers {
            write(broker.directory.path(), "redis_password", "second");
        }
    };
    goes_away(fleet, changed, "refuses the password; correct [store] password", told);
}

#[test]
fn brokers_that_start_without_redis_serve_what_they_may_and_the_rest_once_it_is_there() {
    let Some(fleet) = Fleet::new(HOUR, "", &TOKENS) else { return };
    fleet.gate.set(Way::Cut);
    let fleet = fleet.start(REPLICAS);
    fleet.all_serve("plain");
    for token in ["rotating", "limited"] {
        fleet.all("why is told", token, |status| {
            status["last_error"].as_str().is_some_and(|error| error.contains("the shared store: redis://127.0.0.1:"))
        });
        for broker in &fleet.brokers {
            assert_eq!(broker.get(token, "/").code(), "token_unavailable");
        }
    }
    assert_eq!((fleet.sent().len(), fleet.scoped("limited")), (0, 0));
    fleet.gate.set(Way::Pass);
    for (token, _) in TOKENS {
        fleet.all_serve(token);
        fleet.all_agree(token);
    }
    assert_eq!((fleet.sent().len(), fleet.scoped("limited")), (1, 1), "by one for all");
}

#[test]
fn a_broker_that_starts_without_redis_goes_on_from_its_own_copy() {
    let Some(fleet) = Fleet::new(HOUR, "path = \"kept\"", &TOKENS) else { return };
    let mut fleet = fleet.start(2);
    for (token, _) in TOKENS {
        fleet.all_serve(token);
    }
    let before = fleet.fingerprint(0, "rotating");
    // What another brought is written down at the next look at the record.
    std::thread::sleep(seconds(2));
    fleet.gate.set(Way::Cut);
    fleet.restart(0);
    fleet.restart(1);
    for token in ["rotating", "limited"] {
        fleet.serving(0..2, token, || fleet.all_serve(token));
    }
    fleet.all_have("rotating", &before);
    fleet.gate.set(Way::Pass);
    for broker in &fleet.brokers {
        broker.logs("the shared store answers again");
    }
    fleet.refreshed(0, "rotating");
    fleet.refreshed(1, "rotating");
    assert_eq!((fleet.sent().len(), fleet.replays()), (3, 0));
}

#[test]
fn an_answer_that_could_not_be_saved_is_used_and_saved_when_redis_is_back() {
    let keys = format!("{SEEDED}\ntimeout = \"3s\"");
    let Some(fleet) = Fleet::new(HOUR, "", &[("api", &keys)]) else { return };
    let fleet = fleet.start(REPLICAS);
    fleet.all_serve("api");
    let before = fleet.fingerprint(0, "api");
    let now = fleet.serving(0..REPLICAS, "api", || {
        let _wire = fleet.at_the_server(0, "api", seconds(1));
        fleet.gate.set(Way::Cut);
        eventually("it is used", || fleet.fingerprint(0, "api") != before);
        fleet.brokers[0].logs("not durable: a restart now could lose the refresh token");
        for index in 1..REPLICAS {
            assert_eq!(fleet.fingerprint(index, "api"), before);
        }
        fleet.gate.set(Way::Pass);
        let now = fleet.fingerprint(0, "api");
        fleet.all_have("api", &now);
        now
    });
    // Whoever goes on from it.
    assert_ne!(fleet.refreshed(0, "api"), now);
    fleet.refreshed(1, "api");
    assert_eq!((fleet.replays(), fleet.oauth.oauth.issuer.ended()), (0, 0));
}
