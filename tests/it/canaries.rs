use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use tokenbroker::standin::demo::{Shown, Vendor};
use tokenbroker::standin::pki::{Clients, Leaf, Pki};
use tokenbroker::standin::{Comap, Covata, Fault, Issuer, Netrex, OAuth2, Vanco};
use toml::{Table, Value};

use crate::leaks::{Scan, spellings};
use crate::support::{
    ADMIN_KEY, Action, Broker, HOUR, Setup, Upstream, call, eventually, exchange, issuer, run_to_end, write,
};

/// Plants secrets: each is one of its kind, and has characters that encodings change.
#[derive(Default)]
struct Garden {
    scan: Scan,
    planted: usize,
}

impl Garden {
    fn plant(&mut self, kind: &str) -> String {
        self.planted += 1;
        let secret = format!("canary-{kind}-{:03}+/=~7f3a9c", self.planted);
        self.scan.secrets.push(secret.clone());
        secret
    }

    /// In a file.
    fn file(&mut self, directory: &Path, kind: &str) -> String {
        let secret = self.plant(kind);
        let name = format!("secret-{}", self.planted);
        write(directory, &name, secret);
        format!("{{ file = \"{name}\" }}")
    }
}

/// A vendor's stand-in that is part of the whole.
struct Part {
    name: &'static str,
    set: Box<dyn Fn(Option<Fault>)>,
    /// What it is sent with each request for a token: no private key, and a password with a login alone.
    own: Vec<String>,
    issuer: Arc<Issuer>,
    shown: Shown,
    _directory: tempfile::TempDir,
}

/// Adds a vendor to the configuration, and its secrets to what is looked for.
fn add<V: Vendor>(mut setup: Setup<V>, into: &mut Table, garden: &mut Garden) -> Part {
    setup.token().insert("timeout".into(), "2s".into());
    let directory = setup.directory.path().to_owned();
    let before = garden.scan.secrets.len();
    for name in ["token", "route", "identity"] {
        let Some(Value::Table(tables)) = setup.config.get_mut(name) else { continue };
        absolute(tables, &directory, garden);
        let there = into.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap();
        there.extend(std::mem::take(tables));
    }
    let sent = |secret: &&String| !secret.contains("password") && !secret.starts_with("MI");
    let own = garden.scan.secrets[before..].iter().filter(sent).cloned().collect();
    let vendor = Arc::clone(&setup.vendor);
    let issuer = Arc::clone(&vendor.issuer);
    let set = Box::new(move |fault| vendor.faults.set(fault, None));
    Part { name: V::NAME, set, own, issuer, shown: setup.shown, _directory: setup.directory }
}

/// Makes the paths of files absolute, and notes what is secret in them.
fn absolute(table: &mut Table, directory: &Path, garden: &mut Garden) {
    for (key, value) in table.iter_mut() {
        match value {
            Value::Table(inner) => absolute(inner, directory, garden),
            Value::String(path) if ["file", "cert", "key", "ca"].contains(&key.as_str()) => {
                let whole = directory.join(&*path);
                let text = std::fs::read_to_string(&whole).unwrap();
                match key.as_str() {
                    "file" => garden.scan.secrets.push(text.trim_end().to_owned()),
                    "key" => garden.scan.secrets.push(text.lines().nth(1).unwrap().to_owned()),
                    _ => {}
                }
                *path = whole.to_str().unwrap().to_owned();
            }
            _ => {}
        }
    }
}

