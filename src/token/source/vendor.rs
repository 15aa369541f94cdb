//! What is asked of a vendor beside tokens.

use super::{Exchange, Source};
use crate::oauth::file::Op;
use crate::oauth::inputs::Given;
use crate::oauth::{TokenError, request, response};
use crate::secret::Secret;

impl Source {
    /// Ends a token (RFC 7009, or as the dialect has it).
    pub(super) async fn end(&self, token: &Secret, refresh: bool) -> Option<Result<(), TokenError>> {
        let places = |name| self.config.dialect.places(Op::Revoke, name);
        let kind = if refresh { "refresh_token" } else { "access_token" };
        let known = self.config.revoke_url.is_some() || !places("revoke_url");
        if !known || !(places("token") || places(kind)) {
            return None;
        }
        Some(self.sent(token, refresh).await)
    }

    async fn sent(&self, token: &Secret, refresh: bool) -> Result<(), TokenError> {
        let mut inputs = self.prepare(Op::Revoke).await?.inputs;
        if refresh {
            inputs.refresh_token = Some(token.clone());
        } else {
            inputs.values.insert("access_token", Given::Secret(token.clone()));
        }
        let request = request::build(&self.config.dialect, Op::Revoke, &inputs)?;
        let reply = self.client.send(request).await?;
        response::done(&self.config.dialect, Op::Revoke, &inputs, &reply, self.clock.now().wall)
    }
}
