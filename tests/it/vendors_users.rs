use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokenbroker::standin::pki::{Clients, Pki};
use tokenbroker::standin::{Covata, Fault, Netrex, Quirk};
use toml::{Table, Value};

use crate::support::{Broker, HOUR, Setup, Stand, eventually, issuer, write};
use crate::vendors::readme_is_right;

/// As a user's own dialect: the built-in `extends` with something else.
fn own<V: tokenbroker::standin::demo::Vendor>(setup: &mut Setup<V>, changes: &str) {
    let table = Table::from_iter([("own".to_owned(), Value::Table(changes.parse().unwrap()))]);
    setup.config.insert("dialect".into(), Value::Table(table));
    setup.token().insert("dialect".into(), "own".into());
}

#[test]
fn comodos_words_are_of_the_right_class_and_name_what_to_do() {
    let (wrong, stand) =
        Setup::comodo(HOUR, Clients::Must).write("comodo_api_secret", "wrong").fails("rejected", "client_rejected");
    assert!(
        wrong.contains("check client_id, client_secret, username and password") && wrong.ends_with("Not authorized"),
        "{wrong}"
    );
    for _ in 0..20 {
        assert_eq!(stand.get().code(), "credentials_rejected");
    }
    assert_eq!(stand.calls(), 1, "an account is not locked by requests");
    let (password, _) =
        Setup::comodo(HOUR, Clients::Must).write("comodo_password", "wrong").fails("rejected", "client_rejected");
    assert!(
        password.contains("check username and password") && password.ends_with("passsword is incorrect"),
        "{password}"
    );
    let mut invalid = Setup::comodo(HOUR, Clients::Must);
    invalid.token().insert("params".into(), Value::Table("device = \"box\"".parse().unwrap()));
    let (invalid, _) = invalid.fails("rejected", "config");
    assert!(
        invalid.contains("check url, grant, scope and params") && invalid.ends_with("Invalid request"),
        "{invalid}"
    );
    let mut null = Setup::comodo(HOUR, Clients::Must);
    own(&mut null, "extends = \"comodo-one\"\nacquire = { params = { password = {} } }");
    let (null, _) = null.fails("rejected", "config");
    assert!(null.contains("check url, grant, scope and params") && null.ends_with("cannot be null"), "{null}");
    let (serial, stand) =
        Setup::comodo(HOUR, Clients::Must).turn(Quirk::SerialUnknown).fails("rejected", "user_action");
    for words in ["[identity.comodo]", "subject CN=comodo", "serial 11:22:33:44:55:66:77:88", "to 2099-01-01T00:00:00Z"]
    {
        assert!(serial.contains(words), "{words}: {serial}");
    }
    assert_eq!((stand.get().code().as_str(), stand.calls()), ("credentials_rejected", 1), "final");
    // Where the server lets everybody in, it is the service that misses the certificate.
    let mut none = Setup::comodo(HOUR, Clients::May);
    own(&mut none, "extends = \"comodo-one\"\nneeds = []");
    none.token().remove("identity");
    none.config.remove("identity");
    let (none, stand) = none.fails("rejected", "user_action");
    assert!(
        none.contains("the client certificate that `identity` names") && none.ends_with("Certificate is not verified"),
        "{none}"
    );
    assert_eq!(stand.calls(), 1, "final");
    readme_is_right("Comodo One", "api.one.comodo.com", &[wrong, password, invalid, null, serial, other_ca()]);
}

/// A certificate that the server does not take.
fn other_ca() -> String {
    let setup = Setup::comodo(HOUR, Clients::Must);
    let other = tempfile::tempdir().unwrap();
    let files = Pki::new(other.path()).unwrap().self_signed("comodo").unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let setup = setup.write("comodo.pem", &read(&files.cert)).write("comodo.key", &read(&files.key));
    let (error, stand) = setup.fails("rejected", "user_action");
    assert!(
        error.contains("UnknownCA") && error.contains("subject CN=comodo, serial ") && error.contains(", valid "),
        "{error}"
    );
    assert_eq!(stand.calls(), 0);
    error
}

fn covata() -> Setup<Covata> {
    Setup::new("covata", Covata::new(issuer(HOUR)))
}

impl Setup<Covata> {
    /// With a member of the client application changed.
    fn client(self, member: &str, value: serde_json::Value) -> Self {
        self.vendor.clients()[0].insert(member.into(), value);
        self
    }
}

