//! `client`: client applications at the vendor, where its dialect has requests for them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::alone::Alone;
use super::login::no_token;
use super::{Cli, block_on, complain, print, stdin};
use crate::config::{Config, Token};
use crate::oauth::file::Grant;
use crate::oauth::manage::Item;
use crate::secret::Secret;
use crate::token::clients::Clients;
use crate::units::duration;

/// What vendors give in one page, and how many pages are asked for.
const PAGE: u64 = 100;
const PAGES_MAX: u64 = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read the access token of a person who may do this from stdin, where the token's own may not
    #[arg(long, global = true)]
    admin_token_stdin: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One on each line, as JSON
    List {
        /// A token of somebody who may see them
        token: String,
        /// At most so many; all when not given
        #[arg(long)]
        limit: Option<u64>,
        /// Leave out so many
        #[arg(long)]
        offset: Option<u64>,
        /// By this field, as the vendor calls it
        #[arg(long, value_name = "FIELD")]
        sort: Option<String>,
        /// The last one first
        #[arg(long)]
        desc: bool,
        /// With their secrets, where the vendor tells them
        #[arg(long)]
        show_secrets: bool,
    },
    /// Make another one
    Register(Box<Register>),
    /// Remove one
    Delete {
        /// A token of somebody who may remove it
        token: String,
        /// Its id, as `list` has it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct Register {
    /// A token of somebody who may make one
    token: String,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// Its client id; made when not given
    #[arg(long)]
    id: Option<String>,
    /// What it may do, such as password,refresh_token; what this token does when not given
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    grants: Vec<String>,
    /// Where a login may come back to
    #[arg(long, value_name = "U")]
    redirect_uri: Vec<String>,
    /// How long its access tokens live; 1h when not given
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    access_ttl: Option<u64>,
    /// How long its refresh tokens live; 30d when not given
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    refresh_ttl: Option<u64>,
    /// Write its secret into this new private file, and not to stdout
    #[arg(long, value_name = "FILE")]
    secret_to: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<u64, String> {
    duration(text).map(|span| span.as_secs()).map_err(str::to_owned)
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let token = match &args.command {
        Command::List { token, .. } | Command::Delete { token, .. } => token,
        Command::Register(register) => &register.token,
    };
    let vendor = match cli.load() {
        Ok((_, _, config, _)) => Vendor::new(cli, config, token, args.admin_token_stdin),
        Err(code) => return code,
    };
    let done = vendor.and_then(|vendor| match &args.command {
        Command::List { limit, offset, sort, desc, show_secrets, .. } => {
            let (sort, descending, show_secrets) = (sort.clone(), *desc, *show_secrets);
            let wanted =
                Clients { limit: *limit, offset: *offset, sort, descending, show_secrets, ..Clients::default() };
            let items = vendor.pages(&wanted)?;
            Ok(print(&items.iter().map(|item| format!("{}\n", json!(item))).collect::<String>()))
        }
        Command::Register(register) => vendor.register(register),
        Command::Delete { id, .. } => vendor.delete(id),
    });
    done.unwrap_or_else(|text| {
        complain(&text);
        ExitCode::FAILURE
    })
}

/// Whom the requests go to, through the running broker if there is one.
struct Vendor<'c> {
    cli: &'c Cli,
    token: Arc<Token>,
    admin_token: Option<Zeroizing<String>>,
}

impl<'c> Vendor<'c> {
    fn new(cli: &'c Cli, config: Config, token: &str, admin: bool) -> Result<Self, String> {
        let token = config.tokens.get(token).cloned().ok_or_else(|| no_token(token, &config))?;
        let admin_token = if admin { Some(stdin("access token")?) } else { None };
        Ok(Self { cli, token, admin_token })
    }

    /// Does the dialect's request say where that goes?
    fn places(&self, verb: &str, name: &str) -> bool {
        self.token.dialect.clients.get(verb).is_some_and(|managed| managed.request.places(name))
    }

    fn ask(&self, verb: &str, asked: &Clients) -> Result<Vec<Item>, String> {
        let asked = Clients { admin_token: self.admin_token.clone(), ..asked.clone() };
        let name = &self.token.name;
        let gone = || "the configuration cannot be read any more".to_owned();
        let operator = self.cli.operator().map_err(|_| gone())?;
        if operator.runs() {
            let path = format!("/api/clients/{name}/{verb}");
            let answer = operator.post(&path, Some(&json!(asked))).map_err(|e| e.text)?;
            let mut answer: Value = serde_json::from_str(&answer.body).map_err(|_| "the broker's answer is cut off")?;
            return serde_json::from_value(answer["items"].take())
                .map_err(|_| "the broker's answer is not understood: is it of another version?".to_owned());
        }
        let (_, _, config, _) = self.cli.load().map_err(|_| gone())?;
        block_on(async { Box::pin(Alone::open(config, name).await?.clients(verb, &asked)).await })?
    }

