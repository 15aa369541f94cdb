use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tokenbroker::oauth::TokenError;
use tokenbroker::oauth::builtin::{BUILT_IN, built_in, extended};
use tokenbroker::oauth::dialect::Dialect;
use tokenbroker::oauth::error::{Class, Outcome};
use tokenbroker::oauth::file::{ClientAuth, Grant, Op};
use tokenbroker::oauth::manage::{self, Item};
use tokenbroker::oauth::operation::Managed;
use tokenbroker::oauth::place::Reply;
use tokenbroker::oauth::request::{self, Given, Inputs};
use tokenbroker::oauth::response::{self, Access};
use tokenbroker::oauth::rules::SameToken;
use tokenbroker::secret::Secret;
use tokenbroker::standin::demo;
use tokenbroker::units::{Budget, Span};

use crate::support::{Broker, RUNTIME};

/// All worked examples of all built-in dialects.
const EXAMPLES: usize = 121;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    about: String,
    /// `acquire`, `renew`, `exchange`, `revoke`, `authorize`, or `secrets.list` and its like.
    op: String,
    now: String,
    given: BTreeMap<String, String>,
    request: Option<ExpectedRequest>,
    #[serde(default)]
    request_headers: BTreeMap<String, String>,
    answer: Option<GivenAnswer>,
    token: Option<ExpectedToken>,
    class: Option<Class>,
    /// Words of what the operator is told to do.
    fix: Option<String>,
    /// Words of the vendor's message as it is shown.
    says: Option<String>,
    /// What a management request brings.
    items: Option<Vec<Item>>,
    /// The answer is a success that brings nothing.
    #[serde(default)]
    done: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedRequest {
    method: String,
    url: String,
    body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenAnswer {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedToken {
    access_token: String,
    lifetime: Option<Span>,
    refresh_token: Option<String>,
    refresh_lifetime: Option<Span>,
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(text.into()).unwrap()
}

fn inputs(dialect: &Dialect, given: &BTreeMap<String, String>) -> Inputs {
    let text = |name: &str| given.get(name).cloned();
    let secret = |name: &str| text(name).map(Secret::new);
    let grant = text("grant").map(|grant| word(&grant)).or(dialect.grant);
    let client_auth = text("client_auth").map(|auth| word(&auth)).or(dialect.client_auth);
    let known = [
        "url",
        "base_url",
        "grant",
        "client_auth",
        "client_id",
        "client_secret",
        "username",
        "password",
        "refresh_token",
        "scope",
    ];
    let mut inputs = Inputs {
        url: text("url"),
        base_url: text("base_url").or_else(|| dialect.base_url.clone()),
        client_id: text("client_id"),
        client_secret: secret("client_secret"),
        username: text("username"),
        password: secret("password"),
        refresh_token: secret("refresh_token"),
        scope: text("scope"),
        vars: dialect.vars.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect(),
        secret_age: text("secret_age").map(|age| tokenbroker::units::duration(&age).unwrap()),
        ..Inputs::new(grant.unwrap_or(Grant::ClientCredentials), client_auth.unwrap_or(ClientAuth::ClientSecretBasic))
    };
    for (key, value) in given.iter().filter(|(key, _)| !known.contains(&key.as_str()) && *key != "secret_age") {
        if let Some(header) = key.strip_prefix("headers.") {
            inputs.headers.push((header.parse().unwrap(), Secret::new(value.clone())));
        } else if let Some(param) = key.strip_prefix("params.") {
            inputs.params.insert(param.to_owned(), Secret::new(value.clone()));
        } else if let Some(var) = key.strip_prefix("vars.") {
            assert!(dialect.vars.contains_key(var), "{}: {var}", dialect.name);
            inputs.vars.insert(var.to_owned(), value.clone());
        } else {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.as_str().into());
            inputs.values.insert(key.clone().leak(), Given::Plain(value));
        }
    }
    inputs
}

fn reply(status: u16, headers: &BTreeMap<String, String>, body: &str) -> Reply {
    let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    Reply { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into() }
}

fn requested(dialect: &Dialect, example: &Example, inputs: &Inputs) -> Result<http::Request<Vec<u8>>, TokenError> {
    match example.op.split_once('.') {
        None if example.op == "authorize" => {
            let url = request::authorize_url(dialect, inputs)?;
            Ok(http::Request::get(url).body(Vec::new()).unwrap())
        }
        None => request::build(dialect, word(&example.op), inputs),
        Some(_) => request::manage(managed(dialect, &example.op), inputs),
    }
}

fn managed<'d>(dialect: &'d Dialect, op: &str) -> &'d Managed {
    match op.split_once('.').unwrap() {
        ("secrets", name) => &dialect.secrets[name],
        ("clients", name) => &dialect.clients[name],
        (table, _) => panic!("{table}"),
    }
}

