use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokenbroker::clock::Clock;
use tokenbroker::standin::pki::{Clients, Leaf, Pki};
use tokenbroker::standin::{Echo, Fault, Issuer, Server};

use crate::exchange::OAuth;
use crate::support::{ADMIN_KEY, Action, Broker, RUNTIME, Upstream, Wire, eventually, static_route, write};

const HOUR: Duration = Duration::from_secs(3600);

/// Clients that ask one route without pause, each over a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(broker: &Broker, route: &str, clients: usize) -> Self {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let address = broker.address(route);
        let client = |_| {
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            std::thread::spawn(move || {
                let mut wire = Wire::open(address);
                while !stop.load(Ordering::Relaxed) {
                    wire.send("GET /load HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    let reply = wire.reply("GET").unwrap_or_else(|| panic!("the connection was closed"));
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    good.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, good, clients }
    }

    /// How many requests were answered; none was answered badly.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        self.good.load(Ordering::Relaxed)
    }
}

fn reloads(broker: &Broker, outcome: &str) -> u64 {
    let start = format!("tokenbroker_config_reloads_total{{outcome=\"{outcome}\"}} ");
    let text = broker.admin("GET", "/metrics").text();
    text.lines().find_map(|line| line.strip_prefix(start.as_str())).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn a_changed_configuration_is_applied_by_its_difference_and_no_request_fails() {
    let (oauth, upstream) = (OAuth::start(HOUR), Upstream::ok());
    let unchanged = oauth.config("", "");
    let other = |route: &str, keys: &str| static_route(&upstream, keys).replace(".api]", &format!(".{route}]"));
    let directory = oauth.directory();
    let config = format!("{unchanged}{}{}", other("gone", ""), other("changed", ""));
    let mut broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("api", "valid");
    let (fingerprint, address) = (broker.token("api")["fingerprint"].clone(), broker.address("api"));
    let before = ["gone", "changed"].map(|route| broker.address(route));
    let load = Load::on(&broker, "api", 4);

    let config = format!("{unchanged}{}{}", other("changed", "methods = [\"POST\"]"), other("new", ""));
    broker.reconfigure(&config);
    assert_eq!(broker.reload(), (0, "reloaded\n".into(), String::new()));
    assert_eq!(broker.get("new", "/").status, 200);
    assert_eq!(broker.address("changed"), before[1], "its port stays");
    assert_eq!(broker.get("changed", "/").status, 405);
    assert_eq!(broker.address("api"), address);
    eventually("nobody listens there any more", || TcpStream::connect(before[0]).is_err());
    assert_eq!(broker.token("api")["fingerprint"], fingerprint);
    let status = broker.status();
    let names: Vec<_> = status["routes"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["api", "changed", "new"]);
    assert!(status["tokens"]["gone"].is_null());
    assert!(!broker.admin("GET", "/metrics").text().contains("token=\"gone\",state"));

    // And back, by the signal.
    broker.reconfigure(&format!("{unchanged}{}", other("changed", "")));
    broker.signal(Signal::HUP);
    eventually("reloaded", || broker.get("changed", "/").status == 200);
    assert_eq!(oauth.oauth.faults.calls(), 1, "one exchange, at the start");
    assert!(load.end() > 0);
    assert_eq!((reloads(&broker, "success"), reloads(&broker, "failure")), (2, 0));
    assert_eq!(broker.stop().code(), Some(0));
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing_and_says_why() {
    let oauth = OAuth::start(HOUR);
    let mut broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    let config = oauth.config("", "");
    let loaded = broker.status()["config"].clone();
    assert!(loaded["error"].is_null(), "{loaded}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let occupied = std::net::TcpListener::bind(taken).unwrap();
    let wrong = [
        (config.replace("upstream", "upstraem"), "route.api.upstraem: "),
        (config.replace("[token.api]", "[token.api"), "tokenbroker.toml:"),
        (config.replace("file = \"secret\"", "file = \"nowhere\""), "nowhere"),
        (config.replace("127.0.0.1:0", &taken.to_string()), "cannot listen on"),
        (format!("[limits]\nconnections = 7\n{config}"), "[limits] is another one: that needs a restart"),
        (format!("{config}headers = {{ X = {{ file = \"nowhere\" }} }}"), "nowhere"),
    ];
    for (config, said) in wrong {
        broker.reconfigure(&config);
        let load = Load::on(&broker, "api", 1);
        // Where the file is no TOML at all, the command cannot tell whom to ask.
        if said != "tokenbroker.toml:" {
            let (status, stdout, stderr) = broker.command(&["reload"]);
            assert_eq!((status, stdout.as_str()), (78, ""), "{stderr}");
            assert!(stderr.contains(said), "{stderr}");
        }
        let reply = broker.admin("POST", "/api/reload");
        assert_eq!((reply.status, reply.code().as_str()), (422, "config_refused"));
        assert!(reply.json()["detail"].as_str().unwrap().contains(said), "{}", reply.text());
        let shown = broker.status()["config"].clone();
        assert_eq!(shown["loaded_at"], loaded["loaded_at"]);
        assert!(shown["error"].as_str().unwrap().contains(said), "{shown}");
        assert!(load.end() > 0);
        if said != "tokenbroker.toml:" {
            let (code, stdout, _) = broker.command(&["status"]);
            assert!(
                code == 0 && stdout.contains("what is on the disk is not in force:\n") && stdout.contains(said),
                "{stdout}"
            );
        }
    }
    drop(occupied);
    assert_eq!(reloads(&broker, "failure"), 11);
    broker.logs("not reloaded: what was running goes on");
    broker.reconfigure(&config);
    assert_eq!(broker.reload().0, 0);
    let shown = broker.status()["config"].clone();
    assert!(shown["error"].is_null() && shown["loaded_at"] != loaded["loaded_at"], "{shown}");
    assert_eq!(oauth.oauth.faults.calls(), 1);
}

#[test]
fn reload_needs_the_admin_key_and_a_running_broker() {
    let upstream = Upstream::ok();
    let broker = Broker::start(&static_route(&upstream, ""));
    assert_eq!(broker.request("admin", "POST", "/api/reload", &[], b"").status, 401);
    write(broker.directory.path(), "admin_key", "another one");
    let (code, _, stderr) = broker.command(&["reload"]);
    assert!(code == 1 && stderr.contains("needs the admin key"), "{stderr}");
    write(broker.directory.path(), "admin_key", ADMIN_KEY);
    assert_eq!(broker.command(&["reload"]).0, 0);
    let file = write(broker.directory.path(), "other.toml", "[admin]\nlisten = \"127.0.0.1:1\"\nkey = \"k\"\n");
    let output = crate::support::binary().arg("-c").arg(file).arg("reload").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("is the broker running"), "{stderr}");
}

/// Security: what was obtained for something else must not be sent, whatever is in flight.
#[test]
fn a_token_with_another_scope_is_obtained_anew_and_the_old_one_is_not_sent() {
    let oauth = OAuth::start(HOUR);
    let mut broker = oauth.broker("scope = [\"read\"]", "");
    broker.wait_for_state("api", "valid");
    let load = Load::on(&broker, "api", 2);
    broker.reconfigure(&oauth.config("scope = [\"write\"]", ""));
    assert_eq!(broker.reload().0, 0);
    assert_eq!(broker.get("api", "/after").status, 200);
    assert!(load.end() > 0);
    let seen = oauth.echo.seen();
    let tokens: Vec<_> = seen.iter().map(|seen| seen.headers["authorization"].to_str().unwrap().to_owned()).collect();
    let last = tokens.last().unwrap();
    let first_new = tokens.iter().position(|token| token == last).unwrap();
    assert!(first_new > 0 && tokens[first_new..].iter().all(|token| token == last), "{first_new}");
    assert_eq!(oauth.oauth.faults.calls(), 2);
}

#[test]
fn what_does_not_make_it_another_token_keeps_it_and_its_refresh_token() {
    let oauth = OAuth::start(HOUR);
    let grant = "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }";
    let directory = oauth.directory();
    write(directory.path(), "seed", oauth.oauth.issuer.refresh_token(None));
    let mut broker = Broker::start_in(directory, &oauth.config(grant, ""), |_| {});
    broker.wait_for_state("api", "valid");
    let fingerprint = broker.token("api")["fingerprint"].clone();
    // Another way to write it as well: both are the same token.
    let second = "[route.second]\nlisten = \"127.0.0.1:0\"\ntoken = \"api\"\nheader = \"X-Token\"\nformat = \"{access_token}\"\n";
    let upstream = Upstream::ok();
    let second = format!("{second}upstream = \"{}\"\n", upstream.url());
    broker.reconfigure(&(oauth.config(&format!("{grant}\ntimeout = \"7s\"\nrefresh_at = 0.5"), "") + &second));
    assert_eq!(broker.reload().0, 0);
    assert_eq!(broker.token("api")["fingerprint"], fingerprint);
    assert_eq!(broker.get("api", "/").status, 200);
    broker.get("second", "/");
    let seen = oauth.echo.seen();
    let sent = format!("Bearer {}", upstream.only().one("x-token").unwrap());
    assert_eq!(seen[0].headers["authorization"].to_str().unwrap(), sent);
    assert_eq!(oauth.oauth.faults.calls(), 1);
    // The rotated one is used, not the configured one, whose second use would end them all.
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    assert_eq!((broker.token("api")["state"].clone(), oauth.oauth.issuer.ended()), ("valid".into(), 0));
}

#[test]
fn a_reload_waits_for_the_exchange_in_flight_and_a_stop_for_both() {
    let oauth = OAuth::start(HOUR);
    let mut broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_millis(1500))), None);
    let issued = oauth.oauth.issuer.issued();
    let (address, key) = (broker.address("admin"), format!("Bearer {ADMIN_KEY}"));
    let asked = std::thread::spawn(move || {
        crate::support::call(address, "POST", "/api/tokens/api/refresh", &[("Authorization", &key)], b"")
    });
    eventually("it is in flight", || oauth.oauth.issuer.issued() > issued);
    broker.reconfigure(&oauth.config("timeout = \"9s\"", ""));
    broker.signal(Signal::HUP);
    assert_eq!(broker.get("api", "/").status, 200, "the old token serves meanwhile");
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait().code(), Some(0));
    eventually("two tokens", || broker.log().matches("token obtained").count() == 2);
    drop(asked);
}

