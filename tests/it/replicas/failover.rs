//! A fail-over of Redis, which loses the last write: it is followed asynchronously.

use super::*;
use crate::support::size;

/// The version of the only record.
fn version(redis: &RedisServer) -> String {
    let key = redis.cli(&["KEYS", "*"]);
    redis.cli(&["HGET", &key, "v"])
}

/// Round for round, the follower is cut off before the last write, and takes over after it. Whoever knows of that write puts it
/// back: from memory, or from its own copy where it was killed meanwhile and nobody else had heard of it.
#[test]
fn no_fail_over_of_redis_loses_a_credential() {
    let redis = || RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let (Some(first), Some(mut follower)) = (redis(), redis()) else { return };
    let mut fleet = Fleet::with(first, HOUR, "path = \"kept\"", &[("api", SEEDED)]).start(3);
    fleet.all_serve("api");
    let rounds = size("FAILOVERS", 12);
    for round in 0..rounds {
        follower.cli(&["REPLICAOF", "127.0.0.1", &fleet.redis.port.to_string()]);
        eventually("it follows", || follower.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        eventually("it has everything", || version(&follower) == version(&fleet.redis));
        follower.cli(&["REPLICAOF", "NO", "ONE"]);
        let knows = round % 3;
        let alone = round % 2 == 1;
        let others: Vec<_> = (0..3).filter(|index| alone && *index != knows).collect();
        others.iter().for_each(|index| fleet.brokers[*index].signal(Signal::STOP));
        let reply = fleet.brokers[knows].admin("POST", "/api/tokens/api/refresh");
        assert_eq!(reply.status, 200, "round {round}: {}", reply.text());
        let newest = reply.json()["fingerprint"].clone();
        assert!(version(&follower) != version(&fleet.redis), "round {round}: a write is lost");
        fleet.gate.lead_to(local(follower.port));
        if alone {
            fleet.brokers[knows].signal(Signal::KILL);
            others.iter().for_each(|index| fleet.brokers[*index].signal(Signal::CONT));
            fleet.restart(knows);
        }
        fleet.all_have("api", &newest);
        eventually("it is durable again", || version(&follower) != version(&fleet.redis));
        std::mem::swap(&mut follower, &mut fleet.redis);
    }
    fleet.all_serve("api");
    fleet.refreshed(0, "api");
    assert_eq!((fleet.replays(), fleet.oauth.oauth.issuer.ended()), (0, 0), "each was used once");
    assert!(fleet.oauth.oauth.issuer.issued() > rounds as u64);
}
