//! A token's `rotate`: could its client secret be rotated that way, and nothing be lost?

use std::time::Duration;

use super::Check;
use crate::config::Rotate;
use crate::config::file::{RotateFile, TokenFile};
use crate::oauth::dialect::Dialect;
use crate::units::Life;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Check<'_> {
    pub(super) fn rotate(&mut self, name: &str, file: &TokenFile, dialect: &Dialect) -> Rotate {
        let nothing = RotateFile::default();
        let rotate = file.rotate.as_ref().unwrap_or(&nothing);
        let vendor = &dialect.rotate;
        let Life(text, length) =
            rotate.lifetime.clone().or_else(|| vendor.lifetime.clone()).unwrap_or_else(|| Life("2y".into(), 730 * DAY));
        Rotate {
            before: rotate.before.map(|span| span.0),
            admin: rotate.admin.clone(),
            current: rotate.current.clone(),
            lifetime: (text, length),
            grace: rotate.grace.map_or(DAY, |span| span.0),
            times: rotate.verify.times.or(vendor.verify.times).unwrap_or(3),
            every: rotate.verify.every.or(vendor.verify.every).map_or(Duration::from_secs(1), |span| span.0),
            settle: rotate.settle.or(vendor.settle).map_or(Duration::from_secs(2), |span| span.0),
            write: rotate.write.as_ref().map(|path| self.path(path)),
            slots: vendor.slots.map(usize::from),
        }
    }
}
