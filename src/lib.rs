//! tokenbroker: a local reverse proxy that takes authentication off an application's hands.
//!
//! Two straight lines meet at one object, the token cache:
//!
//! * a **request** ([`server`] → [`proxy`]): who asks, which route, which credential, to the API and back;
//! * a **refresh** ([`token`] → [`oauth`]): when is it due, one exchange with the token server, publish.
//!
//! A request reads the cache without a lock and can only wish for a token; one task for each token writes it. The library is
//! the program's own: its public items serve the binary and the tests, and promise nothing to others.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connect;
pub mod door;
pub mod expiry;
pub mod fields;
pub mod http1;
pub mod identity;
pub mod oauth;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod peer;
pub mod problem;
pub mod proxy;
pub mod reload;
pub mod rotation;
pub mod secret;
pub mod server;
pub mod signal;
#[cfg(feature = "demo")]
pub mod standin;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod token;
pub mod units;
