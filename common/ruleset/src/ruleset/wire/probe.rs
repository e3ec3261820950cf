//! Probes to and from protobuf.

use std::num::NonZeroU16;

use voipfleet_proto::v1 as pb;

use super::super::check::{InvalidRuleset, invalid};
use super::super::{Endpoint, Probe, ProbeCheck};
use super::primitive::{parse, read_port};

pub(super) fn probe(probe: &Probe) -> pb::Probe {
    use pb::probe::Check;
    let check = match &probe.check {
        ProbeCheck::Tcp(to) => Check::Tcp(endpoint(to)),
        ProbeCheck::UdpSip(to) => Check::UdpSip(endpoint(to)),
        ProbeCheck::Dns(to) => Check::Dns(endpoint(to)),
        ProbeCheck::Icmp(host) => Check::Icmp(host.to_string()),
    };
    pb::Probe {
        name: probe.name.to_string(),
        check: Some(check),
    }
}

fn endpoint(endpoint: &Endpoint) -> pb::Endpoint {
    pb::Endpoint {
        host: endpoint.host.to_string(),
        port: endpoint.port.get().into(),
    }
}

pub(super) fn read_probe(message: &pb::Probe) -> Result<Probe, InvalidRuleset> {
    use pb::probe::Check;
    let check = match &message.check {
        Some(Check::Tcp(to)) => ProbeCheck::Tcp(read_endpoint(to)?),
        Some(Check::UdpSip(to)) => ProbeCheck::UdpSip(read_endpoint(to)?),
        Some(Check::Dns(to)) => ProbeCheck::Dns(read_endpoint(to)?),
        Some(Check::Icmp(host)) => ProbeCheck::Icmp(parse(host)?),
        None => return Err(invalid("a probe tries nothing")),
    };
    Ok(Probe {
        name: parse(&message.name)?,
        check,
    })
}

fn read_endpoint(message: &pb::Endpoint) -> Result<Endpoint, InvalidRuleset> {
    let port = read_port(message.port)?;
    Ok(Endpoint {
        host: parse(&message.host)?,
        port: NonZeroU16::new(port).ok_or_else(|| invalid("a probe's port is 0"))?,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::ruleset::{MAX_PROBES, Ruleset};

    fn with_probes(probes: Vec<pb::Probe>) -> pb::Ruleset {
        let (site, node) = ("site-a".parse().unwrap(), "sip1".parse().unwrap());
        let admins = vec!["192.0.2.1/32".parse().unwrap()];
        let ruleset = Ruleset::management(site, node, admins, vec![22]).unwrap();
        pb::Ruleset {
            probes,
            ..pb::Ruleset::from(&ruleset)
        }
    }

    fn named(name: &str, check: pb::probe::Check) -> pb::Probe {
        pb::Probe {
            name: name.to_owned(),
            check: Some(check),
        }
    }

    fn tcp(host: &str, port: u32) -> pb::probe::Check {
        let host = host.to_owned();
        pb::probe::Check::Tcp(pb::Endpoint { host, port })
    }

    #[test]
    fn probes_come_back_as_they_were_and_count_for_the_digest() {
        let mut ruleset =
            Ruleset::decode(&with_probes(Vec::new()).encode_to_vec()).expect("no probes");
        let without = ruleset.digest();
        ruleset.probes = [
            ("a", ProbeCheck::Tcp("10.0.0.53:53".parse().unwrap())),
            (
                "b",
                ProbeCheck::UdpSip("[2001:db8::5]:5060".parse().unwrap()),
            ),
            ("c", ProbeCheck::Dns("dns.example.com:53".parse().unwrap())),
            ("d", ProbeCheck::Icmp("2001:db8::1".parse().unwrap())),
        ]
        .map(|(name, check)| Probe {
            name: name.parse().unwrap(),
            check,
        })
        .into();
        assert_eq!(Ruleset::decode(&ruleset.encode()).as_ref(), Ok(&ruleset));
        assert_ne!(ruleset.digest(), without);
    }

    #[test]
    fn a_node_takes_no_probe_that_a_document_could_not_ask_for() {
        let good = || named("a", tcp("192.0.2.1", 53));
        let many = |count| {
            let probes = 0..count;
            probes.map(|index| named(&format!("p{index}"), tcp("a", 1)))
        };
        let decode = |probes| Ruleset::decode(&with_probes(probes).encode_to_vec());
        assert!(decode(vec![good()]).is_ok());
        assert!(decode(many(MAX_PROBES).collect()).is_ok());
        let nothing = pb::Probe {
            name: "a".to_owned(),
            check: None,
        };
        for (bad, why) in [
            (vec![good(), good()], "is given twice"),
            (many(MAX_PROBES + 1).collect(), "more than 16 probes"),
            (vec![nothing], "tries nothing"),
            (vec![named("a b", tcp("192.0.2.1", 53))], "probe's name"),
            (vec![named("a", tcp("192.0.2.1", 0))], "port is 0"),
            (vec![named("a", tcp("192.0.2.1", 65_536))], "not a port"),
            (vec![named("a", tcp("", 53))], "host"),
            (vec![named("a", tcp("x\r\nVia: y", 53))], "host"),
            (vec![named("a", tcp("2001:DB8::1", 53))], "not canonical"),
        ] {
            let error = decode(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
