//! The answer to a 401: one refresh, one replay. A 401 was not executed, so any method may be repeated, if its body is
//! still at hand. Where there is no newer token, the API's own 401 passes unchanged.

use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::error::ProxyError;
use super::exchange::Exchange;
use super::upload::Upload;
use super::upstream::Lease;
use crate::token::cache::Credential;

/// The response as it is, or, after a 401 to our own token, that of the replay; `credential` is what it answers to.
pub async fn after_unauthorized(
    exchange: &Exchange<'_>,
    credential: &mut Option<Credential>,
    response: Response<Incoming>,
    lease: Lease,
) -> Result<(Response<Incoming>, Lease), ProxyError> {
    let route = exchange.route;
    let (Some(refused), Some(token), StatusCode::UNAUTHORIZED, true) =
        (credential.as_ref(), &route.token, response.status(), route.config.retry_unauthorized)
    else {
        return Ok((response, lease));
    };
    // Also where the body cannot be sent again: a client that answers the 401 by trying again finds the new token then.
    let wait = route.config.token_wait;
    let Some(newer) = token.slot.replacement(token.format, refused.generation, wait).await else {
        return Ok((response, lease));
    };
    let body = match &exchange.upload {
        None => Upload::empty(),
        Some(shared) => match shared.replay() {
            Some(body) => body,
            None => return Ok((response, lease)),
        },
    };
    // The refused answer's body is of no use; its connection closes with it.
    drop((response, lease));
    route.metrics.retries.inc();
    *credential = Some(newer);
    exchange.send(credential, body).await
}
