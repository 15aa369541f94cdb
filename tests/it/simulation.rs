//! Many replicas, one store, one token server, and everything that goes wrong between them: from a seed, so that a run can be
//! had again.

mod check;
mod gate;
mod idp;
mod plan;
mod remote;
mod replica;
mod run;
mod store;
mod vendor;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use plan::{Fault, Scenario};
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

/// What happened in many runs.
#[derive(Default)]
struct All {
    counts: BTreeMap<&'static str, u64>,
    excuses: BTreeMap<&'static str, u64>,
    /// By number.
    failed: BTreeMap<u64, String>,
}

impl All {
    fn add(&mut self, number: u64, report: &Report) {
        for (what, count) in &report.counts {
            *self.counts.entry(what).or_default() += count;
        }
        for (what, count) in &report.excuses {
            *self.excuses.entry(what).or_default() += count;
        }
        self.failed.extend(told(number, report).map(|told| (number, told)));
    }

    fn all_well(&self) {
        let Some(first) = self.failed.values().next() else { return };
        let lines: Vec<_> = self.failed.values().map(|told| told.lines().next().unwrap()).collect();
        panic!("{first}\n\n{} failed:\n{}", lines.len(), lines.join("\n"));
    }
}

/// Every one of them, on all cores, until one fails; or to the end, where `keep_on`.
fn run_all(numbers: Range<u64>, keep_on: bool, one: impl Fn(u64, &Arc<Metrics>) -> Report + Sync) -> All {
    let next = AtomicU64::new(numbers.start);
    let all: Mutex<All> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let metrics = Arc::new(Metrics::default());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let stop = !keep_on && !all.lock().unwrap().failed.is_empty();
                    if number >= numbers.end || stop {
                        break;
                    }
                    let report = one(number, &metrics);
                    all.lock().unwrap().add(number, &report);
                }
            });
        }
    });
    all.into_inner().unwrap()
}

/// What has to have happened in 300 seeds, or they say nothing.
const HAPPENS: [&str; 41] = [
    "answer of the token server lost",
    "answer of the vendor lost",
    "another refresh token configured",
    "client secret created",
    "client secret deleted",
    "clock set",
    "crash",
    "exchange",
    "freeze",
    "idp away",
    "idp broken",
    "idp busy",
    "idp mute",
    "idp slow",
    "lease asked for",
    "lease taken by force",
    "messages held",
    "operator's refresh",
    "operator's rotation",
    "over",
    "partition",
    "partition one way",
    "pause",
    "person logs in",
    "restart",
    "resume",
    "save that came too late",
    "server well again",
    "start",
    "store away",
    "store clock set",
    "store goes back",
    "store loses everything",
    "store mute",
    "store not reached",
    "store read-only",
    "store slow",
    "token of another replica served",
    "token refused by an API",
    "token server not reached",
    "way mended",
];

#[test]
fn whatever_goes_wrong_no_credential_is_used_twice_or_lost_and_everybody_is_served() {
    let (began, seeds) = (Instant::now(), seeds());
    let count = seeds.end - seeds.start;
    let keep_on = std::env::var("TOKENBROKER_SIM_KEEP_ON").is_ok();
    let all = run_all(seeds, keep_on, |seed, metrics| run(Scenario::of(seed), metrics));
    let (counts, excuses, took) = (&all.counts, &all.excuses, began.elapsed());
    println!("what happened: {counts:#?}\nwhat was excused: {excuses:#?}");
    println!("{count} seeds in {took:.1?}: {:.1} a second", count as f64 / took.as_secs_f64());
    all.all_well();
    if count >= SEEDS.end - SEEDS.start {
        let never: Vec<_> = HAPPENS.iter().filter(|what| !counts.contains_key(*what)).collect();
        assert!(never.is_empty(), "what never happened: {never:?}");
        assert!(counts["exchange"] > count && counts["token of another replica served"] > count, "{counts:?}");
    }
}

#[test]
fn one_seed_gives_the_same_run_twice() {
    let metrics = Arc::new(Metrics::default());
    for seed in 20..32 {
        let (one, two) = (run(Scenario::of(seed), &metrics), run(Scenario::of(seed), &metrics));
        assert!(one.log == two.log, "seed {seed}");
        assert!(one.log.lines().count() > 20, "{}", one.log);
    }
}

#[test]
fn a_crash_at_every_step_costs_no_more_than_the_answer_that_was_on_its_way() {
    const STEPS: u64 = 100;
    // Who crashes, whether there are journals, and when.
    let cases = |number: u64| ((number / STEPS) % 2, number / STEPS / 2 == 1, number % STEPS);
    let all = run_all(0..4 * STEPS, false, |number, metrics| {
        let (who, journal, step) = cases(number);
        // The first one alone, who makes the first exchange; or all of them.
        let replicas = if who == 0 { 0..1 } else { 0..3 };
        let mut story = Scenario::story(journal);
        let at = plan::TICK * u32::try_from(step).unwrap();
        let crashes = replicas.clone().map(|one| (at, Fault::Crash(one)));
        let starts = replicas.map(|one| (at + plan::TICK * 7, Fault::Start(one)));
        story.faults.extend(crashes.chain(starts));
        story.faults.sort_by_key(|(at, _)| *at);
        run(story, metrics)
    });
    all.all_well();
    assert_eq!(all.counts["crash"], 2 * STEPS + 2 * STEPS * 3);
    let allowed = [
        "its process died waiting for the answer",
        "its process died before it had saved the answer",
        "its process died before it was saved",
        "the answer with it was lost",
    ];
    let excuses = &all.excuses;
    assert!(excuses.keys().all(|excuse| allowed.contains(excuse)) && !excuses.is_empty(), "{excuses:?}");
}

#[test]
fn the_checks_notice_a_lock_that_locks_nothing() {
    let broken = |seed: u64, metrics: &Arc<Metrics>| run(Scenario { broken_lock: true, ..Scenario::of(seed) }, metrics);
    let all = run_all(0..40, true, broken);
    assert!(all.failed.len() > 5, "{}", all.failed.len());
    assert!(all.failed.values().any(|told| told.contains("no two exchanges with one refresh token")));
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
