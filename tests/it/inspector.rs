use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Action, Broker, Upstream, Wire, call, eventually, has, output, static_route, with_static_token};

/// With the inspector on. [`Broker`]'s own head is the table `[admin]`, which goes on here.
fn looking(config: &str) -> Broker {
    let broker = Broker::start(&format!("inspector = true\n{config}"));
    broker.wait_for_state("api", "valid");
    broker
}

fn requests(broker: &Broker) -> Vec<Value> {
    broker.admin("GET", "/api/requests").json()["requests"].as_array().unwrap().clone()
}

/// What is shown of the values of a field.
fn value(fields: &Value, name: &str) -> Vec<String> {
    let fields = fields.as_array().unwrap().iter();
    fields.filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_is_kept_unless_somebody_asked_for_it() {
    let upstream = Upstream::ok();
    let broker = with_static_token(&upstream, "");
    assert_eq!(broker.get("api", "/").status, 200);
    assert_eq!(broker.admin("GET", "/api/requests").json(), json!({ "inspector": false, "requests": [] }));
    assert_eq!(broker.status()["inspector"], false);
}

#[test]
fn the_last_hundred_exchanges_are_shown_the_newest_first() {
    let upstream = Upstream::start(|request| match request.line().split(' ').nth(1).unwrap() {
        "/close" => Action::Close,
        "/101" => Action::Last(b"HTTP/1.1 101 Switching Protocols\r\nX-Odd: yes\r\n\r\n".to_vec()),
        _ => Action::Reply(b"HTTP/1.1 201 Created\r\nX-Answer: yes\r\nContent-Length: 2\r\n\r\nok".to_vec()),
    });
    // One worker: its idle connections are everybody's.
    let limits = "[limits]\nthreads = 1\n";
    let broker = looking(&(static_route(&upstream, "paths = [\"/a\", \"/close\", \"/101\"]") + limits));
    for number in 0..120 {
        assert_eq!(broker.get("api", &format!("/a/{number}")).status, 201);
    }
    let all = requests(&broker);
    assert_eq!(all.len(), 100);
    assert_eq!((&all[0]["target"], &all[99]["target"]), (&"/a/119".into(), &"/a/20".into()));
    let one = &all[0];
    assert_eq!((&one["method"], &one["status"], &one["origin"]), (&"GET".into(), &201.into(), &"upstream".into()));
    assert_eq!((&one["route"], &one["retries"]), (&"api".into(), &0.into()));
    assert!(one["milliseconds"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (value(&one["response"], "x-answer"), &one["added"]),
        (vec!["yes".to_owned()], &json!(["authorization"]))
    );
    // What the broker answers itself.
    assert_eq!(broker.get("api", "/elsewhere").status, 403);
    let one = &requests(&broker)[0];
    assert_eq!((&one["status"], &one["origin"], &one["added"]), (&403.into(), &"broker".into(), &json!([])));
    assert!(value(&one["response"], "proxy-status")[0].contains("path_refused"), "{one}");
    assert_eq!(broker.request("api", "POST", "/close", &[], b"x").status, 502);
    assert_eq!((&requests(&broker)[0]["status"], &requests(&broker)[0]["origin"]), (&502.into(), &"broker".into()));
    // And where the API's answer cannot be passed on.
    assert_eq!(broker.get("api", "/101").status, 502);
    let one = &requests(&broker)[0];
    assert_eq!((&one["status"], value(&one["response"], "x-odd")), (&502.into(), vec![]));
    // A connection that was idle and is gone: sent again once.
    assert_eq!(broker.get("api", "/a").status, 201);
    assert_eq!(broker.get("api", "/close").status, 502);
    assert_eq!(requests(&broker)[0]["retries"], 1);
}

#[test]
fn an_exchange_that_is_too_long_to_be_kept_is_cut_and_says_so() {
    let upstream = Upstream::ok();
    let broker = looking(&static_route(&upstream, ""));
    let (target, long) = (format!("/{}", "p".repeat(9000)), "x".repeat(3000));
    let fields: Vec<_> = ["X-A", "X-B", "X-C", "X-D", "X-E"].map(|name| (name, long.as_str())).to_vec();
    assert_eq!(broker.request("api", "GET", &target, &fields, b"").status, 200);
    let one = &requests(&broker)[0];
    assert!(one.to_string().len() < 24 * 1024, "{}", one.to_string().len());
    assert!(one["target"].as_str().unwrap().ends_with("pp…"));
    let names: Vec<_> = one["request"].as_array().unwrap().iter().map(|field| field[0].as_str().unwrap()).collect();
    assert_eq!(names, ["host", "connection", "x-a", "x-b", "…"]);
    assert_eq!(one["left_out"], json!(["…", "the end of the URL"]));
}

#[test]
fn a_client_that_went_before_the_answer_is_shown_as_such() {
    let upstream = Upstream::start(|_| {
        Action::Take(Box::new(|mut stream| {
            let _ = std::io::Read::read(&mut stream, &mut [0]);
        }))
    });
    let broker = looking(&static_route(&upstream, ""));
    let mut wire = Wire::open(broker.address("api"));
    wire.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("it is on its way", || !upstream.requests().is_empty());
    drop(wire);
    eventually("it is shown", || requests(&broker).len() == 1);
    let one = &requests(&broker)[0];
    assert_eq!((&one["status"], &one["origin"]), (&Value::Null, &Value::Null));
}

#[test]
fn no_secret_is_shown_wherever_it_stands() {
    let secret = "s3cr3t-canary";
    let upstream = Upstream::start(move |request| {
        let token = request.one("authorization").unwrap_or_default().replace("Bearer ", "");
        Action::Reply(
            format!(
                "HTTP/1.1 302 Found\r\nSet-Cookie: a={secret}\r\nX-Session-Id: {secret}\r\n\
                 Location: https://u:{secret}@elsewhere.example/cb?code={secret}&state={secret}#access_token={secret}\r\n\
                 Link: <https://elsewhere.example/?page={secret}>; rel=next\r\nX-Echo: of {token} a part\r\n\
                 X-Plain: shown\r\nContent-Length: 13\r\n\r\n{secret}"
            )
            .into_bytes(),
        )
    });
    let token = "the-access-token-canary";
    let config =
        static_route(&upstream, "headers = { X-Extra = { file = \"extra\" } }\nformat = \"Bearer {access_token}\"");
    let directory = tempfile::tempdir().unwrap();
    crate::support::write(directory.path(), "extra", "extra-canary");
    let config = format!("inspector = true\n{}", config.replace("\"the-token\"", &format!("\"{token}\"")));
    let broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("api", "valid");
    let bearer = format!("Bearer {secret}");
    let fields = [
        ("Authorization", bearer.as_str()),
        ("Proxy-Authorization", secret),
        ("Cookie", secret),
        ("X-Tokenbroker-Key", secret),
        ("X-Api-Key", secret),
        ("X_Auth", secret),
        ("X-Extra", secret),
        ("X-Custom", "Basic czNjcjN0LWNhbmFyeQ=="),
        ("Referer", "https://h.example/?q=s3cr3t-canary"),
        ("X-Of-Ours", "has the-access-token-canary in it"),
        ("X-Of-Extra", "has extra-canary in it"),
        ("X-Jwt-Less", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzM2NyM3QifQ."),
        ("OK-ACCESS-PASSPHRASE", secret),
        ("Sec-WebSocket-Protocol", "access_token, s3cr3t-canary"),
        ("X-Ticket", secret),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("Tracestate", "vendor=1"),
        ("X-Plain", "shown"),
    ];
    let target = format!(
        "/path;jsessionid={secret}?q={secret}&empty=&{secret}&a=1;b={secret}&czNjcjN0LWNhbmFyeQ=&eyJhbGciOi.e30.c2ln=1"
    );
    // The token itself as a name.
    assert_eq!(call(broker.address("api"), "GET", &format!("/path?{token}=1"), &[], b"").status, 302);
    let reply = call(broker.address("api"), "POST", &target, &fields, secret.as_bytes());
    assert_eq!(reply.status, 302);
    let text = broker.admin("GET", "/api/requests").text();
    for canary in [secret, token, "extra-canary", "czNjcjN0", "eyJ", "the-access-token"] {
        assert!(!text.contains(canary), "{canary}: {text}");
    }
    let one = &requests(&broker)[0];
    assert_eq!(one["target"], "/path;jsessionid=***?q=***&empty=&***&a=***;b=***&***&***=***");
    assert_eq!(requests(&broker)[1]["target"], "/***");
    assert_eq!(
        (value(&one["request"], "x-plain"), value(&one["response"], "x-plain")),
        (vec!["shown".to_owned()], vec!["shown".to_owned()])
    );
    assert_eq!(value(&one["request"], "referer"), ["https://h.example/?q=***"]);
    assert_eq!(value(&one["request"], "cookie"), ["***"]);
    assert_eq!(one["added"], json!(["authorization", "x-extra"]));
    let left_out: Vec<_> = one["left_out"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(left_out.contains(&"authorization") && left_out.contains(&"cookie"), "{left_out:?}");
    let curl = one["curl"].as_str().unwrap();
    assert!(curl.contains("-H 'x-plain: shown'"), "{curl}");
    assert!(!curl.contains("trace"), "a repeat is of no trace: {curl}");
}

/// Runs the command that the last exchange is shown as; the two requests as the API got them.
fn repeated(broker: &Broker, upstream: &Upstream) -> [String; 2] {
    let command = requests(broker)[0]["curl"].as_str().unwrap().to_owned();
    let run = command.replacen("curl", "curl -sS --max-time 15 -o /dev/null", 1);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("body"), "the body").unwrap();
    output(Command::new("sh").args(["-c", &run]).current_dir(directory.path()));
    let all = upstream.requests();
    let shown = |request: &crate::support::RawRequest| {
        let own = ["x-tokenbroker-hop", "accept", "user-agent"];
        let kept = |line: &&str| {
            !own.iter().any(|name| line.to_lowercase().starts_with(&format!("{name}: */*")))
                && !line.to_lowercase().starts_with("x-tokenbroker-hop")
                && !line.to_lowercase().starts_with("user-agent: curl")
        };
        let mut lines: Vec<_> = request.head.trim_end().lines().skip(1).filter(kept).collect();
        lines.sort_unstable();
        format!("{}\n{}\n\n{}", request.line(), lines.join("\n"), String::from_utf8_lossy(&request.body))
    };
    let [.., first, second] = &all[..] else { panic!("{command}: {} requests", all.len()) };
    [shown(first), shown(second)]
}

#[test]
fn the_command_sends_the_same_request_through_the_broker() {
    if !has("curl") {
        return;
    }
    let upstream = Upstream::ok();
    let broker = looking(&static_route(&upstream, ""));
    let address = broker.address("api");
    for (method, target, fields, body) in [
        ("GET", "/", &[][..], ""),
        ("GET", "/it's/$HOME/$(id)/!;&*", &[("X-Quote", "it's \"$HOME\" `id` !! \\"), ("Accept", "text/plain")], ""),
        ("GET", "/[1-3]/{a,b}/../%2e%2e/x", &[("X-Empty", ""), ("X-Twice", "1"), ("X-Twice", "2")], ""),
        ("HEAD", "/head", &[("Accept-Language", "de, en;q=0.5")], ""),
        ("POST", "/empty?a=&b=", &[("Content-Length", "0")], ""),
        ("PUT", "/put", &[("Content-Type", "application/json")], "the body"),
        ("DELETE", "/thing/1", &[("If-Match", "\"x\"")], ""),
        ("PATCH", "/patch", &[], "the body"),
        ("OPTIONS", "/thing", &[], ""),
        ("PROPFIND", "/dav/", &[("Depth", "1")], ""),
    ] {
        assert_eq!(call(address, method, target, fields, body.as_bytes()).status, 200, "{method} {target}");
        let [first, second] = repeated(&broker, &upstream);
        assert_eq!(first, second, "{method} {target}: {}", requests(&broker)[0]["curl"]);
    }
    // The command for an empty POST is the one that people know.
    call(address, "POST", "/", &[("Content-Length", "0"), ("Content-Type", "text/plain")], b"");
    let command = format!("curl -X POST -H 'content-type: text/plain' -d '' http://{address}/");
    assert_eq!(requests(&broker)[0]["curl"], command);
}

#[test]
fn the_command_finds_a_unix_socket_and_a_route_with_a_host_of_its_own() {
    if !has("curl") {
        return;
    }
    let upstream = Upstream::ok();
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("it's")).unwrap();
    let socket = directory.path().join("it's/api.sock");
    let unix = static_route(&upstream, "").replace("127.0.0.1:0", &format!("unix:{}", socket.display()));
    let named =
        static_route(&upstream, "host = \"api.localhost\"\ntoken = \"api\"").replace("route.api", "route.named");
    let named = &named[named.find("[route.").unwrap()..];
    let broker = Broker::start_in(directory, &format!("inspector = true\n{unix}{named}"), |_| {});
    broker.wait_for_state("api", "valid");
    let ask = |host: &str, url: &str| {
        output(
            Command::new("curl").args(["-sS", "--max-time", "15", "-H", host, "--unix-socket"]).arg(&socket).arg(url),
        );
    };
    ask("X-A: 1", "http://localhost/over/unix");
    let [first, second] = repeated(&broker, &upstream);
    assert_eq!(first, second);
    let port = broker.address("named").port();
    let reply = Wire::open(broker.address("named"))
        .send(format!("GET /named HTTP/1.1\r\nHost: api.localhost:{port}\r\nConnection: close\r\n\r\n"))
        .reply("GET")
        .unwrap();
    assert_eq!(reply.status, 200);
    let [first, second] = repeated(&broker, &upstream);
    assert_eq!(first, second);
}
