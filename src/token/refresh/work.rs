//! Work that may panic, such as a parser's, in a task of its own; and what an exchange cannot go on with.

use crate::oauth::{Class, Outcome, TokenError};

pub(super) fn busy() -> TokenError {
    let problem = "another replica is at work on this token";
    TokenError::new(Class::Transient, problem, "nothing to do: what it brings is used here too").of(Outcome::NotSent)
}

pub(super) fn unsaved() -> TokenError {
    let problem = "the shared store did not take what has to be in it before anything is sent";
    TokenError::new(Class::Transient, problem, "see the log for why; it is tried again").of(Outcome::NotSent)
}

pub(super) fn unwritable() -> TokenError {
    TokenError::new(Class::Config, "the access token cannot stand in the route's header", "check the route's `format`")
}

#[expect(clippy::disallowed_methods, reason = "the caller waits for the task, so a drain does too")]
pub(super) async fn own_task<T: Send + 'static>(
    broken: Outcome,
    task: impl Future<Output = Result<T, TokenError>> + Send + 'static,
) -> Result<T, TokenError> {
    tokio::spawn(task).await.unwrap_or_else(|_| {
        let problem = "the exchange broke off inside the broker";
        Err(TokenError::new(Class::Unknown, problem, "this is a fault of the broker: report it").of(broken))
    })
}
