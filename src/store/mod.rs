//! What outlives the process: sealed records in a private directory. `kind = "memory"` has no store at all.

mod file;
mod seal;

pub use file::{Entry, FileStore, Record, StoreError};
pub use seal::{KEY_MIN, Seal, SealError};