fn run(dialect: &Dialect, example: &Example) {
    let about = format!("{}: {}", dialect.name, example.about);
    let inputs = inputs(dialect, &example.given);
    if let Some(expected) = &example.request {
        let made = requested(dialect, example, &inputs).unwrap_or_else(|error| panic!("{about}: {error}"));
        assert_eq!(made.method().as_str(), expected.method, "{about}");
        assert_eq!(made.uri().to_string(), expected.url, "{about}");
        assert_eq!(String::from_utf8_lossy(made.body()), expected.body, "{about}");
        for (name, value) in &example.request_headers {
            assert_eq!(made.headers().get(name).map(|v| v.to_str().unwrap()), Some(value.as_str()), "{about}: {name}");
        }
    }
    let Some(given) = &example.answer else { return };
    let reply = reply(given.status, &given.headers, &given.body);
    let now = example.now.parse().unwrap();
    let error = match (&example.token, &example.items, example.done) {
        (Some(expected), None, false) => {
            let answer = response::read(dialect, word(&example.op), &inputs, &reply, now);
            let answer = answer.unwrap_or_else(|error| panic!("{about}: {error}"));
            let access = answer.access.unwrap_or_else(|error| panic!("{about}: {error}"));
            assert_eq!(access.token.expose(), expected.access_token, "{about}");
            assert_eq!(access.lifetime, expected.lifetime.map(|span| span.0), "{about}");
            let refresh_token = answer.refresh_token.as_ref().map(|token| token.expose().to_owned());
            assert_eq!(refresh_token, expected.refresh_token, "{about}");
            assert_eq!(answer.refresh_lifetime, expected.refresh_lifetime.map(|span| span.0), "{about}");
            None
        }
        (None, Some(items), false) => {
            let read = manage::read(dialect, managed(dialect, &example.op), &inputs, &reply, now);
            assert_eq!(read.as_ref(), Ok(items), "{about}");
            None
        }
        (None, None, true) => response::done(dialect, word(&example.op), &inputs, &reply, now).err(),
        (None, None, false) if example.op.contains('.') => {
            manage::read(dialect, managed(dialect, &example.op), &inputs, &reply, now).err()
        }
        (None, None, false) if example.op == "revoke" => {
            response::done(dialect, Op::Revoke, &inputs, &reply, now).err()
        }
        (None, None, false) => {
            response::read(dialect, word(&example.op), &inputs, &reply, now).and_then(|answer| answer.access).err()
        }
        _ => panic!("{about}: says more than one thing of the answer"),
    };
    assert_eq!(error.as_ref().map(|error| error.class), example.class, "{about}");
    let shown = error.as_ref().map(|error| format!("{error} {error:?}")).unwrap_or_default();
    for secret in inputs.secrets().into_iter().map(Secret::expose).filter(|secret| secret.len() >= 4) {
        assert!(!shown.contains(secret), "{about}: {shown}");
    }
    for (words, text) in [
        (&example.fix, error.as_ref().map(|error| error.fix.clone())),
        (&example.says, error.and_then(|error| error.vendor)),
    ] {
        let Some(words) = words else { continue };
        assert!(text.as_ref().is_some_and(|text| text.contains(words)), "{about}: {text:?}");
    }
}

#[test]
fn every_worked_example_of_every_dialect_holds() {
    #[derive(Deserialize)]
    struct File {
        example: Vec<Example>,
    }
    let mut ran = 0;
    for (name, text) in BUILT_IN {
        let dialect = built_in(name).unwrap_or_else(|| panic!("{name} does not compile"));
        let file: File = toml::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        for example in &file.example {
            run(&dialect, example);
            ran += 1;
        }
    }
    assert_eq!(ran, EXAMPLES);
}

