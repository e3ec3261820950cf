//! Refusals on the wire, and in words.

use std::net::IpAddr;

use voipfleet_proto::v1 as pb;

use super::{Ports, Refusal, Who, Whom};
use crate::ruleset::SetOwner;

/// Addresses that one sentence names.
const NAMED: usize = 4;

impl From<&Whom> for pb::CutOff {
    fn from(whom: &Whom) -> Self {
        let (kind, name) = relation(&whom.who);
        let address = match whom.net.network() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        Self {
            kind: kind.into(),
            name,
            network: Some(pb::Network {
                address,
                prefix_length: whom.net.prefix_len().into(),
            }),
            ports: ports(&whom.ports),
        }
    }
}

fn ports(ports: &[Ports]) -> Vec<String> {
    ports.iter().map(ToString::to_string).collect()
}

fn relation(who: &Who) -> (pb::CutOffKind, String) {
    match who {
        Who::Controller => (pb::CutOffKind::Controller, String::new()),
        Who::Admins => (pb::CutOffKind::Admin, String::new()),
        Who::Cluster => (pb::CutOffKind::Cluster, String::new()),
        Who::Owner(SetOwner::Tenant(name)) => (pb::CutOffKind::Tenant, name.to_string()),
        Who::Owner(SetOwner::Tenants) => (pb::CutOffKind::Tenant, String::new()),
        Who::Owner(SetOwner::Provider(name, _)) => (pb::CutOffKind::Provider, name.to_string()),
        Who::Owner(SetOwner::Providers(_)) => (pb::CutOffKind::Provider, String::new()),
        Who::Owner(SetOwner::Clients(_)) => (pb::CutOffKind::Client, String::new()),
        Who::Owner(owner) => (pb::CutOffKind::Other, owner.to_string()),
    }
}

impl Refusal {
    /// Adds whom it hits to a report.
    pub fn add_to(&self, report: &mut pb::Neighbour) {
        report.cut_off = self.whom.iter().map(Into::into).collect();
        report.cut_off_more = u32::try_from(self.more).unwrap_or(u32::MAX);
        report.closed_ports = ports(&self.everyone);
    }
}

/// Whom somebody else's firewall cuts off: `drops tenant acme, 203.0.113.9 (udp 5060)`; `None` where
/// nobody that the policy knows.
pub fn describe(report: &pb::Neighbour) -> Option<String> {
    let mut parts: Vec<String> = report.cut_off.iter().take(NAMED).map(cut_off).collect();
    let unnamed = report.cut_off.len().saturating_sub(NAMED) as u64;
    let more = unnamed + u64::from(report.cut_off_more);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    let mut words = Vec::new();
    if !parts.is_empty() {
        words.push(format!("drops {}", parts.join("; ")));
    }
    if !report.closed_ports.is_empty() {
        let closed = report.closed_ports.join(", ");
        words.push(format!(
            "closes {closed} to everyone, which the policy opens"
        ));
    }
    (!words.is_empty()).then(|| words.join("; "))
}

fn cut_off(one: &pb::CutOff) -> String {
    let who = match one.kind() {
        pb::CutOffKind::Controller => "the controller",
        pb::CutOffKind::Admin => "an admin",
        pb::CutOffKind::Cluster => "cluster member",
        pb::CutOffKind::Tenant => "tenant",
        pb::CutOffKind::Provider => "provider",
        pb::CutOffKind::Client => "a client",
        pb::CutOffKind::Other | pb::CutOffKind::Unspecified => "",
    };
    let who = [who, one.name.as_str()].map(str::trim).join(" ");
    let net = one.network.as_ref().map(network).unwrap_or_default();
    let ports = one.ports.join(", ");
    format!("{}, {net} ({ports})", who.trim())
}

/// `203.0.113.9`, `203.0.113.0/24`.
fn network(network: &pb::Network) -> String {
    let address = <[u8; 4]>::try_from(network.address.as_slice()).map(IpAddr::from);
    let address =
        address.or_else(|_| <[u8; 16]>::try_from(network.address.as_slice()).map(IpAddr::from));
    match address {
        Ok(address) => {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            match network.prefix_length {
                length if length == bits => address.to_string(),
                length => format!("{address}/{length}"),
            }
        }
        Err(_) => "an address that cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{PortRange, Protocol};

    #[test]
    fn a_refusal_says_whom_it_hits_and_where() {
        let port = |port| Ports {
            protocol: Protocol::Udp,
            range: PortRange::single(port),
        };
        let whom = |who, net: &str| Whom {
            who,
            net: net.parse().unwrap(),
            ports: vec![port(5060)],
        };
        let acme = SetOwner::Tenant("acme".parse().unwrap());
        let mut report = pb::Neighbour::default();
        assert_eq!(describe(&report), None);
        let mut refusal = Refusal {
            whom: vec![
                whom(Who::Admins, "2001:db8::/64"),
                whom(Who::Owner(acme), "203.0.113.9/32"),
            ],
            ..Refusal::default()
        };
        refusal.add_to(&mut report);
        assert_eq!(
            describe(&report).unwrap(),
            "drops an admin, 2001:db8::/64 (udp 5060); tenant acme, 203.0.113.9 (udp 5060)"
        );
        refusal.whom = vec![whom(Who::Cluster, "10.20.0.11/32"); 6];
        (refusal.more, refusal.everyone) = (3, vec![port(5050)]);
        refusal.add_to(&mut report);
        let text = describe(&report).unwrap();
        let end = "5 more; closes udp 5050 to everyone, which the policy opens";
        assert!(text.ends_with(end), "{text}");
    }
}
