//! Where the broker is going to run: where its files are there, and what goes with them, made from `examples/`.

use std::path::Path;

use rustix::process::{getgid, getuid};
use zeroize::Zeroizing;

use super::starter::PEM;
use super::{Made, Starter, shown};
use crate::admin::quoted;
use crate::secret::source::UNFILLED;

const COMPOSE: &str = include_str!("../../../examples/compose.yaml");
const MANIFEST: &str = include_str!("../../../examples/kubernetes/store/config.yaml");
const STATEFULSET: &str = include_str!("../../../examples/kubernetes/store/statefulset.yaml");
const SERVICE: &str = include_str!("../../../examples/systemd/tokenbroker.service");

const HEAD: &str =
    "# Written by `tokenbroker init`. `tokenbroker check` says what is still to be filled in, and what is wrong.\n";

#[derive(Clone, Copy)]
pub(super) enum Place {
    Here,
    Compose,
    Kubernetes,
    Systemd,
}

impl Place {
    /// A secret, as it is named in the configuration.
    pub fn secret(self, name: &str) -> String {
        match self {
            Self::Systemd => format!("{{ credential = \"{name}\" }}"),
            _ => format!("{{ file = \"{}\" }}", self.file(name)),
        }
    }

    /// Where a file with a secret, a certificate or a key is.
    pub fn file(self, name: &str) -> String {
        match self {
            // Relative paths start at the configuration: here, and where compose puts it.
            Self::Here | Self::Compose => format!("secrets/{name}"),
            Self::Kubernetes => format!("/run/secrets/tokenbroker/{name}"),
            Self::Systemd => format!("/run/credentials/tokenbroker.service/{name}"),
        }
    }

    fn store(self) -> &'static str {
        match self {
            Self::Here | Self::Compose => "store",
            Self::Kubernetes => "/var/lib/tokenbroker/store",
            Self::Systemd => "/var/lib/tokenbroker",
        }
    }

    fn config(self, starters: &[Starter]) -> String {
        let admin = match self {
            Self::Kubernetes => format!("{}\n\n", probes()),
            _ => String::new(),
        };
        let key = self.secret("store_key");
        let mut text = format!("{admin}[store]\nkind = \"file\"\npath = \"{}\"\nkey = {key}\n", self.store());
        for starter in starters {
            text.push_str(&format!("\n{}", starter.text));
        }
        text
    }

    pub fn files(self, starters: &[Starter], key: &str) -> Vec<Made> {
        let config = self.config(starters);
        if matches!(self, Self::Kubernetes) {
            return vec![
                Made::private("config.yaml", manifest(&config, starters, key)),
                Made::file("statefulset.yaml", statefulset(starters)),
            ];
        }
        let mut made = vec![
            Made::file("tokenbroker.toml", format!("{HEAD}\n{config}")),
            Made::folder("secrets"),
            Made::file("secrets/.gitignore", "*\n".to_owned()),
            Made::private("secrets/store_key", format!("{key}\n")),
        ];
        let secrets = starters.iter().flat_map(|starter| &starter.secrets);
        made.extend(secrets.map(|name| Made::private(&format!("secrets/{name}"), format!("{UNFILLED}\n"))));
        match self {
            Self::Compose => made.push(Made::file("compose.yaml", compose())),
            Self::Systemd => made.push(Made::file("tokenbroker.service", service(starters))),
            Self::Here | Self::Kubernetes => {}
        }
        if !matches!(self, Self::Systemd) {
            made.push(Made::folder("store"));
        }
        made
    }

    /// What to do next, a command each.
    pub fn commands(self, dir: &Path, starters: &[Starter]) -> Vec<String> {
        let file = |name: &str| quoted(&shown(dir, Path::new(name))).into_owned();
        let named = |flag: &str, name: &str| match dir == Path::new(".") {
            true => String::new(),
            false => format!(" {flag} {}", file(name)),
        };
        let logins = |program: &str, flag: &str| -> Vec<String> {
            let persons = starters.iter().filter(|starter| starter.logs_in);
            persons.map(|starter| format!("{program} login {}{flag}", starter.name)).collect()
        };
        let curls = || starters.iter().map(|starter| format!("curl http://127.0.0.1:{}/", starter.port)).collect();
        let steps: Vec<Vec<String>> = match self {
            Self::Here => {
                let program = format!("tokenbroker{}", named("-c", "tokenbroker.toml"));
                let [check, run] = ["check", "run"].map(|command| vec![format!("{program} {command}")]);
                vec![check, logins(&program, ""), vec![format!("{program} check --online")], run, curls()]
            }
            Self::Compose => {
                let compose = format!("docker compose{}", named("-f", "compose.yaml"));
                let program = format!("{compose} run --rm tokenbroker");
                let online = vec![format!("{program} check --online"), format!("{compose} up")];
                vec![vec![format!("{program} check")], logins(&program, " --paste"), online]
            }
            Self::Kubernetes => {
                let apply = format!("kubectl apply -f {} -f {}", file("config.yaml"), file("statefulset.yaml"));
                let program = "kubectl exec -it legacy-app-0 -c tokenbroker -- /tokenbroker";
                let logs = "kubectl logs legacy-app-0 -c application".to_owned();
                let online = vec![format!("{program} check --online"), logs];
                vec![vec![apply], logins(program, " --paste"), online]
            }
            Self::Systemd => {
                let program = |secrets: &str, config: &str| {
                    format!("sudo env CREDENTIALS_DIRECTORY={secrets} tokenbroker -c {config}")
                };
                let (secrets, config) = (file("secrets"), file("tokenbroker.toml"));
                // A certificate is a file that is there while the service runs: what is wrong is then in its log.
                let ready = starters.iter().all(|starter| !starter.has_identity());
                let check = ready.then(|| format!("{} check", program(&secrets, &config)));
                let copies = [
                    "sudo mkdir -p /etc/tokenbroker".to_owned(),
                    format!("sudo cp -r {config} {secrets} /etc/tokenbroker/"),
                ];
                let there = dir == Path::new("/etc/tokenbroker");
                let start = [
                    format!("sudo cp {} /etc/systemd/system/", file("tokenbroker.service")),
                    "sudo systemctl daemon-reload".to_owned(),
                    "sudo systemctl enable --now tokenbroker".to_owned(),
                ];
                let program = program("/etc/tokenbroker/secrets", "/etc/tokenbroker/tokenbroker.toml");
                let copies = if there { Vec::new() } else { copies.to_vec() };
                let online = vec![format!("{program} check --online")];
                vec![check.into_iter().collect(), copies, start.to_vec(), logins(&program, ""), online, curls()]
            }
        };
        steps.concat()
    }
}

