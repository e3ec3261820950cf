//! Real hosts: leases that must be renewed, SSH on a port of its own, daemons in use, kernels that
//! lack something, and nodes without IPv6.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::write::clear;
use voipfleet_agent::host::Host;
use voipfleet_agent::host::exec::Runner;
use voipfleet_agent::inventory::HostInventory;
use voipfleet_agent::kernel::{Backend, System};
use voipfleet_agent::reconcile::Inventory;
use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::{ListeningSocket, NodeFacts};
use voipfleet_ruleset::ruleset::{AddressSet, Family, Ruleset, Scheduled, Scope, Until};

use crate::flows::{PHONE, PHONE_V6, STRANGER, Service, Wire};
use crate::node::{Node, hear, run};
use crate::reconciler::{Agent, NEVER};
use crate::support::{
    Place, in_namespace, install, on_both_backends, own, prepare, put_back, sample,
};

/// Where the stand-in of an SSH server listens.
const SSH: u16 = 42_422;

/// A lease is renewed hours after a push was confirmed: its answers come from servers and relays
/// that the node did not ask by their address.
#[test]
fn dhcp_answers_arrive_in_every_ruleset() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let (mut system, ledger) = (place.system(), place.ledger());
        let management = Ruleset::management(
            own().site,
            own().node,
            vec!["198.51.100.10/32".parse().unwrap()],
            vec![22],
        );
        for (generation, ruleset) in [(1, sample(1)), (2, management.unwrap())] {
            install(&mut system, &ledger, generation, ruleset);
            let (v4, v6) = (Service::new(68), Service::new(546));
            let other = wire.peer(STRANGER, 4000);
            let server = wire.peer(STRANGER, 67);
            other.send(68, "not of a server");
            server.send(68, "an offer");
            assert_eq!(v4.receive().0, "an offer");
            // A relay with a global address.
            let relay = wire.peer(PHONE_V6, 547);
            relay.send(546, "a reply");
            assert_eq!(v6.receive().0, "a reply");
        }
    });
}

/// A program of a name that listens in the namespace of the test until it is dropped.
struct Daemon(Child);

impl Daemon {
    fn start(place: &Place, name: &str, port: u16) -> Self {
        let program = place.folder.path().join(name);
        if !program.exists() {
            symlink("/usr/bin/perl", &program).unwrap();
        }
        let script = "use Socket; $| = 1; \
             socket(my $s, AF_INET, SOCK_STREAM, 0) or die; \
             setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); \
             bind($s, sockaddr_in($ARGV[0], INADDR_ANY)) or die; listen($s, 5) or die; \
             print \"up\\n\"; while (accept(my $c, $s)) { push @c, $c; }";
        #[allow(clippy::disallowed_methods)] // not a tool of the node
        let mut child = Command::new(&program)
            .args(["-e", script, &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn failsafe_ssh(place: &Place) -> Vec<String> {
    let rules = place.tool("iptables-save -t filter");
    let rules = rules
        .lines()
        .filter(|line| line.contains("failsafe:admin-ssh"));
    rules.map(str::to_owned).collect()
}

fn socket(facts: &NodeFacts, port: u16) -> Option<&ListeningSocket> {
    facts
        .sockets
        .iter()
        .find(|socket| socket.port == u32::from(port))
}

#[test]
fn ssh_stays_open_to_admins_where_it_really_listens() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::idle(place).await;
            let _sshd = Daemon::start(place, "sshd", SSH);
            node.run();
            let (session, hello) = node.session().await;
            let facts = hello.facts.unwrap();
            let found = socket(&facts, SSH).expect("the SSH server is reported");
            assert_eq!((found.process.as_str(), found.is_ssh), ("sshd", true));
            let session = node.push(session, 1, &sample(1)).await;
            let rules = failsafe_ssh(place);
            assert!(rules[0].contains("--dports 22,42422 "), "{rules:?}");
            // What the node boots with knows the port too.
            let confirmed = place_ledger(&node);
            assert_eq!(confirmed.failsafe.ssh_ports, [SSH]);
            drop(session);
        });
    });
}

