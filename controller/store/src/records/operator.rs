//! An operator: rights, and the keys that speak for it.

use serde::{Deserialize, Serialize};
use voipfleet_protocol::identity::rights::Binding;

/// Certificates of an operator that are valid at the same time: renewing once more drops the
/// oldest.
pub const MAX_KEYS: usize = 5;

/// Keys that count no longer and are remembered, so that whoever still has one is told why.
const MAX_TAKEN: usize = 20;

/// Made when an admin adds the operator; that of the first admin, when its first certificate is
/// taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    /// What it may do, and where.
    pub bindings: Vec<Binding>,
    /// The keys whose certificates speak for it: an operator who was removed and added again
    /// is not brought back by the old certificate.
    pub keys: Vec<OperatorKey>,
    /// Keys that count no longer, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<Taken>,
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
    /// Until when it counts after it was replaced, Unix time: the answer with its successor may
    /// have been lost. None: it was not replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// A key that counts no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// SHA-256 of the public key, hexadecimal.
    pub key_hash: String,
    /// When its certificate ends, Unix time: it need not be remembered after that.
    pub expires_ms: u64,
    /// When it was replaced, Unix time.
    pub at_ms: u64,
    /// By whom, in words.
    pub by: String,
}

impl OperatorKey {
    /// Whether it speaks for the operator at `now_ms`.
    pub fn counts(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| now_ms < until)
    }
}

impl OperatorRecord {
    /// Whether a key speaks for the operator at `now_ms`.
    pub fn has_key(&self, key_hash: &str, now_ms: u64) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|key| key.key_hash == key_hash && key.counts(now_ms))
    }

    /// What replaced a key that counts no longer.
    pub fn taken(&self, key_hash: &str) -> Option<&Taken> {
        self.taken
            .iter()
            .rev()
            .find(|taken| taken.key_hash == key_hash)
    }

    /// Replaces a key: it counts until `until_ms` only.
    pub fn replace_key(&mut self, key_hash: &str, at_ms: u64, until_ms: u64, by: &str) {
        for key in self.keys.iter_mut().filter(|key| key.key_hash == key_hash) {
            // One that was replaced before gets no more time.
            key.until_ms.get_or_insert(until_ms);
            self.taken.push(Taken {
                key_hash: key.key_hash.clone(),
                expires_ms: key.expires_ms,
                at_ms,
                by: by.to_owned(),
            });
        }
    }

    /// Adds a key that was just signed. Drops the keys whose certificates have ended at `now_ms`,
    /// and the oldest ones beyond [`MAX_KEYS`].
    pub fn add_key(&mut self, key: OperatorKey, now_ms: u64) {
        self.keys.retain(|known| {
            known.expires_ms > now_ms && known.counts(now_ms) && known.key_hash != key.key_hash
        });
        self.taken.retain(|taken| taken.expires_ms > now_ms);
        let forgotten = self.taken.len().saturating_sub(MAX_TAKEN);
        self.taken.drain(..forgotten);
        let excess = (self.keys.len() + 1).saturating_sub(MAX_KEYS);
        self.keys.drain(..excess);
        self.keys.push(key);
    }
}
