use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::{binary, has, output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file below a folder with that ending, relative to the root.
pub fn files(folder: &str, ending: &str) -> Vec<String> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name == "node_modules") {
                continue;
            }
            if path.is_dir() { walk(&path, out) } else { out.push(path) }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(ROOT).join(folder), &mut out);
    let relative = out.iter().map(|path| path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned());
    let mut files: Vec<_> = relative.filter(|path| path.ends_with(ending)).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder}/**{ending}");
    files
}

/// The module at the top of the crate that a source file belongs to.
fn module(file: &str) -> &str {
    file.strip_prefix("src/").unwrap().split('/').next().unwrap().trim_end_matches(".rs")
}

/// A file without its unit tests.
pub fn production(file: &str) -> String {
    read(file).split("#[cfg(test)]").next().unwrap().to_owned()
}

const LAYERS: &[&[&str]] = &[
    &["clock", "units", "secret", "telemetry", "fields", "peer", "systemd"],
    &["problem", "identity", "expiry"],
    &["connect", "rotation"],
    &["oauth", "http1", "store", "otlp"],
    &["config", "door"],
    &["token"],
    &["proxy", "admin"],
    &["signal", "app", "server", "reload"],
    &["standin", "cli", "main", "lib"],
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let layer = |module: &str| {
        LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("{module} is in no layer"))
    };
    let proxy_may =
        ["clock", "config", "connect", "door", "fields", "http1", "identity", "peer", "problem", "secret", "telemetry"];
    let mut arrows = 0;
    for file in files("src", ".rs") {
        let from = module(&file);
        let text = production(&file);
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + "crate::".len()..];
            let to = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            if to == from || from == "lib" {
                continue;
            }
            arrows += 1;
            let fine = match (from, to) {
                ("proxy", "token") => rest.starts_with("token::cache::"),
                ("proxy", to) => proxy_may.contains(&to),
                ("server", "app") | ("reload", "app" | "server") => true,
                (from, to) => layer(to) < layer(from) || layer(from) == LAYERS.len() - 1,
            };
            assert!(fine, "{file}: {from} may not import {}", rest.lines().next().unwrap());
        }
    }
    assert!(arrows > 100, "{arrows}");
}

#[test]
fn the_protocol_engine_is_pure() {
    for file in files("src/oauth", ".rs") {
        let text = production(&file);
        let io = [
            "tokio::",
            "std::fs",
            "std::net::Tcp",
            "std::env",
            "Timestamp::now",
            "SystemTime::now",
            "Instant::now",
            "Clock",
        ];
        let allowed: &[&str] = if file == "src/oauth/client.rs" { &["tokio::"] } else { &[] };
        for word in io.iter().filter(|word| !allowed.contains(word)) {
            assert!(!text.contains(word), "{file} uses {word}");
        }
    }
}

#[test]
fn secrets_are_exposed_only_where_they_have_to_be() {
    let listed = BTreeMap::from([
        ("src/admin/logins.rs", "answers with a token whoever asks for it with the admin key"),
        ("src/admin/key.rs", "writes the admin key into its private file"),
        ("src/app/plan.rs", "makes the header values of a route"),
        ("src/cli/ask.rs", "sends the admin key to the running broker"),
        ("src/cli/init.rs", "writes the key of the store into its private file"),
        ("src/cli/login.rs", "hands a login's code and what proves it to the running broker"),
        ("src/cli/client.rs", "hands a new client's secret to the vendor and to its owner"),
        ("src/cli/demo.rs", "writes the demo's admin key into its private file"),
        ("src/cli/session/draft.rs", "puts what a person typed into the configuration of a session"),
        ("src/cli/token.rs", "prints an access token"),
        ("src/oauth/inputs.rs", "fills templates with credentials"),
        ("src/oauth/request.rs", "puts credentials into a token request"),
        ("src/oauth/response.rs", "checks a token's characters, reads a JWT's end"),
        ("src/oauth/words.rs", "masks secrets in messages"),
        ("src/rotation/record.rs", "writes client secrets into sealed records"),
        ("src/secret/file.rs", "writes a client secret into the operator's private file"),
        ("src/secret/mod.rs", "defines it"),
        ("src/secret/source.rs", "hands on what is written in the configuration itself"),
        ("src/store/redis/link.rs", "logs in at the Redis that replicas share"),
        ("src/token/kept.rs", "writes tokens into sealed records"),
        ("src/token/mod.rs", "makes the token's header values"),
        ("src/token/refusals.rs", "hashes what may be refused"),
    ]);
    let callers: BTreeSet<_> = files("src", ".rs")
        .into_iter()
        .filter(|file| production(file).contains("expose()") || production(file).contains("fn expose"))
        .collect();
    let callers: BTreeSet<_> = callers.iter().map(String::as_str).collect();
    assert_eq!(callers, listed.keys().copied().collect());
}

#[test]
fn no_vendor_is_named_in_rust() {
    // Of a built-in, the first word of its name; and what they are called besides.
    let built_in = files("src/oauth/dialects", ".toml");
    let built_in = built_in.iter().map(|file| file.rsplit('/').next().unwrap().split(['-', '.']).next().unwrap());
    let vendors: Vec<_> = built_in
        .filter(|name| *name != "oauth2")
        .chain([
            "camstreamer",
            "survilla",
            "itarian",
            "entra",
            "websupervisor",
            "cocoon",
            "lark",
            "hashicorp",
            "openstack",
        ])
        .collect();
    for file in files("src", ".rs").into_iter().filter(|file| !file.starts_with("src/standin")) {
        let text = read(&file).to_lowercase();
        for vendor in &vendors {
            let mut words = text.split(|c: char| !c.is_alphanumeric());
            assert!(!words.any(|word| word == *vendor), "{file} names {vendor}");
        }
    }
}

/// Files above the limit; the list may only get shorter.
const TOO_LONG: &[&str] = &[];

#[test]
fn files_are_short_say_what_they_are_for_and_leave_nothing_unfinished() {
    const LINES_MAX: usize = 330;
    let sources = files("src", ".rs");
    for file in &sources {
        let text = read(file);
        assert!(text.starts_with("//! "), "{file} does not say what it is for");
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX || TOO_LONG.contains(&file.as_str()), "{file} has {lines} lines");
    }
    for file in TOO_LONG {
        assert!(read(file).lines().count() > LINES_MAX, "{file} is short enough: take it off the list");
    }
    for file in sources.into_iter().chain(files("tests", ".rs")).filter(|file| file != "tests/it/tidy.rs") {
        let text = read(&file);
        for word in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX", "#[allow("] {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
}

/// The first column of the tables under a heading, without backticks.
fn column(text: &str, heading: &str, column: usize) -> Vec<String> {
    let section = text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.split('|').nth(column + 1).unwrap().trim().replace('`', "")).collect()
}

#[test]
fn the_module_table_of_the_architecture_equals_the_source_tree_and_its_layers_the_test() {
    let architecture = read("ARCHITECTURE.md");
    let listed: BTreeSet<_> = column(&architecture, "## Where things are", 0).into_iter().collect();
    let entries = std::fs::read_dir(Path::new(ROOT).join("src")).unwrap();
    let there: BTreeSet<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed, there);
    let layers: Vec<Vec<String>> = column(&architecture, "### What may import what", 1)
        .iter()
        .map(|cell| cell.split(", ").map(str::to_owned).collect())
        .collect();
    let tested: Vec<Vec<String>> =
        LAYERS.iter().map(|layer| layer.iter().filter(|m| **m != "lib").map(|m| (*m).to_owned()).collect()).collect();
    assert_eq!(layers, tested);
}

#[test]
fn the_tests_that_the_architecture_names_exist() {
    let architecture = read("ARCHITECTURE.md");
    let mut named = 0;
    for name in architecture
        .split('`')
        .filter(|word| word.contains("::") && word.chars().all(|c| c.is_ascii_lowercase() || c == ':' || c == '_'))
    {
        let (module, test) = name.split_once("::").unwrap();
        if !test.is_empty() {
            assert!(read(&format!("tests/it/{module}.rs")).contains(&format!("fn {test}(")), "{name}");
            named += 1;
        }
    }
    assert!(named >= 8, "{named}");
}

#[test]
fn the_readme_shows_the_help_text_and_the_two_commands() {
    let readme = read("README.md");
    for command in ["cargo run --release -- demo", "tests/run"] {
        assert!(readme.contains(command), "{command}");
    }
    let help = binary().arg("--help").env("COLUMNS", "100").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(readme.contains(help.trim()), "README.md does not show this help:\n{help}");
    for line in ["rustls-pemfile", "rustls-pki-types"] {
        assert!(readme.contains(line), "{line}");
    }
    assert!(read(".ci/run").contains("tests/run"));
}

#[test]
fn every_example_configuration_passes_check() {
    let examples = files("examples", ".toml");
    for example in &examples {
        let output = crate::docs::checked(&read(example));
        let stderr = String::from_utf8_lossy(&output.stderr);
        // Within one network of its own.
        let warned = example == "examples/compose-redis.toml" && stderr.contains("crosses the network unencrypted");
        assert!(output.status.success() && (stderr.is_empty() || warned), "{example}: {stderr}");
    }
    for name in ["reference", "oauth2", "comap", "vanco", "comodo-one", "covata", "netrex"] {
        assert!(examples.contains(&format!("examples/{name}.toml")), "{name}");
    }
}

/// Name and version of every package in the lock file.
fn locked() -> Vec<(String, String)> {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let text = |key: &str| package.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
            let source = text("source");
            let own = text("name") == "tokenbroker";
            assert!(
                own || source == "registry+https://github.com/rust-lang/crates.io-index",
                "{package} comes from elsewhere"
            );
            (text("name"), text("version"))
        })
        .collect()
}

fn number(version: &str) -> Vec<u64> {
    let numbers = version.split(['+', '-']).next().unwrap().split('.');
    numbers.map(|part| part.parse().unwrap()).collect()
}

#[test]
fn the_lock_file_has_no_banned_crate_no_known_hole_and_one_tls_provider() {
    let packages = locked();
    assert!(packages.len() > 100);
    let banned = [
        "openssl-sys",
        "openssl",
        "native-tls",
        "serde_yaml",
        "serde_yml",
        "backoff",
        "instant",
        "atty",
        "rsa",
        "reqwest",
        "rustls-pemfile",
        "aws-lc-rs",
        "aws-lc-sys",
        "oauth2",
        "jsonwebtoken",
    ];
    for (name, version) in &packages {
        assert!(!banned.contains(&name.as_str()), "{name} {version} is banned");
    }
    let minimum = [
        ("hyper", "1.11.0"),
        ("hyper-util", "0.1.20"),
        ("http", "1.4.2"),
        ("h2", "0.4.16"),
        ("rustls-webpki", "0.103.13"),
        ("bytes", "1.11.1"),
        ("tracing-subscriber", "0.3.20"),
        ("ring", "0.17.14"),
        ("rustls", "0.23.0"),
    ];
    for (name, least) in minimum {
        for (_, version) in packages.iter().filter(|(package, _)| package == name) {
            assert!(number(version) >= number(least), "{name} {version} is below {least}");
        }
    }
    for once in ["rustls", "ring", "tokio", "hyper", "http", "webpki-roots"] {
        assert_eq!(packages.iter().filter(|(name, _)| name == once).count(), 1, "{once}");
    }
    let manifest = read("Cargo.toml");
    for word in ["git =", "path = \"..", "[patch"] {
        assert!(!manifest.contains(word), "Cargo.toml has {word}");
    }
    assert!(manifest.contains("unsafe_code = \"forbid\""));
}

/// Licences under which anybody may use the program; an `OR` needs one of them, an `AND` all.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn permissive(expression: &str) -> bool {
    expression
        .replace(['(', ')'], "")
        .replace('/', " OR ")
        .split(" AND ")
        .all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn every_crate_has_a_permissive_licence_and_the_list_is_that_of_cargo_deny() {
    let host = output(std::process::Command::new("rustc").arg("-vV"));
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let mut cargo = std::process::Command::new("cargo");
    cargo
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host])
        .current_dir(ROOT);
    let metadata: serde_json::Value = serde_json::from_str(&output(&mut cargo)).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(permissive(licence), "{}: {licence}", package["name"]);
    }
    assert!(!permissive("GPL-3.0") && !permissive("MIT AND GPL-3.0") && permissive("MIT OR GPL-3.0"));
    let deny: toml::Table = read(".deny.toml").parse().unwrap();
    let allowed: Vec<_> = deny["licenses"]["allow"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert_eq!(allowed, LICENCES);
    if has("cargo-deny") {
        let mut deny = std::process::Command::new("cargo");
        output(deny.args(["deny", "--config", ".deny.toml", "check", "bans", "licenses", "sources"]).current_dir(ROOT));
    }
}

#[test]
fn no_private_key_is_committed_and_the_certs_folder_holds_only_its_readme() {
    let listed: BTreeSet<_> = std::fs::read_dir(Path::new(ROOT).join("certs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(listed.contains("README.md") && listed.contains(".gitignore"), "{listed:?}");
    let ignored = read("certs/.gitignore");
    assert_eq!(
        ignored.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(),
        ["*", "!README.md", "!.gitignore"]
    );
}

#[test]
fn every_metric_and_every_problem_code_is_documented() {
    let docs = read("docs/operations.md");
    let metrics = read("src/telemetry/metrics.rs");
    let mut found = 0;
    for line in
        metrics.lines().filter(|line| line.trim_start().starts_with("r.register") || line.trim().starts_with('"'))
    {
        let Some(name) = line.split('"').nth(1).filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        else {
            continue;
        };
        assert!(docs.contains(&format!("tokenbroker_{name}")), "tokenbroker_{name} is not in docs/operations.md");
        found += 1;
    }
    assert!(found >= 25, "{found}");
    for file in [
        "src/proxy/clients.rs",
        "src/proxy/error.rs",
        "src/proxy/hops.rs",
        "src/proxy/route.rs",
        "src/proxy/forward.rs",
        "src/proxy/mod.rs",
        "src/door.rs",
        "src/admin/mod.rs",
    ] {
        for code in read(file)
            .split('"')
            .filter(|word| word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        {
            let is_code = [
                "_refused",
                "_request",
                "_unavailable",
                "_rejected",
                "_required",
                "_unreachable",
                "_timeout",
                "_tls",
                "_protocol",
                "_route",
                "_long",
                "_failed",
            ];
            if is_code.iter().any(|ending| code.ends_with(ending))
                && !code.starts_with("http_")
                && !code.starts_with("connection_")
            {
                assert!(docs.contains(&format!("`{code}`")), "{code} ({file}) is not in docs/operations.md");
            }
        }
    }
}
