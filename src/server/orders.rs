//! What a person asks of one token of a running broker: between the end of its task and the start of the next, so that there
//! is never more than one exchange.

use std::sync::Arc;

use super::Running;
use crate::oauth::TokenError;
use crate::oauth::manage::Item;
use crate::store::StoreError;
use crate::token::clients::Clients;
use crate::token::kept::Kept;
use crate::token::refresh::{Code, LoggedOut, Refresher};
use crate::token::secrets::may_be_forgotten;
use crate::token::source::Source;

impl Running {
    /// Forgets what the store has under that name, such as `token.api`, and starts that token anew. The records that there were.
    pub async fn forget(&mut self, record: &str) -> Result<Vec<String>, StoreError> {
        let Some(stores) = self.app.stores.clone() else { return Ok(Vec::new()) };
        may_be_forgotten(&stores, record).await?;
        let token = record.strip_prefix("token.").map_or("", |rest| rest.split('.').next().unwrap_or_default());
        let running = self.refreshing.take(token);
        let mut ended = match running {
            Some(running) => running.end().await,
            None => None,
        };
        let forgotten = Kept::forget(&stores, record, self.app.clock.now().wall).await;
        if let Some(ended) = &mut ended {
            let own = |names: &Vec<String>| {
                ended.keeper.as_ref().is_some_and(|keeper| names.iter().any(|name| name == keeper.record()))
            };
            match &forgotten {
                Ok(names) if own(names) => ended.kept = Kept::default(),
                Ok(_) => {}
                // Nobody knows what is left of it.
                Err(_) => ended.saved = false,
            }
        }
        if let Some(part) = self.parts.tokens.get(token) {
            self.refreshing.start(self.app.again(part, ended).await, &self.app.metrics);
        }
        forgotten
    }

    /// Has the code of a login exchanged. `None`: there is no such token, or its task broke off.
    pub async fn login(&mut self, token: &str, code: &Code) -> Option<Result<(), TokenError>> {
        self.between(token, async |refresher| refresher.login(code).await).await
    }

    /// Gives a token up, and has the vendor end it. `None`: there is no such token, or its task broke off.
    pub async fn logout(&mut self, token: &str) -> Option<Result<LoggedOut, TokenError>> {
        self.between(token, async |refresher| refresher.logout().await).await
    }

    /// Asks a token's vendor about client applications. `None`: there is no such token.
    pub async fn clients(&self, token: &str, verb: &str, asked: &Clients) -> Option<Result<Vec<Item>, String>> {
        Some(self.app.clients(self.parts.tokens.get(token)?, verb, asked).await)
    }

    /// Ends a token's task, has `work` done with what it leaves, and starts its successor.
    async fn between<T>(&mut self, token: &str, work: impl AsyncFnOnce(&mut Refresher<Source>) -> T) -> Option<T> {
        let part = Arc::clone(self.parts.tokens.get(token)?);
        let ended = match self.refreshing.take(token) {
            Some(running) => running.end().await,
            None => None,
        };
        let mut refresher = self.app.again(&part, ended).await;
        let done = work(&mut refresher).await;
        self.refreshing.start(refresher, &self.app.metrics);
        Some(done)
    }
}
