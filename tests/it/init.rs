use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tokenbroker::standin::OAuth2;

use crate::exchange::OAuth;
use crate::support::{Broker, binary, eventually, has, output, write};

const UNFILLED: &str = "FILL-ME-IN";

/// The program in a directory: exit status, stdout, stderr.
fn program(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = binary().args(arguments).current_dir(directory).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn read(directory: &Path, file: &str) -> String {
    std::fs::read_to_string(directory.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn for_every_built_in_dialect_the_files_pass_check_and_what_is_to_be_filled_in_is_told_with_its_line() {
    let list = output(binary().arg("dialects"));
    let dialects: Vec<_> = list.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(dialects.len() > 20, "{list}");
    for dialect in dialects {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (code, told, stderr) = program(path, &["init", dialect]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{dialect}");
        let config = read(path, "tokenbroker.toml");
        let lines = config.lines().enumerate().filter(|(_, line)| line.contains(UNFILLED));
        let mut count = 0;
        for (at, line) in lines {
            assert!(told.contains(&format!("  tokenbroker.toml:{}: {line}\n", at + 1)), "{dialect}: {line}\n{told}");
            count += line.matches(UNFILLED).count();
        }
        for secret in std::fs::read_dir(path.join("secrets")).unwrap() {
            let name = format!("secrets/{}", secret.unwrap().file_name().to_str().unwrap());
            if read(path, &name) == format!("{UNFILLED}\n") {
                assert!(told.contains(&format!("  {name}:1\n")), "{dialect}: {name}\n{told}");
                count += 1;
            }
        }
        let (code, stdout, stderr) = program(path, &["check"]);
        let ok = format!("ok (1 route, 1 token); {count} values still to be filled in\n");
        assert_eq!((code, stdout), (0, format!("tokenbroker.toml: {ok}")), "{dialect}: {stderr}\n{config}");
        let warned = stderr.lines().filter(|line| line.starts_with("warning: tokenbroker.toml:"));
        assert_eq!(warned.filter(|line| line.contains("still to be filled in")).count(), count, "{dialect}: {stderr}");
        assert_eq!(stderr.lines().count(), count, "{dialect}: {stderr}");
    }
}

#[test]
fn whatever_sends_is_refused_until_everything_is_filled_in_and_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(program(directory.path(), &["init"]).0, 0);
    for command in [&["run"][..], &["check", "--online"], &["token", "api"]] {
        let (code, _, stderr) = program(directory.path(), command);
        assert_eq!(code, 78, "{command:?}: {stderr}");
        for line in [
            "tokenbroker.toml:11:7: token.api.url: is still to be filled in; write the value in the place of FILL-ME-IN",
            "tokenbroker.toml:12:13: token.api.client_id: is still to be filled in",
            "tokenbroker.toml:13:1: token.api.client_secret: the file ./secrets/api_client_secret is still to be filled in",
            "tokenbroker.toml:17:12: route.api.upstream: is still to be filled in",
        ] {
            assert!(stderr.lines().any(|shown| shown.starts_with(line)), "{command:?}: {line}\n{stderr}");
        }
    }
    let (code, stdout, _) = program(directory.path(), &["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &json["ok"], json["warnings"].as_array().unwrap().len()), (0, &true.into(), 4), "{json}");
}

/// Fills in the files of `init` for that server and its API.
fn fill_in(directory: &Path, oauth: &OAuth) -> String {
    let config = read(directory, "tokenbroker.toml")
        .replace(
            "url = \"https://FILL-ME-IN\"   # the token endpoint",
            &format!("url = \"{}/token\"", oauth.server.url()),
        )
        .replace("client_id = \"FILL-ME-IN\"", &format!("client_id = \"{}\"", OAuth2::CLIENT_ID))
        .replace("upstream = \"https://FILL-ME-IN\"", &format!("upstream = \"{}\"", oauth.api.url()))
        .replace("127.0.0.1:8404", "127.0.0.1:0");
    assert!(!config.contains("= \"FILL-ME-IN\"") && !config.contains("https://FILL-ME-IN"), "{config}");
    write(directory, "tokenbroker.toml", &config);
    write(&directory.join("secrets"), "api_client_secret", OAuth2::CLIENT_SECRET);
    config
}

#[test]
fn once_filled_in_the_files_pass_check_online_and_serve() {
    let oauth = OAuth::start(crate::support::HOUR);
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(program(directory.path(), &["init"]).0, 0);
    let config = fill_in(directory.path(), &oauth);
    let (code, stdout, stderr) = program(directory.path(), &["check"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "tokenbroker.toml: ok (1 route, 1 token)\n", ""));
    let (code, stdout, stderr) = program(directory.path(), &["check", "--online"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let broker = Broker::start_in(directory, &config, |_| {});
    assert_eq!(broker.get("api", "/hello").status, 200);
    assert_eq!(oauth.oauth.faults.calls(), 1, "the broker goes on with the token of the check");
}

#[test]
fn nothing_is_written_if_anything_is_in_the_way_and_all_that_is_gets_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write(path, "tokenbroker.toml", "mine");
    std::fs::create_dir(path.join("store")).unwrap();
    std::os::unix::fs::symlink("/nowhere", path.join("compose.yaml")).unwrap();
    let (code, stdout, stderr) = program(path, &["init", "--compose"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    for name in ["tokenbroker.toml", "store", "compose.yaml"] {
        assert!(stderr.contains(name), "{stderr}");
    }
    assert!(!stderr.contains("secrets") && !path.join("secrets").exists(), "{stderr}");
    assert_eq!(read(path, "tokenbroker.toml"), "mine");

    let (code, stdout, _) = program(path, &["init", "--dir", "a folder"]);
    assert!(code == 0 && stdout.contains("  tokenbroker -c 'a folder/tokenbroker.toml' check\n"), "{stdout}");
    let (code, stdout, _) = program(path, &["init", "--dir", "new/folder"]);
    assert!(code == 0 && stdout.contains("  tokenbroker -c new/folder/tokenbroker.toml check --online\n"), "{stdout}");
    let before = read(path, "new/folder/secrets/store_key");
    let (code, _, stderr) = program(path, &["init", "--dir", "new/folder"]);
    assert!(code == 1 && stderr.contains("new/folder/secrets/store_key"), "{stderr}");
    assert_eq!(read(path, "new/folder/secrets/store_key"), before);

    let (code, _, stderr) = program(path, &["init", "--dir", "tokenbroker.toml/below"]);
    assert!(code == 1 && stderr.contains("tokenbroker.toml/below"), "{stderr}");
}

#[test]
fn secrets_and_the_store_are_private_from_the_start_and_each_key_is_new() {
    let mut keys = BTreeSet::new();
    for _ in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        // Whatever the umask gives away.
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 0; exec \"$0\" init; true", env!("CARGO_BIN_EXE_tokenbroker")]);
        let told = output(shell.current_dir(path));
        let mode = |file: &str| path.join(file).metadata().unwrap().permissions().mode() & 0o7777;
        let modes = ["secrets", "store", "secrets/store_key", "secrets/api_client_secret"].map(mode);
        assert_eq!(modes, [0o700, 0o700, 0o600, 0o600]);
        let key = read(path, "secrets/store_key");
        assert!(key.trim().len() >= 32 && !told.contains(key.trim()), "it is told where the key is, not the key");
        keys.insert(key);
        assert_eq!(program(path, &["check"]).0, 0);
    }
    assert_eq!(keys.len(), 2);
}

#[test]
fn each_of_several_dialects_has_a_port_of_its_own_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let (code, stdout, _) = program(directory.path(), &["init", "oauth2", "comap", "netrex"]);
    assert_eq!(code, 0);
    let config = read(directory.path(), "tokenbroker.toml");
    for (route, port) in [("api", 8404), ("comap", 8405), ("netrex", 8406)] {
        let listen = format!("[route.{route}]\nlisten = \"127.0.0.1:{port}\"");
        assert!(config.contains(&listen) && stdout.contains(&format!("  curl http://127.0.0.1:{port}/\n")), "{stdout}");
    }
    assert!(stdout.contains("  tokenbroker login netrex\n"), "{stdout}");
    assert!(!stdout.contains("login comap"), "{stdout}");
    assert!(program(directory.path(), &["check"]).1.contains("ok (3 routes, 3 tokens)"));
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["init", "comab"][..], "there is no built-in dialect \"comab\"; did you mean \"comap\"?"),
        (&["init", "comap", "comap"], "comap is named twice"),
        (&["init", "--compose", "--systemd"], "cannot be used with"),
        (&["-c", "mine.toml", "init"], "`init` makes a configuration of its own; leave out -c, or name the folder"),
    ] {
        let (code, _, stderr) = program(directory.path(), arguments);
        assert!(code == 2 && stderr.contains(words), "{arguments:?}: {code} {stderr}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Some vendor of every kind: a certificate, a header, a login, parameters.
const SEVERAL: [&str; 5] = ["init", "comodo-one", "comap", "netrex", "azure-ad-v1"];

fn several(place: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = program(directory.path(), &[&SEVERAL[..], &[place]].concat());
    assert_eq!(code, 0, "{stderr}");
    (directory, stdout)
}

#[test]
fn for_compose_the_configuration_its_secrets_and_its_store_are_mounted_where_it_looks_for_them() {
    let (directory, stdout) = several("--compose");
    assert_eq!(program(directory.path(), &["check"]).0, 0);
    assert!(stdout.contains("  docker compose run --rm tokenbroker check --online\n"), "{stdout}");
    assert!(!stdout.contains("  curl "), "nobody reaches the broker from here: {stdout}");
    let text = read(directory.path(), "compose.yaml");
    for odd in ["oauth2.toml", "api_secret", "build:"] {
        assert!(!text.contains(odd), "{odd}: {text}");
    }
    if !has("docker-compose") {
        return;
    }
    let shown = output(Command::new("docker-compose").args(["-f", "compose.yaml", "config"]).current_dir(&directory));
    let user = format!("user: {}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    for line in ["network_mode: service:tokenbroker", "read_only: true", user.as_str()] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    for (here, there) in [("tokenbroker.toml", "tokenbroker.toml:ro"), ("secrets", "secrets:ro"), ("store", "store:rw")]
    {
        let mounted = format!("{}/{here}:/etc/tokenbroker/{there}", directory.path().display());
        assert!(shown.contains(&mounted), "{mounted}\n{shown}");
    }
}

#[test]
fn for_kubernetes_the_manifests_are_valid_and_hold_what_the_configuration_names() {
    let (directory, stdout) = several("--kubernetes");
    let path = directory.path();
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 2);
    assert_eq!(path.join("config.yaml").metadata().unwrap().permissions().mode() & 0o777, 0o600, "it has the key");
    let config = read(path, "config.yaml");
    assert!(stdout.contains("  kubectl apply -f config.yaml -f statefulset.yaml\n"), "{stdout}");
    if has("kubernetes-validate") {
        for file in ["config.yaml", "statefulset.yaml"] {
            output(Command::new("kubernetes-validate").args(["--strict", "-k", "1.37"]).arg(path.join(file)));
        }
    }
    // As it is mounted in the pod, with every entry of the Secret as a file.
    let block = config.split("tokenbroker.toml: |\n").nth(1).unwrap().split("---\n").next().unwrap();
    let toml: String = block.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    write(path, "tokenbroker.toml", toml.replace("/run/secrets/tokenbroker/", "").replace("/var/lib/tokenbroker/", ""));
    let secrets = config.split("stringData:\n").nth(1).unwrap().lines().filter(|line| !line.starts_with("    "));
    for entry in secrets {
        let (name, value) = entry.trim().split_once(": ").unwrap();
        write(path, name, value.trim_matches('"').replace('|', UNFILLED));
    }
    let (code, stdout, stderr) = program(path, &["check"]);
    assert!(code == 0 && stdout.contains("ok (4 routes, 4 tokens)"), "{stderr}");
    assert!(stderr.lines().all(|line| line.contains("still to be filled in")), "{stderr}");
    let set = read(path, "statefulset.yaml");
    // Somebody logs in there: until then it is not ready, and is not to be killed.
    let lines = ["restartPolicy: Always", "fsGroupChangePolicy: OnRootMismatch", "http://127.0.0.1:8404/hello"];
    for line in lines.into_iter().chain(["failureThreshold: 3600\n"]) {
        assert!(set.contains(line), "{line}\n{set}");
    }
    let nobody = tempfile::tempdir().unwrap();
    assert_eq!(program(nobody.path(), &["init", "comap", "--kubernetes"]).0, 0);
    assert!(read(nobody.path(), "statefulset.yaml").contains("failureThreshold: 60\n"));
}

#[test]
fn for_systemd_no_check_is_told_that_would_look_for_a_certificate_before_the_service_has_it() {
    for (dialect, first) in [("oauth2", true), ("comodo-one", false)] {
        let directory = tempfile::tempdir().unwrap();
        let (code, stdout, _) = program(directory.path(), &["init", dialect, "--systemd"]);
        assert_eq!(code, 0);
        let command = "sudo env CREDENTIALS_DIRECTORY=secrets tokenbroker -c tokenbroker.toml check";
        assert_eq!(stdout.lines().any(|line| line.trim() == command), first, "{stdout}");
        assert!(stdout.contains("tokenbroker.toml check --online\n"), "once it runs: {stdout}");
        let mut check = binary();
        check.arg("check").current_dir(&directory).env("CREDENTIALS_DIRECTORY", directory.path().join("secrets"));
        assert_eq!(check.output().unwrap().status.success(), first);
    }
}

#[test]
fn for_systemd_every_secret_is_a_credential_of_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let (code, stdout, _) = program(directory.path(), &["init", "oauth2", "comap", "--systemd"]);
    assert_eq!(code, 0);
    let service = read(directory.path(), "tokenbroker.service");
    let credentials: Vec<_> = service.lines().filter_map(|line| line.strip_prefix("LoadCredential=")).collect();
    let names = ["store_key", "api_client_secret", "comap_client_secret", "comap_comap_key"];
    let wanted = names.map(|name| format!("{name}:/etc/tokenbroker/secrets/{name}"));
    assert_eq!(credentials, wanted);
    let config = read(directory.path(), "tokenbroker.toml");
    for name in names {
        assert!(config.contains(&format!("{{ credential = \"{name}\" }}")), "{name}: {config}");
    }
    assert!(stdout.contains("  sudo systemctl enable --now tokenbroker\n"), "{stdout}");
    if has("systemd-analyze") {
        let program = binary().get_program().to_str().unwrap().to_owned();
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "tokenbroker.service", service.replace("/usr/local/bin/tokenbroker", &program));
        let verify = ["verify", "--man=no", "./tokenbroker.service"];
        assert_eq!(output(Command::new("systemd-analyze").args(verify).current_dir(&place)), "");
    }
    let mut check = binary();
    check.arg("check").current_dir(&directory).env("CREDENTIALS_DIRECTORY", directory.path().join("secrets"));
    assert!(output(&mut check).contains("ok (2 routes, 2 tokens)"));
}

#[test]
fn a_placeholder_that_comes_while_the_broker_runs_is_sent_nowhere() {
    let oauth = OAuth::start(crate::support::HOUR);
    let mut broker = oauth.broker("", "");
    broker.wait_for_state("api", "valid");
    let config = oauth.config("", "");
    broker.reconfigure(&config.replace(OAuth2::CLIENT_ID, UNFILLED));
    let (code, _, stderr) = broker.reload();
    assert!(code != 0 && stderr.contains("token.api.client_id: is still to be filled in"), "{code} {stderr}");
    broker.reconfigure(&config);
    assert_eq!(broker.reload().0, 0);
    write(broker.directory.path(), "secret", UNFILLED);
    broker.admin("POST", "/api/tokens/api/refresh");
    eventually("the refresh fails", || {
        let error = broker.token("api")["last_error"].as_str().unwrap_or_default().to_owned();
        error.starts_with("config: the file ") && error.contains("secret is still to be filled in")
    });
    assert_eq!(oauth.oauth.faults.calls(), 1);
    assert_eq!(broker.get("api", "/").status, 200, "the token of before serves");
}
