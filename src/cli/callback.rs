//! What a browser brings back from a login: judged, and waited for on loopback (RFC 8252 §7.3). The code is never logged.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Limits, Listen};
use crate::door;
use crate::http1::{After, Answers, Client, Request};
use crate::oauth::client::host_and_port;
use crate::problem::{Problem, REQUEST_ID, RequestId};
use crate::secret::Secret;
use crate::server::{self, Bound, Places, Serve};

/// How long somebody has for a login.
const LIFETIME: Duration = Duration::from_secs(300);
/// For the last answer to arrive.
const LAST_ANSWER: Duration = Duration::from_secs(2);
const CONNECTIONS_MAX: usize = 16;

/// The login that was begun.
pub(super) struct Expected {
    pub state: Secret,
    pub redirect_uri: String,
    /// The page where it began: who answers is of its origin (RFC 9207).
    pub page: String,
}

/// What came of it: the code, or why there is none.
pub(super) type Came = Result<Secret, String>;

impl Expected {
    /// Judges the query of the URL that the browser came back with. `Err`: it is no answer to this login.
    pub fn judge(&self, query: &str) -> Result<Came, &'static str> {
        let mut found: [Option<String>; 4] = Default::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(at) = ["state", "code", "error", "iss"].iter().position(|known| *known == name) else { continue };
            if found[at].replace(value.into_owned()).is_some() {
                return Err("a parameter stands there twice");
            }
        }
        let [state, code, error, iss] = found;
        // Security: without the state, anybody's page could bring its own login here. Compared in constant time.
        if state.map(Secret::new).is_none_or(|state| state != self.state) {
            return Err("the state is not that of this login");
        }
        if iss.is_some_and(|iss| origin(&iss).is_none() || origin(&iss) != origin(&self.page)) {
            return Ok(Err("it was answered by another server than the one of the login (iss)".to_owned()));
        }
        Ok(match (code.filter(|code| !code.is_empty()), error) {
            (Some(_), Some(_)) => Err("the answer has both a code and an error: it is not to be trusted".to_owned()),
            (Some(code), None) => Ok(Secret::new(code)),
            (None, Some(error)) => Err(word(&error)),
            (None, None) => Err("the answer has no code".to_owned()),
        })
    }

    /// Where the listener for it has to be; `None` if it does not come back to this machine.
    pub fn address(redirect_uri: &str) -> Option<SocketAddr> {
        let uri: Uri = redirect_uri.parse().ok().filter(|uri: &Uri| uri.scheme_str() == Some("http"))?;
        let (host, port) = host_and_port(&uri)?;
        let ip = if host == "localhost" { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { host.parse().ok()? };
        ip.is_loopback().then_some(SocketAddr::new(ip, port?))
    }
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, Option<u16>)> {
    let uri: Uri = url.parse().ok()?;
    let (host, port) = host_and_port(&uri)?;
    let scheme = uri.scheme_str()?.to_owned();
    let own = if scheme == "https" { 443 } else { 80 };
    Some((scheme, host, port.or(Some(own))))
}

