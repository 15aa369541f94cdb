use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokenbroker::config::Rotate;
use tokenbroker::oauth::builtin::{BUILT_IN, built_in};
use tokenbroker::oauth::file::Grant;
use tokenbroker::secret::source::SecretSource;

use crate::support::{binary, run_to_end, write};

const ROUTE: &str = "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\n";

/// `check` in a directory that holds these files.
fn check_in(directory: &Path, config: &str) -> (i32, String, String) {
    let file = write(directory, "tokenbroker.toml", config);
    let output = binary().arg("-c").arg(&file).arg("check").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&format!("{}/", directory.display()), "");
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn check(config: &str) -> (i32, String, String) {
    check_in(tempfile::tempdir().unwrap().path(), config)
}

/// The problems of a configuration, a line each; the exit status must be 78.
#[track_caller]
fn problems(config: &str) -> Vec<String> {
    let (code, _, stderr) = check(config);
    assert_eq!(code, 78, "{stderr}");
    stderr.lines().filter(|line| !line.starts_with("warning:")).map(str::to_owned).collect()
}

#[track_caller]
fn problem(config: &str, expected: &str) {
    let problems = problems(config);
    assert!(problems.iter().any(|line| line == expected), "not there: {expected}\nbut: {problems:#?}");
}

#[test]
fn all_mistakes_are_named_at_once_each_with_line_column_key_and_a_way_out() {
    let config = r#"
[limits]
conections = 10
head_timeout = "10 sec"

[token.api]
grant = "passwrd"
url = "http://auth.example.com/token"
client_secret = { fil = "x" }
eager = "yes"
refresh_at = 3
scope = ["a b"]

[route.api]
listen = "0.0.0.0:8403"
upstream = "https://api.example.com?x=1"
identity = "nobody"
header = "Content-Length"

[route.other]
listen = "127.0.0.1:8404"
upstream = "https://api.example.com"
token = "ap"
"#;
    let expected = [
        "tokenbroker.toml:3:1: limits.conections: unknown key; did you mean `connections`?",
        "tokenbroker.toml:4:16: limits.head_timeout: \"10 sec\" is not understood; a duration is written like \"10s\", \"500ms\", \"5m\", \"1h30m\" or \"7d\"",
        "tokenbroker.toml:6:8: token.api: the client authentication needs `client_id`; the vendor gave one when the client was registered; or set another client_auth",
        "tokenbroker.toml:7:9: token.api.grant: \"passwrd\" is not known here; did you mean \"password\"? one of client_credentials, password, authorization_code, refresh_token, static",
        "tokenbroker.toml:8:7: token.api.url: credentials would cross the network unencrypted; use https://",
        "tokenbroker.toml:9:19: token.api.client_secret.fil: unknown key; did you mean `file`?",
        "tokenbroker.toml:10:9: token.api.eager: expected true or false, found text in quotes",
        "tokenbroker.toml:11:14: token.api.refresh_at: 3 is out of range; from 0.1 to 0.95",
        "tokenbroker.toml:12:10: token.api.scope.0: a scope is one word; write a list: [\"read\", \"write\"]",
        "tokenbroker.toml:15:10: route.api.listen: other machines could use the token: only loopback addresses are allowed; listen on 127.0.0.1, [::1] or unix:/path; or set unsafe_listen = true, and `clients`",
        "tokenbroker.toml:16:12: route.api.upstream: is not a usable URL; no user name, query or fragment belongs here",
        "tokenbroker.toml:17:12: route.api.identity: there is no [identity.nobody]; add it",
        "tokenbroker.toml:18:10: route.api.header: the broker sets this field itself; choose the field that the API reads the token from",
        "tokenbroker.toml:23:9: route.other.token: there is no [token.ap]; did you mean \"api\"?",
    ];
    assert_eq!(problems(config), expected);
}

#[test]
fn syntax_errors_and_duplicate_keys_have_their_place_and_do_not_quote_the_line() {
    let config = format!("{ROUTE}token = false\nlisten = \"127.0.0.1:1\"\n[token.x]\npassword = \"geheimnis\n");
    let problems = problems(&config);
    assert!(
        problems.iter().any(|line| line.starts_with(
            "tokenbroker.toml:5:1: route.api.listen: stands here twice, first in line 2; remove one of them"
        )),
        "{problems:#?}"
    );
    assert!(problems.iter().any(|line| line.starts_with("tokenbroker.toml:7:")), "{problems:#?}");
    assert!(!problems.concat().contains("geheimnis"), "{problems:#?}");
}

#[test]
fn a_value_of_the_wrong_type_never_shows_a_secret() {
    let config = format!(
        "{ROUTE}token = false\nheaders = {{ Comap-Key = [\"geheimnis\"] }}\n[token.x]\npassword = [\"geheimnis\"]\n"
    );
    let shown = problems(&config).concat();
    assert!(shown.contains("expected text in quotes or a table, found a list"), "{shown}");
    assert!(!shown.contains("geheimnis"), "{shown}");
}

/// Where each enum of the schema stands, with one of its words.
fn enums(node: &Value, schema: &Value, path: &mut Vec<String>, out: &mut Vec<(Vec<String>, String)>) {
    let node = match node.get("$ref").and_then(Value::as_str) {
        Some(to) => schema.pointer(to.trim_start_matches('#')).unwrap(),
        None => node,
    };
    let first = node.get("enum").map_or_else(|| node.get("const"), |words| words.get(0)).and_then(Value::as_str);
    out.extend(first.map(|word| (path.clone(), word.to_owned())));
    for branch in ["anyOf", "oneOf"].iter().filter_map(|key| node.get(key)?.as_array()).flatten() {
        enums(branch, schema, path, out);
    }
    let named = node.get("properties").and_then(Value::as_object).into_iter().flatten();
    let others = node.get("additionalProperties").filter(|others| others.is_object()).map(|others| ("x", others));
    let items = node.get("items").filter(|items| items.is_object()).map(|items| ("0", items));
    for (key, value) in named.map(|(key, value)| (key.as_str(), value)).chain(others).chain(items) {
        path.push(key.to_owned());
        enums(value, schema, path, out);
        path.pop();
    }
}

#[test]
fn a_typo_in_any_word_of_the_schema_is_named_with_its_place_and_hides_nothing() {
    let (_, stdout, _) = run_to_end("", &["schema"]);
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    let mut all = Vec::new();
    enums(&schema, &schema, &mut Vec::new(), &mut all);
    let has = |key: &str| all.iter().any(|(path, _)| path.last().is_some_and(|last| last == key));
    for key in
        ["grant", "client_auth", "roots", "rotation", "class", "op", "unit", "basic_encoding", "encoding", "expires"]
    {
        assert!(has(key), "{key} is no enum any more");
    }
    for (path, word) in all {
        let typo = format!("{word}x");
        let value = path.iter().rev().fold(format!("{typo:?}"), |inner, step| match step.as_str() {
            "0" => format!("[{inner}]"),
            step => format!("{{ {step} = {inner} }}"),
        });
        let value = value.strip_prefix("{ ").unwrap().strip_suffix(" }").unwrap();
        // Dotted at the top, so that it can stand beside the tables that follow.
        let (table, rest) = value.split_once(" = ").unwrap();
        let line = match rest.strip_prefix("{ x = ").and_then(|rest| rest.strip_suffix(" }")) {
            Some(entry) => format!("{table}.x = {entry}\n"),
            None => format!("{table} = {rest}\n"),
        };
        let config = format!("{line}[limits]\nconnections = 0\n{ROUTE}token = false\n");
        let problems = problems(&config);
        let column = line.find(&format!("{typo:?}")).unwrap() + 1;
        let expected =
            format!("tokenbroker.toml:1:{column}: {}: {typo:?} is not known here; did you mean ", path.join("."));
        assert!(problems.iter().any(|line| line.starts_with(&expected)), "{config}{expected}: {problems:#?}");
        assert!(problems.iter().any(|line| line.contains("limits.connections: 0 is out of range")), "{problems:#?}");
        for word in ["cannot be read", "there is no [route]", "does not fit"] {
            assert!(!problems.concat().contains(word), "{config}{problems:#?}");
        }
    }
}

#[test]
fn what_may_hold_anything_is_not_looked_into() {
    let config = format!(
        "{ROUTE}[token.api]\ndialect = \"mine\"\nurl = \"https://a.example\"\nclient_id = \"c\"\n\
         client_secret = {{ exec = [\"true\"] }}\n[dialect.mine]\nextends = \"oauth2\"\n[dialect.mine.acquire]\n\
         url = \"{{url}}\"\nencoding = \"json\"\n\
         params = {{ auth = {{ identity = {{ methods = [\"x\"], n = 3, at = 2026-01-01, {{name}} = \"{{client_id}}\" }} }} }}\n\
         [dialect.mine.answer]\nsuccess = {{ equals = {{ \"a.b\" = {{ c = [1] }} }} }}\n\
         [[dialect.mine.example]]\nabout = \"x\"\ngiven = {{ a = \"b\" }}\n"
    )
    .replace("{name}", "name");
    assert_eq!(check(&config), (0, "tokenbroker.toml: ok (1 route, 1 token)\n".into(), String::new()));
}

#[test]
fn one_mistake_is_one_problem() {
    let token = "url = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = { exec = [\"true\"] }\n";
    for (config, expected) in [
        ("[routes.a]\n".to_owned(), ":1:2: routes: unknown key; did you mean `route`?"),
        ("route = 2\n".to_owned(), ":1:9: route: expected a table, found a whole number"),
        ("[[route.x]]\nlisten = \"x\"\n".to_owned(), ":1:1: route.x: expected a table, found a list"),
        (
            ROUTE.replace("listen", "lisen") + "token = false\n",
            ":2:1: route.api.lisen: unknown key; did you mean `listen`?",
        ),
        (
            ROUTE.replace("upstream", "url") + "token = false\n",
            ":3:1: route.api.url: unknown key; did you mean `upstream`?",
        ),
        (
            ROUTE.replace("listen = \"127.0.0.1:0\"", "port = 80") + "token = false\n",
            ":2:1: route.api.port: unknown key; did you mean `listen`?",
        ),
        (
            format!("{ROUTE}token = 3\n"),
            ":4:9: route.api.token: expected text in quotes or true or false, found a whole number",
        ),
        (
            format!("{ROUTE}token = true\n[token.api]\n{token}"),
            ":4:9: route.api.token: must be a name or false; the name of a [token]",
        ),
        (
            format!("{ROUTE}token = \"apii\"\n[token.api]\n{token}"),
            ":4:9: route.api.token: there is no [token.apii]; did you mean \"api\"?",
        ),
        (format!("{ROUTE}[token]\napi = 3\n"), ":5:7: token.api: expected a table, found a whole number"),
        (
            format!("{ROUTE}[token.api]\n{}", token.replace("client_id", "client_ids")),
            ":6:1: token.api.client_ids: unknown key; did you mean `client_id`?",
        ),
        (
            format!("{ROUTE}[token.api]\n{token}[token.api]\nurl = \"x\"\n"),
            ":8:8: token.api: stands here twice, first in line 4; remove one of them",
        ),
        (
            format!("{ROUTE}token = false\ntoken = false\n"),
            ":5:1: route.api.token: stands here twice, first in line 4; remove one of them",
        ),
        (
            format!("{ROUTE}token = false\n[[dialect.m.error]]\nclas = \"config\"\n"),
            ":6:1: dialect.m.error.0.clas: unknown key; did you mean `class`?",
        ),
    ] {
        assert_eq!(problems(&config), [format!("tokenbroker.toml{expected}")], "{config}");
    }
    let config = format!("{ROUTE}[token.api]\ndialect = \"comodo-one\"\n");
    for key in ["client_id", "client_secret", "username", "password"] {
        assert_eq!(problems(&config).iter().filter(|line| line.contains(&format!("`{key}`"))).count(), 1, "{key}");
    }
}

