use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::door::free_port;
use crate::exchange::OAuth;
use crate::support::{binary, call, eventually, has, output, write};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_image_is_empty_but_for_the_binary_and_the_ca_bundle_and_runs_as_nobody() {
    let dockerfile = read("Dockerfile");
    let lines: Vec<_> = dockerfile.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let last_stage = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
    assert!(
        lines[..last_stage].iter().any(|line| line.contains("--no-default-features") && line.contains("--locked")),
        "the demo is off"
    );
    assert_eq!(
        lines[last_stage..],
        [
            "FROM scratch",
            "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
            "COPY --from=build /src/target/release/tokenbroker /tokenbroker",
            "USER 65532:65532",
            "HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD [\"/tokenbroker\", \"healthcheck\"]",
            "ENTRYPOINT [\"/tokenbroker\"]",
            "CMD [\"run\"]",
        ]
    );
    let ignored = read(".dockerignore");
    for secret in [".git", "certs", "target"] {
        assert!(ignored.lines().any(|line| line == secret), "{secret} stays out of the build context");
    }
}

#[test]
fn the_compose_example_is_valid_and_the_application_shares_the_brokers_network() {
    if !has("docker-compose") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for file in ["compose.yaml", "oauth2.toml"] {
        std::fs::write(directory.path().join(file), read(&format!("examples/{file}"))).unwrap();
    }
    std::fs::write(directory.path().join("api_secret.txt"), "s").unwrap();
    let mut command = Command::new("docker-compose");
    let shown = output(command.args(["-f", "compose.yaml", "config"]).current_dir(directory.path()));
    for line in [
        "network_mode: service:tokenbroker",
        "condition: service_healthy",
        "read_only: true",
        "- no-new-privileges:true",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(!shown.contains("ports:"), "nothing is published");
}

#[test]
fn the_kubernetes_examples_are_valid_and_their_configuration_passes_check() {
    if !has("kubernetes-validate") {
        return;
    }
    for file in ["deployment.yaml", "config.yaml"] {
        let path = format!("{ROOT}/examples/kubernetes/{file}");
        output(Command::new("kubernetes-validate").args(["--strict", "-k", "1.37", &path]));
    }
    let deployment = read("examples/kubernetes/deployment.yaml");
    for line in
        ["restartPolicy: Always", "startupProbe:", "runAsUser: 65532", "readOnlyRootFilesystem: true", "drop: [ALL]"]
    {
        assert!(deployment.contains(line), "{line}");
    }
    let config = read("examples/kubernetes/config.yaml");
    let block = config.split("tokenbroker.toml: |\n").nth(1).unwrap().split("---").next().unwrap();
    let toml: String = block.lines().map(|line| format!("{}\n", line.trim_start())).collect();
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "api_secret", "s");
    let toml = toml.replace("/run/secrets/tokenbroker/", "");
    let file = write(directory.path(), "tokenbroker.toml", toml);
    let checked = binary().arg("-c").arg(file).arg("check").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// What hardening says of an executable: position-independent, full RELRO, no executable stack, no search path of its own.
fn hardened(path: &str) {
    let headers = output(Command::new("readelf").args(["-W", "-h", "-l", "-d", path]));
    assert!(
        headers.contains("DYN (Position-Independent Executable file)") || headers.contains("DYN (Shared object file)"),
        "{headers}"
    );
    let stack = headers.lines().find(|line| line.contains("GNU_STACK")).unwrap();
    assert!(stack.contains(" RW ") && !stack.contains("RWE"), "{stack}");
    assert!(headers.contains("GNU_RELRO"), "{headers}");
    assert!(headers.contains("BIND_NOW") || headers.contains("Flags: NOW"), "{headers}");
    assert!(!headers.contains("RPATH") && !headers.contains("RUNPATH"), "{headers}");
}

#[test]
fn the_binary_is_hardened() {
    if has("readelf") {
        hardened(env!("CARGO_BIN_EXE_tokenbroker"));
    }
}

/// The static binary in an empty root, as an unprivileged user that can write nowhere.
struct Jail {
    directory: tempfile::TempDir,
}

impl Jail {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--no-new-privs", "/usr/sbin/chroot", "--userspec=65532:65532", "--groups="])
            .arg(self.directory.path())
            .arg("/tokenbroker");
        command.args(arguments).env_clear().current_dir("/");
        command
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_static_binary_serves_from_an_empty_root_as_nobody() {
    if !has("static") || !has("root") || !has("setpriv") || !has("readelf") {
        return;
    }
    let binary = std::env::var("TOKENBROKER_TEST_STATIC").unwrap();
    hardened(&binary);
    let needed = output(Command::new("readelf").args(["-d", &binary]));
    assert!(!needed.contains("(NEEDED)"), "it needs no library: {needed}");

    let oauth = OAuth::start(Duration::from_secs(3600));
    let jail = Jail { directory: tempfile::tempdir().unwrap() };
    let root = jail.directory.path();
    let (admin, route) = (free_port(), free_port());
    std::fs::copy(&binary, root.join("tokenbroker")).unwrap();
    std::fs::create_dir_all(root.join("etc/tokenbroker")).unwrap();
    std::fs::create_dir_all(root.join("run/secrets")).unwrap();
    std::fs::write(root.join("run/secrets/secret"), tokenbroker::standin::OAuth2::CLIENT_SECRET).unwrap();
    let config = oauth
        .config("", "")
        .replace("\"secret\"", "\"/run/secrets/secret\"")
        .replace("127.0.0.1:0", &format!("127.0.0.1:{route}"));
    std::fs::write(
        root.join("etc/tokenbroker/tokenbroker.toml"),
        format!("[admin]\nlisten = \"127.0.0.1:{admin}\"\n{config}"),
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o755)).unwrap();

    let checked = jail.command(&["check"]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(jail.command(&["healthcheck"]).output().unwrap().status.code(), Some(1), "nothing runs yet");
    let mut command = jail.command(&["run"]);
    let mut running = Running(command.stderr(Stdio::null()).process_group(0).spawn().unwrap());
    eventually("it is healthy", || jail.command(&["healthcheck"]).output().unwrap().status.success());
    let reply = call(format!("127.0.0.1:{route}").parse().unwrap(), "POST", "/x", &[], b"hello");
    assert_eq!(
        (reply.status, reply.json()["token_accepted"].as_bool()),
        (200, Some(true)),
        "names are resolved without libc: localhost"
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
    let fields: HashMap<_, _> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    assert!(fields["Uid"].starts_with("65532\t65532"), "{}", fields["Uid"]);
    assert_eq!((fields["CapEff"], fields["NoNewPrivs"]), ("0000000000000000", "1"));
    let said = call(format!("127.0.0.1:{admin}").parse().unwrap(), "GET", "/api/status", &[], b"");
    let said: Value = said.json();
    assert_eq!(said["tokens"]["api"]["state"], "valid");
    let refused = call(format!("127.0.0.1:{admin}").parse().unwrap(), "POST", "/api/tokens/api/refresh", &[], b"");
    assert_eq!(refused.status, 401, "there was no private place for a key, so nothing can be done");
    rustix::process::kill_process(rustix::process::Pid::from_child(&running.0), Signal::TERM).unwrap();
    eventually("it ends", || running.0.try_wait().unwrap().is_some());
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

#[test]
fn the_binary_of_the_image_has_no_demo() {
    if !has("static") {
        return;
    }
    let binary = std::env::var("TOKENBROKER_TEST_STATIC").unwrap();
    let refused = Command::new(&binary).arg("demo").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let help = Command::new(&binary).arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("demo"));
}
