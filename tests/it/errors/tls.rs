//! Servers whose TLS fails, as a token server and as an API; and clients of a listener that speaks TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokenbroker::standin::pki::{Clients, Leaf, Pki};
use tokenbroker::standin::{OAuth2, Server};

use super::{Section, logged};
use crate::support::{Broker, HOUR, RUNTIME, Upstream, eventually, issuer, write};

/// A port that says that, whatever it is asked, and ends the connection.
pub(super) fn answering(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 65_536]);
            let _ = stream.write_all(words);
        }
    });
    address
}

#[test]
fn every_failure_of_tls_reads_well() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (pki, stranger) = (Pki::new(directory.path()).unwrap(), Pki::new(elsewhere.path()).unwrap());
    let server = |pki: &Pki, leaf: Leaf<'_>, clients| {
        let tls = pki.server_config(&pki.issue(&leaf).unwrap(), clients).unwrap();
        let oauth = Arc::new(OAuth2::new(issuer(HOUR)));
        RUNTIME.block_on(Server::start(oauth, Some(tls))).unwrap()
    };
    let leaf = Leaf::server;
    let servers = [
        ("expired", server(&pki, Leaf { years: (2020, 2021), ..leaf("expired") }, Clients::None)),
        ("not-yet-valid", server(&pki, Leaf { years: (2098, 2099), ..leaf("not-yet-valid") }, Clients::None)),
        ("other-host", server(&pki, Leaf { hosts: &["other.example"], ..leaf("other-host") }, Clients::None)),
        ("unknown-ca", server(&stranger, leaf("unknown-ca"), Clients::None)),
        ("wants-a-certificate", server(&pki, leaf("wants-a-certificate"), Clients::Must)),
        ("refuses-ours", server(&stranger, leaf("refuses-ours"), Clients::Must)),
    ];
    pki.issue(&Leaf::client("me", 7)).unwrap();
    std::fs::copy(elsewhere.path().join("ca.pem"), directory.path().join("stranger.pem")).unwrap();
    let plain = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closes = answering(b"");
    let mut urls: Vec<_> = servers.iter().map(|(name, server)| (*name, server.url())).collect();
    urls.push(("plain-http", format!("https://{plain}")));
    urls.push(("silent", format!("https://{}", silent.local_addr().unwrap())));
    urls.push(("hangs-up", format!("https://{closes}")));
    urls.push(("tls-at-a-plain-url", servers[0].1.url().replace("https:", "http:")));
    write(directory.path(), "secret", "s");
    let mut config = "[identity.me]\ncert = \"me.pem\"\nkey = \"me.key\"\n".to_owned();
    for (name, url) in &urls {
        let (ca, keys) = match *name {
            "refuses-ours" => ("stranger.pem", "identity = \"me\"\n"),
            _ => ("ca.pem", ""),
        };
        config.push_str(&format!(
            "[token.{name}]\nurl = \"{url}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n\
             timeout = \"4s\"\nca = \"{ca}\"\n{keys}[route.{name}]\nlisten = \"127.0.0.1:0\"\nupstream = \"{url}\"\n\
             token = false\nca = \"{ca}\"\nconnect_timeout = \"3s\"\n{keys}"
        ));
    }
    let broker = Broker::start_in(directory, &config, |_| {});
    let mut section = Section::default();
    for (name, _) in &urls {
        let failed = || broker.token(name)["last_error"].as_str().map(str::to_owned);
        eventually("its token failed", || failed().is_some());
        let reply = broker.get(name, "/");
        let log = match reply.status {
            502 | 504 => logged(&broker, |line| line["route"] == *name && line["listen"].is_null()),
            status => format!("{status}"),
        };
        section.show(&format!("a server: {name}"), &format!("last_error: {}\n{log}", failed().unwrap()));
    }
    listener(&mut section);
    section.is_golden("tls");
}

/// Clients of a route that wants certificates.
fn listener(section: &mut Section) {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(directory.path()).unwrap();
    pki.issue(&Leaf::server("listener")).unwrap();
    let api = Upstream::ok();
    let config = format!(
        "[route.api]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\ntoken = false\n\
         clients = {{ ca = \"ca.pem\", cert = \"listener.pem\", key = {{ file = \"listener.key\" }} }}\n",
        api.url()
    );
    let broker = Broker::start_in(directory, &config, |_| {});
    let _ = crate::support::exchange(broker.address("api"), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let log = logged(&broker, |line| line["message"].as_str().is_some_and(|text| text.contains("was refused")));
    section.show("plain HTTP to a listener with TLS", &log);
}
