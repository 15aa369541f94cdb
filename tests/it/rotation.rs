mod rows;
mod vendor;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use tokenbroker::rotation::{Action, Asks, Begin, Event, Failure, Held, Policy, Record, Rotation, State, Style, Which};
use tokenbroker::secret::Secret;

use self::vendor::{DAY, Ends, Id, Model, REPLICAS, Vendor};

const START: i64 = 1_770_000_000;
const A: &str = "aaa-the-first";
const B: &str = "bbb-the-second";
const STEPS_MAX: usize = 1500;
const CALLS_MAX: usize = 250;
const PARKS_MAX: usize = 12;
const SEEDS: u64 = 1000;
/// Where a vendor never does what it should, the same steps come again and again.
const STEPS_TRIED: usize = 60;

/// What goes wrong with one step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The request does not arrive, and no answer comes.
    Lost,
    /// It is done, and no answer comes.
    AnswerLost,
    /// It is done a while after the answer was given up.
    Late,
    NotSent,
    Busy,
    Refused,
    AdminExpired,
    SaveFails,
    /// For as long as the store is asked.
    StoreFails,
    /// Somebody makes a secret in the vendor's portal.
    Foreign,
    ClockBack,
    ClockAhead,
}

const FAULTS: [Fault; 13] = [
    Fault::None,
    Fault::Lost,
    Fault::AnswerLost,
    Fault::Late,
    Fault::NotSent,
    Fault::Busy,
    Fault::Refused,
    Fault::AdminExpired,
    Fault::SaveFails,
    Fault::StoreFails,
    Fault::Foreign,
    Fault::ClockBack,
    Fault::ClockAhead,
];

/// What is there at the start.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    Nothing,
    Foreign,
    Expired,
    Orphan,
}

#[derive(Clone, Copy, Debug)]
struct Scene {
    name: &'static str,
    style: Style,
    model: Model,
    other: Other,
    /// The broker knows the id of its secret.
    known: bool,
    emergency: bool,
    /// The expired secret is not listed any more.
    gone: bool,
}

const SLOTS: Model = Model {
    slots: Some(2),
    tags: true,
    hints: true,
    id: Id::Told,
    ends: Ends::AsAsked,
    soft: false,
    lag: 30,
    propagation: Some(20),
    death: 0,
};
const BARE: Model = Model { slots: None, tags: false, hints: false, id: Id::NotTold, soft: true, ..SLOTS };
const PLAIN: Scene = Scene {
    name: "two slots, names, ids",
    style: Style::Create,
    model: SLOTS,
    other: Other::Nothing,
    known: true,
    emergency: false,
    gone: false,
};

fn scenes() -> Vec<Scene> {
    let slow = Model { propagation: Some(900), death: 600, ..SLOTS };
    let never = |model| Model { propagation: None, ..model };
    vec![
        PLAIN,
        Scene { name: "a foreign one in the second slot", other: Other::Foreign, ..PLAIN },
        Scene { name: "an expired one in the second slot", other: Other::Expired, ..PLAIN },
        Scene { name: "an orphan in the second slot", other: Other::Orphan, ..PLAIN },
        Scene { name: "found by its hint", known: false, other: Other::Expired, ..PLAIN },
        Scene { name: "slow replicas, late death", model: slow, ..PLAIN },
        Scene { name: "never works", model: never(SLOTS), ..PLAIN },
        Scene { name: "the answer's id is another", model: Model { id: Id::Other, ..SLOTS }, ..PLAIN },
        Scene { name: "no id, deleted ones shown", model: BARE, ..PLAIN },
        Scene { name: "no id, deleted ones hidden", model: Model { soft: false, ..BARE }, ..PLAIN },
        Scene { name: "no id, never works", model: never(BARE), ..PLAIN },
        Scene { name: "no id, a foreign one", model: BARE, other: Other::Foreign, known: false, ..PLAIN },
        Scene { name: "no id, ends to the day", model: Model { ends: Ends::Rounded, ..BARE }, ..PLAIN },
        Scene { name: "no id, no ends", model: Model { ends: Ends::Hidden, ..BARE }, ..PLAIN },
        Scene { name: "ids, no names", model: Model { id: Id::Told, ends: Ends::Hidden, ..BARE }, ..PLAIN },
        Scene { name: "expired, slots full", emergency: true, other: Other::Foreign, ..PLAIN },
        Scene { name: "expired and gone", emergency: true, gone: true, ..PLAIN },
        Scene { name: "expired, no id", emergency: true, model: BARE, ..PLAIN },
        Scene { name: "in place", style: Style::Replace, ..PLAIN },
        Scene { name: "in place, slow", style: Style::Replace, model: slow, ..PLAIN },
        Scene { name: "in place, never", style: Style::Replace, model: never(SLOTS), ..PLAIN },
        Scene { name: "import", style: Style::Import, ..PLAIN },
        Scene { name: "import, never works", style: Style::Import, model: never(SLOTS), ..PLAIN },
    ]
}

