//! May this client use this route? Security: who is not known, and what is not sent, is refused.

use http::StatusCode;

use super::route::Route;
use crate::fields::CLIENT_KEY;
use crate::http1::{Fields, Place};
use crate::problem::Problem;
use crate::secret::Secret;

/// Judges where a connection comes from and the certificate that came with it, whatever the request.
pub fn check_connection(route: &Route, place: &Place) -> Result<(), Problem> {
    let Some(clients) = &route.config.clients else { return Ok(()) };
    let (name, peer) = (&route.config.name, &place.peer);
    if !clients.admit(peer) {
        let seen = format!("{peer} may not use this route");
        return Err(refused(&match (peer.is_local() && !clients.uids.is_empty(), peer.user(), peer.address()) {
            (true, Some(user), _) => format!("{seen}: list {user} in route.{name}.clients.uids if it should"),
            (true, None, _) => format!("{seen}, which lists users in route.{name}.clients.uids"),
            (false, _, Some(_)) => format!("{seen}: list its network in route.{name}.clients.networks if it should"),
            (false, _, None) => format!("{seen}: list its user in route.{name}.clients.uids if it should"),
        }));
    }
    if clients.tls.as_ref().is_some_and(|tls| place.authority != Some(tls.authority)) {
        let detail = "the certificate of this connection was not held against the CA in force: connect again";
        return Err(refused(detail));
    }
    Ok(())
}

/// Judges the key in a request.
pub fn check_key(route: &Route, fields: &Fields) -> Result<(), Problem> {
    if route.config.clients.as_ref().is_none_or(|clients| clients.key.is_none()) {
        return Ok(());
    }
    let mut sent = fields.all(CLIENT_KEY);
    let name = &route.config.name;
    let (Some(first), None) = (sent.next(), sent.next()) else {
        return Err(refused(&format!("this route needs one X-Tokenbroker-Key: what route.{name}.clients.key names")));
    };
    let first = std::str::from_utf8(first).ok().map(|key| Secret::new(key.to_owned()));
    // Compared in constant time.
    match (route.key.load().as_deref(), first) {
        (Some(key), Some(first)) if *key == first => Ok(()),
        _ => Err(refused(&format!("that X-Tokenbroker-Key is not what route.{name}.clients.key names"))),
    }
}

fn refused(detail: &str) -> Problem {
    Problem { close: true, ..Problem::new(StatusCode::FORBIDDEN, "client_refused", detail) }
}
