//! `/api/clients/NAME/…`: client applications at the vendor.

use http::StatusCode;
use serde_json::json;

use super::body::Unread;
use super::{Admin, Answer, Order, body, json as answer, nothing_here};
use crate::problem::Problem;

/// What can be asked for.
pub(super) const VERBS: &[&str] = &["list", "register", "delete"];

impl Admin {
    pub(super) async fn clients(&self, name: &str, verb: &str, body: Unread<'_>) -> Result<Answer, Problem> {
        self.token(name)?;
        let asked = body::read(body).await?;
        let order = |reply| Order::Clients(name.to_owned(), verb.to_owned(), Box::new(asked), reply);
        let items = self.order(order).await?.ok_or_else(nothing_here)?;
        let failed = |detail| Problem::new(StatusCode::BAD_GATEWAY, "clients_failed", detail);
        Ok(answer(StatusCode::OK, &json!({ "items": items.map_err(failed)? })))
    }
}