fn policy(scene: &Scene) -> Policy {
    Policy {
        instance: "here".into(),
        slots: scene.model.slots,
        lifetime: Duration::from_secs(180 * DAY as u64),
        grace: Duration::from_secs(3600),
        times: 3,
        every: Duration::from_secs(60),
        settle: Duration::from_secs(120),
    }
}

fn begin(style: Style) -> Begin {
    match style {
        Style::Create => Begin::Create,
        Style::Replace => Begin::Replace(Secret::new(B.into())),
        Style::Import => Begin::Import(Held::new(&Secret::new(B.into()), None)),
    }
}

/// What goes wrong, and when.
#[derive(Clone, Debug, Default)]
struct Plan {
    faults: BTreeMap<usize, Fault>,
    /// Before or after a step is done.
    crashes: BTreeMap<usize, bool>,
}

struct Sim {
    scene: Scene,
    vendor: Vendor,
    rng: Rng,
    t: i64,
    /// The broker's clock less the vendor's.
    skew: i64,
    plan: Plan,
    store_fails: bool,
    durable: Vec<u8>,
    /// The same, read.
    record: Record,
    machine: Rotation,
    /// What arrives later: a creation or a replacement.
    late: Option<(i64, Action)>,
    step: usize,
    calls: usize,
    parks: usize,
    /// Each step, where it is to be shown.
    log: Option<Vec<String>>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Rotated,
    /// The old one serves, and a person was told.
    AsBefore,
    /// A person is asked, again and again.
    Parked,
}

impl Sim {
    fn new(scene: Scene, plan: Plan, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut vendor = Vendor::new(scene.model, rng.fork());
        let end = if scene.emergency { START - 2 * 3600 } else { START + 400 * DAY };
        let mut id = None;
        if !scene.gone && scene.style != Style::Import {
            id = Some(vendor.has(A, None, end, false)).filter(|_| scene.known);
        } else if scene.style == Style::Import {
            vendor.has(A, None, end, false);
            vendor.create("", START + 180 * DAY, START, false);
            vendor.made[1].value = B.into();
        } else {
            id = Some("id-gone".into());
        }
        match scene.other {
            Other::Nothing => {}
            Other::Foreign => drop(vendor.has("fff-foreign", None, START + 300 * DAY, true)),
            Other::Expired => drop(vendor.has("eee-expired", None, START - DAY, true)),
            Other::Orphan => drop(vendor.has("ooo-orphan", Some("tb/here/0001"), START + 90 * DAY, false)),
        }
        let record = Record::new(Held::new(&Secret::new(A.into()), id));
        let durable = serde_json::to_vec(&record).unwrap();
        let mut machine = Rotation::resume(policy(&scene), record.clone(), rng.fork());
        assert!(machine.begin(begin(scene.style), scene.emergency, Timestamp::from_second(START).unwrap()));
        let log = None;
        let (late, step, calls, parks) = (None, 0, 0, 0);
        let (t, skew, store_fails) = (START, 0, false);
        Self { scene, vendor, rng, t, skew, plan, store_fails, durable, record, machine, late, step, calls, parks, log }
    }

