//! An operator: rights, and the keys that speak for it.

use serde::{Deserialize, Serialize};
use voipfleet_protocol::identity::rights::Binding;

/// Certificates of an operator that are valid at the same time: renewing once more drops the
/// oldest.
pub const MAX_KEYS: usize = 5;

/// Made when an admin adds the operator. The first admin of the installation needs none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    /// What it may do, and where.
    pub bindings: Vec<Binding>,
    /// The keys whose certificates speak for it: an operator who was removed and added again
    /// is not brought back by the old certificate.
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

impl OperatorRecord {
    /// Adds a key that was just signed. Drops the keys whose certificates have ended at `now_ms`,
    /// and the oldest ones beyond [`MAX_KEYS`].
    pub fn add_key(&mut self, key: OperatorKey, now_ms: u64) {
        self.keys
            .retain(|known| known.expires_ms > now_ms && known.key_hash != key.key_hash);
        let excess = (self.keys.len() + 1).saturating_sub(MAX_KEYS);
        self.keys.drain(..excess);
        self.keys.push(key);
    }
}