#[test]
fn a_request_in_flight_ends_well_when_its_route_is_gone() {
    let upstream = Upstream::start(|_| {
        std::thread::sleep(Duration::from_millis(800));
        Action::ok("late")
    });
    let config = static_route(&upstream, "");
    let mut broker = Broker::start(&config);
    broker.wait_for_state("api", "valid");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it is in flight", || upstream.requests().len() == 1);
    broker.reconfigure(&config.replace(".api]", ".other]"));
    assert_eq!(broker.reload().0, 0);
    let reply = wire.reply("GET").unwrap();
    assert_eq!((reply.status, reply.text().as_str(), reply.header("connection")), (200, "late", Some("close")));
}

#[test]
fn a_unix_socket_comes_stays_and_goes_with_the_configuration() {
    let upstream = Upstream::ok();
    let sockets = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("unix:{}", sockets.path().join(name).display());
    let config = |name: &str| static_route(&upstream, "").replace("127.0.0.1:0", &at(name));
    let ask = |name: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(sockets.path().join(name)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        Some(text)
    };
    let mut broker = Broker::start(&config("a"));
    broker.wait_for_state("api", "valid");
    let inode = || std::os::unix::fs::MetadataExt::ino(&sockets.path().join("a").metadata().unwrap());
    let before = inode();
    broker.reconfigure(&format!("{}methods = [\"GET\"]\n", config("a")));
    assert_eq!(broker.reload().0, 0);
    assert_eq!(inode(), before);
    broker.reconfigure(&config("b"));
    assert_eq!(broker.reload().0, 0);
    assert!(ask("b").unwrap().starts_with("HTTP/1.0 200"));
    eventually("the old one is removed", || !sockets.path().join("a").exists());
}

