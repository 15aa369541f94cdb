//! npm `oidc-provider`, certified by the OpenID Foundation: it hides reasons, rotates refresh tokens and kills a family when
//! one is used twice.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokenbroker::standin::pki::{Leaf, Pki};

use crate::support::{Action, Broker, Upstream, call, eventually, has, write};

struct Provider {
    child: Child,
    /// Kept open: the provider writes to it.
    _stdout: BufReader<ChildStdout>,
    directory: Option<TempDir>,
    http: u16,
    https: u16,
}

impl Provider {
    /// `None` where node or the package is not installed.
    fn start(environment: &[(&str, &str)]) -> Option<Self> {
        if !has("node") || !has("oidc-provider") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path()).unwrap();
        pki.issue(&Leaf::server("server")).unwrap();
        pki.issue(&Leaf::client("legacy-app", 0x11)).unwrap();
        pki.issue(&Leaf::client("stranger", 0x12)).unwrap();
        pki.self_signed("self").unwrap();
        write(directory.path(), "basic", "basic secret+%:&");
        write(directory.path(), "post", "post-secret");
        write(directory.path(), "password", "wonderland");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/idp/server.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(directory.path()).envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let ports: Value = serde_json::from_str(&line).unwrap();
        let port = |name: &str| u16::try_from(ports[name].as_u64().unwrap()).unwrap();
        Some(Self { http: port("http"), https: port("https"), child, _stdout: stdout, directory: Some(directory) })
    }

    /// Starts a broker for these tokens, each with a route of its own to an API that takes whatever the provider vouches for.
    fn broker(&mut self, api: &Upstream, tokens: &[(&str, &str)]) -> Broker {
        let mut config = String::new();
        for (name, keys) in tokens {
            let keys = keys
                .replace("HTTPS", &format!("https://localhost:{}/token", self.https))
                .replace("HTTP", &format!("http://127.0.0.1:{}/token", self.http));
            config += &format!(
                "[token.{name}]\n{keys}\n[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n",
                api.url()
            );
        }
        for name in ["legacy-app", "stranger", "self"] {
            config += &format!("[identity.{name}]\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\n");
        }
        Broker::start_in(self.directory.take().unwrap(), &config, |_| {})
    }

    fn granted(&self) -> Vec<String> {
        let address = format!("127.0.0.1:{}", self.http).parse().unwrap();
        let list = call(address, "GET", "/granted", &[], b"").json();
        list.as_array().unwrap().iter().map(|grant| grant.as_str().unwrap().to_owned()).collect()
    }

    /// What the provider says of a token.
    fn introspect(&self, token: &str) -> Value {
        let address = format!("127.0.0.1:{}", self.http).parse().unwrap();
        let body = format!("client_id=post-app&client_secret=post-secret&token={token}");
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        call(address, "POST", "/token/introspection", &form, body.as_bytes()).json()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The token that the API saw last.
fn last_token(api: &Upstream) -> String {
    let last = api.requests().pop().unwrap();
    last.one("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

const BASIC: &str = "url = \"HTTP\"\nclient_id = \"basic-app\"\nclient_secret = { file = \"basic\" }";

#[test]
fn client_credentials_by_basic_and_by_post_bring_tokens_that_the_server_vouches_for() {
    let Some(mut provider) = Provider::start(&[]) else { return };
    let api = Upstream::ok();
    let post = "url = \"HTTP\"\nclient_id = \"post-app\"\nclient_secret = { file = \"post\" }\nclient_auth = \"client_secret_post\"\nscope = [\"api:read\", \"api:write\"]";
    let broker = provider.broker(&api, &[("basic", BASIC), ("post", post)]);
    for (name, scope) in [("basic", None), ("post", Some("api:read api:write"))] {
        assert_eq!(broker.get(name, "/").status, 200);
        let said = provider.introspect(&last_token(&api));
        assert_eq!(
            (said["active"].as_bool(), said["client_id"].as_str()),
            (Some(true), Some(format!("{name}-app").as_str())),
            "{said}"
        );
        assert_eq!(said["scope"].as_str(), scope);
    }
    assert_eq!(provider.granted(), ["client_credentials"; 2]);
}

#[test]
fn a_wrong_secret_is_refused_once_and_told_as_such() {
    let Some(mut provider) = Provider::start(&[]) else { return };
    let api = Upstream::ok();
    let broker = provider.broker(&api, &[("basic", &BASIC.replace("\"basic\"", "\"post\""))]);
    broker.wait_for_state("basic", "rejected");
    let error = broker.token("basic")["last_error"].as_str().unwrap().to_owned();
    assert!(
        error.starts_with(
            "client_rejected: 127.0.0.1: the token server refused the request for a token (HTTP 401, invalid_client)"
        ),
        "{error}"
    );
    for _ in 0..10 {
        assert_eq!(broker.get("basic", "/").code(), "credentials_rejected");
    }
    assert!(api.requests().is_empty());
    assert_eq!(provider.granted(), ["client_credentials: invalid_client"]);
}

#[test]
fn the_password_grant_renews_with_one_time_refresh_tokens_and_never_uses_one_twice() {
    let Some(mut provider) = Provider::start(&[("AT_TTL", "2")]) else { return };
    let api = Upstream::ok();
    let password = format!("{BASIC}\ngrant = \"password\"\nusername = \"alice\"\npassword = {{ file = \"password\" }}");
    let broker = provider.broker(&api, &[("user", &password)]);
    eventually("two renewals", || {
        assert_eq!(broker.get("user", "/").status, 200);
        provider.granted().iter().filter(|grant| *grant == "refresh_token").count() >= 2
    });
    let granted = provider.granted();
    assert_eq!(granted[0], "password");
    assert!(
        granted[1..].iter().all(|grant| grant == "refresh_token"),
        "no reuse was noticed, no second login: {granted:?}"
    );
}

#[test]
fn a_configured_refresh_token_is_rotated_and_its_death_needs_a_person() {
    let Some(mut provider) = Provider::start(&[("AT_TTL", "2")]) else { return };
    let api = Upstream::ok();
    let address = format!("127.0.0.1:{}", provider.http).parse().unwrap();
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let login = "client_id=post-app&client_secret=post-secret&grant_type=password&username=alice&password=wonderland";
    let seed =
        call(address, "POST", "/token", &form, login.as_bytes()).json()["refresh_token"].as_str().unwrap().to_owned();
    write(provider.directory.as_ref().unwrap().path(), "seed", &seed);
    let offline = "url = \"HTTP\"\nclient_id = \"post-app\"\nclient_secret = { file = \"post\" }\nclient_auth = \"client_secret_post\"\ngrant = \"refresh_token\"\nrefresh_token = { file = \"seed\" }";
    let broker = provider.broker(&api, &[("offline", offline)]);
    eventually("two rotations", || {
        assert_eq!(broker.get("offline", "/").status, 200);
        provider.granted().iter().filter(|grant| *grant == "refresh_token").count() >= 2
    });
    // Somebody else uses the first one again: the server kills the whole family.
    let again = format!("client_id=post-app&client_secret=post-secret&grant_type=refresh_token&refresh_token={seed}");
    assert_eq!(call(address, "POST", "/token", &form, again.as_bytes()).status, 400);
    broker.wait_for_state("offline", "needs_login");
    let error = broker.token("offline")["last_error"].as_str().unwrap().to_owned();
    assert!(
        error.starts_with(
            "grant_rejected: 127.0.0.1: the token server refused the refresh token (HTTP 400, invalid_grant)"
        ),
        "{error}"
    );
    let refused = || provider.granted().iter().filter(|grant| *grant == "refresh_token: invalid_grant").count();
    let before = refused();
    eventually("the last token is over", || broker.get("offline", "/").status == 503);
    assert_eq!(broker.get("offline", "/").code(), "login_required");
    assert_eq!(refused(), before, "it is not tried again");
}

#[test]
fn mutual_tls_authenticates_the_client_and_binds_the_token_to_its_certificate() {
    let Some(mut provider) = Provider::start(&[]) else { return };
    let api = Upstream::start(|_| Action::ok(""));
    let token = |client: &str, auth: &str, identity: &str| {
        format!(
            "url = \"HTTPS\"\nclient_id = \"{client}\"\nclient_auth = \"{auth}\"\nidentity = \"{identity}\"\nca = \"ca.pem\""
        )
    };
    let broker = provider.broker(
        &api,
        &[
            ("mtls", &token("mtls-app", "tls_client_auth", "legacy-app")),
            ("selfsigned", &token("self-app", "self_signed_tls_client_auth", "self")),
            ("stranger", &token("mtls-app", "tls_client_auth", "stranger")),
            ("wrong", &token("self-app", "self_signed_tls_client_auth", "legacy-app")),
        ],
    );
    assert_eq!(broker.get("mtls", "/").status, 200);
    let said = provider.introspect(&last_token(&api));
    assert!(said["active"] == true && said["cnf"]["x5t#S256"].is_string(), "{said}");
    assert_eq!(broker.get("selfsigned", "/").status, 200);
    for refused in ["stranger", "wrong"] {
        broker.wait_for_state(refused, "rejected");
        assert_eq!(broker.token(refused)["class"], "client_rejected");
    }
}

#[test]
fn a_public_client_sends_its_id_alone() {
    let Some(mut provider) = Provider::start(&[]) else { return };
    let api = Upstream::ok();
    let public = "url = \"HTTP\"\nclient_id = \"public-app\"\nclient_auth = \"none\"\ngrant = \"password\"\nusername = \"alice\"\npassword = { file = \"password\" }";
    let broker = provider.broker(&api, &[("public", public)]);
    assert_eq!(broker.get("public", "/").status, 200);
    assert_eq!(provider.introspect(&last_token(&api))["client_id"], "public-app");
}
