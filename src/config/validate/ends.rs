//! What ends, and when: noted for the running broker, and said by `check` from 30 days before.

use jiff::Timestamp;

use super::Check;
use crate::config::document::Part;
use crate::config::file::TokenFile;
use crate::expiry::{Expiring, Kind, SOON};
use crate::oauth::file::OneOrMany;

impl Check<'_> {
    pub(super) fn ends(&mut self, path: &[&str], ending: Expiring) {
        if ending.days_left(self.now) <= SOON {
            let said = ending.said(self.now);
            let warning = self.entry(path, Part::Value, &said, ending.fix);
            self.document.report.ending.push(warning);
        }
        self.expiring.push(ending);
    }

    /// When the client secrets end: of each, or of none.
    pub(super) fn secret_expires(&mut self, name: &str, file: &TokenFile) -> Vec<Timestamp> {
        let path = ["token", name, "secret_expires"];
        let dates: Vec<_> = match &file.secret_expires {
            None => return Vec::new(),
            Some(OneOrMany::One(date)) => vec![date.0],
            Some(OneOrMany::Many(dates)) => dates.iter().map(|date| date.0).collect(),
        };
        let secrets = match &file.client_secret {
            _ if self.refused(&["token", name, "client_secret"]) || self.refused(&path) => return Vec::new(),
            None => {
                self.wrong_key(&path, "says when `client_secret` ends, and there is none", "add it, or remove this");
                return Vec::new();
            }
            Some(OneOrMany::One(_)) => 1,
            Some(OneOrMany::Many(many)) => many.len(),
        };
        if dates.len() != secrets {
            let what = if secrets == 1 { "there is one client secret" } else { "there are two client secrets" };
            let problem =
                format!("{what}, and {} here", if dates.len() == 1 { "one date" } else { "more than one date" });
            let hint = "write a date for each secret, in the same order: [2027-01-31, 2027-07-31]";
            self.problem(&path, &problem, hint);
            return Vec::new();
        }
        for (index, when) in dates.iter().enumerate() {
            let what = match (secrets, index) {
                (1, _) => "the client secret",
                (_, 0) => "the first client secret",
                _ => "the second client secret",
            };
            let ending = Expiring::new(Kind::Secret, &format!("token.{name}"), what, String::new(), *when);
            self.ends(&[path[0], path[1], path[2], &index.to_string()], ending);
        }
        dates
    }
}