/// A token server that hands out planted tokens, or refuses while it repeats everything it was sent.
fn token_server(garden: &mut Garden) -> Upstream {
    let mut pairs = Vec::new();
    for _ in 0..24 {
        pairs.push((garden.plant("access"), garden.plant("refresh"), garden.plant("id-token"), garden.plant("cookie")));
    }
    let next = AtomicUsize::new(0);
    Upstream::start(move |request| {
        let n = next.fetch_add(1, Ordering::SeqCst);
        let (access, refresh, id, cookie) = &pairs[n % pairs.len()];
        let sent =
            serde_json::to_string(&format!("{}{}", request.head, String::from_utf8_lossy(&request.body))).unwrap();
        let answer = |status: &str, fields: &str, body: &str| {
            let length = body.len();
            Action::Reply(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes())
        };
        if request.line().contains("/refuse") {
            let json = format!("{{\"error\":\"invalid_client\",\"error_description\":{sent}}}");
            return match n % 6 {
                0 => answer("400 Bad Request", "Content-Type: application/json\r\n", &json),
                1 => answer("401 Unauthorized", &format!("WWW-Authenticate: Basic realm=\"{cookie}\"\r\n"), &json),
                2 => answer("302 Found", &format!("Location: https://x.invalid/?token={access}\r\n"), ""),
                3 => answer("500 Oops", "", &format!("<html>{access} {sent}")),
                4 => answer("200 OK", "", &format!("access_token={access}&refresh_token={refresh}")),
                _ => Action::Last(format!("HTTP/1.1 200 OK\r\nBad Field {access}: x\r\n\r\n").into_bytes()),
            };
        }
        let json = serde_json::json!({
            "access_token": access, "refresh_token": refresh, "id_token": id, "token_type": "Bearer", "expires_in": 3600,
        });
        answer(
            "200 OK",
            &format!("Set-Cookie: session={cookie}\r\nContent-Type: application/json\r\n"),
            &json.to_string(),
        )
    })
}