fn place_ledger(node: &Node<'_>) -> voipfleet_agent::ledger::Confirmed {
    let ledger = voipfleet_agent::ledger::Ledger::open_read_only(&node.state.ledger());
    ledger.confirmed().unwrap().unwrap()
}

#[test]
fn ssh_that_moves_later_is_followed() {
    in_namespace(Backend::Nft, |place| {
        run(async {
            let mut node = Node::idle(place).await;
            node.poll = "100ms";
            node.run();
            let (session, _) = node.session().await;
            let mut session = node.push(session, 1, &sample(1)).await;
            assert!(failsafe_ssh(place)[0].contains("--dports 22 "));
            let _sshd = Daemon::start(place, "sshd", SSH);
            // The facts are reported after the rules were changed.
            loop {
                if let Some(Up::Facts(facts)) = hear(&mut session).await
                    && socket(&facts, SSH).is_some()
                {
                    break;
                }
            }
            let rules = failsafe_ssh(place);
            assert!(rules[0].contains("--dports 22,42422 "), "{rules:?}");
        });
    });
}

/// The inventory of the namespace of this thread.
fn inventory(place: &Place, kernel: &mut System) -> NodeFacts {
    let host = Host::at(Path::new("/"), place.runner());
    let mut inventory = HostInventory::new(host);
    inventory.refresh(kernel);
    inventory.refresh_sockets(kernel);
    inventory.facts(kernel, &Family::BOTH)
}

#[test]
fn daemons_in_use_are_reported_with_their_users() {
    in_namespace(Backend::Nft, |place| {
        let wire = Wire::new();
        let mut system = place.system();
        let _daemon = Daemon::start(place, "zabbix", 10_050);
        let service = Service::new(5060);
        let local = std::net::UdpSocket::bind(("127.0.0.1", 6000)).unwrap();
        // Before a rule asks for it, the kernel tracks no connection.
        let facts = inventory(place, &mut system);
        let sip = socket(&facts, 5060).expect("the UDP service");
        assert!(!sip.users_known && sip.users.is_empty(), "{sip:?}");
        assert!(socket(&facts, local.local_addr().unwrap().port()).is_none());

        let tcp = wire.connect(10_050);
        let facts = inventory(place, &mut system);
        let zabbix = socket(&facts, 10_050).expect("the daemon");
        assert_eq!(zabbix.process, "zabbix");
        assert!(zabbix.users_known && !zabbix.is_ssh);
        let phone: std::net::Ipv4Addr = PHONE.parse().unwrap();
        assert_eq!(zabbix.users, [phone.octets().to_vec()]);
        drop(tcp);

        let ledger = place.ledger();
        install(&mut system, &ledger, 1, sample(1));
        service.exchange(&wire.peer(PHONE, 5060));
        let facts = inventory(place, &mut system);
        let sip = socket(&facts, 5060).expect("the UDP service");
        assert!(sip.users_known, "{sip:?}");
        assert_eq!(sip.users, [phone.octets().to_vec()]);
    });
}

/// A tool of the node that fails for some input, in front of the real ones.
fn broken_tool(place: &Place, tools: &[&str], script: &str) -> System {
    let folder = place.folder.path().join("broken");
    std::fs::create_dir_all(&folder).unwrap();
    for tool in tools {
        let real = place.runner().find(tool).unwrap();
        let text = script.replace("REAL", &real.display().to_string());
        let (written, path) = (folder.join("script"), folder.join(tool));
        std::fs::write(&written, text).unwrap();
        place.tool(&format!(
            "install -m 755 {} {}",
            written.display(),
            path.display()
        ));
    }
    let path = format!("{}:{}", folder.display(), place.tool_path());
    System::find(Runner::new(&path)).unwrap()
}