/// An API that wants a client certificate, and a route to it.
struct Mutual {
    directory: TempDir,
    pki: Pki,
    echo: Arc<Echo>,
    api: Server,
}

impl Mutual {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path()).unwrap();
        let server = pki.issue(&Leaf::server("server")).unwrap();
        let issuer = Arc::new(Issuer::new(Clock::system(), HOUR));
        write(directory.path(), "token", issuer.access_token());
        let echo = Arc::new(Echo::new(issuer));
        let tls = pki.server_config(&server, Clients::Must).unwrap();
        let api = RUNTIME.block_on(Server::start(Arc::clone(&echo), Some(tls))).unwrap();
        Self { directory, pki, echo, api }
    }

    fn config(&self, folder: &str) -> String {
        format!(
            "[identity.me]\ncert = \"{folder}client.pem\"\nkey = \"{folder}client.key\"\n\
             [token.api]\ngrant = \"static\"\naccess_token = {{ file = \"token\" }}\n\
             [route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\nidentity = \"me\"\nca = \"ca.pem\"\nroots = \"ca\"\n",
            self.api.url()
        )
    }

    /// A directory with the CA and the token.
    fn home(&self) -> TempDir {
        let home = tempfile::tempdir().unwrap();
        for name in ["ca.pem", "token"] {
            std::fs::copy(self.directory.path().join(name), home.path().join(name)).unwrap();
        }
        home
    }

    /// A broker with the certificate 1.
    fn broker(&self) -> Broker {
        let home = self.home();
        self.issue(1, home.path());
        let broker = Broker::start_in(home, &self.config(""), |_| {});
        broker.wait_for_state("api", "valid");
        broker
    }

    /// A certificate with that serial number, under that folder.
    fn issue(&self, serial: u64, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let files = self.pki.issue(&Leaf::client("fresh", serial)).unwrap();
        for (from, to) in [(&files.cert, "client.pem"), (&files.key, "client.key")] {
            let new = write(folder, &format!("{to}.new"), std::fs::read(from).unwrap());
            std::fs::rename(new, folder.join(to)).unwrap();
        }
    }

    /// The serial number that the API saw last.
    fn serial(&self) -> String {
        self.echo.seen().last().and_then(|seen| seen.certificate.clone()).unwrap_or_default()
    }
}

