//! The configuration that the flags of `try` make, and what is wrong with it in the words of the flags. Security: what stands on
//! a command line can be read by others, so no secret may.

use std::path::Path;

use serde_json::Value as Json;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::Args;
use crate::config::{Problem, Report, schema};
use crate::oauth::builtin;
use crate::oauth::file::{ClientAuth, Grant};
use crate::secret::Secret;

/// Of the token, the route and the identity.
pub(super) const NAME: &str = "api";

/// Which flag leads to which key of which table.
const FLAGS: [(&str, &str); 11] = [
    ("route.api.upstream", "URL"),
    ("route.api.listen", "--listen"),
    ("token.api.client_id", "--client-id"),
    ("token.api.url", "--token-url"),
    ("token.api.dialect", "--dialect"),
    ("token.api.grant", "--grant"),
    ("token.api.scope", "--scope"),
    ("token.api.authorize_url", "--authorize-url"),
    ("token.api.redirect_uri", "--redirect-uri"),
    ("identity.api.cert", "--cert"),
    ("identity.api.key", "--key"),
];

/// A session's configuration, in which secrets may still be missing.
#[derive(Default)]
pub(super) struct Draft {
    pub store: Table,
    identity: Table,
    pub token: Table,
    pub route: Table,
    /// Keys of the token whose values do not come from a flag.
    pub lacking: Vec<Vec<String>>,
    pub grant: String,
}

impl Draft {
    /// Every flag that cannot be used is an error, a line each.
    pub(super) fn of(args: &Args) -> Result<Self, Vec<String>> {
        let mut draft = Self::default();
        let mut wrong = Vec::new();
        draft.route.extend([
            ("listen".to_owned(), Value::from(args.listen.as_deref().unwrap_or("127.0.0.1:0"))),
            ("upstream".to_owned(), Value::from(args.url.as_str())),
        ]);
        let grant = args.grant.clone().or_else(|| args.login.then(|| Grant::AuthorizationCode.as_str().to_owned()));
        for (key, given) in [
            ("dialect", args.dialect.clone()),
            ("grant", grant),
            ("url", args.token_url.clone()),
            ("authorize_url", args.authorize_url.clone()),
            ("redirect_uri", args.redirect_uri.clone()),
            ("client_id", args.client_id.clone()),
            ("identity", args.cert.as_ref().map(|_| NAME.to_owned())),
        ] {
            draft.token.extend(given.map(|given| (key.to_owned(), Value::from(given))));
        }
        if !args.scope.is_empty() {
            draft.token.insert("scope".to_owned(), Value::from(args.scope.clone()));
        }
        for (key, given) in [("cert", &args.cert), ("key", &args.key)] {
            draft.identity.extend(given.as_deref().map(|path| (key.to_owned(), Value::from(absolute(path)))));
        }
        wrong.extend(args.set.iter().filter_map(|set| draft.set(set).err()));
        draft.learn();
        if args.login && draft.grant != Grant::AuthorizationCode.as_str() {
            wrong.push(format!("--login: nobody logs in for the grant {}: leave out one of them", draft.grant));
        }
        if wrong.is_empty() { Ok(draft) } else { Err(wrong) }
    }

    /// `KEY=VALUE` of `--set`.
    fn set(&mut self, set: &str) -> Result<(), String> {
        let (key, text) = set.split_once('=').unwrap_or((set, ""));
        let (table, name, rest) = match key.strip_prefix("route.") {
            Some(rest) => (&mut self.route, "route", rest),
            None => (&mut self.token, "token", key),
        };
        let steps: Vec<_> = rest.split('.').collect();
        let bare =
            |step: &&str| !step.is_empty() && step.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if text.is_empty() || !steps.iter().all(bare) {
            return Err("--set: is written KEY=VALUE, such as --set params.audience=https://api.example.com".to_owned());
        }
        let path: Vec<_> = [name, NAME].into_iter().chain(steps.iter().copied()).collect();
        let places = schema::at(&path);
        let value = value(key, text, &places)?;
        let (last, above) = steps.split_last().unwrap_or((&"", &[]));
        let mut table = Some(table);
        for step in above {
            let next = table.and_then(|table| table.entry(*step).or_insert_with(|| Table::new().into()).as_table_mut());
            table = next;
        }
        match table.map(|table| table.insert((*last).to_owned(), value)) {
            Some(None) => Ok(()),
            _ => Err(format!("--set {key}: is given twice")),
        }
    }