#[test]
fn the_documentation_lists_every_built_in_with_what_it_needs() {
    let docs = include_str!("../../docs/dialects.md");
    let section = docs.split("## The built-ins").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).skip(1).collect();
    let there: Vec<_> = BUILT_IN
        .iter()
        .map(|(name, text)| {
            let table: toml::Table = text.parse().unwrap();
            let dialect = built_in(name).unwrap();
            let needs: Vec<_> = dialect.needs.iter().map(|need| format!("`{need}`")).collect();
            let (about, grant) = (table["about"].as_str().unwrap(), dialect.grant.unwrap().as_str());
            assert!(text.starts_with("# "), "{name} does not say what is stated, found and assumed");
            format!("| `{name}` | {about} | `{grant}` | {} |", needs.join(", "))
        })
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn a_new_secret_that_is_refused_is_another_thing_than_an_old_one() {
    let table = toml::toml! {
        extends = "oauth2"
        [[error]]
        when = { code = "invalid_client", secret_younger_than = "20m" }
        class = "transient"
        fix = "wait a little"
    };
    let dialect = extended("mine", &table).unwrap();
    let class = |age: Option<&str>| {
        let given = age.map(|age| ("secret_age".to_owned(), age.to_owned())).into_iter().collect();
        let reply = reply(401, &BTreeMap::new(), r#"{"error":"invalid_client"}"#);
        let read = response::read(&dialect, Op::Acquire, &inputs(&dialect, &given), &reply, Timestamp::UNIX_EPOCH);
        let error = read.unwrap_err();
        (error.class, error.fix == "wait a little")
    };
    assert_eq!(class(Some("19m")), (Class::Transient, true));
    assert_eq!(class(Some("20m")), (Class::ClientRejected, false));
    assert_eq!(class(None), (Class::ClientRejected, false), "a secret of which nobody knows the age counts as old");
}

#[test]
fn a_code_that_success_names_is_an_error_only_with_another_value() {
    let table = toml::toml! {
        extends = "oauth2"
        [answer]
        error_code = "json:result"
        success = { equals = { result = "0000" } }
        [[error]]
        when = { code = "1007" }
        class = "user_action"
    };
    let dialect = extended("mine", &table).unwrap();
    assert!(read(&dialect, r#"{"access_token":"t","result":"0000"}"#).is_ok());
    assert_eq!(read(&dialect, r#"{"access_token":"t","result":"1007"}"#).unwrap_err().class, Class::UserAction);
    assert!(read(&dialect, r#"{"access_token":"t"}"#).is_err());
    let other = toml::toml! {
        extends = "oauth2"
        [answer]
        error_code = "json:result"
    };
    let other = extended("other", &other).unwrap();
    assert!(read(&other, r#"{"access_token":"t","result":"0000"}"#).is_err(), "text that is not empty is an error");
}

#[test]
fn whether_a_server_repeats_or_ends_tokens_and_its_budget_are_typed() {
    let same = |name: &str| built_in(name).unwrap().answer.same_token;
    assert_eq!((same("oauth2"), same("covata")), (SameToken::Never, SameToken::UntilExpiry));
    assert_eq!(same("feishu"), SameToken::UntilRemaining(Duration::from_secs(1800)));
    assert!(built_in("covata").unwrap().answer.exclusive && !built_in("oauth2").unwrap().answer.exclusive);
    assert_eq!(built_in("comap").unwrap().limit, Some(Budget { max: 5, per: Duration::from_secs(300) }));
    let table = toml::toml! {
        extends = "covata"
        limit = "1 per 2h"
        [answer]
        same_token = { until_remaining = "10m" }
    };
    let mine = extended("mine", &table).unwrap();
    assert_eq!(mine.answer.same_token, SameToken::UntilRemaining(Duration::from_secs(600)));
    assert_eq!(mine.limit, Some(Budget { max: 1, per: Duration::from_secs(7200) }));
}

#[test]
fn what_is_only_assumed_of_a_vendor_can_be_changed() {
    let table = toml::toml! {
        extends = "netrex"
        client_auth = "client_secret_basic"
        [renew]
        encoding = "form"
        params = { refresh_token = {}, token = "{refresh_token}" }
        [answer]
        access_token = "json:token"
        error_code = "json:code"
        success = { status = 201 }
        [inject]
        header = "x-auth-token"
        format = "{access_token}"
        headers = { x-auth-type = "4" }
    };
    let dialect = extended("mine", &table).unwrap();
    let given = [("client_id", "c"), ("client_secret", "s"), ("refresh_token", "r-1")];
    let given = given.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let inputs = inputs(&dialect, &given);
    let made = request::build(&dialect, Op::Renew, &inputs).unwrap();
    assert_eq!(made.uri(), "https://system2.netrex.cz/oauth2/token");
    assert_eq!(made.body(), b"grant_type=refresh_token&token=r-1");
    assert_eq!(made.headers()["authorization"], "Basic Yzpz");
    let reply = reply(201, &BTreeMap::new(), r#"{"token":"t"}"#);
    let answer = response::read(&dialect, Op::Renew, &inputs, &reply, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(answer.access.unwrap().token.expose(), "t");
    assert_eq!((dialect.inject_header.as_str(), dialect.inject_headers.len()), ("x-auth-token", 1));
}

#[test]
fn names_of_its_own_are_declared_have_a_default_and_take_nobody_elses_place() {
    let table = toml::toml! {
        needs = ["vars.tenant"]
        vars = { mount = "a/b", state = "x", "no name" = "y" }
        client_auth = "none"
        [acquire]
        url = "https://a.example/{tenant}/{mount}"
        params = { t = "{tenant}", u = "{tenat}" }
    };
    let faults = extended("mine", &table).unwrap_err();
    let told: Vec<_> = faults.iter().map(|f| format!("{}: {}", f.key, f.problem)).collect();
    assert_eq!(
        told,
        [
            "vars.no name: is not a usable name",
            "vars.state: this name has a meaning already",
            "acquire.params.u: there is no `{tenat}` here"
        ]
    );
    let table = toml::toml! {
        needs = ["vars.tenant"]
        vars = { mount = "a/b" }
        client_auth = "none"
        [acquire]
        url = "https://a.example/{tenant}/{mount}"
        encoding = "json"
        params = { t = "{tenant}" }
    };
    let dialect = extended("mine", &table).unwrap();
    let given = BTreeMap::from([("vars.tenant".to_owned(), "acme & co".to_owned())]);
    let made = request::build(&dialect, Op::Acquire, &inputs(&dialect, &given)).unwrap();
    assert_eq!(made.uri(), "https://a.example/acme%20%26%20co/a%2Fb");
    assert_eq!(made.body(), br#"{"t":"acme & co"}"#);
    let error = request::build(&dialect, Op::Acquire, &inputs(&dialect, &BTreeMap::new())).unwrap_err();
    assert_eq!(error.class, Class::Config, "a URL needs all of its values");
}

#[test]
fn a_login_page_holds_nothing_secret_and_keeps_its_own_query() {
    let table = toml::toml! {
        [authorize]
        url = "https://a.example/login"
        params = { client_id = "{client_id}", secret = "{client_secret}", scope = "{scope}" }
    };
    let faults = extended("mine", &table).unwrap_err();
    assert_eq!((faults.len(), faults[0].key.as_str()), (1, "authorize.params.secret"));
    let table = toml::toml! {
        extends = "oauth2"
        [authorize]
        params = { prompt = "consent" }
    };
    let dialect = extended("mine", &table).unwrap();
    let given = [("authorize_url", "https://a.example/login?x=1"), ("client_id", "c"), ("params.audience", "geheim")];
    let given = given.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let url = request::authorize_url(&dialect, &inputs(&dialect, &given)).unwrap();
    let expected =
        "https://a.example/login?x=1&client_id=c&code_challenge_method=S256&prompt=consent&response_type=code";
    assert_eq!(url, expected, "the token's own params may be secrets: they are not shown to a browser");
    let none = extended("none", &toml::Table::new()).unwrap();
    assert_eq!(request::authorize_url(&none, &inputs(&none, &given)).unwrap_err().class, Class::Config);
    assert_eq!(request::build(&none, Op::Exchange, &inputs(&none, &given)).unwrap_err().class, Class::Config);
}

#[test]
fn management_requests_are_checked_and_prove_nothing_by_the_client() {
    let table = toml::toml! {
        [secrets.list]
        url = "https://a.example/{client_id}"
        answer = { id = "json:id", colour = "json:c" }
        [secrets.rotate]
        url = "https://a.example"
        [clients.delete]
        method = "DELETE"
        [clients.list]
        url = "https://a.example/{password}"
    };
    let faults = extended("mine", &table).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["secrets.list.answer.colour", "secrets.rotate", "clients.delete.url", "clients.list.url"]);
    let dialect = built_in("covata").unwrap();
    let mut given = BTreeMap::from([("base_url".to_owned(), "https://a.example".to_owned())]);
    for (key, value) in [("client_id", "c"), ("client_secret", "s"), ("params.x", "y"), ("access_token", "admin")] {
        given.insert(key.to_owned(), value.to_owned());
    }
    let made = request::manage(&dialect.clients["list"], &inputs(&dialect, &given)).unwrap();
    assert_eq!(made.uri(), "https://a.example/api/v1/clientapps", "without values there is no query");
    assert_eq!(made.headers()["authorization"], "Bearer admin");
    assert!(made.headers()["authorization"].is_sensitive());
}

#[test]
fn what_goes_with_a_token_on_api_requests_is_checked() {
    let table = toml::toml! {
        extends = "oauth2"
        [inject]
        header = "X-Token"
        format = "{access_token}"
        headers = { X-A = "key {headers.X-A}", X-B = "{client_secret}", X-Token = "x", Host = "x", X-C = "{client_id}/1" }
    };
    let faults = extended("mine", &table).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["inject.headers.Host", "inject.headers.X-B", "inject.headers.X-A", "inject.headers.X-Token"]);
}

fn oauth2() -> Dialect {
    built_in("oauth2").unwrap()
}

fn read(dialect: &Dialect, body: &str) -> Result<Access, TokenError> {
    let inputs = inputs(dialect, &BTreeMap::from([("client_secret".to_owned(), "geheimnis+1".to_owned())]));
    let reply = reply(200, &BTreeMap::new(), body);
    response::read(dialect, Op::Acquire, &inputs, &reply, "2026-01-01T00:00:00Z".parse().unwrap())?.access
}

#[test]
fn every_way_to_say_a_lifetime_is_understood_or_becomes_the_default_with_a_warning() {
    let seconds = |value: &str| {
        let body = format!(r#"{{"access_token":"t","expires_in":{value}}}"#);
        let answer = read(&oauth2(), &body).unwrap();
        (answer.lifetime.map(|lifetime| lifetime.as_secs_f64()), answer.warning.is_some())
    };
    for (value, lifetime) in
        [("3600", 3600.0), ("\"3600\"", 3600.0), ("3600.0", 3600.0), ("0.5", 0.5), ("1000000000", 1e9)]
    {
        assert_eq!(seconds(value), (Some(lifetime), false), "{value}");
    }
    assert_eq!(seconds("null"), (None, false));
    for odd in ["0", "-1", "1e308", "9e15", "\"soon\"", "true", "{}", "[]", "\"NaN\"", "\"inf\""] {
        assert_eq!(seconds(odd), (None, true), "{odd}");
    }
    assert_eq!(read(&oauth2(), r#"{"access_token":"t"}"#).unwrap().lifetime, None, "the default applies later");
}

#[test]
fn a_moment_may_be_seconds_milliseconds_or_rfc_3339_with_any_fraction() {
    let table = toml::toml! {
        extends = "oauth2"
        [answer]
        expires = { at = "json:ends" }
    };
    let dialect = extended("mine", &table).unwrap();
    let lifetime = |value: &str| read(&dialect, &format!(r#"{{"access_token":"t","ends":{value}}}"#));
    // 2026-01-01T01:00:00Z
    for value in [
        "1767229200",
        "\"1767229200\"",
        "1767229200000",
        "3600",
        "\"2026-01-01T01:00:00Z\"",
        "\"2026-01-01T01:00:00.1234567Z\"",
        "\"2026-01-01T02:00:00.123456789+01:00\"",
        "\"2026-01-01T01:00:00\"",
        "\"Thu, 01 Jan 2026 01:00:00 GMT\"",
    ] {
        assert_eq!(lifetime(value).unwrap().lifetime.unwrap().as_secs(), 3600, "{value}");
    }
    for over in ["1767225599", "\"2025-12-31T23:59:59Z\"", "1767225599000"] {
        assert_eq!(lifetime(over).unwrap_err().class, Class::Unknown, "{over}");
    }
    assert!(lifetime("1e300").unwrap().warning.is_some());
}

#[test]
fn a_jwt_tells_its_own_end_where_the_answer_does_not() {
    // {"exp":1767229200}
    let answer = read(&oauth2(), r#"{"access_token":"eyJhbGciOiJub25lIn0.eyJleHAiOjE3NjcyMjkyMDB9.c2ln"}"#).unwrap();
    assert_eq!(answer.lifetime.unwrap().as_secs(), 3600);
    let body = r#"{"access_token":"eyJhbGciOiJub25lIn0.eyJleHAiOjE3NjcyMjkyMDB9.c2ln","expires_in":"soon"}"#;
    let answer = read(&oauth2(), body).unwrap();
    assert_eq!(answer.lifetime.unwrap().as_secs(), 3600);
    let warning = answer.warning.unwrap();
    assert_eq!(warning, "the expiry of 4 characters makes no sense: using the token's own exp instead");
}

#[test]
fn a_refresh_token_that_is_a_jwt_tells_its_own_end() {
    let table = toml::toml! {
        extends = "oauth2"
        [answer]
        refresh_expires = "jwt"
    };
    let dialect = extended("mine", &table).unwrap();
    let body = r#"{"access_token":"opaque","refresh_token":"eyJhbGciOiJub25lIn0.eyJleHAiOjE3NjcyMjkyMDB9.c2ln"}"#;
    let (inputs, reply) = (inputs(&dialect, &BTreeMap::new()), reply(200, &BTreeMap::new(), body));
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let answer = response::read(&dialect, Op::Acquire, &inputs, &reply, now).unwrap();
    assert_eq!((answer.refresh_lifetime.unwrap().as_secs(), answer.access.unwrap().lifetime), (3600, None));
}

#[test]
fn a_renewal_that_should_have_brought_a_refresh_token_and_did_not_is_a_warning() {
    let table = toml::toml! {
        extends = "oauth2"
        [answer]
        rotation = "always"
    };
    let dialect = extended("mine", &table).unwrap();
    let warning = |op, body: &str| {
        let (inputs, reply) = (inputs(&dialect, &BTreeMap::new()), reply(200, &BTreeMap::new(), body));
        response::read(&dialect, op, &inputs, &reply, Timestamp::UNIX_EPOCH).unwrap().access.unwrap().warning
    };
    let without = r#"{"access_token":"a","expires_in":60}"#;
    assert!(warning(Op::Renew, without).unwrap().contains("rotation is \"always\""));
    assert_eq!(warning(Op::Acquire, without), None);
    assert_eq!(warning(Op::Renew, r#"{"access_token":"a","expires_in":60,"refresh_token":"r"}"#), None);
}

#[test]
fn the_token_type_never_makes_the_header_and_only_bearer_like_ones_are_taken() {
    for fine in ["Bearer", "bearer", "BEARER", "Application Access Token", ""] {
        let body = format!(r#"{{"access_token":"t","token_type":"{fine}"}}"#);
        assert!(read(&oauth2(), &body).is_ok(), "{fine:?}");
    }
    for refused in ["mac", "N_A", "DPoP", "dpop", "PoP"] {
        let body = format!(r#"{{"access_token":"t","token_type":"{refused}"}}"#);
        assert_eq!(read(&oauth2(), &body).unwrap_err().class, Class::Config, "{refused}");
    }
}

#[test]
fn a_token_that_could_become_a_header_of_its_own_is_refused() {
    for body in [
        r#"{"access_token":"a\r\nX-Evil: 1"}"#,
        r#"{"access_token":"a b"}"#,
        r#"{"access_token":"ä"}"#,
        r#"{"access_token":"\u0000"}"#,
    ] {
        let error = read(&oauth2(), body).unwrap_err();
        assert_eq!(error.class, Class::Transient, "{body}");
    }
}

#[test]
fn whether_a_server_judged_the_request_is_told_by_the_class_before_the_status() {
    let dialect = oauth2();
    let login = BTreeMap::from([("password".to_owned(), "p".to_owned())]);
    let outcome = |op, status, body: &str| {
        let (inputs, reply) = (inputs(&dialect, &login), reply(status, &BTreeMap::new(), body));
        let error = response::read(&dialect, op, &inputs, &reply, Timestamp::UNIX_EPOCH).unwrap_err();
        (error.class, error.outcome)
    };
    for op in [Op::Acquire, Op::Renew] {
        for (status, body, expected) in [
            (400, r#"{"error":"temporarily_unavailable"}"#, (Class::Transient, Outcome::NotJudged)),
            (400, r#"{"error":"slow_down"}"#, (Class::RateLimited, Outcome::NotJudged)),
            (503, "", (Class::Transient, Outcome::NotJudged)),
            (429, "", (Class::RateLimited, Outcome::NotJudged)),
            (500, r#"{"error":"invalid_client"}"#, (Class::ClientRejected, Outcome::Refused)),
            (400, r#"{"error":"invalid_grant"}"#, (Class::GrantRejected, Outcome::Refused)),
            (400, r#"{"error":"odd"}"#, (Class::Unknown, Outcome::Refused)),
            (200, r#"{"message":"maintenance"}"#, (Class::Transient, Outcome::Unclear)),
            (200, "<html>", (Class::Transient, Outcome::Unclear)),
            (302, "", (Class::Transient, Outcome::Unclear)),
        ] {
            assert_eq!(outcome(op, status, body), expected, "{op:?} {status} {body}");
        }
    }
    // A firewall's page: no word on the refresh token; a password is not tried often for all that.
    assert_eq!(outcome(Op::Renew, 403, "<html>"), (Class::Unknown, Outcome::Unclear));
    assert_eq!(outcome(Op::Acquire, 403, "<html>"), (Class::Unknown, Outcome::Refused));
}

#[test]
fn a_refresh_token_is_kept_even_from_an_answer_without_an_access_token() {
    let dialect = oauth2();
    for body in [
        r#"{"access_token":null,"refresh_token":"next"}"#,
        r#"{"access_token":"a","error":"none","refresh_token":"next"}"#,
    ] {
        let (inputs, reply) = (inputs(&dialect, &BTreeMap::new()), reply(200, &BTreeMap::new(), body));
        let answer = response::read(&dialect, Op::Renew, &inputs, &reply, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(answer.refresh_token, Some(Secret::new("next".into())));
        assert_eq!(answer.access.unwrap_err().outcome, Outcome::NotJudged);
    }
}

#[test]
fn retry_after_may_be_seconds_or_a_date_by_the_servers_clock_or_ours() {
    let dialect = oauth2();
    let after = |fields: &[(&str, &str)]| {
        let headers = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (inputs, reply) = (inputs(&dialect, &BTreeMap::new()), reply(429, &headers, ""));
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        response::read(&dialect, Op::Acquire, &inputs, &reply, now)
            .unwrap_err()
            .retry_after
            .map(|after| after.as_secs())
    };
    let date = ("retry-after", "Thu, 01 Jan 2026 00:02:00 GMT");
    assert_eq!(after(&[("retry-after", "7")]), Some(7));
    assert_eq!(after(&[date]), Some(120));
    assert_eq!(after(&[date, ("date", "Thu, 01 Jan 2026 00:01:00 GMT")]), Some(60));
    assert_eq!(after(&[("retry-after", "soon")]), None);
}

#[test]
fn garbage_is_never_a_token() {
    let utf16: String = "{\0\"\0a\0".into();
    for body in [
        "",
        " ",
        "<html></html>",
        r#"{"access_token":"#,
        "null",
        "[]",
        r#"{"access_token":null}"#,
        r#"{"access_token":{}}"#,
        "\u{feff}{\"access_token\":\"t\"}",
        &utf16,
        r#"{"error":"Error message"}"#,
        r#"{"access_token":"t","error":"oops"}"#,
    ] {
        assert!(read(&oauth2(), body).is_err(), "{body:?}");
    }
}

#[test]
fn the_vendors_message_is_shown_on_one_line_cut_and_without_our_secrets() {
    let long = "x".repeat(500);
    let body = format!(r#"{{"error":"e","error_description":"bad geheimnis+1\n\u0007 and geheimnis%2B1 {long}"}}"#);
    let shown = read(&oauth2(), &body).unwrap_err().to_string();
    assert!(shown.contains("The server says: bad *** and *** xxx"), "{shown}");
    assert!(!shown.contains("geheimnis") && !shown.contains(&"x".repeat(200)), "{shown}");
}

#[test]
fn a_users_dialect_changes_only_what_it_says() {
    let table = toml::toml! {
        extends = "comodo-one"
        scope_separator = ","
        [acquire]
        params = { device = "box-1", nested = { list = ["{username}", 7] } }
        headers = { X-Vendor = "{client_id}" }
        [answer]
        expires = { fixed = "28m" }
        [[error]]
        when = { op = "renew", status = 401, message = "maintenance" }
        class = "transient"
    };
    let dialect = extended("mine", &table).unwrap();
    let given = [("client_id", "c"), ("client_secret", "s"), ("username", "u"), ("password", "p")];
    let given = given.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let made = request::build(&dialect, Op::Acquire, &inputs(&dialect, &given)).unwrap();
    let body: serde_json::Value = serde_json::from_slice(made.body()).unwrap();
    let expected = serde_json::json!({"username":"u","password":"p","device":"box-1","nested":{"list":["u",7]}});
    assert_eq!(body, expected);
    assert_eq!(made.headers()["x-vendor"], "c");
    assert_eq!(made.uri(), "https://api.one.comodo.com/auth/login");
    let class = |text: &str| {
        let reply = reply(401, &BTreeMap::new(), text);
        response::read(&dialect, Op::Renew, &inputs(&dialect, &given), &reply, Timestamp::UNIX_EPOCH).unwrap_err().class
    };
    assert_eq!(class(r#"{"message":"MAINTENANCE until 6"}"#), Class::Transient, "its own rule comes first");
    assert_eq!(class(r#"{"message":"Not authorized"}"#), Class::GrantRejected, "the built-in's rules still hold");
    assert_eq!(class("<p>maintenance</p>"), Class::Transient, "a body that is no JSON is searched as it is");
    let elsewhere = r#"{"status":{"page":"maintenance.html"}}"#;
    assert_ne!(class(elsewhere), Class::Transient, "JSON is searched where its message stands");
}

#[test]
fn a_dialects_mistakes_are_all_named_with_their_keys() {
    let table = toml::toml! {
        [acquire]
        url = "{base_ur}/x"
        method = "P OST"
        params = { a = { b = "c" }, d = "{nope" }
        [renew]
        url = "https://a.example/renew"
        encoding = "none"
        params = { a = "b" }
        [answer]
        access_token = "token"
        expires = { in = "json:a", fixed = "1m" }
        [inject]
        format = "Bearer {token}"
        [[error]]
        when = { message = "(" }
        class = "unknown"
    };
    let faults = extended("mine", &table).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "acquire.method",
            "acquire.url",
            "acquire.params",
            "acquire.params.d",
            "renew.params",
            "answer.access_token",
            "answer.expires",
            "error[0].when.message",
            "inject.format"
        ]
    );
}

#[test]
fn a_request_without_its_values_is_refused_before_anything_is_sent() {
    let empty = inputs(&oauth2(), &BTreeMap::new());
    let error = request::build(&oauth2(), Op::Acquire, &empty).unwrap_err();
    assert_eq!(error.class, Class::Config);
}

#[test]
fn query_parameters_and_url_values_are_encoded() {
    let table = toml::toml! {
        client_auth = "none"
        [acquire]
        url = "{base_url}/{client_id}/token"
        encoding = "query"
        params = { secret = "{client_secret}" }
    };
    let dialect = extended("mine", &table).unwrap();
    let given = [("base_url", "https://a.example/"), ("client_id", "x/../y"), ("client_secret", "a&b=c d")];
    let given = given.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let made = request::build(&dialect, Op::Acquire, &inputs(&dialect, &given)).unwrap();
    assert_eq!(made.uri(), "https://a.example/x%2F..%2Fy/token?secret=a%26b%3Dc+d");
    assert!(made.body().is_empty());
    assert_eq!(made.headers()["content-length"], "0");
}

#[test]
fn each_stand_in_gives_tokens_to_the_built_in_of_its_vendor_and_its_api_takes_them() {
    let directory = tempfile::tempdir().unwrap();
    let shown = RUNTIME.block_on(demo::start(directory.path(), Duration::from_secs(60), None)).unwrap();
    let config: String = shown.iter().map(|shown| shown.config.as_str()).collect();
    let broker = Broker::start_in(directory, &config, |_| {});
    for route in shown.iter().map(|shown| shown.route) {
        let reply = broker.get(route, "/hello");
        assert_eq!((reply.status, reply.json()["token_accepted"].as_bool()), (200, Some(true)), "{route}");
    }
    let seen = shown.iter().find(|shown| shown.route == "comap").unwrap().echo.seen();
    assert!(seen.iter().all(|call| call.headers.contains_key("comap-key")));
    for route in ["covata", "comodo", "netrex"] {
        let before = broker.token(route)["fingerprint"].clone();
        let reply = broker.admin("POST", &format!("/api/tokens/{route}/refresh"));
        assert_eq!(reply.status, 200, "{route}");
        assert_ne!(broker.token(route)["fingerprint"], before, "{route}: renewed");
        assert_eq!(broker.get(route, "/hello").status, 200, "{route}");
    }
}
