//! Who a certificate speaks for: SPIFFE IDs in the URI SAN, and TLS configurations that
//! check them.

pub mod rights;
mod spiffe;
pub mod tls;
mod token;
mod validity;

pub use spiffe::{Identity, InvalidIdentity, TrustDomain, of_certificate};
pub use token::{InvalidJoinToken, JoinToken};
pub use validity::{Validity, validity};
