//! One line of a list, in the formats that lists come in: the same for a file beside a document and
//! for a list that is fetched.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// The networks of a line without its comment: an address, prefix or range, or separated values
/// of which that is the first. `None`: it is something else.
pub fn networks_of_line(line: &str) -> Option<Vec<IpNet>> {
    let first = line.split([',', '\t']).next().unwrap_or_default();
    let first = first.trim().trim_matches('"').trim();
    let word = first.split_ascii_whitespace().next()?;
    if let Some((from, to)) = first.split_once('-')
        && let (Ok(from), Ok(to)) = (from.trim().parse(), to.trim().parse())
    {
        return range(from, to);
    }
    let net = match word.split_once('/') {
        None => IpNet::from(word.parse::<IpAddr>().ok()?),
        Some((address, mask)) => {
            let address: IpAddr = address.parse().ok()?;
            match mask.parse::<IpAddr>() {
                Ok(mask) => IpNet::with_netmask(address, mask).ok()?,
                Err(_) => IpNet::new(address, mask.parse().ok()?).ok()?,
            }
        }
    };
    Some(vec![net.trunc()])
}

/// The networks from one address to another.
fn range(from: IpAddr, to: IpAddr) -> Option<Vec<IpNet>> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) if from <= to => {
            Some(Ipv4Subnets::new(from, to, 0).map(IpNet::V4).collect())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if from <= to => {
            Some(Ipv6Subnets::new(from, to, 0).map(IpNet::V6).collect())
        }
        _ => None,
    }
}
