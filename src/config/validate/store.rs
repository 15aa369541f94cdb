//! `[store]`: where what outlives the process is kept.

use super::Check;
use crate::config::Store;
use crate::config::file::{StoreFile, StoreKind};
use crate::store::KEY_MIN;

impl Check<'_> {
    /// `None` for memory, or if it cannot be used, which was reported.
    pub(super) fn store(&mut self, file: StoreFile) -> Option<Store> {
        self.durable = file.kind != StoreKind::Memory;
        let given = [("path", file.path.is_some()), ("key", file.key.is_some())];
        if file.kind == StoreKind::Memory {
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                self.wrong_key(&["store", key], "is not used by the kind memory", "set kind = \"file\", or remove it");
            }
            return None;
        }
        let missing = given.into_iter().filter(|(key, given)| !given && !self.refused(&["store", key]));
        let missing: Vec<_> = missing.map(|(key, _)| format!("`{key}`")).collect();
        if !missing.is_empty() {
            let hint = "path is a directory, such as \"/var/lib/tokenbroker\"; key is a secret, made with: openssl rand -base64 32";
            self.problem(&["store"], &format!("needs {}", missing.join(" and ")), hint);
        }
        let path = self.path(&file.path?);
        let (key, value) = self.secret_and_bytes(file.key?, &["store", "key"], true);
        if value.is_some_and(|value| value.len() < KEY_MIN) {
            let problem = format!("is shorter than {KEY_MIN} bytes");
            self.problem(&["store", "key"], &problem, "make one with: openssl rand -base64 32");
        }
        if path.exists() && !path.is_dir() {
            self.problem(&["store", "path"], "is not a directory", "name one, or one that is not there yet");
        }
        Some(Store { path: Some(path), key, redis: None })
    }
}
