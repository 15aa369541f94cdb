use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::door::free_port;
use crate::exchange::OAuth;
use crate::support::{Broker, HOUR, PATIENCE, Reply, Upstream, Wire, binary, eventually, has, output, static_route};
use crate::support::{call, through, write};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The next message of the broker, as its lines.
fn told(manager: &UnixDatagram) -> Vec<String> {
    let mut bytes = [0; 4096];
    let length = manager.recv(&mut bytes).unwrap();
    std::str::from_utf8(&bytes[..length]).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn systemd_is_told_of_the_start_of_each_reload_and_of_the_end() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let name = format!("tokenbroker-test-{}", std::process::id());
    let hidden = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let managers = [
        (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
        (UnixDatagram::bind_addr(&hidden).unwrap(), format!("@{name}")),
    ];
    for (manager, address) in managers {
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let upstream = Upstream::ok();
        let config = static_route(&upstream, "");
        let mut broker = Broker::start_in(tempfile::tempdir().unwrap(), &config, |command| {
            command.env("NOTIFY_SOCKET", &address);
        });
        assert_eq!(told(&manager), ["READY=1", "STATUS=1 route, 1 token"]);

        broker.reconfigure(&config.replace("[route.api]", "[route.api]\ntoken_wait = \"4s\""));
        assert_eq!(broker.reload().0, 0);
        let began = told(&manager);
        assert_eq!(began[0], "RELOADING=1");
        let at: u64 = began[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(at > 0);
        assert_eq!(told(&manager), ["READY=1", "STATUS=1 route, 1 token"]);

        broker.reconfigure(&config.replace("upstream", "up_stream"));
        assert_eq!(broker.reload().0, 78, "what was running goes on");
        assert_eq!(told(&manager)[0], "RELOADING=1");
        let refused = told(&manager);
        assert_eq!((refused.len(), refused[0].as_str()), (2, "READY=1"), "{refused:?}");
        assert!(refused[1].contains("not in force: ") && refused[1].contains("up_stream"), "{refused:?}");

        let wrong: String = (0..500).map(|n| format!("no_such_key_{n} = 1\n")).collect();
        broker.reconfigure(&format!("{config}{wrong}"));
        assert_eq!(broker.reload().0, 78);
        assert_eq!(told(&manager)[0], "RELOADING=1");
        let refused = told(&manager);
        assert_eq!((refused.len(), refused[0].as_str()), (2, "READY=1"), "however much is wrong: {refused:?}");
        assert!(refused.concat().len() < 4000, "longer ones systemd drops");

        assert_eq!(broker.stop().code(), Some(0));
        assert_eq!(told(&manager), ["STOPPING=1", "STATUS=draining after SIGTERM"]);
    }
}

#[test]
fn a_service_manager_that_is_gone_stops_nothing() {
    let upstream = Upstream::ok();
    let mut broker = Broker::start_in(tempfile::tempdir().unwrap(), &static_route(&upstream, ""), |command| {
        command.env("NOTIFY_SOCKET", "/nowhere/notify");
    });
    broker.wait_for_state("api", "valid");
    broker.logs("the service manager could not be told: READY=1");
    assert_eq!(broker.stop().code(), Some(0));
}

/// Hands these sockets over, as systemd does: the descriptors from 3 on, and their names.
fn hand_over(command: &mut Command, names: &str, first: OwnedFd, second: Option<OwnedFd>) {
    let count = 1 + usize::from(second.is_some());
    let inherit = if second.is_some() { "3<&0 4<&1" } else { "3<&0" };
    let script = format!(
        "export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; exec \"$@\" {inherit} </dev/null >/dev/null"
    );
    through(command, &["sh", "-c", &script, "sh"]);
    command.stdin(first);
    if let Some(second) = second {
        command.stdout(second);
    }
}

/// A listener of ours, as systemd would have it.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A route to that upstream at that address, with a secret that a command prints.
fn route(upstream: &Upstream, listen: &str, secret: &str) -> String {
    format!(
        "[token.api]\ngrant = \"static\"\naccess_token = {secret}\n\
         [route.api]\nlisten = \"{listen}\"\nupstream = \"{}\"\n",
        upstream.url()
    )
}

#[test]
fn a_restart_with_sockets_of_systemd_refuses_no_connection() {
    let upstream = Upstream::ok();
    let (held, address) = listener();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("api.sock");
    let held_unix = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let listen = format!("{address}\", \"unix:{}", path.display());
    let config =
        route(&upstream, &listen, "\"the-token\"").replace("listen = ", "listen = [").replace(".sock\"", ".sock\"]");
    let start = || {
        let broker = Broker::start_in(tempfile::tempdir().unwrap(), &config, |command| {
            let [first, second] = [held.try_clone().unwrap().into(), held_unix.try_clone().unwrap().into()];
            hand_over(command, "web:local", first, Some(second));
        });
        broker.wait_for_state("api", "valid");
        broker
    };
    let mut broker = start();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut wire = Wire::open(address);
                    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                    let reply: Reply = wire.reply("GET").unwrap();
                    assert_eq!(reply.status, 200);
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for round in 1..=3 {
        let before = upstream.requests().len();
        eventually("requests are served", || upstream.requests().len() > before + 20);
        assert_eq!(broker.stop().code(), Some(0), "round {round}");
        assert!(path.exists(), "the file is systemd's");
        broker = start();
    }
    stop.store(true, Ordering::Relaxed);
    let answers: Vec<usize> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(answers.iter().all(|answers| *answers > 0), "{answers:?}");
    let mut curl = Command::new("curl");
    if has("curl") {
        curl.args(["-sS", "--max-time", "10", "-w", "%{http_code}", "--unix-socket"]).arg(&path);
        assert_eq!(output(curl.arg("http://localhost/")), "200");
    }
}

#[test]
fn systemds_own_way_to_hand_a_socket_over_starts_a_broker_that_answers_whoever_woke_it() {
    if !has("systemd-socket-activate") {
        return;
    }
    let upstream = Upstream::ok();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let directory = tempfile::tempdir().unwrap();
    let config = route(&upstream, &listen, "\"the-token\"");
    let file = write(directory.path(), "tokenbroker.toml", format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}"));
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &listen]).arg(binary().get_program()).arg("-c").arg(file).arg("run");
    // It becomes the broker.
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = None;
    eventually("systemd listens", || {
        first = std::net::TcpStream::connect(&listen).ok();
        first.is_some()
    });
    assert_eq!(call(listen.parse().unwrap(), "GET", "/", &[], b"").status, 200);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    eventually("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn commands_that_print_secrets_get_nothing_that_systemd_gave_the_broker() {
    let upstream = Upstream::ok();
    let (held, address) = listener();
    let manager = tempfile::tempdir().unwrap();
    let socket = manager.path().join("notify");
    let _notify = UnixDatagram::bind(&socket).unwrap();
    let seen = manager.path().join("seen");
    let script = format!("(env; ls -l /proc/self/fd) > {}; printf the-token", seen.display());
    let secret = format!("{{ exec = [\"sh\", \"-c\", {script:?}] }}");
    let broker =
        Broker::start_in(tempfile::tempdir().unwrap(), &route(&upstream, &address.to_string(), &secret), |command| {
            hand_over(command, "web", held.try_clone().unwrap().into(), None);
            command.env("NOTIFY_SOCKET", &socket);
        });
    broker.wait_for_state("api", "valid");
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("PATH="), "{seen}");
    for name in ["LISTEN_", "NOTIFY_SOCKET", "socket:"] {
        assert!(!seen.contains(name), "{name}: {seen}");
    }
}