/// Tokens and routes with a secret in every place that can hold one. Their names.
fn tables(garden: &mut Garden, directory: &Path, server: &Upstream, api: &Upstream) -> (String, Vec<String>) {
    let (mut text, mut names) = (String::new(), Vec::new());
    for (n, (grant, auth, path)) in [
        ("client_credentials", "client_secret_basic", "good"),
        ("client_credentials", "client_secret_post", "good"),
        ("password", "client_secret_basic", "good"),
        ("refresh_token", "client_secret_post", "good"),
        ("client_credentials", "client_secret_basic", "refuse"),
        ("password", "client_secret_post", "refuse"),
        ("refresh_token", "client_secret_basic", "refuse"),
        ("static", "none", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("t{n}");
        let mut file = |kind: &str| garden.file(directory, kind);
        text += &format!("[token.{name}]\ngrant = \"{grant}\"\n");
        if grant == "static" {
            text += &format!("access_token = {}\n", file("static"));
        } else {
            let (one, two) = (file("client-secret"), file("second-secret"));
            text += &format!(
                "url = \"{}/{path}\"\nclient_auth = \"{auth}\"\nclient_id = \"c\"\nclient_secret = [{one}, {two}]\ntimeout = \"2s\"\n\
                 params = {{ extra = {}, more = {} }}\nheaders = {{ X-Vendor-Key = {}, X-Vendor-More = {} }}\n",
                server.url(),
                file("param"),
                file("param"),
                file("token-header"),
                file("token-header")
            );
        }
        match grant {
            "password" => text += &format!("username = \"u\"\npassword = {}\n", file("password")),
            "refresh_token" => text += &format!("refresh_token = {}\n", file("seed")),
            _ => {}
        }
        text += &format!(
            "[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\nheaders = {{ X-Route-Key = {}, X-Route-More = {} }}\n\
             response_timeout = \"2s\"\nforwarded = true\nclients = {{ key = {} }}\naccept_origins = [\"https://app.example\"]\n",
            api.url(),
            file("route-header"),
            file("route-header"),
            file("client-key")
        );
        names.push(name);
    }
    (text, names)
}

/// An API that is told by the path how to answer. It repeats nothing in good answers.
fn api() -> Upstream {
    Upstream::start(|request| {
        let sent = request.head.replace("\r\n", " ");
        match request.line().split(' ').nth(1).unwrap().split('?').next().unwrap() {
            "/unauthorized" => Action::status("401 Unauthorized"),
            "/garbage" => Action::Last(format!("HTTP/1.1 200 OK\r\n{sent}\r\n\r\n").into_bytes()),
            "/status" => Action::Last(format!("HTTP/9.9 {sent}\r\n\r\n").into_bytes()),
            "/coded" => Action::Last(
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nX-Sent: {sent}\r\n\r\n").into_bytes(),
            ),
            "/switch" => {
                Action::Last(format!("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nX-Sent: {sent}\r\n\r\n").into_bytes())
            }
            "/cut" => Action::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx".to_vec()),
            "/closed" => Action::Close,
            _ => Action::ok("fine"),
        }
    })
}

/// Everything that a client can do right or wrong.
fn requests(garden: &mut Garden, broker: &Broker, route: &str, key: &str) {
    let (query, cookie, own, body, wrong) = (
        garden.plant("query"),
        garden.plant("cookie"),
        garden.plant("own-credential"),
        garden.plant("body"),
        garden.plant("wrong-key"),
    );
    let (cookie, own) = (format!("a={cookie}"), format!("Bearer {own}"));
    let theirs = [("Cookie", cookie.as_str()), ("Authorization", own.as_str()), ("X-Tokenbroker-Key", key)];
    let mut scan = |method: &str, target: &str, more: &[(&str, &str)], without: &str| {
        let fields: Vec<_> = theirs.iter().filter(|(name, _)| *name != without).chain(more).copied().collect();
        garden.scan.answer(&call(
            broker.address(route),
            method,
            &format!("{target}?key={query}"),
            &fields,
            body.as_bytes(),
        ));
    };
    for path in ["/", "/unauthorized", "/garbage", "/status", "/coded", "/switch", "/cut", "/closed"] {
        for method in ["GET", "POST"] {
            scan(method, path, &[], "");
        }
    }
    scan("GET", "/", &[], "X-Tokenbroker-Key");
    scan("GET", "/", &[("X-Tokenbroker-Key", &wrong)], "X-Tokenbroker-Key");
    scan("GET", "/", &[("X-Tokenbroker-Key", key)], "");
    scan("TRACE", "/", &[], "");
    scan("GET", "/", &[("Origin", "https://evil.example")], "");
    scan("GET", "/", &[("Origin", "https://app.example")], "");
    scan("OPTIONS", "/", &[("Origin", "https://app.example"), ("Access-Control-Request-Method", "PUT")], "");
    scan("GET", "/", &[("Expect", "everything")], "");
    scan("GET", "/", &[("Transfer-Encoding", "gzip")], "");
    scan("GET", "/", &[("Connection", "upgrade"), ("Upgrade", "websocket")], "");
    scan("GET", "/", &[("Via", "1.1 x"), ("X-Long", &"x".repeat(70_000))], "");
    for head in
        ["Host: evil.example", "Host: localhost\r\nBad Name: x", "Host: localhost\r\nContent-Length: x", "NoColon"]
    {
        let head =
            format!("GET /?key={query} HTTP/1.1\r\n{head}\r\nCookie: {cookie}\r\nX-Tokenbroker-Key: {key}\r\n\r\n");
        garden.scan.look(&String::from_utf8_lossy(&exchange(broker.address(route), head)));
    }
}

/// All of these at once: each token has its own pace.
fn refresh(garden: &mut Garden, broker: &Broker, tokens: &[String]) {
    let replies: Vec<_> = std::thread::scope(|scope| {
        let asked =
            tokens.iter().map(|name| scope.spawn(move || broker.admin("POST", &format!("/api/tokens/{name}/refresh"))));
        asked.collect::<Vec<_>>().into_iter().map(|reply| reply.join().unwrap()).collect()
    });
    replies.iter().for_each(|reply| garden.scan.answer(reply));
}

/// Everything that an operator can ask for.
fn operate(garden: &mut Garden, broker: &Broker) {
    let wrong = garden.plant("wrong-admin-key");
    for path in [
        "/livez",
        "/readyz?verbose",
        "/healthz",
        "/metrics",
        "/api/status",
        "/api/requests",
        "/",
        "/nothing",
        "/api/tokens/t0/access_token",
    ] {
        for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
            garden.scan.answer(&broker.admin(method, path));
        }
    }
    for path in [
        "/api/reload",
        "/api/tokens/t0/refresh",
        "/api/tokens/t0/access_token",
        "/api/store/token.t0/forget",
        "/api/login/t0",
    ] {
        for field in [("Authorization", format!("Bearer {wrong}")), ("Cookie", format!("key={wrong}"))] {
            let fields = [(field.0, field.1.as_str())];
            garden.scan.answer(&call(broker.address("admin"), "POST", path, &fields, wrong.as_bytes()));
        }
    }
    let code = garden.plant("code");
    let login = format!("{{\"code\":\"{code}\",\"redirect_uri\":\"http://127.0.0.1/\",\"code_verifier\":\"{code}\"}}");
    let key = format!("Bearer {ADMIN_KEY}");
    for name in ["t0", "covata", "netrex", "nobody"] {
        let fields = [("Authorization", key.as_str())];
        garden.scan.answer(&call(
            broker.address("admin"),
            "POST",
            &format!("/api/login/{name}"),
            &fields,
            login.as_bytes(),
        ));
        garden.scan.answer(&call(
            broker.address("admin"),
            "POST",
            &format!("/api/clients/{name}/list"),
            &fields,
            b"{}",
        ));
    }
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["check"],
        &["check", "--json"],
        &["store", "list"],
        &["client", "list", "comap"],
        &["token", "nobody"],
        &["healthcheck"],
        &["reload"],
    ] {
        let (_, stdout, stderr) = broker.command(arguments);
        garden.scan.look(&(stdout + &stderr));
    }
}

