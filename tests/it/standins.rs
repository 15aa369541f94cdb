use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenbroker::clock::{Clock, Now};
use tokenbroker::standin::demo::{Shown, Vendor, start};
use tokenbroker::standin::pki::{Clients, Leaf, Pki};
use tokenbroker::standin::{Comap, Comodo, Covata, Fault, Issuer, Netrex, Quirk, Slot, Vanco, fault};

use crate::support::{RUNTIME, Reply, Wire, call, output};

const HOUR: u64 = 3600;
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("Content-Type", "application/json");
/// 2026-01-01.
const START: i64 = 1_767_225_600;

/// A stand-in and its API, and a clock that stands still until it is moved. Its tokens live for an hour.
struct Stand<V> {
    vendor: Arc<V>,
    shown: Shown,
    _directory: TempDir,
    passed: Arc<AtomicU64>,
}

fn clock(passed: &Arc<AtomicU64>) -> Clock {
    let passed = Arc::clone(passed);
    Clock::new(move || {
        let boot = Duration::from_secs(passed.load(Ordering::Relaxed));
        Now { wall: Timestamp::from_second(START).unwrap().checked_add(boot).unwrap(), boot }
    })
}

impl<V: Vendor> Stand<V> {
    fn start(make: impl FnOnce(Arc<Issuer>) -> V) -> Self {
        let (directory, passed) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(0)));
        let vendor = Arc::new(make(Arc::new(Issuer::new(clock(&passed), Duration::from_secs(HOUR)))));
        let shown = RUNTIME.block_on(Shown::start(directory.path(), &vendor, None)).unwrap();
        Self { vendor, shown, _directory: directory, passed }
    }

    fn wait(&self, seconds: u64) {
        self.passed.fetch_add(seconds, Ordering::Relaxed);
    }

    fn turn(&self, quirk: Quirk, on: bool) {
        self.vendor.faults.turn(quirk, on);
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        call(self.shown.auth.address, method, target, headers, body.as_bytes())
    }

    fn json(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        self.ask(method, target, &[headers, &[JSON]].concat(), &body.to_string())
    }

    /// What the API says to that token.
    fn api(&self, token: &str, headers: &[(&str, &str)]) -> Reply {
        let bearer = format!("Bearer {token}");
        call(self.shown.api.address, "GET", "/v1", &[headers, &[("Authorization", &bearer)]].concat(), b"")
    }
}

/// Status and body.
#[track_caller]
fn says(reply: &Reply, status: u16, body: &Value) {
    assert_eq!((reply.status, &reply.json()), (status, body));
    let kind = reply.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/json"), "{kind}");
}

#[track_caller]
fn is_bare(reply: &Reply, status: u16) {
    assert_eq!((reply.status, reply.text().as_str()), (status, ""));
}

fn text<'a>(reply: &'a Value, name: &str) -> &'a str {
    reply[name].as_str().unwrap_or_else(|| panic!("no {name} in {reply}"))
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

const KEY: (&str, &str) = ("Comap-Key", Comap::KEY);
const AUTHENTICATE: &str = "/identity/application/authenticate";

fn authenticate(comap: &Stand<Comap>, secret: &str) -> Reply {
    comap.json("POST", AUTHENTICATE, &[KEY], &json!({ "clientId": Comap::CLIENT_ID, "secret": secret }))
}

#[test]
fn comap_wants_its_key_and_exactly_its_two_members_and_gives_a_dated_back_jwt() {
    let comap = Stand::start(Comap::new);
    let body = json!({ "clientId": Comap::CLIENT_ID, "secret": Comap::SECRET });
    let no_key = "Access denied due to missing subscription key. Make sure to include subscription key when making \
                  requests to an API.";
    says(&comap.json("POST", AUTHENTICATE, &[], &body), 401, &json!({ "statusCode": 401, "message": no_key }));
    let bad_key = "Access denied due to invalid subscription key. Make sure to provide a valid key for an active \
                   subscription.";
    let bad_key = json!({ "statusCode": 401, "message": bad_key });
    says(&comap.json("POST", AUTHENTICATE, &[("Comap-Key", "x")], &body), 401, &bad_key);
    let gone = json!({ "statusCode": 404, "message": "Resource not found" });
    says(&comap.ask("GET", AUTHENTICATE, &[KEY], ""), 404, &gone);
    says(&comap.ask("POST", "/identity/nothing", &[KEY], ""), 404, &gone);
    let unable = json!({ "errorMessage": "Unable to perform requested operation" });
    let form = format!("clientId={}&secret={}", Comap::CLIENT_ID, Comap::SECRET);
    says(&comap.ask("POST", AUTHENTICATE, &[KEY, FORM], &form), 400, &unable);
    says(&comap.ask("POST", AUTHENTICATE, &[KEY, FORM], &body.to_string()), 400, &unable);
    for wrong in [json!({ "clientId": Comap::CLIENT_ID }), json!({ "clientId": 1, "secret": "s" }), json!([])] {
        says(&comap.json("POST", AUTHENTICATE, &[KEY], &wrong), 400, &unable);
    }
    comap.vendor.budget.reset();
    let mut more = body.clone();
    more["grant_type"] = "client_credentials".into();
    says(&comap.json("POST", AUTHENTICATE, &[KEY], &more), 400, &unable);
    let in_query = format!("{AUTHENTICATE}?comap-key={}", Comap::KEY);
    let token = comap.json("POST", &in_query, &[], &body).json();
    let (access, members) = (text(&token, "access_token"), token.as_object().unwrap().len());
    let lifetimes = (token["expires_in"].as_u64(), token["ext_expires_in"].as_u64());
    assert_eq!((text(&token, "token_type"), lifetimes, members), ("Bearer", (Some(3599), Some(3599)), 4));
    let claims = claims(access);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3900);
    assert_eq!(comap.api(access, &[KEY]).json()["token_accepted"], true);
    assert_eq!(comap.vendor.asked(AUTHENTICATE), 10);
    assert_eq!(comap.vendor.issuer.issued(), 1);

    // Of the three kinds of 401, two are the API's.
    says(&comap.api(access, &[]), 401, &json!({ "statusCode": 401, "message": no_key }));
    let bad_token = json!({ "statusCode": 401, "message": "Unauthorized. Access token is missing or invalid." });
    says(&comap.api("x", &[KEY]), 401, &bad_token);
    comap.wait(HOUR);
    says(&comap.api(access, &[KEY]), 401, &bad_token);
    assert_eq!(comap.shown.echo.answered(401), 3);
    comap.turn(Quirk::KeyRefused, true);
    says(&authenticate(&comap, Comap::SECRET), 401, &bad_key);
    says(&comap.api(access, &[KEY]), 401, &bad_key);
}

