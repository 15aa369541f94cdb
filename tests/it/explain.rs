use std::collections::BTreeSet;

use serde::Deserialize;
use tokenbroker::oauth::builtin::{BUILT_IN, built_in, extended};
use tokenbroker::token::cache::State;
use toml::{Table, Value};

use crate::support::{binary, output};

const PAGES: &str = include_str!("../../docs/errors.md");

/// Exit status, stdout, stderr.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = binary().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn is_code(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The words between quotation marks that look like codes.
fn quoted(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).filter(|word| is_code(word)).map(str::to_owned).collect()
}

/// The codes in the first heading of a section, in its tables' cells of that column.
fn documented(heading: &str, column: usize) -> Vec<String> {
    let docs = include_str!("../../docs/operations.md");
    let section = docs.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.split('|').nth(column)).filter_map(|cell| cell.split('`').nth(1));
    cells.filter(|word| is_code(word) && *word != "code").map(str::to_owned).collect()
}

/// All that a built-in's rules know by name: codes, and numbers with letters before them in messages.
fn of_dialects() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (name, text) in BUILT_IN {
        let table: Table = text.parse().unwrap();
        for rule in table.get("error").and_then(Value::as_array).into_iter().flatten() {
            let Some(when) = rule.get("when") else { continue };
            match when.get("code") {
                Some(Value::String(code)) => drop(codes.insert(code.clone())),
                Some(Value::Array(all)) => codes.extend(all.iter().map(|code| code.as_str().unwrap().to_owned())),
                Some(other) => panic!("{name}: {other}"),
                None => {}
            }
            let message = when.get("message").and_then(Value::as_str).unwrap_or_default();
            let known = ["AADSTS7000222", "AADSTS7000215", "AADSTS700016"];
            let regex = regex::Regex::new(message).unwrap();
            codes.extend(
                known.iter().filter(|code| !message.is_empty() && regex.is_match(code)).map(|c| (*c).to_owned()),
            );
        }
    }
    codes
}

#[test]
fn every_class_state_and_code_has_a_page_that_says_what_happened_and_what_to_do() {
    let headings = PAGES.lines().filter_map(|line| line.strip_prefix("### "));
    let codes: Vec<_> = headings.flat_map(|line| line.split('`').skip(1).step_by(2)).map(str::to_lowercase).collect();
    let known: BTreeSet<_> = codes.iter().cloned().collect();
    assert_eq!(known.len(), codes.len(), "each has one page");
    let classes = quoted(
        include_str!("../../src/oauth/error.rs").split("fn as_str").nth(1).unwrap().split("fn passes").next().unwrap(),
    );
    let refusal = include_str!("../../src/oauth/refusal.rs");
    let standard = quoted(refusal.split("fn by_default").nth(1).unwrap().split("\nfn ").next().unwrap());
    let answers = documented("What the application sees", 2);
    let states = documented("States of a token", 1);
    assert!((classes.len(), states.len() >= 6, answers.len() >= 23, standard.len() >= 14) == (8, true, true, true));
    let states = states.into_iter().chain(State::ALL.map(str::to_owned));
    for code in states.chain(classes).chain(answers).chain(standard).chain(of_dialects()) {
        assert!(known.contains(&code.to_lowercase()), "docs/errors.md has no page on {code}");
    }
    for page in PAGES.split("\n### ").skip(1) {
        let page = page.split("\n## ").next().unwrap();
        let parts: Vec<_> = page.trim().split("\n\n").skip(1).collect();
        let begins = ["**What happened.** ", "**What the broker does.** ", "**What to do.** "];
        assert!(parts.len() == 3 && parts.iter().zip(begins).all(|(part, begin)| part.starts_with(begin)), "{page}");
        for named in page.split("lass `").skip(1).chain(page.split(" As `").skip(1)) {
            let named = named.split('`').next().unwrap();
            assert!(known.contains(named), "{named}, of {page}");
        }
    }
}

#[test]
fn explain_prints_the_page_of_a_code_and_lists_all_of_them() {
    for (code, words) in [
        ("AADSTS7000222", "Make a new client secret at the vendor"),
        ("7000222", "Make a new client secret at the vendor"),
        ("Invalid_Client", "whether `client_auth` is what the server expects"),
        ("invalid_grant", "Log in again"),
        ("invalid_token", "one refresh and one replay"),
        ("token_unavailable", "503: there is no usable token for now."),
        ("needs_login", "tokenbroker login TOKEN"),
        ("user_action", "names the certificate with subject, serial number and dates"),
    ] {
        let (status, page, stderr) = run(&["explain", code]);
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{code}");
        assert!(page.replace('\n', " ").contains(words) && !page.contains("**"), "{page}");
        assert!(page.to_lowercase().lines().next().unwrap().contains(&code.to_lowercase()), "{page}");
    }
    let (status, list, _) = run(&["explain"]);
    assert_eq!(status, Some(0));
    for code in PAGES.lines().filter_map(|line| line.strip_prefix("### ")) {
        let line = format!("\n  {}\n", code.replace('`', ""));
        assert!(list.contains(&line), "{code}: {list}");
    }
}

#[test]
fn an_unknown_code_or_dialect_names_the_nearest_and_is_a_usage_error() {
    for (arguments, near) in [
        (["explain", "invalid_clint"], "did you mean `invalid_client`?"),
        (["explain", "aadsts700022"], "did you mean `AADSTS7000222`?"),
        (["explain", "completely different"], "`tokenbroker explain` lists them all"),
        (["dialects", "comodo-on"], "did you mean \"comodo-one\"?"),
        (["dialects", "completely different"], "`tokenbroker dialects` lists them all"),
    ] {
        let (status, stdout, stderr) = run(&arguments);
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(near) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn dialects_lists_every_built_in_with_what_it_needs() {
    let list = output(binary().arg("dialects"));
    assert_eq!(list.lines().count(), BUILT_IN.len());
    for (line, (name, text)) in list.lines().zip(BUILT_IN) {
        let table: Table = text.parse().unwrap();
        let (about, needs) = (table["about"].as_str().unwrap(), built_in(name).unwrap().needs.join(", "));
        assert_eq!(line.split_whitespace().next(), Some(*name));
        assert!(line.ends_with(&format!("  {about}; needs {needs}")), "{line}");
    }
}

#[test]
fn a_built_in_is_printed_as_a_table_that_can_be_copied_and_means_the_same() {
    #[derive(Deserialize)]
    struct Copied {
        dialect: Table,
    }
    for (name, text) in BUILT_IN {
        let (status, copy, _) = run(&["dialects", name]);
        assert_eq!(status, Some(0));
        assert!(copy.starts_with("# ") && !copy.contains("[[example]]"), "{copy}");
        let copied: Copied = toml::from_str(&copy).unwrap_or_else(|e| panic!("{name}: {e}\n{copy}"));
        let mut original: Table = text.parse().unwrap();
        original.remove("example");
        let own = copied.dialect[&format!("my-{name}")].as_table().unwrap();
        assert_eq!(*own, original, "{name}");
        assert!(extended("own", own).is_ok(), "{name}");
    }
    // As somebody would use it.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/comap.toml")).unwrap();
    let example = example.replace("dialect = \"comap\"", "dialect = \"my-comap\"").replace("/run/secrets/", "");
    for secret in ["comap_secret", "comap_key"] {
        crate::support::write(path, secret, "s");
    }
    let (_, copy, _) = run(&["dialects", "comap"]);
    let file = crate::support::write(path, "t.toml", format!("{example}\n{copy}"));
    let (status, _, stderr) = run(&["-c", file.to_str().unwrap(), "check"]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
}
