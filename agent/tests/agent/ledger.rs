//! The ledger on disk: its format is held by golden files, and no damage makes it panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use voipfleet_agent::kernel::Backend;
use voipfleet_agent::ledger::{
    Canonical, Confirmed, Journal, KeptSets, Ledger, LedgerError, Management, Note, SiteSets,
};
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::drift::Wanted;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::iptables::{Failsafe, parse_save, restore_input};
use voipfleet_ruleset::ruleset::{
    Chain, DynamicSet, DynamicSetName, DynamicSets, Expiring, Family, Mode, Rule, Ruleset, Until,
    Verdict,
};

fn confirmed() -> Confirmed {
    let ruleset = Ruleset {
        site: "site-a".parse::<SiteName>().unwrap(),
        node: "sip1".parse::<NodeName>().unwrap(),
        mode: Mode::Enforce,
        admins: vec!["198.51.100.10/32".parse().unwrap()],
        ssh_ports: vec![22],
        sets: Vec::new(),
        probes: Vec::new(),
        without_ipv6: false,
        chains: vec![Chain {
            name: "VF-INPUT".parse().unwrap(),
            rules: vec![Rule::new("default".parse().unwrap(), Verdict::Drop)],
        }],
    };
    let failsafe = Failsafe {
        controllers: vec!["192.0.2.1:7443".parse().unwrap()],
        ssh_ports: vec![2222],
    };
    let tables = Family::BOTH.map(|family| Wanted {
        family,
        table: parse_save(&restore_input(&ruleset, &failsafe, family)).unwrap(),
        policy: None,
    });
    Confirmed {
        held: Held {
            generation: 7,
            digest: ruleset.digest(),
        },
        ruleset,
        failsafe,
        canonical: Canonical {
            backend: Backend::Nft,
            version: "1.8.9".to_owned(),
            tables,
            read_back: false,
        },
        filled: None,
    }
}

fn journal() -> Journal {
    Journal {
        held: confirmed().held,
        nonce: 3,
        begun: SystemTime::UNIX_EPOCH + Duration::from_hours(498_720),
    }
}

fn note() -> Note {
    Note {
        since: SystemTime::UNIX_EPOCH + Duration::from_hours(498_721),
        reason: "ipset is not installed".to_owned(),
    }
}

fn dynamic() -> SiteSets {
    let mut sets = DynamicSets::new(confirmed().ruleset.site);
    let until = Until::from_unix(1_796_083_200).unwrap();
    let ending = Expiring {
        net: "203.0.113.10/32".parse().unwrap(),
        until,
    };
    let blocked = DynamicSet::new(["203.0.113.9/32".parse().unwrap()], [ending]);
    sets.insert("block".parse().unwrap(), blocked);
    let cluster = DynamicSet::new(["10.20.0.11/32".parse().unwrap()], []);
    sets.insert("cluster".parse().unwrap(), cluster);
    let mut earlier = sets.clone();
    let feed: DynamicSetName = "feed:bad".parse().unwrap();
    earlier.insert(feed.clone(), DynamicSet::default());
    // A source that is sent no more, and still named.
    SiteSets::new(sets).after(Some(&SiteSets::new(earlier)), &[feed].into())
}

fn golden_path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    folder.join(format!("{name}-v1"))
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(golden_path(name.trim_end_matches("-v1"))).unwrap()
}