/// Security: the vendor's word for the error, without what a terminal would act upon.
fn word(error: &str) -> String {
    error.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// Waits for the browser, at most five minutes. What is no answer to this login ends nothing.
pub(super) async fn wait(bound: Bound, expected: Expected, limits: Limits) -> Came {
    let (sender, came) = oneshot::channel();
    let callback = Callback { expected, came: Mutex::new(Some(sender)) };
    let (connections, drain) = (TaskTracker::new(), CancellationToken::new());
    let serve = Serve {
        answers: callback,
        limits,
        stall: server::STALL,
        routes: None,
        places: Places::Shared(Arc::new(Semaphore::new(CONNECTIONS_MAX))),
        metrics: None,
        connections: connections.clone(),
        drain: drain.clone(),
    };
    let accepting = serve.accept(bound);
    tokio::pin!(accepting);
    let came = tokio::select! {
        () = &mut accepting => return Err("the listener for the browser broke off".to_owned()),
        came = tokio::time::timeout(LIFETIME, came) => came,
    };
    drain.cancel();
    connections.close();
    let _ = tokio::time::timeout(LAST_ANSWER, async {
        accepting.await;
        connections.wait().await;
    })
    .await;
    let late = || Err(format!("nobody logged in within {} minutes", LIFETIME.as_secs() / 60));
    came.map_or_else(|_| late(), |came| came.unwrap_or_else(|_| late()))
}

struct Callback {
    expected: Expected,
    came: Mutex<Option<oneshot::Sender<Came>>>,
}

impl Answers for Callback {
    async fn answer(&self, client: &mut Client, request: Request) -> After {
        let response = self
            .judge(&request)
            .unwrap_or_else(|problem| problem.response(&RequestId::new(request.fields.get(REQUEST_ID))));
        client.respond(request, response).await
    }
}

impl Callback {
    fn judge(&self, head: &Request) -> Result<Response<Bytes>, Problem> {
        let expected: Uri = self.expected.redirect_uri.parse().unwrap_or_default();
        let (name, port) = host_and_port(&expected).unwrap_or_default();
        let ours = door::host(head)?.is_some_and(|host| {
            host.name.trim_matches(['[', ']']) == name && host.port.unwrap_or(80) == port.unwrap_or(80)
        });
        if !ours {
            return Err(door::host_refused());
        }
        if head.path() != expected.path() {
            return Err(Problem::new(StatusCode::NOT_FOUND, "no_route", "a login comes back to another path"));
        }
        if head.method != Method::GET {
            let allow = Some("GET".to_owned());
            let refused = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_refused", "a login comes back with GET");
            return Err(Problem { allow, ..refused });
        }
        let refused = |why: &str| Problem::new(StatusCode::BAD_REQUEST, "login_refused", why);
        let came = self.expected.judge(head.query().unwrap_or_default()).map_err(refused)?;
        let sender = self.came.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sender = sender.ok_or_else(|| refused("this login has come back already"))?;
        let answer = match &came {
            Ok(_) => page(StatusCode::OK, "The login is back at tokenbroker: see there. This page can be closed.\n"),
            Err(_) => page(StatusCode::BAD_REQUEST, "There was no login: see tokenbroker. This page can be closed.\n"),
        };
        // Whoever waited may have given up.
        let _ = sender.send(came);
        Ok(answer)
    }
}

/// Security: the page's own URL holds the code; nothing may keep it or pass it on.
fn page(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Where to listen.
pub(super) fn bind(address: SocketAddr) -> Result<Bound, String> {
    let failed = |error| format!("cannot listen on {address} for the browser: {error}; free the port, or use --paste");
    crate::server::bind(&Listen::Tcp(address), false).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(redirect_uri: &str) -> Expected {
        let page = "https://auth.example/login?x=1".to_owned();
        Expected { state: Secret::new("s".into()), redirect_uri: redirect_uri.to_owned(), page }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_browser_ends_after_five_minutes() {
        let bound = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let uri = format!("http://{}/callback", bound.listen);
        let limits = Limits {
            connections: 1,
            head_max: 65536,
            headers_max: 100,
            head_timeout: Duration::from_secs(10),
            drain_timeout: Duration::ZERO,
            threads: 1,
        };
        let began = tokio::time::Instant::now();
        let came = wait(bound, expected(&uri), limits).await;
        assert_eq!(came.unwrap_err(), "nobody logged in within 5 minutes");
        assert!((300..310).contains(&began.elapsed().as_secs()));
    }

    #[test]
    fn the_issuer_is_of_the_origin_of_the_page_and_errors_are_a_line() {
        let expected = expected("http://127.0.0.1:1/");
        let came = |query: &str| expected.judge(query).unwrap().map(|code| code == Secret::new("c".into()));
        for iss in ["https://auth.example", "https://AUTH.example:443/tenant"] {
            assert_eq!(came(&format!("state=s&code=c&iss={iss}")), Ok(true), "{iss}");
        }
        for iss in ["", "auth.example", "http://auth.example", "https://auth.example:444", "https://evil.example"] {
            assert!(came(&format!("state=s&code=c&iss={iss}")).unwrap_err().contains("another server"), "{iss}");
        }
        assert_eq!(came("state=s&error=a%0a%1b%5b1mb"), Err("a  [1mb".to_owned()));
        assert_eq!(came("state=s&code="), Err("the answer has no code".to_owned()));
        assert_eq!(expected.judge("state=S&code=c").unwrap_err(), "the state is not that of this login");
    }
}
