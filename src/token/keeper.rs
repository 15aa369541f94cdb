//! One token's place in the store.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::kept::Kept;
use crate::secret::Secret;
use crate::store::{FileStore, StoreError};

/// What loads and saves the record of one token.
pub struct Keeper {
    store: Arc<FileStore>,
    record: String,
    /// Stands for the configuration that the record is of.
    of: String,
    version: u64,
}

impl Keeper {
    /// The name of a token's record.
    pub fn record(token: &str) -> String {
        format!("token.{token}")
    }

    /// What the record holds, if it is of this configuration: another account's token must never be sent.
    pub fn open(store: &Arc<FileStore>, token: &str, of: &Secret) -> Result<(Self, Option<Kept>), StoreError> {
        let record = Self::record(token);
        let of = of.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        let found = store.load(&record)?;
        let version = found.as_ref().map_or(0, |found| found.version);
        let keeper = Self { store: Arc::clone(store), record, of, version };
        let Some(found) = found else { return Ok((keeper, None)) };
        let kept: Kept =
            serde_json::from_slice(&found.plain).map_err(|_| keeper.store.unreadable(&keeper.record, version))?;
        let ours = kept.of == keeper.of;
        Ok((keeper, ours.then_some(kept)))
    }

    /// Saves it; durable when this returns. Blocks on the disk, on a thread for that.
    pub async fn save(&mut self, mut kept: Kept) -> Result<(), String> {
        kept.of.clone_from(&self.of);
        let plain = Zeroizing::new(serde_json::to_vec(&kept).map_err(|e| e.to_string())?);
        // Also after a failure: a number is never used for two contents.
        self.version += 1;
        let (store, record, version) = (Arc::clone(&self.store), self.record.clone(), self.version);
        let saved = tokio::task::spawn_blocking(move || store.save(&record, version, &plain)).await;
        saved.map_err(|_| "the save broke off inside the broker: report this".to_owned())?.map_err(|e| e.to_string())
    }
}
