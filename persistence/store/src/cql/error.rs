//! What a driver's error means to the caller: try again, write something else, or give up.

use scylla::errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError};

use crate::StoreError;

pub(super) fn of_request(e: impl Into<ExecutionError>) -> StoreError {
    match e.into() {
        ExecutionError::LastAttemptError(e) => of_attempt(e),
        ExecutionError::PrepareError(e) => of_prepare(e),
        // The caller's values or statement: the same again ends the same.
        e @ ExecutionError::BadQuery(_) => StoreError::Failed(e.to_string()),
        // No connection, or no answer in time: its outcome is unknown, and writing it again changes nothing.
        e => StoreError::Unavailable(e.to_string()),
    }
}

pub(super) fn of_prepare(e: PrepareError) -> StoreError {
    match e {
        PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(DbError::Invalid, message),
        } => StoreError::Failed(format!("{message}; make the tables first: switchboard schema")),
        PrepareError::AllAttemptsFailed { first_attempt } => of_attempt(first_attempt),
        e => StoreError::Unavailable(e.to_string()),
    }
}

pub(super) fn of_session(e: NewSessionError) -> StoreError {
    match e {
        e @ (NewSessionError::IllegalConfig(_) | NewSessionError::EmptyKnownNodesList) => {
            StoreError::Failed(e.to_string())
        }
        e => StoreError::Unavailable(e.to_string()),
    }
}

fn of_attempt(e: RequestAttemptError) -> StoreError {
    match e {
        // Only the size of a value makes the store refuse it. Any other invalid request is a wrong schema or build: a
        // placeholder in a message's place would lose the message.
        RequestAttemptError::DbError(DbError::Invalid, message) if is_about_size(&message) => {
            StoreError::Refused(message)
        }
        RequestAttemptError::DbError(
            e @ (DbError::Invalid
            | DbError::SyntaxError
            | DbError::Unauthorized
            | DbError::AuthenticationError
            | DbError::ConfigError
            | DbError::AlreadyExists { .. }
            | DbError::FunctionFailure { .. }),
            message,
        ) => StoreError::Failed(format!("{e}: {message}")),
        e @ (RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_)) => {
            StoreError::Failed(e.to_string())
        }
        e => StoreError::Unavailable(e.to_string()),
    }
}

fn is_about_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("too large") || message.contains("too big")
}

/// A row that is not of the shape we wrote.
pub(super) fn torn(e: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("a row cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_table_is_no_reason_for_a_placeholder() {
        let invalid = |message: &str| of_attempt(RequestAttemptError::DbError(DbError::Invalid, message.into()));
        assert!(matches!(invalid("table events does not exist"), StoreError::Failed(_)));
        assert!(matches!(
            invalid("Mutation of 33554500 bytes is too large for the maximum size of 16777216"),
            StoreError::Refused(_)
        ));
    }

    #[test]
    fn what_may_pass_is_unavailable() {
        for e in [DbError::Overloaded, DbError::ServerError, DbError::IsBootstrapping] {
            let e = of_attempt(RequestAttemptError::DbError(e, String::new()));
            assert!(matches!(e, StoreError::Unavailable(_)), "{e}");
        }
    }
}
