//! What is watched from outside: readiness, and the metrics.

use http::StatusCode;

use super::{Admin, Answer, answer, plain};
use crate::expiry::Kind;
use crate::telemetry::text;
use crate::token::cache::State;

impl Admin {
    /// Every required token usable, and no drain begun.
    pub(super) fn readiness(&self, query: Option<&str>) -> Answer {
        let draining = self.draining.is_cancelled();
        let now = (self.now)();
        let shown = self.shown.load();
        let required = shown.tokens.iter().filter(|token| token.config.required);
        let ready = !draining && required.clone().all(|token| token.ready(now));
        let mut body = if ready { "ok\n".to_owned() } else { "not ready\n".to_owned() };
        if query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose="))) {
            body.clear();
            for token in &shown.tokens {
                let snapshot = token.slot.snapshot();
                let mark = if token.ready(now) { "+" } else { "-" };
                let optional = if token.config.required { "" } else { " (not required)" };
                let error = snapshot.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                let state = snapshot.state(now).as_str();
                body.push_str(&format!("[{mark}] token {}: {state}{optional}{error}\n", token.config.name));
            }
            if draining {
                body.push_str("[-] draining\n");
            }
            body.push_str(if ready { "ok\n" } else { "not ready\n" });
        }
        plain(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }

    /// The metrics, with what is known only now.
    pub(super) fn scrape(&self, accept: Option<&str>) -> Answer {
        let (now, shown) = ((self.now)(), self.shown.load());
        for token in &shown.tokens {
            let snapshot = token.slot.snapshot();
            let access = snapshot.token.as_ref().and_then(|token| token.expires).map(|expires| expires.wall);
            let ends = [access, snapshot.refresh_expires_at, token.secret_expires(&snapshot)];
            let [access, refresh, secret] = ends.map(|end| end.map(jiff::Timestamp::as_second));
            self.metrics.token(&token.config.name, snapshot.state(now).as_str(), &State::ALL);
            self.metrics.token_ends(&token.config.name, access, refresh, secret);
        }
        for one in &shown.expiring {
            let end = Some(one.when.as_second());
            match one.kind {
                Kind::Certificate => self.metrics.certificate(one.name(), end),
                Kind::Ca => self.metrics.ca(&one.table, end),
                Kind::Secret | Kind::RefreshToken => {}
            }
        }
        if let Some(stores) = self.stores.as_ref().filter(|stores| stores.main.is_shared()) {
            self.metrics.store(stores.main.trouble().is_none());
        }
        self.metrics.reloaded_well.set(shown.error.is_none().into());
        let (content_type, body) = text::negotiated(accept, self.metrics.encode());
        answer(StatusCode::OK, content_type, body)
    }
}
