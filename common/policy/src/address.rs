//! Addresses as people write them: single, with a prefix, with a dotted mask.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::diagnostic::quoted;

/// A mistake in an address: what is wrong and what to do, and which bytes of the text it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) help: String,
    /// Offset and length; `None`: all of it.
    pub(super) part: Option<(usize, usize)>,
}

impl Problem {
    fn whole(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
            part: None,
        }
    }
}

/// A network, and whether bits behind its prefix had to be cleared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) net: IpNet,
    pub(super) cleared: bool,
}

/// A text that is no address or prefix: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {help}")]
pub struct InvalidNetwork {
    message: String,
    help: String,
}

/// Reads an address or prefix as documents have it; host bits are cleared.
pub fn parse_network(text: &str) -> Result<IpNet, InvalidNetwork> {
    network(text)
        .map(|network| network.net)
        .map_err(|problem| InvalidNetwork {
            message: problem.message,
            help: problem.help,
        })
}

/// Reads `198.51.100.7`, `203.0.113.0/24`, `203.0.113.0/255.255.255.0`, `2001:db8::/32`.
pub(super) fn network(text: &str) -> Result<Network, Problem> {
    let (address, mask) = match text.split_once('/') {
        None => (text, None),
        Some((address, mask)) => (address, Some(mask)),
    };
    let ip: IpAddr = address.parse().map_err(|_| not_an_address(text, address))?;
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(Problem::whole(
            format!("{} is an IPv4 address inside an IPv6 one", quoted(text)),
            format!("no packet carries it: write {v4}"),
        ));
    }
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let length = match mask {
        None => longest,
        Some(mask) => prefix_length(ip, mask, longest).map_err(|(message, help)| Problem {
            message,
            help,
            part: Some((address.len() + 1, mask.len())),
        })?,
    };
    if ip.is_unspecified() && length == longest {
        return Err(Problem::whole(
            format!("{} is no host's address", quoted(text)),
            "write `world` for every address",
        ));
    }
    let net = IpNet::new(ip, length)
        .map_err(|_| Problem::whole(format!("{} is not a network", quoted(text)), EXAMPLES))?;
    Ok(Network {
        net: net.trunc(),
        cleared: net.trunc() != net,
    })
}

const EXAMPLES: &str = "write an address (198.51.100.7), a prefix (203.0.113.0/24, \"2001:db8::/32\") or a dotted mask \
     (203.0.113.0/255.255.255.0)";

fn prefix_length(ip: IpAddr, mask: &str, longest: u8) -> Result<u8, (String, String)> {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    if !mask.is_empty() && mask.bytes().all(|b| b.is_ascii_digit()) {
        return match mask.parse::<u8>() {
            Ok(length) if length <= longest => Ok(length),
            _ => Err((
                format!("a prefix of {} bits is too long", quoted(mask)),
                format!("an {family} prefix has 0 to {longest} bits"),
            )),
        };
    }
    let (IpAddr::V4(_), Ok(dotted)) = (ip, mask.parse::<Ipv4Addr>()) else {
        return Err((
            format!("{} is not a prefix length", quoted(mask)),
            EXAMPLES.to_owned(),
        ));
    };
    let bits = dotted.to_bits();
    if let Some(length) = contiguous(bits) {
        return Ok(length);
    }
    let help = match contiguous(!bits) {
        Some(length) => {
            format!("this is a wildcard mask, as routers write them: write /{length}")
        }
        None => {
            "the bits of a mask are ones, then zeros, as in 255.255.255.0: write the networks one \
             by one"
                .to_owned()
        }
    };
    Err((format!("the mask {dotted} is not contiguous"), help))
}

/// The length of a mask of ones, then zeros.
fn contiguous(bits: u32) -> Option<u8> {
    let ones = bits.leading_ones();
    (bits.checked_shl(ones).unwrap_or(0) == 0)
        .then(|| u8::try_from(ones).ok())
        .flatten()
}

