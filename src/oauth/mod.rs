//! The OAuth 2 protocol and its dialects: pure functions from dialect, inputs and `now` to a request, and from an answer
//! to a token or a classified error. Only `client` does I/O; nothing here reads a clock or knows a vendor.

pub mod builtin;
pub mod client;
pub mod dialect;
pub mod error;
pub mod expiry;
pub mod faults;
pub mod file;
pub mod inputs;
pub mod jwt;
pub mod manage;
pub mod operation;
pub mod place;
pub mod refusal;
pub mod request;
pub mod response;
pub mod rules;
pub mod template;
pub mod words;

pub use error::{Class, Outcome, TokenError};
