use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::{binary, output, write};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every page of the project, relative to its root, with its text.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut folders: Vec<_> = ["", ".github", "docs"].map(PathBuf::from).into();
    folders.extend(["benches/side-by-side", "certs", "tests/corpus"].map(PathBuf::from));
    let mut pages = BTreeMap::new();
    for folder in folders {
        for entry in std::fs::read_dir(Path::new(ROOT).join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.extension().is_some_and(|ending| ending == "md") {
                let text = read(&path);
                pages.insert(path, text);
            }
        }
    }
    assert!(pages.len() > 10, "{:?}", pages.keys());
    pages
}

/// The lines of a page, and whether each is code: between fences, or indented.
fn lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        Some((fenced || line.starts_with("    "), line))
    })
}

/// What is not code of its own lines.
fn prose(text: &str) -> String {
    lines(text).filter(|(code, _)| !code).map(|(_, line)| format!("{line}\n")).collect()
}

/// What is code: lines, and what stands between backticks.
fn code(text: &str) -> Vec<String> {
    let own = lines(text).filter(|(code, _)| *code).map(|(_, line)| line.to_owned());
    own.chain(prose(text).split('`').skip(1).step_by(2).map(|part| part.replace('\n', " "))).collect()
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let heading = heading.trim().to_lowercase().replace(' ', "-");
    heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// The headings of a page, as links name them: a second one of the same name has a number.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let headings = lines(text).filter(|(code, line)| !code && line.starts_with('#'));
    let headings = headings.filter_map(|(_, line)| line.trim_start_matches('#').strip_prefix(' '));
    headings
        .map(|heading| {
            let name = anchor(heading);
            let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_default();
            if *count == 0 { name } else { format!("{name}-{count}") }
        })
        .collect()
}

/// `docs/../README.md` as `README.md`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." { assert!(out.pop(), "{}", path.display()) } else { out.push(part) }
    }
    out
}

#[test]
fn every_relative_link_leads_to_a_file_and_to_its_heading() {
    assert_eq!(anchor("Why `path_refused`"), "why-path_refused");
    let pages = pages();
    let mut followed = 0;
    for (page, text) in &pages {
        let prose: String = prose(text).split('`').step_by(2).collect();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http://") || link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { page.clone() } else { plain(&page.parent().unwrap().join(file)) };
            assert!(Path::new(ROOT).join(&target).exists(), "{}: there is no {link}", page.display());
            if let Some(heading) = heading {
                assert!(anchors(&read(&target)).contains(heading), "{}: no heading {link}", page.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "{followed}");
}

/// What `check` says of a configuration as it is shown, with everything there that it names.
pub fn checked(text: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let pki = path.join("certs");
    std::fs::create_dir_all(&pki).unwrap();
    std::fs::create_dir_all(path.join("secrets")).unwrap();
    let ca = tokenbroker::standin::pki::Pki::new(&pki).unwrap();
    ca.issue(&tokenbroker::standin::pki::Leaf::client("comodo", 1)).unwrap();
    let text = text.replace("/run/secrets/", "secrets/").replace("/var/lib/tokenbroker", "store");
    // As files, and as the credentials of a unit of systemd.
    for before in ["file = \"secrets/", "credential = \""] {
        for secret in text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap()) {
            write(&path.join("secrets"), secret, "a secret of thirty-two characters");
        }
    }
    let file = write(path, "tokenbroker.toml", text);
    binary().arg("-c").arg(file).arg("check").env("CREDENTIALS_DIRECTORY", path.join("secrets")).output().unwrap()
}

#[test]
fn every_whole_configuration_in_the_documentation_passes_check() {
    let mut whole = 0;
    for (page, text) in pages() {
        for block in text.split("\n```toml\n").skip(1) {
            let block = block.split("\n```").next().unwrap();
            let parsed = block.parse::<toml::Table>();
            assert!(parsed.is_ok(), "{}: {parsed:?}\n{block}", page.display());
            if !block.contains("[route.") {
                continue;
            }
            let output = checked(block);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && stderr.is_empty(), "{}: {stderr}\n{block}", page.display());
            whole += 1;
        }
    }
    assert!(whole > 8, "{whole}");
}

/// What `--help` says of a command.
fn help(command: &[&str]) -> String {
    output(binary().args(command).arg("--help"))
}

/// A command line that a page shows: the commands, one below the other, and their options.
fn shown(code: &str) -> Option<(Vec<&str>, Vec<&str>)> {
    let end = code.find(['|', '#', ';', '<', '>', ')']).unwrap_or(code.len());
    let end = code.find(" -- ").unwrap_or(end).min(end);
    let mut words = code[..end].split_whitespace().map(|word| word.trim_matches(['[', ']', '…', ',', '.'])).peekable();
    let mut options = Vec::new();
    while words.peek().is_some_and(|word| word.starts_with('-') && *word != "--") {
        options.extend(words.next());
        words.next();
    }
    let name = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let mut commands = vec![words.next().filter(name)?];
    if ["client", "secret", "store"].contains(&commands[0]) {
        commands.extend(words.next_if(name));
    }
    options.extend(words.filter(|word| word.starts_with("--") && word.len() > 2));
    Some((commands, options))
}

