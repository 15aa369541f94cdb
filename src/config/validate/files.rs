//! The files that a configuration names: they are watched, and who else may read or change them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Check;

impl Check<'_> {
    /// A file that is read: when it changes, what came of it has to.
    pub(super) fn watched(&mut self, path: &Path) -> PathBuf {
        let path = self.path(path);
        self.files.insert(path.clone());
        path
    }

    /// A file that its group or everybody may change is refused, one that everybody may read is warned about, except where
    /// container engines mount secrets. Symbolic links are followed. A file that is not there is somebody else's problem.
    /// False if it is refused.
    pub(super) fn private(&mut self, file: &Path, key: &[&str]) -> bool {
        let Ok(meta) = file.metadata() else { return true };
        let mode = meta.permissions().mode();
        // A message about the configuration itself begins with its name.
        let own = key.is_empty();
        let shown = if own { String::new() } else { format!("{} ", file.display()) };
        let telling = if own { self.literal } else { !file.starts_with("/run/secrets") };
        if mode & 0o022 != 0 {
            let problem = format!("{shown}can be changed by others (mode {:04o})", mode & 0o7777);
            self.problem(key, &problem, "chmod go-w");
        } else if mode & 0o004 != 0 && telling && meta.is_file() {
            let what = if own { "holds a secret and " } else { "" };
            let problem = format!("{shown}{what}can be read by everybody (mode {:04o})", mode & 0o7777);
            self.warning(key, &problem, "chmod o-r");
        }
        mode & 0o022 == 0
    }
}