#[test]
fn a_replaced_client_certificate_is_used_by_itself_and_connections_with_the_old_one_are_not() {
    let api = Mutual::new();
    let broker = api.broker();
    let load = Load::on(&broker, "api", 2);
    for serial in 2..=6 {
        api.issue(serial, broker.directory.path());
        let wanted = format!("{serial:02X}");
        eventually("the new one is used", || api.serial() == wanted);
        // None of the connections of before is used any more.
        let from = load.good.load(Ordering::Relaxed);
        eventually("more requests", || load.good.load(Ordering::Relaxed) > from + 20);
        let late = api.echo.seen().into_iter().rev().take(10).map(|seen| seen.certificate.unwrap()).collect::<Vec<_>>();
        assert!(late.iter().all(|one| *one == wanted), "{late:?}");
    }
    assert!(load.end() > 0);
    assert_eq!(reloads(&broker, "failure"), 0);
}

#[test]
fn broken_certificates_leave_the_old_one_in_force_with_an_alarm_and_no_request_fails() {
    let api = Mutual::new();
    let broker = api.broker();
    let load = Load::on(&broker, "api", 2);
    let path = |name: &str| broker.directory.path().join(name);
    let good = ["client.pem", "client.key"].map(|name| std::fs::read(path(name)).unwrap());
    let other = api.pki.issue(&Leaf::client("other", 9)).unwrap();
    let broken: [(&str, Vec<u8>, &str); 5] = [
        ("client.key", std::fs::read(&other.key).unwrap(), "does not go with"),
        ("client.pem", good[0][..good[0].len() / 2].to_vec(), "client.pem"),
        ("client.key", Vec::new(), "holds no private key"),
        ("client.pem", b"not a certificate".to_vec(), "holds no certificate"),
        (
            "ca.pem",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
            "a certificate of the CA file",
        ),
    ];
    for (name, contents, said) in broken {
        let before = std::fs::read(path(name)).unwrap();
        write(broker.directory.path(), name, contents);
        let error = || broker.status()["config"]["error"].as_str().map(str::to_owned);
        eventually("the alarm", || error().is_some_and(|error| error.contains(said)));
        broker.logs("what was read before stays in use");
        assert_eq!(broker.get("api", "/").status, 200);
        assert_eq!(api.serial(), "01");
        write(broker.directory.path(), name, before);
        eventually("it is over", || error().is_none());
    }
    assert!(load.end() > 0);
    assert!(reloads(&broker, "failure") >= 5);
    api.issue(2, broker.directory.path());
    eventually("the next good one is used", || broker.get("api", "/").status == 200 && api.serial() == "02");
}

