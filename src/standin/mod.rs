//! Stand-ins of the vendors and an API that echoes: what `demo` shows and the tests speak to. They answer as the real ones
//! are documented to, and misbehave on request. Not for production: they keep everything in memory.

mod comodo;
pub mod demo;
mod echo;
pub mod fault;
mod http;
mod issuer;
mod oauth2;
pub mod pki;

pub use comodo::Comodo;
pub use echo::{Echo, Seen};
pub use fault::Fault;
pub use http::{Call, Server};
pub use issuer::Issuer;
pub use oauth2::OAuth2;
