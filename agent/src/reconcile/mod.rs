//! The task that owns the kernel: one thread, which nothing else may change the rules beside.

pub mod apply;
mod check;
mod contention;
pub mod enforce;
mod flows;
mod hold;
pub mod how;
mod inbox;
mod live;
mod look;
pub mod observe;
mod offer;
mod outbox;
mod probing;
pub mod prove;
mod stage;
mod standing;
mod task;
mod tell;
mod trial;

pub use check::{Inspection, inspect};
pub use inbox::{
    Change, Confirmation, Content, Controllers, Dialled, Inbox, Noticed, Offered, Probed, Wake,
};
pub use outbox::Outbox;
pub use stage::{Staged, stage};
pub use task::{Reconciler, Settings};