#[test]
fn covatas_refusals_are_told_apart_and_name_what_to_do() {
    let (password, stand) = covata().write("covata_password", "wrong").fails("needs_login", "grant_rejected");
    assert!(password.contains("check username and password") && password.ends_with("Bad credentials"), "{password}");
    assert_eq!((stand.get().code().as_str(), stand.calls()), ("login_required", 1));
    let (client, _) = covata().write("covata_secret", "wrong").fails("rejected", "client_rejected");
    assert!(client.contains("invalid_client") && client.contains("check client_id, client_secret"), "{client}");
    let bare = covata().turn(Quirk::BareRefusal).write("covata_secret", "wrong");
    let (bare, _) = bare.fails("rejected", "client_rejected");
    assert!(bare.contains("HTTP 401") && bare.contains("check client_id, client_secret"), "{bare}");
    let grants = covata().client("authorizedGrantTypes", json!(["authorization_code"]));
    let (grant, _) = grants.fails("rejected", "config");
    assert!(grant.contains("see its authorizedGrantTypes"), "{grant}");
    readme_is_right("Covata", "access-service.example.com", &[password, client, bare, grant]);
}

#[test]
fn covatas_same_token_answered_again_does_not_make_the_loop_spin() {
    // Without refresh tokens: every login before the end brings what is there.
    let setup = Setup::new("covata", Covata::new(issuer(Duration::from_secs(6))))
        .client("authorizedGrantTypes", json!(["password"]));
    let stand = setup.start();
    stand.broker.wait_for_state("covata", "valid");
    let first = stand.token()["fingerprint"].clone();
    eventually("a new one comes once the old one has ended", || {
        assert!([200, 503].contains(&stand.get().status));
        stand.token()["fingerprint"] != first && stand.token()["state"] == "valid"
    });
    let calls = stand.calls();
    assert!((2..=9).contains(&calls), "{calls} logins in six seconds");
    assert_eq!(stand.vendor.issuer.issued(), 2);
    // Lifetimes are told in whole seconds: half of one may be missing.
    assert!(stand.shown.echo.answered(401) <= 2);
}

#[test]
fn covatas_refresh_that_ends_the_old_token_at_once_loses_no_request() {
    let stand = Setup::new("covata", Covata::new(issuer(Duration::from_secs(2)))).start();
    assert_eq!(stand.get().status, 200);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while stand.vendor.issuer.issued() < 4 {
                    let reply = stand.get();
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
            });
        }
    });
    eventually("one login", || stand.broker.log().matches("\"by\":\"Acquire\"").count() == 1);
}

#[test]
fn a_covata_refresh_token_that_has_ended_is_an_invalid_token_and_leads_to_a_login() {
    for quirk in [Quirk::Rotates, Quirk::Jwt] {
        let setup = covata().turn(quirk).client("refreshTokenValiditySeconds", json!(2));
        let stand = setup.start();
        stand.broker.wait_for_state("covata", "valid");
        std::thread::sleep(Duration::from_millis(2100));
        stand.vendor.issuer.revoke_access_tokens();
        let calls = stand.calls();
        let reply = stand.refresh();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(stand.calls() - calls, 2, "a refused renewal, and a login");
        eventually("it is told", || stand.broker.log().contains("Invalid refresh token (expired)"));
        assert!(!stand.broker.log().contains(&refresh_token(&stand)), "the vendor's words hold the token; ours do not");
        assert_eq!(stand.get().status, 200);
    }
}

/// The one that the broker sent last.
fn refresh_token(stand: &Stand<Covata>) -> String {
    let seen = stand.vendor.seen();
    let sent = seen.iter().rev().find_map(|call| call.form().get("refresh_token").map(str::to_owned));
    sent.unwrap()
}