/// As kubelet does it: the files are links through `..data`, which is exchanged as a whole.
#[test]
fn a_kubernetes_volume_that_is_exchanged_is_followed() {
    let api = Mutual::new();
    let home = api.home();
    let volume = home.path().join("tls");
    api.issue(1, &volume.join("..one"));
    symlink("..one", volume.join("..data")).unwrap();
    for name in ["client.pem", "client.key"] {
        symlink(format!("..data/{name}"), volume.join(name)).unwrap();
    }
    let broker = Broker::start_in(home, &api.config("tls/"), |_| {});
    broker.wait_for_state("api", "valid");
    assert_eq!((broker.get("api", "/").status, api.serial().as_str()), (200, "01"));
    let volume = broker.directory.path().join("tls");
    api.issue(2, &volume.join("..two"));
    symlink("..two", volume.join("..data_tmp")).unwrap();
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    std::fs::remove_dir_all(volume.join("..one")).unwrap();
    eventually("the new one is used", || broker.get("api", "/").status == 200 && api.serial() == "02");
}

#[test]
fn another_ca_is_trusted_without_a_restart() {
    let api = Mutual::new();
    let (home, stranger) = (api.home(), tempfile::tempdir().unwrap());
    Pki::new(stranger.path()).unwrap();
    std::fs::copy(stranger.path().join("ca.pem"), home.path().join("ca.pem")).unwrap();
    api.issue(1, home.path());
    let broker = Broker::start_in(home, &api.config(""), |_| {});
    broker.wait_for_state("api", "valid");
    assert_eq!(broker.get("api", "/").code(), "upstream_tls");
    let right = std::fs::read(api.directory.path().join("ca.pem")).unwrap();
    write(broker.directory.path(), "ca.pem", right);
    eventually("it is trusted", || broker.get("api", "/").status == 200);
}

#[test]
fn a_secret_that_is_mended_ends_a_rejection_within_seconds() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    write(directory.path(), "secret", "wrong");
    let broker = Broker::start_in(directory, &oauth.config("", ""), |_| {});
    broker.wait_for_state("api", "rejected");
    write(broker.directory.path(), "secret", tokenbroker::standin::OAuth2::CLIENT_SECRET);
    broker.wait_for_state("api", "valid");
    assert_eq!(oauth.oauth.faults.calls(), 2);
}

#[test]
fn a_signal_to_reload_during_a_reload_is_not_lost() {
    let oauth = OAuth::start(HOUR);
    let broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    oauth.oauth.faults.set(Some(Fault::Slow(Duration::from_millis(1500))), None);
    let issued = oauth.oauth.issuer.issued();
    let refresh = refresh_aside(&broker);
    eventually("it is in flight", || oauth.oauth.issuer.issued() > issued);
    broker.reconfigure(&oauth.config("timeout = \"9s\"", ""));
    broker.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    broker.reconfigure(&oauth.config("timeout = \"9s\"", "methods = [\"POST\"]"));
    broker.signal(Signal::HUP);
    eventually("the second one is in force", || broker.get("api", "/").status == 405);
    refresh.join().unwrap();
}

/// Asks for an exchange, and waits for it elsewhere.
fn refresh_aside(broker: &Broker) -> std::thread::JoinHandle<u16> {
    let (address, key) = (broker.address("admin"), format!("Bearer {ADMIN_KEY}"));
    std::thread::spawn(move || {
        crate::support::call(address, "POST", "/api/tokens/api/refresh", &[("Authorization", &key)], b"").status
    })
}