/// Configurations that are wrong right where a secret stands.
fn mistakes(garden: &mut Garden) {
    let route = "[route.a]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://a.example\"\n";
    for text in [
        "[token.a]\nclient_secret = SECRET\n",
        "[token.a]\nclient_secret = \"SECRET\n",
        "[token.a]\nclient_secret = 'SECRET' x\n",
        "[token.a]\nclient_secret = \"SECRET\"\nclient_secret = \"SECRET\"\n",
        "[token.a]\nclient_secrt = \"SECRET\"\n",
        "[token.a]\nclient_secret = [\"SECRET\", \"SECRET\", \"SECRET\"]\n",
        "[token.a]\nclient_secret = { fil = \"SECRET\" }\n",
        "[token.a]\npassword = { inline = \"SECRET\" }\n",
        "[token.a]\ngrant = \"static\"\naccess_token = \"SECRET\\u0001\"\n",
        "[token.a]\ngrant = \"static\"\naccess_token = \"Bearer SECRET\"\n",
        "[token.a]\nurl = \"https://user:SECRET@a.example/\"\n",
        "[token.a]\nurl = \"http://SECRET@a.example/\"\n",
        "[token.a]\nbase_url = \"https://a.example/?key=SECRET#\"\n",
        "[token.a]\nheaders = { X-Key = \"SECRET\\n\" }\n",
        "[token.a]\nparams = [\"SECRET\"]\n",
        "[route.a]\nupstream = \"https://user:SECRET@a.example/\"\n",
        "[route.a]\nclients = { key = \"SECRET\\n\" }\n",
        "[route.a]\nclients = { key = [\"SECRET\"] }\n",
        "[route.a]\nclients = \"SECRET\"\n",
        "[route.a]\nclients = { ca = \"x\", cert = \"x\", key = \"SECRET\" }\n",
        "[store]\nkind = \"file\"\npath = \"x\"\nkey = \"SECRET\"\n",
        "[admin]\nkey = { file = 1, x = \"SECRET\" }\n",
    ] {
        let secret = garden.plant("mistake");
        let text = text.replace("SECRET", &secret);
        let whole = if text.starts_with("[route") { text } else { text + route };
        for arguments in [&["check"][..], &["check", "--json"], &["--log-level", "trace", "run"]] {
            let (code, stdout, stderr) = run_to_end(&whole, arguments);
            assert_ne!(code, 0, "{whole}");
            garden.scan.look(&(stdout + &stderr));
        }
    }
}

