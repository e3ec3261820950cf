//! Validated names of sites, nodes, tenants and the rest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DocumentKind {
    /// A site and its policy.
    Site,
    /// A customer and its networks.
    Tenant,
    /// A carrier and its networks.
    Provider,
    /// A list of addresses.
    List,
}

impl DocumentKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Site, Self::Tenant, Self::Provider, Self::List];

    /// As documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Site => "Site",
            Self::Tenant => "Tenant",
            Self::Provider => "Provider",
            Self::List => "List",
        }
    }
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no kind of document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a kind of document; the kinds are Site, Tenant, Provider and List")]
pub struct UnknownDocumentKind {
    /// The text, cut to what is worth showing.
    pub text: String,
}

impl FromStr for DocumentKind {
    type Err = UnknownDocumentKind;

    /// Any case, and the plural that people type at a prompt.
    fn from_str(text: &str) -> Result<Self, UnknownDocumentKind> {
        let singular = text.strip_suffix(['s', 'S']).unwrap_or(text);
        Self::ALL
            .into_iter()
            .find(|kind| {
                kind.as_str().eq_ignore_ascii_case(text)
                    || kind.as_str().eq_ignore_ascii_case(singular)
            })
            .ok_or_else(|| UnknownDocumentKind {
                text: text.chars().take(40).collect(),
            })
    }
}

/// The longest name, in bytes.
pub const MAX_NAME_LENGTH: usize = 63;

/// A text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a name; use 1 to {MAX_NAME_LENGTH} of a-z, 0-9, '-', '_' and '.', starting \
     with a letter or digit"
)]
pub struct InvalidName {
    /// The text, cut to what is worth showing.
    pub text: String,
}

/// Whether `text` is a name: 1 to 63 of `a-z 0-9 - _ .`, the first a letter or digit.
pub fn is_name(text: &str) -> bool {
    let starts_well = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    starts_well
        && text.len() <= MAX_NAME_LENGTH
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { text: text.chars().take(80).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A site: one VoipNow infrastructure.
    SiteName
);
name!(
    /// A node: one VoipNow machine with one agent, unique in its site.
    NodeName
);
name!(
    /// A tenant: a customer served by sites.
    TenantName
);
name!(
    /// A SIP trunk carrier.
    ProviderName
);
name!(
    /// A named list of addresses.
    ListName
);
name!(
    /// A person or program that uses voipctl.
    OperatorName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_names() {
        for good in ["site-a", "a", "0", "eu.west_1", &"x".repeat(63)] {
            assert!(good.parse::<SiteName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "A",
            "a b",
            "a/b",
            "a\n",
            "é",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<SiteName>().is_err(), "{bad}");
        }
    }
}
