//! What an administrator does on the controller's own machine: making an installation, and restoring one
//! from a backup.

pub mod init;
pub mod restore;
mod staging_dir;