/// Without the comment that it begins with, which speaks of the examples.
fn without_head(example: &str) -> String {
    let lines = example.lines().skip_while(|line| line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Whoever logs in does so within the pod, which has to be there for an hour.
fn statefulset(starters: &[Starter]) -> String {
    let text = without_head(STATEFULSET);
    match starters.iter().any(|starter| starter.logs_in) {
        true => text.replace("failureThreshold: 60\n", "failureThreshold: 3600\n"),
        false => text,
    }
}

/// The configuration, its secrets and its store beside it, as the user who has them.
fn compose() -> String {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let volumes = ["tokenbroker.toml:/etc/tokenbroker/tokenbroker.toml:ro", "secrets:/etc/tokenbroker/secrets:ro"];
    let volumes = format!("\"./{}\", \"./store:/etc/tokenbroker/store\"", volumes.join("\", \"./"));
    let services = without_head(COMPOSE);
    let services = services.split("\nsecrets:\n").next().unwrap_or_default();
    let services = services
        .replace("    build: ..\n", "")
        .replace("    secrets: [api_secret]\n", &format!("    user: \"{uid}:{gid}\"\n"))
        .replace("\"./oauth2.toml:/etc/tokenbroker/tokenbroker.toml:ro\"", &volumes);
    format!(
        "# Both share one network: the application reaches the broker on 127.0.0.1, and nobody else does.\n\
         # The image: docker build -t tokenbroker, in its source. The broker runs as the owner of the secrets.\n{services}"
    )
}

/// ConfigMap and Secret.
fn manifest(config: &str, starters: &[Starter], key: &str) -> Zeroizing<String> {
    let (config_map, secret) = MANIFEST.split_once("---\n").unwrap_or_default();
    let start = config_map.split_inclusive("tokenbroker.toml: |\n").next().map(without_head).unwrap_or_default();
    let secret = secret.split_inclusive("stringData:\n").next().unwrap_or_default();
    let mut text = Zeroizing::new(format!("{HEAD}{start}"));
    for line in config.lines() {
        text.push_str(if line.is_empty() { "" } else { "    " });
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!("---\n{secret}"));
    text.push_str("  store_key: \"");
    text.push_str(key);
    text.push_str("\"\n");
    for name in starters.iter().flat_map(|starter| &starter.secrets) {
        // A certificate and a key have more than one line.
        let (open, close) = if name.ends_with(PEM) { ("|\n    ", "") } else { ("\"", "\"") };
        text.push_str(&format!("  {name}: {open}{UNFILLED}{close}\n"));
    }
    text
}

/// What lets a kubelet look after the broker.
fn probes() -> String {
    let config = MANIFEST.split("tokenbroker.toml: |\n").nth(1).unwrap_or_default();
    let table = config.split("\n\n").next().unwrap_or_default();
    table.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

/// With a credential for each of the secrets.
fn service(starters: &[Starter]) -> String {
    let names = ["store_key"].into_iter().chain(starters.iter().flat_map(|s| s.secrets.iter().map(String::as_str)));
    let load = |name: &str| format!("LoadCredential={name}:/etc/tokenbroker/secrets/{name}\n");
    let mut ours: Option<String> = Some(names.map(load).collect());
    let mut text = String::new();
    for line in SERVICE.lines() {
        match line.starts_with("LoadCredential=") {
            true => text.push_str(&ours.take().unwrap_or_default()),
            false => text.push_str(&format!("{line}\n")),
        }
    }
    text
}