#[test]
fn what_is_not_toml_is_said_in_plain_words() {
    for (config, expected) in [
        ("[limits]\nheaders 3\n", ":2:9: `=` is missing;"),
        ("[limits]\nheaders =\n", ":2:10: the value is missing;"),
        ("[limits]\nheaders = x\n", ":2:11: this is not a value; text stands in \"quotes\""),
        ("[admin]\nlisten = \"x\n", ":2:12: this text is not closed;"),
        ("[admin\nlisten = \"x\"\n", ":1:7: the name of this table is not closed; write [NAME]"),
        ("[route.a]\nlisten = [\"x\"\n", ":2:14: this list is not well formed;"),
        ("[admin]\nkey = { file = \"x\"\n", ":2:19: this table is not well formed;"),
        ("[admin]\nlisten = \"\\q\"\n", ":2:12: a backslash is not understood"),
        ("[admin]\nlisten = \"x\" y\n", ":2:14: nothing more belongs on this line;"),
        ("[route.a]\nstrip = tru\n", ":2:9: this is not a value; true or false"),
    ] {
        let problems = problems(config);
        assert!(problems[0].starts_with(&format!("tokenbroker.toml{expected}")), "{config}{problems:#?}");
        assert_eq!(problems.len(), 1, "{config}{problems:#?}");
    }
}

#[test]
fn what_could_never_work_is_refused_where_it_stands() {
    let route = |keys: &str| format!("{ROUTE}token = false\n{keys}\n");
    for (config, expected) in [
        (
            route("headers = { X-Key = \"a\\nb\" }"),
            ":5:21: route.api.headers.X-Key: the value has bytes that no header may have",
        ),
        (
            route("format = \"Bearer {access_token}\\n\""),
            ":5:10: route.api.format: has characters that no header may have",
        ),
        (route("accept_hosts = []"), ":5:16: route.api.accept_hosts: must not be empty"),
        (route("methods = []"), ":5:11: route.api.methods: must not be empty"),
        (route("methods = [\"GET\", \"get\"]"), ":5:19: route.api.methods.1: \"get\" is not a method"),
        (
            route("[token.t]\nsend_to = []\ngrant = \"static\"\naccess_token = { exec = [\"true\"] }"),
            ":6:11: token.t.send_to: must not be empty",
        ),
        (
            token("url = \"https://a.example\"\nclient_id = \"\"\nclient_secret = { exec = [\"true\"] }", ""),
            ":3:13: token.api.client_id: is empty; write what the vendor knows it by, or remove it",
        ),
        (
            token(
                "timeout = \"6m\"\nurl = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = { exec = [\"true\"] }",
                "",
            ),
            ":2:11: token.api.timeout: is longer than 5m; a token server that takes longer is down",
        ),
        (route("[store]\nkind = \"file\""), ":5:2: store: needs `path` and `key`; path is a directory"),
        (
            route("[store]\nkind = \"file\"\npath = \"kept\"\nkey = \"short\""),
            ":8:7: store.key: is shorter than 32 bytes; make one with: openssl rand -base64 32",
        ),
        (
            route("[store]\npath = \"kept\""),
            ":6:1: store.path: is not used by the kind memory; set kind = \"file\", or remove it",
        ),
        (
            route("[store]\nurl = \"redis://localhost\""),
            ":6:1: store.url: is not used by the kind memory; set kind = \"redis\", or remove it",
        ),
        (
            route("[store]\nkind = \"file\"\npath = \"kept\"\nkey = { exec = [\"true\"] }\nprefix = \"x\""),
            ":9:1: store.prefix: is not used by the kind file; set kind = \"redis\", or remove it",
        ),
        (
            route("[store]\nkind = \"redis\""),
            ":5:2: store: needs `url` and `key`; url is written like \"rediss://redis.example.com:6379\"; key is a secret",
        ),
        (route("[admin]\nkey = \"\""), ":6:7: admin.key: the secret is empty"),
        (route("[admin]\nlisten = \"127.0.0.1:65536\""), ":6:10: admin.listen: its port is not from 1 to 65535"),
        (
            route("[admin]\nlisten = \"0.0.0.0:80\""),
            ":6:10: admin.listen: other machines could reach the operator's listener: only loopback addresses are allowed; listen on 127.0.0.1, [::1] or unix:/path",
        ),
        (route("").replace(".1:0", ".1:70000"), ":2:10: route.api.listen: its port is not from 1 to 65535"),
        (
            route("").replace("127.0.0.1:0", "unix:/no/such/place/api.sock"),
            ":2:10: route.api.listen: the socket's directory /no/such/place is not there",
        ),
        (
            route("").replace("example.com", "example.com:65536"),
            ":3:12: route.api.upstream: is not a usable URL; its host is missing, or its port",
        ),
        (
            route("").replace("api.example", "api example"),
            ":3:12: route.api.upstream: is not a usable URL; there is a space in it",
        ),
        (route("[dialect.d.answer]\naccess_token = []"), ":6:16: dialect.d.answer.access_token: must not be empty"),
        (
            route("[dialect.d.answer]\nsuccess = { status = 999 }"),
            ":6:22: dialect.d.answer.success.status: 999 is out of range; from 100 to 599",
        ),
        (
            route("[[dialect.d.error]]\nclass = \"config\"\nwhen = { status = [40] }"),
            ":7:20: dialect.d.error.0.when.status.0: 40 is out of range",
        ),
        (
            route("[[dialect.d.error]]\nclass = \"config\"\nwhen = { message = \"a(\" }"),
            ":7:20: dialect.d.error.0.when.message: not a regular expression: unclosed group; see docs.rs/regex",
        ),
        (route("[dialect.d.inject]\nformat = \"Bearer\""), ":6:10: dialect.d.inject.format: does not hold the token"),
        (
            route("[dialect.d]\nbase_url = \"http://a.example\""),
            ":6:12: dialect.d.base_url: credentials would cross the network unencrypted",
        ),
    ] {
        let problems = problems(&config);
        assert!(
            problems.iter().any(|line| line.starts_with(&format!("tokenbroker.toml{expected}"))),
            "{config}{expected}\n{problems:#?}"
        );
        assert_eq!(problems.len(), 1, "{config}{problems:#?}");
    }
}

/// A token of that dialect, used by a route, its secret from a command.
fn token(keys: &str, dialect: &str) -> String {
    format!("[token.api]\n{keys}\n{ROUTE}{dialect}")
}

#[test]
fn the_requests_of_a_token_can_be_made_and_are_sent_encrypted() {
    let client = "client_id = \"c\"\nclient_secret = { exec = [\"true\"] }";
    let mine = "[dialect.mine.acquire]\nurl = ";
    let of_mine = format!("dialect = \"mine\"\n{client}");
    for (config, expected) in [
        (
            token(&of_mine, &format!("{mine}\"{{base_url}}/t\"")),
            ":1:8: token.api: the acquire request of the dialect mine needs `base_url`; add it to this table",
        ),
        (
            token(&of_mine, &format!("{mine}\"{{username}}\"")),
            ":1:8: token.api: the acquire request of the dialect mine needs `username`; add it to this table",
        ),
        (
            token(&of_mine, &format!("{mine}\"http://a.example/t\"")),
            ":9:7: dialect.mine.acquire.url: the URL of the acquire request: credentials would cross the network unencrypted; use https://",
        ),
        (
            token(
                &of_mine,
                &format!("{mine}\"https://a.example/t\"\n[dialect.mine.secrets.list]\nurl = \"http://a.example/s\""),
            ),
            ":11:7: dialect.mine.secrets.list.url: credentials would cross the network unencrypted; use https://",
        ),
        (
            token(
                &of_mine,
                &format!("{mine}\"https://a.example/t\"\n[dialect.mine.clients.lst]\nurl = \"https://a.example/s\""),
            ),
            ":10:23: dialect.mine.clients.lst: there is no such request; one of list, register, delete",
        ),
        (
            token(
                &of_mine,
                &format!(
                    "{mine}\"https://a.example/t\"\n[dialect.mine.inject]\nheaders = {{ X-A = \"x {{headers.B}}\" }}"
                ),
            ),
            ":11:19: dialect.mine.inject.headers.X-A: a field of the token can only be sent as it is; nothing beside the {headers.NAME}",
        ),
        (
            token(&of_mine, &format!("{mine}\"/t\"")),
            ":9:7: dialect.mine.acquire.url: the URL of the acquire request: is not a usable URL",
        ),
        (
            token(&format!("url = \"https://a.example/{{tenant}}/t\"\n{client}"), ""),
            ":2:7: token.api.url: is not a usable URL; nothing is filled in for {names} here",
        ),
    ] {
        let problems = problems(&config);
        assert!(problems[0].starts_with(&format!("tokenbroker.toml{expected}")), "{config}{expected}\n{problems:#?}");
        assert_eq!(problems.len(), 1, "{config}{problems:#?}");
    }
    // {"exp":1} and {"exp":99999999999}
    let jwt = |claims: &str| token(&format!("grant = \"static\"\naccess_token = \"e30.{claims}.\""), "");
    problem(
        &jwt("eyJleHAiOjF9"),
        "tokenbroker.toml:3:16: token.api.access_token: the token in access_token has expired; put a good one where access_token is read from",
    );
    assert_eq!(check(&jwt("eyJleHAiOjk5OTk5OTk5OTk5fQ")).0, 0);
}

