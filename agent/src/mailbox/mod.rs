//! Between the task that owns the kernel and all that asks something of it or reports for it.

mod inbox;
mod outbox;

pub use inbox::{
    Change, Confirmation, Content, Controllers, DialResult, Inbox, Offered, ProbeResults,
    ReceivedSets, Requests,
};
pub use outbox::Outbox;
