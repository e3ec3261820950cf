//! Backups: everything that the store holds as of one moment, in one file; and an installation
//! made of it. Keys are files, and no part of a backup.

mod format;
mod take;

pub(crate) use format::Reader;
pub use format::{FormatError, Header};
pub use take::{TakeError, Taking, take_into};