#[test]
fn comap_gives_five_tokens_in_five_minutes_whatever_they_are_asked_with() {
    let comap = Stand::start(Comap::new);
    for secret in ["wrong", Comap::SECRET, Comap::SECRET, Comap::SECRET, Comap::SECRET] {
        authenticate(&comap, secret);
        comap.wait(10);
    }
    let refused = authenticate(&comap, Comap::SECRET);
    let words = "Rate limit is exceeded. Try again in 250 seconds.";
    says(&refused, 429, &json!({ "statusCode": 429, "message": words }));
    assert_eq!(refused.header("retry-after"), Some("250"));
    comap.turn(Quirk::NoRetryAfter, true);
    assert_eq!(authenticate(&comap, Comap::SECRET).header("retry-after"), None);
    comap.wait(249);
    assert_eq!(authenticate(&comap, Comap::SECRET).status, 429);
    comap.wait(1);
    assert_eq!(authenticate(&comap, Comap::SECRET).status, 200);
    assert_eq!(authenticate(&comap, Comap::SECRET).status, 429, "one is back, not all");
    assert_eq!((comap.vendor.issuer.issued(), comap.vendor.answered(429)), (5, 4));
}

#[test]
fn comap_tells_wrong_and_expired_secrets_by_number_the_latter_in_broken_json_if_need_be() {
    let comap = Stand::start(Comap::new);
    let refused = |reply: &Reply, status: u16, error: &str, number: u64, words: &str| {
        let body = reply.json();
        assert_eq!((reply.status, text(&body, "error")), (status, error), "{body}");
        assert_eq!(body["error_codes"], json!([number]));
        assert!(text(&body, "error_description").starts_with(&format!("AADSTS{number}: {words}")), "{body}");
        assert_eq!(text(&body, "error_uri"), format!("https://login.microsoftonline.com/error?code={number}"));
        let date = text(&body, "timestamp");
        assert!(date.len() == 20 && date.ends_with('Z'), "{date}");
        for id in ["trace_id", "correlation_id"] {
            assert!(text(&body, "error_description").contains(text(&body, id)), "{body}");
        }
    };
    refused(&authenticate(&comap, "x"), 401, "invalid_client", 7_000_215, "Invalid client secret provided.");
    let stranger = json!({ "clientId": "x", "secret": Comap::SECRET });
    let words = "Application with identifier 'x' was not found";
    refused(&comap.json("POST", AUTHENTICATE, &[KEY], &stranger), 400, "unauthorized_client", 700_016, words);
    comap.vendor.secrets.lock()[0].ends = Some(Timestamp::from_second(START + 60).unwrap());
    assert_eq!(authenticate(&comap, Comap::SECRET).status, 200);
    comap.wait(60);
    let words = format!("The provided client secret keys for app '{}', are expired. Visit", Comap::CLIENT_ID);
    refused(&authenticate(&comap, Comap::SECRET), 401, "invalid_client", 7_000_222, &words);
    comap.vendor.secrets.lock()[0].ends = None;
    comap.vendor.budget.reset();
    assert_eq!(authenticate(&comap, Comap::SECRET).status, 200);
    comap.turn(Quirk::SecretExpired, true);
    refused(&authenticate(&comap, Comap::SECRET), 401, "invalid_client", 7_000_222, &words);

    comap.turn(Quirk::Malformed, true);
    let reply = authenticate(&comap, Comap::SECRET);
    let body = reply.text();
    assert!(reply.status == 401 && serde_json::from_str::<Value>(&body).is_err(), "{body}");
    let start = format!("{{ \"error\": \"invalid_client\", \"error_description\": \"AADSTS7000222: {words}");
    let end = "\\\"error_uri\\\": https://login.microsoftonline.com/error?code=7000222 }";
    assert!(body.starts_with(&start) && body.ends_with(&end), "{body}");
    assert!(body.contains("Timestamp: \\\"::\\\"2026-01-01 00:01:00Z\\\", \\\"error_codes\\\": [7000222], "), "{body}");
}

#[test]
fn comap_lets_a_person_list_create_and_delete_two_secrets_and_no_application() {
    let comap = Stand::start(Comap::new);
    let app = authenticate(&comap, Comap::SECRET).json();
    let bearer = |token: &str| format!("Bearer {token}");
    let unable = json!({ "errorMessage": "Unable to perform requested operation" });
    let by_app = bearer(text(&app, "access_token"));
    let list = |token: &str| comap.ask("GET", "/identity/application", &[KEY, ("Authorization", token)], "");
    assert_eq!(list(&by_app).status, 401, "the application's own token does not manage it");
    let user = bearer(&comap.vendor.users.access_token());
    let listed = list(&user);
    assert_eq!(listed.header("content-type"), Some("application/json; charset=utf-8"));
    let listed = listed.json();
    let first = listed["secrets"][0]["keyId"].clone();
    let secret = json!({
        "customKeyIdentifier": null, "displayName": "first", "endDateTime": "2027-01-01T00:00:00.000Z", "hint": "2M7",
        "keyId": first, "secretText": null, "startDateTime": "2025-01-01T00:00:00.0000000Z",
    });
    assert_eq!(listed, json!({ "clientId": Comap::CLIENT_ID, "secrets": [secret] }));

    let manage = |operation: &str, client_id: &str, secret: Value| {
        let headers = [KEY, ("Authorization", user.as_str())];
        let body = json!({ "clientId": client_id, "secret": secret });
        comap.json("POST", &format!("/identity/application/{operation}"), &headers, &body)
    };
    let new = json!({ "displayName": "new", "duration": "2y" });
    for (client_id, secret) in
        [("x", new.clone()), (Comap::CLIENT_ID, json!({ "duration": "3y" })), (Comap::CLIENT_ID, json!("new"))]
    {
        says(&manage("createSecret", client_id, secret), 400, &unable);
    }
    let created = manage("createSecret", Comap::CLIENT_ID, new.clone());
    assert_eq!(created.status, 200);
    let created = created.json();
    assert_eq!(text(&created, "endDateTime"), "2028-01-01T00:00:00.0000000Z");
    let value = text(&created, "secret").to_owned();
    assert_eq!((text(&created, "hint"), text(&created, "displayName")), (&value[..3], "new"));
    assert_eq!(authenticate(&comap, &value).status, 200);
    says(&manage("createSecret", Comap::CLIENT_ID, new.clone()), 400, &unable);
    says(&manage("deleteSecret", Comap::CLIENT_ID, json!({ "secretId": "x" })), 400, &unable);
    is_bare(&manage("deleteSecret", Comap::CLIENT_ID, json!({ "secretId": first })), 204);
    assert_eq!(authenticate(&comap, Comap::SECRET).status, 401, "it is dead");

    for quirk in [Quirk::OldNames, Quirk::Created, Quirk::EndsNow] {
        comap.turn(quirk, true);
    }
    let odd = manage("createSecret", Comap::CLIENT_ID, json!({}));
    assert_eq!((odd.status, text(&odd.json(), "endDateTime")), (201, "2026-01-01T00:00:00.0000000Z"));
    let listed = list(&user).json();
    assert_eq!(listed["client_id"], Comap::CLIENT_ID);
    assert_eq!(listed["secrets"][1]["secretId"], odd.json()["secretId"]);
    assert_eq!(listed["secrets"][1]["endDateTime"], "2028-01-01T00:00:00.000Z", "the list has the truth");

    let application =
        |method: &str| comap.ask(method, "/identity/application", &[KEY, ("Authorization", user.as_str())], "");
    says(&application("POST"), 400, &unable);
    is_bare(&application("DELETE"), 204);
    says(&application("DELETE"), 404, &unable);
    says(&application("GET"), 404, &unable);
    let made = application("POST");
    assert_eq!((made.status, made.json()["client_id"].as_str()), (201, comap.vendor.client_id().as_deref()));
    assert!(comap.vendor.secrets.lock().is_empty());
}

