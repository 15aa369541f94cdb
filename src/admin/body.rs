//! The body of a POST: JSON, at most 64 KiB, within 10 s. It may hold secrets.

use std::time::Duration;

use http::StatusCode;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::http1::{Client, Cut, Request};
use crate::problem::{Problem, bad_request};

const MAX: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A body that was not read yet.
pub(super) struct Unread<'c> {
    pub client: &'c mut Client,
    pub request: &'c mut Request,
}

/// Reads it. Security: a parser's error could quote a secret.
pub(super) async fn read<T: DeserializeOwned>(Unread { client, request }: Unread<'_>) -> Result<T, Problem> {
    let whole = client.collect(request, MAX, TIMEOUT).await.map_err(|cut| match cut {
        Cut::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            bad_request("the body did not come within 10 s")
        }
        _ => bad_request("the body broke off"),
    })?;
    let too_long = || Problem {
        close: true,
        ..Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", "the body is longer than 64 KiB")
    };
    let text = Zeroizing::new(whole.ok_or_else(too_long)?);
    serde_json::from_slice(&text).map_err(|_| bad_request("the body is not the JSON that is asked for here"))
}
