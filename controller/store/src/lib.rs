//! The controller's store: an ordered key-value store with compare-and-swap transactions,
//! revisions and watch, in the shape of etcd.
//!
//! [`Store`] is what an engine implements; [`suite`] is what every engine must pass. Everything
//! else here is independent of the engine: [`transact`] is the one retry loop, [`parts`] keeps
//! what is too large for a transaction, [`records`] and [`keys`] are the types and names of what
//! is stored.

mod error;
mod exception;
mod follow;
mod history;
pub mod keys;
mod limits;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod parts;
pub mod records;
mod revision;
mod sled;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod suite;
mod supervision;
mod transact;
mod txn;
mod watch;

pub use error::{EngineError, StoreError};
pub use follow::each_key;
pub use limits::Limits;
pub use revision::{Revision, Versioned};
pub use sled::{Embedded, Filling, OPENING_THREAD};
pub use store::{Entry, Page, Pages, Snapshot, Store, every};
pub use supervision::{COMMIT_LIMIT, Health, StoreFailure, Supervised};
pub use transact::{ATTEMPTS, Decision, Transaction, transact, transact_at, write_batched};
pub use txn::{Expect, MAX_KEY_BYTES, Outcome, Txn};
pub use watch::{Change, Changes, WatchError};
