use std::path::Path;
use std::time::Duration;

use tokenbroker::oauth::builtin::built_in;
use tokenbroker::oauth::error::Class;
use tokenbroker::oauth::file::{ClientAuth, Grant};
use tokenbroker::oauth::manage;
use tokenbroker::oauth::place;
use tokenbroker::oauth::request::{self, Given, Inputs};
use tokenbroker::secret::Secret;
use tokenbroker::standin::demo::Vendor;
use tokenbroker::standin::pki::Clients;
use tokenbroker::standin::{Comap, Covata, Fault, Netrex, Quirk, Slot, Vanco};
use toml::{Table, Value};

use crate::support::{Action, HOUR, Setup, Upstream, call, eventually, issuer, write};

/// What README.md shows of that kind of vendor's refusals; a line that ends in `…` is the beginning of one.
fn shown_in_readme(heading: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let section = readme.split(&format!("\n### {heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n### ").next().unwrap().split("\n## ").next().unwrap();
    let block = section.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    block.replace("\n  ", " ").lines().map(str::to_owned).collect()
}

/// Every reason that README.md shows for a vendor is one that was given.
#[track_caller]
pub fn readme_is_right(heading: &str, host: &str, given: &[String]) {
    for line in shown_in_readme(heading) {
        let local = line.replacen(host, "localhost", 1);
        let right = |error: &String| match local.strip_suffix('…') {
            Some(beginning) => error.starts_with(beginning),
            None => *error == local,
        };
        assert!(given.iter().any(right), "README.md: {line}\ngiven: {given:#?}");
    }
}

/// Served; refreshed ahead of the expiry; not served with a token that has ended; served again.
fn lives<V: Vendor>(setup: Setup<V>) {
    let stand = setup.start();
    let (issuer, echo) = (&stand.vendor.issuer, &stand.shown.echo);
    let reply = stand.get();
    assert_eq!((reply.status, reply.json()["target"].as_str()), (200, Some("/hello")), "{}", V::NAME);
    let first = stand.token();
    assert_eq!((first["state"].as_str(), &first["last_error"]), (Some("valid"), &serde_json::Value::Null));
    eventually("it is refreshed", || {
        assert_eq!(stand.get().status, 200, "{}: served meanwhile", V::NAME);
        issuer.issued() >= 2
    });
    eventually("the new one serves", || {
        assert_eq!(stand.get().status, 200);
        stand.token()["fingerprint"] != first["fingerprint"]
    });
    stand.vendor.faults.set(Some(Fault::Status(503, None)), None);
    eventually("it expires", || stand.token()["state"] == "expired");
    let arrived = echo.seen().len();
    let reply = stand.get();
    assert_eq!((reply.status, reply.code().as_str()), (503, "token_unavailable"), "{}", V::NAME);
    assert_eq!(echo.seen().len(), arrived, "never with a token that has ended");
    stand.vendor.faults.set(None, None);
    issuer.set_lifetime(HOUR);
    eventually("it is served again", || stand.get().status == 200);
}

const SHORT: Duration = Duration::from_secs(3);

#[test]
fn comap_is_served_refreshed_and_never_with_a_token_that_has_ended() {
    // Of its five tokens in five minutes it needs four.
    lives(Setup::new("comap", Comap::new(issuer(SHORT + Duration::from_secs(2)))));
}

#[test]
fn vanco_is_served_refreshed_and_never_with_a_token_that_has_ended() {
    lives(Setup::new("vanco", Vanco::new(issuer(SHORT))));
}

#[test]
fn comodo_one_is_served_refreshed_and_never_with_a_token_that_has_ended() {
    lives(Setup::comodo(SHORT, Clients::Must));
}

#[test]
fn covata_is_served_refreshed_and_never_with_a_token_that_has_ended() {
    lives(Setup::new("covata", Covata::new(issuer(SHORT))));
}

#[test]
fn netrex_is_served_refreshed_and_never_with_a_token_that_has_ended() {
    lives(Setup::new("netrex", Netrex::new(issuer(SHORT))));
}

#[test]
fn readme_shows_the_examples_as_they_are_and_each_is_short() {
    let readme = include_str!("../../README.md");
    for name in ["comap", "vanco", "comodo-one", "covata", "netrex"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.toml"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(readme.contains(&format!("```toml\n{text}```")), "README.md does not show examples/{name}.toml");
        let listen = text.split("listen = \"").nth(1).unwrap().split('"').next().unwrap();
        assert!(readme.contains(&format!("\n    curl http://{listen}/")), "{name}: the first request");
        let lines = text.split("\n[token.").nth(1).unwrap().lines().filter(|line| !line.is_empty()).count();
        assert!((5..=10).contains(&lines), "{name}: {lines}");
    }
}

fn comap() -> Setup<Comap> {
    Setup::new("comap", Comap::new(issuer(HOUR)))
}

#[test]
fn comaps_refusals_are_told_apart_and_name_what_to_do() {
    let (malformed, stand) = comap().turn(Quirk::Malformed).fails("rejected", "secret_expired");
    assert!(malformed.contains("get a new client secret from the vendor") && malformed.contains("AADSTS7000222"));
    assert_eq!(stand.get().code(), "credentials_rejected");
    let (expired, stand) = comap().turn(Quirk::SecretExpired).fails("rejected", "secret_expired");
    assert!(expired.contains("get a new client secret from the vendor") && expired.contains("HTTP 401, 7000222"));
    // The new secret is taken as soon as it is there.
    stand.vendor.faults.turn(Quirk::SecretExpired, false);
    let new = Slot::new("new", jiff::Timestamp::now(), None);
    stand.vendor.secrets.lock().push(new.clone());
    write(stand.broker.directory.path(), "comap_secret", &new.value);
    stand.broker.wait_for_state("comap", "valid");
    assert_eq!((stand.get().status, stand.calls()), (200, 2));

    let (wrong, stand) = comap().write("comap_secret", "wrong").fails("rejected", "client_rejected");
    assert!(wrong.contains("check client_secret: it is the secret itself that is wanted, not its id"), "{wrong}");
    for _ in 0..20 {
        assert_eq!(stand.get().code(), "credentials_rejected");
    }
    assert_eq!(stand.calls(), 1, "requests spend none of the budget");

    let mut unknown = comap();
    unknown.token().insert("client_id".into(), "nobody".into());
    let (unknown, _) = unknown.fails("rejected", "client_rejected");
    assert!(unknown.contains("check client_id: the vendor has no application of that id"), "{unknown}");

    let (key, _) = comap().write("comap_key", "another key").fails("rejected", "config");
    assert!(key.contains("check the token's headers.Comap-Key") && key.contains("invalid subscription key"), "{key}");
    readme_is_right("ComAp Cloud", "api.websupervisor.net", &[malformed, expired, wrong, unknown, key, limited()]);
}

#[test]
fn comaps_second_secret_takes_over_at_once_when_the_first_has_ended() {
    let mut setup = comap();
    let second = Slot::new("second", jiff::Timestamp::now(), None);
    {
        let mut slots = setup.vendor.secrets.lock();
        slots[0].ends = Some(jiff::Timestamp::now());
        slots.push(second.clone());
    }
    let files = "of = [{ file = \"comap_secret\" }, { file = \"comap_second\" }]".parse::<Table>().unwrap();
    setup.token().insert("client_secret".into(), files["of"].clone());
    let stand = setup.write("comap_second", &second.value).start();
    eventually("it is served", || stand.get().status == 200);
    assert_eq!(stand.calls(), 2, "the first was tried once");
    assert_eq!(stand.refresh().status, 200);
    assert_eq!(stand.calls(), 3, "and not again");
}

/// The sixth token within five minutes.
fn limited() -> String {
    let setup = comap();
    for _ in 0..5 {
        assert!(setup.vendor.budget.take(setup.vendor.issuer.clock().now()).is_ok());
    }
    let (error, stand) = setup.fails("expired", "rate_limited");
    let reply = stand.get();
    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(reply.code() == "token_unavailable" && (200..=300).contains(&after), "{after}");
    assert_eq!(stand.calls(), 1, "Retry-After is obeyed");
    error
}

#[test]
fn comaps_key_is_demanded_by_check_and_its_lack_is_not_taken_for_a_wrong_secret() {
    let mut setup = comap();
    setup.token().remove("headers");
    let file = write(setup.directory.path(), "checked.toml", setup.text());
    let output = crate::support::binary().arg("-c").arg(file).arg("check").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && said.contains("needs `headers.Comap-Key`"), "{said}");
    // Somebody's own dialect may forget it.
    let own = "extends = \"comap\"\nneeds = []\ninject = { headers = {} }".parse::<Table>().unwrap();
    setup.config.insert("dialect".into(), Value::Table(Table::from_iter([("own".to_owned(), Value::Table(own))])));
    setup.token().insert("dialect".into(), "own".into());
    let text = setup.text().replace("inject.headers]\n", "inject]\nheaders = { X-Other = \"x\" }\n");
    setup.config = text.parse().unwrap();
    let (error, stand) = setup.fails("rejected", "config");
    assert!(error.contains("headers.Comap-Key") && error.contains("missing subscription key"), "{error}");
    assert_eq!(stand.vendor.answered(401), 1);
}