#[test]
fn comaps_new_secret_comes_to_one_replica_after_the_other() {
    let comap = Stand::start(Comap::new);
    let now = Timestamp::from_second(START).unwrap();
    comap.vendor.secrets.lock().push(Slot { value: "new".into(), ..Slot::new("", now, None) });
    *comap.vendor.replicas.lock().unwrap() = vec![Duration::ZERO, Duration::from_secs(60)];
    comap.turn(Quirk::Replicas, true);
    let body = json!({ "clientId": Comap::CLIENT_ID, "secret": "new" }).to_string();
    let mut wires: Vec<_> = (0..2).map(|_| Wire::open(comap.shown.auth.address)).collect();
    let mut statuses = |times: usize| {
        comap.vendor.budget.reset();
        let mut ask = |wire: &mut Wire| {
            let head = format!(
                "POST {AUTHENTICATE} HTTP/1.1\r\nHost: x\r\nComap-Key: {}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                Comap::KEY,
                body.len()
            );
            (0..times).map(|_| wire.send(&head).reply("POST").unwrap().status).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = wires.iter_mut().map(&mut ask).collect();
        all.sort();
        all
    };
    assert_eq!(statuses(2), [[200, 200], [401, 401]], "a connection stays with its replica");
    comap.wait(60);
    assert_eq!(statuses(1), [[200], [200]]);
}

const SECRETS: &str = "/api/tenants/acme/applications/acme-app/secrets";

fn client_credentials(vanco: &Stand<Vanco>, id: &str, secret: &str) -> Reply {
    let body = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    vanco.ask("POST", "/connect/token", &[FORM], &body)
}

#[test]
fn vanco_gives_tokens_for_client_credentials_and_refuses_in_the_words_of_its_framework() {
    let vanco = Stand::start(Vanco::new);
    let (id, secret) = (Vanco::CLIENT_ID, Vanco::SECRET);
    let good = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    let in_header = basic(id, secret);
    let by_header = [FORM, ("Authorization", in_header.as_str())];
    for (method, headers, body, status, error) in [
        ("GET", vec![], String::new(), 400, "invalid_request"),
        ("POST", vec![JSON], good.clone(), 401, "invalid_client"),
        ("POST", vec![FORM], String::new(), 401, "invalid_client"),
        ("POST", vec![FORM], good.replace(secret, "wrong"), 401, "invalid_client"),
        ("POST", vec![FORM], format!("{good}&client_secret=twice"), 401, "invalid_client"),
        ("POST", vec![FORM], good.replace("client_credentials", "password"), 400, "unsupported_grant_type"),
        ("POST", vec![FORM], good.replace("client_credentials", "refresh_token"), 400, "unauthorized_client"),
        ("POST", vec![FORM], good.replace("grant_type=", "g="), 400, "invalid_request"),
        ("POST", vec![FORM], format!("{good}&scope=email+everything"), 400, "invalid_scope"),
        ("POST", by_header.to_vec(), good.clone(), 400, "invalid_request"),
    ] {
        let reply = vanco.ask(method, "/connect/token", &headers, &body);
        let answer = reply.json();
        assert_eq!((reply.status, text(&answer, "error")), (status, error), "{body}");
        assert!(text(&answer, "error_description").ends_with('.'), "{answer}");
    }
    assert_eq!(vanco.vendor.issuer.issued(), 0);
    let token = vanco.ask("POST", "/connect/token", &[FORM], &format!("{good}&scope=email+phone"));
    assert_eq!(token.header("cache-control"), Some("no-store"));
    let token = token.json();
    let access = text(&token, "access_token");
    assert_eq!(token, json!({ "access_token": access, "token_type": "Bearer", "expires_in": 3600 }));
    assert_eq!(vanco.ask("POST", "/connect/token", &by_header, "grant_type=client_credentials").status, 200);
    assert_eq!(vanco.api(access, &[]).status, 200);
    is_bare(&vanco.api("x", &[]), 401);
    vanco.wait(HOUR);
    is_bare(&vanco.api(access, &[]), 401);
    is_bare(&vanco.ask("POST", "/connect/other", &[FORM], &good), 404);
}

#[test]
fn vanco_lists_makes_and_softly_deletes_secrets_for_an_administrator_with_two_shapes_of_errors() {
    let vanco = Stand::start(Vanco::new);
    let bearer =
        |id, secret| format!("Bearer {}", text(&client_credentials(&vanco, id, secret).json(), "access_token"));
    let admin = bearer(Vanco::ADMIN_ID, Vanco::ADMIN_SECRET);
    let admin = [("Authorization", admin.as_str())];
    is_bare(&vanco.ask("GET", SECRETS, &[], ""), 401);
    let app = bearer(Vanco::CLIENT_ID, Vanco::SECRET);
    let forbidden = vanco.ask("GET", SECRETS, &[("Authorization", &app)], "");
    let names = |body: &Value| body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let coded = ["errors", "identifier", "message", "responseCode", "type"];
    assert_eq!((forbidden.status, names(&forbidden.json())), (403, coded.map(str::to_owned).to_vec()));
    assert_eq!(forbidden.json()["responseCode"], "403", "a text");
    is_bare(&vanco.ask("GET", &SECRETS.replace("acme-app", "x"), &admin, ""), 404);
    is_bare(&vanco.ask("GET", &SECRETS.replace("tenants/acme", "tenants/x"), &admin, ""), 404);
    is_bare(&vanco.ask("PUT", SECRETS, &admin, ""), 405);

    let list = || vanco.ask("GET", SECRETS, &admin, "").json();
    let first = list()[0]["clientSecretId"].clone();
    let date = "2027-01-01T00:00:00Z";
    let one = json!({ "clientSecretId": first, "clientSecretExpirationDate": date, "deleted": false });
    assert_eq!(list(), json!([one]));
    vanco.turn(Quirk::OneObject, true);
    assert_eq!(list(), one);

    is_bare(&vanco.ask("POST", SECRETS, &[admin[0], FORM], "expirationDate=x"), 415);
    let problem = |detail: &str| {
        let title = "https://tools.ietf.org/html/rfc9110#section-15.5.1";
        json!({ "type": title, "title": "Bad Request", "status": 400, "detail": detail, "instance": null })
    };
    for (body, detail) in [
        (json!({ "expirationDate": "soon" }), "The field expirationDate is no date."),
        (json!({ "expirationDate": "2025-12-31T00:00:00Z" }), "The field expirationDate is in the past."),
        (json!({ "expiresAt": date }), "The member 'expiresAt' is not known."),
    ] {
        let refused = vanco.json("POST", SECRETS, &admin, &body);
        assert_eq!((refused.status, refused.json()), (400, problem(detail)));
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    }
    vanco.turn(Quirk::OneErrorShape, true);
    let refused = vanco.json("POST", SECRETS, &admin, &json!({ "expirationDate": "soon" }));
    assert_eq!((refused.status, names(&refused.json())), (400, coded.map(str::to_owned).to_vec()));
    vanco.turn(Quirk::OneErrorShape, false);

    let created = vanco.json("POST", SECRETS, &admin, &json!({ "expirationDate": "2026-06-01T00:00:01Z" })).json();
    assert_eq!((created.as_object().unwrap().len(), text(&created, "clientId")), (23, Vanco::CLIENT_ID));
    let value = text(&created, "clientSecret");
    let id = list()[1]["clientSecretId"].as_str().unwrap().to_owned();
    assert!(!created.to_string().contains(&id), "the answer has no id");
    assert_eq!(list()[1]["clientSecretExpirationDate"], "2026-06-01T00:00:01Z");
    assert_eq!(client_credentials(&vanco, Vanco::CLIENT_ID, value).status, 200);
    assert_eq!(client_credentials(&vanco, Vanco::CLIENT_ID, Vanco::SECRET).status, 200, "both are good");
    vanco.turn(Quirk::TwoSecrets, true);
    is_bare(&vanco.json("POST", SECRETS, &admin, &json!({})), 409);

    let delete = |id: &str| vanco.ask("DELETE", &format!("{SECRETS}/{id}"), &admin, "");
    is_bare(&delete("x"), 404);
    vanco.turn(Quirk::SlowDeath, true);
    let deleted = delete(&id);
    assert_eq!((deleted.status, &deleted.json()["clientSecret"]), (200, &Value::Null));
    assert_eq!((delete(&id).status, list()[1]["deleted"].as_bool()), (400, Some(true)));
    assert_eq!(client_credentials(&vanco, Vanco::CLIENT_ID, value).status, 200, "not yet");
    vanco.wait(5);
    assert_eq!(client_credentials(&vanco, Vanco::CLIENT_ID, value).status, 401);
    vanco.turn(Quirk::OneObject, false);
    vanco.turn(Quirk::HidesDeleted, true);
    assert_eq!(list(), json!([one]));
}

/// Comodo One over TLS, asked by curl.
struct ComodoOne {
    comodo: Arc<Comodo>,
    shown: Shown,
    directory: TempDir,
    passed: Arc<AtomicU64>,
}

impl ComodoOne {
    fn new(clients: Clients) -> Self {
        let (directory, passed) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(0)));
        let pki = Pki::new(directory.path()).unwrap();
        let server = pki.issue(&Leaf::server("server")).unwrap();
        pki.issue(&Leaf::client("known", 0x1122_3344_5566_7788)).unwrap();
        pki.issue(&Leaf::client("unknown", 0x0102)).unwrap();
        let issuer = Arc::new(Issuer::new(clock(&passed), Duration::from_secs(HOUR)));
        let comodo = Arc::new(Comodo::new(issuer, "11:22:33:44:55:66:77:88"));
        let tls = [clients, Clients::None].map(|clients| pki.server_config(&server, clients).unwrap());
        let shown = RUNTIME.block_on(Shown::start(directory.path(), &comodo, Some(tls))).unwrap();
        Self { comodo, shown, directory, passed }
    }

    fn curl(&self, url: &str, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("curl");
        command.current_dir(self.directory.path()).args(["-sS", "--cacert", "ca.pem", "-w", "\n%{http_code}", url]);
        command.args(arguments).output().unwrap()
    }

    /// Status and body of a call with that certificate.
    fn ask(&self, path: &str, certificate: Option<&str>, arguments: &[&str]) -> (u16, String) {
        let (cert, key) = certificate.map(|name| (format!("{name}.pem"), format!("{name}.key"))).unwrap_or_default();
        let files = ["--cert", cert.as_str(), "--key", key.as_str()];
        let files = if certificate.is_some() { &files[..] } else { &[] };
        let output = self.curl(&format!("{}{path}", self.shown.auth.url()), &[files, arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let client = format!("{}:{}", Comodo::CLIENT_ID, Comodo::CLIENT_SECRET);
        let body = body.to_string();
        let (status, body) =
            self.ask(path, Some("known"), &["-u", &client, "-H", "Content-Type: application/json", "-d", &body]);
        (status, serde_json::from_str(&body).unwrap_or_else(|_| body.into()))
    }

    fn login(&self) -> Value {
        let (status, body) =
            self.post("/auth/login", &json!({ "username": Comodo::USERNAME, "password": Comodo::PASSWORD }));
        assert_eq!(status, 200, "{body}");
        body
    }

    fn renew(&self, token: &Value) -> (u16, Value) {
        self.post("/auth/renew", &json!({ "refreshToken": token }))
    }
}

#[test]
fn comodo_wants_the_certificate_on_file_and_both_credentials_and_has_its_own_words_for_each() {
    let strict = ComodoOne::new(Clients::Must);
    assert!(!strict.curl(&strict.shown.auth.url(), &[]).status.success(), "TLS itself refuses");
    let one = ComodoOne::new(Clients::May);
    let message = |text: &str| json!({ "message": text });
    let words = |certificate, arguments: &[&str]| {
        let (status, body) = one.ask("/auth/login", certificate, arguments);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    assert_eq!(words(None, &[]), (400, message("Certificate is not verified")));
    assert_eq!(words(Some("unknown"), &[]), (400, message("Serial number is not match")));
    assert_eq!(words(Some("known"), &["-u", "acme-api:wrong"]), (401, message("Not authorized")));
    let client = format!("{}:{}", Comodo::CLIENT_ID, Comodo::CLIENT_SECRET);
    let good = format!(r#"{{"username":"{}","password":"{}"}}"#, Comodo::USERNAME, Comodo::PASSWORD);
    assert_eq!(words(Some("known"), &["-u", &client, "-d", &good]), (400, message("Invalid request")), "as a form");
    assert_eq!(one.ask("/auth/login", Some("known"), &["-u", &client]).0, 405);
    for (body, text) in [
        (json!({}), "Login parameters cannot be null"),
        (json!({ "username": "svc", "password": null }), "Login parameters cannot be null"),
        (json!({ "username": "svc", "password": 1 }), "Invalid request"),
        (json!({ "username": "svc", "password": "wrong" }), "Username or passsword is incorrect"),
    ] {
        assert_eq!(one.post("/auth/login", &body), (400, message(text)));
    }
    for body in [json!({}), json!({ "refreshToken": 1 }), json!({ "refresh_token": "x" })] {
        assert_eq!(one.post("/auth/renew", &body), (400, message("Invalid request")));
    }
    assert_eq!(one.renew(&"x".into()), (401, message("Not authorized")));
    one.comodo.faults.turn(Quirk::PlainErrors, true);
    assert_eq!(one.renew(&"x".into()), (401, "Not authorized".into()));
    one.comodo.faults.turn(Quirk::SerialUnknown, true);
    assert_eq!(one.renew(&"x".into()), (400, "Serial number is not match".into()));
    assert_eq!(one.comodo.issuer.issued(), 0);
}

#[test]
fn comodos_refresh_tokens_live_a_week_can_be_used_once_and_their_reuse_ends_the_family() {
    let one = ComodoOne::new(Clients::Must);
    let first = one.login();
    assert_eq!((first.as_object().unwrap().len(), text(&first, "tokenType")), (5, "bearer"));
    assert_eq!(first["accessTokenExpiresAt"], START + 3600);
    assert_eq!(first["refreshTokenExpiresAt"], START + 604_800);
    let (status, second) = one.renew(&first["refreshToken"]);
    assert_eq!(status, 200, "{second}");
    assert_ne!(first["refreshToken"], second["refreshToken"]);
    assert_eq!(one.renew(&first["refreshToken"]).0, 401, "it was used");
    assert_eq!(one.renew(&second["refreshToken"]).0, 401, "and with it, what came of it");
    assert_eq!(one.comodo.issuer.ended(), 1);

    one.comodo.faults.turn(Quirk::KeepsRefreshToken, true);
    one.comodo.faults.turn(Quirk::Milliseconds, true);
    one.comodo.faults.turn(Quirk::ClockAhead, true);
    let login = one.login();
    assert_eq!(login["accessTokenExpiresAt"], (START + 3600 + 86_400) * 1000);
    assert_eq!([0, 1].map(|_| one.renew(&login["refreshToken"]).0), [200, 200]);
    one.passed.fetch_add(604_800, Ordering::Relaxed);
    assert_eq!(one.renew(&login["refreshToken"]).0, 401, "a week is over");

    let token = one.login()["accessToken"].as_str().unwrap().to_owned();
    let api = |headers: &[&str]| {
        let headers: Vec<_> = headers.iter().flat_map(|header| ["-H", header]).collect();
        let out = one.curl(&one.shown.api.url(), &headers).stdout;
        String::from_utf8(out).unwrap().rsplit_once('\n').unwrap().1.to_owned()
    };
    let bearer = format!("Authorization: Bearer {token}");
    let other = format!("x-auth-token: {token}");
    assert_eq!([api(&[&bearer]), api(&["Authorization: Bearer x"])], ["200", "401"]);
    one.comodo.faults.turn(Quirk::OtherHeader, true);
    assert_eq!([api(&[&bearer]), api(&[&other]), api(&[&other, "x-auth-type: 4"])], ["401", "401", "200"]);
    assert_eq!(one.shown.echo.answered(401), 3);
}

const TOKEN: &str = "/api/oauth/token";

impl Stand<Covata> {
    fn token(&self, client: (&str, &str), body: &str) -> Reply {
        self.ask("POST", TOKEN, &[FORM, ("Authorization", &basic(client.0, client.1))], body)
    }

    fn login(&self, username: &str, password: &str) -> Value {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", "password"), ("username", username), ("password", password)])
            .finish();
        let reply = self.token(SHARE, &form);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    fn refresh(&self, token: &str) -> Reply {
        self.token(SHARE, &format!("grant_type=refresh_token&refresh_token={token}"))
    }
}

const SHARE: (&str, &str) = (Covata::CLIENT_ID, Covata::CLIENT_SECRET);

fn spring(error: &str, description: &str) -> Value {
    json!({ "error": error, "error_description": description })
}

#[test]
fn covata_answers_a_login_with_the_token_that_is_there_and_a_refresh_ends_it() {
    let covata = Stand::start(Covata::new);
    let first = covata.login(Covata::USERNAME, Covata::PASSWORD);
    let (access, refresh) = (text(&first, "access_token"), text(&first, "refresh_token"));
    assert_eq!(
        first,
        json!({
            "access_token": access, "refresh_token": refresh, "token_type": "bearer", "expires_in": 3600,
            "scope": "read write",
        })
    );
    covata.wait(600);
    let again = covata.login(Covata::USERNAME, Covata::PASSWORD);
    assert_eq!((text(&again, "access_token"), &again["expires_in"]), (access, &json!(3000)), "the same, shrunk");
    assert_ne!(text(&covata.login(Covata::ADMIN, Covata::ADMIN_PASSWORD), "access_token"), access);
    assert_eq!(covata.api(access, &[]).status, 200);

    let second = covata.refresh(refresh).json();
    assert_eq!(text(&second, "refresh_token"), refresh, "it goes on");
    let gone = spring("invalid_token", &format!("Invalid access token: {access}"));
    says(&covata.api(access, &[]), 401, &gone);
    let second = text(&second, "access_token");
    assert_eq!(text(&covata.login(Covata::USERNAME, Covata::PASSWORD), "access_token"), second);
    covata.wait(HOUR);
    says(&covata.api(second, &[]), 401, &spring("invalid_token", &format!("Access token expired: {second}")));
    let third = covata.login(Covata::USERNAME, Covata::PASSWORD);
    assert!(text(&third, "access_token") != second && text(&third, "refresh_token") == refresh);

    covata.turn(Quirk::Rotates, true);
    let fourth = covata.refresh(refresh).json();
    assert_ne!(text(&fourth, "refresh_token"), refresh);
    let dead = spring("invalid_grant", &format!("Invalid refresh token: {refresh}"));
    says(&covata.refresh(refresh), 400, &dead);
    assert_eq!(covata.vendor.issuer.ended(), 1);

    covata.turn(Quirk::FreshTokens, true);
    covata.turn(Quirk::Jwt, true);
    let [one, other] = [0, 1].map(|_| covata.login(Covata::USERNAME, Covata::PASSWORD));
    assert_ne!(one["access_token"], other["access_token"]);
    let said = claims(text(&one, "access_token"));
    assert_eq!((&said["jti"], &said["user_name"]), (&one["jti"], &json!(Covata::USERNAME)));
    let refresh = text(&one, "refresh_token");
    covata.wait(2_592_000);
    let over = spring("invalid_token", &format!("Invalid refresh token (expired): {refresh}"));
    says(&covata.refresh(refresh), 401, &over);
}

#[test]
fn covata_refuses_in_the_words_of_spring() {
    let covata = Stand::start(Covata::new);
    let full = spring("unauthorized", "Full authentication is required to access this resource");
    says(&covata.ask("POST", TOKEN, &[FORM], "grant_type=password"), 401, &full);
    let by_form = format!("grant_type=password&client_id={}&client_secret={}", SHARE.0, SHARE.1);
    says(&covata.ask("POST", TOKEN, &[FORM], &by_form), 401, &full);
    let wrong = covata.token((SHARE.0, "wrong"), "grant_type=password");
    says(&wrong, 401, &spring("invalid_client", "Bad client credentials"));
    assert_eq!(wrong.header("www-authenticate"), Some("Basic realm=\"access-service\""));
    covata.turn(Quirk::BareRefusal, true);
    is_bare(&covata.token((SHARE.0, "wrong"), "grant_type=password"), 401);
    let header = basic(SHARE.0, SHARE.1);
    let get = covata.ask("GET", TOKEN, &[("Authorization", &header)], "");
    says(&get, 405, &spring("method_not_allowed", "Request method 'GET' not supported"));
    let as_json = covata.json("POST", TOKEN, &[("Authorization", &header)], &json!({ "grant_type": "password" }));
    says(&as_json, 400, &spring("invalid_request", "Missing grant type"));
    let in_query = format!("{TOKEN}?grant_type=password");
    says(&covata.ask("POST", &in_query, &[FORM, ("Authorization", &header)], "x=y"), 400, &as_json.json());
    for (body, status, error, description) in [
        ("grant_type=client_credentials", 400, "unsupported_grant_type", "Unsupported grant type: client_credentials"),
        ("grant_type=password&username=svc", 400, "invalid_grant", "Bad credentials"),
        ("grant_type=refresh_token", 400, "invalid_request", "Missing refresh token"),
        ("grant_type=refresh_token&refresh_token=x", 400, "invalid_grant", "Invalid refresh token: x"),
        ("grant_type=authorization_code", 400, "invalid_request", "An authorization code must be supplied."),
        ("grant_type=authorization_code&code=x", 400, "invalid_grant", "Invalid authorization code: x"),
    ] {
        says(&covata.token(SHARE, body), status, &spring(error, description));
    }
    covata.vendor.clients()[0]["authorizedGrantTypes"] = json!(["password"]);
    let not_its = spring("invalid_client", "Unauthorized grant type: refresh_token");
    says(&covata.refresh("x"), 401, &not_its);
    let login = covata.login(Covata::USERNAME, Covata::PASSWORD);
    assert_eq!(login.get("refresh_token"), None, "its client has none");
    covata.vendor.clients()[0]["enabled"] = false.into();
    assert_eq!(covata.token(SHARE, "grant_type=password").status, 401);

    let bare = call(covata.shown.api.address, "GET", "/", &[], b"");
    says(&bare, 401, &full);
    assert_eq!(bare.header("www-authenticate"), Some("Bearer realm=\"access-service\", error=\"unauthorized\""));
}

#[test]
fn covata_lets_an_administrator_register_list_change_and_delete_clients() {
    const APPS: &str = "/api/v1/clientapps";
    let covata = Stand::start(Covata::new);
    let user = format!("Bearer {}", text(&covata.login(Covata::USERNAME, Covata::PASSWORD), "access_token"));
    let denied = spring("access_denied", "Access is denied");
    says(&covata.ask("GET", APPS, &[("Authorization", &user)], ""), 403, &denied);
    assert_eq!(covata.ask("GET", APPS, &[], "").status, 401);
    let admin = format!("Bearer {}", text(&covata.login(Covata::ADMIN, Covata::ADMIN_PASSWORD), "access_token"));
    let admin = [("Authorization", admin.as_str())];
    let new = json!({
        "accessTokenValiditySeconds": 60, "appName": "New", "authorizedGrantTypes": ["password", "refresh_token"],
        "clientId": "new-app", "clientSecret": "new-secret", "refreshTokenValiditySeconds": 600,
    });
    for name in new.as_object().unwrap().keys() {
        let mut less = new.clone();
        less.as_object_mut().unwrap().remove(name);
        let refused = spring("invalid_request", &format!("{name} is required"));
        says(&covata.json("POST", APPS, &admin, &less), 400, &refused);
    }
    for (name, value) in [
        ("authorizedGrantTypes", json!(["magic"])),
        ("accessTokenValiditySeconds", json!("60")),
        ("appName", json!("")),
    ] {
        let mut odd = new.clone();
        odd[name] = value;
        let refused = spring("invalid_request", &format!("{name} is not valid"));
        says(&covata.json("POST", APPS, &admin, &odd), 400, &refused);
    }
    assert_eq!(covata.ask("POST", APPS, &[admin[0], FORM], &new.to_string()).status, 415);
    let made = covata.json("POST", APPS, &admin, &new).json();
    let id = text(&made, "id");
    let mut expected = new.clone();
    (expected["id"], expected["enabled"], expected["registeredRedirectUris"]) = (id.into(), true.into(), json!([]));
    assert_eq!(made, expected);
    assert_eq!(covata.json("POST", APPS, &admin, &new).status, 409, "its clientId is taken");

    let list = |query: &str| covata.ask("GET", &format!("{APPS}{query}"), &admin, "");
    let ids = |query: &str| {
        let body = list(query).json();
        assert_eq!(body["count"], 2);
        let items = body["items"].as_array().unwrap();
        items.iter().map(|item| text(item, "clientId").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("").json()["items"][1], made, "secret and all");
    assert_eq!(ids("?sortBy=clientId"), ["acme-share", "new-app"]);
    assert_eq!(ids("?sortBy=clientId&orderBy=DESC&limit=1"), ["new-app"]);
    assert_eq!(ids("?offset=1"), ["new-app"]);
    for query in ["?limit=101", "?limit=x", "?orderBy=up", "?sortBy=nothing"] {
        assert_eq!(list(query).status, 400, "{query}");
    }

    let login = |secret: &str| {
        let body = "grant_type=password&username=svc%40acme.example&password=svc-password";
        covata.token(("new-app", secret), body)
    };
    assert_eq!(login("new-secret").json()["expires_in"], 60, "as long as its client says");
    let one = format!("{APPS}/{id}");
    let changed = covata.json("PUT", &one, &admin, &json!({ "clientSecret": "other" }));
    assert_eq!((changed.status, &changed.json()["clientSecret"]), (200, &json!("other")));
    assert_eq!([login("new-secret").status, login("other").status], [401, 200], "there is only one");
    assert_eq!(covata.json("PUT", &one, &admin, &json!({ "clientId": Covata::CLIENT_ID })).status, 409);
    assert_eq!(covata.ask("GET", &format!("{APPS}/new-app"), &admin, "").status, 404, "that is not its id");
    is_bare(&covata.ask("DELETE", &one, &admin, ""), 204);
    assert_eq!([covata.ask("DELETE", &one, &admin, "").status, login("other").status], [404, 401]);
}

/// A query string.
fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Logs in and answers the question: where the browser is sent, and its parameters.
fn log_in<V: Vendor>(stand: &Stand<V>, target: &str, user: (&str, &str), answer: &str) -> (String, Value) {
    let form = query(&[("username", user.0), ("password", user.1), ("answer", answer)]);
    let reply = stand.ask("POST", target, &[FORM], &form);
    assert_eq!(reply.status, 302, "{reply:?}");
    let (to, parameters) = reply.header("location").unwrap().split_once('?').unwrap();
    let parameters = form_urlencoded::parse(parameters.as_bytes()).into_owned().map(|(k, v)| (k, Value::from(v)));
    (to.to_owned(), parameters.collect())
}

const VIEWER: (&str, &str) = (Netrex::USERNAME, Netrex::PASSWORD);

impl Stand<Netrex> {
    fn code(&self) -> String {
        let (_, back) = log_in(self, &authorization(&[]), VIEWER, "allow");
        text(&back, "code").to_owned()
    }

    fn post(&self, path: &str, pairs: &[(&str, &str)]) -> Reply {
        self.ask("POST", &format!("/oauth2/{path}?{}", query(pairs)), &[("Content-Length", "0")], "")
    }

    fn exchange(&self, code: &str) -> Reply {
        self.post("token", &[ID, SECRET, CODE, ("code", code), URI])
    }

    fn refresh(&self, token: &str) -> Reply {
        self.post("token", &[ID, SECRET, ("grant_type", "refresh_token"), ("refresh_token", token)])
    }
}

const ID: (&str, &str) = ("client_id", Netrex::CLIENT_ID);
const SECRET: (&str, &str) = ("client_secret", Netrex::CLIENT_SECRET);
const CODE: (&str, &str) = ("grant_type", "authorization_code");
const URI: (&str, &str) = ("redirect_uri", Netrex::REDIRECT_URI);

/// The URL that a person is sent to, with these parameters in place of the usual ones.
fn authorization(changes: &[(&str, &str)]) -> String {
    let mut pairs = vec![("response_type", "code"), ID, URI, ("scope", "read,write"), ("state", "a b&c")];
    for (name, value) in changes {
        pairs.retain(|(other, _)| other != name);
        pairs.push((name, value));
    }
    format!("/oauth2/auth?{}", query(&pairs))
}

#[test]
fn netrex_shows_a_login_page_and_sends_the_browser_back_with_code_and_state() {
    let netrex = Stand::start(Netrex::new);
    let page = netrex.ask("GET", &authorization(&[]), &[], "");
    assert!(page.status == 200 && page.text().contains("<form method=\"post\">"), "{page:?}");
    assert_eq!(page.header("content-type"), Some("text/html"));
    for wrong in [("client_id", "x"), ("redirect_uri", "https://evil.example/"), ("redirect_uri", "")] {
        let refused = netrex.ask("GET", &authorization(&[wrong]), &[], "");
        assert_eq!((refused.status, refused.header("location")), (400, None), "{wrong:?}");
    }
    let trailing = format!("{}/", Netrex::REDIRECT_URI);
    let refused = netrex.ask("GET", &authorization(&[("redirect_uri", &trailing)]), &[], "");
    assert_eq!(refused.status, 400, "to the letter");
    for (wrong, error) in
        [(("response_type", "token"), "unsupported_response_type"), (("scope", "read write"), "invalid_scope")]
    {
        let (to, back) = log_in(&netrex, &authorization(&[wrong]), VIEWER, "allow");
        assert_eq!((to.as_str(), back), (Netrex::REDIRECT_URI, json!({ "error": error, "state": "a b&c" })));
    }
    let form = query(&[("username", Netrex::USERNAME), ("password", "wrong"), ("answer", "allow")]);
    assert_eq!(netrex.ask("POST", &authorization(&[]), &[FORM], &form).status, 401);
    let denied = json!({ "error": "access_denied", "state": "a b&c" });
    assert_eq!(log_in(&netrex, &authorization(&[]), VIEWER, "deny").1, denied);
    let (to, back) = log_in(&netrex, &authorization(&[]), VIEWER, "allow");
    assert_eq!((to.as_str(), text(&back, "state"), back["error"].as_str()), (Netrex::REDIRECT_URI, "a b&c", None));
    netrex.turn(Quirk::Denied, true);
    assert_eq!(log_in(&netrex, &authorization(&[]), VIEWER, "allow").1, denied);
    netrex.turn(Quirk::Denied, false);
    netrex.vendor.register("http://localhost:1/x?y=z");
    let (_, back) = log_in(&netrex, &authorization(&[("redirect_uri", "http://localhost:1/x?y=z")]), VIEWER, "allow");
    assert_eq!(text(&back, "y"), "z", "its own query stays");
    let elsewhere = netrex.exchange(text(&back, "code"));
    says(&elsewhere, 400, &json!({ "error": "Invalid code" }));
}

#[test]
fn netrex_takes_each_code_once_within_five_minutes_and_its_parameters_from_the_query_only() {
    let netrex = Stand::start(Netrex::new);
    let error = |words: &str| json!({ "error": words });
    let code = netrex.code();
    let pairs = [ID, SECRET, CODE, ("code", &code), URI];
    says(&netrex.ask("POST", "/oauth2/token", &[FORM], &query(&pairs)), 400, &error("Invalid client"));
    says(&netrex.ask("GET", &format!("/oauth2/token?{}", query(&pairs)), &[], ""), 400, &error("Invalid request"));
    for (at, value, words) in [
        (0, "x", "Invalid client"),
        (1, "x", "Invalid client"),
        (2, "password", "Invalid request"),
        (3, "", "Invalid request"),
        (3, "x", "Invalid code"),
        (4, "", "Invalid request"),
    ] {
        let mut wrong = pairs;
        wrong[at].1 = value;
        says(&netrex.post("token", &wrong), 400, &error(words));
    }
    let token = netrex.exchange(&code).json();
    let (access, refresh) = (text(&token, "access_token"), text(&token, "refresh_token"));
    assert_eq!(token, json!({ "access_token": access, "expires_in": 3600, "refresh_token": refresh }));
    says(&netrex.exchange(&code), 400, &error("Invalid code"));
    assert_eq!(netrex.vendor.codes.reused(), 1);
    let late = netrex.code();
    netrex.wait(300);
    says(&netrex.exchange(&late), 400, &error("Invalid code"));
    netrex.turn(Quirk::ErrorsAs200, true);
    says(&netrex.exchange(&late), 200, &error("Invalid code"));
    netrex.turn(Quirk::ErrorsAs200, false);

    let once = netrex.post("token", &[ID, CODE, ("code", &netrex.code()), URI]).json();
    assert_eq!(once.get("refresh_token"), None, "without the secret, for one time");
    netrex.turn(Quirk::OneTime, true);
    assert_eq!(netrex.exchange(&netrex.code()).json().as_object().unwrap().len(), 2);
}

#[test]
fn netrex_refreshes_with_the_secret_and_revokes_all_that_came_of_a_login() {
    let netrex = Stand::start(Netrex::new);
    let error = |words: &str| json!({ "error": words });
    let first = netrex.exchange(&netrex.code()).json();
    let refresh = text(&first, "refresh_token");
    let without = netrex.post("token", &[ID, ("grant_type", "refresh_token"), ("refresh_token", refresh)]);
    says(&without, 400, &error("Invalid client"));
    says(&netrex.refresh("x"), 400, &error("Invalid refresh token"));
    says(&netrex.refresh(""), 400, &error("Invalid request"));
    let second = netrex.refresh(refresh).json();
    assert_eq!(text(&second, "refresh_token"), refresh);
    netrex.turn(Quirk::Rotates, true);
    let third = netrex.refresh(refresh).json();
    let (access, next) = (text(&third, "access_token"), text(&third, "refresh_token"));
    assert_ne!(next, refresh);

    assert_eq!(netrex.api(access, &[]).status, 200);
    says(&netrex.post("revoke", &[]), 400, &error("Invalid request"));
    says(&netrex.post("revoke", &[("access_token", "x")]), 400, &error("Invalid token"));
    says(&netrex.post("revoke", &[("access_token", access)]), 200, &json!({}));
    assert_eq!(netrex.vendor.issuer.revoked(), [access]);
    says(&netrex.api(access, &[]), 401, &error("Invalid access token"));
    says(&netrex.api(text(&first, "access_token"), &[]), 401, &error("Invalid access token"));
    says(&netrex.refresh(next), 400, &error("Invalid refresh token"));
    let login = netrex.exchange(&netrex.code()).json();
    let old = text(&login, "refresh_token");
    let new = netrex.refresh(old).json();
    assert_eq!(netrex.refresh(old).status, 400);
    assert_eq!((netrex.refresh(text(&new, "refresh_token")).status, netrex.vendor.issuer.ended()), (400, 1));
}

#[test]
fn covata_has_a_login_page_too() {
    let covata = Stand::start(Covata::new);
    let pairs = [("response_type", "code"), ("client_id", SHARE.0), ("redirect_uri", Covata::REDIRECT_URI)];
    let target = format!("/api/oauth/authorize?{}", query(&pairs));
    let (to, back) = log_in(&covata, &target, (Covata::USERNAME, Covata::PASSWORD), "allow");
    assert_eq!(to, Covata::REDIRECT_URI);
    let pairs = [CODE, ("code", text(&back, "code")), ("redirect_uri", Covata::REDIRECT_URI)];
    let token = covata.token(SHARE, &query(&pairs)).json();
    assert_eq!(covata.api(text(&token, "access_token"), &[]).status, 200);
    assert_eq!(covata.token(SHARE, &query(&pairs)).status, 400, "once");
}

#[test]
fn every_fault_can_be_turned_on_by_its_name_and_off_again() {
    let names: Vec<_> = fault::names().map(|fault| fault.name).collect();
    assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
    for name in names {
        assert!(Fault::named(name).is_some() != Quirk::named(name).is_some(), "{name}");
    }
    let vanco = Stand::start(Vanco::new);
    let ask = || client_credentials(&vanco, Vanco::CLIENT_ID, Vanco::SECRET);
    vanco.vendor.misbehave("error");
    assert_eq!([0; 4].map(|_| ask().status), [200, 500, 200, 500]);
    vanco.vendor.faults.set(Some(Fault::named("limited-silent").unwrap()), Some(1));
    let limited = ask();
    assert_eq!((limited.status, limited.header("retry-after"), ask().status), (429, None, 200));
    vanco.vendor.faults.set(Some(Fault::Revoked), Some(1));
    let reply = ask().json();
    is_bare(&vanco.api(text(&reply, "access_token"), &[]), 401);
    assert_eq!(vanco.api(text(&ask().json(), "access_token"), &[]).status, 200);
    vanco.vendor.issuer.set_lifetime(Duration::from_secs(7));
    assert_eq!(ask().json()["expires_in"], 7);
    for (name, date) in
        [("clock-ahead", "Fri, 02 Jan 2026 00:00:00 GMT"), ("clock-behind", "Wed, 31 Dec 2025 00:00:00 GMT")]
    {
        vanco.vendor.misbehave(name);
        assert_eq!(ask().header("date"), Some(date));
        vanco.vendor.faults.turn(Quirk::named(name).unwrap(), false);
    }
    assert_eq!(ask().header("date"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    let api = &vanco.shown.echo;
    api.faults.set(Some(Fault::Html), Some(1));
    assert!(vanco.api("x", &[]).text().contains("<html>"), "an API misbehaves as well");
}

#[test]
fn all_stand_ins_start_together_and_their_configurations_name_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let shown = RUNTIME.block_on(start(directory.path(), Duration::from_secs(30), None)).unwrap();
    let routes: Vec<_> = shown.iter().map(|one| one.route).collect();
    assert_eq!(routes, ["comap", "vanco", "comodo", "covata", "netrex", "oauth2"]);
    let mut whole = String::new();
    for one in &shown {
        let table: toml::Table = one.config.parse().unwrap();
        let (token, route) = (&table["token"][one.route], &table["route"][one.route]);
        assert_eq!(route["upstream"].as_str().unwrap(), one.api.url());
        assert!(token.to_string().contains(&one.auth.url()), "{token}");
        for file in one.config.split("file = \"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(directory.path().join(file).is_file(), "{file}");
        }
        assert!(one.about.contains(&one.auth.url()) && one.about.contains(&one.api.url()), "{}", one.about);
        whole += &one.config;
    }
    assert!(whole.parse::<toml::Table>().is_ok(), "they stand in one file");
    let refresh = std::fs::read_to_string(directory.path().join("netrex_refresh_token")).unwrap();
    let netrex = &shown[4].auth;
    let pairs = [ID, SECRET, ("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    let target = format!("/oauth2/token?{}", query(&pairs));
    let token = output(Command::new("curl").args(["-sS", "-X", "POST", &format!("{}{target}", netrex.url())]));
    assert!(token.contains("\"expires_in\":30"), "{token}");
}

#[test]
fn a_fault_of_one_vendor_leaves_the_others_as_they_are() {
    let concerned = |name: &str| {
        let directory = tempfile::tempdir().unwrap();
        let shown = RUNTIME.block_on(start(directory.path(), Duration::from_secs(30), Some(name))).unwrap();
        let faulty = shown.iter().filter(|one| one.fault.is_some_and(|fault| fault.name == name));
        faulty.map(|one| one.route).collect::<Vec<_>>()
    };
    assert_eq!(concerned("html").len(), 6);
    assert_eq!(concerned("clock-ahead").len(), 6);
    assert_eq!(concerned("malformed"), ["comap"]);
    assert_eq!(concerned("rotates"), ["covata", "netrex"]);
    for fault in fault::names() {
        let all = Quirk::named(fault.name).is_none() || fault.name.starts_with("clock-");
        let who = ["comap", "vanco", "comodo", "covata", "netrex", "oauth2"].map(|vendor| fault.concerns(vendor));
        let count = who.iter().filter(|concerned| **concerned).count();
        assert!(if all { count == 6 } else { (1..=2).contains(&count) }, "{fault:?}");
        assert_eq!(fault.help().contains(": "), !all, "{fault:?}");
    }
}