/// How `run` ends with this socket handed over: exit status and stderr.
fn refused(config: &str, names: &str, socket: OwnedFd) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "tokenbroker.toml", format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}"));
    let mut command = binary();
    command.arg("-c").arg(&file).arg("run");
    hand_over(&mut command, names, socket, None);
    let mut child = command.spawn().unwrap();
    let mut ended = None;
    eventually("it is refused", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (ended.unwrap().code(), stderr)
}

#[test]
fn a_socket_that_is_no_listeners_and_one_that_is_open_to_others_are_errors_that_name_it() {
    let upstream = Upstream::ok();
    let config = static_route(&upstream, "");
    let (held, address) = listener();
    let (code, stderr) = refused(&config, "tokenbroker.socket", held.into());
    let words =
        format!("tokenbroker.socket: the service manager listens on {address}, and nothing of this configuration does");
    assert!(code == Some(1) && stderr.contains(&words), "{stderr}");

    for (names, name) in [("tokenbroker.socket", "tokenbroker.socket: "), (":web", "descriptor 3: ")] {
        let (code, stderr) = refused(&config, names, UdpSocket::bind("127.0.0.1:0").unwrap().into());
        assert!(code == Some(1) && stderr.contains(name) && stderr.contains("Accept=no"), "{stderr}");
    }

    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("api.sock");
    let held = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let config = config.replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let open = || {
        let (code, stderr) = refused(&config, "tokenbroker.socket", held.try_clone().unwrap().into());
        assert!(code == Some(1) && stderr.contains("tokenbroker.socket: other users can connect to unix:"), "{stderr}");
    };
    open();
    // One that another user owns; only root can give a file away.
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        open();
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    }

    // Where each route says who may, the mode of the file is not what keeps others out.
    let config = format!("{config}clients = {{ uids = [0, 65534] }}\n");
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), &config, |command| {
        hand_over(command, "local", held.into(), None);
    });
    broker.wait_for_state("api", "valid");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666, "and is left as it is");
}

