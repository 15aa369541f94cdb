//! Whoever works on the record sleeps or dies, at the worst moment.

use super::*;
use crate::support::Way;

/// It has its answer within its time.
#[test]
fn a_replica_that_is_stopped_during_its_exchange_saves_its_answer_when_it_goes_on() {
    let keys = format!("{SEEDED}\ntimeout = \"10s\"");
    let Some(fleet) = Fleet::new(HOUR, "", &[("api", &keys)]) else { return };
    let fleet = fleet.start(REPLICAS);
    fleet.all_serve("api");
    let before = fleet.fingerprint(0, "api");
    fleet.serving(1..REPLICAS, "api", || {
        let _wire = fleet.at_the_server(0, "api", seconds(1));
        fleet.brokers[0].signal(Signal::STOP);
        std::thread::sleep(seconds(2));
        for broker in &fleet.brokers[1..] {
            assert_eq!(broker.token("api")["fingerprint"], before, "there is nothing newer to be had");
        }
        fleet.brokers[0].signal(Signal::CONT);
        fleet.all("is the newer one", "api", |status| status["fingerprint"] != before);
        fleet.refreshed(3, "api");
    });
    assert_eq!((fleet.replays(), fleet.oauth.oauth.issuer.ended()), (0, 0));
}

/// Nobody knows what became of the request; who tries is told that it was sent before, and logs in.
#[test]
fn a_replica_that_sleeps_for_longer_than_its_lease_costs_one_replay_at_most() {
    let keys = format!("{PASSWORD}\ntimeout = \"1s\"");
    let Some(fleet) = Fleet::new(seconds(5), "", &[("api", &keys)]) else { return };
    let fleet = fleet.start(REPLICAS);
    fleet.all_serve("api");
    let _wire = fleet.at_the_server(0, "api", Duration::from_millis(500));
    fleet.brokers[0].signal(Signal::STOP);
    let first = fleet.fingerprint(1, "api");
    for broker in &fleet.brokers[1..] {
        eventually("another has taken over", || {
            let token = broker.token("api");
            token["fingerprint"] != first && token["state"] == "valid"
        });
    }
    fleet.brokers[0].signal(Signal::CONT);
    fleet.all_serve("api");
    fleet.serving(0..REPLICAS, "api", || fleet.refreshed(0, "api"));
    assert!(fleet.replays() <= 1 && fleet.oauth.oauth.issuer.ended() <= 1, "{:?}", fleet.sent());
}

/// As most servers allow within a minute.
#[test]
fn where_a_request_may_be_repeated_nobody_notices_that_a_replica_slept() {
    let keys = format!("{SEEDED}\ntimeout = \"1s\"");
    let Some(fleet) = Fleet::new(seconds(12), "", &[("api", &keys)]) else { return };
    fleet.oauth.oauth.issuer.set_leeway(seconds(60));
    let fleet = fleet.start(REPLICAS);
    fleet.all_serve("api");
    let first = fleet.fingerprint(1, "api");
    fleet.serving(1..REPLICAS, "api", || {
        let _wire = fleet.at_the_server(0, "api", Duration::from_millis(500));
        fleet.brokers[0].signal(Signal::STOP);
        for broker in &fleet.brokers[1..] {
            eventually("another has taken over", || broker.token("api")["fingerprint"] != first);
        }
        fleet.brokers[0].signal(Signal::CONT);
        fleet.all_serve("api");
        fleet.refreshed(0, "api");
        fleet.refreshed(1, "api");
    });
    assert!(fleet.replays() <= 1 && fleet.oauth.oauth.issuer.ended() == 0, "{:?}", fleet.sent());
}

#[test]
fn when_a_replica_is_killed_while_its_request_is_at_the_server_another_takes_over() {
    let keys = format!("{PASSWORD}\ntimeout = \"1s\"");
    let Some(mut fleet) = Fleet::new(seconds(12), "", &[("api", &keys)]).map(|fleet| fleet.start(REPLICAS)) else {
        return;
    };
    fleet.all_serve("api");
    let first = fleet.fingerprint(1, "api");
    fleet.serving(1..REPLICAS, "api", || {
        let _wire = fleet.at_the_server(0, "api", seconds(1));
        fleet.brokers[0].signal(Signal::KILL);
        for broker in &fleet.brokers[1..] {
            eventually("another has taken over", || broker.token("api")["fingerprint"] != first);
        }
    });
    fleet.restart(0);
    fleet.serving(0..REPLICAS, "api", || fleet.refreshed(0, "api"));
    assert!(fleet.replays() <= 1 && fleet.oauth.oauth.issuer.ended() <= 1, "{:?}", fleet.sent());
}

#[test]
fn when_a_replica_is_killed_before_its_request_has_arrived_nothing_is_lost() {
    let keys = format!("{SEEDED}\ntimeout = \"1s\"");
    let Some(mut fleet) = Fleet::new(seconds(12), "", &[("api", &keys)]).map(|fleet| fleet.start(REPLICAS)) else {
        return;
    };
    fleet.all_serve("api");
    let first = fleet.fingerprint(1, "api");
    fleet.serving(1..REPLICAS, "api", || {
        fleet.vendor.set(Way::Silent);
        let _wire = fleet.begin_refresh(0, "api");
        eventually("it is on its way", || fleet.vendor.swallowed());
        fleet.brokers[0].signal(Signal::KILL);
        fleet.vendor.set(Way::Cut);
        fleet.vendor.set(Way::Pass);
        for broker in &fleet.brokers[1..] {
            eventually("another has taken over", || broker.token("api")["fingerprint"] != first);
        }
    });
    fleet.restart(0);
    fleet.serving(0..REPLICAS, "api", || fleet.refreshed(0, "api"));
    assert_eq!((fleet.replays(), fleet.oauth.oauth.issuer.ended()), (0, 0));
}
