//! Plans for address sets, carried out on the real kernel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ipnet::IpNet;
use voipfleet_agent::host::clock;
use voipfleet_ruleset::drift::compare_sets;
use voipfleet_ruleset::iptables::{Failsafe, SetPlan, Slack, restore_input, set_plan};
use voipfleet_ruleset::ruleset::{
    AddressSet, Chain, Expiring, Family, INPUT_CHAIN, Mode, Rule, Ruleset, SetName, Until, Verdict,
};

use voipfleet_tests::exec::run;

use crate::tools::{Backend, Kernel, in_namespace, ipset_restore, saved_sets};

/// A ruleset with one rule for each set.
fn ruleset(sets: Vec<AddressSet>) -> Ruleset {
    let mut rules: Vec<Rule> = Vec::new();
    for set in &sets {
        let mut rule = Rule::new("x".parse().unwrap(), Verdict::Accept);
        rule.source_set = Some(set.name.stem.clone());
        rule.scope = set.name.family.into();
        rules.push(rule);
    }
    Ruleset {
        site: "site-a".parse().unwrap(),
        node: "sip-1".parse().unwrap(),
        mode: Mode::Enforce,
        admins: vec!["198.51.100.10/32".parse().unwrap()],
        ssh_ports: vec![22],
        sets,
        probes: Vec::new(),
        without_ipv6: false,
        chains: vec![Chain {
            name: INPUT_CHAIN.parse().unwrap(),
            rules,
        }],
    }
}

fn set(kernel_name: &str, elements: impl IntoIterator<Item = IpNet>) -> AddressSet {
    AddressSet::new(SetName::from_kernel_name(kernel_name).unwrap(), elements)
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Hosts of 10/8, `count` of them from `first` on.
fn hosts(first: u32, count: u32) -> impl Iterator<Item = IpNet> {
    (first..first + count).map(|i| {
        IpNet::from(std::net::IpAddr::V4(std::net::Ipv4Addr::from_bits(
            0x0a00_0000 + i,
        )))
    })
}

fn now() -> u64 {
    clock::unix(clock::now())
}

/// Elements that go so many seconds from now.
fn expiring(elements: impl IntoIterator<Item = IpNet>, left: u64) -> Vec<Expiring> {
    let until = Until::from_unix(now() + left).unwrap();
    let one = |net| Expiring { net, until };
    elements.into_iter().map(one).collect()
}

/// Sets, rules, sets: as the agent applies.
fn apply(kernel: &Kernel, wanted: &Ruleset) -> SetPlan {
    let plan = set_plan(wanted, &saved_sets().unwrap(), now());
    ipset_restore(&plan.before).unwrap();
    for family in Family::BOTH {
        let input = restore_input(wanted, &Failsafe::default(), family);
        kernel.restore(family, &input).unwrap();
    }
    ipset_restore(&plan.after.to_string()).unwrap();
    let observed = saved_sets().unwrap();
    assert_eq!(compare_sets(wanted, &observed, now(), Slack::WRITTEN), []);
    // On a busy machine, timers may be a little late.
    if wanted.sets.iter().all(|set| set.expiring.is_empty()) {
        assert_eq!(set_plan(wanted, &observed, now()), SetPlan::default());
    }
    plan
}

#[test]
fn every_plan_leads_to_the_wanted_sets() {
    in_namespace(|| {
        for backend in [Backend::Nft, Backend::Legacy] {
            let kernel = Kernel::new(backend);
            let both = [
                set(
                    "vf-clients-4",
                    nets(&["10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0"]),
                ),
                set(
                    "vf-clients-6",
                    nets(&["2001:db8::/32", "::ffff:192.0.2.1/128", "::/0"]),
                ),
            ];
            apply(&kernel, &ruleset(both.to_vec()));
            // Other elements, one set gone, one new.
            let plan = apply(
                &kernel,
                &ruleset(vec![
                    set("vf-clients-4", nets(&["10.0.0.0/8", "192.0.2.2/32"])),
                    set("vf-deny-4", nets(&["203.0.113.0/24"])),
                ]),
            );
            assert_eq!(plan.before.lines().count(), 3, "{}", plan.before);
            // More than the old shape holds, while rules name the set.
            let plan = apply(&kernel, &ruleset(vec![set("vf-clients-4", hosts(0, 3000))]));
            assert!(plan.before.contains("\nswap "), "{:.300}", plan.before);
            // Shapes that somebody else made.
            for shape in [
                "hash:net family inet maxelem 9 timeout 60 counters comment",
                "hash:net family inet6 maxelem 1024",
                "hash:ip family inet maxelem 1024",
                "hash:ip,port family inet",
                "list:set",
            ] {
                apply(&kernel, &ruleset(Vec::new()));
                ipset_restore(&format!("create vf-clients-4 {shape}\n")).unwrap();
                apply(&kernel, &ruleset(both.to_vec()));
            }
            // An element made an exception: the address would match no more.
            ipset_restore("add vf-clients-4 10.9.9.9 nomatch\ndel vf-clients-4 192.0.2.1\n")
                .unwrap();
            let observed = saved_sets().unwrap();
            let differences = compare_sets(&ruleset(both.to_vec()), &observed, now(), Slack::DRIFT);
            // The shape, and what is gone; what matches nothing is no element.
            assert_eq!(differences.len(), 2, "{differences:#?}");
            apply(&kernel, &ruleset(both.to_vec()));
            apply(&kernel, &ruleset(Vec::new()));
            for family in Family::BOTH {
                kernel.edit(family, "-F").unwrap();
                kernel.edit(family, "-X").unwrap();
            }
        }
    });
}

#[test]
fn a_plan_that_was_cut_off_is_finished_by_the_next() {
    in_namespace(|| {
        let kernel = Kernel::new(Backend::Nft);
        apply(&kernel, &ruleset(vec![set("vf-clients-4", hosts(0, 20))]));
        let wanted = ruleset(vec![set("vf-clients-4", hosts(10, 2000))]);
        let lines = set_plan(&wanted, &saved_sets().unwrap(), now()).before;
        let lines: Vec<&str> = lines.lines().collect();
        for stop in [1, 2, 1000, lines.len() - 2, lines.len() - 1, lines.len()] {
            apply(&kernel, &ruleset(vec![set("vf-clients-4", hosts(0, 20))]));
            let part: String = lines
                .iter()
                .take(stop)
                .flat_map(|line| [line, "\n"])
                .collect();
            ipset_restore(&part).unwrap();
            apply(&kernel, &wanted);
        }
    });
}

/// Ends a thread that looks at it, when the test fails too.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every shape in turn, while packets ask at every moment whether their source is in the set.
#[test]
fn a_set_that_changes_its_shape_never_stands_empty() {
    in_namespace(|| {
        run(&["ip", "link", "set", "lo", "up"], &[]).unwrap();
        for backend in [Backend::Nft, Backend::Legacy] {
            let kernel = Kernel::new(backend);
            let always = nets(&["127.0.0.1/32"]);
            let small = || set("vf-clients-4", always.iter().copied());
            let large = || set("vf-clients-4", always.iter().copied().chain(hosts(0, 5000)));
            let timed = || small().with_expiring(expiring(hosts(0, 5), 3600));
            apply(&kernel, &ruleset(vec![small()]));
            // A refusal here is an error of the system call that sends.
            let rule = "OUTPUT -p udp -m set ! --match-set vf-clients-4 src -j DROP";
            kernel.edit(Family::V4, &format!("-A {rule}")).unwrap();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let to = socket.local_addr().unwrap();
            let stop = AtomicBool::new(false);
            let sent = AtomicU64::new(0);
            std::thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        socket.send_to(b"x", to)?;
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<(), std::io::Error>(())
                });
                let _stops = Stops(&stop);
                for _ in 0..5 {
                    for wanted in [large(), timed(), small(), timed(), large(), small()] {
                        let before = sent.load(Ordering::Relaxed);
                        let plan = apply(&kernel, &ruleset(vec![wanted]));
                        assert!(plan.before.contains("\nswap "), "{:.300}", plan.before);
                        while sent.load(Ordering::Relaxed) == before && !sender.is_finished() {
                            std::thread::yield_now();
                        }
                    }
                }
                stop.store(true, Ordering::Relaxed);
                sender
                    .join()
                    .unwrap()
                    .expect("the set stood empty for a packet");
            });
            ipset_restore("flush vf-clients-4\n").unwrap();
            socket
                .send_to(b"x", to)
                .expect_err("an empty set lets nobody send");
            kernel.edit(Family::V4, &format!("-D {rule}")).unwrap();
            apply(&kernel, &ruleset(Vec::new()));
            for family in Family::BOTH {
                kernel.edit(family, "-F").unwrap();
                kernel.edit(family, "-X").unwrap();
            }
        }
    });
}