#[test]
fn a_reload_that_leaves_a_socket_of_systemd_without_a_listener_changes_nothing() {
    let upstream = Upstream::ok();
    let (held, address) = listener();
    let config = route(&upstream, &address.to_string(), "\"the-token\"");
    let mut broker = Broker::start_in(tempfile::tempdir().unwrap(), &config, |command| {
        hand_over(command, "web", held.try_clone().unwrap().into(), None);
    });
    broker.wait_for_state("api", "valid");
    broker.reconfigure(&config.replace(&address.to_string(), "127.0.0.1:0"));
    let (code, _, stderr) = broker.reload();
    assert!(code == 78 && stderr.contains(&format!("web: the service manager listens on {address}")), "{stderr}");
    assert_eq!(broker.get("api", "/").status, 200);
}

#[test]
fn sockets_for_another_process_are_not_taken() {
    let upstream = Upstream::ok();
    let mut broker = Broker::start_in(tempfile::tempdir().unwrap(), &static_route(&upstream, ""), |command| {
        command.env("LISTEN_PID", "1").env("LISTEN_FDS", "2").stdin(Stdio::null());
    });
    broker.wait_for_state("api", "valid");
    assert_eq!((broker.get("api", "/").status, broker.stop().code()), (200, Some(0)));
}

fn unit() -> String {
    std::fs::read_to_string(format!("{ROOT}/examples/systemd/tokenbroker.service")).unwrap()
}

/// What the unit says of one of its keys, in order.
fn values(key: &str) -> Vec<String> {
    let start = format!("{key}=");
    let values: Vec<_> = unit().lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect();
    assert!(!values.is_empty(), "{key}");
    values
}

