//! The data path: what becomes of each request on the listeners of routes.
//!
//! The steps of a request are plain functions in `forward`. Nothing in here can fetch a token, only wait for one.

mod answer;
mod clients;
mod download;
mod error;
mod exchange;
mod forward;
mod headers;
mod hops;
mod inject;
mod inspect;
mod mask;
pub mod probe;
mod retry;
mod route;
mod table;
mod trace;
mod upgrade;
mod upload;
mod upstream;

use std::time::Instant;

pub use error::{ProxyError, Trouble};
pub use forward::Context;
pub use headers::{Framing, to_client, to_upstream};
pub use inspect::Inspector;
pub use route::{Route, TokenUse, check_form};
pub use table::Routes;
pub use upgrade::Tunnels;
pub use upstream::Upstream;

use crate::http1::Request;
use crate::problem::{REQUEST_ID, RequestId};

/// The client's own id of a request, if it can be shown.
fn sent_id(request: &Request) -> Option<&str> {
    RequestId::sane(request.fields.get(REQUEST_ID)?)
}

#[expect(clippy::disallowed_methods, reason = "how long a request took, for the histogram; nothing is decided by it")]
fn now() -> Instant {
    Instant::now()
}
