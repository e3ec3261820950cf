//! Certificates: the CA, what it signs, and the tokens by which machines ask for one.

pub mod authority;
mod server_certificate;
pub mod token;

pub use authority::{Authority, Issued, PkiError};
pub use server_certificate::ServerCertificate;
