//! How many files the process may have open: connections and the store share them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is kept free of connections: the store's files, fetches, name servers, the log.
const RESERVED: usize = 256;
/// What is assumed where the system does not say.
const DEFAULT: u64 = 1024;
/// Beyond this nothing is gained.
const MOST: u64 = 1024 * 1024;

/// Raises the soft limit to the hard one; what may be open then.
pub(crate) fn raise() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((DEFAULT, DEFAULT));
    let wanted = hard.min(MOST);
    let limit = if soft < wanted {
        match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
            Ok(()) => wanted,
            Err(error) => {
                tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
                soft
            }
        }
    } else {
        soft
    };
    usize::try_from(limit.min(MOST)).unwrap_or(usize::MAX)
}

/// What is left for connections.
pub(crate) fn for_connections(limit: usize) -> usize {
    limit.saturating_sub(RESERVED).max(limit / 4)
}