#[test]
fn elements_with_an_end_are_the_kernels_to_take_out() {
    in_namespace(|| {
        let kernel = Kernel::new(Backend::Nft);
        let forever = || hosts(100, 3);
        let long = set("vf-deny-4", forever()).with_expiring(expiring(hosts(0, 3), 40_000_000));
        apply(&kernel, &ruleset(vec![long]));
        let saved = saved_sets().unwrap();
        assert_eq!((saved[0].elements.len(), saved[0].expiring.len()), (3, 3));
        // Another end is a delta, and so are going without one and being there for ever.
        let mut next = expiring(hosts(0, 1), 3600);
        next.extend(expiring(hosts(1, 1), 2));
        let stays = forever().chain(hosts(2, 1));
        let wanted = ruleset(vec![set("vf-deny-4", stays).with_expiring(next)]);
        let plan = apply(&kernel, &wanted);
        assert_eq!(plan.before.lines().count(), 3, "{}", plan.before);
        assert!(plan.after.is_empty());
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while saved_sets().unwrap()[0].expiring.len() > 1 {
            assert!(
                std::time::Instant::now() < deadline,
                "nothing goes by itself"
            );
        }
        let observed = saved_sets().unwrap();
        assert_eq!(compare_sets(&wanted, &observed, now(), Slack::DRIFT), []);
        let plan = set_plan(&wanted, &observed, now());
        assert!(!plan.before.contains("10.0.0.1 "), "{}", plan.before);
    });
}

#[test]
fn a_hundred_changes_of_a_hundred_thousand_touch_a_hundred() {
    in_namespace(|| {
        let kernel = Kernel::new(Backend::Legacy);
        apply(&kernel, &ruleset(vec![set("vf-deny-4", hosts(0, 100_000))]));
        let plan = apply(
            &kernel,
            &ruleset(vec![set("vf-deny-4", hosts(100, 100_000))]),
        );
        assert_eq!(
            (
                plan.before.lines().count(),
                plan.after.to_string().lines().count()
            ),
            (100, 100)
        );
    });
}