    /// Which grant it is, and which secrets are missing for it: what the dialect says that it needs decides.
    fn learn(&mut self) {
        let text = |key: &str| self.token.get(key).and_then(Value::as_str);
        let dialect = builtin::built_in(text("dialect").unwrap_or("oauth2"));
        let own = dialect.as_ref().and_then(|dialect| dialect.grant).unwrap_or(Grant::ClientCredentials);
        self.grant = text("grant").unwrap_or(own.as_str()).to_owned();
        let needs = dialect.as_ref().map(|dialect| dialect.needs.clone()).unwrap_or_default();
        let auth = match text("client_auth") {
            Some(auth) => auth.starts_with("client_secret"),
            None => dialect
                .as_ref()
                .and_then(|dialect| dialect.client_auth)
                .is_none_or(|auth| matches!(auth, ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost)),
        };
        let is = |grant: Grant| self.grant == grant.as_str();
        let named = [
            ("client_secret", (auth || needs.iter().any(|need| need == "client_secret")) && !is(Grant::Static)),
            ("password", is(Grant::Password)),
            ("refresh_token", is(Grant::RefreshToken)),
            ("access_token", is(Grant::Static)),
        ];
        let mut wanted: Vec<String> =
            named.into_iter().filter(|(_, wanted)| *wanted).map(|(key, _)| key.into()).collect();
        let held = |need: &&String| (need.starts_with("headers.") || need.starts_with("params.")) && secretive(need);
        wanted.extend(needs.iter().filter(held).filter(|_| !is(Grant::Static)).cloned());
        let missing = |key: &String| {
            let mut steps = key.split('.');
            let first = steps.next().and_then(|step| self.token.get(step));
            steps.fold(first, |value, step| value?.get(step)).is_none()
        };
        let steps = |key: String| key.split('.').map(str::to_owned).collect();
        self.lacking = wanted.into_iter().filter(missing).map(steps).collect();
    }

    /// Where it is the client's secret that nobody has, the client is one without.
    pub(super) fn may_be_public(&mut self, key: &[String]) -> bool {
        let public = key == ["client_secret"] && !self.token.contains_key("client_auth");
        if public {
            self.token.insert("client_auth".to_owned(), Value::from("none"));
            self.lacking.retain(|lacking| lacking != key);
        }
        public
    }

    /// The file, with that in the place of each secret that no flag names.
    pub(super) fn text(&self, secret: impl Fn(&[String]) -> Value) -> Zeroizing<String> {
        let mut token = self.token.clone();
        for key in &self.lacking {
            match key.as_slice() {
                [table, name] => {
                    let table = token.entry(table.as_str()).or_insert_with(|| Table::new().into()).as_table_mut();
                    table.map(|table| table.insert(name.clone(), secret(key)));
                }
                _ => drop(token.insert(key.concat(), secret(key))),
            }
        }
        let mut text = Zeroizing::new(String::new());
        let tables = [
            ("store", &self.store),
            ("identity.api", &self.identity),
            ("token.api", &token),
            ("route.api", &self.route),
        ];
        for (name, table) in tables.into_iter().filter(|(_, table)| !table.is_empty()) {
            text.push_str(&format!("[{name}]\n"));
            for (key, value) in table {
                text.push_str(&Zeroizing::new(format!("{key} = {value}\n")));
            }
            text.push('\n');
        }
        text
    }

    /// What is wrong with it, a line each.
    pub(super) fn problems(&self, report: &Report) -> Vec<String> {
        report.problems.iter().map(|problem| self.line(problem)).collect()
    }

