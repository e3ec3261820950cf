//! Between the task that owns the kernel and all that asks something of it or reports for it.

mod change;
mod inbox;
mod outbox;

pub use change::Change;
pub use inbox::{
    Confirmation, Content, Controllers, DialResult, Inbox, Offered, ProbeResults, ReceivedSets,
    Requests,
};
pub use outbox::Outbox;