#[test]
fn covatas_lifetimes_of_a_second_and_of_decades_are_refreshed_in_time_and_a_revoked_client_is_not_hammered() {
    let stand = covata().client("accessTokenValiditySeconds", json!(1)).start();
    eventually("four tokens", || {
        assert_eq!(stand.get().status, 200);
        stand.vendor.issuer.issued() >= 4
    });
    assert!(stand.calls() <= 8, "{}", stand.calls());
    let decades = Setup::new("covata", Covata::new(issuer(Duration::from_secs(2_000_000_000))));
    let stand = decades.client("accessTokenValiditySeconds", json!(1_000_000_000)).start();
    assert_eq!(stand.get().status, 200);
    let token = stand.token();
    let at = |key: &str| token[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let share = at("refreshes_at").duration_since(at("obtained_at")).as_secs();
    assert!((700_000_000..=800_000_000).contains(&share), "{token}");
    // Its administrator disables the client application.
    stand.vendor.clients()[0].insert("enabled".into(), json!(false));
    stand.vendor.issuer.revoke_access_tokens();
    let calls = stand.calls();
    for _ in 0..20 {
        let reply = stand.get();
        assert!(reply.status == 401 && reply.text().contains("invalid_token"), "{}", reply.text());
    }
    assert!(stand.calls() - calls <= 3, "{}", stand.calls() - calls);
    assert_eq!(stand.token()["class"], "client_rejected");
}

fn netrex() -> Setup<Netrex> {
    Setup::new("netrex", Netrex::new(issuer(HOUR)))
}

#[test]
fn netrexs_free_words_are_understood_with_400_and_with_200() {
    let mut given = Vec::new();
    for as_200 in [false, true] {
        let begin = || if as_200 { netrex().turn(Quirk::ErrorsAs200) } else { netrex() };
        let (dead, stand) = begin().write("netrex_refresh_token", "dead").fails("needs_login", "grant_rejected");
        assert!(
            dead.contains("get another one, and set it as refresh_token") && dead.contains("Invalid refresh token"),
            "{dead}"
        );
        assert_eq!((stand.get().code().as_str(), stand.calls()), ("login_required", 1));
        let (client, stand) = begin().write("netrex_secret", "wrong").fails("rejected", "client_rejected");
        assert!(client.contains("check client_id and client_secret") && client.contains("Invalid client"), "{client}");
        assert_eq!(stand.get().code(), "credentials_rejected");
        given.extend([dead, client]);
    }
    let setup = netrex();
    setup.vendor.faults.set(Some(Fault::Body(br#"{"error":"System error"}"#.to_vec())), Some(1));
    let stand = setup.start();
    eventually("an error of the system ends no refresh token", || stand.get().status == 200);
    stand.broker.logs("System error");
    let log = stand.broker.log();
    let told = log.lines().find(|line| line.contains("System error")).unwrap();
    let told: serde_json::Value = serde_json::from_str(told).unwrap();
    given.push(told["error"].as_str().unwrap().to_owned());
    readme_is_right("Netrex", "system2.netrex.cz", &given);
}

#[test]
fn netrexs_parameters_are_in_the_query_alone_and_an_answer_without_a_refresh_token_keeps_the_old_one() {
    let stand = netrex().start();
    assert_eq!(stand.get().status, 200);
    let body = br#"{"access_token":"once","expires_in":3600}"#;
    stand.vendor.faults.set(Some(Fault::Body(body.to_vec())), Some(1));
    assert_eq!(stand.refresh().status, 200);
    assert_eq!(stand.refresh().status, 200, "with the refresh token from before");
    assert_eq!(stand.get().status, 200);
    let seen = stand.vendor.seen();
    assert!(seen.iter().all(|call| call.body.is_empty() && call.query().get("client_secret").is_some()));
    let log = stand.broker.log();
    assert!(!log.contains("client_secret=") && !log.contains(Netrex::CLIENT_SECRET), "no URL with a secret in the log");
}

#[test]
fn a_token_that_somebody_made_in_netrexs_portal_needs_no_login_and_its_end_is_the_apis_401() {
    let mut setup = netrex();
    setup.vendor.issuer.issue("made-by-hand", HOUR, None);
    *setup.token() = "dialect = \"netrex\"\ngrant = \"static\"\naccess_token = { file = \"portal\" }".parse().unwrap();
    let stand = setup.write("portal", "made-by-hand").start();
    assert_eq!((stand.get().status, stand.calls()), (200, 0));
    stand.vendor.issuer.revoke_access_tokens();
    let reply = stand.get();
    assert_eq!((reply.status, reply.json()["error"].as_str()), (401, Some("Invalid access token")));
    stand.vendor.issuer.issue("another", HOUR, None);
    write(stand.broker.directory.path(), "portal", "another");
    eventually("the new one is taken from its file", || stand.get().status == 200);
}

#[test]
fn netrexs_rotated_refresh_token_outlives_a_restart() {
    let kept = tempfile::tempdir().unwrap();
    let mut setup = netrex().turn(Quirk::Rotates);
    setup.config["store"]["path"] = kept.path().join("store").to_str().unwrap().into();
    let (config, seed) = (setup.text(), std::fs::read(setup.directory.path().join("netrex_refresh_token")).unwrap());
    let mut stand = setup.start();
    for _ in 0..2 {
        assert_eq!(stand.refresh().status, 200);
    }
    assert_eq!(stand.broker.stop().code(), Some(0));
    let again = tempfile::tempdir().unwrap();
    for name in ["netrex_secret", "store_key"] {
        write(again.path(), name, std::fs::read(stand.broker.directory.path().join(name)).unwrap());
    }
    write(again.path(), "netrex_refresh_token", seed);
    let Stand { vendor, shown, .. } = stand;
    let stand = Stand { broker: Broker::start_in(again, &config, |_| {}), vendor, shown };
    assert_eq!(stand.get().status, 200);
    assert_eq!(stand.refresh().status, 200, "with the last refresh token, not with the file's");
    assert_eq!(stand.vendor.issuer.ended(), 0);
}
