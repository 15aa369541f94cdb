//! What Entra ID says when it refuses an application, by number.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;

use super::message::Reply;
use super::mint;

/// A refusal: the number stands in the description and in `error_codes`.
pub fn refusal(status: StatusCode, error: &str, number: u32, text: &str, now: Timestamp) -> Reply {
    let (trace, correlation, at) = (mint::uuid(), mint::uuid(), stamp(now));
    let body = json!({
        "error": error,
        "error_description":
            format!("AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {at}"),
        "error_codes": [number],
        "timestamp": at,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": format!("https://login.microsoftonline.com/error?code={number}"),
    });
    Reply::json(status, body)
}

pub const EXPIRED: u32 = 7_000_222;

/// The words of [`EXPIRED`].
pub fn expired(client_id: &str) -> String {
    format!(
        "The provided client secret keys for app '{client_id}', are expired. Visit the Azure portal to create new keys for \
         your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: \
         https://aka.ms/certCreds."
    )
}

/// [`EXPIRED`] as the vendor's page prints it: the description does not end, its quotes are escaped, the URI has none.
pub fn malformed(client_id: &str, now: Timestamp) -> Reply {
    let (text, trace, correlation, at) = (expired(client_id), mint::uuid(), mint::uuid(), stamp(now));
    let body = format!(
        r#"{{ "error": "invalid_client", "error_description": "AADSTS7000222: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: \"::\"{at}\", \"error_codes\": [7000222], \"timestamp\": \"{at}\", \"trace_id\": \"{trace}\", \"correlation_id\": \"{correlation}\", \"error_uri\": https://login.microsoftonline.com/error?code=7000222 }}"#
    );
    Reply::json(StatusCode::UNAUTHORIZED, body)
}

fn stamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