#[test]
fn a_comap_key_that_ends_costs_no_flood_of_logins_and_the_apis_own_401_passes() {
    let stand = comap().start();
    assert_eq!(stand.get().status, 200);
    let sent = stand.shown.echo.seen().last().unwrap().header("comap-key").map(str::to_owned);
    assert_eq!(sent.as_deref(), Some(Comap::KEY), "the key goes to the API, too");
    stand.vendor.faults.turn(Quirk::KeyRefused, true);
    for _ in 0..30 {
        let reply = stand.get();
        assert!(reply.status == 401 && reply.text().contains("invalid subscription key"), "{}", reply.text());
    }
    assert!(stand.calls() <= 3, "{}", stand.calls());
    assert_eq!(stand.token()["class"], "config");
}

fn vanco() -> Setup<Vanco> {
    Setup::new("vanco", Vanco::new(issuer(HOUR)))
}

/// Vanco with that status and body in the place of its token endpoint's answer.
fn vanco_answers(status: &str, body: &str) -> String {
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let server = Upstream::start(move |_| Action::Reply(answer.clone().into_bytes()));
    let mut setup = vanco();
    setup.token().insert("url".into(), server.url().into());
    let stand = setup.start();
    eventually("it is refused", || stand.token()["last_error"].is_string());
    stand.token()["last_error"].as_str().unwrap().replace("127.0.0.1", "localhost")
}

