//! One token without a running broker: its record in the store, and the same task that the broker would run.

use tokio_util::sync::CancellationToken;

use super::complain;
use crate::app::{App, AppError, TokenPart, rank, rotates};
use crate::clock::Clock;
use crate::config::Config;
use crate::oauth::manage::Item;
use crate::signal::{self, Finishing};
use crate::token::clients::Clients;
use crate::token::refresh::Refresher;
use crate::token::source::Source;

/// The token, and a task for it that does not run yet.
pub(super) struct Alone {
    pub part: TokenPart,
    pub refresher: Refresher<Source>,
    /// Of the token whose access token may manage the secrets of this one.
    admin: Option<Refresher<Source>>,
    app: App,
    /// An exchange is not to break off, whose answer may be the only refresh token that works.
    finishing: Finishing,
}

impl Alone {
    /// Takes the store, if there is one: no broker can start meanwhile.
    pub async fn open(config: Config, token: &str) -> Result<Self, String> {
        Self::with(config, token, None, false).await
    }

    /// The token that rotates the client secret of that one: the same as a broker would choose, with the one whose access token
    /// may manage secrets.
    pub async fn of_client(config: Config, token: &str) -> Result<Self, String> {
        let client = config.tokens.get(token).map(|token| token.client());
        let same = config.tokens.values().filter(|token| rotates(token) && Some(token.client()) == client);
        let driver = same.min_by_key(|token| rank(token));
        let (driver, admin) = driver.map(|token| (token.name.clone(), token.rotate.admin.clone())).unwrap_or_default();
        Self::with(config, &driver, admin.as_deref(), true).await
    }

    async fn with(mut config: Config, token: &str, admin: Option<&str>, rotates: bool) -> Result<Self, String> {
        // Nothing else of the configuration has to be in order for this.
        config.routes.clear();
        config.tokens.retain(|name, _| name == token || Some(name.as_str()) == admin);
        let said = |error: AppError| error.to_string();
        let app = App::open(&config, Clock::system()).await.map_err(said)?;
        let mut plan = app.plan(config, None, &Default::default()).await.map_err(said)?;
        let opened = app.token(&mut plan, token, None, None).await;
        let (part, refresher) = opened.ok_or_else(|| format!("there is no token {token}"))?;
        if rotates {
            part.secrets.drive(token, &part.slot);
        }
        let admin = match admin {
            Some(admin) => app.token(&mut plan, admin, None, None).await.map(|(_, refresher)| refresher),
            None => None,
        };
        // Until here nothing was sent.
        let finishing = Finishing::new().map_err(|e| format!("cannot listen for signals: {e}"))?;
        Ok(Self { part, refresher, admin, app, finishing })
    }

    /// Asks the vendor about client applications.
    pub async fn clients(self, verb: &str, asked: &Clients) -> Result<Vec<Item>, String> {
        if asked.admin_token.is_some() {
            // No token of ours is needed for that.
            return self.app.clients(&self.part, verb, asked).await;
        }
        let app = self.app.clone();
        let (items, saved) = self.until(async |part| app.clients(part, verb, asked).await).await;
        let items = items?;
        saved.map(|()| items)
    }

    /// Does the store have everything?
    pub async fn saved(self) -> Result<(), String> {
        self.until(async |_| ()).await.1
    }

    /// Runs the task until `work` is done; then, whether the store has everything. A signal ends the process, but after the
    /// exchange in flight, whose answer is kept.
    pub async fn until<T>(mut self, work: impl AsyncFnOnce(&TokenPart) -> T) -> (T, Result<(), String>) {
        let (stop, part) = (CancellationToken::new(), self.part);
        let work = Box::pin(async {
            let done = stop.run_until_cancelled(work(&part)).await;
            stop.cancel();
            done
        });
        let admin = async {
            match self.admin {
                Some(admin) => Some(Box::pin(admin.run(stop.clone(), stop.clone())).await),
                None => None,
            }
        };
        let run = Box::pin(self.refresher.run(stop.clone(), stop.clone()));
        let mut all = std::pin::pin!(async { tokio::join!(work, run, admin) });
        let mut asked = None;
        let (done, ended, admin) = loop {
            tokio::select! {
                biased;
                number = self.finishing.asked(), if asked.is_none() => {
                    asked = Some(number);
                    stop.cancel();
                }
                all = &mut all => break all,
            }
        };
        let lost = || "it could not be saved: look at the disk of the store, and do it again".to_owned();
        let saved = admin.iter().chain([&ended]).all(|ended| ended.keeper.is_none() || ended.saved);
        let saved = if saved { Ok(()) } else { Err(lost()) };
        match (done, asked) {
            // What is done is told, whatever came meanwhile.
            (Some(done), _) => (done, saved),
            (None, asked) => {
                saved.unwrap_or_else(|text| complain(&text));
                signal::end(asked.unwrap_or_default())
            }
        }
    }
}
