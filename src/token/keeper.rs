//! A place in the store: a token's, or that of a client's secrets.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::kept::Kept;
use crate::store::{FileStore, StoreError};

/// A save that takes longer is a failure for now: a disk that hangs must not stop the token.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What loads and saves one record.
pub struct Keeper {
    store: Arc<FileStore>,
    record: String,
    version: u64,
    /// A save that was given up waiting for. No other starts before it has ended: both would write the same file.
    hanging: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Keeper {
    /// What the record of that account holds.
    pub fn open(store: &Arc<FileStore>, token: &str, account: &str) -> Result<(Self, Option<Kept>), StoreError> {
        Self::of(store, format!("token.{token}.{}", &account[..16]))
    }

    /// What the record of that name holds.
    pub fn of<T: DeserializeOwned>(store: &Arc<FileStore>, record: String) -> Result<(Self, Option<T>), StoreError> {
        let found = store.load(&record)?;
        let version = found.as_ref().map_or(0, |found| found.version);
        let read = |plain: &[u8]| serde_json::from_slice(plain).map_err(|_| store.unreadable(&record, version));
        let kept = found.map(|found| read(&found.plain)).transpose()?;
        Ok((Self { store: Arc::clone(store), record, version, hanging: None }, kept))
    }

    /// Its name in the store.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// Saves it, within [`SAVE_TIMEOUT`]; durable when this returns. Blocks on the disk, on a thread for that.
    pub async fn save(&mut self, kept: &impl Serialize) -> Result<(), String> {
        let late = || format!("the disk has not answered within {} s", SAVE_TIMEOUT.as_secs());
        if let Some(mut hanging) = self.hanging.take()
            && tokio::time::timeout(SAVE_TIMEOUT, &mut hanging).await.is_err()
        {
            self.hanging = Some(hanging);
            return Err(late());
        }
        let plain = Zeroizing::new(serde_json::to_vec(kept).map_err(|e| e.to_string())?);
        // Also after a failure: a number is never used for two contents.
        self.version += 1;
        let (store, record, version) = (Arc::clone(&self.store), self.record.clone(), self.version);
        let mut saving = tokio::task::spawn_blocking(move || store.save(&record, version, &plain));
        match tokio::time::timeout(SAVE_TIMEOUT, &mut saving).await {
            Ok(Ok(saved)) => saved.map_err(|e| e.to_string()),
            Ok(Err(_)) => Err("the save broke off inside the broker: report this".to_owned()),
            Err(_) => {
                self.hanging = Some(saving);
                Err(late())
            }
        }
    }
}
