//! What is asked of a vendor beside tokens.

use std::sync::atomic::Ordering;

use super::{Exchange, Source, Unmanaged};
use crate::oauth::file::Op;
use crate::oauth::inputs::Given;
use crate::oauth::manage::{self, Item};
use crate::oauth::{Class, TokenError, request, response};
use crate::secret::Secret;
use crate::token::clients::Clients;

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
        let mut inputs = self.prepare(Op::Revoke, self.secret.load(Ordering::Relaxed)).await?.inputs;
        if refresh {
            inputs.refresh_token = Some(token.clone());
        } else {
            inputs.values.insert("access_token", Given::Secret(token.clone()));
        }
        let request = request::build(&self.config.dialect, Op::Revoke, &inputs)?;
        let reply = self.client.send(request).await?;
        response::done(&self.config.dialect, Op::Revoke, &inputs, &reply, self.clock.now().wall)
    }

    /// A request of the dialect's `[clients]`, with an access token of somebody who may make it.
    pub async fn clients(&self, verb: &str, access: &Secret, asked: &Clients) -> Result<Vec<Item>, TokenError> {
        let dialect = &self.config.dialect;
        if !dialect.clients.contains_key(verb) {
            let problem = format!("the dialect {} has no request to {verb} client applications", dialect.name);
            let fix = "choose another token, or describe it in [dialect.NAME.clients]";
            return Err(TokenError::new(Class::Config, problem, fix));
        }
        let asked_for = self.asked(&format!("clients.{verb}"), access, asked.values()).await;
        let mut items = asked_for.map_err(|unmanaged| unmanaged.error)?;
        if verb == "list" && !asked.show_secrets {
            items.iter_mut().for_each(|item| drop(item.remove("client_secret")));
        }
        Ok(items)
    }

    /// A request of the dialect's `[secrets]` or `[clients]`.
    pub(super) async fn asked(
        &self,
        what: &str,
        access: &Secret,
        values: Vec<(&'static str, Given)>,
    ) -> Result<Vec<Item>, Unmanaged> {
        let dialect = &self.config.dialect;
        let managed = match what.split_once('.') {
            Some(("secrets", verb)) => dialect.secrets.get(verb),
            Some(("clients", verb)) => dialect.clients.get(verb),
            _ => None,
        };
        let managed = managed.ok_or_else(|| {
            let problem = format!("the dialect {} has no request {what}", dialect.name);
            TokenError::new(Class::Config, problem, "describe it in the dialect")
        })?;
        let mut inputs = self.prepare(Op::Manage, self.secret.load(Ordering::Relaxed)).await?.inputs;
        inputs.values.extend(values);
        inputs.values.insert("access_token", Given::Secret(access.clone()));
        let request = request::manage(managed, &inputs)?;
        let reply = self.client.send(request).await?;
        let status = Some(reply.status);
        let read = manage::read(dialect, managed, &inputs, &reply, self.clock.now().wall);
        read.map_err(|error| Unmanaged { error, status })
    }
}