#[test]
fn a_key_that_changes_nothing_is_refused() {
    let secret = "client_secret = { exec = [\"true\"] }";
    let client = format!("client_id = \"c\"\n{secret}");
    let oauth2 = format!("url = \"https://a.example\"\n{client}");
    let own = "[dialect.mine]\nbase_url = \"https://a.example\"\n[dialect.mine.acquire]\nurl = \"{base_url}/t\"\n";
    let fixed = "grant = \"static\"\naccess_token = { exec = [\"true\"] }";
    for (config, key, why) in [
        (
            token(&format!("{oauth2}\nbase_url = \"https://a.example\""), ""),
            "5:1: token.api.base_url",
            "requests of the dialect oauth2",
        ),
        (
            token(&format!("dialect = \"mine\"\n{client}\nurl = \"https://a.example\""), own),
            "5:1: token.api.url",
            "or set base_url",
        ),
        (
            token(&format!("dialect = \"mine\"\n{client}\nscope = [\"a\"]"), own),
            "5:1: token.api.scope",
            "requests of the dialect mine",
        ),
        (token(&format!("{oauth2}\nclient_auth = \"none\""), ""), "4:1: token.api.client_secret", "this client_auth"),
        (
            token(&format!("{oauth2}\nparams = {{ grant_type = \"x\" }}"), ""),
            "5:12: token.api.params.grant_type",
            "set `grant`",
        ),
        (
            token(&format!("{oauth2}\nclient_auth = \"client_secret_post\"\nparams = {{ client_id = \"x\" }}"), ""),
            "6:12: token.api.params.client_id",
            "take the place of",
        ),
        (
            token(&format!("{oauth2}\nheaders = {{ authorization = \"x\" }}"), ""),
            "5:13: token.api.headers.authorization",
            "client_secret_basic",
        ),
        (token(&format!("{fixed}\nurl = \"https://a.example\""), ""), "4:1: token.api.url", "grant static"),
        (token(&format!("{fixed}\nclient_id = \"c\""), ""), "4:1: token.api.client_id", "grant static"),
        (token(&format!("{fixed}\n{secret}"), ""), "4:1: token.api.client_secret", "grant static"),
        (token(&format!("{fixed}\nscope = [\"a\"]"), ""), "4:1: token.api.scope", "grant static"),
    ] {
        let problems = problems(&config);
        assert!(
            problems[0].starts_with(&format!("tokenbroker.toml:{key}: ")) && problems[0].contains(why),
            "{config}{problems:#?}"
        );
        assert_eq!(problems.len(), 1, "{config}{problems:#?}");
    }
    for used in [
        // Some servers want the id beside Basic, and some the secret in a place of their own.
        token(&format!("{oauth2}\nparams = {{ client_id = \"c\", audience = \"a\" }}"), ""),
        token(
            &format!("dialect = \"mine\"\nclient_auth = \"none\"\n{client}"),
            &own.replace("{base_url}/t", "{base_url}/{client_secret}"),
        ),
    ] {
        let (code, _, stderr) = check(&used);
        assert_eq!((code, stderr.as_str()), (0, ""), "{used}");
    }
    let unused = format!("{ROUTE}token = false\n[dialect.mine]\nextends = \"oauth2\"\n");
    let (code, _, stderr) = check(&unused);
    let expected =
        "warning: tokenbroker.toml:5:10: dialect.mine: nothing uses this table; name it in a token, or remove it\n";
    assert_eq!((code, stderr.as_str()), (0, expected));
}

#[test]
fn a_certificate_and_its_key_are_each_told_what_is_wrong_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let pki = tokenbroker::standin::pki::Pki::new(path).unwrap();
    let issued = pki.issue(&tokenbroker::standin::pki::Leaf::client("acme", 7)).unwrap();
    let pem = std::fs::read_to_string(&issued.cert).unwrap();
    write(path, "cut.pem", &pem[..pem.len() / 2]);
    write(path, "garbage.pem", "-----BEGIN CERTIFICATE-----\ngeheimnis!\n-----END CERTIFICATE-----\n");
    write(path, "not.pem", b"\x30\x82geheimnis");
    write(path, "both.p12", b"\x30\x82geheimnis");
    for (cert, key, of_cert, of_key) in [
        ("nowhere.pem", "nowhere.key", "cannot read nowhere.pem", "cannot read nowhere.key"),
        ("cut.pem", "cut.pem", "is it cut off?", "is it cut off?"),
        ("garbage.pem", "not.pem", "look at the file", "holds no private key"),
        ("not.pem", "not.pem", "holds no certificate", "holds no private key"),
        (
            "both.p12",
            "both.p12",
            "openssl pkcs12 -in FILE -nokeys -out client.pem",
            "openssl pkcs12 -in FILE -nocerts -nodes",
        ),
    ] {
        let config =
            format!("{ROUTE}token = false\nidentity = \"me\"\n[identity.me]\ncert = \"{cert}\"\nkey = \"{key}\"\n");
        let (code, _, stderr) = check_in(path, &config);
        let lines: Vec<_> = stderr.lines().collect();
        assert!(code == 78 && lines.len() == 2, "{stderr}");
        assert!(
            lines[0].starts_with("tokenbroker.toml:7:8: identity.me.cert: ") && lines[0].contains(of_cert),
            "{stderr}"
        );
        assert!(
            lines[1].starts_with("tokenbroker.toml:8:7: identity.me.key: ") && lines[1].contains(of_key),
            "{stderr}"
        );
        assert!(!stderr.contains("geheimnis") && stderr.is_ascii(), "{stderr}");
    }
}

#[test]
fn a_certificate_that_ends_within_30_days_is_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let pki = tokenbroker::standin::pki::Pki::new(directory.path()).unwrap();
    let issued = pki.issue(&tokenbroker::standin::pki::Leaf::client("acme", 0x1234)).unwrap();
    let end = tokenbroker::identity::Identity::load(&issued.cert, &issued.key, "2026-01-01T00:00:00Z".parse().unwrap());
    let end = end.unwrap_or_else(|_| panic!("a good one")).leaf.not_after;
    let config = format!(
        "{ROUTE}token = false\nidentity = \"me\"\n[identity.me]\ncert = {:?}\nkey = {:?}\n",
        issued.cert, issued.key
    );
    let file = write(directory.path(), "tokenbroker.toml", config);
    let warnings = |days: i64| {
        let (config, report) = tokenbroker::config::load(&file, end - jiff::SignedDuration::from_hours(days * 24));
        assert!(config.is_some());
        assert!(report.warnings.is_empty());
        report.ending.iter().map(|warning| report.line(warning)).collect::<String>()
    };
    assert_eq!(warnings(31), "");
    let said = warnings(29);
    let words = ":7:8: identity.me.cert: the client certificate of identity.me ends in 29 days (subject CN=acme, serial 12:34, 2099-01-01T00:00:00.000Z); get a new one";
    assert!(said.contains(words), "{said}");
}

#[test]
fn the_end_of_a_client_secret_is_a_date_and_stands_beside_a_secret() {
    let token = |keys: &str| {
        let client = "url = \"https://a.example/token\"\nclient_id = \"c\"";
        format!("[token.api]\n{client}\n{keys}\n{ROUTE}")
    };
    let (one, two) =
        ("client_secret = { exec = [\"true\"] }", "client_secret = [{ exec = [\"true\"] }, { exec = [\"true\"] }]");
    let help = "is not understood; a date is written like 2027-01-31 or 2027-01-31T12:00:00Z";
    for (secret, expires, expected) in [
        (one, "\"soon\"", format!("5:18: token.api.secret_expires: \"soon\" {help}")),
        (one, "\"2027-02-30\"", format!("5:18: token.api.secret_expires: \"2027-02-30\" {help}")),
        (one, "07:32:00", format!("5:18: token.api.secret_expires: \"07:32:00\" {help}")),
        (one, "20270131", "5:18: token.api.secret_expires: expected a date or a list, found a whole number; a date is written like 2027-01-31 or 2027-01-31T12:00:00Z".into()),
        (one, "[\"x\"]", format!("5:19: token.api.secret_expires.0: \"x\" {help}")),
        (
            one,
            "[2099-01-31, 2099-02-01]",
            "5:18: token.api.secret_expires: there is one client secret, and more than one date here; write a date for each secret, in the same order: [2027-01-31, 2027-07-31]".into(),
        ),
        (
            two,
            "2099-01-31",
            "5:18: token.api.secret_expires: there are two client secrets, and one date here; write a date for each secret, in the same order: [2027-01-31, 2027-07-31]".into(),
        ),
        (
            "client_auth = \"none\"",
            "2099-01-31",
            "5:1: token.api.secret_expires: says when `client_secret` ends, and there is none; add it, or remove this".into(),
        ),
    ] {
        let problems = problems(&token(&format!("{secret}\nsecret_expires = {expires}")));
        assert_eq!(problems, [format!("tokenbroker.toml:{expected}")], "{secret} {expires}");
    }
    problem(
        &format!("[token.api]\ngrant = \"static\"\naccess_token = \"t\"\nsecret_expires = 2099-01-31\n{ROUTE}"),
        "tokenbroker.toml:4:1: token.api.secret_expires: is not used by the grant static, which makes no request; remove it, or set the grant that is meant",
    );
    for (secret, expires) in [
        (one, "2099-01-31"),
        (one, "\"2099-01-31\""),
        (one, "[2099-01-31T12:00:00+02:00]"),
        (two, "[2099-01-31 12:00:00, 2099-02-01]"),
    ] {
        let (code, _, stderr) = check(&token(&format!("{secret}\nsecret_expires = {expires}")));
        assert_eq!((code, stderr.as_str()), (0, ""), "{expires}");
    }
    let (code, _, stderr) = check(&token(&format!("{two}\nsecret_expires = [2099-01-31, 2020-01-31]")));
    let warning =
        "warning: tokenbroker.toml:5:31: token.api.secret_expires.1: the second client secret of token.api ended ";
    assert!(
        code == 0 && stderr.starts_with(warning) && stderr.contains(" days ago (2020-01-31T00:00:00.000Z); "),
        "{stderr}"
    );
    let (_, json, _) = {
        let directory = tempfile::tempdir().unwrap();
        let config = token(&format!("{one}\nsecret_expires = 2020-01-31"));
        let file = write(directory.path(), "tokenbroker.toml", config);
        let output = binary().arg("-c").arg(file).args(["check", "--json"]).output().unwrap();
        (output.status, serde_json::from_slice::<Value>(&output.stdout).unwrap(), ())
    };
    assert!(json["ok"] == true && json["warnings"][0]["key"] == "token.api.secret_expires", "{json}");
}

#[test]
fn a_ca_file_is_warned_about_where_it_is_named_by_its_certificate_that_ends_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let now = tokenbroker::clock::Clock::system().now().wall.as_second();
    let day = 24 * 3600;
    let pem = |days: i64| {
        let end = u64::try_from(now + days * day + 3600).unwrap();
        let pki = tokenbroker::standin::pki::Pki::until(path, Some(end)).unwrap();
        std::fs::read_to_string(pki.ca()).unwrap()
    };
    let (later, sooner, over) = (pem(400), pem(13), pem(-2));
    let config = format!("{ROUTE}token = false\nca = \"both.pem\"\n");
    for (bundle, said) in [
        (later.clone(), None),
        (format!("{later}{sooner}"), Some("ends soon, in 13 days")),
        (format!("{later}{over}{sooner}"), Some("ended 1 day ago")),
    ] {
        write(path, "both.pem", bundle);
        let (code, _, stderr) = check_in(path, &config);
        assert_eq!(code, 0);
        let words = said.map(|said| {
            format!("warning: tokenbroker.toml:5:6: route.api.ca: a certificate of the CA file both.pem {said} (subject CN=tokenbroker stand-in CA, serial ")
        });
        match words {
            None => assert_eq!(stderr, ""),
            Some(words) => assert!(
                stderr.starts_with(&words) && stderr.contains("; add the certificate that follows it"),
                "{stderr}"
            ),
        }
    }
}