#[test]
fn of_more_than_128_planted_secrets_none_comes_out_whatever_goes_well_or_wrong() {
    let mut garden = Garden::default();
    let directory = tempfile::tempdir().unwrap();
    let (server, upstream, collector) = (token_server(&mut garden), api(), Upstream::ok());
    let (text, names) = tables(&mut garden, directory.path(), &server, &upstream);
    let mut config: Table = text.parse().unwrap();
    let parts = [
        add(Setup::new("comap", Comap::new(issuer(HOUR))), &mut config, &mut garden),
        add(Setup::new("vanco", Vanco::new(issuer(HOUR))), &mut config, &mut garden),
        add(Setup::new("covata", Covata::new(issuer(HOUR))), &mut config, &mut garden),
        add(Setup::new("netrex", Netrex::new(issuer(HOUR))), &mut config, &mut garden),
        add(Setup::comodo(HOUR, Clients::Must), &mut config, &mut garden),
    ];
    let pki = Pki::new(directory.path()).unwrap();
    let listener = pki.issue(&Leaf::server("listener")).unwrap();
    let private = std::fs::read_to_string(&listener.key).unwrap();
    garden.scan.secrets.extend([
        private.lines().nth(1).unwrap().to_owned(),
        ADMIN_KEY.to_owned(),
        OAuth2::CLIENT_SECRET.to_owned(),
    ]);
    let store_key = garden.file(directory.path(), "a-store-key-of-some-length");
    let more = format!(
        "[store]\nkind = \"file\"\npath = \"store\"\nkey = {store_key}\n\
         [route.tls]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://127.0.0.1:1\"\ntoken = \"t0\"\n\
         clients = {{ ca = \"ca.pem\", cert = \"listener.pem\", key = {{ file = \"listener.key\" }} }}\n\
         [route.away]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://127.0.0.1:1\"\ntoken = \"t0\"\n"
    );
    let traces = if cfg!(feature = "otlp") { format!("otlp = \"{}\"\n", collector.url()) } else { String::new() };
    let text = format!("inspector = true\n{traces}{config}\n{more}");
    let mut broker = Broker::start_in(directory, &text, |command| {
        command.args(["--log-level", "trace"]).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    });
    for name in ["t0", "t1", "t2", "t3", "t7", "comap", "vanco", "covata", "netrex", "comodo"] {
        broker.wait_for_state(name, "valid");
    }

    for name in &names {
        let key = config["route"][name.as_str()]["clients"]["key"]["file"].as_str().unwrap();
        let key = std::fs::read_to_string(broker.directory.path().join(key)).unwrap();
        requests(&mut garden, &broker, name, &key);
        garden.scan.answer(&broker.admin("GET", "/api/requests"));
    }
    for part in &parts {
        assert_eq!(broker.get(part.name, "/hello").status, 200, "{}", part.name);
    }
    garden.scan.answer(&broker.get("away", "/"));
    garden.scan.look(&String::from_utf8_lossy(&exchange(broker.address("tls"), "GET / HTTP/1.1\r\n\r\n")));

    // Every vendor fails in every way, and says again what it was sent and has handed out.
    let echo = |part: &Part| -> Vec<_> {
        // Tokens of the past, too.
        part.own.iter().cloned().chain(part.issuer.tokens()).collect()
    };
    let json = |own: &[String]| {
        let echo = serde_json::json!({ "error": "invalid_grant", "error_description": own.join(" "), "message": own });
        Fault::Body(echo.to_string().into_bytes())
    };
    let elsewhere = Fault::Redirect(format!("https://x.invalid/?{}", garden.plant("redirect")));
    let vendors: Vec<_> = parts.iter().map(|part| part.name.to_owned()).collect();
    for round in 0..8 {
        for part in &parts {
            let own = echo(part);
            (part.set)(Some(match round {
                0 => json(&own),
                1 => Fault::Body(own.join("&").into_bytes()),
                2 => Fault::Html,
                3 => Fault::Empty,
                4 => elsewhere.clone(),
                5 => Fault::Lost,
                6 => Fault::Status(401, None),
                _ => Fault::Status(429, Some(1)),
            }));
        }
        refresh(&mut garden, &broker, &vendors);
        garden.scan.answer(&broker.admin("GET", "/readyz?verbose"));
        garden.scan.answer(&broker.admin("GET", "/api/status"));
    }
    for part in &parts {
        (part.set)(None);
    }
    for _ in 0..3 {
        refresh(&mut garden, &broker, &names);
    }
    operate(&mut garden, &broker);
    // A reload that is refused, one that changes something, and files that cannot be used.
    let wrong = garden.plant("reloaded");
    broker.reconfigure(&text.replacen(
        "client_id = \"c\"",
        &format!("client_id = \"c\"\nclient_scret = \"{wrong}\""),
        1,
    ));
    garden.scan.look(&format!("{:?}", broker.command(&["reload"])));
    broker.reconfigure(&text.replacen("timeout = \"2s\"", "timeout = \"3s\"", 1));
    broker.signal(Signal::HUP);
    eventually("it is reloaded", || broker.log().contains("\"reloaded\""));
    let rotated = garden.plant("rotated-key");
    let name = config["route"]["t0"]["clients"]["key"]["file"].as_str().unwrap().to_owned();
    write(broker.directory.path(), &name, format!("{rotated}\n"));
    let with = |key: &str| broker.request("t0", "GET", "/", &[("X-Tokenbroker-Key", key)], b"").status;
    eventually("the new key is in force", || with(&rotated) == 200);
    write(broker.directory.path(), &name, format!("{rotated}\n{rotated}\u{1}"));
    eventually("a bad one is told", || broker.log().contains("route.t0.clients.key"));
    for name in ["t2", "covata"] {
        garden.scan.answer(&broker.admin("POST", &format!("/api/tokens/{name}/revoke")));
    }
    garden.scan.look(&broker.admin("GET", "/metrics").text());
    for name in ["cmdline", "maps", "status"] {
        let bytes = std::fs::read(format!("/proc/{}/{name}", broker.pid())).unwrap_or_default();
        garden.scan.look(&String::from_utf8_lossy(&bytes));
    }
    broker.stop();
    mistakes(&mut garden);

    garden.scan.look(&broker.log());
    assert_eq!(collector.bytes().contains("http.request.method"), cfg!(feature = "otlp"));
    garden.scan.look(&collector.bytes());
    for part in &parts {
        garden.scan.secrets.extend(part.issuer.tokens());
        assert!(!part.shown.echo.seen().is_empty());
    }
    // What lies on the disk is sealed; the files that hold secrets are not the broker's.
    for entry in std::fs::read_dir(broker.directory.path().join("store")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "key") {
            garden.scan.look(&String::from_utf8_lossy(&std::fs::read(path).unwrap()));
        }
    }
    let secrets: BTreeSet<_> = garden.scan.secrets.iter().collect();
    println!("{} secrets, {} bytes looked at", secrets.len(), garden.scan.seen.len());
    assert!(garden.planted >= 128 && secrets.len() > garden.planted + 20, "{} {}", garden.planted, secrets.len());
    // They did go where they should, in a form or a field.
    let (asked, sent) = (server.bytes(), upstream.bytes());
    let went = |spelling: &String| asked.contains(spelling) || sent.contains(spelling);
    let used = secrets.iter().filter(|secret| spellings(secret).iter().any(went)).count();
    assert!(used > 50, "{used} of them were used");
    garden.scan.nothing_came_out();
}
