//! One exchange with the token server, and its span.

use std::time::Instant;

use http::{Method, StatusCode};

use super::{Prepared, Source};
use crate::oauth::client::host_and_port;
use crate::oauth::file::Op;
use crate::oauth::response::{self, Answer};
use crate::oauth::{Class, TokenError, request};
use crate::telemetry::trace::{Place, Side, Span, Value};

/// What is known of an exchange that is recorded. Security: no path and no query, which may hold credentials.
struct Asked {
    op: Op,
    method: Method,
    server: (String, u16),
    started: Instant,
}

impl Source {
    /// Sends what is prepared, and reads the answer.
    pub(super) async fn ask(&self, op: Op, prepared: &Prepared) -> Result<Answer, TokenError> {
        let request = request::build(&self.config.dialect, op, &prepared.inputs)?;
        let (host, port) = host_and_port(request.uri()).unwrap_or_default();
        let port = port.unwrap_or(if request.uri().scheme_str() == Some("http") { 80 } else { 443 });
        let (method, started) = (request.method().clone(), tokio::time::Instant::now().into_std());
        let asked = Asked { op, method, server: (host, port), started };
        let mut status = None;
        let read = match self.client.send(request).await {
            Ok(reply) => {
                status = Some(reply.status);
                let answered = self.clock.now().wall;
                let read = response::read(&self.config.dialect, op, &prepared.inputs, &reply, answered);
                read.map_err(|error| self.told(error, &asked.server.0))
            }
            Err(error) => Err(error),
        };
        if self.tracer.is_on() {
            let refused = read.as_ref().map_or_else(Some, |answer| answer.access.as_ref().err());
            self.tracer.end(self.span(asked, status, refused.map(|error| error.class)));
        }
        if let Ok(answer) = &read {
            self.remember(
                answer.access.as_ref().ok().map(|access| &access.token).into_iter().chain(&answer.refresh_token),
            );
        }
        read
    }

    fn span(&self, asked: Asked, status: Option<StatusCode>, refused: Option<Class>) -> Span {
        let Asked { op, method, server: (host, port), started } = asked;
        let mut attributes = vec![
            ("http.request.method", Value::from(method.as_str())),
            ("server.address", Value::Text(host)),
            ("server.port", Value::from(port)),
            ("tokenbroker.token", Value::from(self.config.name.as_str())),
            ("tokenbroker.operation", Value::Text(format!("{op:?}").to_lowercase())),
        ];
        attributes.extend(status.map(|status| ("http.response.status_code", Value::from(status.as_u16()))));
        attributes.extend(refused.map(|class| ("error.type", Value::from(class.as_str()))));
        Span {
            place: Place::root(),
            name: format!("{method} {}", self.config.name),
            side: Side::Client,
            started,
            ended: tokio::time::Instant::now().into_std(),
            attributes,
            failed: refused.is_some(),
        }
    }

    /// What only this side can add to an answer's error: who gave it, and to whose certificate.
    fn told(&self, mut error: TokenError, by: &str) -> TokenError {
        error.problem = format!("{by}: {}", error.problem);
        if let (Class::UserAction, Some(certificate)) = (error.class, &self.client.certificate) {
            error.fix = format!("{}: {certificate}", error.fix);
        }
        error
    }
}
