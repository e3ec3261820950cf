//! How much of the address space networks hold together.

use ipnet::IpNet;

/// The distinct addresses of networks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breadth {
    /// IPv4 addresses.
    v4: u64,
    /// IPv6, in prefixes of 127 bits: the whole space would not fit otherwise.
    v6: u128,
}

impl Breadth {
    /// That of `nets`, which may overlap. Unique local and link-local addresses of IPv6 do not
    /// count: they are nobody's elsewhere, however wide.
    pub fn of<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().map(IpNet::trunc).collect();
        // A wider prefix sorts before those inside it.
        nets.sort_unstable();
        nets.dedup_by(|next, kept| kept.contains(&*next));
        let mut breadth = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => breadth.v4 += 1 << (32 - net.prefix_len()),
                IpNet::V6(net) => {
                    let first = net.network();
                    if !first.is_unique_local() && !first.is_unicast_link_local() {
                        let size = 1 << 127_u8.saturating_sub(net.prefix_len());
                        breadth.v6 = breadth.v6.saturating_add(size);
                    }
                }
            }
        }
        breadth
    }

    /// Whether that is too much for something to be opened to it: as much as sixteen of the widest
    /// networks that anybody has (/8, in IPv6 /16), or more.
    pub fn is_wide(self) -> bool {
        self.v4 >= 1 << 28 || self.v6 >= 1 << (127 - 12)
    }

    /// Whether that is the world by another name: half of IPv4, or as much of IPv6 as is given out
    /// at all (`2000::/3`).
    pub fn is_world(self) -> bool {
        self.v4 >= 1 << 31 || self.v6 >= 1 << (127 - 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(nets: &[&str]) -> (bool, bool) {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let breadth = Breadth::of(&nets);
        (breadth.is_wide(), breadth.is_world())
    }

    #[test]
    fn what_is_there_twice_counts_once() {
        let eights =
            |count: u8| -> Vec<String> { (1..=count).map(|n| format!("{n}.0.0.0/8")).collect() };
        for (count, wide, world) in [(15, false, false), (16, true, false), (128, true, true)] {
            let nets = eights(count);
            let mut nets: Vec<&str> = nets.iter().map(String::as_str).collect();
            // Inside the others, once more, and host bits that mean nothing.
            nets.extend(["3.0.0.0/9", "3.7.0.0/16", "5.1.2.3/8"]);
            assert_eq!(judged(&nets), (wide, world), "{count}");
        }
        assert_eq!(judged(&["2a00::/13", "2a08::/13"]), (true, false));
        assert_eq!(judged(&["2a00::/13", "2a08::/14"]), (false, false));
        assert_eq!(judged(&["2000::/4", "3000::/4"]), (true, true));
        assert_eq!(judged(&["fc00::/7", "fe80::/10"]), (false, false));
        assert_eq!(judged(&["0.0.0.0/0"]), (true, true));
        assert_eq!(judged(&["::/0"]), (true, true));
        assert_eq!(judged(&[]), (false, false));
    }
}
