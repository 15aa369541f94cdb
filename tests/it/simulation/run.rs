//! One run: the hosts, the faults at their times, and the checks after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokenbroker::oauth::file::Grant;
use tokenbroker::telemetry::metrics::Metrics;
use tokenbroker::token::cache::Slot;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use super::check::AFTER;
use super::gate::Gate;
use super::plan::{Fault, Scenario};
use super::remote::Journal;
use super::vendor::ROTATED;
use super::world::{Broken, Inner, Order, Who, World};
use super::{idp, replica, store, wire};

/// What came of a run.
pub struct Report {
    pub broken: Option<Broken>,
    pub log: String,
    pub tail: String,
    /// How often what happened, and how often what was excused.
    pub counts: BTreeMap<&'static str, u64>,
    pub excuses: BTreeMap<&'static str, u64>,
}

fn host(replica: usize) -> String {
    format!("replica-{replica}")
}

/// Runs it until its end, or until the first promise is broken.
pub fn run(scenario: Scenario, metrics: &Arc<Metrics>) -> Report {
    // It makes a directory whose name is drawn by chance.
    std::sync::LazyLock::force(&ROTATED);
    fastrand::seed(scenario.seed);
    let world = World::new(scenario, Arc::clone(metrics));
    let scenario = &world.scenario;
    let mut sim = turmoil::Builder::new()
        .tick_duration(scenario.tick)
        .simulation_duration(Duration::MAX)
        .rng_seed(scenario.seed)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(scenario.latency)
        .fail_rate(scenario.loss)
        .repair_rate(0.5)
        .udp_capacity(1024)
        .build();
    for (name, answers) in [("store", true), ("idp", false)] {
        let world = Arc::clone(&world);
        sim.host(name, move || {
            let world = Arc::clone(&world);
            async move {
                if answers { wire::serve(world, store::answer).await } else { wire::serve(world, idp::answer).await }
            }
        });
    }
    if scenario.grant == Grant::RefreshToken {
        world.lock().person();
        for one in 0..scenario.machines.len() {
            world.lock().configure(one);
        }
    }
    for one in 0..scenario.machines.len() {
        let world = Arc::clone(&world);
        sim.host(host(one), move || replica::software(Arc::clone(&world), one));
    }
    drive(&mut sim, &world);
    drop(sim);
    let mut inner = world.lock();
    let tail = inner.tail(60).to_owned();
    Report {
        broken: inner.broken.take(),
        tail,
        log: std::mem::take(&mut inner.log),
        counts: std::mem::take(&mut inner.counts),
        excuses: std::mem::take(&mut inner.excuses),
    }
}

fn drive(sim: &mut Sim<'_>, world: &Arc<World>) {
    let scenario = &world.scenario;
    let mut faults = scenario.faults.iter().peekable();
    let end = scenario.calm + scenario.rest;
    let mut without: BTreeSet<_> = (0..scenario.machines.len()).collect();
    let mut last = None;
    loop {
        world.stepped(sim.elapsed());
        while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= sim.elapsed()) {
            apply(sim, world, *fault);
        }
        if let Err(error) = sim.step() {
            world.lock().breaks(sim.elapsed(), "no process breaks off", error.to_string());
        }
        let now = sim.elapsed();
        world.stepped(now);
        world.lock().credentials(now);
        world.lock().works(now);
        world.tokens(now);
        if now >= end {
            if last.is_none() {
                world.quiet(now);
            }
            let at_most = world.calm(&mut without);
            // Who waits says for how long, and waits no longer.
            let last = *last.get_or_insert_with(|| now + at_most);
            if without.is_empty() {
                if now > end + AFTER {
                    world.lock().excuse("a pause was longer than the rest of the run");
                }
                break;
            }
            if now >= last {
                world.unserved(&without, now);
                break;
            }
        }
        if world.lock().broken.is_some() {
            break;
        }
    }
}

