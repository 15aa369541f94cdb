//! What `init` leaves to be filled in: in the configuration, and in the files that it names.

use std::path::Path;

use toml::de::DeValue;

use super::Check;
use crate::config::document::Part;
use crate::secret::source::{FILL_IN, SecretError, SecretSource, UNFILLED};

impl Check<'_> {
    /// Every text of the configuration itself.
    pub(super) fn placeholders(&mut self) {
        let (mut path, mut found) = (Vec::new(), Vec::new());
        walk(self.document.root.get_ref(), &mut path, &mut found);
        for path in found {
            let path: Vec<_> = path.iter().map(String::as_str).collect();
            self.unfilled(&path, "is still to be filled in", FILL_IN);
        }
    }

    /// Why a secret cannot be had.
    pub(super) fn unreadable(&mut self, path: &[&str], error: &SecretError) {
        match error.unfilled {
            true => self.unfilled(path, &error.problem, error.hint),
            false => self.problem(path, &error.problem, error.hint),
        }
    }

    /// Is nothing but the placeholder in that file?
    pub(super) fn is_unfilled(&mut self, file: &Path, path: &[&str]) -> bool {
        let error = SecretSource::File(file.to_owned()).look().err().filter(|error| error.unfilled);
        error.inspect(|error| self.unreadable(path, error)).is_some()
    }

    fn unfilled(&mut self, path: &[&str], problem: &str, hint: &str) {
        let entry = self.entry(path, Part::Value, problem, hint);
        let unfilled = &mut self.document.report.unfilled;
        // A secret that is written in the configuration was found there.
        if unfilled.iter().all(|known| known.key != entry.key) {
            unfilled.push(entry);
        }
    }
}

fn walk(value: &DeValue<'_>, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut step = |step: String, value: &DeValue<'_>| {
        path.push(step);
        walk(value, path, found);
        path.pop();
    };
    match value {
        DeValue::Table(table) => table.iter().for_each(|(key, value)| step(key.get_ref().to_string(), value.get_ref())),
        DeValue::Array(list) => list.iter().enumerate().for_each(|(at, value)| step(at.to_string(), value.get_ref())),
        DeValue::String(text) if text.contains(UNFILLED) => found.push(path.clone()),
        _ => {}
    }
}
