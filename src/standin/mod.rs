//! Stand-ins of the vendors and an API that echoes: what `demo` shows and the tests speak to. They answer as the real ones
//! are documented to, and misbehave on request. Not for production: they keep everything in memory.

mod budget;
mod clientapps;
mod comap;
mod comodo;
mod covata;
pub mod demo;
mod echo;
mod entra;
pub mod fault;
mod http;
mod issuer;
mod login;
mod message;
mod mint;
mod netrex;
mod oauth2;
mod payload;
pub mod pki;
mod quirk;
mod slots;
mod state;
mod vanco;

pub use budget::Budget;
pub use comap::Comap;
pub use comodo::Comodo;
pub use covata::Covata;
pub use echo::{Echo, Seen};
pub use fault::Fault;
pub use http::Server;
pub use issuer::Issuer;
pub use message::Call;
pub use netrex::Netrex;
pub use oauth2::OAuth2;
pub use quirk::Quirk;
pub use slots::{Slot, Slots};
pub use state::State;
pub use vanco::Vanco;