/// Does it, and says so.
fn apply(sim: &mut Sim<'_>, world: &Arc<World>, fault: Fault) {
    let now = sim.elapsed();
    {
        let mut inner = world.lock();
        inner.event(now, format_args!("-- {fault:?}"));
        inner.count(name(fault));
    }
    match fault {
        Fault::Crash(one) => {
            sim.crash(host(one).as_str());
            world.lock().crashes(one, now);
        }
        Fault::Start(one) => start(sim, world, one),
        Fault::Cut(one, to) => sim.partition(host(one).as_str(), to.host()),
        Fault::Deaf(one, to) => sim.partition_oneway(to.host(), host(one).as_str()),
        Fault::Mend(one, to) => sim.repair(host(one).as_str(), to.host()),
        Fault::Hold(one, to) => sim.hold(host(one).as_str(), to.host()),
        Fault::Release(one, to) => sim.release(host(one).as_str(), to.host()),
        Fault::Over => over(sim, world),
        Fault::Mended => mend(world),
        _ => world.lock().suffers(fault, now),
    }
}

fn start(sim: &mut Sim<'_>, world: &Arc<World>, one: usize) {
    if !world.lock().replicas[one].runs {
        world.lock().replicas[one].runs = true;
        sim.bounce(host(one).as_str());
    }
}

/// All is well from now on.
fn over(sim: &mut Sim<'_>, world: &Arc<World>) {
    let replicas = world.scenario.machines.len();
    sim.set_fail_rate(0.0);
    for one in 0..replicas {
        for to in ["store", "idp"] {
            // Whatever was held comes now.
            sim.release(host(one).as_str(), to);
        }
        world.lock().suffers(Fault::Resume(one), sim.elapsed());
        start(sim, world, one);
    }
    let mut inner = world.lock();
    (inner.records.mood, inner.idp.mood) = (store::Mood::Well, idp::Mood::Well);
}

/// A person mends what only a person can.
fn mend(world: &World) {
    let mut inner = world.lock();
    // After three logins without an answer none is sent for ten minutes, unless a person asks.
    if inner.idp.calls.iter().filter(|call| call.gave_up.is_some()).count() >= 3 {
        let none = |one: &usize| inner.replicas[*one].serves.is_none();
        let ask: Vec<_> = (0..inner.replicas.len()).filter(none).collect();
        ask.into_iter().for_each(|one| inner.orders(one, Order::Refresh));
    }
    if !inner.may_serve(world.scenario.grant) {
        inner.person();
        (0..world.scenario.machines.len()).for_each(|one| inner.configure(one));
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::Crash(_) => "crash",
        Fault::Start(_) => "start",
        Fault::Restart(_) => "restart",
        Fault::Pause(_) => "pause",
        Fault::Freeze(_) => "freeze",
        Fault::Resume(_) => "resume",
        Fault::Wall(..) => "clock set",
        Fault::Cut(..) => "partition",
        Fault::Deaf(..) => "partition one way",
        Fault::Hold(..) => "messages held",
        Fault::Mend(..) | Fault::Release(..) => "way mended",
        Fault::Store(store::Mood::Well) | Fault::Idp(idp::Mood::Well) => "server well again",
        Fault::Store(store::Mood::Away) => "store away",
        Fault::Store(store::Mood::Slow) => "store slow",
        Fault::Store(store::Mood::ReadOnly) => "store read-only",
        Fault::Store(store::Mood::Mute) => "store mute",
        Fault::Back(_) => "store goes back",
        Fault::Wipe => "store loses everything",
        Fault::StoreClock(_) => "store clock set",
        Fault::Idp(idp::Mood::Away) => "idp away",
        Fault::Idp(idp::Mood::Slow) => "idp slow",
        Fault::Idp(idp::Mood::Broken) => "idp broken",
        Fault::Idp(idp::Mood::Busy) => "idp busy",
        Fault::Idp(idp::Mood::Mute) => "idp mute",
        Fault::Refresh(_) => "operator's refresh",
        Fault::Rotate(_) => "operator's rotation",
        Fault::Refused(_) => "token refused by an API",
        Fault::Login => "person logs in",
        Fault::Seed(_) => "another refresh token configured",
        Fault::Over => "over",
        Fault::Mended => "a person mends what is left",
    }
}

