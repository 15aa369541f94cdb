use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

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
        "tokenbroker.toml:6:8: token.api: the client authentication needs `client_id`; add it, or set client_auth to what the vendor expects",
        "tokenbroker.toml:7:9: token.api.grant: \"passwrd\" is not known here; did you mean \"password\"? one of client_credentials, password, refresh_token, static",
        "tokenbroker.toml:8:1: token.api.url: credentials would cross the network unencrypted; use https://",
        "tokenbroker.toml:9:19: token.api.client_secret.fil: unknown key; did you mean `file`?",
        "tokenbroker.toml:10:9: token.api.eager: expected true or false, found text in quotes",
        "tokenbroker.toml:11:14: token.api.refresh_at: 3 is out of range; from 0.1 to 0.95",
        "tokenbroker.toml:12:1: token.api.scope: a scope is one word; write a list: [\"read\", \"write\"]",
        "tokenbroker.toml:15:1: route.api.listen: other machines could use the token: only loopback addresses are allowed; listen on 127.0.0.1, [::1] or unix:/path; `unsafe_listen` is not yet there in this version",
        "tokenbroker.toml:16:1: route.api.upstream: is not a usable URL; no user name, query or fragment belongs here",
        "tokenbroker.toml:17:1: route.api.identity: there is no [identity.nobody]; add it",
        "tokenbroker.toml:18:1: route.api.header: the broker sets this field itself; choose the field that the API reads the token from",
        "tokenbroker.toml:23:1: route.other.token: there is no [token.ap]; did you mean \"api\"?",
    ];
    assert_eq!(problems(config), expected);
}

