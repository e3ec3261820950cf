//! What an administrator does on the controller's own machine: making an installation, and restoring one
//! from a backup.

mod context_file;
pub mod init;
pub mod new_admin;
pub mod restore;
mod staging_dir;
