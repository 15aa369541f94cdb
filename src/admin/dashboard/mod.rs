//! The page for a browser: a few files without a line of anybody else's, and what a browser may do with them.

use http::header::{CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use super::{Answer, answer};

/// A script.
const JS: &str = "text/javascript; charset=utf-8";

/// Path, type and text.
const FILES: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("page.html")),
    ("/dashboard/page.css", "text/css; charset=utf-8", include_str!("page.css")),
    ("/dashboard/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/dashboard/page.js", JS, include_str!("page.js")),
    ("/dashboard/parts.js", JS, include_str!("parts.js")),
    ("/dashboard/requests.js", JS, include_str!("requests.js")),
    ("/dashboard/routes.js", JS, include_str!("routes.js")),
    ("/dashboard/tokens.js", JS, include_str!("tokens.js")),
];

/// Security: what a vendor, an API or a client sent is text in this page. Should it ever be more, it can load nothing, send
/// nothing elsewhere, and be framed by nobody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// What every answer to an operator has.
pub(super) const GUARDS: [(HeaderName, HeaderValue); 5] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// `None`: there is no such file.
pub(super) fn file(path: &str) -> Option<Answer> {
    let (_, content_type, text) = FILES.iter().find(|(of, ..)| *of == path)?;
    Some(answer(StatusCode::OK, content_type, *text))
}

pub(super) fn guarded(mut answer: Answer) -> Answer {
    answer.headers_mut().extend(GUARDS);
    answer
}