const STORE: &str = "[store]\nkind = \"file\"\npath = \"store\"\nkey = { exec = [\"true\"] }\n";

/// A client of a vendor that can make secrets, from line 5 on; `keys` are those of its table from line 10 on.
fn client(name: &str, keys: &str) -> String {
    format!(
        "[token.{name}]\ndialect = \"comap\"\nclient_id = \"c\"\nclient_secret = {{ exec = [\"true\"] }}\nheaders = {{ Comap-Key = \"k\" }}\n{keys}\n"
    )
}

#[test]
fn each_key_of_a_rotation_has_its_bounds() {
    for (keys, expected) in [
        ("befor = \"30d\"", "12: token.api.rotate.befor: unknown key; did you mean `before`?"),
        (
            "before = \"0s\"",
            "21: token.api.rotate.before: must not be zero; such as \"30d\", so that there is time when something fails",
        ),
        ("before = \"731d\", lifetime = \"10y\"", "21: token.api.rotate.before: is too long; at most 730d"),
        (
            "before = \"90d\", lifetime = \"90d\"",
            "21: token.api.rotate.before: is as long as a new secret lives, or longer: one would follow the other without end; make it shorter, such as \"30d\", or `lifetime` longer",
        ),
        (
            "lifetime = \"24h\"",
            "23: token.api.rotate.lifetime: \"24h\" is not understood; a lifetime is written like \"2y\", \"6m\" (months of 30 days) or \"90d\": a day to ten years",
        ),
        (
            "lifetime = \"11y\"",
            "23: token.api.rotate.lifetime: \"11y\" is not understood; a lifetime is written like \"2y\", \"6m\" (months of 30 days) or \"90d\": a day to ten years",
        ),
        ("grace = \"91d\"", "20: token.api.rotate.grace: is too long; at most 90d"),
        ("settle = \"61m\"", "21: token.api.rotate.settle: is too long; at most 1h"),
        ("verify = { every = \"61m\" }", "31: token.api.rotate.verify.every: is too long; at most 1h"),
        ("verify = { times = 0 }", "31: token.api.rotate.verify.times: 0 is out of range; from 1 to 20"),
        ("verify = { times = 21 }", "31: token.api.rotate.verify.times: 21 is out of range; from 1 to 20"),
        ("verify = { often = true }", "23: token.api.rotate.verify.often: unknown key; known here: every, times"),
        ("verify = 3", "21: token.api.rotate.verify: expected a table, found a whole number"),
        (
            "current = \"\"",
            "22: token.api.rotate.current: is empty; write the id that the vendor's list shows, or remove it",
        ),
        (
            "admin = \"api\"",
            "20: token.api.rotate.admin: is this token itself; remove it: its own access token is used anyway",
        ),
        ("admin = \"boss\"", "20: token.api.rotate.admin: there is no [token.boss]; add it"),
    ] {
        let problems = problems(&format!("{STORE}{}{ROUTE}", client("api", &format!("rotate = {{ {keys} }}"))));
        assert_eq!(problems, [format!("tokenbroker.toml:10:{expected}")], "{keys}");
    }
    let config = client(
        "api",
        "rotate = { verify = { every = \"2h\", times = 0 }, settle = \"2h\", admin = \"api\", grace = \"1y\" }",
    );
    assert_eq!(problems(&format!("{STORE}{config}{ROUTE}")).len(), 5, "all at once");
    for keys in [
        "",
        "before = \"30d\"",
        "before = \"730d\", lifetime = \"10y\"",
        "grace = \"90d\", settle = \"0s\", verify = { times = 20, every = \"1h\" }",
        "grace = \"0s\", settle = \"1h\", verify = { times = 1, every = \"0s\" }",
        "current = \"5d44f4d0\", lifetime = \"6m\"",
    ] {
        let (code, _, stderr) = check(&format!("{STORE}{}{ROUTE}", client("api", &format!("rotate = {{ {keys} }}"))));
        assert_eq!((code, stderr.as_str()), (0, ""), "{keys}");
    }
}

#[test]
fn a_rotation_needs_a_secret_a_store_and_a_vendor_that_makes_secrets() {
    let rotate = "rotate = { before = \"30d\" }";
    let oauth2 = "url = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = { exec = [\"true\"] }\n";
    for (config, expected) in [
        (
            format!("{}{ROUTE}", client("api", rotate)),
            "6:1: token.api.rotate: a rotated secret would be lost at a restart: the store is in memory; set [store] kind = \"file\", with path and key",
        ),
        (
            format!("{STORE}[token.api]\nurl = \"https://a.example\"\nclient_auth = \"none\"\nrotate = {{}}\n{ROUTE}"),
            "8:1: token.api.rotate: there is no `client_secret` that could be rotated; add it, or remove this",
        ),
        (
            format!(
                "{STORE}[token.api]\ngrant = \"static\"\naccess_token = {{ exec = [\"true\"] }}\n{rotate}\n{ROUTE}"
            ),
            "8:1: token.api.rotate: is not used by the grant static, which makes no request; remove it, or set the grant that is meant",
        ),
        (
            format!("{STORE}[token.api]\n{oauth2}{rotate}\n{ROUTE}"),
            "9:12: token.api.rotate.before: the dialect oauth2 has no request that makes a new secret; remove it: a person makes one at the vendor, and `tokenbroker secret import` takes it",
        ),
        (
            format!(
                "{STORE}{}{}{ROUTE}token = \"a\"\n",
                client("a", "rotate = {}"),
                client("b", "base_url = \"https://api.websupervisor.net/\"\nrotate = {}")
            ),
            "17:1: token.b.rotate: [token.a] has the same client and a `rotate` of its own; remove one of them: the other one is for both",
        ),
    ] {
        assert_eq!(problems(&config), [format!("tokenbroker.toml:{expected}")], "{config}");
    }
    for fine in [
        // A person makes the secrets, and the rotation begins with an import.
        format!("[token.api]\n{oauth2}rotate = {{ grace = \"1h\" }}\n{ROUTE}"),
        format!(
            "{}{}{ROUTE}",
            client("api", rotate),
            client("b", "[route.b]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://b.example\"")
        ),
        format!(
            "{}{}{ROUTE}token = \"b\"\n",
            client("api", "rotate = { admin = \"b\" }"),
            client("b", "vars = {}\nrotate = {}").replace("\"c\"", "\"d\"")
        ),
    ] {
        let (code, _, stderr) = check(&format!("{STORE}{fine}"));
        let errors: Vec<_> = stderr.lines().filter(|line| !line.contains("no route uses this token")).collect();
        assert_eq!((code, errors), (0, vec![]), "{fine}");
    }
    // What tells two clients apart.
    let vanco = |name: &str, keys: &str| {
        let default =
            ["url", "base_url", "client_id", "vars"].into_iter().filter(|key| !keys.starts_with(&format!("{key} =")));
        let lines: String = default
            .map(|key| match key {
                "client_id" => "client_id = \"c\"\n".to_owned(),
                "vars" => "vars = { tenant = \"t\" }\n".to_owned(),
                url => format!("{url} = \"https://a.example\"\n"),
            })
            .collect();
        format!(
            "[token.{name}]\ndialect = \"vanco\"\nclient_secret = {{ exec = [\"true\"] }}\n{lines}{keys}\nrotate = {{}}\n"
        )
    };
    for (other, same) in [
        ("scope = [\"read\"]", true),
        ("url = \"https://b.example\"", false),
        ("base_url = \"https://b.example\"", false),
        ("client_id = \"d\"", false),
        ("vars = { tenant = \"u\" }", false),
    ] {
        let config = format!("{STORE}{}{}{ROUTE}token = \"a\"\n", vanco("a", ""), vanco("b", other));
        assert_eq!(check(&config).0, if same { 78 } else { 0 }, "{other}");
    }
    let replaced = format!(
        "{STORE}[token.api]\ndialect = \"covata\"\nbase_url = \"https://a.example\"\ngrant = \"client_credentials\"\nclient_id = \"c\"\nclient_secret = {{ exec = [\"true\"] }}\n{rotate}\n"
    );
    let (code, _, stderr) = check(&format!("{replaced}{ROUTE}"));
    let warning = "warning: tokenbroker.toml:11:12: token.api.rotate.before: nothing tells when the configured secret ends: the vendor has no list that does; add secret_expires to this token\n";
    assert_eq!((code, stderr.as_str()), (0, warning));
    let (code, _, stderr) = check(&format!("{replaced}secret_expires = 2099-01-31\n{ROUTE}"));
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn a_token_that_manages_secrets_may_be_sent_to_where_they_are_managed() {
    let boss =
        |keys: &str| format!("[token.boss]\ngrant = \"static\"\naccess_token = {{ exec = [\"true\"] }}\n{keys}\n");
    let rotating = format!("{STORE}{}", client("api", "rotate = { admin = \"boss\" }"));
    let named = "send_to = [\"https://other.example\", \"https://api.websupervisor.net\"]";
    for fine in [boss(""), boss(named)] {
        let (code, _, stderr) = check(&format!("{rotating}{fine}{ROUTE}"));
        assert_eq!((code, stderr.as_str()), (0, ""), "{fine}");
    }
    assert_eq!(
        problems(&format!("{rotating}{}{ROUTE}", boss("send_to = [\"https://other.example\"]"))),
        [
            "tokenbroker.toml:10:20: token.api.rotate.admin: the token boss may not be sent to https://api.websupervisor.net, where the secrets are managed; add the origin to the send_to of [token.boss]"
        ]
    );
    let own = client("api", "rotate = {}\nsend_to = [\"https://api.example.com\"]");
    assert_eq!(
        problems(&format!("{STORE}{own}{ROUTE}")),
        [
            "tokenbroker.toml:10:1: token.api.rotate: the token api may not be sent to https://api.websupervisor.net, where the secrets are managed; add the origin to the send_to of [token.api]"
        ]
    );
    // One mistake is one problem.
    let wrong = problems(&format!("{rotating}{}{ROUTE}", boss("send_to = [\"api.websupervisor.net\"]")));
    assert!(wrong.len() == 1 && wrong[0].contains("token.boss.send_to.0: "), "{wrong:#?}");
    let nowhere = "[token.api]\ndialect = \"mine\"\nurl = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = { exec = [\"true\"] }\nrotate = {}\n[dialect.mine]\nextends = \"oauth2\"\n[dialect.mine.secrets.create]\nurl = \"{base_url}/secrets\"\n";
    assert_eq!(
        problems(&format!("{STORE}{nowhere}{ROUTE}")),
        [
            "tokenbroker.toml:5:8: token.api: the secrets.create request of the dialect mine needs `base_url`; add it to this table"
        ]
    );
    // Elsewhere than at base_url, nothing is allowed that is not written.
    let dialect =
        "[dialect.mine]\nextends = \"comap\"\n[dialect.mine.secrets.list]\nurl = \"https://elsewhere.example/list\"\n";
    let mine = rotating.replace("\"comap\"", "\"mine\"");
    assert_eq!(
        problems(&format!("{mine}{}{dialect}{ROUTE}", boss(""))),
        [
            "tokenbroker.toml:10:20: token.api.rotate.admin: the token boss may not be sent to https://elsewhere.example, where the secrets are managed; add the origin to the send_to of [token.boss]"
        ]
    );
    let to_both = boss("send_to = [\"https://elsewhere.example\", \"https://api.websupervisor.net\"]");
    let to_route = "[route.boss]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://elsewhere.example/api\"\n";
    for fine in [format!("{to_both}{dialect}{ROUTE}"), format!("{}{dialect}{ROUTE}{to_route}", boss(""))] {
        let (code, _, stderr) = check(&format!("{mine}{fine}"));
        assert_eq!((code, stderr.as_str()), (0, ""), "{fine}");
    }
}

#[test]
fn a_new_secret_is_written_to_a_private_place_and_over_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::create_dir(path.join("open")).unwrap();
    std::fs::set_permissions(path.join("open"), PermissionsExt::from_mode(0o777)).unwrap();
    for (file, mode) in [("secret", 0o600), ("password", 0o600), ("loose", 0o620)] {
        write(path, file, "value");
        std::fs::set_permissions(path.join(file), PermissionsExt::from_mode(mode)).unwrap();
    }
    let config = |file: &str| {
        let keys = format!("rotate = {{ write = \"{file}\" }}\nparams = {{ extra = {{ file = \"password\" }} }}");
        let token = client("api", &keys).replace("exec = [\"true\"]", "file = \"secret\"");
        format!("{STORE}{token}{ROUTE}")
    };
    for (file, expected) in [
        (
            "nowhere/new",
            "the directory nowhere cannot be used: No such file or directory (os error 2); make it, for the broker's user alone",
        ),
        ("secret/new", "secret is not a directory; name a file in a directory of the broker's"),
        ("open", "open is a directory; name a file in it"),
        (
            "open/new",
            "the directory open can be changed by others (mode 0777); chmod go-w, or name a file in another directory",
        ),
        ("loose", "loose can be changed by others (mode 0620); chmod go-w"),
        (
            "password",
            "a new secret would be written over what this file holds for something else; name the file of this token's client_secret, or one that nothing else names",
        ),
        (
            "tokenbroker.toml",
            "a new secret would be written over what this file holds for something else; name the file of this token's client_secret, or one that nothing else names",
        ),
    ] {
        let (code, _, stderr) = check_in(path, &config(file));
        assert_eq!(
            (code, stderr),
            (78, format!("tokenbroker.toml:10:20: token.api.rotate.write: {expected}\n")),
            "{file}"
        );
    }
    for file in ["secret", "new"] {
        let (code, _, stderr) = check_in(path, &config(file));
        assert_eq!((code, stderr.as_str()), (0, ""), "{file}");
    }
    let two = format!(
        "{STORE}{}{}{ROUTE}token = \"a\"\n",
        client("a", "rotate = { write = \"new\" }"),
        client("b", "rotate = { write = \"new\" }").replace("\"c\"", "\"d\"")
    );
    let (code, _, stderr) = check_in(path, &two);
    assert!(
        code == 78 && stderr.contains(":16:20: token.b.rotate.write: a new secret would be written over"),
        "{stderr}"
    );
}