#[test]
fn an_account_that_was_mistyped_and_put_right_has_its_refresh_token_still() {
    let oauth = OAuth::start(HOUR);
    let grant = "grant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }";
    let directory = oauth.directory();
    write(directory.path(), "seed", oauth.oauth.issuer.refresh_token(None));
    let right = oauth.config(grant, "");
    let mut broker = Broker::start_in(directory, &right, |_| {});
    broker.wait_for_state("api", "valid");
    let wrong = right.replace("client_id = \"", "client_id = \"mistyped-");
    // Nothing is sent for the mistake: its server is away.
    oauth.oauth.faults.set(Some(Fault::Status(503, None)), None);
    broker.reconfigure(&wrong);
    assert_eq!(broker.reload().0, 0);
    eventually("it was tried", || broker.token("api")["attempts"].as_u64() > Some(0));
    oauth.oauth.faults.set(None, None);
    broker.reconfigure(&right);
    assert_eq!(broker.reload().0, 0);
    assert_eq!(broker.admin("POST", "/api/tokens/api/refresh").status, 200);
    assert_eq!((broker.token("api")["state"].clone(), oauth.oauth.issuer.ended()), ("valid".into(), 0));
}

#[test]
fn a_slow_token_server_holds_up_no_other_token_during_a_reload() {
    let (slow, quick) = (OAuth::start(HOUR), OAuth::start(Duration::from_secs(2)));
    let second = |token: &str| quick.config(token, "").replace(".api]", ".quick]");
    let config = |token: &str| slow.config(token, "") + &second(token);
    let broker = Broker::start_in(slow.directory(), &config(""), |_| {});
    broker.wait_for_state("api", "valid");
    broker.wait_for_state("quick", "valid");
    let issued = slow.oauth.issuer.issued();
    slow.oauth.faults.set(Some(Fault::Slow(Duration::from_secs(6))), None);
    let refresh = refresh_aside(&broker);
    eventually("it is in flight", || slow.oauth.issuer.issued() > issued);
    broker.reconfigure(&config("timeout = \"9s\""));
    broker.signal(Signal::HUP);
    let load = Load::on(&broker, "quick", 1);
    assert_eq!(refresh.join().unwrap(), 200);
    assert!(load.end() > 0);
    eventually("reloaded", || broker.log().contains("\"message\":\"reloaded\""));
}

#[test]
fn a_pipe_in_place_of_a_file_is_told_and_stops_nothing() {
    let api = Mutual::new();
    let mut broker = api.broker();
    let ca = broker.directory.path().join("ca.pem");
    std::fs::remove_file(&ca).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &ca, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    eventually("the alarm", || {
        broker.status()["config"]["error"].as_str().is_some_and(|error| error.contains("is not a regular file"))
    });
    assert_eq!(broker.get("api", "/").status, 200);
    let config = broker.directory.path().join("tokenbroker.toml");
    std::fs::remove_file(&config).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let reply = broker.admin("POST", "/api/reload");
    assert!(reply.text().contains("it is not a regular file"), "{}", reply.text());
    assert_eq!(broker.stop().code(), Some(0));
}

#[test]
fn a_key_that_others_may_write_is_not_taken() {
    let api = Mutual::new();
    let broker = api.broker();
    let key = broker.directory.path().join("client.key");
    api.issue(2, broker.directory.path());
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let error = || broker.status()["config"]["error"].as_str().map(str::to_owned);
    eventually("the alarm", || error().is_some_and(|error| error.contains("can be changed by others")));
    broker.get("api", "/");
    assert_eq!(api.serial(), "01");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    eventually("it is taken then", || broker.get("api", "/").status == 200 && api.serial() == "02");
    assert!(error().is_none());
}