    fn fail(&self, what: &str) -> ! {
        let log = self.log.as_ref().map(|log| log.join("\n")).unwrap_or_default();
        std::panic::resume_unwind(Box::new(format!("{what}\n{log}")));
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.t + self.skew).unwrap()
    }

    /// What must hold at any instant, even if the process ends now.
    fn check(&self) {
        let record = &self.record;
        let works =
            |held: Option<&Held>, replica| held.is_some_and(|held| self.vendor.accepts(&value(held), replica, self.t));
        for replica in 0..REPLICAS {
            if !self.scene.emergency {
                if !works(Some(&record.old), replica) && !works(record.new.as_ref(), replica) {
                    self.fail("nothing that is held works");
                }
                let served = works(Some(record.serving()), replica);
                if !served && !works(record.fallback(self.now()), replica) {
                    self.fail("nothing that is used works");
                }
            }
        }
    }

    fn advance(&mut self, seconds: i64) {
        let until = self.t + seconds.max(1);
        while self.t < until {
            let slice = self.t + self.rng.i64(60..1200);
            let late = self.late.as_ref().map_or(i64::MAX, |(at, _)| (*at).max(self.t));
            self.t = slice.min(until).min(late);
            self.arrive();
            self.check();
            self.serve();
        }
    }

    fn arrive(&mut self) {
        if let Some((_, action)) = self.late.take_if(|(at, _)| *at <= self.t) {
            self.effect(&action);
        }
    }

    /// A request of the data path.
    fn serve(&mut self) {
        let (record, replica) = (&self.record, self.vendor.replica());
        let accepted = |held: &Held| self.vendor.accepts(&value(held), replica, self.t);
        if !accepted(record.serving()) && record.fallback(self.now()).is_some_and(accepted) {
            self.machine.on(Event::ServingRefused, self.now());
        }
    }

    fn restart(&mut self) {
        if let Some(log) = &mut self.log {
            log.push("crash".into());
        }
        self.store_fails = false;
        let pause = [0, 1, 30, 700, 4000][self.rng.usize(0..5)];
        let record = &self.record;
        // What was not even begun is begun again by whoever began it.
        let again = record.state == State::Stable && record.problem.is_none() && value(&record.old) == A;
        self.machine = Rotation::resume(policy(&self.scene), record.clone(), self.rng.fork());
        if again {
            self.machine.begin(begin(self.scene.style), self.scene.emergency, self.now());
        }
        self.advance(pause);
    }

    /// Does at the vendor what an action asks for.
    fn effect(&mut self, action: &Action) -> Event {
        let t = self.t;
        match action {
            Action::List => Event::Listed(self.vendor.list(t)),
            Action::Create { tag, expires } => match self.vendor.create(tag, expires.as_second(), t, false) {
                Some((id, value)) => Event::Created { id, secret: Secret::new(value) },
                None => Event::Failed(Failure::Refused("no slot".into())),
            },
            Action::Replace => {
                self.vendor.replace(B, t);
                Event::Replaced
            }
            Action::Verify(which) => {
                let record = self.machine.record();
                let held = if *which == Which::New { record.new.as_ref().unwrap() } else { &record.old };
                let (replica, value) = (self.vendor.replica(), value(held));
                if self.vendor.accepts(&value, replica, t) { Event::Accepted } else { Event::Refused }
            }
            Action::Delete { id } => {
                self.judge(id);
                if self.vendor.delete(id, t) {
                    Event::Deleted
                } else {
                    Event::Failed(Failure::Refused("unknown".into()))
                }
            }
            _ => self.fail("no call"),
        }
    }

    /// May that be deleted?
    fn judge(&self, id: &str) {
        let Some(one) = self.vendor.made.iter().find(|one| one.id == id && one.lives(self.t)) else { return };
        if one.foreign && !one.given_up {
            self.fail(&format!("{id} is foreign, and deleted"));
        }
        let record = &self.record;
        if value(record.serving()) == one.value {
            self.fail(&format!("{id} is in use, and deleted"));
        }
        if record.fallback(self.now()).is_some_and(|held| value(held) == one.value) {
            self.fail(&format!("{id} is the fallback, and deleted"));
        }
    }

    /// What is changed at the vendor stands in the durable record before.
    fn check_intent(&self, action: &Action) {
        let durable: serde_json::Value = serde_json::from_slice(&self.durable).unwrap();
        let fine = match action {
            Action::Create { tag, .. } => {
                durable["state"] == "Creating"
                    && durable["marks"].as_array().unwrap().iter().any(|mark| mark["tag"] == tag.as_str())
            }
            Action::Replace => durable["state"] == "Creating" && !durable["new"].is_null(),
            // What could not be saved is cleaned up by the record before.
            Action::Delete { id } => durable["doomed"] == id.as_str() || durable["state"] == "Creating",
            _ => true,
        };
        if !fine {
            self.fail("the intent is not durable");
        }
    }

    fn call(&mut self, action: &Action, fault: Fault) -> Event {
        self.calls += 1;
        self.check_intent(action);
        let takes = self.rng.i64(0..5);
        self.t += takes;
        let changes = matches!(action, Action::Create { .. } | Action::Replace);
        match fault {
            Fault::Lost => Event::Failed(Failure::Lost),
            Fault::AnswerLost => {
                self.effect(action);
                self.t += 10;
                Event::Failed(Failure::Lost)
            }
            Fault::Late if changes && self.late.is_none() => {
                self.late = Some((self.t + self.rng.i64(1..60), action.clone()));
                Event::Failed(Failure::Lost)
            }
            Fault::Late => Event::Failed(Failure::Lost),
            Fault::NotSent => Event::Failed(Failure::NotSent),
            Fault::Busy => Event::Failed(Failure::Busy(Duration::from_secs(self.rng.u64(1..500)))),
            Fault::Refused if matches!(action, Action::Verify(_)) => Event::Refused,
            Fault::Refused => Event::Failed(Failure::Refused("no".into())),
            Fault::AdminExpired => Event::Failed(Failure::AdminExpired),
            _ => self.effect(action),
        }
    }

    /// What an operator does who knows the truth.
    fn operator(&mut self, asks: Option<Asks>) {
        let held: Vec<_> =
            [Some(&self.record.old), self.record.new.as_ref()].into_iter().flatten().map(value).collect();
        self.advance(600);
        self.store_fails = false;
        let t = self.t;
        let mut made = self.vendor.made.iter_mut().filter(|one| one.deleted.is_none());
        let event = match asks {
            Some(Asks::Current) => made.find(|one| one.value == A).map(|one| Event::Chosen(one.id.clone())),
            Some(Asks::Room) => made.find(|one| one.foreign).map(|one| {
                one.given_up = true;
                Event::Chosen(one.id.clone())
            }),
            Some(Asks::Ours) => made
                .find(|one| !one.foreign && !held.contains(&one.value) && one.lives(t))
                .map(|one| Event::Chosen(one.id.clone())),
            None => None,
        };
        self.machine.on(event.unwrap_or(Event::Resume), self.now());
    }

    fn run(mut self) -> (End, usize) {
        let end = loop {
            self.step += 1;
            if self.step > STEPS_MAX || self.calls > CALLS_MAX {
                self.fail("it does not end");
            }
            self.arrive();
            self.check();
            let mut fault = self.plan.faults.get(&self.step).copied().unwrap_or(Fault::None);
            let crash = self.plan.crashes.get(&self.step).copied();
            match fault {
                Fault::StoreFails => self.store_fails = true,
                Fault::Foreign => drop(self.vendor.create("by hand", START + self.rng.i64(1..99) * DAY, self.t, true)),
                Fault::ClockBack => self.skew -= 2 * 3600,
                Fault::ClockAhead => self.skew += 1800,
                _ => {}
            }
            let action = self.machine.next(self.now());
            let state = self.machine.record().state.clone();
            if let Some(log) = &mut self.log {
                log.push(format!("{} +{} {state:?}: {action:?} {fault:?} {crash:?}", self.step, self.t - START));
            }
            if crash == Some(false) {
                self.restart();
                continue;
            }
            if self.store_fails {
                fault = if action == Action::Save { Fault::SaveFails } else { fault };
            }
            let event = match &action {
                Action::Wait(until) => {
                    self.advance(until.as_second() - self.t - self.skew);
                    None
                }
                Action::Save if fault == Fault::SaveFails => Some(Event::SaveFailed),
                Action::Save => {
                    self.durable = serde_json::to_vec(self.machine.record()).unwrap();
                    self.record = serde_json::from_slice(&self.durable).unwrap();
                    Some(Event::Saved)
                }
                Action::Swap => Some(Event::Swapped),
                Action::Done => break End::Rotated,
                Action::Park(problem) => {
                    assert!(!problem.why.is_empty() && !problem.what_to_do.is_empty());
                    self.parks += 1;
                    let durable = &self.record;
                    if durable.state == State::Stable && state == State::Stable && durable.problem.is_some() {
                        break End::AsBefore;
                    }
                    if self.parks > PARKS_MAX {
                        break End::Parked;
                    }
                    self.operator(problem.asks);
                    None
                }
                call => Some(self.call(call, fault)),
            };
            if crash == Some(true) {
                self.restart();
            } else if let Some(event) = event {
                self.machine.on(event, self.now());
            }
        };
        self.at_the_end(end)
    }

    fn at_the_end(mut self, end: End) -> (End, usize) {
        self.advance(7200);
        let record = &self.record;
        let held: Vec<_> = [Some(&record.old), record.new.as_ref()].into_iter().flatten().map(value).collect();
        let t = self.t;
        let lost = self.vendor.made.iter().find(|one| !one.foreign && one.lives(t) && !held.contains(&one.value));
        let old_left = lost.is_some_and(|one| one.value == A);
        match (&end, lost) {
            // It has no id to delete it by, and none was asked for.
            (_, Some(_)) if self.scene.style != Style::Create => {}
            (End::Rotated | End::AsBefore, Some(one)) => self.fail(&format!("{} is left behind, {old_left}", one.id)),
            _ => {}
        }
        let serving = value(record.serving());
        match end {
            End::Rotated if serving == A => self.fail("nothing was rotated"),
            End::Rotated => {
                if (0..REPLICAS).any(|replica| !self.vendor.accepts(&serving, replica, t)) {
                    self.fail("what serves does not work");
                }
            }
            End::AsBefore if serving != A => self.fail("it is not as before"),
            End::AsBefore | End::Parked => {}
        }
        (end, self.step)
    }
}

