//! Between the task that owns the kernel and all that asks something of it or reports for it.

mod inbox;
mod outbox;

pub use inbox::{
    Change, Confirmation, Content, Controllers, Dialled, Inbox, Noticed, Offered, Probed, Wake,
};
pub use outbox::Outbox;
