//! A kernel of one's own for a test: a network namespace, with either backend's tools.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use voipfleet_agent::enforcement::apply::{self, NodeId, Prepared, Rejection};
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::host::exec::{DEFAULT_TOOL_PATH, Runner};
use voipfleet_agent::kernel::{Backend, Kernel, System};
use voipfleet_agent::ledger::Confirmed;
use voipfleet_agent::ledger::Ledger;
use voipfleet_protocol::session::Held;
use voipfleet_ruleset::iptables::Failsafe;
use voipfleet_ruleset::ruleset::{
    AddressSet, Chain, ConnectionState, ConnectionStates, Family, Mode, PortRange, Ports, Protocol,
    Rate, RateUnit, Rule, Ruleset, SetName, SourceLimit, Verdict,
};

pub(crate) const BACKENDS: [Backend; 2] = [Backend::Nft, Backend::Legacy];

/// A place to work in.
pub(crate) struct Place {
    pub(crate) backend: Backend,
    pub(crate) folder: tempfile::TempDir,
}

/// Runs `test` in a network namespace of its own, once with each backend.
pub(crate) fn on_both_backends(test: fn(&Place)) {
    for backend in BACKENDS {
        in_namespace(backend, test);
    }
}

/// Runs `test` in a network namespace of its own.
pub(crate) fn in_namespace(backend: Backend, test: impl FnOnce(&Place) + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads real rules in a network namespace of its own: run it as root"
    );
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let place = Place {
            backend,
            folder: tempfile::tempdir().unwrap(),
        };
        if backend == Backend::Legacy {
            let tools = place.folder.path().join("legacy");
            std::fs::create_dir(&tools).unwrap();
            for family in ["iptables", "ip6tables"] {
                for verb in ["", "-restore", "-save"] {
                    let multi = Path::new("/usr/sbin/xtables-legacy-multi");
                    symlink(multi, tools.join(format!("{family}{verb}"))).unwrap();
                }
            }
        }
        test(&place);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Place {
    pub(crate) fn tool_path(&self) -> String {
        match self.backend {
            Backend::Nft => DEFAULT_TOOL_PATH.to_owned(),
            Backend::Legacy => {
                let tools = self.folder.path().join("legacy");
                format!("{}:{DEFAULT_TOOL_PATH}", tools.display())
            }
        }
    }

    pub(crate) fn runner(&self) -> Runner {
        Runner::new(&self.tool_path())
    }

    pub(crate) fn system(&self) -> System {
        let system = System::find(self.runner()).expect("iptables and ip6tables");
        assert_eq!(system.backend(), self.backend);
        system
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::open(&self.folder.path().join("ledger")).unwrap()
    }

    /// Runs a tool as another program would.
    pub(crate) fn tool(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        let arguments: Vec<&str> = words.collect();
        match self.runner().run(program, &arguments, "") {
            Ok(output) => output.stdout,
            Err(error) => panic!("{line}: {error}"),
        }
    }

    /// Rules and sets that are not ours, fail2ban's among them.
    pub(crate) fn add_foreign_rules(&self) {
        for line in [
            "ipset create f2b-list hash:ip",
            "ipset add f2b-list 192.0.2.66",
            "iptables -N f2b-sshd",
            "iptables -A f2b-sshd -s 192.0.2.99 -j REJECT",
            "iptables -A f2b-sshd -j RETURN",
            "iptables -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd",
            "iptables -A INPUT -m set --match-set f2b-list src -j DROP",
            "iptables -A INPUT -i lo -j ACCEPT",
            "iptables -A FORWARD -s 10.9.0.0/16 -j DROP",
            "ip6tables -N f2b-sshd",
            "ip6tables -A f2b-sshd -s 2001:db8::99 -j REJECT",
            "ip6tables -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd",
        ] {
            self.tool(line);
        }
    }

    /// All that is not ours, as the tools print it, without times and counters.
    pub(crate) fn foreign(&self) -> String {
        let mut text = String::new();
        for line in ["iptables-save", "ip6tables-save", "ipset save"] {
            for line in self.tool(line).lines() {
                let ours = line.contains("VF-") || line.contains(" vf-");
                if !ours && !line.starts_with('#') {
                    text.push_str(line.split(" [").next().unwrap());
                    text.push('\n');
                }
            }
        }
        text
    }

    /// Every rule and set, as the tools print them, without times, counters and the seed of
    /// a set's hash. A set's elements have no order.
    pub(crate) fn everything(&self) -> String {
        let mut text = String::new();
        for line in ["iptables-save", "ip6tables-save", "ipset save"] {
            let saved = self.tool(line);
            let mut lines: Vec<&str> = saved
                .lines()
                .filter(|line| !line.starts_with('#'))
                .map(|line| line.split(" [").next().unwrap())
                .map(|line| line.split(" initval ").next().unwrap())
                .collect();
            if line == "ipset save" {
                lines.sort_unstable();
            }
            text.push_str(&lines.join("\n"));
            text.push('\n');
        }
        text
    }

    /// Whether anything of ours is in the kernel.
    pub(crate) fn has_ours(&self) -> bool {
        ["iptables-save", "ip6tables-save", "ipset save"]
            .iter()
            .any(|line| self.tool(line).contains("VF-") || self.tool(line).contains("vf-"))
    }
}

/// Both are as [`Place::everything`] gives them.
#[track_caller]
pub(crate) fn same(before: &str, now: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before_lines, now_lines) = (lines(before), lines(now));
    assert!(
        before == now,
        "gone: {:#?}, new: {:#?}",
        before_lines.difference(&now_lines).collect::<Vec<_>>(),
        now_lines.difference(&before_lines).collect::<Vec<_>>()
    );
}