    /// As many pages as it takes: a vendor may give none where no number is asked for, and 100 at most.
    fn pages(&self, wanted: &Clients) -> Result<Vec<Item>, String> {
        let limit = wanted.limit.unwrap_or(u64::MAX);
        if !self.places("list", "limit") {
            let (skipped, taken) = (wanted.offset.unwrap_or(0) as usize, limit as usize);
            return Ok(self.ask("list", wanted)?.into_iter().skip(skipped).take(taken).collect());
        }
        let mut all: Vec<Item> = Vec::new();
        for _ in 0..PAGES_MAX {
            let (had, size) = (all.len() as u64, PAGE.min(limit - all.len() as u64));
            if size == 0 {
                break;
            }
            let offset = Some(wanted.offset.unwrap_or(0) + had);
            let page = self.ask("list", &Clients { limit: Some(size), offset, ..wanted.clone() })?;
            // One that does not know `offset` gives the same again.
            let last = (page.len() as u64) < size || page.first().is_some_and(|first| all.contains(first));
            if page.first().is_none_or(|first| !all.contains(first)) {
                all.extend(page);
            }
            if last {
                break;
            }
        }
        Ok(all)
    }

    fn register(&self, register: &Register) -> Result<ExitCode, String> {
        let asked = self.registration(register)?;
        // Before anything is made: a secret that cannot be kept would be lost.
        let mut file = match &register.secret_to {
            Some(path) => Some(private(path)?),
            None => None,
        };
        let items = self.ask("register", &asked).inspect_err(|_| {
            // Made a moment ago, and empty.
            let _ = register.secret_to.as_ref().map(std::fs::remove_file);
        })?;
        let mut item = items.into_iter().next().unwrap_or_default();
        let told = item.remove("client_secret").and_then(|told| told.as_str().map(str::to_owned));
        let secret = told.map(Zeroizing::new).or_else(|| asked.new_secret.clone());
        match (&mut file, secret) {
            (Some((file, shown)), Some(secret)) => {
                let text = Zeroizing::new(format!("{}\n", *secret));
                if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()) {
                    // The client is made: a secret that is shown is better than one that is lost.
                    complain(&format!("{shown}: {error}; the secret is on stdout instead"));
                    item.insert("client_secret".to_owned(), secret.as_str().into());
                }
            }
            (None, Some(secret)) => {
                item.insert("client_secret".to_owned(), secret.as_str().into());
            }
            (Some((_, shown)), None) => complain(&format!("{shown} is empty: the vendor gave no secret")),
            (None, None) => {}
        }
        Ok(print(&format!("{}\n", json!(item))))
    }

    /// What is asked for, with what is made here. Nothing that was given is silently left out.
    fn registration(&self, given: &Register) -> Result<Clients, String> {
        let places = |name| self.places("register", name);
        for (option, name, is_given) in [
            ("--name", "name", given.name.is_some()),
            ("--id", "new_client_id", given.id.is_some()),
            ("--grants", "grants", !given.grants.is_empty()),
            ("--redirect-uri", "redirect_uris", !given.redirect_uri.is_empty()),
            ("--access-ttl", "access_ttl", given.access_ttl.is_some()),
            ("--refresh-ttl", "refresh_ttl", given.refresh_ttl.is_some()),
        ] {
            let known = self.token.dialect.clients.contains_key("register");
            if is_given && known && !places(name) {
                return Err(format!("the dialect {} has no {option} where it registers", self.token.dialect.name));
            }
        }
        if given.name.is_none() && places("name") {
            return Err("a client application needs a name: --name".to_owned());
        }
        let random = || Secret::random().map_err(|e| e.to_string());
        let id = match &given.id {
            Some(id) => id.clone(),
            None => random()?.expose().get(..32).unwrap_or_default().to_owned(),
        };
        let renews = matches!(self.token.grant, Grant::Password | Grant::AuthorizationCode);
        let own = [Some(self.token.grant.as_str()), renews.then_some("refresh_token")].into_iter().flatten();
        let grants = if given.grants.is_empty() { own.map(str::to_owned).collect() } else { given.grants.clone() };
        Ok(Clients {
            name: given.name.clone(),
            new_client_id: Some(id),
            new_secret: if places("new_secret") { Some(Zeroizing::new(random()?.expose().to_owned())) } else { None },
            grants,
            redirect_uris: given.redirect_uri.clone(),
            access_ttl: Some(given.access_ttl.unwrap_or(3600)),
            refresh_ttl: Some(given.refresh_ttl.unwrap_or(30 * 24 * 3600)),
            ..Clients::default()
        })
    }

    fn delete(&self, id: &str) -> Result<ExitCode, String> {
        if !self.places("delete", "id") {
            // There is only one, whatever is said: it had better be the one that is meant.
            let items = self.ask("list", &Clients::default())?;
            let meant =
                items.iter().any(|item| ["id", "client_id"].iter().any(|key| item.get(*key) == Some(&id.into())));
            if !meant && self.token.dialect.clients.contains_key("delete") {
                return Err(format!("there is no client application {id}"));
            }
        }
        self.ask("delete", &Clients { id: Some(id.to_owned()), ..Clients::default() })?;
        Ok(print(&format!("{id}: deleted\n")))
    }
}

/// Security: private from its first instant, and nobody's file is written over.
fn private(path: &PathBuf) -> Result<(File, String), String> {
    let shown = path.display().to_string();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map(|file| (file, shown.clone())).map_err(|error| format!("{shown}: {error}"))
}