#[test]
fn syntax_errors_and_duplicate_keys_have_their_place_and_do_not_quote_the_line() {
    let config = format!("{ROUTE}token = false\nlisten = \"127.0.0.1:1\"\n[token.x]\npassword = \"geheimnis\n");
    let problems = problems(&config);
    assert!(problems.iter().any(|line| line.starts_with("tokenbroker.toml:5:1: duplicate key")), "{problems:#?}");
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

#[test]
fn what_is_promised_for_later_is_refused_by_name() {
    for (config, key) in [
        ("[store]\nkind = \"file\"\n", "store.kind"),
        ("[store]\npath = \"/x\"\n", "store.path"),
        ("[admin]\nprobes = \"0.0.0.0:1\"\n", "admin.probes"),
        ("[identity.i]\np12 = \"x\"\n", "identity.i.p12"),
        ("[token.t]\nlimit = \"5 per 5m\"\n", "token.t.limit"),
        ("[token.t]\ngrant = \"authorization_code\"\n", "token.t.grant"),
        ("[token.t]\nclient_auth = \"private_key_jwt\"\n", "token.t.client_auth"),
        ("[token.t]\ndialect = \"comap\"\n", "token.t.dialect"),
        ("[token.t]\nvars = { a = \"b\" }\n", "token.t.vars"),
        ("[route.r]\nunsafe_listen = true\n", "route.r.unsafe_listen"),
        ("[route.r]\nclients = {}\n", "route.r.clients"),
        ("[dialect.d]\nrevoke = {}\n", "dialect.d.revoke"),
        ("[dialect.d.answer]\nsame_token = \"x\"\n", "dialect.d.answer.same_token"),
        (
            "[[dialect.d.error]]\nclass = \"unknown\"\nwhen = { secret_younger_than = \"1m\" }\n",
            "dialect.d.error.0.when.secret_younger_than",
        ),
    ] {
        let problems = problems(config);
        let found = problems.iter().any(|line| line.contains(&format!(": {key}: ")) && line.contains("not yet"));
        assert!(found, "{key}: {problems:#?}");
    }
    for command in ["status", "login", "secret", "store", "init", "exec"] {
        let (code, _, stderr) = run_to_end("", &[command, "some", "--argument"]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(&format!("`{command}` is not yet there in this version")), "{stderr}");
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
        "tokenbroker.toml:2:1: token.api.dialect: there is no dialect \"oauth\"; did you mean \"oauth2\"?",
    );
    problem(
        &token("username = \"u\""),
        "tokenbroker.toml:2:1: token.api.username: is not used by the grant client_credentials; set the grant that is meant, or remove it",
    );
    problem(
        &token("roots = \"ca\""),
        "tokenbroker.toml:2:1: token.api.roots: `roots = \"ca\"` needs `ca`; name the file with the CA's certificates",
    );
    problem(
        &token(
            "send_to = [\"https://other.example\"]\nurl = \"https://a.example\"\nclient_id = \"c\"\nclient_secret = \"s\"",
        ),
        "tokenbroker.toml:8:1: route.api.upstream: the token api may not be sent to https://api.example.com; add the origin to the token's send_to",
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
        "tokenbroker.toml:4:1: route.a.upstream: the token would cross the network unencrypted; use https://, or unsafe_plain_upstream = true",
    );
    problem(
        &(route("a", fine) + &route("b", fine)),
        "tokenbroker.toml:7:1: route.b.listen: 127.0.0.1:8403 leads to the route a already; tell them apart by host or path, or choose another port",
    );
    problem(
        &route("a", "listen = \"127.0.0.1:8400\"\nupstream = \"https://a.example\""),
        "tokenbroker.toml:3:1: route.a.listen: 127.0.0.1:8400 is the operator's listener; choose another port, or move it with [admin] listen",
    );
    problem(
        &route("a", "listen = \"127.0.0.1:8403\"\nupstream = \"http://localhost:8403\""),
        "tokenbroker.toml:4:1: route.a.upstream: leads back to a listener of this broker; name the API itself",
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
        ("{ env = \"NOT_SET_ANYWHERE\" }", "is not set"),
        ("{ exec = [\"no-such-program\"] }", "was not found"),
        ("{ exec = [] }", "must not be empty"),
        ("{ credential = \"nowhere\" }", "cannot read the file"),
        ("{ file = \"secret\", env = \"API_SECRET\" }", "needs exactly one key"),
        ("{}", "needs exactly one key"),
        ("7", "expected text in quotes or a table, found a whole number"),
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
    assert!(code == 78 && stderr.contains("can be changed by others (mode 0660)"), "{stderr}");
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
    problem(
        &config,
        "tokenbroker.toml:9:1: dialect.mine.extends: there is no built-in dialect \"oauth3\"; one of comodo-one, oauth2",
    );
    let config =
        format!("{ROUTE}token = false\n[dialect.mine]\nextends = \"oauth2\"\nacquire = {{ url = \"{{urk}}\" }}\n");
    let shown = problems(&config).concat();
    assert!(shown.contains("dialect.mine.acquire.url: there is no `{urk}` here"), "{shown}");
    let config = format!("{ROUTE}token = false\n[dialect.oauth2]\n");
    assert!(problems(&config).concat().contains("there is a built-in of that name"));
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
    assert!(!stdout.contains("\"null\""), "TOML has no null");
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
}

#[test]
fn the_reference_shows_every_key_with_its_default_and_nothing_else() {
    let (_, stdout, _) = run_to_end("", &["schema"]);
    let schema: Value = serde_json::from_str(&stdout).unwrap();
    let mut known = Vec::new();
    keys(&schema, &schema, "", &mut known);
    // What a user's dialect may hold is documented by the built-in files, which are written in the same language.
    known.retain(|key| {
        !key.starts_with("dialect.*.")
            && !["store", "admin", "limits", "identity", "token", "route", "dialect"].contains(&key.as_str())
    });
    let reference = include_str!("../../examples/reference.toml");
    let mut shown = Vec::new();
    let mut table = String::new();
    for line in reference.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let parts: Vec<_> = name.split('.').collect();
            table = if parts.len() > 1 { format!("{}.*", parts[0]) } else { parts[0].to_owned() };
        } else if let Some((key, _)) = line.split_once(" =")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '2')
        {
            shown.push(format!("{table}.{key}"));
        }
    }
    let missing: Vec<_> = known.iter().filter(|key| !shown.contains(key)).collect();
    assert!(missing.is_empty(), "not in examples/reference.toml: {missing:#?}");
    let unknown: Vec<_> = shown.iter().filter(|key| !known.contains(key) && !key.contains("dialect.*.")).collect();
    assert!(unknown.is_empty(), "no such keys: {unknown:#?}");
}
