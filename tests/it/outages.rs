use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tokenbroker::oauth::file::Grant;
use tokenbroker::oauth::{Class, Outcome};
use tokenbroker::standin::Fault;
use tokenbroker::token::cache::State;
use tokio::time::{Instant, sleep};

use crate::exchange::OAuth;
use crate::refresh::{S, Script, Step, policy, scripted, start};
use crate::support::{Action, Broker, PATIENCE, Upstream, Wire};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn while_the_token_server_is_dead_every_request_succeeds_until_the_token_ends() {
    let script = Script::new(false);
    script.set_lifetime(Some(HOUR));
    let bench = start(&script, policy(Grant::ClientCredentials));
    sleep(S).await;
    script.fail(Class::Transient, 10_000);
    for second in (0..3590).step_by(10) {
        let began = Instant::now();
        assert_eq!(bench.wait().await.as_deref(), Ok("Bearer at-1"), "after {second} s");
        assert!(began.elapsed().is_zero(), "nobody waits");
        sleep(10 * S).await;
    }
    sleep(20 * S).await;
    assert!(bench.wait().await.is_err());
    let failed: Vec<_> = script.calls()[1..].iter().map(|call| call.at).collect();
    let soon = failed.iter().filter(|at| **at < failed[0] + 600.0).count();
    assert!((10..=25).contains(&soon), "{soon} in ten minutes");
    let gaps: Vec<_> = failed.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 29.0).collect();
    assert!(gaps.len() + 8 > failed.len() && gaps.iter().all(|gap| *gap >= 30.0), "{gaps:?}");
    assert!(gaps.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 1.0), "jittered: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_server_that_comes_back_is_used_within_a_minute_or_when_it_asked_to_be() {
    for asked in [None, Some(300)] {
        let script = Script::new(false);
        for _ in 0..10_000 {
            let mut error = scripted(Class::Transient, Outcome::NotJudged);
            error.retry_after = asked.map(Duration::from_secs);
            script.then(Step::Fail(error));
        }
        let bench = start(&script, policy(Grant::ClientCredentials));
        sleep(HOUR).await;
        let told = bench.wait().await.unwrap_err();
        assert!(told <= asked.unwrap_or(60), "{told}");
        script.0.outcomes.lock().unwrap().clear();
        sleep(Duration::from_secs(told + 1) + S / 2).await;
        assert_eq!(bench.slot.state(), State::Valid, "{asked:?}: told to come back after {told} s");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_cause_one_exchange_when_cold_and_one_when_the_token_has_ended() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 2 * S;
    let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
    for round in 1..=2 {
        let waiters: Vec<_> = (0..10_000)
            .map(|_| {
                let bench = Arc::clone(&bench);
                tokio::spawn(async move { bench.wait().await })
            })
            .collect();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap().unwrap(), format!("Bearer at-{round}"));
        }
        assert_eq!(script.count(), round);
        bench.clocks.suspend(3600);
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_are_told_of_a_failure_at_once_and_those_who_leave_end_nothing() {
    let script = Script::new(false);
    *script.0.takes.lock().unwrap() = 2 * S;
    script.fail(Class::Transient, 1);
    let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
    let waiters: Vec<_> = (0..1000_u64)
        .map(|n| {
            let bench = Arc::clone(&bench);
            // Every other one leaves before the end.
            let patience = if n % 2 == 0 { 4 * S } else { Duration::from_millis(n) };
            tokio::spawn(async move { tokio::time::timeout(patience, bench.wait()).await })
        })
        .collect();
    let began = Instant::now();
    let mut told = 0;
    for waiter in waiters {
        told += usize::from(waiter.await.unwrap().is_ok_and(|told| told.is_err()));
    }
    assert_eq!((told, began.elapsed().as_secs(), script.count()), (500, 2, 1));
    // The next attempt comes by the back-off, whatever requests come meanwhile.
    for _ in 0..100 {
        assert!(bench.wait().await.is_err());
    }
    assert_eq!(script.count(), 1);
    sleep(4 * S).await;
    let calls = script.calls();
    assert!((2.5..=3.1).contains(&(calls[1].at - calls[0].at)), "{calls:?}");
    assert_eq!(bench.slot.state(), State::Valid);
}

#[tokio::test(start_paused = true)]
async fn each_token_is_replaced_once_in_its_life_however_short_that_is() {
    for lifetime in [3600, 60, 5] {
        let script = Script::new(false);
        script.set_lifetime(Some(Duration::from_secs(lifetime)));
        let _bench = start(&script, policy(Grant::ClientCredentials));
        sleep(Duration::from_secs(lifetime * 100)).await;
        let calls = script.calls();
        let gaps: Vec<_> = calls.windows(2).map(|pair| (pair[1].at - pair[0].at) / lifetime as f64).collect();
        assert!(gaps.len() > 100 && gaps.iter().all(|gap| (0.7..=0.83).contains(gap)), "{lifetime}: {gaps:?}");
    }
}

