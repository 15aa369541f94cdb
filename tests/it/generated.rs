use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::Value;

use crate::support::{binary, has, output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn printed(arguments: &[&str]) -> String {
    output(binary().args(arguments))
}

/// Every command as its words, `client list` among them, with its long flags.
fn commands() -> BTreeMap<String, BTreeSet<String>> {
    let (row, flag) = (Regex::new(r"^  ([a-z-]+)(  |$)").unwrap(), Regex::new(r"--[a-z][a-z-]*").unwrap());
    let (mut all, mut open) = (BTreeMap::new(), vec![String::new()]);
    while let Some(command) = open.pop() {
        let mut help = binary();
        help.args(command.split_whitespace()).arg("--help");
        let help = output(&mut help);
        let rows = help.split("\nCommands:\n").nth(1).unwrap_or_default().lines().take_while(|line| !line.is_empty());
        for name in rows.filter_map(|line| Some(row.captures(line)?[1].to_owned())).filter(|name| name != "help") {
            open.push(format!("{command} {name}").trim().to_owned());
        }
        let flags = flag.find_iter(&help).map(|found| found.as_str().to_owned()).collect();
        all.insert(command, flags);
    }
    assert!(all.len() > 20 && all.contains_key("client list"), "{:?}", all.keys());
    all
}

fn run_shell(shell: &str, arguments: &[&str], script: &str) -> String {
    let mut child = Command::new(shell).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{shell} {arguments:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn completions_are_right_for_their_shell_and_know_every_command_and_flag() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&["completions", shell]);
        for (command, flags) in commands() {
            let last = command.rsplit(' ').next().unwrap();
            assert!(script.contains(last), "{shell}: {command}");
            for flag in flags {
                assert!(script.contains(flag.trim_start_matches('-')), "{shell}: {command} {flag}");
            }
        }
        // The two that can look at a script without running it.
        if ["bash", "zsh"].contains(&shell) && has(shell) {
            run_shell(shell, &["-n"], &script);
        }
    }
    if has("bash") {
        for (typed, offered) in [
            ("che", "check"),
            ("client li", "list"),
            ("run --log-f", "--log-format"),
            ("run --log-level wa", "warn"),
            ("completions po", "powershell"),
        ] {
            let words: Vec<_> = typed.split(' ').collect();
            let ask = format!(
                "{}\nCOMP_WORDS=(tokenbroker {typed}); COMP_CWORD={}\n\
                 _tokenbroker tokenbroker {} {}\necho \"${{COMPREPLY[*]}}\"\n",
                printed(&["completions", "bash"]),
                words.len(),
                words.last().unwrap(),
                words.get(words.len().wrapping_sub(2)).unwrap_or(&"tokenbroker"),
            );
            assert_eq!(run_shell("bash", &["--norc"], &ask).trim(), offered, "{typed}");
        }
    }
    assert_eq!(binary().args(["completions", "tcsh"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn the_manual_page_of_each_command_renders_without_a_warning_and_says_what_the_help_says() {
    let groff = has("groff");
    for (command, flags) in commands() {
        let mut page = binary();
        let page = output(page.arg("man").args(command.split_whitespace()));
        let title = format!("tokenbroker {command}").trim().replace(' ', "-");
        assert!(page.contains(&format!(".TH {title} 1")), "{title}: {page}");
        let plain = page.replace("\\-", "-");
        for flag in flags {
            assert!(plain.contains(&flag), "{title}: {flag}");
        }
        if groff {
            let mut render = Command::new("groff");
            render.args(["-K", "utf8", "-man", "-Tutf8", "-ww", "-z"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut render = render.spawn().unwrap();
            render.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
            let said = render.wait_with_output().unwrap();
            assert!(said.status.success() && said.stderr.is_empty(), "{title}: {said:?}");
        }
    }
    let refused = binary().args(["man", "nothing"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("there is no command \"nothing\""), "{said}");
}

/// Every file below a folder with that ending.
fn files(folder: &str, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(path.to_str().unwrap(), ending, out);
        } else if path.to_str().unwrap().ends_with(ending) {
            out.push(path);
        }
    }
}

/// What users read.
fn docs() -> Vec<PathBuf> {
    let mut all = ["README.md", "CHANGELOG.md"].map(|name| Path::new(ROOT).join(name)).to_vec();
    files("docs", ".md", &mut all);
    assert!(all.len() >= 5);
    all
}

/// Reads a schema and files of TOML, and says what is wrong with each.
const VALIDATE: &str = "
import json, sys, tomllib
from jsonschema import Draft202012Validator
schema = json.loads(sys.stdin.read())
Draft202012Validator.check_schema(schema)
for name in sys.argv[1:]:
    with open(name, 'rb') as file:
        document = json.loads(json.dumps(tomllib.load(file), default=str))
    for error in Draft202012Validator(schema).iter_errors(document):
        print(name, list(error.path), error.message)
";

#[test]
fn another_reader_of_the_schema_accepts_the_examples_and_refuses_a_typo() {
    if !has("kubernetes-validate") {
        return;
    }
    // Its own reader of schemas is beside it.
    let python = format!("{ROOT}/target/venv/bin/python");
    let validate = |paths: &[PathBuf]| {
        let mut arguments = vec!["-c", VALIDATE];
        arguments.extend(paths.iter().map(|path| path.to_str().unwrap()));
        run_shell(&python, &arguments, &printed(&["schema"]))
    };
    let mut examples = Vec::new();
    files("examples", ".toml", &mut examples);
    assert!(examples.len() >= 8, "{examples:?}");
    assert_eq!(validate(&examples), "");
    let place = tempfile::tempdir().unwrap();
    for (wrong, word) in [
        ("[route.a]\nlisten = \"127.0.0.1:1\"\n", "upstream"),
        ("[admin]\nprobe = \"127.0.0.1:1\"\n", "probe"),
        ("[limits]\nconnections = 0\n", "connections"),
        ("[token.a]\nlimit = \"five\"\n", "limit"),
        ("[store]\nkind = \"disk\"\n", "kind"),
    ] {
        let path = place.path().join("wrong.toml");
        std::fs::write(&path, wrong).unwrap();
        assert!(validate(std::slice::from_ref(&path)).contains(word), "{wrong}");
    }
}

/// What is code in a text of Markdown: what stands between backticks, and the lines of blocks.
fn code(text: &str) -> Vec<String> {
    let (mut all, mut fenced, mut prose) = (Vec::new(), false, String::new());
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            all.push(line.trim().to_owned());
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    all.extend(prose.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")));
    all
}

#[test]
fn every_command_and_flag_that_the_docs_name_is_there() {
    let (commands, mut seen) = (commands(), BTreeSet::new());
    let call = Regex::new(r"^(?:.*[\s/(])?tokenbroker((?: [^`|;)]*)?)$").unwrap();
    let flag = Regex::new(r"(?:^|[\s\[|])(--[a-z][a-z-]*)").unwrap();
    for path in docs() {
        for line in code(&read(&path)) {
            // One call ends where a shell would end it.
            for part in line.split([';', '|', ')', '#', '"']).flat_map(|part| part.split("&&")) {
                let Some(found) = call.captures(part.trim_end()) else { continue };
                let before_child = found[1].split(" -- ").next().unwrap().to_owned();
                let words: Vec<_> = before_child.split_whitespace().collect();
                let mut words = words.iter().copied();
                let mut command = String::new();
                while let Some(word) = words.next() {
                    match word {
                        "-c" | "--config" | "--log-level" | "--log-format" => drop(words.next()),
                        word if word.starts_with('-') => {}
                        word => {
                            let longer = format!("{command} {word}").trim().to_owned();
                            if !commands.contains_key(&longer) {
                                break;
                            }
                            command = longer;
                        }
                    }
                }
                let first = before_child.split_whitespace().find(|word| word.chars().all(|c| c.is_ascii_lowercase()));
                let named = first.is_none_or(|word| word == "help" || !command.is_empty());
                assert!(named, "{}: there is no such command: {line}", path.display());
                for flag in flag.captures_iter(&before_child) {
                    assert!(commands[&command].contains(&flag[1]), "{}: {} in {line}", path.display(), &flag[1]);
                }
                seen.insert(command);
            }
        }
    }
    assert!(seen.len() >= 15, "{seen:?}");
}

/// Every key of the schema with its description, by dotted path with `*` for names.
fn keys(node: &Value, schema: &Value, path: &str, out: &mut BTreeMap<String, String>) {
    let node = match node.get("$ref").and_then(Value::as_str) {
        Some(to) => schema.pointer(to.trim_start_matches('#')).unwrap(),
        None => node,
    };
    for (key, value) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{key}").trim_start_matches('.').to_owned();
        keys(value, schema, &path, out);
        out.insert(path, value["description"].as_str().unwrap_or_default().to_owned());
    }
    for below in ["additionalProperties", "items"].iter().filter_map(|key| node.get(key)) {
        let path = if below == &node["additionalProperties"] { format!("{path}.*") } else { path.to_owned() };
        keys(below, schema, &path, out);
    }
    for branch in node.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        keys(branch, schema, path, out);
    }
}

fn known() -> BTreeMap<String, String> {
    let schema: Value = serde_json::from_str(&printed(&["schema"])).unwrap();
    let mut known = BTreeMap::new();
    keys(&schema, &schema, "", &mut known);
    assert!(known.len() > 100);
    known
}

#[test]
fn every_key_that_the_docs_set_is_in_the_schema() {
    let known = known();
    let words: BTreeSet<_> = known.keys().map(|key| key.rsplit('.').next().unwrap()).collect();
    let (set, table) = (Regex::new(r"^([a-z_]+[a-z_0-9]*) = ").unwrap(), Regex::new(r"^\[([a-z]+)[\].]").unwrap());
    let mut seen = BTreeSet::new();
    // In a dialect many names are the vendor's own; `config::the_reference_…` holds its language.
    for path in docs().into_iter().filter(|path| !path.ends_with("dialects.md")) {
        for line in code(&read(&path)) {
            let key = set.captures(line.trim_start_matches("# ")).map(|found| found[1].to_owned());
            let table = table.captures(&line).map(|found| found[1].to_owned());
            for word in [key, table].into_iter().flatten() {
                assert!(words.contains(word.as_str()), "{}: {word} in {line}", path.display());
                seen.insert(word);
            }
        }
    }
    assert!(seen.len() >= 30, "{seen:?}");
}

#[test]
fn the_defaults_of_the_reference_are_those_of_the_schema() {
    let reference = read("examples/reference.toml");
    let default = Regex::new(r"(?:^|[.;:] )`?([^`;.]*[^`;. ](?:\.[^`; ]+)*)`? when not given").unwrap();
    let (mut rows, mut table) = (BTreeMap::<String, Vec<String>>::new(), String::new());
    for line in reference.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let named = |(i, part)| if i == 1 { "*" } else { part };
            table = name.split('.').enumerate().map(named).collect::<Vec<_>>().join(".");
        } else if let Some((key, rest)) = line.split_once(" = ") {
            let value = rest.replace('"', "").to_lowercase();
            rows.entry(format!("{table}.{key}")).or_default().push(value);
        }
    }
    let mut compared = 0;
    for (key, description) in known() {
        let Some(value) = default.captures(&description).map(|found| found[1].to_lowercase()) else { continue };
        // What is described in words has no value to compare.
        if value.contains(' ') || ["off", "none", "all"].contains(&value.as_str()) || key.starts_with("dialect.") {
            continue;
        }
        // What stands within a line is not a row.
        let Some(shown) = rows.get(&key) else { continue };
        let says = |row: &String| {
            row.split(" #").next().unwrap().trim() == value || row.ends_with(&format!("default {value}"))
        };
        assert!(shown.iter().any(says), "{key}: {value} in the schema, {shown:?} in examples/reference.toml");
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
}
