//! One token's place in the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::kept::Kept;
use crate::secret::Secret;
use crate::store::{FileStore, StoreError};

/// A save that takes longer is a failure for now: a disk that hangs must not stop the token.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What loads and saves the record of one token.
pub struct Keeper {
    store: Arc<FileStore>,
    record: String,
    purpose: String,
    inputs: String,
    version: u64,
    /// A save that was given up waiting for. No other starts before it has ended: both would write the same file.
    hanging: Option<JoinHandle<Result<(), StoreError>>>,
}

/// What a token is obtained with.
pub struct With {
    /// Whose refresh token it is: another account has another record.
    pub account: Secret,
    /// What the access token was obtained with and for.
    pub purpose: Secret,
    /// Everything that an exchange sends.
    pub inputs: Secret,
}

impl Keeper {
    /// What the record holds. An access token that was obtained for something else is not among it: it must never be sent.
    pub fn open(store: &Arc<FileStore>, token: &str, with: &With) -> Result<(Self, Option<Kept>), StoreError> {
        let record = format!("token.{token}.{}", &hex(&with.account)[..16]);
        let found = store.load(&record)?;
        let version = found.as_ref().map_or(0, |found| found.version);
        let (purpose, inputs) = (hex(&with.purpose), hex(&with.inputs));
        let keeper = Self { store: Arc::clone(store), record, purpose, inputs, version, hanging: None };
        let Some(found) = found else { return Ok((keeper, None)) };
        let mut kept = Kept::read(&found.plain).ok_or_else(|| keeper.store.unreadable(&keeper.record, version))?;
        if kept.purpose != keeper.purpose {
            kept.access = None;
        }
        Ok((keeper, Some(kept)))
    }

    /// Is that what it was saved with?
    pub fn is_same(&self, kept: &Kept) -> bool {
        kept.inputs == self.inputs
    }

    /// Something that is sent has changed since the start: what is saved from here on counts as obtained with something else.
    pub fn changed(&mut self) {
        self.purpose.clear();
        self.inputs.clear();
    }

    /// Saves it, within [`SAVE_TIMEOUT`]; durable when this returns. Blocks on the disk, on a thread for that.
    pub async fn save(&mut self, mut kept: Kept) -> Result<(), String> {
        (kept.purpose, kept.inputs) = (self.purpose.clone(), self.inputs.clone());
        let late = || format!("the disk has not answered within {} s", SAVE_TIMEOUT.as_secs());
        if let Some(mut hanging) = self.hanging.take()
            && tokio::time::timeout(SAVE_TIMEOUT, &mut hanging).await.is_err()
        {
            self.hanging = Some(hanging);
            return Err(late());
        }
        let plain = Zeroizing::new(serde_json::to_vec(&kept).map_err(|e| e.to_string())?);
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

fn hex(text: &Secret) -> String {
    text.digest().iter().map(|byte| format!("{byte:02x}")).collect()
}
