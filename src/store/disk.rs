//! A directory as a store for tasks: what blocks runs on threads for that, and for a bounded time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::{Answer, FileStore, Lease, Record, Saved, Store, StoreError, Taken, Version};

/// A save that takes longer is a failure for now: a disk that hangs must not stop the token.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A directory that this process owns.
pub struct Disk {
    files: Arc<FileStore>,
    /// Saves that were given up waiting for, by record. No other starts before it has ended: both would write the same file.
    hanging: Mutex<BTreeMap<String, JoinHandle<Result<(), StoreError>>>>,
}

impl Disk {
    pub fn new(files: Arc<FileStore>) -> Self {
        Self { files, hanging: Mutex::default() }
    }

    async fn write(&self, name: &str, number: u64, plain: Zeroizing<Vec<u8>>) -> Result<Saved, StoreError> {
        let before = self.hanging.lock().await.remove(name);
        if let Some(mut hanging) = before
            && tokio::time::timeout(SAVE_TIMEOUT, &mut hanging).await.is_err()
        {
            return Err(self.late(name, hanging).await);
        }
        let (files, record) = (Arc::clone(&self.files), name.to_owned());
        let mut saving = tokio::task::spawn_blocking(move || files.save(&record, number, &plain));
        match tokio::time::timeout(SAVE_TIMEOUT, &mut saving).await {
            Ok(Ok(saved)) => saved.map(|()| Saved::Done),
            Ok(Err(_)) => Err(StoreError::Away("the save broke off inside the broker: report this".to_owned())),
            Err(_) => Err(self.late(name, saving).await),
        }
    }

    async fn late(&self, name: &str, hanging: JoinHandle<Result<(), StoreError>>) -> StoreError {
        self.hanging.lock().await.insert(name.to_owned(), hanging);
        StoreError::Away(format!("the disk has not answered within {} s", SAVE_TIMEOUT.as_secs()))
    }
}

impl Store for Disk {
    fn is_shared(&self) -> bool {
        false
    }

    fn place(&self, name: &str, version: Version) -> String {
        self.files.place(name, version.number)
    }

    fn load<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>> {
        Box::pin(async move { self.files.load(name) })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        _before: Version,
        version: Version,
        plain: Zeroizing<Vec<u8>>,
        _old: Duration,
    ) -> Answer<'a, Saved> {
        Box::pin(self.write(name, version.number, plain))
    }

    fn take<'a>(&'a self, name: &'a str, _owner: u128, _lease: Lease) -> Answer<'a, Taken> {
        Box::pin(async move { Ok(Taken::Yes(self.files.load(name)?)) })
    }

    fn names(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async { Ok(self.files.newest()?.into_keys().collect()) })
    }

    fn forget<'a>(&'a self, name: &'a str, _instead: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move { self.files.forget(name).map(drop) })
    }

    fn release<'a>(&'a self, _name: &'a str, _owner: u128) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