#[test]
fn every_command_that_the_documentation_shows_exists_with_its_options() {
    assert_eq!(shown("client register N [--id ID] > x"), Some((vec!["client", "register"], vec!["--id"])));
    assert_eq!(shown("-c FILE exec -- sh --no"), Some((vec!["exec"], vec!["-c"])));
    assert_eq!(shown("token N --header)\" https://x"), Some((vec!["token"], vec!["--header"])));
    assert_eq!(shown("-- /tokenbroker check"), None);
    assert_eq!(shown("0.1.0, since"), None);
    let pages: Vec<_> = pages().into_iter().map(|(page, text)| (page, code(&text))).collect();
    let mut known: BTreeMap<Vec<&str>, String> = BTreeMap::from([(vec![], help(&[]))]);
    for (page, parts) in &pages {
        for part in parts {
            for (at, name) in part.match_indices("tokenbroker ") {
                let inside = part[..at].ends_with(|c: char| c.is_alphanumeric() || "/-_.".contains(c));
                let Some((commands, options)) = shown(&part[at + name.len()..]).filter(|_| !inside) else {
                    continue;
                };
                let here = format!("{}: {part}", page.display());
                assert!(known[&vec![]].contains(&format!("\n  {} ", commands[0])), "{here}: no such command");
                let help = known.entry(commands.clone()).or_insert_with(|| help(&commands));
                for option in options {
                    let there = help.split([' ', ',', '\n', '=']).any(|word| word == option);
                    assert!(there, "{here}: no option {option}");
                }
            }
        }
    }
    assert!(known.len() > 15, "{:?}", known.keys());
}

/// The keys of the schema, by their table: `route.*`, `route.*.clients`.
fn schema_keys(node: &Value, table: &str, tables: &mut BTreeMap<String, BTreeSet<String>>) {
    if let Some(keys) = node["properties"].as_object() {
        for (key, value) in keys {
            let path = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
            if value["properties"].is_object() && key != "verify" {
                schema_keys(value, &path, tables);
            } else if value["additionalProperties"]["properties"].is_object() {
                schema_keys(&value["additionalProperties"], &format!("{path}.*"), tables);
                continue;
            }
            tables.entry(table.to_owned()).or_default().insert(key.clone());
        }
    }
}

#[test]
fn the_page_on_the_configuration_has_every_key_with_the_default_of_the_reference() {
    let schema: Value = serde_json::from_str(&output(binary().arg("schema"))).unwrap();
    let mut keys = BTreeMap::new();
    schema_keys(&schema, "", &mut keys);
    keys.retain(|table, _| !table.is_empty() && !table.starts_with("dialect."));
    let mut values: Vec<(String, String)> = Vec::new();
    let mut table = String::new();
    for line in read("examples/reference.toml").lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let parts = name.split('.').enumerate().map(|(i, part)| if i == 1 { "*" } else { part });
            table = parts.collect::<Vec<_>>().join(".");
        } else if line.contains(" = ") {
            values.push((table.clone(), format!("{line} ")));
        }
    }
    let page = read("docs/configuration.md");
    let (mut listed, mut defaults): (BTreeMap<String, BTreeSet<String>>, _) = (BTreeMap::new(), 0);
    for section in page.split("\n## `[").flat_map(|part| part.split("\n### `[")).skip(1) {
        let table = section.split(']').next().unwrap().replace("NAME", "*");
        let rows = section.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
        for row in rows {
            let cells: Vec<_> = row.split(" | ").collect();
            let key = cells[0].split('`').nth(1).unwrap();
            if let Some(default) = cells[1].split('`').nth(1) {
                // Where the reference shows an example, the default stands behind it.
                let (value, said) = (format!("{key} = {default} "), format!("default {default} "));
                let fits = |line: &str| line.starts_with(&value) || line.ends_with(&said);
                let there = values.iter().any(|(of, line)| *of == table && fits(line));
                assert!(there, "not in examples/reference.toml: [{table}] {value}");
                defaults += 1;
            }
            assert!(listed.entry(table.clone()).or_default().insert(key.to_owned()), "{table}.{key} twice");
        }
    }
    assert_eq!(listed, keys, "docs/configuration.md, and the schema");
    assert!(defaults > 30, "{defaults}");
}

#[test]
fn every_page_can_be_found_from_the_readme() {
    let pages = pages();
    let mut found = BTreeSet::from([PathBuf::from("README.md")]);
    let mut next = vec![PathBuf::from("README.md")];
    while let Some(page) = next.pop() {
        for link in pages[&page].split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let target = page.parent().unwrap().join(link);
            if !link.contains("://") && pages.contains_key(&plain(&target)) && found.insert(plain(&target)) {
                next.push(plain(&target));
            }
        }
    }
    let docs: BTreeSet<_> = pages.keys().filter(|page| page.starts_with("docs")).cloned().collect();
    assert!(found.is_superset(&docs), "not linked: {:?}", docs.difference(&found));
}
