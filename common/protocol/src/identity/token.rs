//! Join tokens: what a machine needs to become a node.

use std::fmt;
use std::str::FromStr;

use super::tls;

const VERSION: &str = "vf1";
/// The longest id: 8 bytes as hexadecimal digits leave plenty below it.
const MAX_ID_LENGTH: usize = 40;
/// The longest secret: 32 bytes as hexadecimal digits leave plenty below it.
const MAX_SECRET_LENGTH: usize = 128;

/// `vf1.<SHA-256 of the CA, 64 hexadecimal digits>.<id>.<secret>`.
///
/// `Display` gives the whole token, with its secret; `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    ca: [u8; 32],
    id: String,
    secret: String,
}

/// A text that is no join token.
///
/// The text is not repeated: it may be a token with one letter wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: {0}; `voipctl token create` prints one")]
pub struct InvalidJoinToken(&'static str);

fn is_word(text: &str, longest: usize) -> bool {
    !text.is_empty() && text.len() <= longest && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

impl JoinToken {
    /// A token for the CA with this fingerprint ([`tls::fingerprint`]).
    ///
    /// `id` is 1 to 40, `secret` 1 to 128 ASCII letters and digits.
    pub fn new(ca: [u8; 32], id: String, secret: String) -> Result<Self, InvalidJoinToken> {
        if !is_word(&id, MAX_ID_LENGTH) {
            return Err(InvalidJoinToken("its id is not 1 to 40 letters and digits"));
        }
        if !is_word(&secret, MAX_SECRET_LENGTH) {
            return Err(InvalidJoinToken(
                "its secret is not 1 to 128 letters and digits",
            ));
        }
        Ok(Self { ca, id, secret })
    }

    /// The fingerprint of the controller's CA.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        self.ca
    }

    /// Whether a CA certificate (DER) is the one that the token names.
    pub fn names_ca(&self, der: &[u8]) -> bool {
        tls::fingerprint(der) == self.ca
    }

    /// The public part, by which the controller finds the token.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The part that only the controller's hash of it and the machine know.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ca = hex::encode(self.ca);
        write!(f, "{VERSION}.{ca}.{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    /// Space around the token, as files and terminals leave it, is ignored.
    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let mut parts = text.trim().split('.');
        let (Some(version), Some(ca), Some(id), Some(secret), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(InvalidJoinToken("it does not have four parts"));
        };
        if version != VERSION {
            return Err(InvalidJoinToken("it does not start with vf1"));
        }
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(ca, &mut fingerprint)
            .map_err(|_| InvalidJoinToken("its CA hash is not 64 hexadecimal digits"))?;
        Self::new(fingerprint, id.to_owned(), secret.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back() {
        let token = JoinToken::new([7; 32], "k1".to_owned(), "s3cret".to_owned()).unwrap();
        let text = token.to_string();
        assert_eq!(text, format!("vf1.{}.k1.s3cret", "07".repeat(32)));
        assert_eq!(format!(" {text}\n").parse(), Ok(token));
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = JoinToken::new([7; 32], "k1".to_owned(), "s3cret".to_owned()).unwrap();
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        let hash = "07".repeat(32);
        for bad in [
            String::new(),
            "vf1".to_owned(),
            format!("vf2.{hash}.k1.s3cret"),
            format!("vf1.{hash}.k1.s3cret.more"),
            format!("vf1.{hash}..s3cret"),
            format!("vf1.{hash}.k1."),
            format!("vf1.{hash}.k/1.s3cret"),
            format!("vf1.{}.k1.s3cret", "07".repeat(31)),
            format!("vf1.{hash}.k1.{}", "s".repeat(129)),
        ] {
            let error = bad.parse::<JoinToken>().unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{bad}");
        }
    }
}