fn not_an_address(text: &str, address: &str) -> Problem {
    // A lookup of addresses finds nothing under the name of a service (RFC 2782).
    if is_service_name(text) {
        return Problem::whole(
            format!(
                "{} is an SRV name, which stands for no address",
                quoted(text)
            ),
            format!("name the hosts that it points to: `dig +short SRV {text}` lists them"),
        );
    }
    let help = if ["sip:", "sips:"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        "write the host alone, without `sip:`".to_owned()
    } else if address.contains('%') {
        "leave the interface (`%eth0`) out".to_owned()
    } else if is_address_range(text) {
        "ranges are not taken: write prefixes, as 203.0.113.0/28".to_owned()
    } else if address.split('.').count() == 4
        && address
            .split('.')
            .any(|part| part.len() > 1 && part.starts_with('0'))
    {
        "write the numbers without leading zeros: some programs read them as octal".to_owned()
    } else if address.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        "an IPv4 address is four numbers from 0 to 255: 198.51.100.7".to_owned()
    } else if address.contains('.') && address.bytes().any(|b| b.is_ascii_alphabetic()) {
        "DNS names belong in networks of a Tenant, or in signalling and media of a Provider, \
         with two labels or more: write the address here"
            .to_owned()
    } else {
        EXAMPLES.to_owned()
    };
    Problem::whole(format!("{} is not an address", quoted(text)), help)
}

/// `_sip._udp.example.net`
fn is_service_name(text: &str) -> bool {
    let mut labels = text.split('.');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let underscored = |label: Option<&str>| label.is_some_and(|label| label.starts_with('_'));
    text.split('.').count() > 2
        && text
            .trim_end_matches('.')
            .split('.')
            .all(|label| !label.is_empty() && label.chars().all(plain))
        && underscored(labels.next())
        && underscored(labels.next())
}

fn is_address_range(text: &str) -> bool {
    text.split_once('-').is_some_and(|(first, last)| {
        first.trim().parse::<IpAddr>().is_ok()
            && last
                .trim()
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b == b'.' || b == b':')
    })
}

/// The network as documents write it: a host without its prefix.
pub(super) fn written(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_network() {
        for (text, net, cleared) in [
            ("198.51.100.7", "198.51.100.7/32", false),
            ("203.0.113.0/24", "203.0.113.0/24", false),
            ("203.0.113.0/255.255.255.0", "203.0.113.0/24", false),
            ("10.10.33.1/24", "10.10.33.0/24", true),
            ("10.0.0.1/255.0.0.0", "10.0.0.0/8", true),
            ("2001:DB8::1", "2001:db8::1/128", false),
            ("2001:db8::1/64", "2001:db8::/64", true),
            ("0.0.0.0/0.0.0.0", "0.0.0.0/0", false),
            ("1.2.3.4/255.255.255.255", "1.2.3.4/32", false),
            ("::/0", "::/0", false),
        ] {
            let net = net.parse().unwrap();
            assert_eq!(network(text), Ok(Network { net, cleared }), "{text}");
        }
    }

    #[test]
    fn an_invalid_network_is_refused_with_advice() {
        for (text, part, help) in [
            ("10.0.0.0/255.0.255.0", "255.0.255.0", "ones, then zeros"),
            ("10.0.0.0/0.0.0.255", "0.0.0.255", "write /24"),
            ("10.0.0.0/33", "33", "0 to 32"),
            ("10.0.0.0/", "", "prefix"),
            ("10.0.0.0/+8", "+8", "prefix"),
            ("2001:db8::/129", "129", "0 to 128"),
            ("2001:db8::/255.255.0.0", "255.255.0.0", "prefix"),
            ("10.0.0.300", "10.0.0.300", "0 to 255"),
            ("010.0.0.1", "010.0.0.1", "leading zeros"),
            ("10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9", "prefixes"),
            ("pbx.example.com", "pbx.example.com", "write the address"),
            ("fe80::1%eth0", "fe80::1%eth0", "interface"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", "write 10.0.0.1"),
            ("0.0.0.0", "0.0.0.0", "`world`"),
            ("::/128", "::/128", "`world`"),
            ("", "", "address"),
        ] {
            let problem = network(text).unwrap_err();
            let marked = problem
                .part
                .map_or(text, |(at, length)| &text[at..at + length]);
            assert_eq!(marked, part, "{text}");
            assert!(problem.help.contains(help), "{text}: {}", problem.help);
        }
    }
}