#[test]
fn a_refused_configuration_and_a_broken_file_are_both_told_until_both_are_mended() {
    let api = Mutual::new();
    let broker = api.broker();
    let error = || broker.status()["config"]["error"].as_str().unwrap_or_default().to_owned();
    broker.reconfigure(&api.config("").replace("upstream", "upstraem"));
    assert_eq!(broker.command(&["reload"]).0, 78);
    let ca = std::fs::read(broker.directory.path().join("ca.pem")).unwrap();
    write(broker.directory.path(), "ca.pem", "");
    eventually("both are told", || error().contains("upstraem") && error().contains("holds no certificate"));
    write(broker.directory.path(), "ca.pem", ca);
    eventually("one is left", || !error().contains("holds no certificate"));
    assert!(error().contains("upstraem"));
    broker.reconfigure(&api.config(""));
    assert_eq!(broker.command(&["reload"]).0, 0);
    assert_eq!(error(), "");
}

#[test]
fn a_refresh_that_was_asked_for_is_made_although_a_reload_comes_between() {
    let oauth = OAuth::start(HOUR);
    let mut broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    // Within a second of the exchange before, it has to wait.
    let refresh = refresh_aside(&broker);
    std::thread::sleep(Duration::from_millis(100));
    broker.reconfigure(&oauth.config("timeout = \"9s\"", ""));
    assert_eq!(broker.reload().0, 0);
    assert_eq!(refresh.join().unwrap(), 200);
    assert_eq!(oauth.oauth.faults.calls(), 2);
}

#[test]
fn a_reload_has_what_was_refused_tried_again() {
    let oauth = OAuth::start(HOUR);
    oauth.oauth.faults.set(Some(Fault::Status(401, None)), Some(1));
    let mut broker = oauth.broker("", "");
    broker.wait_for_state("api", "rejected");
    assert_eq!(broker.reload().0, 0);
    broker.wait_for_state("api", "valid");
}

#[test]
fn whoever_asks_for_something_during_a_drain_is_told() {
    let upstream = Upstream::start(|_| {
        std::thread::sleep(Duration::from_millis(2000));
        Action::ok("late")
    });
    let mut broker = Broker::start(&static_route(&upstream, ""));
    broker.wait_for_state("api", "valid");
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it is in flight", || upstream.requests().len() == 1);
    broker.signal(Signal::TERM);
    eventually("draining", || broker.log().contains("draining"));
    let reply = broker.admin("POST", "/api/reload");
    assert_eq!((reply.status, reply.code().as_str()), (503, "draining"));
    assert_eq!(wire.reply("GET").unwrap().status, 200);
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn idle_connections_of_a_route_that_changed_are_closed_although_a_request_is_in_flight() {
    let upstream = Upstream::start(|request| {
        if request.line().contains("slow") {
            std::thread::sleep(Duration::from_secs(3));
        }
        Action::ok("ok")
    });
    let config = static_route(&upstream, "");
    let mut broker = Broker::start(&format!("[limits]\nthreads = 1\n{config}"));
    broker.wait_for_state("api", "valid");
    let mut slow = Wire::open(broker.address("api"));
    slow.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it is in flight", || upstream.requests().len() == 1);
    assert_eq!(broker.get("api", "/").status, 200);
    let sockets = || std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap().count();
    let before = sockets();
    let pid = broker.pid();
    broker.reconfigure(&format!("[limits]\nthreads = 1\n{}", static_route(&upstream, "methods = [\"GET\"]")));
    assert_eq!(broker.reload().0, 0);
    let sockets = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    eventually("one connection less", || sockets() < before);
    assert_eq!(slow.reply("GET").unwrap().status, 200);
}

/// Fewer processors, as after the resize of a container, are no reason for anything.
#[test]
fn a_machine_with_fewer_processors_than_at_the_start_reloads_as_well() {
    let api = Mutual::new();
    let mut broker = api.broker();
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    for task in std::fs::read_dir(format!("/proc/{}/task", broker.pid())).unwrap() {
        let task = task.unwrap().file_name().into_string().unwrap().parse().unwrap();
        rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(task), &one).unwrap();
    }
    let load = Load::on(&broker, "api", 4);
    api.issue(2, broker.directory.path());
    eventually("the new certificate is used", || api.serial() == "02");
    assert_eq!(broker.reload().0, 0);
    assert!(load.end() > 0);
}
