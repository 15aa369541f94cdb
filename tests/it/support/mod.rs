//! What the tests share: the broker as a process, a raw client, a raw upstream, stand-ins on a runtime of their own.

mod broker;
mod browser;
mod buffered;
mod client;
mod gate;
mod redis;
mod stand;
mod upstream;

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

pub use self::redis::{RedisServer, answering};
pub use broker::{ADMIN_KEY, Broker, binary, in_namespace, run_to_end, through, write};
pub use browser::Browser;
pub use buffered::Buffered;
pub use client::{Reply, Wire, call, exchange};
pub use gate::{Gate, Way};
pub use stand::{HOUR, Setup, Stand, issuer};
pub use upstream::{Action, RawRequest, Upstream};

/// Where stand-ins live.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Long enough for a slow machine; a test that waits for this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Waits until `what` holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Is the program there? A missing part is skipped with a notice, unless `TOKENBROKER_TEST_REQUIRE` names it.
pub fn has(part: &str) -> bool {
    let there = match part {
        "static" => std::env::var_os("TOKENBROKER_TEST_STATIC").is_some_and(|path| Path::new(&path).exists()),
        "oidc-provider" => {
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/idp/node_modules/oidc-provider")).exists()
        }
        "requests-suite" => {
            let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
            ["venv/bin/websockets", "peers/requirements.txt"].iter().all(|path| Path::new(target).join(path).exists())
        }
        "prometheus-client" => {
            let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/lib");
            let mut pythons = std::fs::read_dir(lib).into_iter().flatten().flatten();
            pythons.any(|python| python.path().join("site-packages/prometheus_client").exists())
        }
        "root" => rustix::process::geteuid().is_root(),
        program => in_path(program),
    };
    let required = std::env::var("TOKENBROKER_TEST_REQUIRE").unwrap_or_default();
    assert!(there || !required.split(',').any(|name| name == part), "{part} is required, and missing");
    if !there {
        println!("skipped: {part} is not here");
    }
    there
}

fn in_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// How much of something a test does: `TOKENBROKER_TEST_NAME`, which `tests/soak` sets, or so much.
pub fn size(name: &str, otherwise: usize) -> usize {
    let name = format!("TOKENBROKER_TEST_{name}");
    std::env::var(&name).map_or(otherwise, |size| size.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Runs a program to its end; its stdout. It must succeed.
#[track_caller]
pub fn output(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{shown}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// A route `api` to that upstream, with the static token `the-token`, and further keys of the route.
pub fn static_route(upstream: &Upstream, keys: &str) -> String {
    format!(
        "[token.api]\ngrant = \"static\"\naccess_token = \"the-token\"\n\
         [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n{keys}\n",
        upstream.url()
    )
}

/// A broker with that route, its token obtained.
pub fn with_static_token(upstream: &Upstream, keys: &str) -> Broker {
    let broker = Broker::start(&static_route(upstream, keys));
    broker.wait_for_state("api", "valid");
    broker
}
