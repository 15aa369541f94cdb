//! What is asked of a vendor about client applications: from a command or over the operator's listener. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::oauth::inputs::Given;
use crate::secret::Secret;

/// What is given with a request; the dialect's templates say where it goes.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// The access token of a person who may do that, where the token's own may not.
    pub admin_token: Option<Zeroizing<String>>,
    /// Does a list show secrets?
    pub show_secrets: bool,
    pub limit: Option<u64>,
    pub offset: Option<u64>,
    /// The vendor's name of a field.
    pub sort: Option<String>,
    pub descending: bool,
    /// The vendor's id of a client application.
    pub id: Option<String>,
    pub name: Option<String>,
    pub new_client_id: Option<String>,
    pub new_secret: Option<Zeroizing<String>>,
    pub grants: Vec<String>,
    pub redirect_uris: Vec<String>,
    /// In seconds.
    pub access_ttl: Option<u64>,
    /// In seconds.
    pub refresh_ttl: Option<u64>,
}

impl Clients {
    /// Their names in templates.
    pub fn values(&self) -> Vec<(&'static str, Given)> {
        let text = |text: &Option<String>| text.clone().map(Given::text);
        let number = |number: Option<u64>| number.map(|number| Given::Plain(number.into()));
        let list = |list: &[String]| (!list.is_empty()).then(|| Given::Plain(json!(list)));
        let secret = self.new_secret.as_ref().map(|secret| Given::Secret(Secret::new(secret.to_string())));
        let all = [
            ("limit", number(self.limit)),
            ("offset", number(self.offset)),
            ("sort", text(&self.sort)),
            ("order", self.descending.then(|| Given::Plain(Value::from("DESC")))),
            ("id", text(&self.id)),
            ("name", text(&self.name)),
            ("new_client_id", text(&self.new_client_id)),
            ("new_secret", secret),
            ("grants", list(&self.grants)),
            ("redirect_uris", list(&self.redirect_uris)),
            ("access_ttl", number(self.access_ttl)),
            ("refresh_ttl", number(self.refresh_ttl)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}