#[test]
fn a_rotation_is_as_its_token_says_else_as_its_dialect_does() {
    let directory = tempfile::tempdir().unwrap();
    let rotate = |keys: &str| {
        let dialect =
            "[dialect.mine]\nextends = \"comap\"\n[dialect.mine.rotate]\nlifetime = \"1y\"\nverify = { times = 5 }\n";
        let text = format!(
            "{STORE}[token.api]\nclient_id = \"c\"\nclient_secret = {{ exec = [\"true\"] }}\n{keys}\n{ROUTE}{dialect}"
        );
        let path = directory.path().join("tokenbroker.toml");
        let (config, report) = tokenbroker::config::check(&path, &text, jiff::Timestamp::UNIX_EPOCH);
        let config = config.unwrap_or_else(|| panic!("{:#?}", report.problems));
        config.tokens["api"].rotate.clone()
    };
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    let defaults = Rotate {
        told: false,
        before: None,
        admin: None,
        current: None,
        lifetime: ("2y".into(), 730 * day),
        grace: day,
        times: 3,
        every: second,
        settle: 2 * second,
        write: None,
        slots: None,
    };
    assert_eq!(rotate("url = \"https://a.example\""), defaults);
    let comap = Rotate { every: 60 * second, settle: 120 * second, slots: Some(2), ..defaults.clone() };
    let headers = "headers = { Comap-Key = \"k\" }";
    assert_eq!(rotate(&format!("dialect = \"comap\"\n{headers}")), comap);
    let mine = Rotate { lifetime: ("1y".into(), 365 * day), times: 5, ..comap };
    assert_eq!(rotate(&format!("dialect = \"mine\"\n{headers}")), mine);
    let keys = "before = \"30d\", admin = \"boss\", current = \"id\", lifetime = \"6m\", grace = \"1h\", settle = \"5s\", write = \"new\", verify = { every = \"2s\" }";
    let boss = "[token.boss]\ngrant = \"static\"\naccess_token = { exec = [\"true\"] }";
    assert_eq!(
        rotate(&format!("dialect = \"mine\"\n{headers}\nrotate = {{ {keys} }}\n{boss}")),
        Rotate {
            told: true,
            before: Some(30 * day),
            admin: Some("boss".into()),
            current: Some("id".into()),
            lifetime: ("6m".into(), 180 * day),
            grace: 3600 * second,
            times: 5,
            every: 2 * second,
            settle: 5 * second,
            write: Some(directory.path().join("new")),
            slots: Some(2),
        }
    );
}

#[test]
fn a_dialects_own_rotation_is_checked() {
    let dialect = |keys: &str| {
        format!("{ROUTE}token = false\n[dialect.mine.acquire]\nurl = \"{{url}}\"\n[dialect.mine.rotate]\n{keys}\n")
    };
    for (keys, expected) in [
        ("slots = 0", "8:9: dialect.mine.rotate.slots: 0 is out of range; from 1 to 100"),
        ("verify = { every = \"2h\" }", "8:20: dialect.mine.rotate.verify.every: is too long; at most 1h"),
        ("settle = \"2h\"", "8:10: dialect.mine.rotate.settle: is too long; at most 1h"),
        ("grace = \"2h\"", "8:1: dialect.mine.rotate.grace: unknown key; known here: lifetime, settle, slots, verify"),
    ] {
        assert_eq!(problems(&dialect(keys)), [format!("tokenbroker.toml:{expected}")], "{keys}");
    }
}

#[test]
fn a_configuration_is_read_to_1_mib_and_its_problems_are_shown_to_50() {
    let (code, _, stderr) = check(&"#".repeat(1024 * 1024 + 1));
    assert_eq!(
        (code, stderr.as_str()),
        (78, "tokenbroker.toml: is larger than 1 MiB; is it the configuration? Name it with -c FILE\n")
    );
    let many: String = (0..40_000).map(|n| format!("k{n} = {n}\n")).collect();
    let (code, _, stderr) = check(&format!("{many}{ROUTE}token = false\n"));
    assert_eq!(code, 78);
    assert_eq!(stderr.lines().count(), 51, "{stderr}");
    assert!(stderr.ends_with("\nand 39950 more\n"), "{stderr}");
    let twice = "[route.a]\n".repeat(40_000);
    let (code, _, stderr) = check(&twice);
    assert!(code == 78 && stderr.contains(":3:8: route.a: stands here twice, first in line 1"), "{stderr}");
}

#[test]
fn an_address_that_others_can_reach_needs_somebody_who_says_who_may() {
    let route = |keys: &str| format!("[route.api]\nupstream = \"https://api.example.com\"\ntoken = false\n{keys}\n");
    let needs = "route.api.unsafe_listen: needs `clients`: other machines could use the token; say in";
    for (keys, words) in [
        (
            "listen = \"0.0.0.0:1\"",
            "only loopback addresses are allowed; listen on 127.0.0.1, [::1] or unix:/path; or set unsafe_listen",
        ),
        ("listen = \"[::]:1\"\nclients = { uids = [1] }", "only loopback addresses are allowed"),
        ("listen = \"192.168.1.1:1\"\nunsafe_listen = true", needs),
        ("listen = [\"127.0.0.1:1\", \"0.0.0.0:1\"]\nunsafe_listen = true", needs),
        (
            "listen = \"0.0.0.0:1\"\nunsafe_listen = true\nclients = {}",
            "route.api.clients: lets everybody in; name `uids`",
        ),
        ("listen = \"broker:1\"\nunsafe_listen = true\nclients = { uids = [1] }", "is not an address to listen on"),
        ("listen = \"127.0.0.1:1\"\nclients = { uids = [] }", "route.api.clients.uids: must not be empty"),
        ("listen = \"127.0.0.1:1\"\nclients = { uids = [-1] }", "-1 is out of range"),
        ("listen = \"127.0.0.1:1\"\nclients = { uids = [4294967296] }", "4294967296 is out of range"),
        ("listen = \"127.0.0.1:1\"\nclients = { uid = [1] }", "did you mean `uids`?"),
        (
            "listen = \"127.0.0.1:1\"\nclients = { networks = [\"10.0.0.0/8\", \"10.1.0.0/8\"] }",
            "route.api.clients.networks.1: is not a network; its address has more than 8 bits: 10.0.0.0/8",
        ),
        (
            "listen = \"127.0.0.1:1\"\nclients = { networks = [\"local\"] }",
            "is not a network; written like 172.16.0.0/12",
        ),
        (
            "listen = \"unix:/tmp/x.sock\"\nclients = { networks = [\"10.0.0.0/8\"] }",
            "nobody could connect over the Unix socket",
        ),
        ("listen = \"127.0.0.1:1\"\nclients = { key = \"\" }", "route.api.clients.key: the secret is empty"),
        (
            "listen = \"127.0.0.1:1\"\nclients = { key = \"0123456789abcdef\\n0\" }",
            "route.api.clients.key: has bytes that no header may have",
        ),
        (
            "listen = \"127.0.0.1:1\"\nclients = { key = { file = \"missing\" } }",
            "route.api.clients.key: cannot read the file",
        ),
        ("listen = \"127.0.0.1:1\"\nclients = { cert = \"x\" }", "route.api.clients: `ca` is missing"),
        ("listen = \"127.0.0.1:1\"\nclients = { ca = \"x\" }", "route.api.clients: `cert` is missing"),
        (
            "listen = \"127.0.0.1:1\"\nclients = { ca = \"x\", cert = \"x\", key = { env = \"X\" } }",
            "this is the file of the private key",
        ),
        (
            "listen = \"127.0.0.1:1\"\nclients = { ca = \"x\", cert = \"x\", key = \"x\" }",
            "route.api.clients.ca: cannot read",
        ),
    ] {
        let problems = problems(&route(keys));
        assert!(problems.iter().any(|line| line.contains(words)), "{keys}: {problems:#?}");
    }
    // What stands where a path should may be a secret.
    let secret = "geheimnis-statt-pfad";
    let problems = problems(&route(&format!(
        "listen = \"127.0.0.1:1\"\nclients = {{ ca = \"x\", cert = \"x\", key = \"{secret}\" }}"
    )));
    assert!(problems.iter().any(|line| line.contains("route.api.clients.key: ")), "{problems:#?}");
    assert!(!problems.iter().any(|line| line.contains(secret)), "{problems:#?}");
    for (keys, warning) in [
        ("networks = [\"10.0.0.0/8\"]", "other machines know this listener by other names than localhost"),
        ("networks = [\"0.0.0.0/0\"]", "route.api.clients.networks.0: is every address there is"),
        ("uids = [1]", "only this machine has users that can be known"),
        ("uids = [65534], networks = [\"10.0.0.0/8\"]", "65534 is also how users of another namespace look"),
        ("key = \"short\"", "has fewer than 16 characters"),
    ] {
        let keys = format!("listen = \"0.0.0.0:1\"\nunsafe_listen = true\nclients = {{ {keys} }}");
        let (code, _, stderr) = check(&route(&keys));
        assert!(code == 0 && stderr.contains(warning), "{keys}: {stderr}");
    }
}