#[test]
fn vancos_refusals_name_what_to_do_in_each_of_its_shapes() {
    let (wrong, stand) = vanco().write("vanco_secret", "wrong").fails("rejected", "client_rejected");
    assert!(wrong.contains("check client_id and client_secret"), "{wrong}");
    assert_eq!((stand.get().code().as_str(), stand.calls()), ("credentials_rejected", 1));
    let mut scope = vanco();
    scope.token().insert("scope".into(), Value::Array(vec!["everything".into()]));
    let (scope, _) = scope.fails("rejected", "config");
    assert!(scope.contains("invalid_scope") && scope.contains("check url, grant, scope"), "{scope}");
    let mut nowhere = vanco();
    let url = format!("{}/no/such/path", nowhere.shown.auth.url());
    nowhere.token().insert("url".into(), url.into());
    let (nowhere, _) = nowhere.fails("rejected", "config");
    assert!(nowhere.contains("HTTP 404") && nowhere.contains("check url"), "{nowhere}");
    // As the vendor's page has them: 403 in one shape, 400 in the other.
    let forbidden = vanco_answers(
        "403 Forbidden",
        r#"{"type":"error","identifier":"7d6b1c","message":"Not allowed.","responseCode":"403","errors":[]}"#,
    );
    assert!(forbidden.starts_with("config: ") && forbidden.ends_with("The server says: Not allowed."), "{forbidden}");
    assert!(forbidden.contains("check that url is its token endpoint"), "{forbidden}");
    let bad = vanco_answers(
        "400 Bad Request",
        r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"No such tenant.","instance":null}"#,
    );
    assert!(bad.starts_with("unknown: ") && bad.ends_with("The server says: No such tenant."), "{bad}");
    readme_is_right("Vanco", "id.vancoplatform.com", &[wrong, scope, nowhere, forbidden, bad]);
}