#[test]
fn missing_kernel_features_are_facts_before_any_push() {
    on_both_backends(|place| {
        let mut whole = place.system();
        let facts = inventory(place, &mut whole);
        assert_eq!(facts.missing_features, []);
        let mut poor = broken_tool(
            place,
            &["ipset"],
            "#!/bin/sh\ninput=$(cat)\ncase \"$*$input\" in *hash:net*) echo 'ipset: set type not \
             supported' >&2; exit 1;; esac\nprintf '%s\\n' \"$input\" | exec REAL \"$@\"\n",
        );
        let facts = inventory(place, &mut poor);
        let missing: Vec<(&str, &str)> = facts
            .missing_features
            .iter()
            .map(|missing| (missing.feature.as_str(), missing.module.as_str()))
            .collect();
        let module = ("hash:net", "ip_set_hash_net");
        assert_eq!(missing, [module, module], "both families");
        assert!(
            facts.missing_features[0]
                .error
                .contains("set type not supported")
        );
        let warned = facts
            .warnings
            .iter()
            .any(|w| w.contains("modprobe ip_set_hash_net"));
        assert!(warned, "{:?}", facts.warnings);
    });
}

/// The sample as a site without IPv6 here has it.
fn without_ipv6(variant: u16) -> Ruleset {
    let mut ruleset = sample(variant);
    ruleset.without_ipv6 = true;
    ruleset.sets.retain(|set| set.name.family == Family::V4);
    for rule in ruleset.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        rule.scope = Scope::V4;
    }
    Ruleset::decode(&ruleset.encode()).unwrap()
}

#[test]
fn a_node_without_ipv6_needs_no_ip6tables() {
    on_both_backends(|place| {
        place.add_foreign_rules();
        let ledger = place.ledger();
        // Its ruleset before had both families.
        let mut whole = place.system();
        install(&mut whole, &ledger, 1, sample(1));
        let confirmed = install(&mut whole, &ledger, 2, without_ipv6(1));
        assert!(!place.tool("ip6tables-save").contains("VF-"));
        assert!(!place.tool("ipset save").contains("-6 "));
        assert!(inspect(&mut whole, &confirmed).is_clean());
        clear(&mut whole).unwrap();

        let mut broken = broken_tool(
            place,
            &["ip6tables", "ip6tables-save", "ip6tables-restore"],
            "#!/bin/sh\ncase \"$*\" in -V|--version|--help) exec REAL \"$@\";; esac\necho \"ip6tables: \
             can't initialize ip6tables table \\`filter': Table does not exist (do you need to \
             insmod?)\" >&2\nexit 3\n",
        );
        let refused = prepare(&mut broken, 3, sample(1)).unwrap_err().to_string();
        assert!(refused.contains("Table does not exist"), "{refused}");
        let mut confirmed = install(&mut broken, &ledger, 3, without_ipv6(2));
        assert!(inspect(&mut broken, &confirmed).is_clean());
        assert!(place.tool("iptables-save").contains("VF-SITE2"));
        put_back(&mut broken, &ledger, Some(&mut confirmed));
        clear(&mut broken).unwrap();
        assert!(!place.has_ours());
    });
}

/// An element that begins so many seconds from now.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel's own time is at work"
)]
fn beginning_in(seconds: u64) -> (Ruleset, Until) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let from = Until::from_unix(now.as_secs() + seconds).unwrap();
    let mut ruleset = sample(1);
    let set = ruleset
        .sets
        .iter_mut()
        .find(|set| set.name.kernel_name() == "vf-clients-4");
    let set: &mut AddressSet = set.unwrap();
    *set = set.clone().with_scheduled([Scheduled {
        net: "198.18.128.0/18".parse().unwrap(),
        from,
        until: Until::from_unix(from.unix() + 3600),
    }]);
    (Ruleset::decode(&ruleset.encode()).unwrap(), from)
}

#[test]
fn a_network_begins_by_itself() {
    on_both_backends(|place| {
        let (ruleset, _) = beginning_in(3);
        let mut system = place.system();
        install(&mut system, &place.ledger(), 1, ruleset);
        let agent = Agent::start(place, NEVER);
        let clients = || place.tool("ipset save vf-clients-4");
        assert!(!clients().contains("198.18.128.0/18"), "{}", clients());
        // Nothing announces a change of a set: the kernel is asked until it is there.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !clients().contains("198.18.128.0/18 timeout 3") {
            assert!(std::time::Instant::now() < deadline, "{}", clients());
            std::thread::sleep(Duration::from_millis(50));
        }
        // It is no drift.
        assert_eq!(agent.records_within(Duration::from_millis(300)), []);
    });
}