#[test]
fn routes_on_one_listener_have_one_tls() {
    let directory = tempfile::tempdir().unwrap();
    let pki = tokenbroker::standin::pki::Pki::new(directory.path()).unwrap();
    for name in ["one", "two"] {
        pki.issue(&tokenbroker::standin::pki::Leaf::server(name)).unwrap();
    }
    let route = |name: &str, port: u16, tls: &str| {
        let clients = match tls {
            "" => String::new(),
            tls => format!("clients = {{ ca = \"ca.pem\", cert = \"{tls}.pem\", key = {{ file = \"{tls}.key\" }} }}\n"),
        };
        format!(
            "[route.{name}]\nlisten = \"127.0.0.1:{port}\"\npath = \"/{name}\"\nupstream = \"https://a.example\"\ntoken = false\n{clients}"
        )
    };
    let check = |text: String| {
        let file = write(directory.path(), "tokenbroker.toml", text);
        let output = binary().arg("-c").arg(file).arg("check").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for (second, fine) in [("one", true), ("two", false), ("", false)] {
        let (code, stderr) = check(route("a", 1, "one") + &route("b", 1, second));
        assert_eq!(code == 0, fine, "{stderr}");
        assert_eq!(stderr.contains("the route a has another `ca`, `cert` or `key` on 127.0.0.1:1"), !fine, "{stderr}");
    }
    assert_eq!(check(route("a", 1, "one") + &route("b", 2, "two")).0, 0);
}

#[test]
fn what_is_promised_for_later_is_refused_by_name() {
    for (config, key) in [
        ("[identity.i]\np12 = \"x\"\n", "identity.i.p12"),
        ("[token.t]\nissuer = \"http://localhost/\"\n", "token.t.issuer"),
        ("[token.t]\nclient_auth = \"private_key_jwt\"\n", "token.t.client_auth"),
        ("[route.r]\nhttp2 = true\n", "route.r.http2"),
        ("[dialect.d]\ngrant = \"device_code\"\n", "dialect.d.grant"),
    ] {
        let problems = problems(config);
        let found = problems.iter().any(|line| line.contains(&format!(": {key}: ")) && line.contains("not yet"));
        assert!(found, "{key}: {problems:#?}");
    }
    let (code, _, stderr) = run_to_end("", &["chekc"]);
    assert!(code == 2 && stderr.contains("check"), "{stderr}");
}

#[test]
fn a_token_needs_what_its_dialect_grant_and_client_authentication_need() {
    let token = |keys: &str| format!("[token.api]\n{keys}\n{ROUTE}");
    let at = "tokenbroker.toml:1:8: token.api: ";
    problem(&token(""), &format!("{at}the dialect oauth2 needs `url`; add it to this table"));
    problem(&token("grant = \"password\""), &format!("{at}the grant password needs `username`; add it to this table"));
    problem(
        &token("grant = \"refresh_token\""),
        &format!("{at}the grant refresh_token needs `refresh_token`; add it to this table"),
    );
    problem(&token("grant = \"static\""), &format!("{at}the grant static needs `access_token`; add it to this table"));
    problem(
        &token("dialect = \"comodo-one\""),
        &format!("{at}the dialect comodo-one needs `identity`; add it to this table"),
    );
    problem(
        &token("client_auth = \"tls_client_auth\""),
        &format!(
            "{at}the client authentication needs `identity`; add it, or set client_auth to what the vendor expects"
        ),
    );
    problem(
        &token("dialect = \"oauth\""),
        "tokenbroker.toml:2:11: token.api.dialect: there is no dialect \"oauth\"; did you mean \"oauth2\"?",
    );
    problem(
        &token("username = \"u\""),
        "tokenbroker.toml:2:1: token.api.username: is not used by the grant client_credentials; set the grant that is meant, or remove it",
    );
    problem(
        &token("roots = \"ca\""),
        "tokenbroker.toml:2:9: token.api.roots: `roots = \"ca\"` needs `ca`; name the file with the CA's certificates",
    );
    problem(
        &token(
            "send_to = [\"https://other.example\"]\nurl = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = \"s\"",
        ),
        "tokenbroker.toml:8:12: route.api.upstream: the token api may not be sent to https://api.example.com; add the origin to the token's send_to",
    );
}

#[test]
fn a_route_leads_somewhere_and_to_one_place_only() {
    let route = |name: &str, keys: &str| format!("[route.{name}]\ntoken = false\n{keys}\n");
    let fine = "listen = \"127.0.0.1:8403\"\nupstream = \"https://a.example\"";
    problem("", "tokenbroker.toml: there is no [route]; add one: [route.NAME] with listen and upstream");
    problem(
        "[route.api]\nlisten = \"127.0.0.1:1\"\nupstream = \"https://a.example\"",
        "tokenbroker.toml:1:8: route.api: no token is named, and there is no [token.api]; set `token` to a [token], or token = false to forward without one",
    );
    problem(
        &route("a", "listen = \"127.0.0.1:8403\"\nupstream = \"http://a.example\""),
        "tokenbroker.toml:4:12: route.a.upstream: the token would cross the network unencrypted; use https://, or unsafe_plain_upstream = true",
    );
    problem(
        &(route("a", fine) + &route("b", fine)),
        "tokenbroker.toml:7:10: route.b.listen: 127.0.0.1:8403 leads to the route a already; tell them apart by host or path, or choose another port",
    );
    problem(
        &route("a", "listen = \"127.0.0.1:8400\"\nupstream = \"https://a.example\""),
        "tokenbroker.toml:3:10: route.a.listen: 127.0.0.1:8400 is the operator's listener; choose another port, or move it with [admin] listen",
    );
    problem(
        &route("a", "listen = \"127.0.0.1:8403\"\nupstream = \"http://localhost:8403\""),
        "tokenbroker.toml:4:12: route.a.upstream: leads back to a listener of this broker; name the API itself",
    );
    for listen in ["0.0.0.0:1", "[::]:1", "192.168.1.1:1", "10.0.0.1:80"] {
        let shown = problems(&route("a", &format!("listen = \"{listen}\"\nupstream = \"https://a.example\""))).concat();
        assert!(shown.contains("other machines could use the token"), "{listen}: {shown}");
    }
    for listen in ["8403", ":8403", "example.com:80", "127.0.0.1", "unix:relative.sock", ""] {
        let config = route("a", &format!("listen = \"{listen}\"\nupstream = \"https://a.example\""));
        assert_eq!(check(&config).0, 78, "{listen}");
    }
    for key in [
        "path = \"api\"",
        "path = \"/a/../b\"",
        "path = \"/a%2fb\"",
        "paths = [\"/a?b\"]",
        "methods = [\"get\"]",
        "methods = [\"TRACE\"]",
        "format = \"Bearer {token}\"",
        "format = \"Bearer\"",
        "header = \"bad name\"",
        "headers = { Host = \"x\" }",
        "headers = { X-Forwarded-For = \"x\" }",
        "host = \"a:80\"",
        "accept_origins = [\"app.example\"]",
        "response_timeout = \"0s\"",
        "server_name = \"a b\"",
    ] {
        let (code, _, stderr) = check(&route("a", &format!("{fine}\n{key}")));
        assert_eq!(code, 78, "{key}: {stderr}");
    }
    let paths = route("a", fine)
        + &route("b", &format!("{fine}\npath = \"/b\""))
        + &route("c", &format!("{fine}\nhost = \"c.local\""));
    let (code, stdout, stderr) = check(&paths);
    assert_eq!((code, stdout.as_str()), (0, "tokenbroker.toml: ok (3 routes, 0 tokens)\n"), "{stderr}");
}

#[test]
fn secrets_come_from_files_environment_commands_and_systemd_and_only_inline_ones_are_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "secret", "from-file\n");
    let config = |source: &str| {
        format!("[token.api]\nurl = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = {source}\n{ROUTE}")
    };
    let file = write(directory.path(), "tokenbroker.toml", "");
    let run = |source: &str| {
        std::fs::write(&file, config(source)).unwrap();
        let output = binary()
            .arg("-c")
            .arg(&file)
            .arg("check")
            .env("API_SECRET", "from-env")
            .env("EMPTY", "")
            .env("CREDENTIALS_DIRECTORY", directory.path())
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for fine in ["{ file = \"secret\" }", "{ exec = [\"printf\", \"%s\", \"x\"] }", "{ credential = \"secret\" }"] {
        assert_eq!(run(fine), (0, String::new()), "{fine}");
    }
    let (code, stderr) = run("\"geheimnis\"");
    assert!(code == 0 && stderr.contains("warning: ") && stderr.contains("the secret stands in this file"), "{stderr}");
    assert!(!stderr.contains("geheimnis"));
    let (code, stderr) = run("{ env = \"API_SECRET\" }");
    assert!(code == 0 && stderr.contains("can be read in /proc"), "{stderr}");
    for (wrong, why) in [
        ("{ file = \"nowhere\" }", "cannot read the file"),
        ("{ file = \".\" }", "is not a regular file"),
        ("{ env = \"NOT_SET_ANYWHERE\" }", "NOT_SET_ANYWHERE is not set or empty"),
        ("{ env = \"EMPTY\" }", "EMPTY is not set or empty"),
        ("{ exec = [7] }", "expected text in quotes, found a whole number"),
        ("{ exec = [\"no-such-program\"] }", "was not found"),
        ("{ exec = [] }", "must not be empty"),
        ("{ credential = \"nowhere\" }", "cannot read the file"),
        ("{ file = \"secret\", env = \"API_SECRET\" }", "needs exactly one key"),
        ("{}", "needs exactly one key"),
        ("7", "expected text in quotes or a table or a list, found a whole number"),
        ("[{ file = \"secret\" }, { file = \"nowhere\" }]", ": token.api.client_secret.1: cannot read the file"),
        ("[\"a\", \"b\", \"c\"]", ": token.api.client_secret: there are more than two"),
        ("[]", "must not be empty"),
    ] {
        let (code, stderr) = run(wrong);
        assert!(code == 78 && stderr.contains(why), "{wrong}: {stderr}");
    }
    write(directory.path(), "secret", "\n");
    assert!(run("{ file = \"secret\" }").1.contains("is empty"));
    write(directory.path(), "secret", b"\xff");
    assert!(run("{ file = \"secret\" }").1.contains("does not hold UTF-8 text"));
    write(directory.path(), "secret", "x".repeat(70_000));
    assert!(run("{ file = \"secret\" }").1.contains("larger than 64 KiB"));
}