/// The generation that the node boots with.
pub(crate) fn confirmed(place: &Place) -> Option<u64> {
    let confirmed = place.ledger().confirmed().unwrap();
    confirmed.map(|confirmed| confirmed.held.generation)
}

/// The kernel and the disk are as they were, and no later boot changes that.
pub(crate) fn is_back(place: &Place, before: &str) {
    same(before, &place.everything());
    assert_eq!(confirmed(place), Some(1));
    assert!(place.ledger().journal().unwrap().is_none());
    let recovered = recovery::recover(&mut place.system(), &place.ledger());
    assert!(recovered.failed.is_none() && recovered.interrupted.is_none());
    same(before, &place.everything());
}

pub(crate) fn own() -> NodeId {
    NodeId {
        site: "site-a".parse().unwrap(),
        node: "sip1".parse().unwrap(),
    }
}

pub(crate) fn failsafe() -> Failsafe {
    Failsafe {
        controllers: vec![
            "198.51.100.7:7443".parse().unwrap(),
            "[2001:db8:c::7]:7443".parse().unwrap(),
        ],
        ssh_ports: Vec::new(),
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rule(label: &str, verdict: Verdict) -> Rule {
    Rule::new(label.parse().unwrap(), verdict)
}

/// A ruleset with every kind of match, in three chains; `variant` changes rules, sets and
/// the name of a chain.
pub(crate) fn sample(variant: u16) -> Ruleset {
    let set = |stem: &str, family, elements: &[&str]| {
        let name = SetName {
            stem: stem.parse().unwrap(),
            family,
        };
        AddressSet::new(name, nets(elements))
    };
    let clients = "clients".parse().unwrap();
    let extra = format!("list-{variant}");
    let own_chain = format!("VF-SITE{variant}");
    let mut sets: Vec<AddressSet> = [
        set(
            "clients",
            Family::V4,
            &["203.0.113.0/24", &format!("10.0.{variant}.1/32")],
        ),
        set("clients", Family::V6, &["2001:db8:10::/48"]),
        set(&extra, Family::V4, &["192.0.2.0/28"]),
        set(&extra, Family::V6, &["2001:db8:66::/64"]),
    ]
    .into();
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    let input = vec![
        Rule {
            source_set: Some(extra.parse().unwrap()),
            ..rule("deny", Verdict::Drop)
        },
        Rule {
            states: ConnectionStates::new([ConnectionState::Established, ConnectionState::Related]),
            ..rule("established", Verdict::Accept)
        },
        Rule {
            states: ConnectionStates::new([ConnectionState::Invalid]),
            ..rule("invalid", Verdict::Drop)
        },
        rule("sip", Verdict::Jump("VF-SIP".parse().unwrap())),
        rule("site", Verdict::Jump(own_chain.parse().unwrap())),
        Rule {
            limit: Rate::new(5, RateUnit::Minute, 10),
            ..rule("log", Verdict::Log("vf drop: ".parse().unwrap()))
        },
        rule("default", Verdict::Drop),
    ];
    let sip = vec![
        Rule {
            source_set: Some(clients),
            protocol: Some(Protocol::Udp),
            destination_ports: Ports::single(5060),
            ..rule("sip:clients", Verdict::Accept)
        },
        Rule {
            protocol: Some(Protocol::Udp),
            destination_ports: Ports::single(5060),
            source_limit: Some(SourceLimit {
                name: "sip".parse().unwrap(),
                above: Rate::new(20, RateUnit::Second, 60).unwrap(),
            }),
            ..rule("sip:limit", Verdict::Drop)
        },
    ];
    let site = vec![Rule {
        protocol: Some(Protocol::Udp),
        destination_ports: Ports::exact(vec![PortRange {
            first: 10_000,
            last: 20_000 + variant,
        }])
        .unwrap(),
        ..rule("rtp", Verdict::Accept)
    }];
    let chain = |name: &str, rules| Chain {
        name: name.parse().unwrap(),
        rules,
    };
    let ruleset = Ruleset {
        site: own().site,
        node: own().node,
        mode: Mode::Enforce,
        admins: nets(&["198.51.100.10/32", "2001:db8:ad::/64"]),
        ssh_ports: vec![22],
        sets,
        probes: Vec::new(),
        without_ipv6: false,
        chains: vec![
            chain("VF-INPUT", input),
            chain("VF-SIP", sip),
            chain(&own_chain, site),
        ],
    };
    Ruleset::decode(&ruleset.encode()).expect("a sound sample")
}

pub(crate) fn held(generation: u64, ruleset: &Ruleset) -> Held {
    Held {
        generation,
        digest: ruleset.digest(),
    }
}

/// Stages a ruleset, loads it and remembers it, without a journal.
pub(crate) fn install(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    generation: u64,
    ruleset: Ruleset,
) -> Confirmed {
    let prepared = prepare(kernel, generation, ruleset).expect("staging");
    let confirmed = prepared.enforce(kernel).expect("enforcing");
    ledger.confirm(&confirmed).unwrap();
    confirmed
}

pub(crate) fn prepare(
    kernel: &mut dyn Kernel,
    generation: u64,
    ruleset: Ruleset,
) -> Result<Prepared, Rejection> {
    let held = held(generation, &ruleset);
    Prepared::preflight(kernel, held, ruleset, None, failsafe())
}

/// Goes back to what is confirmed.
pub(crate) fn put_back(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: Option<&mut Confirmed>,
) {
    apply::roll_back(kernel, ledger, confirmed).expect("putting back");
}
