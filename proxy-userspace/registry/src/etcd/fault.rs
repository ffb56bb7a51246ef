//! What etcd's errors mean for who asked.
//!
//! etcd's own texts are in `api/v3rpc/rpctypes/error.go` of its source and have been the same from 3.4 to 3.6; the codes are
//! gRPC's (<https://grpc.io/docs/guides/status-codes/>).

use std::error::Error as _;

use etcd_client::Error;

use crate::StoreError;
use portsplice_model::error_line;

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const DATA_LOSS: i32 = 15;

/// Why a call to etcd brought nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no such lease, or no longer.
    LeaseGone,
    /// What was to be read has been compacted away.
    Compacted,
    /// The request has more in it than this etcd takes, or the answer more than is taken here.
    TooLarge,
    /// Anything else.
    Store(StoreError),
}

impl Fault {
    /// Whether another endpoint, or a new connection, may do better.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::LeaseGone => Self::unavailable("etcd: the lease of this node has expired"),
            Fault::Compacted => Self::unavailable("etcd: the revision being read has been compacted"),
            Fault::TooLarge => Self::refused(
                "etcd: the request is too large; see its --max-request-bytes (1.5 MiB if not set) and --max-txn-ops (128)",
            ),
            Fault::Store(error) => error,
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::GRpcStatus(status) => {
                let source = status.source().map(error_line);
                of_status(i32::from(status.code()), status.message(), source.as_deref())
            }
            // What the client calls a lease that the server answers about with no time left.
            Error::LeaseKeepAliveError(text) if text == "lease not found" => Self::LeaseGone,
            Error::InvalidArgs(_) | Error::InvalidUri(_) => {
                StoreError::refused(format!("etcd: {error}")).because(error).into()
            }
            Error::TransportError(e) => StoreError::unavailable(format!("etcd: {}", error_line(&e))).because(e).into(),
            error => StoreError::unavailable(format!("etcd: {error}")).because(error).into(),
        }
    }
}

/// What a status says. `source` is what the connection says, if it was that.
fn of_status(code: i32, message: &str, source: Option<&str>) -> Fault {
    let message = message.trim_start_matches("etcdserver: ");
    let refused = |advice: &str| Fault::Store(StoreError::refused(format!("etcd: {message}{advice}")));
    match code {
        NOT_FOUND if message.contains("lease not found") => Fault::LeaseGone,
        OUT_OF_RANGE if message.contains("has been compacted") => Fault::Compacted,
        // tonic's own, of an answer beyond the limit that it was given.
        OUT_OF_RANGE if message.contains("message length too large") => Fault::TooLarge,
        INVALID_ARGUMENT if message.contains("too large") || message.contains("too many operations") => Fault::TooLarge,
        PERMISSION_DENIED => refused("; the user's role needs the permissions that docs/registry.md lists"),
        RESOURCE_EXHAUSTED if message.contains("space exceeded") => {
            refused("; compact and defragment its database, then `etcdctl alarm disarm`")
        }
        DATA_LOSS => refused("; the cluster needs its administrator"),
        // Another member, or the next attempt with a new token, does better.
        INVALID_ARGUMENT if message.contains("revision of auth store is old") => unavailable(message, source),
        INVALID_ARGUMENT if message.contains("user name is empty") => {
            refused("; authentication is required: give USER:PASSWORD in `registry.token-file`")
        }
        INVALID_ARGUMENT if message.contains("authentication failed") => {
            refused("; check USER:PASSWORD in `registry.token-file`")
        }
        FAILED_PRECONDITION if message.contains("authentication is not enabled") => {
            refused("; leave `registry.token-file` empty, or enable it in etcd")
        }
        INVALID_ARGUMENT | FAILED_PRECONDITION => refused(""),
        _ => unavailable(message, source),
    }
}

fn unavailable(message: &str, source: Option<&str>) -> Fault {
    let text = match source {
        Some(source) => format!("etcd: {message}: {source}"),
        None => format!("etcd: {message}"),
    };
    Fault::Store(StoreError::unavailable(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(code: i32, message: &str) -> StoreError {
        match of_status(code, message, None) {
            Fault::Store(error) => error,
            fault => panic!("{fault:?}"),
        }
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for (code, message) in [
            (14, "etcdserver: no leader"),
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: leader changed"),
            (4, "context deadline exceeded"),
            (8, "etcdserver: too many requests"),
            (16, "etcdserver: invalid auth token"),
            (3, "etcdserver: revision of auth store is old"),
            (2, "tcp connect error"),
            (13, "h2 protocol error"),
            (1, "operation was canceled"),
        ] {
            assert!(store(code, message).is_transient(), "{message}");
        }
    }

    #[test]
    fn what_somebody_must_change_is_not() {
        for (code, message, says) in [
            (7, "etcdserver: permission denied", "docs/registry.md"),
            (8, "etcdserver: mvcc: database space exceeded", "alarm disarm"),
            (15, "etcdserver: corrupt cluster", "administrator"),
            (3, "etcdserver: authentication failed, invalid user ID or password", "USER:PASSWORD"),
            (3, "etcdserver: user name is empty", "authentication is required"),
            (9, "etcdserver: authentication is not enabled", "leave"),
        ] {
            let error = store(code, message);
            assert!(!error.is_transient(), "{message}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_request_that_is_too_large_is_known() {
        for message in ["etcdserver: request is too large", "etcdserver: too many operations in txn request"] {
            assert!(matches!(of_status(3, message, None), Fault::TooLarge), "{message}");
        }
        let answer = "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
        assert!(matches!(of_status(11, answer, None), Fault::TooLarge));
    }

    #[test]
    fn a_lease_and_a_revision_that_are_gone_are_known() {
        assert!(matches!(of_status(5, "etcdserver: requested lease not found", None), Fault::LeaseGone));
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert!(matches!(of_status(11, compacted, None), Fault::Compacted));
    }
}
