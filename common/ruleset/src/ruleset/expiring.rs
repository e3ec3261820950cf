//! Elements that leave their set, or come into it, by themselves.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use jiff::Timestamp;

/// A moment in whole seconds of Unix time, after 1970 and up to the year 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Until(Timestamp);

impl Until {
    /// The moment so many seconds after the start of 1970.
    pub fn from_unix(seconds: u64) -> Option<Self> {
        let seconds = i64::try_from(seconds).ok().filter(|s| *s > 0)?;
        Timestamp::from_second(seconds).ok().map(Self)
    }

    /// Seconds since the start of 1970.
    pub fn unix(self) -> u64 {
        self.0.as_second().unsigned_abs()
    }

    /// Seconds from `now`, Unix time, until then; 0: it is over.
    pub fn left(self, now: u64) -> u64 {
        self.unix().saturating_sub(now)
    }
}

/// A text that is no moment in the one form that is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not a time as 2026-12-01T00:00:00Z")]
pub struct InvalidUntil {
    /// The moment that was probably meant: another form, another zone, or parts of a second.
    pub meant: Option<Until>,
}

impl FromStr for Until {
    type Err = InvalidUntil;

    /// RFC 3339 in UTC, whole seconds: `2026-12-01T00:00:00Z`.
    fn from_str(text: &str) -> Result<Self, InvalidUntil> {
        let seconds = |time: Timestamp| u64::try_from(time.as_second()).ok();
        let read = text.parse::<Timestamp>().ok().and_then(seconds);
        match read.and_then(Self::from_unix) {
            Some(until) if until.to_string() == text => Ok(until),
            meant => Err(InvalidUntil { meant }),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// A prefix that leaves its set by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiring {
    /// The prefix, host bits zero.
    pub net: IpNet,
    /// When it leaves.
    pub until: Until,
}

/// A prefix that the node adds to its set by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheduled {
    /// The prefix, host bits zero.
    pub net: IpNet,
    /// When it comes.
    pub from: Until,
    /// When it leaves, later than it comes; `None` if it stays.
    pub until: Option<Until>,
}

impl Scheduled {
    /// Whether it has come at `now`, Unix time in seconds; it may have left again.
    pub fn has_begun(&self, now: u64) -> bool {
        self.from.left(now) == 0
    }
}

/// Sorted, each once: none of `lasting` (ascending), and of several ends the latest.
pub fn distinct(mut expiring: Vec<Expiring>, lasting: &[IpNet]) -> Vec<Expiring> {
    expiring.retain(|one| lasting.binary_search(&one.net).is_err());
    // The later end first, which is the one that stays.
    expiring.sort_unstable_by(|a, b| a.net.cmp(&b.net).then(b.until.cmp(&a.until)));
    expiring.dedup_by_key(|one| one.net);
    expiring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_time_formats_are_refused_with_the_right_one() {
        let until: Until = "2026-12-01T00:00:00Z".parse().unwrap();
        assert_eq!(until.unix(), 1_796_083_200);
        assert_eq!(Until::from_unix(1_796_083_200), Some(until));
        assert_eq!((until.left(1_796_083_190), until.left(u64::MAX)), (10, 0));
        for (text, meant) in [
            ("2026-12-01T01:00:00+01:00", Some("2026-12-01T00:00:00Z")),
            ("2026-12-01 00:00:00Z", Some("2026-12-01T00:00:00Z")),
            ("2026-12-01T00:00:00.5Z", Some("2026-12-01T00:00:00Z")),
            ("2026-12-01", None),
            ("1970-01-01T00:00:00Z", None),
            ("1960-01-01T00:00:00Z", None),
            ("tomorrow", None),
            ("", None),
        ] {
            let error = text.parse::<Until>().unwrap_err();
            let shown = error.meant.map(|until| until.to_string());
            assert_eq!(shown.as_deref(), meant, "{text}");
        }
        assert_eq!(Until::from_unix(0), None);
        assert_eq!(Until::from_unix(u64::MAX), None);
    }
}
