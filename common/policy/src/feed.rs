//! Lists that the controller fetches again and again.

use std::fmt;
use std::str::FromStr;

use voipfleet_ruleset::ruleset::{Endpoint, Host};

/// The longest URL, in bytes.
const MAX_URL: usize = 2048;
/// The longest path, in bytes.
const MAX_PATH: usize = 1024;

/// Where a list's entries come from beside those that it names, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// Where from.
    pub source: FeedSource,
    /// How long what was fetched is good, milliseconds; at least a minute.
    pub refresh_ms: u64,
    /// More entries than these are not taken, and the last good ones are kept.
    pub max_entries: u32,
}

impl Feed {
    /// What `refresh` may be, in milliseconds: a minute to a week.
    pub const REFRESH_MS: std::ops::RangeInclusive<u64> = 60_000..=604_800_000;
    /// The default `refresh`: an hour.
    pub const DEFAULT_REFRESH_MS: u64 = 3_600_000;
    /// The highest `max_entries`.
    pub const MOST_ENTRIES: u32 = 500_000;
    /// The default `max_entries`.
    pub const DEFAULT_MAX_ENTRIES: u32 = 200_000;
}

/// Where a feed comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedSource {
    /// `url:` is fetched by the controller.
    Url(FeedUrl),
    /// `file:` with `refresh:` is read by the controller, on its own host.
    File(FeedFile),
}

impl fmt::Display for FeedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedSource::Url(url) => url.fmt(f),
            FeedSource::File(file) => file.fmt(f),
        }
    }
}

/// Why a text is no source of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFeed {
    /// It is neither http nor https.
    #[error("it does not start with https:// or http://")]
    Scheme,
    /// It has a user or a password.
    #[error("it has a user or a password, which every reader of documents would see")]
    Credentials,
    /// Its host is none.
    #[error("its host is neither an address nor a DNS name")]
    Host,
    /// It has bytes that no URL or path has.
    #[error("it has spaces, control characters or letters that are not ASCII")]
    Letters,
    /// It is too long.
    #[error("it is too long")]
    Long,
    /// It is not an absolute path.
    #[error("it is not a path from the root, without `.`, `..` and doubled slashes")]
    Path,
}

/// An `https://` or `http://` URL without credentials, at most 2048 bytes of ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedUrl(String);

impl FeedUrl {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether what is fetched can be altered on its way.
    pub fn is_plain_http(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl FromStr for FeedUrl {
    type Err = InvalidFeed;

    fn from_str(text: &str) -> Result<Self, InvalidFeed> {
        let rest = ["https://", "http://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .ok_or(InvalidFeed::Scheme)?;
        if text.len() > MAX_URL {
            return Err(InvalidFeed::Long);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidFeed::Letters);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(InvalidFeed::Credentials);
        }
        let bare = match authority.parse::<Host>() {
            Ok(Host::Name(_)) => true,
            Ok(Host::Address(address)) => address.is_ipv4(),
            // An IPv6 address is in brackets even without a port.
            Err(_) => {
                authority.ends_with(']') && format!("{authority}:1").parse::<Endpoint>().is_ok()
            }
        };
        if bare || authority.parse::<Endpoint>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidFeed::Host)
        }
    }
}

impl fmt::Display for FeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An absolute path on the controller's host, at most 1024 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedFile(String);

impl FeedFile {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FeedFile {
    type Err = InvalidFeed;

    fn from_str(text: &str) -> Result<Self, InvalidFeed> {
        if text.len() > MAX_PATH {
            return Err(InvalidFeed::Long);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidFeed::Letters);
        }
        let named = text.strip_prefix('/').is_some_and(|rest| {
            let mut parts = rest.split('/');
            parts.all(|part| !matches!(part, "" | "." | ".."))
        });
        if named {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidFeed::Path)
        }
    }
}

impl fmt::Display for FeedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_fetched_is_a_url() {
        for good in [
            "https://lists.example.net/voipbl.txt",
            "http://192.0.2.7:8080/x?format=plain#top",
            "https://[2001:db8::7]/x",
            "https://[2001:db8::7]:8443",
            "https://localhost",
        ] {
            assert_eq!(good.parse::<FeedUrl>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("ftp://example.net/x", InvalidFeed::Scheme),
            ("HTTPS://example.net/x", InvalidFeed::Scheme),
            ("file:///etc/passwd", InvalidFeed::Scheme),
            (
                "https://user:secret@example.net/x",
                InvalidFeed::Credentials,
            ),
            ("https:///x", InvalidFeed::Host),
            ("https://2001:db8::7/x", InvalidFeed::Host),
            ("https://example.net:0/x", InvalidFeed::Host),
            ("https://exa_mple.net/x", InvalidFeed::Host),
            ("https://example.net/a b", InvalidFeed::Letters),
            ("https://example.net/\u{e9}", InvalidFeed::Letters),
            (
                &format!("https://a.example/{}", "x".repeat(2048)),
                InvalidFeed::Long,
            ),
        ] {
            assert_eq!(bad.parse::<FeedUrl>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn only_a_path_from_the_root_is_a_file() {
        assert!("/var/lib/lists/voipbl.txt".parse::<FeedFile>().is_ok());
        for bad in ["x.txt", "", "/", "/a/../b", "/a//b", "./a", "/a\n"] {
            assert!(bad.parse::<FeedFile>().is_err(), "{bad:?}");
        }
    }
}
