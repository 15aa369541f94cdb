//! An exchange as a command: the same request once more, to the broker, which adds the token.

use std::borrow::Cow;

use crate::telemetry::inspected::{Inspected, Shown};

/// What curl, or the connection, says by itself; and the trace, of which another request is no part, and whose fields are the
/// broker's where it exports spans.
const CURLS_OWN: [&str; 8] =
    ["host", "content-length", "connection", "transfer-encoding", "expect", "keep-alive", "traceparent", "tracestate"];

/// A command for a shell, and the names of the fields that it lacks because they may not be shown.
pub fn command(one: &Inspected) -> (String, Vec<String>) {
    let mut words: Vec<String> = vec!["curl".into()];
    let (origin, own_host) = match one.listen.strip_prefix("unix:") {
        Some(path) => {
            words.extend(["--unix-socket".into(), path.to_owned()]);
            (format!("{}://localhost", one.scheme), "localhost".to_owned())
        }
        None => (format!("{}://{}", one.scheme, one.listen), one.listen.clone()),
    };
    let sent = |name: &str| one.request.iter().find(|field| field.name == name);
    let body = ["POST", "PUT", "PATCH"].contains(&one.method.as_str()) || one.has_body;
    match one.method.as_str() {
        "HEAD" => words.push("--head".into()),
        "GET" if !body => {}
        method => words.extend(["-X".into(), method.to_owned()]),
    }
    let asterisk = one.target == "*";
    if asterisk {
        words.extend(["--request-target".into(), "*".into()]);
    }
    if one.target.contains(['[', ']', '{', '}']) {
        words.push("--globoff".into());
    }
    if one.target.contains("/.") {
        words.push("--path-as-is".into());
    }
    let mut left_out = Vec::new();
    if let Some(host) = sent("host").filter(|host| host.value != own_host) {
        words.extend(["-H".into(), field("Host", &host.value)]);
    }
    for Shown { name, value, masked } in &one.request {
        match masked {
            true => left_out.push(name.clone()),
            false if CURLS_OWN.contains(&name.as_str()) => {}
            false => words.extend(["-H".into(), field(name, value)]),
        }
    }
    if one.target.ends_with('…') {
        left_out.push("the end of the URL".into());
    }
    if body {
        // It would say that the body is a form.
        if sent("content-type").is_none() {
            words.extend(["-H".into(), "content-type:".into()]);
        }
        let data = if one.has_body { ["--data-binary", "@body"] } else { ["-d", ""] };
        words.extend(data.map(str::to_owned));
    }
    words.push(if asterisk { origin } else { origin + &one.target });
    (words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "), left_out)
}

/// As curl wants it: an empty one ends in a semicolon.
fn field(name: &str, value: &str) -> String {
    if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") }
}

/// A word as a shell reads it.
pub fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:@,+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\\''")).into()
}
