//! Files of firewall rules that the distribution loads at boot.

use voipfleet_agent::host::Host;
use voipfleet_agent::inventory::Findings;
use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::NeighbourKind;

use crate::support::{Place, install, on_both_backends, sample};

fn save(place: &Place, path: &str, text: &str) {
    let path = place.folder.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn look(place: &Place) -> Vec<(String, String)> {
    let host = Host::at(place.folder.path(), place.runner());
    let found = Findings::read(&host, &mut place.system()).foreign_firewalls;
    let saved = found
        .into_iter()
        .filter(|one| one.kind() == NeighbourKind::SavedRules);
    saved.map(|one| (one.detail, one.advice)).collect()
}

const RULES: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                     -A INPUT -m set --match-set crowdsec-blacklists src -j DROP\nCOMMIT\n";

#[test]
fn file_that_names_a_set_that_is_not_there_at_boot_is_named() {
    on_both_backends(|place| {
        // Reading a legacy table for the first time makes it.
        assert_eq!(look(place), []);
        let before = place.everything();
        // It is in the kernel now, but nothing makes it at boot.
        place.tool("ipset create crowdsec-blacklists hash:ip");
        save(place, "etc/iptables/rules.v4", RULES);
        let found = look(place);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0]
                .0
                .starts_with("/etc/iptables/rules.v4: it will not load at boot"),
            "{found:?}"
        );
        assert!(found[0].0.contains("crowdsec-blacklists"), "{found:?}");
        // Something does.
        save(
            place,
            "etc/ipset.conf",
            "create crowdsec-blacklists hash:ip\nadd crowdsec-blacklists 192.0.2.1\n",
        );
        assert_eq!(look(place), []);
        save(
            place,
            "etc/sysconfig/ip6tables",
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -j NOSUCH\nCOMMIT\n",
        );
        let found = look(place);
        assert!(
            found[0]
                .0
                .starts_with("/etc/sysconfig/ip6tables: it will not load"),
            "{found:?}"
        );
        place.tool("ipset destroy crowdsec-blacklists");
        assert_eq!(place.everything(), before, "nothing is loaded to try");
    });
}

#[test]
fn file_that_holds_our_rules_is_named() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        save(
            place,
            "etc/sysconfig/iptables",
            &place.tool("iptables-save"),
        );
        // As people are told to keep the rules of nft.
        let listed = place.tool("nft list ruleset");
        save(
            place,
            "etc/nftables.conf",
            &format!("flush ruleset\n{listed}"),
        );
        let found = look(place);
        let of = |path: &str| found.iter().find(|(detail, _)| detail.starts_with(path));
        let (detail, advice) = of("/etc/sysconfig/iptables: ").unwrap();
        assert!(
            detail.contains("holds an old copy of our rules"),
            "{found:?}"
        );
        assert!(advice.contains("VF-* and vf-*"), "{found:?}");
        // On legacy, nft lists nothing of ours.
        match place.backend {
            Backend::Nft => {
                let (detail, _) = of("/etc/nftables.conf: ").unwrap();
                assert!(
                    detail.contains("holds an old copy of our rules; it will not load"),
                    "{found:?}"
                );
            }
            Backend::Legacy => assert_eq!(of("/etc/nftables.conf"), None),
        }
        save(
            place,
            "etc/nftables.conf",
            "flush ruleset\ntable inet mine {\n\tchain input {\n\t}\n}\n",
        );
        assert_eq!(look(place).len(), 1);
    });
}
