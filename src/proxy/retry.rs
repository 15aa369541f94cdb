//! The answer to a 401: one refresh, one replay. A 401 was not executed, so any method may be repeated, if its body is
//! still at hand. Where there is no newer token, the API's own 401 passes unchanged.

use std::sync::Arc;

use http::StatusCode;

use super::error::ProxyError;
use super::exchange::{Answered, Exchange};
use crate::http1::{Client, Request};
use crate::token::cache::Credential;

/// The answer as it is, or, after a 401 to our own token, that to the replay; `credential` is what it answers to.
pub async fn after_unauthorized(
    exchange: &mut Exchange,
    client: &mut Client,
    request: &mut Request,
    credential: &mut Option<Credential>,
    answered: Answered,
) -> Result<Answered, ProxyError> {
    let route = Arc::clone(&exchange.route);
    let (Some(refused), Some(token), StatusCode::UNAUTHORIZED, true) =
        (credential.as_ref(), &route.token, answered.response.status, route.config.retry_unauthorized)
    else {
        return Ok(answered);
    };
    // Also where the body cannot be sent again: a client that answers the 401 by trying again finds the new token then.
    let newer = Box::pin(token.slot.replacement(token.format, refused.generation, route.config.token_wait));
    let whole = request.body.is_done();
    let Some(newer) = client.unless_gone(whole, newer).await.ok_or(ProxyError::Gone)? else {
        return Ok(answered);
    };
    if !exchange.upload.replays() {
        return Ok(answered);
    }
    // The refused answer's body is of no use; its connection closes with it.
    drop(answered);
    exchange.sent_again();
    *credential = Some(newer);
    exchange.send(client, request, credential).await
}
