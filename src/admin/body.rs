//! The body of a POST: JSON, at most 64 KiB, within 10 s. It may hold secrets.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::door::bad_request;
use crate::problem::Problem;

const MAX: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads it. Security: a parser's error could quote a secret.
pub(super) async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Problem> {
    let too_long = || Problem {
        close: true,
        ..Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", "the body is longer than 64 KiB")
    };
    if http_body::Body::size_hint(&body).lower() > MAX as u64 {
        return Err(too_long());
    }
    let collected = tokio::time::timeout(TIMEOUT, Limited::new(body, MAX).collect()).await;
    let whole = collected.map_err(|_| bad_request("the body did not come within 10 s"))?.map_err(|_| too_long())?;
    let text = Zeroizing::new(whole.to_bytes().to_vec());
    serde_json::from_slice(&text).map_err(|_| bad_request("the body is not the JSON that is asked for here"))
}
