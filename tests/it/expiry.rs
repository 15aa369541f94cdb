use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokenbroker::clock::Clock;
use tokenbroker::standin::pki::{Leaf, Pki};

use crate::exchange::OAuth;
use crate::support::{Broker, eventually, write};

const HOUR: Duration = Duration::from_secs(3600);

/// In so many days and an hour, in Unix seconds.
fn in_days(days: i64) -> i64 {
    Clock::system().now().wall.as_second() + days * 24 * 3600 + 3600
}

fn written(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap().to_string()
}

/// A CA and a client certificate that end in so many days.
fn certificates(directory: &Path, ca: i64, client: i64) {
    let unix = |days| Some(u64::try_from(in_days(days)).unwrap());
    let pki = Pki::until(directory, unix(ca)).unwrap();
    pki.issue(&Leaf { end: unix(client), ..Leaf::client("client", 0x1234) }).unwrap();
}

const FAR: &str = "[identity.me]\ncert = \"client.pem\"\nkey = \"client.key\"\n\
     [route.far]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\ntoken = false\nidentity = \"me\"\nca = \"ca.pem\"\n\
     [route.further]\nlisten = \"127.0.0.1:0\"\nupstream = \"https://api.example.com\"\ntoken = false\nca = \"ca.pem\"\n";

/// How often the log says it, as a warning.
fn said(broker: &Broker, words: &str) -> usize {
    broker.log().lines().filter(|line| line.contains("\"WARN\"") && line.contains(words)).count()
}

#[test]
fn what_ends_soon_is_in_status_in_metrics_and_once_in_the_log_and_in_no_metric_once_it_is_gone() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    certificates(directory.path(), 20, 5);
    let end = in_days(12);
    let config = format!("{}{FAR}", oauth.config(&format!("secret_expires = {}", written(end)), ""));
    let mut broker = Broker::start_in(directory, &config, |_| {});
    broker.wait_for_state("api", "valid");
    let lines = [
        "the client certificate of identity.me ends very soon, in 5 days (subject CN=client, serial 12:34, ",
        "the client secret of token.api ends soon, in 12 days (",
        "/ca.pem ends in 20 days (subject CN=tokenbroker stand-in CA, ",
    ];
    eventually("it is said", || lines.iter().all(|line| said(&broker, line) == 1));
    broker.logs("; make a new one at the vendor, and put it");

    let status = broker.status();
    let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    assert_eq!(at(&status["tokens"]["api"]["secret_expires_at"]), end);
    let all: Vec<_> = status["expiring"].as_array().unwrap().iter().collect();
    let tables: Vec<_> =
        all.iter().map(|one| (one["table"].as_str().unwrap(), one["days_left"].as_i64().unwrap())).collect();
    assert_eq!(tables, [("identity.me", 5), ("token.api", 12), ("route.far", 20), ("route.further", 20)]);
    let (code, text, _) = broker.command(&["status"]);
    assert!(code == 0 && lines.iter().all(|line| text.contains(line)), "{text}");

    let secret = "tokenbroker_secret_expiry_timestamp_seconds{token=\"api\"} ";
    let identity = "tokenbroker_certificate_expiry_timestamp_seconds{identity=\"me\"} ";
    let ca = |route: &str| format!("tokenbroker_ca_expiry_timestamp_seconds{{table=\"route.{route}\"}} ");
    assert_eq!(broker.metric(secret), end as f64);
    assert_eq!(broker.metric(identity), at(&all[0]["expires_at"]) as f64);
    assert_eq!(broker.metric(&ca("far")), broker.metric(&ca("further")));

    let (code, _, warnings) = broker.command(&["check"]);
    assert_eq!(code, 0);
    for (line, key) in lines.iter().zip([": identity.me.cert: ", ": token.api.secret_expires: ", ": route.far.ca: "]) {
        assert!(warnings.lines().any(|warning| warning.contains(line) && warning.contains(key)), "{warnings}");
    }

    // A reload says nothing again; what it removed is gone.
    assert_eq!(broker.reload().0, 0);
    broker.reconfigure(&format!("{}{}", oauth.config("", ""), FAR.replace("identity = \"me\"\nca = \"ca.pem\"", "")));
    assert_eq!(broker.reload().0, 0);
    assert!(broker.status()["tokens"]["api"]["secret_expires_at"].is_null());
    let metrics = broker.admin("GET", "/metrics").text();
    assert!(!metrics.contains(secret) && !metrics.contains(&ca("far")), "{metrics}");
    assert!(metrics.contains(identity) && metrics.contains(&ca("further")), "{metrics}");
    broker.reconfigure(&oauth.config("", ""));
    assert_eq!(broker.reload().0, 0);
    let metrics = broker.admin("GET", "/metrics").text();
    assert!(!metrics.contains("{identity=") && !metrics.contains("{table="), "{metrics}");
    assert!(lines.iter().all(|line| said(&broker, line) == 1), "once");
}

#[test]
fn what_ends_later_is_known_and_not_warned_about() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    certificates(directory.path(), 32, 90);
    write(directory.path(), "second", "other");
    let two = format!("secret_expires = [{}, 2099-01-31]", &written(in_days(40))[..10]);
    let secrets = "client_secret = [{ file = \"secret\" }, { file = \"second\" }]";
    let config = oauth.config(&two, "").replace("client_secret = { file = \"secret\" }", secrets);
    let broker = Broker::start_in(directory, &format!("{config}{FAR}"), |_| {});
    broker.wait_for_state("api", "valid");
    let status = broker.status();
    assert_eq!(status["expiring"].as_array().unwrap().len(), 5);
    let in_use = status["tokens"]["api"]["secret_expires_at"].as_str().unwrap();
    assert_eq!(in_use, format!("{}T00:00:00.000Z", &written(in_days(40))[..10]), "that of the secret in use");
    let (_, text, _) = broker.command(&["status"]);
    assert!(["secret", "certificate"].iter().all(|what| !text.contains(what)), "nothing to do yet: {text}");
    assert!(!broker.command(&["check"]).2.contains("ends"));
    assert_eq!(said(&broker, "ends"), 0);
}

#[test]
fn a_certificate_that_comes_in_the_place_of_another_is_the_one_that_is_shown() {
    let oauth = OAuth::start(HOUR);
    let directory = oauth.directory();
    certificates(directory.path(), 9, 3);
    let broker = Broker::start_in(directory, &format!("{}{FAR}", oauth.config("", "")), |_| {});
    let days = |kind: usize| broker.status()["expiring"][kind]["days_left"].as_i64();
    assert_eq!((days(0), days(1)), (Some(3), Some(9)));
    certificates(broker.directory.path(), 400, 200);
    eventually("the new ones are shown", || (days(0), days(1)) == (Some(200), Some(400)));
    let end = broker.metric("tokenbroker_ca_expiry_timestamp_seconds{table=\"route.far\"} ");
    assert!((end - in_days(400) as f64).abs() < 60.0);
}
