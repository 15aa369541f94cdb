use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::door::free_port;
use crate::exchange::OAuth;
use crate::support::{Broker, RedisServer, binary, call, eventually, has, output, write};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_image_is_empty_but_for_the_binary_and_the_ca_bundle_and_runs_as_nobody() {
    let dockerfile = read("Dockerfile");
    let lines: Vec<_> = dockerfile.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let last_stage = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
    assert_eq!(lines[last_stage - 1], "RUN packaging/build");
    let build = read("packaging/build");
    assert!(build.contains("cargo build --locked --no-default-features"), "the demo is off");
    assert_eq!(
        lines[last_stage..],
        [
            "FROM scratch",
            "COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
            "COPY --from=build /src/target/static/tokenbroker /tokenbroker",
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

/// A compose file as docker-compose understands it, beside the files that it names.
fn composed(file: &str, beside: &[&str], secrets: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    for file in [&[file], beside].concat() {
        std::fs::write(directory.path().join(file), read(&format!("examples/{file}"))).unwrap();
    }
    for secret in secrets {
        std::fs::write(directory.path().join(secret), "s").unwrap();
    }
    let mut command = Command::new("docker-compose");
    output(command.args(["-f", file, "config"]).current_dir(directory.path()))
}

#[test]
fn the_compose_example_is_valid_and_the_application_shares_the_brokers_network() {
    if !has("docker-compose") {
        return;
    }
    let shown = composed("compose.yaml", &["oauth2.toml"], &["api_secret.txt"]);
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
fn the_compose_example_with_redis_is_valid_and_has_two_replicas_that_alone_reach_it() {
    if !has("docker-compose") {
        return;
    }
    let secrets = ["api_secret.txt", "redis_password.txt", "redis_users.acl", "store_key.txt"];
    let shown = composed("compose-redis.yaml", &["compose-redis.toml"], &secrets);
    for line in ["network_mode: service:broker-1", "network_mode: service:broker-2", "internal: true"] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert_eq!(shown.matches("/compose-redis.toml:/etc/tokenbroker/tokenbroker.toml:ro").count(), 2);
    assert!(!shown.contains("ports:"), "nothing is published");
}

/// The configuration in a ConfigMap, with its files in the working directory.
fn mounted(config: &str) -> String {
    let block = config.split("tokenbroker.toml: |\n").nth(1).unwrap().split("---").next().unwrap();
    let toml: String = block.lines().map(|line| format!("{}\n", line.trim_start())).collect();
    toml.replace("/run/secrets/tokenbroker/", "").replace("/run/secrets/redis-ca/", "")
}

#[test]
fn the_kubernetes_examples_are_valid_and_their_configuration_passes_check() {
    if !has("kubernetes-validate") {
        return;
    }
    for (folder, workload) in [
        ("kubernetes", "deployment"),
        ("kubernetes", "job"),
        ("kubernetes/replicas", "deployment"),
        ("kubernetes/store", "statefulset"),
    ] {
        let files = std::fs::read_dir(format!("{ROOT}/examples/{folder}")).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).filter(|path| path.is_file()).collect();
        assert!(files.len() >= 2, "{files:?}");
        for path in files {
            output(Command::new("kubernetes-validate").args(["--strict", "-k", "1.37"]).arg(path));
        }
        let shown = read(&format!("examples/{folder}/{workload}.yaml"));
        for line in [
            "restartPolicy: Always",
            "startupProbe:",
            "httpGet: { path: /readyz, port: probes }",
            "- { name: probes, containerPort: 8401 }",
            "runAsUser: 65532",
            "readOnlyRootFilesystem: true",
            "drop: [ALL]",
        ] {
            assert!(shown.contains(line), "{folder}: {line}");
        }
        let config = read(&format!("examples/{folder}/config.yaml"));
        assert!(config.contains("probes = \"0.0.0.0:8401\""), "{folder}: the kubelet asks there");
        if config.contains("kind = \"file\"") {
            // Else the kubelet would open the store's folder to the group at each mount.
            assert!(shown.contains("fsGroupChangePolicy: OnRootMismatch"), "{folder}");
            let mount = shown.lines().find(|line| line.contains("name: store, mountPath: ")).unwrap();
            let mount = mount.split("mountPath: ").nth(1).unwrap().trim_end_matches(" }");
            assert!(config.contains(&format!("path = \"{mount}/store\"")), "{folder}: a folder in the volume");
        }
        let directory = tempfile::tempdir().unwrap();
        tokenbroker::standin::pki::Pki::new(directory.path()).unwrap();
        std::fs::rename(directory.path().join("ca.pem"), directory.path().join("ca.crt")).unwrap();
        for secret in ["api_secret", "redis_password", "refresh_token", "store_key"] {
            write(directory.path(), secret, "a secret of thirty-two characters");
        }
        let toml = mounted(&config).replace("/var/lib/tokenbroker/store", "store");
        let file = write(directory.path(), "tokenbroker.toml", toml);
        let checked = binary().arg("-c").arg(file).arg("check").output().unwrap();
        let stderr = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && stderr.is_empty(), "{folder}: {stderr}");
    }
    let deployment = read("examples/kubernetes/replicas/deployment.yaml");
    assert!(deployment.contains("replicas: 2"));
}

/// The command line of the Redis in an example, without where it listens and finds its files.
fn redis_options(example: &str) -> Vec<String> {
    let lines = example.lines().map(str::trim).skip_while(|line| *line != "- redis-server").skip(1);
    let words: Vec<_> = lines.map_while(|line| line.strip_prefix("- ")).map(|word| word.trim_matches('"')).collect();
    let elsewhere = |option: &str| ["--port", "--dir", "--aclfile"].contains(&option) || option.starts_with("--tls-");
    let pairs = words.chunks(2).filter(|pair| !elsewhere(pair[0]));
    pairs.flat_map(|pair| pair.iter().map(|word| (*word).to_owned())).collect()
}

/// The users of the Redis in an example, with that password.
fn redis_users(example: &str) -> String {
    let lines = example.lines().map(|line| line.trim_start_matches(['#', ' ']));
    let users = lines.filter(|line| line.starts_with("user ")).map(|line| format!("{line}\n")).collect::<String>();
    users.replace(">PASSWORD", ">well-known").replace(">fill-me-in", ">well-known")
}

/// Two brokers with an example's configuration, at a Redis with its options and users.
fn replicas(redis: &RedisServer, oauth: &OAuth, config: &str, url: &str) -> [Broker; 2] {
    let host = config.lines().find_map(|line| line.strip_prefix("url = \"redis")).unwrap();
    let host = host.split("broker@").nth(1).unwrap().split('"').next().unwrap();
    let (store, _) = config.split_once("[token.api]").unwrap();
    let store = store.replace("/run/secrets/", "").replace(host, url);
    // Every test's broker has an `[admin]` already.
    let store = store.replace("[admin]\n", "").replace("0.0.0.0:8401", "127.0.0.1:0");
    assert!(store.contains(url), "{store}");
    [1, 2].map(|_| {
        let directory = oauth.directory();
        write(directory.path(), "redis_password", "well-known");
        write(directory.path(), "store_key", "a secret of thirty-two characters");
        if let Ok(ca) = std::fs::read(redis.directory.path().join("ca.pem")) {
            write(directory.path(), "ca.crt", ca);
        }
        Broker::start_in(directory, &format!("{store}\n{}", oauth.config("", "")), |_| {})
    })
}

#[test]
fn the_replicas_of_the_examples_share_one_token_through_their_redis() {
    let compose = (read("examples/compose-redis.yaml"), read("examples/compose-redis.toml"), false);
    let kubernetes = read("examples/kubernetes/replicas/config.yaml");
    let kubernetes = (read("examples/kubernetes/replicas/redis.yaml"), mounted(&kubernetes), true);
    for (example, config, tls) in [compose, kubernetes] {
        let oauth = OAuth::start(Duration::from_secs(3600));
        let place = tempfile::tempdir().unwrap();
        let users = write(place.path(), "users.acl", redis_users(&example));
        let mut options = redis_options(&example);
        assert!(options.windows(2).any(|pair| pair == ["--maxmemory-policy", "noeviction"]), "{options:?}");
        options.extend(["--aclfile".to_owned(), users.display().to_string()]);
        if tls {
            options.extend(["--tls-auth-clients".to_owned(), "no".to_owned()]);
        }
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let started = if tls { RedisServer::start_tls(&options) } else { RedisServer::start(&options) };
        let Some(redis) = started else { return };
        let replicas = replicas(&redis, &oauth, &config, &format!("localhost:{}", redis.port));
        for broker in &replicas {
            broker.wait_for_state("api", "valid");
            assert_eq!(broker.get("api", "/").status, 200);
        }
        let [one, other] = replicas.each_ref().map(|broker| broker.token("api")["fingerprint"].clone());
        assert_eq!((one.is_string(), one), (true, other));
        assert_eq!(oauth.oauth.faults.calls(), 1, "one token for both");
    }
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

#[test]
fn a_folder_that_the_compilers_flags_cannot_name_is_refused_before_anything_is_built() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("a folder/packaging");
    std::fs::create_dir_all(&folder).unwrap();
    let script = folder.join("build");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/build"), &script).unwrap();
    let ended = Command::new("sh").arg(&script).output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && stderr.contains("has a space in it"), "{stderr}");
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

/// As `packaging/sbom` prints it.
fn sbom(arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.arg("packaging/sbom").args(arguments).current_dir(ROOT);
    // What is linked was built, so all of it is here.
    output(command.env("CARGO_NET_OFFLINE", "true"))
}

#[test]
fn the_bill_of_materials_names_what_is_linked_with_version_licence_and_hash_and_nothing_else() {
    if !has("python3") {
        return;
    }
    let text = sbom(&[]);
    assert_eq!(text, sbom(&[]), "nothing in it is of the moment");
    assert!(!text.contains(ROOT), "or of the machine");
    let bom: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((bom["bomFormat"].as_str(), bom["specVersion"].as_str()), (Some("CycloneDX"), Some("1.6")));
    assert_eq!(
        (&bom["version"], bom["metadata"]["component"]["name"].as_str()),
        (&Value::from(1), Some("tokenbroker"))
    );
    assert!(bom["serialNumber"].as_str().unwrap().starts_with("urn:uuid:"));
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let hash = |name: &str, version: &str| {
        let packages = lock["package"].as_array().unwrap().iter();
        let mut found = packages.filter(|p| (p["name"].as_str(), p["version"].as_str()) == (Some(name), Some(version)));
        found.next().map(|package| package["checksum"].as_str().unwrap().to_owned())
    };
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    let mut names = Vec::new();
    let mut refs = vec![text(&bom["metadata"]["component"]["bom-ref"])];
    for component in bom["components"].as_array().unwrap() {
        let (name, version) = (text(&component["name"]), text(&component["version"]));
        assert_eq!(component["type"], "library");
        assert!(!text(&component["licenses"][0]["expression"]).is_empty(), "{name}");
        if component["purl"].is_string() {
            assert_eq!(Some(text(&component["hashes"][0]["content"])), hash(&name, &version), "{name} {version}");
        }
        refs.push(text(&component["bom-ref"]));
        names.push(name);
    }
    for linked in ["tokio", "rustls", "ring", "redis", "hickory-resolver", "rust-std"] {
        assert!(names.iter().any(|name| name == linked), "{linked}");
    }
    for other in ["rcgen", "proptest", "turmoil", "criterion", "tempfile", "serde_derive", "syn", "cc", "winapi"] {
        assert!(!names.iter().any(|name| name == other), "{other} is not linked");
    }
    let unique: std::collections::BTreeSet<_> = refs.iter().collect();
    assert_eq!(unique.len(), refs.len());
    for dependency in bom["dependencies"].as_array().unwrap() {
        let needs = dependency["dependsOn"].as_array().unwrap().iter();
        for one in needs.chain([&dependency["ref"]]) {
            assert!(refs.contains(&text(one)), "{one}");
        }
    }
    let place = tempfile::tempdir().unwrap();
    let file = write(place.path(), "tokenbroker", "abc");
    let bom: Value = serde_json::from_str(&sbom(&[file.to_str().unwrap()])).unwrap();
    let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(bom["metadata"]["component"]["hashes"][0]["content"], of_abc);
}

#[test]
fn the_static_binary_holds_no_path_of_the_machine_that_built_it() {
    if !has("static") {
        return;
    }
    let binary = std::fs::read(std::env::var("TOKENBROKER_TEST_STATIC").unwrap()).unwrap();
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{}/.cargo", std::env::var("HOME").unwrap()));
    for path in [ROOT, &cargo] {
        let found = memchr::memmem::find(&binary, path.as_bytes());
        let around = found.map(|at| String::from_utf8_lossy(&binary[at..(at + 200).min(binary.len())]));
        assert!(around.is_none(), "{path}: {around:?}");
    }
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
