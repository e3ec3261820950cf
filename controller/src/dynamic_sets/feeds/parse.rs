//! The lines of a feed: an address, prefix or range each, in the formats that lists come in.

use ipnet::IpNet;
use voipfleet_policy::networks_of_line;

use super::super::bogons::{Space, objection};
use crate::records::Dropped;

/// Lines that are shown as examples of what is no address.
const SAMPLES: usize = 3;
/// The longest example, characters.
const SAMPLE: usize = 60;
/// So many lines that are no address are too few to judge by: headers, footers.
const FEW: u64 = 10;

/// What a feed holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Networks, ascending and distinct.
    pub elements: Vec<IpNet>,
    /// What is not among them.
    pub dropped: Dropped,
}

/// Why a text is not taken as a feed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A page for people.
    #[error("the answer is a web page, not a list of addresses; open the URL in a browser")]
    Page,
    /// Not a text at all.
    #[error("the answer is not text; archives must be unpacked first")]
    NotText,
    /// Something else.
    #[error("{other} lines are not addresses (for example {sample:?}) and {good} are")]
    Mostly {
        /// Lines that are none.
        other: u64,
        /// Networks.
        good: usize,
        /// One of the lines.
        sample: String,
    },
    /// Too long.
    #[error("it has more than the {most} entries of the list's max_entries")]
    TooMany {
        /// The limit.
        most: usize,
    },
}

/// Reads a feed: one address, prefix or range a line, comments after `#` and `;`, of comma
/// separated values the first. At most `most` networks.
pub fn parse(body: &[u8], most: usize) -> Result<Parsed, Unfit> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match body.trim_ascii_start().first() {
        Some(b'<') => return Err(Unfit::Page),
        _ if body.contains(&0) => return Err(Unfit::NotText),
        _ => {}
    }
    let mut parsed = Parsed::default();
    for line in body.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let end = line.iter().position(|byte| matches!(byte, b'#' | b';'));
        let line = line.get(..end.unwrap_or(line.len())).unwrap_or_default();
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match std::str::from_utf8(line).ok().and_then(networks_of_line) {
            Some(nets) => nets.into_iter().for_each(|net| parsed.take(net)),
            None => parsed.other(line),
        }
        // One short line can be many networks: never more in memory than twice what may stay.
        if parsed.elements.len() > most.saturating_mul(2) {
            parsed.settle(most)?;
        }
    }
    parsed.settle(most)?;
    let (other, good) = (parsed.dropped.not_addresses, parsed.elements.len());
    if other > FEW && other > good as u64 {
        let sample = parsed.dropped.samples.swap_remove(0);
        return Err(Unfit::Mostly {
            other,
            good,
            sample,
        });
    }
    Ok(parsed)
}

impl Parsed {
    fn take(&mut self, net: IpNet) {
        let dropped = &mut self.dropped;
        match objection(&net) {
            None => self.elements.push(net),
            Some(Space::Private) => dropped.private += 1,
            Some(Space::Bogon) => dropped.bogon += 1,
            Some(Space::TooWide) => dropped.too_wide += 1,
        }
    }

    fn other(&mut self, line: &[u8]) {
        self.dropped.not_addresses += 1;
        if self.dropped.samples.len() < SAMPLES {
            let text = String::from_utf8_lossy(line);
            let shown = text.chars().filter(|c| !c.is_control()).take(SAMPLE);
            self.dropped.samples.push(shown.collect());
        }
    }

    fn settle(&mut self, most: usize) -> Result<(), Unfit> {
        self.elements.sort_unstable();
        let before = self.elements.len();
        self.elements.dedup();
        self.dropped.twice += (before - self.elements.len()) as u64;
        if self.elements.len() > most {
            return Err(Unfit::TooMany { most });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn parses_common_list_formats() {
        let body = "\u{feff}; Spamhaus DROP List\r\n# comment\r\n\r\n\
            192.0.2.0/25 ; SBL1\r\n\
            198.51.100.7\n\
            \"203.0.113.0/24\",\"US\",7\n\
            203.0.113.9/255.255.255.128,abuse\n\
            198.51.100.8 - 198.51.100.11, x\n\
            2001:db8::1\t99\n\
            2001:db8:1::/48 # why\n\
            198.51.100.7 2026-11-23 seen\n";
        let parsed = parse(body.as_bytes(), 100).unwrap();
        let wanted = nets(&[
            "192.0.2.0/25",
            "198.51.100.7/32",
            "198.51.100.8/30",
            "203.0.113.0/24",
            "203.0.113.0/25",
            "2001:db8::1/128",
            "2001:db8:1::/48",
        ]);
        assert_eq!(parsed.elements, wanted);
        let dropped = Dropped {
            twice: 1,
            ..Dropped::default()
        };
        assert_eq!(parsed.dropped, dropped);
    }

    #[test]
    fn dropped_lines_are_counted_by_reason() {
        let body = b"ip,country\n192.0.2.1\n10.0.0.0/8\n192.168.1.1\nfd00::/8\n127.0.0.1\n\
            224.0.0.0/4\n0.0.0.0/0\n::/0\n64.0.0.0/4\n\x1b[2Jevil\xff\n192.0.2.300\n";
        let parsed = parse(body, 100).unwrap();
        assert_eq!(parsed.elements, nets(&["192.0.2.1/32"]));
        let Dropped {
            not_addresses,
            samples,
            private,
            bogon,
            too_wide,
            twice,
        } = parsed.dropped;
        assert_eq!(
            (not_addresses, private, bogon, too_wide, twice),
            (3, 3, 2, 3, 0)
        );
        assert_eq!(samples, ["ip,country", "[2Jevil\u{fffd}", "192.0.2.300"]);
    }

    #[test]
    fn refuses_content_that_is_not_a_list() {
        let page = b"\n <!DOCTYPE html><p>192.0.2.1</p>";
        assert_eq!(parse(page, 9), Err(Unfit::Page));
        assert_eq!(parse(b"PK\x03\x04\0\0", 9), Err(Unfit::NotText));
        let words = "no such list\n".repeat(20) + "192.0.2.1\n";
        let refused = parse(words.as_bytes(), 9).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "20 lines are not addresses (for example \"no such list\") and 1 are"
        );
        let too_many = Err(Unfit::TooMany { most: 1 });
        assert_eq!(parse(b"192.0.2.1\n192.0.2.2\n", 1), too_many);
        assert!(parse(&b"192.0.2.1\n".repeat(1000), 1).is_ok(), "repeats");
        let ranges = "1.0.0.1-9.255.255.254\n".repeat(1000);
        assert_eq!(parse(ranges.as_bytes(), 1), too_many);
    }
}