#[test]
fn files_that_others_may_change_are_refused_and_those_that_others_may_read_are_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "[token.api]\nurl = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = {{ file = \"link\" }}\n{ROUTE}"
    );
    let secret = write(directory.path(), "secret", "s");
    std::os::unix::fs::symlink(&secret, directory.path().join("link")).unwrap();
    let with_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let output = binary().arg("-c").arg(directory.path().join("tokenbroker.toml")).arg("check").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let file = write(directory.path(), "tokenbroker.toml", config);
    assert_eq!(with_mode(&secret, 0o600), (0, String::new()));
    let (code, stderr) = with_mode(&secret, 0o644);
    assert!(code == 0 && stderr.contains("can be read by everybody (mode 0644); chmod o-r"), "{stderr}");
    for mode in [0o620, 0o602] {
        let (code, stderr) = with_mode(&secret, mode);
        assert!(code == 78 && stderr.contains("can be changed by others"), "{stderr}");
    }
    with_mode(&secret, 0o600);
    let (code, stderr) = with_mode(&file, 0o660);
    assert!(code == 78 && stderr.contains("tokenbroker.toml: can be changed by others (mode 0660)"), "{stderr}");
    assert_eq!(with_mode(&file, 0o644), (0, String::new()), "no secret is in it");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("{ file = \"link\" }", "\"geheimnis\"")).unwrap();
    let (code, stderr) = with_mode(&file, 0o644);
    assert!(code == 0 && stderr.contains("holds a secret and can be read by everybody (mode 0644)"), "{stderr}");
}

#[test]
fn a_file_that_is_named_must_be_there_and_defaults_are_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let run =
        |arguments: &[&str]| binary().args(arguments).arg("check").current_dir(directory.path()).output().unwrap();
    let output = run(&["-c", "missing.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.toml: cannot be read"));
    if !Path::new("/etc/tokenbroker/tokenbroker.toml").exists() {
        let output = run(&[]);
        assert_eq!(output.status.code(), Some(78));
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no tokenbroker.toml"));
    }
    write(directory.path(), "tokenbroker.toml", format!("{ROUTE}token = false\n"));
    assert_eq!(run(&[]).status.code(), Some(0));
    let output =
        binary().arg("check").env("TOKENBROKER_CONFIG", "missing.toml").current_dir(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "a file named in the environment must be there, too");
    assert_eq!(binary().output().unwrap().status.code(), Some(2), "usage");
}

#[test]
fn check_says_the_same_as_json() {
    let (code, stdout, _) = run_to_end("[route.api]\nlisten = 7\n", &["check", "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"]), (78, &Value::Bool(false)));
    let first = &report["problems"][0];
    assert_eq!((first["line"].as_u64(), first["key"].as_str()), (Some(1), Some("route.api")));
    let (code, stdout, _) = run_to_end(&format!("{ROUTE}token = false\n"), &["check", "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)));
}

#[test]
fn check_as_json_is_json_whatever_happens() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "broken.toml", "listen \"x\"\n");
    let mut all = vec![vec!["-c", "missing.toml"], vec!["-c", "."], vec!["-c", "broken.toml"]];
    if !Path::new("/etc/tokenbroker/tokenbroker.toml").exists() {
        all.push(Vec::new());
    }
    for arguments in all {
        let mut command = binary();
        let output = command.args(&arguments).args(["check", "--json"]).current_dir(directory.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
        assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{report}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn what_cannot_be_written_is_no_success() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "tokenbroker.toml", format!("{ROUTE}token = false\n"));
    for arguments in [&["schema"][..], &["check"], &["check", "--json"], &["--help"], &["login", "--help"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = binary().arg("-c").arg(&file).args(arguments).stdout(full).output().unwrap().status;
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_whatever_breaks_the_check(parts in proptest::collection::vec(
        proptest::sample::select(vec![
            "[route.a]", "[[route", "[token.api]", "\n", "\n", " = ", "=", "listen", "upstream", "\"", "'", "\"\"\"", "{", "}",
            "[", "]", ",", ".", "é", "\u{10348}", "\\", "\\u", "127.0.0.1:0", "https://a", "token", "3", "1e9", "2026-01-01",
            "true", "#", "\u{0}", "\r", "a", "grant", "static", "headers", "[dialect.d.secrets.list]", "extends", "vars", "limit",
            "\"oauth2\"", "answer", "[dialect.d.authorize]", "[dialect.d]", "5 per 5m",
        ]),
        0..40,
    )) {
        let directory = tempfile::tempdir().unwrap();
        let file = write(directory.path(), "tokenbroker.toml", parts.concat());
        let (config, report) = tokenbroker::config::load(&file, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(config.is_none(), !report.problems.is_empty());
    }
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "latin1.toml", b"# caf\xe9\n");
    for (file, expected) in [
        ("missing.toml", "missing.toml: cannot be read: there is no such file; name the configuration with -c FILE\n"),
        (".", ".: cannot be read: it is a directory; name the file in it with -c FILE\n"),
        ("latin1.toml", "latin1.toml: is not UTF-8 text; TOML is UTF-8; save it again as that\n"),
    ] {
        let output = binary().args(["-c", file, "check"]).current_dir(directory.path()).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(78), expected));
    }
}

#[test]
fn levels_are_words_and_not_spellings() {
    assert_eq!(run_to_end("", &["--log-level", "INFO", "schema"]).0, 0);
}

#[test]
fn the_problems_of_run_are_json_lines_where_json_is_asked_for() {
    let config = "[route.api]\nlisten = 7\nupstream = 8\ntoken = false\n[dialect.mine]\n";
    let (code, _, stderr) = run_to_end(config, &["run", "--log-format", "json"]);
    let lines: Vec<Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let levels: Vec<_> = lines.iter().filter_map(|line| line["level"].as_str()).collect();
    assert_eq!((code, levels), (78, vec!["ERROR", "ERROR", "WARN"]), "{stderr}");
    assert!(lines[0]["message"].as_str().unwrap().contains(":2:10: route.api.listen: expected text"), "{stderr}");
}

#[test]
fn run_refuses_what_check_refuses() {
    let (code, _, stderr) = run_to_end("[route.api]\n", &["run"]);
    assert_eq!(code, 78);
    assert!(stderr.contains("tokenbroker.toml:1:8: route.api"), "{stderr}");
}

#[test]
fn a_dialect_of_ones_own_is_checked_like_the_rest() {
    let config = format!(
        "{ROUTE}[token.api]\ndialect = \"mine\"\nclient_id = \"c\"\nclient_secret = \"s\"\n[dialect.mine]\nextends = \"oauth3\"\n"
    );
    let expected = "tokenbroker.toml:9:11: dialect.mine.extends: there is no built-in dialect \"oauth3\"; one of ";
    assert!(problems(&config)[0].starts_with(expected));
    let config =
        format!("{ROUTE}token = false\n[dialect.mine]\nextends = \"oauth2\"\nacquire = {{ url = \"{{urk}}\" }}\n");
    let shown = problems(&config).concat();
    assert!(shown.contains("dialect.mine.acquire.url: there is no `{urk}` here"), "{shown}");
    let config = format!("{ROUTE}token = false\n[dialect.oauth2]\n");
    assert!(problems(&config).concat().contains("there is a built-in of that name"));
}

#[test]
fn every_built_in_dialect_can_be_used_with_what_it_needs() {
    let directory = tempfile::tempdir().unwrap();
    let pki = tokenbroker::standin::pki::Pki::new(directory.path()).unwrap();
    let issued = pki.issue(&tokenbroker::standin::pki::Leaf::client("me", 1)).unwrap();
    for (dialect, _) in BUILT_IN {
        let compiled = built_in(dialect).unwrap();
        let needs = compiled.needs;
        let mut keys = format!("dialect = \"{dialect}\"\n");
        match compiled.grant {
            Some(Grant::AuthorizationCode) => {
                keys += "grant = \"refresh_token\"\nrefresh_token = { exec = [\"true\"] }\n";
            }
            Some(Grant::Password) => keys += "username = \"u\"\npassword = { exec = [\"true\"] }\n",
            _ => {}
        }
        if *dialect == "oauth2" {
            keys += "client_id = \"me\"\nclient_secret = { exec = [\"true\"] }\n";
        }
        for need in needs.iter().filter(|need| !["username", "password"].contains(&need.as_str())) {
            keys += &match need.as_str() {
                "url" | "base_url" => format!("{need} = \"https://vendor.example\"\n"),
                "client_secret" => "client_secret = { exec = [\"true\"] }\n".to_owned(),
                "scope" => "scope = [\"a\"]\n".to_owned(),
                key => format!("{key} = \"me\"\n"),
            };
        }
        let identity = if needs.iter().any(|need| need == "identity") {
            format!("[identity.me]\ncert = {:?}\nkey = {:?}\n", issued.cert, issued.key)
        } else {
            String::new()
        };
        let config = format!("[token.api]\n{keys}{ROUTE}{identity}");
        let (code, _, stderr) = check(&config);
        let memory = compiled.grant == Some(Grant::AuthorizationCode);
        let fine = stderr.is_empty() || (memory && stderr.lines().count() == 1 && stderr.contains("[store]"));
        assert!(code == 0 && fine, "{config}{stderr}");
        let lacking = keys.lines().filter(|line| !line.starts_with("headers.") && !line.starts_with("params."));
        let lacking: String =
            lacking.filter(|line| !line.starts_with("vars.")).map(|line| format!("{line}\n")).collect();
        for need in needs.iter().filter(|need| need.contains('.')) {
            let problems = problems(&format!("[token.api]\n{lacking}{ROUTE}{identity}"));
            let expected = format!("token.api: the dialect {dialect} needs `{need}`; add it to this table");
            assert!(problems.iter().any(|line| line.contains(&expected)), "{expected}: {problems:#?}");
        }
    }
}

