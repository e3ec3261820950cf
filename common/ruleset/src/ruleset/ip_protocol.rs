//! IP protocols beside TCP, UDP and ICMP: VRRP, ESP, GRE, OSPF and others.

use std::fmt;
use std::str::FromStr;

use super::InvalidToken;

/// Names by number, as `/etc/protocols` of Debian and of the EL family have them: iptables-save
/// prints the name that its machine knows. The first is the one that documents and plans show.
const NAMES: &[(u8, &[&str])] = &[
    (2, &["igmp"]),
    (3, &["ggp"]),
    (4, &["ipencap", "ip-encap", "ipv4"]),
    (5, &["st"]),
    (7, &["cbt"]),
    (8, &["egp"]),
    (9, &["igp"]),
    (12, &["pup"]),
    (20, &["hmp"]),
    (22, &["xns-idp"]),
    (27, &["rdp"]),
    (28, &["irtp"]),
    (29, &["iso-tp4"]),
    (33, &["dccp"]),
    (36, &["xtp"]),
    (37, &["ddp"]),
    (38, &["idpr-cmtp"]),
    (41, &["ipv6"]),
    (45, &["idrp"]),
    (46, &["rsvp"]),
    (47, &["gre"]),
    (50, &["esp", "ipsec-esp", "ipv6-crypt"]),
    (51, &["ah", "ipsec-ah", "ipv6-auth"]),
    (54, &["narp"]),
    (55, &["mobile"]),
    (57, &["skip"]),
    (59, &["ipv6-nonxt"]),
    (73, &["rspf", "cphb"]),
    (81, &["vmtp"]),
    (88, &["eigrp"]),
    (89, &["ospf", "ospfigp"]),
    (93, &["ax.25"]),
    (94, &["ipip"]),
    (97, &["etherip"]),
    (98, &["encap"]),
    (103, &["pim"]),
    (108, &["ipcomp"]),
    (112, &["vrrp", "carp"]),
    (115, &["l2tp"]),
    (124, &["isis"]),
    (132, &["sctp"]),
    (133, &["fc"]),
    (135, &["mobility-header", "ipv6-mh", "mh"]),
    (136, &["udplite"]),
    (137, &["mpls-in-ip"]),
    (138, &["manet"]),
    (139, &["hip"]),
    (140, &["shim6"]),
    (141, &["wesp"]),
    (142, &["rohc"]),
    (143, &["ethernet"]),
];
/// ICMP, TCP, UDP and `ICMPv6`: the catalogue and rules with ports are about them.
const OTHERS: [u8; 4] = [1, 6, 17, 58];
/// `any` to iptables, and the extension headers of IPv6, which carry a protocol and are none.
const HEADERS: [u8; 4] = [0, 43, 44, 60];
/// The authentication header: in IPv6 it is an extension header too.
const AUTHENTICATION: u8 = 51;

/// An IP protocol that is none of TCP, UDP, ICMP and `ICMPv6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProtocol(u8);

impl IpProtocol {
    /// The protocol of a number; none where rules about it have another form, or no meaning.
    pub fn new(number: u8) -> Option<Self> {
        (!OTHERS.contains(&number) && !HEADERS.contains(&number)).then_some(Self(number))
    }

    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Whether no packet of IPv6 is of it.
    pub fn is_v4_only(self) -> bool {
        self.0 == AUTHENTICATION
    }

    /// The names by which documents may write a protocol.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter_map(|(_, names)| names.first().copied())
    }
}

/// A number, or a name in lower case.
impl FromStr for IpProtocol {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let named = || {
            let mut all = NAMES.iter();
            let found = all.find(|(_, names)| names.contains(&text));
            found.map(|(number, _)| *number)
        };
        let number = text.parse().ok().or_else(named);
        number.and_then(Self::new).ok_or_else(|| InvalidToken {
            what: "IP protocol: vrrp, esp, ah, gre, ospf, a name of /etc/protocols, or a number \
                   from 2 to 255 that is not tcp, udp or icmp",
            text: text.chars().take(80).collect(),
        })
    }
}

/// Its name, or its number where it has none.
impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = NAMES.iter().find(|(number, _)| *number == self.0);
        match known.and_then(|(_, names)| names.first()) {
            Some(name) => f.pad(name),
            None => f.pad(&self.0.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_same_protocol() {
        for (text, number) in [
            ("vrrp", 112),
            ("112", 112),
            ("esp", 50),
            ("ipv6-crypt", 50),
            ("ipencap", 4),
            ("ipip", 94),
            ("ospfigp", 89),
            ("200", 200),
        ] {
            assert_eq!(
                text.parse::<IpProtocol>().unwrap().number(),
                number,
                "{text}"
            );
        }
        assert_eq!(IpProtocol(112).to_string(), "vrrp");
        assert_eq!(IpProtocol(200).to_string(), "200");
        for number in 0..=u8::MAX {
            if let Some(protocol) = IpProtocol::new(number) {
                assert_eq!(protocol.to_string().parse(), Ok(protocol));
            }
        }
    }

    #[test]
    fn protocols_with_rules_of_their_own_are_refused() {
        for text in [
            "tcp", "6", "udp", "icmp", "1", "58", "0", "44", "256", "-1", "VRRP", "", "v rrp",
        ] {
            assert!(text.parse::<IpProtocol>().is_err(), "{text:?}");
        }
    }
}
