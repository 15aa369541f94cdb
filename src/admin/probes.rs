//! The second listener, for whoever watches from outside, such as a kubelet: is it alive, is it ready, the metrics.
//!
//! Security: other machines may reach it, under any name. There is nothing else, nothing can be changed, and readiness does not say
//! which token is not usable.

use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::timeout;

use super::{Admin, Answer, method_refused, plain};
use crate::door;
use crate::http1::{After, Answers, Client, Request};
use crate::problem::{Problem, REQUEST_ID, RequestId};

/// For reading an answer, however slowly.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Answers the requests of `[admin] probes`, one a connection: whoever asks often has no place for longer than others.
pub struct Probes(pub Arc<Admin>);

impl Answers for Probes {
    async fn answer(&self, client: &mut Client, request: Request) -> After {
        let answer = self.0.probe(&request);
        let id = || RequestId::new(request.fields.get(REQUEST_ID));
        let mut answer = answer.unwrap_or_else(|problem| problem.response(&id()));
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        timeout(ANSWER_MAX, client.respond(request, answer)).await.unwrap_or(After::Cut)
    }
}

impl Admin {
    fn probe(&self, request: &Request) -> Result<Answer, Problem> {
        door::origin(&request.fields, "http", door::host(request)?.as_ref(), &[])?;
        let reads = request.method == Method::GET || request.method == Method::HEAD;
        match request.path() {
            "/livez" if reads => Ok(plain(StatusCode::OK, "ok\n".into())),
            "/readyz" if reads => Ok(self.readiness(None)),
            "/metrics" if reads => Ok(self.scrape(request.fields.text("accept"))),
            "/livez" | "/readyz" | "/metrics" => Err(method_refused("GET, HEAD")),
            _ => {
                let detail = "nothing is served under this path; see /livez, /readyz and /metrics";
                Err(Problem::new(StatusCode::NOT_FOUND, "no_route", detail))
            }
        }
    }
}
