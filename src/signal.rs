//! Signals: the first SIGTERM or SIGINT asks to drain, the second ends at once; SIGHUP asks to reload. Beside a command, all
//! of them are the command's.

use std::ffi::c_int;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use rustix::process;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::{SignalOnly, WithRawSiginfo};
use signal_hook::low_level;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;

/// After a signal that ends something, so long a further one is the same: `timeout` sends it to a process, and to its group.
const SAME: Duration = Duration::from_millis(250);

/// Who says when a broker ends, and when it reads its configuration again.
pub trait Asks {
    /// The next that is asked for.
    fn next(&mut self) -> impl Future<Output = Asked>;
    /// The next that asks to stop; one that asks to reload stays pending.
    fn stop(&mut self) -> impl Future<Output = Stop>;
}

/// Listens from the moment it is made.
pub struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
    last: Last,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Stop(Stop),
    Reload,
}

/// Why a broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal of that name.
    Signal(&'static str),
    /// What it ran beside has ended.
    Done,
}

impl Signals {
    /// Must be made inside a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            last: Last::default(),
        })
    }
}

/// The last that ended something.
#[derive(Default)]
struct Last(Option<Instant>);

impl Last {
    /// Is this another one?
    fn counts(&mut self, signal: &str) -> bool {
        let now = Instant::now();
        let counts = self.0.is_none_or(|last| now.duration_since(last) >= SAME);
        if counts {
            self.0 = Some(now);
        } else {
            debug!(signal, "the same as the one before");
        }
        counts
    }
}

impl Asks for Signals {
    async fn next(&mut self) -> Asked {
        tokio::select! {
            stop = stopped(&mut self.term, &mut self.interrupt, &mut self.last) => Asked::Stop(stop),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) -> Stop {
        stopped(&mut self.term, &mut self.interrupt, &mut self.last).await
    }
}

async fn stopped(term: &mut Signal, interrupt: &mut Signal, last: &mut Last) -> Stop {
    loop {
        let name = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if last.counts(name) {
            return Stop::Signal(name);
        }
    }
}

/// What is told to a broker by whoever takes the signals in its place.
pub struct Told(pub mpsc::Receiver<Stop>);

impl Asks for Told {
    async fn next(&mut self) -> Asked {
        Asked::Stop(self.stop().await)
    }

    async fn stop(&mut self) -> Stop {
        match self.0.recv().await {
            Some(stop) => stop,
            None => std::future::pending().await,
        }
    }
}

/// Those that are passed on, and whether each ends what has not begun yet.
const PASSED: [(process::Signal, &str, bool); 7] = [
    (process::Signal::HUP, "SIGHUP", true),
    (process::Signal::INT, "SIGINT", true),
    (process::Signal::QUIT, "SIGQUIT", true),
    (process::Signal::TERM, "SIGTERM", true),
    (process::Signal::USR1, "SIGUSR1", false),
    (process::Signal::USR2, "SIGUSR2", false),
    (process::Signal::WINCH, "SIGWINCH", false),
];

/// `si_code` of a signal that no process sent: a key of the terminal, which sends it to all of its foreground (sigaction(2)).
const SI_KERNEL: i32 = 0x80;
/// That came and nobody looked at yet.
const PENDING_MAX: usize = 16;

/// A signal, for whoever passes it on.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    pub signal: process::Signal,
    pub name: &'static str,
    /// Does it end what has not begun yet?
    pub ends: bool,
    /// Did the kernel send it, to everybody of the terminal's foreground?
    pub to_all: bool,
}

/// Every signal that can be passed on, from the moment it is made.
pub struct Passed {
    came: mpsc::Receiver<Came>,
    last: Last,
}

impl Passed {
    /// Signals that are ignored, as `nohup` has it, stay so, also for what is started.
    pub fn new() -> io::Result<Self> {
        let ignored = ignored();
        let wanted = PASSED.iter().map(|(signal, ..)| signal.as_raw()).filter(|n| ignored >> (n - 1) & 1 == 0);
        let mut signals = SignalsInfo::<WithRawSiginfo>::new(wanted)?;
        let (sender, receiver) = mpsc::channel(PENDING_MAX);
        let pass = move || {
            for info in &mut signals {
                let known = PASSED.into_iter().find(|(signal, ..)| signal.as_raw() == info.si_signo);
                let Some((signal, name, ends)) = known else { continue };
                let came = Came { signal, name, ends, to_all: info.si_code == SI_KERNEL };
                if sender.blocking_send(came).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(pass)?;
        Ok(Self { came: receiver, last: Last::default() })
    }

    /// The next one.
    pub async fn next(&mut self) -> Came {
        match self.came.recv().await {
            Some(came) => came,
            None => std::future::pending().await,
        }
    }

    /// The next one that ends what has not begun yet; the others before it are dropped.
    pub async fn end(&mut self) -> Came {
        loop {
            let came = self.next().await;
            if came.ends && self.last.counts(came.name) {
                return came;
            }
        }
    }

    /// What they were for has ended: one that still comes may be what ended it.
    pub fn ended(&mut self) {
        self.last = Last(Some(Instant::now()));
    }
}

/// Those that end a process, and that this one was not told to ignore.
pub fn ending() -> impl Iterator<Item = i32> {
    let ignored = ignored();
    let ending = PASSED.into_iter().filter(|(_, _, ends)| *ends).map(|(signal, ..)| signal.as_raw());
    ending.filter(move |n| ignored >> (n - 1) & 1 == 0)
}

/// Something is being finished, as long as this lives: the first signal is only told, the second ends the process at once,
/// whatever it does. Before and after it, the first does.
pub struct Finishing(watch::Receiver<Option<c_int>>);

impl Finishing {
    /// One at a time. Signals that are ignored, as `nohup` has it, stay so.
    pub fn new() -> io::Result<Self> {
        static LISTENS: OnceLock<io::Result<()>> = OnceLock::new();
        LISTENS.get_or_init(listen).as_ref().map_err(io::Error::kind)?;
        FINISHING.lives.store(true, Ordering::SeqCst);
        Ok(Self(FINISHING.asked.subscribe()))
    }

    /// The number of the first signal.
    pub async fn asked(&mut self) -> c_int {
        match self.0.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(number)) => *number,
            _ => std::future::pending().await,
        }
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        FINISHING.lives.store(false, Ordering::SeqCst);
    }
}

/// What the thread that takes the signals shares with what is finished.
struct Shared {
    lives: AtomicBool,
    /// The first signal.
    asked: watch::Sender<Option<c_int>>,
}

static FINISHING: LazyLock<Shared> =
    LazyLock::new(|| Shared { lives: AtomicBool::new(false), asked: watch::Sender::new(None) });

/// A thread takes them, for as long as the process lives: nothing else holds it up.
fn listen() -> io::Result<()> {
    let mut signals = SignalsInfo::<SignalOnly>::new(ending())?;
    let take = move || {
        let mut last = Last::default();
        for number in &mut signals {
            let first = FINISHING.asked.borrow().is_none();
            if !FINISHING.lives.load(Ordering::SeqCst) || (last.counts("to end") && !first) {
                end(number);
            }
            if first {
                FINISHING.asked.send_replace(Some(number));
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(take).map(drop)
}

/// Ends the process with the status that a shell gives one that such a signal has ended.
pub fn end(number: c_int) -> ! {
    low_level::exit(128 + number)
}

/// A bit for each signal that this process was told to ignore, the first for signal 1 (proc(5)).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