/// The test knows by itself when each token ends: from when it was asked for, and how the clocks were set since.
#[tokio::test(start_paused = true)]
async fn under_load_no_ended_token_is_handed_out_however_the_clocks_jump() {
    const YEARS: i64 = 10 * 365 * 86_400;
    for step in [1, -1, 300, -300, 86_400, -86_400, YEARS, -YEARS, 0] {
        let script = Script::new(false);
        let bench = Arc::new(start(&script, policy(Grant::ClientCredentials)));
        sleep(10 * S).await;
        let stepped = 15.0;
        let mut served = 0;
        let jump = || match step {
            0 => bench.clocks.suspend(8 * 3600),
            step => bench.clocks.step_wall(step),
        };
        let load: Vec<_> = (0..20)
            .map(|n| {
                let (bench, script) = (Arc::clone(&bench), script.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(n)).await;
                    let mut served = 0;
                    while script.0.start.elapsed() < 40 * S {
                        let value = bench.wait().await.unwrap();
                        let now = script.0.start.elapsed().as_secs_f64();
                        let number: usize = value.rsplit('-').next().unwrap().parse().unwrap();
                        let sent = script.calls()[number - 1].at;
                        let forward = if step == 0 { 8.0 * 3600.0 } else { step.max(0) as f64 };
                        let jumped = if sent < stepped && now > stepped { forward } else { 0.0 };
                        assert!(now + jumped < sent + 100.0, "{step}: {value} of {sent} at {now}");
                        served += 1;
                        sleep(Duration::from_millis(50)).await;
                    }
                    served
                })
            })
            .collect();
        sleep(5 * S).await;
        jump();
        for one in load {
            served += one.await.unwrap();
        }
        assert!(served > 5_000, "{served}");
        assert!(script.count() <= 2, "{step}: {} exchanges", script.count());
    }
}

/// A token server whose good answer is followed by heads without their bodies.
fn stalls_after_the_head() -> Upstream {
    let good = std::sync::atomic::AtomicBool::new(true);
    Upstream::start(move |_| {
        if good.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return Action::ok(r#"{"access_token":"stalls","token_type":"Bearer","expires_in":3600}"#);
        }
        Action::Take(Box::new(|mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").unwrap();
            let _ = stream.read(&mut [0]);
        }))
    })
}

#[test]
fn an_answer_that_drips_or_stalls_is_given_up_after_ten_seconds_and_delays_no_request() {
    let oauth = OAuth::start(HOUR);
    let stalling = stalls_after_the_head();
    let api = Upstream::ok();
    let drips = oauth.config("", "").replace(&oauth.api.url(), &api.url());
    let stalls = drips.replace(".api]", ".other]").replace(&oauth.server.url(), &stalling.url());
    let broker = Broker::start_in(oauth.directory(), &(drips + &stalls), |_| {});
    broker.wait_for_state("api", "valid");
    broker.wait_for_state("other", "valid");
    oauth.oauth.faults.set(Some(Fault::Drip), None);
    std::thread::scope(|scope| {
        let refreshes = ["api", "other"].map(|token| {
            let broker = &broker;
            scope.spawn(move || {
                let mut wire = Wire::open(broker.address("admin"));
                wire.stream().set_read_timeout(Some(2 * PATIENCE)).unwrap();
                wire.send(format!(
                    "POST /api/tokens/{token}/refresh HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
                    broker.address("admin"),
                    crate::support::ADMIN_KEY
                ));
                wire.reply("POST").unwrap()
            })
        });
        let began = std::time::Instant::now();
        let mut served = 0;
        while began.elapsed() < Duration::from_secs(9) {
            for route in ["api", "other"] {
                let asked = std::time::Instant::now();
                assert_eq!(broker.get(route, "/").status, 200);
                assert!(asked.elapsed() < Duration::from_secs(5), "it did not wait for the exchange");
                served += 1;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(served > 50, "{served}");
        for refresh in refreshes {
            let reply = refresh.join().unwrap();
            let token = reply.json();
            let error = token["last_error"].as_str().unwrap().to_owned();
            assert!(error.starts_with("transient: no answer from ") && error.contains("within 10 s"), "{error}");
            assert_eq!((reply.status, &token["state"]), (502, &"degraded".into()));
        }
    });
    assert_eq!(broker.get("api", "/").status, 200);
}

#[test]
fn what_is_wrong_with_a_gateway_before_the_token_server_passes() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    for status in [502, 504] {
        oauth.oauth.faults.set(Some(Fault::Status(status, None)), None);
        let token = broker.admin("POST", "/api/tokens/api/refresh").json();
        assert_eq!((&token["class"], &token["state"]), (&"transient".into(), &"degraded".into()), "{status}");
        assert!(token["last_error"].as_str().unwrap().contains(&format!("HTTP {status}")), "{token}");
    }
}