fn in_ledger(test: impl FnOnce(&Ledger, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ledger");
    test(&Ledger::open(&folder).unwrap(), &folder);
}

/// Nodes in the field hold such files: an agent that cannot read them loses their rules.
#[test]
fn files_of_format_version_1_are_read() {
    in_ledger(|ledger, folder| {
        fs::write(folder.join("confirmed"), golden("confirmed-v1")).unwrap();
        fs::write(folder.join("journal"), golden("journal-v1")).unwrap();
        fs::write(folder.join("management"), golden("management-v1")).unwrap();
        fs::write(folder.join("fallback"), golden("fallback-v1")).unwrap();
        assert_eq!(ledger.dynamic_sets(), KeptSets::Never);
        fs::write(folder.join("dynamic-sets"), golden("dynamic-sets-v1")).unwrap();
        assert_eq!(ledger.dynamic_sets(), KeptSets::Last(dynamic()));
        let management = Management::from(&confirmed());
        assert_eq!(ledger.management().unwrap().unwrap(), management);
        assert_eq!(ledger.fallback().unwrap(), note());
        assert_eq!(ledger.confirmed().unwrap().unwrap(), confirmed());
        assert_eq!(ledger.journal().unwrap().unwrap(), journal());
    });
}

#[test]
fn files_are_written_in_format_version_1() {
    in_ledger(|ledger, folder| {
        ledger.confirm(&confirmed()).unwrap();
        ledger.begin(&journal()).unwrap();
        ledger.note_fallback(&note()).unwrap();
        ledger.keep_dynamic_sets(&dynamic()).unwrap();
        for name in [
            "management",
            "fallback",
            "dynamic-sets",
            "confirmed",
            "journal",
        ] {
            let written = fs::read(folder.join(name)).unwrap();
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(golden_path(name), &written).unwrap();
            }
            assert!(written == golden(&format!("{name}-v1")), "{name}");
        }
    });
}

#[test]
fn interrupted_write_leaves_the_old_file() {
    in_ledger(|ledger, folder| {
        ledger.confirm(&confirmed()).unwrap();
        let whole = fs::read(folder.join("confirmed")).unwrap();
        for cut in [0, 1, 30, whole.len() - 1] {
            fs::write(folder.join("confirmed.new"), &whole[..cut]).unwrap();
            assert_eq!(ledger.confirmed().unwrap().unwrap(), confirmed());
        }
        let mut next = confirmed();
        next.held.generation = 8;
        ledger.confirm(&next).unwrap();
        assert_eq!(ledger.confirmed().unwrap().unwrap(), next);
    });
}

#[test]
fn truncated_file_is_detected_and_kept_aside() {
    let whole = golden("confirmed-v1");
    in_ledger(|ledger, folder| {
        for cut in 0..whole.len() {
            fs::write(folder.join("confirmed"), &whole[..cut]).unwrap();
            let error = ledger.confirmed().unwrap_err();
            assert!(matches!(error, LedgerError::Corrupt { .. }), "{cut}");
            assert!(!folder.join("confirmed").exists());
            assert!(ledger.is_lost());
            assert_eq!(
                fs::read(folder.join("confirmed.corrupt")).unwrap(),
                whole[..cut]
            );
        }
    });
}

#[test]
fn read_only_ledger_renames_nothing() {
    in_ledger(|_, folder| {
        fs::write(folder.join("confirmed"), "x").unwrap();
        assert!(Ledger::open_read_only(folder).confirmed().is_err());
        assert!(folder.join("confirmed").exists());
    });
}

#[test]
fn later_format_version_is_named_in_the_error() {
    let mut file = golden("confirmed-v1");
    file[12] = 9;
    in_ledger(|ledger, folder| {
        fs::write(folder.join("confirmed"), file).unwrap();
        let error = ledger.confirmed().unwrap_err();
        let words = voipfleet_protocol::errors::chain(&error);
        assert!(
            words.contains("version 9") && words.contains("newer"),
            "{words}"
        );
    });
}

proptest! {
    #[test]
    fn every_flipped_bit_is_detected(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut file = golden("confirmed-v1");
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        in_ledger(|ledger, folder| {
            fs::write(folder.join("confirmed"), file).unwrap();
            assert!(ledger.confirmed().is_err());
        });
    }
}

#[test]
fn failed_confirm_keeps_the_previous_admins() {
    in_ledger(|ledger, folder| {
        let mut next = confirmed();
        next.ruleset.admins = vec!["203.0.113.7/32".parse().unwrap()];
        next.held.digest = next.ruleset.digest();
        let in_the_way = folder.join("confirmed.new");
        for before in [None, Some(confirmed())] {
            if let Some(before) = &before {
                ledger.confirm(before).unwrap();
            }
            fs::create_dir(&in_the_way).unwrap();
            assert!(ledger.confirm(&next).is_err());
            ledger.take_back(before.as_ref()).unwrap();
            let management = before.as_ref().map(Management::from);
            assert_eq!(ledger.management().unwrap(), management);
            assert_eq!(ledger.confirmed().unwrap(), before);
            fs::remove_dir(&in_the_way).unwrap();
        }
    });
}
