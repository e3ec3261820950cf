//! Join tokens as the controller makes and keeps them: the secret only as its hash.

use rand::random;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use voipfleet_protocol::identity::{InvalidJoinToken, JoinToken};

/// A new token's parts.
pub struct NewToken {
    /// The token as the operator gets it, once.
    pub token: JoinToken,
    /// SHA-256 of its secret, hexadecimal: what is stored.
    pub secret_hash: String,
}

/// Makes a token for the CA with this fingerprint: an id of 8 and a secret of 32 random bytes.
pub fn generate(ca_fingerprint: [u8; 32]) -> Result<NewToken, InvalidJoinToken> {
    let id = hex::encode(random::<[u8; 8]>());
    let secret = hex::encode(random::<[u8; 32]>());
    Ok(NewToken {
        secret_hash: hex::encode(Sha256::digest(secret.as_bytes())),
        token: JoinToken::new(ca_fingerprint, id, secret)?,
    })
}

/// Whether `secret` is the one behind a stored hash; takes as long for every answer.
pub fn matches(secret: &str, secret_hash: &str) -> bool {
    let given = hex::encode(Sha256::digest(secret.as_bytes()));
    given.as_bytes().ct_eq(secret_hash.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_matches() {
        let new = generate([1; 32]).unwrap();
        assert!(matches(new.token.secret(), &new.secret_hash));
        assert!(!matches("other", &new.secret_hash));
        assert!(!matches(&new.secret_hash, &new.secret_hash));
        assert!(!matches("", ""));
    }
}