fn value(held: &Held) -> String {
    held.secret().expose().to_owned()
}

/// `Err`: what went wrong, with the seed and every step; the first of each scene is shown.
fn tried(scene: Scene, plan: &Plan, seed: u64) -> Result<(End, usize), String> {
    let run = |log| {
        let mut sim = Sim::new(scene, plan.clone(), seed);
        sim.log = log;
        std::panic::catch_unwind(AssertUnwindSafe(|| sim.run()))
    };
    run(None).map_err(|_| {
        let why = run(Some(vec![format!("{scene:?} {plan:?} seed {seed}")])).unwrap_err();
        why.downcast::<String>().map_or_else(|_| format!("{scene:?} {plan:?} seed {seed}"), |why| *why)
    })
}

#[test]
fn every_crash_with_every_fault_loses_nothing_deletes_nothing_foreign_and_ends() {
    let mut ends = BTreeMap::<(&str, End), usize>::new();
    let (mut runs, mut failures) = (0, Vec::new());
    for scene in scenes() {
        let (_, steps) = Sim::new(scene, Plan::default(), 0).run();
        let (mut failed, steps) = (None, steps.min(STEPS_TRIED));
        // Each fault at each step, without a crash and with one somewhere.
        for step in 1..=(steps + 1).min(STEPS_TRIED) {
            for (index, fault) in FAULTS.into_iter().enumerate() {
                for after in [false, true] {
                    let seed = (step * 100 + index * 2 + usize::from(after)) as u64;
                    let mut rng = Rng::with_seed(seed);
                    let plan = |crash: Option<usize>, fault_at| Plan {
                        faults: BTreeMap::from([(fault_at, fault)]),
                        crashes: crash.map(|at| (at, after)).into_iter().collect(),
                    };
                    let plans = [
                        plan(None, step),
                        // The crash with the fault, and with one a little or long before or after.
                        plan(Some(step), step),
                        plan(Some(step), step + rng.usize(1..4)),
                        plan(Some(step), rng.usize(1..=steps + 4)),
                    ];
                    for plan in plans {
                        let (end, _) = match tried(scene, &plan, seed) {
                            Ok(end) => end,
                            Err(why) => {
                                failed.get_or_insert(why);
                                continue;
                            }
                        };
                        *ends.entry((scene.name, end)).or_default() += 1;
                        runs += 1;
                    }
                }
            }
        }
        failures.extend(failed);
        println!("{} steps, {runs} runs so far: {}", steps, scene.name);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    println!("{runs} runs: {ends:#?}");
    assert!(runs > 10_000, "{runs}");
}

#[test]
fn many_crashes_and_faults_in_one_rotation_do_no_more_harm_than_one() {
    let mut ends = BTreeMap::<(&str, End), usize>::new();
    let mut failures = BTreeMap::new();
    for seed in 0..SEEDS {
        for scene in scenes() {
            let mut rng = Rng::with_seed(seed);
            let mut plan = Plan::default();
            for step in 1..80 {
                if rng.u8(0..100) < 12 && plan.faults.len() < 12 {
                    plan.faults.insert(step, FAULTS[rng.usize(0..FAULTS.len())]);
                }
                if rng.u8(0..100) < 8 && plan.crashes.len() < 6 {
                    plan.crashes.insert(step, rng.bool());
                }
            }
            match tried(scene, &plan, seed) {
                Ok((end, _)) => *ends.entry((scene.name, end)).or_default() += 1,
                Err(why) => drop(failures.entry(scene.name).or_insert(why)),
            }
        }
    }
    let failures: Vec<_> = failures.into_values().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    println!("{ends:#?}");
}
