//! The client secrets of all configured clients: one object a client, whichever of its tokens it is for, and as long as the
//! process lives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::TokenPart;
use crate::clock::Clock;
use crate::config;
use crate::oauth::file::Grant;
use crate::store::{StoreError, Stores};
use crate::token::secrets::{Secrets, record};

/// By the name of their record.
#[derive(Default)]
pub(super) struct Clients(Mutex<BTreeMap<String, Arc<Secrets>>>);

impl Clients {
    /// Reads what the store has of the token's client, unless that was done before.
    pub async fn open(&self, config: &config::Token, stores: Option<&Stores>, clock: &Clock) -> Result<(), StoreError> {
        let record = record(config);
        if rotates(config) && !self.all().contains_key(&record) {
            let secrets = Secrets::open(stores, record.clone(), clock).await?;
            self.all().entry(record).or_insert_with(|| Arc::new(secrets));
        }
        Ok(())
    }

    /// Those of the token's client, which was opened before; or none.
    pub fn known(&self, config: &config::Token) -> Arc<Secrets> {
        self.all().get(&record(config)).map_or_else(Arc::default, Arc::clone)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Secrets>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the tokens of one client, the least makes the steps of a rotation: one that says how, or the first by name.
pub fn rank(config: &config::Token) -> (bool, &str) {
    (!config.rotate.told, &config.name)
}

/// Is there a client secret that could be another one?
pub fn rotates(config: &config::Token) -> bool {
    config.grant != Grant::Static && !config.client_secrets.is_empty()
}

/// For each client, the token whose task makes the steps.
pub(super) fn elect(tokens: &BTreeMap<String, Arc<TokenPart>>) {
    let mut all: Vec<_> = tokens.values().filter(|part| rotates(&part.config)).collect();
    all.sort_by_cached_key(|part| {
        let (untold, name) = rank(&part.config);
        (record(&part.config), untold, name.to_owned())
    });
    all.dedup_by_key(|part| record(&part.config));
    for part in all {
        part.secrets.drive(&part.config.name, &part.slot);
    }
}
