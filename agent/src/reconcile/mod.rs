//! The task that owns the kernel: one thread, which nothing else may change the rules beside.

pub mod apply;
mod check;
mod contention;
pub mod enforce;
mod inbox;
mod look;
mod outbox;
mod stage;
mod standing;
mod task;

pub use check::{Inspection, inspect};
pub use inbox::{Change, Content, Controllers, Inbox, Offered, Wake};
pub use outbox::Outbox;
pub use stage::{Staged, stage};
pub use task::{Reconciler, Settings};
