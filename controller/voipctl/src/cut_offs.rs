//! Whom foreign firewalls of a host cut off from what the policy opens to them.

use voipfleet_proto::v1;
use voipfleet_ruleset::foreign::describe;

use crate::labels;

/// One sentence for each firewall: `fail2ban (chain f2b-asterisk) drops tenant acme, 203.0.113.9 (udp
/// 5060)`.
pub fn cut_offs(facts: &v1::NodeFacts) -> impl Iterator<Item = String> {
    facts.neighbours.iter().filter_map(|neighbour| {
        let kind = labels::neighbour(neighbour.kind);
        let hits = describe(neighbour)?;
        Some(format!("{kind} ({}) {hits}", neighbour.detail))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firewall_that_bans_a_tenant_is_one_sentence() {
        let cut_off = |kind: v1::CutOffKind, name: &str, last| v1::CutOff {
            kind: kind.into(),
            name: name.to_owned(),
            network: Some(v1::Network {
                address: vec![203, 0, 113, last],
                prefix_length: 32,
            }),
            ports: vec!["udp 5060".to_owned()],
        };
        let banning = v1::Neighbour {
            kind: v1::NeighbourKind::Fail2ban.into(),
            detail: "chain f2b-asterisk".to_owned(),
            cut_off: vec![
                cut_off(v1::CutOffKind::Tenant, "acme", 9),
                cut_off(v1::CutOffKind::Client, "", 10),
            ],
            cut_off_more: 2,
            ..v1::Neighbour::default()
        };
        let facts = v1::NodeFacts {
            neighbours: vec![v1::Neighbour::default(), banning],
            ..v1::NodeFacts::default()
        };
        let sentences: Vec<String> = cut_offs(&facts).collect();
        assert_eq!(
            sentences,
            [
                "fail2ban (chain f2b-asterisk) drops tenant acme, 203.0.113.9 (udp 5060); a client, \
              203.0.113.10 (udp 5060); 2 more"
            ]
        );
    }
}