/// What a process starts with: who it is, whether it runs, its journal, and how it is told of orders.
type Beginning = (Who, Arc<Gate>, Option<Arc<Journal>>, Arc<Notify>);

impl Inner {
    /// A process begins.
    pub fn begins(&mut self, one: usize, now: Duration, slot: &Arc<Slot>, stop: &CancellationToken) -> Beginning {
        let replica = &mut self.replicas[one];
        replica.life += 1;
        (replica.alive, replica.runs, replica.born) = (true, true, now);
        (replica.slot, replica.stop) = (Some(Arc::clone(slot)), Some(stop.clone()));
        replica.heard = Some(Duration::ZERO);
        replica.knows.clear();
        replica.unsaved.clear();
        (replica.granted, replica.saving, replica.serves, replica.reaches_store) = (None, None, None, None);
        let who = Who { replica: one, life: replica.life };
        let told = (who, Arc::clone(&replica.gate), replica.journal.clone(), Arc::clone(&replica.ordered));
        self.event(now, format_args!("{who} starts"));
        told
    }

    /// A process has ended by itself.
    pub fn ends(&mut self, who: Who, now: Duration) {
        let replica = &mut self.replicas[who.replica];
        replica.heard.get_or_insert(now);
        (replica.alive, replica.slot, replica.serves) = (false, None, None);
    }

    fn crashes(&mut self, one: usize, now: Duration) {
        let replica = &mut self.replicas[one];
        replica.heard.get_or_insert(now);
        (replica.alive, replica.runs, replica.slot, replica.serves) = (false, false, None, None);
    }

    /// A person logs in.
    fn person(&mut self) {
        let token = self.idp.login(None);
        self.newest_login = Some(token);
    }

    /// A replica is configured with what the person got last.
    fn configure(&mut self, one: usize) {
        let seed = self.newest_login.clone();
        let replica = &mut self.replicas[one];
        if seed.is_some() && replica.seed != seed {
            replica.seed = seed;
            replica.stamp += 1;
        }
    }

    fn suffers(&mut self, fault: Fault, now: Duration) {
        match fault {
            Fault::Restart(one) => self.replicas[one].stop.iter().for_each(CancellationToken::cancel),
            Fault::Pause(one) => self.replicas[one].gate.shut(),
            Fault::Freeze(one) => {
                self.replicas[one].gate.shut();
                self.replicas[one].freezes.get_or_insert(now);
            }
            Fault::Resume(one) => {
                let replica = &mut self.replicas[one];
                if replica.gate.is_shut() {
                    replica.stood = Some(now);
                }
                if let Some(since) = replica.freezes.take() {
                    replica.frozen += now - since;
                    replica.froze.push(now);
                }
                replica.gate.open();
            }
            Fault::Wall(one, by) => {
                self.replicas[one].wall_ms += by;
                self.replicas[one].jumped = Some(now);
                self.set = Some(now);
                self.set_by += Duration::from_millis(by.unsigned_abs());
            }
            Fault::Store(mood) => self.records.mood = mood,
            Fault::Back(changes) => self.records.go_back(changes, now),
            Fault::Wipe => self.records.wipe(now),
            Fault::StoreClock(by) => {
                self.records.ahead += by;
                self.records.jumps.push(now);
                self.replicas.iter_mut().filter(|replica| replica.alive).for_each(|replica| replica.heard = None);
            }
            Fault::Idp(mood) => self.idp.mood = mood,
            Fault::Refresh(one) => self.orders(one, Order::Refresh),
            Fault::Rotate(one) => self.orders(one, Order::Rotate),
            Fault::Refused(one) => self.orders(one, Order::Refused),
            Fault::Login if self.newest_login.is_some() => self.person(),
            Fault::Seed(one) => self.configure(one),
            _ => {}
        }
    }

    fn orders(&mut self, one: usize, order: Order) {
        self.replicas[one].orders.push(order);
        self.replicas[one].ordered.notify_one();
    }
}