#[test]
fn the_units_are_valid_and_give_the_broker_little() {
    if !has("systemd-analyze") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let program = binary().get_program().to_str().unwrap().to_owned();
    for name in ["tokenbroker.service", "tokenbroker.socket"] {
        let text = std::fs::read_to_string(format!("{ROOT}/examples/systemd/{name}")).unwrap();
        std::fs::write(place.path().join(name), text.replace("/usr/local/bin/tokenbroker", &program)).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        let done = Command::new("systemd-analyze").args(arguments).current_dir(place.path()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {said}");
        said
    };
    // Nothing but silence is good.
    assert_eq!(analyze(&["verify", "--man=no", "./tokenbroker.service", "./tokenbroker.socket"]), "");
    let said = analyze(&["security", "--no-pager", "--offline=true", "--threshold=20", "./tokenbroker.service"]);
    let score = said.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    println!("{score}");
}

#[test]
fn the_configuration_beside_the_units_has_their_paths_and_credentials() {
    let text = std::fs::read_to_string(format!("{ROOT}/examples/systemd/tokenbroker.toml")).unwrap();
    let sockets = std::fs::read_to_string(format!("{ROOT}/examples/systemd/tokenbroker.socket")).unwrap();
    let config: toml::Table = text.parse().unwrap();
    let credentials: BTreeSet<_> =
        text.split("credential = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let loaded = values("LoadCredential");
    assert_eq!(credentials, loaded.iter().map(|value| value.split(':').next().unwrap()).collect());
    assert_eq!(config["store"]["path"].as_str(), Some("/var/lib/tokenbroker"));
    assert_eq!(
        (values("StateDirectory"), values("RuntimeDirectory")),
        (vec!["tokenbroker".into()], vec!["tokenbroker".into()])
    );
    let streams = sockets.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect::<Vec<_>>();
    assert_eq!(streams, [config["route"]["api"]["listen"].as_str().unwrap()]);
}

/// The system calls of a filter of systemd, those of the sets that it names included.
fn calls(sets: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for set in sets.split_whitespace() {
        if !set.starts_with('@') {
            all.insert(set.to_owned());
            continue;
        }
        let listed = output(Command::new("systemd-analyze").args(["syscall-filter", set]));
        let inside = listed.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| !line.starts_with('#'));
        inside.for_each(|name| all.extend(calls(name)));
    }
    all
}

#[test]
fn the_broker_needs_nothing_that_the_unit_forbids() {
    let trace = ["strace", "-D", "-f", "-qq", "-o"];
    if !has("systemd-analyze") || crate::store::injecting("fsync").is_none() {
        return;
    }
    let mut allowed = BTreeSet::new();
    for filter in values("SystemCallFilter") {
        match filter.strip_prefix('~') {
            Some(without) => allowed = &allowed - &calls(without),
            None => allowed.extend(calls(&filter)),
        }
    }
    assert!(allowed.len() > 100 && !allowed.contains("mount") && !allowed.contains("setuid"), "{allowed:?}");

    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    let traced = directory.path().join("trace");
    write(directory.path(), "key", "a secret of thirty-two characters");
    let store = "[store]\nkind = \"file\"\npath = \"store\"\nkey = { exec = [\"cat\", \"key\"] }\n";
    let config = format!("probes = \"127.0.0.1:0\"\n{store}{}", oauth.config("", "clients = { uids = [0] }"));
    let socket = directory.path().join("notify");
    let _manager = UnixDatagram::bind(&socket).unwrap();
    let inside = directory.path().to_owned();
    let mut broker = Broker::start_in(directory, &config, |command| {
        through(command, &[&trace[..], &[traced.to_str().unwrap()]].concat());
        command.current_dir(inside).env("NOTIFY_SOCKET", &socket);
    });
    broker.wait_for_state("api", "valid");
    assert_eq!(broker.request("api", "POST", "/", &[], &[b'x'; 300_000]).status, 200);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    broker.signal(Signal::HUP);
    broker.logs("reloaded");
    assert_eq!(broker.stop().code(), Some(0));
    let mut text = String::new();
    eventually("the trace is whole", || {
        text = std::fs::read_to_string(&traced).unwrap();
        text.contains("exit_group(0)")
    });
    let families: Vec<_> = values("RestrictAddressFamilies")[0].split(' ').map(str::to_owned).collect();
    let mut made = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line.trim_start()) {
        let Some((name, arguments)) =
            line.split_once('(').filter(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        else {
            continue;
        };
        assert!(allowed.contains(name), "the unit forbids {line}");
        assert!(
            !(arguments.contains("PROT_WRITE") && arguments.contains("PROT_EXEC")),
            "MemoryDenyWriteExecute: {line}"
        );
        assert!(!(name.ends_with("protect") && arguments.contains("PROT_EXEC")), "MemoryDenyWriteExecute: {line}");
        if name == "socket" {
            let family = arguments.split(',').next().unwrap();
            assert!(families.iter().any(|allowed| allowed == family), "RestrictAddressFamilies: {line}");
            made.insert(family.to_owned());
        }
    }
    assert!(made.len() >= 3, "the trace shows what it is about: {made:?}");
}
