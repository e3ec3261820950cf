//! An operator: rights, and the keys that speak for it.

use serde::{Deserialize, Serialize};
use voipfleet_protocol::identity::rights::Binding;

/// Made when an admin adds the operator. The first admin of the installation needs none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    /// What it may do, and where.
    pub bindings: Vec<Binding>,
    /// The keys whose certificates speak for it: an operator who was removed and added again
    /// is not brought back by the old certificate.
    #[serde(default)]
    pub keys: Vec<OperatorKey>,
    /// When it was added, Unix time.
    pub added_ms: u64,
    /// Who added it.
    pub added_by: String,
}

/// A key that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorKey {
    /// SHA-256 of the public key, hexadecimal.
    pub key_hash: String,
    /// The serial number of its certificate, hexadecimal.
    pub serial: String,
    /// When the certificate ends, Unix time.
    pub expires_ms: u64,
}
