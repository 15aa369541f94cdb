//! The data path: a tower service for each listener and worker thread.
//!
//! The layers carry what concerns every request alike; the steps of a request are plain functions in `forward`. Nothing in
//! here can fetch a token, only wait for one.

mod clients;
mod download;
mod error;
mod exchange;
mod forward;
mod headers;
mod hops;
mod idle;
mod inject;
mod retry;
mod route;
mod upgrade;
mod upload;
mod upstream;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tower::{Service, ServiceBuilder, service_fn};
use tracing::{debug, error, info, warn};

pub use download::Body;
pub use error::Trouble;
pub use forward::Context;
use forward::{Answered, forward};
pub use headers::{only_chunked, to_client, to_upstream};
pub use route::{Route, Routes, TokenUse, check_form};
pub use upgrade::{Place, Tunnels};
pub use upstream::Upstream;

use crate::problem::Problem;
use crate::telemetry::metrics::{Metrics, Origin};

/// A request, and the connection that it came over.
pub type Arrived = (Request<Incoming>, Arc<Place>);

/// The service of one listener on one worker, outermost layer first.
pub fn service(
    context: Arc<Context>,
    metrics: Arc<Metrics>,
) -> impl Service<Arrived, Response = Response<Body>, Error = Infallible, Future: Send> + Clone {
    ServiceBuilder::new().layer_fn(observe).layer_fn(move |inner| catch_panic(inner, Arc::clone(&metrics))).service(
        service_fn(move |(request, place)| {
            let context = Arc::clone(&context);
            async move { Ok::<_, Infallible>(forward(&context, request, place).await) }
        }),
    )
}

/// Counts, times and logs; unwraps the answer.
fn observe<S>(inner: S) -> impl Service<Arrived, Response = Response<Body>, Error = Infallible, Future: Send> + Clone
where
    S: Service<Arrived, Response = Answered, Error = Infallible, Future: Send> + Clone,
{
    service_fn(move |arrived: Arrived| {
        let started = now();
        let method = arrived.0.method().clone();
        let answered = inner.clone().call(arrived);
        async move {
            let answered = answered.await?;
            let elapsed = started.elapsed();
            if let Some(route) = &answered.route {
                route.metrics.answered(answered.response.status(), answered.origin, elapsed.as_secs_f64());
            }
            log(&answered, &method, elapsed);
            let response = answered.response;
            Ok(response)
        }
    })
}

/// Security: no target, no field: they may hold secrets.
fn log(answered: &Answered, method: &Method, elapsed: Duration) {
    let status = answered.response.status().as_u16();
    let name = answered.route.as_ref().map(|route| route.config.name.as_str());
    let trouble = answered.route.as_ref().map(|route| &route.trouble);
    let Some(error) = &answered.error else {
        if answered.origin == Origin::Upstream && trouble.is_some_and(Trouble::ends) {
            info!(route = name, "the API answers again");
        }
        debug!(route = name, %method, status, ?elapsed, "forwarded");
        return;
    };
    let code = error.problem().code;
    if status < 500 {
        info!(route = name, %method, status, code, %error, "answered by the broker");
    } else if trouble.is_none_or(|trouble| trouble.begins(code)) {
        warn!(route = name, %method, status, code, %error, "answered by the broker, and so are the next ones like it");
    } else {
        debug!(route = name, %method, status, code, %error, "answered by the broker");
    }
}

/// A panic costs one request, not the process.
fn catch_panic<S>(
    inner: S,
    metrics: Arc<Metrics>,
) -> impl Service<Arrived, Response = Answered, Error = Infallible, Future: Send> + Clone
where
    S: Service<Arrived, Response = Answered, Error = Infallible, Future: Send> + Clone,
{
    service_fn(move |arrived| {
        let answer = AssertUnwindSafe(inner.clone().call(arrived)).catch_unwind();
        let metrics = Arc::clone(&metrics);
        async move {
            answer.await.unwrap_or_else(|_| {
                metrics.panics.inc();
                error!("a request ended in a panic: this is a fault of the broker");
                let detail = "this is a fault of the broker: see its log";
                let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
                let (response, error) = (problem.response(), Some(problem.into()));
                Ok(Answered { response, route: None, origin: Origin::Broker, error })
            })
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "how long a request took, for the histogram; nothing is decided by it")]
fn now() -> Instant {
    Instant::now()
}