/// The stand-in's answer to a request on secrets, as the dialect describes both.
fn manages(
    setup: &Setup<Vanco>,
    op: &str,
    token: &str,
    values: &[(&'static str, &str)],
) -> Result<usize, (Class, String)> {
    let dialect = built_in("vanco").unwrap();
    let mut inputs = Inputs {
        base_url: Some(setup.shown.auth.url()),
        client_id: Some(Vanco::CLIENT_ID.into()),
        vars: [("tenant".to_owned(), Vanco::TENANT.to_owned())].into(),
        ..Inputs::new(Grant::ClientCredentials, ClientAuth::ClientSecretPost)
    };
    inputs.values.insert("access_token", Given::Secret(Secret::new(token.into())));
    for (name, value) in values {
        inputs.values.insert(name, Given::Plain((*value).into()));
    }
    let operation = &dialect.secrets[op];
    let made = request::manage(operation, &inputs).unwrap();
    let fields = made.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let fields: Vec<_> = fields.filter(|(name, _)| !["host", "content-length"].contains(name)).collect();
    let target = made.uri().path_and_query().unwrap().as_str();
    let said = call(setup.shown.auth.address, made.method().as_str(), target, &fields, made.body());
    let status = http::StatusCode::from_u16(said.status).unwrap();
    let reply = place::Reply { status, headers: http::HeaderMap::new(), body: said.body };
    let read = manage::read(&dialect, operation, &inputs, &reply, jiff::Timestamp::now());
    read.map(|items| items.len()).map_err(|error| (error.class, error.to_string()))
}

#[test]
fn vancos_two_shapes_of_an_error_of_its_rotation_api_are_both_understood() {
    let setup = vanco();
    let get = |id: &str, secret: &str| {
        let body = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let reply = call(setup.shown.auth.address, "POST", "/connect/token", &form, body.as_bytes());
        reply.json()["access_token"].as_str().unwrap().to_owned()
    };
    let (admin, user) = (get(Vanco::ADMIN_ID, Vanco::ADMIN_SECRET), get(Vanco::CLIENT_ID, Vanco::SECRET));
    assert_eq!(manages(&setup, "list", &admin, &[]), Ok(1));
    assert_eq!(manages(&setup, "create", &admin, &[("expires_at", "2099-01-01T00:00:00Z")]), Ok(1));
    assert_eq!(manages(&setup, "list", &admin, &[]), Ok(2));
    let (class, text) = manages(&setup, "list", &user, &[]).unwrap_err();
    assert!(class == Class::UserAction && text.contains("ids:app_admin"), "{text}");
    for shape in [false, true] {
        setup.vendor.faults.turn(Quirk::OneErrorShape, shape);
        let past = [("expires_at", "2001-01-01T00:00:00Z")];
        let (class, text) = manages(&setup, "create", &admin, &past).unwrap_err();
        assert!(class == Class::Config && text.contains("expirationDate is in the past"), "{text}");
        assert!(text.contains("check vars.tenant and client_id, and the lifetime that was asked for"), "{text}");
    }
}
