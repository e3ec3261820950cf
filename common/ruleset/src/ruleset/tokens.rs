//! Words that reach iptables and ipset: each is checked when it is made.

use std::fmt;
use std::str::FromStr;

use super::{CHAIN_PREFIX, Family, SET_PREFIX};

/// A text that may not reach iptables or ipset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct InvalidToken {
    /// What was expected, with its alphabet and length.
    pub what: &'static str,
    /// The text, cut to what is worth showing.
    pub text: String,
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The word as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidToken;

            fn from_str(text: &str) -> Result<Self, InvalidToken> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidToken { what: $what, text: text.chars().take(80).collect() })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

fn within(text: &str, longest: usize, allowed: fn(u8) -> bool) -> bool {
    !text.is_empty() && text.len() <= longest && text.bytes().all(allowed)
}

fn is_slug(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
}

token!(
    /// One of our chains. xtables holds 28 bytes of a chain's name (`XT_EXTENSION_MAXNAMELEN`
    /// less the terminator).
    ChainName,
    "chain of ours: VF- and 1 to 25 of A-Z, 0-9 and '-'",
    |text| text.strip_prefix(CHAIN_PREFIX).is_some_and(|rest| within(rest, 25, |b| b
        .is_ascii_uppercase()
        || b.is_ascii_digit()
        || b == b'-'))
);
token!(
    /// The middle of a set's kernel name, `vf-<stem>-4`: with prefix and suffix within the 31
    /// bytes of `IPSET_MAXNAMELEN`.
    SetStem,
    "set's stem: 1 to 26 of a-z, 0-9, '-', '_' and '.'",
    |text| within(text, 26, is_slug)
);
token!(
    /// Where a rule comes from, shown in its comment as `vf:<label>`.
    Label,
    "rule's label: 1 to 80 of a-z, 0-9, '-', '_', '.', ':' and '/'",
    |text| within(text, 80, |b| is_slug(b) || matches!(b, b':' | b'/'))
);
token!(
    /// A network interface (`IFNAMSIZ`: 15 bytes).
    Interface,
    "network interface: 1 to 15 of letters, digits, '-', '_', '.' and ':'",
    |text| within(text, 15, |b| b.is_ascii_alphanumeric()
        || matches!(b, b'-' | b'_' | b'.' | b':'))
        && !text.starts_with('-')
        && text != "."
        && text != ".."
);
token!(
    /// The name of a hashlimit table under `/proc/net/ipt_hashlimit`, less the prefix `vf-`.
    LimitName,
    "limit's name: 1 to 12 of a-z, 0-9 and '-'",
    |text| within(text, 12, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);
token!(
    /// The start of a line in the kernel log (the LOG target holds 29 bytes).
    LogPrefix,
    "log prefix: 1 to 29 of letters, digits, '-', ':' and space",
    |text| within(text, 29, |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b' '))
        && !text.starts_with([' ', '-'])
);

/// The identity of a set: its stem and family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName {
    /// The stem, shared by the two families.
    pub stem: SetStem,
    /// The family of its elements.
    pub family: Family,
}

impl SetName {
    /// The name in the kernel: `vf-<stem>-4` or `vf-<stem>-6`.
    pub fn kernel_name(&self) -> String {
        let suffix = match self.family {
            Family::V4 => '4',
            Family::V6 => '6',
        };
        format!("{SET_PREFIX}{}-{suffix}", self.stem)
    }

    /// The set behind a kernel name, if the name has our form.
    pub fn from_kernel_name(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(SET_PREFIX)?;
        let (stem, family) = if let Some(stem) = rest.strip_suffix("-4") {
            (stem, Family::V4)
        } else {
            (rest.strip_suffix("-6")?, Family::V6)
        };
        Some(Self {
            stem: stem.parse().ok()?,
            family,
        })
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.kernel_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_can_break_out() {
        for bad in [
            "",
            "VF-",
            "VF-input",
            "VF-A B",
            "INPUT",
            "VF-A\n-F",
            &format!("VF-{}", "A".repeat(26)),
        ] {
            assert!(bad.parse::<ChainName>().is_err(), "{bad:?}");
        }
        for bad in ["", "a b", "a\n", "A", "$(x)", &"a".repeat(27)] {
            assert!(bad.parse::<SetStem>().is_err(), "{bad:?}");
        }
        for bad in ["", "-i", "eth0 -j", "..", "eth0;x", "sixteen-bytes-xx"] {
            assert!(bad.parse::<Interface>().is_err(), "{bad:?}");
        }
        for bad in ["", "a\"b", "a'b", "-x", " a", "a\\b"] {
            assert!(bad.parse::<LogPrefix>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_kernel_name_fits_and_comes_back() {
        let name = SetName {
            stem: "a".repeat(26).parse().unwrap(),
            family: Family::V6,
        };
        assert_eq!(name.kernel_name().len(), 31);
        assert_eq!(SetName::from_kernel_name(&name.kernel_name()), Some(name));
        assert_eq!(SetName::from_kernel_name("f2b-sshd"), None);
    }
}