    /// What is odd about it. That a secret stands in the file is not: there is none, or it has only what a person named.
    pub(super) fn warnings(&self, report: &Report) -> Vec<String> {
        let all = report.warnings.iter().chain(&report.ending);
        let told = all.filter(|problem| problem.key != "token.api.grant" && !problem.problem.ends_with("in this file"));
        told.map(|problem| self.line(problem)).collect()
    }

    fn line(&self, problem: &Problem) -> String {
        let missing = problem.problem.split('`').nth(1).filter(|_| problem.key == "token.api");
        if let Some(key) = missing {
            let what = match key {
                "identity" => "--cert and --key are missing".to_owned(),
                key => format!("{} is missing", self.flag(&format!("token.api.{key}"))),
            };
            return format!("{what}: {}", problem.problem);
        }
        let what = self.flag(&problem.key);
        let colon = if what.is_empty() { "" } else { ": " };
        let semicolon = if problem.hint.is_empty() { "" } else { "; " };
        format!("{what}{colon}{}{semicolon}{}", problem.problem, problem.hint)
    }

    fn flag(&self, key: &str) -> String {
        let at = |known: &str| key == known || key.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'));
        if let Some((_, flag)) = FLAGS.iter().find(|(known, _)| at(known)) {
            return (*flag).to_owned();
        }
        let key = key.strip_prefix("token.api").map_or(key, |rest| rest.trim_start_matches('.'));
        match key.strip_prefix("route.api.") {
            Some(key) => format!("--set route.{key}"),
            None if self.lacking.iter().any(|lacking| lacking.join(".") == key) || key.is_empty() => key.to_owned(),
            None => format!("--set {key}"),
        }
    }
}

/// The value of a key: text where text may stand, else TOML.
fn value(key: &str, text: &str, places: &[&Json]) -> Result<Value, String> {
    let is_secret = places.iter().any(|place| place.pointer("/properties/env").is_some());
    let takes = |kind: &str| places.iter().any(|place| schema::fits(place, kind));
    if takes("object") && !is_secret {
        return Err(format!("--set {key}: this is a table: name the key in it, as in {key}.NAME=VALUE"));
    }
    let structured = text.starts_with('{') && takes("object") || text.starts_with('[') && takes("array");
    let mut value = if structured || !(takes("string") || places.is_empty()) {
        let parsed = format!("v = {text}").parse::<Table>().ok().filter(|table| table.len() == 1);
        parsed.and_then(|mut table| table.remove("v")).ok_or_else(|| unreadable(key))?
    } else {
        Value::from(text)
    };
    let shown = value.is_str() || value.as_array().is_some_and(|all| all.iter().any(Value::is_str));
    if is_secret && shown && secretive(key) {
        return Err(format!(
            "--set {key}: a secret does not belong on a command line, where others can read it; say where it is read from: \
             --set {key}.file=PATH, --set {key}.env=NAME"
        ));
    }
    resolve(&mut value, matches!(key.rsplit('.').next(), Some("file" | "ca")));
    Ok(value)
}

/// Paths start at the directory of this process, wherever the configuration is kept.
fn resolve(value: &mut Value, is_path: bool) {
    match value {
        Value::String(path) if is_path => *path = absolute(Path::new(path)),
        Value::Array(all) => all.iter_mut().for_each(|one| resolve(one, false)),
        Value::Table(table) => table.iter_mut().for_each(|(key, value)| resolve(value, key == "file")),
        _ => {}
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn unreadable(key: &str) -> String {
    format!(
        "--set {key}: this value is written as in TOML: a number, true or false, [\"a\", \"list\"] or {{ file = \"…\" }}"
    )
}

/// Does the name of this key say that it holds a secret?
fn secretive(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    let words =
        ["secret", "password", "passwd", "token", "key", "auth", "credential", "assertion", "signature", "cookie"];
    words.iter().any(|word| name.contains(word))
}

/// The value of a secret that was asked for, as it stands in the file of this process's memory.
pub(super) fn inline(secret: &Secret) -> Value {
    Value::from(secret.expose())
}
