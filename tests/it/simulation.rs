//! Many replicas, one store, one token server, and everything that goes wrong between them: from a seed, so that a run can be
//! had again.

mod check;
mod gate;
mod idp;
mod plan;
mod replica;
mod run;
mod store;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use plan::Scenario;
use run::{Report, run};
use tokenbroker::telemetry::metrics::Metrics;

/// So many are run, when nothing else is asked for.
const SEEDS: Range<u64> = 0..300;

/// `FROM..TO`, or one.
fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("TOKENBROKER_SIM_SEEDS") else { return SEEDS };
    let number =
        |text: &str| text.parse().unwrap_or_else(|_| panic!("TOKENBROKER_SIM_SEEDS={asked}: FROM..TO, or one"));
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&asked)..number(&asked) + 1,
    }
}

fn told(seed: u64, report: &Report) -> Option<String> {
    let broken = report.broken.as_ref()?;
    Some(format!(
        "seed {seed}: \"{}\" is broken: {}\nthe last that happened:\n{}\nagain: TOKENBROKER_SIM_SEEDS={seed} cargo test \
         --test it simulation::whatever_goes_wrong",
        broken.promise, broken.how, report.tail
    ))
}

/// Every seed, on all cores; what happened in all, and the first that broke a promise.
fn run_all(seeds: Range<u64>) -> (BTreeMap<&'static str, u64>, BTreeMap<&'static str, u64>) {
    let next = AtomicU64::new(seeds.start);
    let all: Mutex<(BTreeMap<&str, u64>, BTreeMap<&str, u64>, BTreeMap<u64, String>)> = Mutex::default();
    let keep_on = std::env::var("TOKENBROKER_SIM_KEEP_ON").is_ok();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let metrics = Arc::new(Metrics::default());
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let failed = !all.lock().unwrap().2.is_empty();
                    if seed >= seeds.end || (failed && !keep_on) {
                        break;
                    }
                    let report = run(Scenario::of(seed), &metrics);
                    let mut all = all.lock().unwrap();
                    for (what, count) in &report.counts {
                        *all.0.entry(what).or_default() += count;
                    }
                    for (what, count) in &report.excuses {
                        *all.1.entry(what).or_default() += count;
                    }
                    all.2.extend(told(seed, &report).map(|told| (seed, told)));
                }
            });
        }
    });
    let (counts, excuses, failed) = all.into_inner().unwrap();
    if !failed.is_empty() {
        let first = failed.values().next().unwrap();
        let lines: Vec<_> = failed.values().map(|told| told.lines().next().unwrap()).collect();
        panic!("{first}\n{} of the seeds failed:\n{}", failed.len(), lines.join("\n"));
    }
    (counts, excuses)
}

#[test]
fn whatever_goes_wrong_no_credential_is_used_twice_or_lost_and_everybody_is_served() {
    let began = std::time::Instant::now();
    let seeds = seeds();
    let count = seeds.end - seeds.start;
    let (counts, excuses) = run_all(seeds);
    println!("{count} seeds in {:?}\nwhat happened: {counts:#?}\nwhat was excused: {excuses:#?}", began.elapsed());
}

#[test]
fn one_seed_gives_the_same_run_twice() {
    let metrics = Arc::new(Metrics::default());
    for seed in [3, 4, 5, 6, 7, 8] {
        let (one, two) = (run(Scenario::of(seed), &metrics), run(Scenario::of(seed), &metrics));
        assert!(one.log == two.log, "seed {seed}");
        assert!(one.log.lines().count() > 20, "{}", one.log);
    }
}

#[test]
fn zz_show() {
    tracing_subscriber::fmt()
        .without_time()
        .with_max_level(tracing::Level::INFO)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .init();
    let metrics = Arc::new(Metrics::default());
    for seed in seeds() {
        let scenario = Scenario::of(seed);
        println!("{scenario:?}");
        run(scenario, &metrics);
    }
}
