//! Which credential a request leaves with: the only place where the data path touches a token.

use super::error::ProxyError;
use super::headers::has_credential;
use super::route::Route;
use crate::config::Authorization;
use crate::http1::Fields;
use crate::problem::bad_request;
use crate::token::cache::Credential;

/// What a request leaves with, as far as it is known at once.
pub enum Found {
    Now(Credential),
    /// None is to be added.
    Nothing,
    /// There is no usable token yet.
    Later,
}

/// The credential for a request with these fields.
pub fn credential(route: &Route, fields: &Fields) -> Result<Found, ProxyError> {
    match route.config.authorization {
        Authorization::Keep if has_credential(fields, route) => return Ok(Found::Nothing),
        Authorization::Reject if has_credential(fields, route) => {
            return Err(bad_request("this route adds the credential itself: send none").into());
        }
        Authorization::Replace | Authorization::Keep | Authorization::Reject => {}
    }
    Ok(match &route.token {
        None => Found::Nothing,
        Some(token) => token.slot.credential(token.format).map_or(Found::Later, Found::Now),
    })
}

/// The same, for which the request waits. Security: no token, no request. It is never forwarded without one.
pub async fn awaited(route: &Route) -> Result<Option<Credential>, ProxyError> {
    let Some(token) = &route.token else { return Ok(None) };
    let credential = token.slot.credential_within(token.format, route.config.token_wait).await;
    credential.map(Some).map_err(ProxyError::Token)
}

/// Waiting for a connection takes time: a token that ended meanwhile is replaced by the one of now, or nothing is sent.
pub fn still_usable(route: &Route, credential: &mut Option<Credential>) -> Result<(), ProxyError> {
    if let (Some(credential), Some(token)) = (credential, &route.token) {
        *credential = token.slot.credential(token.format).ok_or_else(|| ProxyError::Token(token.slot.unavailable()))?;
    }
    Ok(())
}