#[test]
fn what_goes_with_a_token_is_on_every_route_that_does_not_say_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let text = r#"
[token.api]
dialect = "mine"
client_id = "my-app"
client_secret = "s"
headers = { Comap-Key = "k1" }
vars = { area = "north" }
[route.plain]
listen = "127.0.0.1:8403"
upstream = "https://api.example"
token = "api"
[route.own]
listen = "127.0.0.1:8404"
upstream = "https://api.example"
token = "api"
header = "X-Area"
headers = { comap-key = "k2" }
[route.none]
listen = "127.0.0.1:8405"
upstream = "https://api.example"
token = false
[dialect.mine]
extends = "comap"
vars = { area = "south" }
[dialect.mine.inject]
headers = { X-Client = "id {client_id}", X-Area = "{area}", X-Absent = "{headers.X-Absent}" }
"#;
    let file = write(directory.path(), "tokenbroker.toml", text);
    let (config, report) = tokenbroker::config::load(&file, jiff::Timestamp::UNIX_EPOCH);
    let config = config.unwrap_or_else(|| panic!("{:#?}", report.problems));
    let sent = |route: &str| {
        let headers = config.routes[route].headers.iter();
        let sent = headers.map(|(name, source)| match source {
            SecretSource::Inline(value) => (name.to_string(), value.expose().to_owned()),
            other => panic!("{other:?}"),
        });
        sent.collect::<Vec<_>>()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut plain = sent("plain");
    plain.sort();
    assert_eq!(plain, [pair("comap-key", "k1"), pair("x-area", "north"), pair("x-client", "id my-app")]);
    assert_eq!(sent("own"), [pair("comap-key", "k2"), pair("x-client", "id my-app")]);
    assert_eq!(sent("none"), []);
    let token = &config.tokens["api"];
    assert_eq!(token.limit.map(|limit| limit.max), Some(5), "the dialect's");
    assert!(!format!("{token:?}{:?}", config.routes["plain"]).contains("k1\""), "{token:?}");
}

#[test]
fn a_tokens_own_names_and_its_budget_are_checked() {
    let token = |keys: &str| {
        let client = "client_id = \"c\"\nclient_secret = { exec = [\"true\"] }";
        format!("[token.api]\ndialect = \"vault-approle\"\nbase_url = \"https://v.example\"\n{client}\n{keys}\n{ROUTE}")
    };
    let at = "tokenbroker.toml:6:";
    for (keys, expected) in [
        (
            "vars = { mont = \"a\" }",
            "10: token.api.vars.mont: the dialect vault-approle has no such name; did you mean `mount`?",
        ),
        ("vars = { mount = \"\" }", "18: token.api.vars.mount: is empty; write what the vendor calls it, or remove it"),
        ("vars = { mount = 7 }", "18: token.api.vars.mount: expected text in quotes, found a whole number"),
        (
            "limit = \"5 in 5m\"",
            "9: token.api.limit: \"5 in 5m\" is not understood; a budget is written like \"5 per 5m\": from 1 to 1000000 requests, in a second or more",
        ),
    ] {
        let problems = problems(&token(keys));
        assert_eq!(problems, [format!("{at}{expected}")], "{keys}");
    }
    problem(
        &format!("[token.api]\ngrant = \"static\"\naccess_token = \"t\"\nlimit = \"5 per 5m\"\n{ROUTE}"),
        "tokenbroker.toml:4:1: token.api.limit: is not used by the grant static, which makes no request; remove it, or set the grant that is meant",
    );
}

#[test]
fn the_schema_describes_every_key_and_accepts_the_reference() {
    let (code, stdout, _) = run_to_end("", &["schema"]);
    assert_eq!(code, 0);
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for table in ["store", "admin", "limits", "identity", "token", "route", "dialect"] {
        assert!(schema["properties"][table]["description"].is_string(), "{table}");
    }
    assert!(!stdout.contains("null"), "TOML has no null");
    assert!(!stdout.contains("\"format\": \""), "a duration is not what JSON Schema calls one");
    let route = &schema["properties"]["route"]["additionalProperties"];
    assert_eq!(route["required"], serde_json::json!(["listen", "upstream"]));
    assert_eq!(route["properties"]["token_wait"]["pattern"], "^([0-9]+(ms|s|m|h|d))+$");
    fn described(node: &Value, path: &str) {
        for (key, value) in node["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            assert!(value["description"].is_string(), "{path}");
            described(value, &path);
        }
        for below in ["additionalProperties", "items"].iter().filter_map(|key| node.get(key)) {
            described(below, &format!("{path}.*"));
        }
        for branch in node["anyOf"].as_array().into_iter().flatten() {
            described(branch, path);
        }
    }
    described(&schema, "");
}

/// Every key that the schema knows, as dotted paths with `*` for names.
fn keys(node: &Value, schema: &Value, path: &str, out: &mut Vec<String>) {
    let node = match node.get("$ref").and_then(Value::as_str) {
        Some(to) => schema.pointer(to.trim_start_matches('#')).unwrap(),
        None => node,
    };
    for (key, value) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{key}");
        keys(value, schema, &path, out);
        out.push(path.trim_start_matches('.').to_owned());
    }
    if let Some(others @ Value::Object(_)) = node.get("additionalProperties") {
        keys(others, schema, &format!("{path}.*"), out);
    }
    if let Some(items) = node.get("items") {
        keys(items, schema, path, out);
    }
}

#[test]
fn the_reference_shows_every_key_with_its_default_and_nothing_else() {
    let (_, stdout, _) = run_to_end("", &["schema"]);
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    let mut known = Vec::new();
    keys(&schema, &schema, "", &mut known);
    let is_table = |key: &str| {
        let inside = [
            "acquire",
            "renew",
            "exchange",
            "revoke",
            "authorize",
            "secrets",
            "rotate",
            "clients",
            "answer",
            "error",
            "inject",
        ];
        let inside = inside.map(|table| format!("dialect.*.{table}"));
        ["store", "admin", "limits", "identity", "token", "token.*.rotate", "route", "route.*.clients", "dialect"]
            .contains(&key)
            || inside.iter().any(|t| t == key)
    };
    // Examples are for the built-in files; what they hold is described in docs/dialects.md.
    known.retain(|key| !is_table(key) && !key.starts_with("dialect.*.example."));
    let reference = include_str!("../../examples/reference.toml");
    let (mut shown, mut inline) = (Vec::new(), Vec::new());
    let mut table = String::new();
    for line in reference.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.trim_start_matches('[').split(']').next()) {
            let parts: Vec<_> = name.split('.').collect();
            let named = |i: usize| i == 1 || (i == 3 && ["secrets", "clients"].contains(&parts[2]));
            table = parts
                .iter()
                .enumerate()
                .map(|(i, part)| if named(i) { "*" } else { part })
                .collect::<Vec<_>>()
                .join(".");
        } else if let Some((key, value)) = line.split_once(" =")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '2')
        {
            shown.push(format!("{table}.{key}"));
            let inner = value.split(['{', ',']).filter_map(|part| part.split_once(" =")).map(|(inner, _)| inner.trim());
            inline.extend(inner.map(|inner| format!("{table}.{key}.{inner}")));
        }
    }
    let language = include_str!("../../docs/dialects.md");
    for key in known.iter().filter(|key| key.starts_with("dialect.*.")) {
        let word = key.rsplit('.').next().unwrap();
        assert!(
            [" ", "`", "."].iter().any(|before| language.contains(&format!("{before}{word}`"))),
            "docs/dialects.md: {key}"
        );
    }
    shown.extend(inline.iter().filter(|key| known.contains(key)).cloned());
    let missing: Vec<_> = known.iter().filter(|key| !shown.contains(key)).collect();
    assert!(missing.is_empty(), "not in examples/reference.toml: {missing:#?}");
    let unknown: Vec<_> = shown.iter().filter(|key| !known.contains(key)).collect();
    assert!(unknown.is_empty(), "no such keys: {unknown:#?}");
}

#[test]
fn a_redis_is_named_by_a_url_without_a_password_and_its_keys_by_a_prefix() {
    const KEY: &str = "key = { file = \"key\" }";
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "key", "0123456789abcdef0123456789abcdef");
    write(directory.path(), "password", "hunter2-canary");
    let check = |keys: &str| {
        let store = format!("[store]\nkind = \"redis\"\n{KEY}\n{keys}\n");
        check_in(directory.path(), &format!("{store}{ROUTE}token = false\n"))
    };
    let url = |url: &str| format!("url = \"{url}\"");
    for fine in ["redis://localhost", "redis://[::1]:6380/15", "rediss://redis.example.com", "redis://redis:6379/"] {
        let (code, _, stderr) = check(&url(fine));
        assert_eq!((code, stderr.as_str()), (0, ""), "{fine}");
    }
    const USABLE: &str =
        "is not a usable URL; written like redis://127.0.0.1:6379 or rediss://user@redis.example.com:6379/0";
    let password = "password = { file = \"password\" }";
    let with = |first: &str, second: &str| format!("{}\n{second}", url(first));
    for (keys, expected) in [
        (url("http://localhost"), format!("4:7: store.url: {USABLE}")),
        (url("localhost:6379"), format!("4:7: store.url: {USABLE}")),
        (url("redis://localhost?db=1"), format!("4:7: store.url: {USABLE}")),
        (
            url("redis://localhost/one"),
            "4:7: store.url: is not a usable URL; only the number of a database may follow the host, such as /0".into(),
        ),
        (
            url("redis://localhost:0"),
            "4:7: store.url: is not a usable URL; its host is missing, or its port is not from 1 to 65535".into(),
        ),
        (url("redis://@localhost"), "4:7: store.url: is not a usable URL; its user name is empty or wrongly encoded".into()),
        (
            url("redis://broker@localhost"),
            "4:7: store.url: has a user name, and there is no password; set password = { file = \"…\" }".into(),
        ),
        (
            url("redis://:hunter2/canary@localhost"),
            "4:7: store.url: holds a password, and a URL is shown in many places; remove it there, and set password = { file = \"…\" }".into(),
        ),
        (
            with("redis://localhost", "prefix = \"\""),
            "5:10: store.prefix: is not a usable prefix; up to 64 letters, digits and signs, such as \"tokenbroker:\"".into(),
        ),
        (
            with("redis://localhost", "prefix = \"a b\""),
            "5:10: store.prefix: is not a usable prefix; up to 64 letters, digits and signs, such as \"tokenbroker:\"".into(),
        ),
        (
            with("redis://localhost", "roots = \"ca\""),
            "5:9: store.roots: `roots = \"ca\"` needs `ca`; name the file with the CA's certificates".into(),
        ),
        (
            with("rediss://localhost", "identity = \"me\""),
            "5:12: store.identity: there is no [identity.me]; add it".into(),
        ),
        (
            with("redis://localhost", "password = { file = \"none\" }"),
            "5:1: store.password: cannot read the file none: No such file or directory (os error 2); check the path and its permissions".into(),
        ),
        (with("redis://localhost", "path = \"key\""), "5:8: store.path: is not a directory; name a directory, or one that is still to be made".into()),
    ] {
        let (code, _, stderr) = check(&keys);
        assert_eq!((code, stderr), (78, format!("tokenbroker.toml:{expected}\n")), "{keys}");
    }
    for (keys, warns) in [
        (with("redis://redis.example.com", password), true),
        (with("rediss://broker@redis.example.com", password), false),
        (with("redis://bro%2Fker@localhost", password), false),
        (with("redis://redis.example.com", "path = \"kept\""), false),
    ] {
        let (code, _, stderr) = check(&keys);
        let warning = "warning: tokenbroker.toml:4:1: store.url: the password crosses the network unencrypted (what is kept is sealed); use rediss://\n";
        assert_eq!((code, stderr.as_str()), (0, if warns { warning } else { "" }), "{keys}");
    }
}
