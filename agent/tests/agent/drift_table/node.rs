//! A node under the table's edits, and what is proved after each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::host::exec::Runner;
use voipfleet_agent::kernel::{Backend, System};
use voipfleet_proto::v1::DriftClass::{self, Missing, Set};
use voipfleet_proto::v1::{self as pb, DriftRecord};
use voipfleet_ruleset::ruleset::Family;

use super::{Edit, Others, Record, Records, Step, fill};
use crate::reconciler::Agent;
use crate::support::{Place, install, sample};

/// A node with a ruleset, foreign firewalls, and another program that edits it.
pub(crate) struct Node<'a> {
    pub(crate) place: &'a Place,
    /// `iptables-save -c` of both families, each rule with counters of its own.
    saved: BTreeMap<Family, String>,
    confirmed: voipfleet_agent::ledger::Confirmed,
    /// Its tools count as the agent's own, so that putting back is no event.
    runner: Runner,
}

impl<'a> Node<'a> {
    pub(crate) fn new(place: &'a Place) -> Self {
        place.add_foreign_rules();
        place.tool("ip link set lo up");
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let saved = Family::BOTH
            .into_iter()
            .map(|family| {
                let line = fill("{ipt}-save -c -t filter", family);
                (family, numbered(&place.tool(&line)))
            })
            .collect();
        Self {
            place,
            saved,
            confirmed,
            runner: place.runner(),
        }
    }

    /// An agent at work on it.
    pub(crate) fn agent(&self, poll: Duration) -> Agent {
        let system = System::find(self.runner.clone()).unwrap();
        Agent::start_with(self.place, poll, Box::new(system), self.runner.own())
    }

    pub(crate) fn make(&self, step: Step, family: Family) {
        let feed = |line: &str, input: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let (program, arguments) = words.split_first().unwrap();
            let ended = self.place.runner().run(program, arguments, input);
            assert!(ended.is_ok(), "{line} < {input}: {ended:?}");
        };
        match step {
            Step::Run(line) => drop(self.place.tool(&fill(line, family))),
            Step::Feed(line, input) => feed(&fill(line, family), &fill(input, family)),
            Step::Lines(lines) => {
                let input = format!("*filter\n{}\nCOMMIT\n", fill(lines, family));
                feed(&fill("{ipt}-restore --noflush", family), &input);
            }
            Step::Whole(change) => {
                let input = change(&self.saved[&family]);
                feed(&fill("{ipt}-restore -c", family), &input);
            }
            Step::Handle(chain, rule, command) => {
                let list = format!("nft -a list chain {{nft}} filter {chain}");
                let listed = self.place.tool(&fill(&list, family));
                let mut rules = listed
                    .lines()
                    .filter(|line| line.starts_with("\t\t") && line.contains("# handle "));
                let line = match rule.parse::<usize>() {
                    Ok(number) => rules.nth(number - 1),
                    Err(_) => rules.find(|line| line.contains(rule)),
                };
                let line = line.unwrap_or_else(|| panic!("no {rule} in {listed}"));
                let handle = line.rsplit("# handle ").next().unwrap();
                let command = fill(command, family).replace("{handle}", handle);
                feed("nft -f -", &format!("{command}\n"));
            }
            Step::Packet => {
                let to = fill("{here}", family);
                let socket = std::net::UdpSocket::bind(&to).unwrap();
                let to = socket.local_addr().unwrap();
                assert_eq!(socket.send_to(b"x", to).unwrap(), 1);
                assert_eq!(socket.recv_from(&mut [0; 2]).unwrap().0, 1);
            }
        }
    }

    /// Puts everything to where it began, with counters.
    fn reset(&self) {
        for family in Family::BOTH {
            let restore = fill("{ipt}-restore", family);
            let ended = self.runner.run(&restore, &["-c"], &self.saved[&family]);
            assert!(ended.is_ok(), "{ended:?}");
            // ip6tables-nft-restore of 1.8.9 takes `-c`, and forgets the counters.
            self.make(Step::Packet, family);
        }
    }

    /// Our rules with their counters.
    fn counted(&self) -> BTreeMap<Family, Vec<Counted>> {
        let of = |family| {
            let saved = self.place.tool(&fill("{ipt}-save -c -t filter", family));
            (family, rules_of(&saved).collect())
        };
        Family::BOTH.into_iter().map(of).collect()
    }

    fn records(&self, edit: &Edit, family: Family) -> Vec<(Family, DriftClass, String, String)> {
        let records = |records: &[Record], family| -> Vec<_> {
            let fill = |text: &str| fill(text, family);
            records
                .iter()
                .map(|(class, chain, rule)| (family, *class, fill(chain), fill(rule)))
                .collect()
        };
        let saved = &self.saved[&family];
        let jump = records(&[(Missing, "INPUT", "")], family);
        let mut expected = match edit.records {
            Records::These(these) => records(these, family),
            Records::Flushed => rules_of(saved)
                .filter(|rule| rule.chain != "INPUT")
                .map(|rule| (family, Missing, rule.chain, rule.label))
                .chain(jump)
                .collect(),
            Records::Gone(more) => {
                let chains = saved.lines().filter_map(|line| line.strip_prefix(":VF-"));
                chains
                    .map(|line| format!("VF-{}", line.split(' ').next().unwrap()))
                    .map(|chain| (family, Missing, chain, String::new()))
                    .chain(jump)
                    .chain(records(more, family))
                    .collect()
            }
        };
        if edit.others == Others::BothWiped && family == Family::V4 {
            expected.extend(self.records(edit, Family::V6));
        }
        expected.sort();
        expected
    }

    /// Makes the edit, and proves what comes of it.
    pub(crate) fn prove(&self, agent: &Agent, edit: &Edit, family: Family) {
        let what = format!("{} ({family}, {})", edit.what, self.place.backend);
        self.reset();
        for step in edit.before {
            self.make(*step, family);
        }
        let (ours, others, counted) = (self.ours(), self.others(), self.counted());
        for step in edit.steps {
            self.make(*step, family);
        }
        let expected = self.records(edit, family);
        // A record that is sent again has more.
        let mut seen: BTreeMap<String, DriftRecord> = BTreeMap::new();
        let deadline = Instant::now() + crate::reconciler::LIMIT;
        let repaired = |seen: &BTreeMap<String, DriftRecord>| {
            let repaired = |record: &&DriftRecord| record.repaired_after_ms.is_some();
            seen.values().filter(repaired).count()
        };
        while repaired(&seen) < expected.len() && Instant::now() < deadline {
            let records = agent.records_within(Duration::from_millis(500));
            seen.extend(
                records
                    .into_iter()
                    .map(|record| (record.id.clone(), record)),
            );
        }
        let seen: Vec<DriftRecord> = seen.into_values().collect();
        let mut records: Vec<_> = seen.iter().map(brief).collect();
        records.sort();
        assert_eq!(records, expected, "{what}: {seen:#?}");
        for record in &seen {
            assert!(record.repaired_after_ms.is_some(), "{what}: {record:#?}");
            let empty = record.wanted.is_empty() && record.observed.is_empty();
            assert!(!empty, "{what}: {record:#?}");
            if self.place.backend == Backend::Nft && record.class() != Set {
                let by = record.by.as_ref();
                let by = by.unwrap_or_else(|| panic!("{what}: {record:#?}"));
                assert!(is_tool_of(edit, family, &by.comm), "{what}: {by:?}");
            }
        }
        let found = inspect(&mut self.place.system(), &self.confirmed);
        assert!(found.is_clean(), "{what}: {:#?}", found.differences);
        assert_eq!(self.ours(), ours, "{what}");
        self.check_others(edit, family, &others, &what);
        self.check_counters(edit, family, &counted, &what);
        for step in edit.after {
            self.make(*step, family);
        }
    }

    /// What is ours, as the tools print it: rules in their order, sets without one. A guard lasts as long
    /// as the foreign rule that it is for.
    fn ours(&self) -> Vec<String> {
        let everything = self.place.everything();
        let ours =
            |line: &&str| (line.contains("VF-") && !line.contains("vf:guard")) || is_our_set(line);
        everything.lines().filter(ours).map(str::to_owned).collect()
    }

    fn others(&self) -> BTreeMap<Family, Vec<String>> {
        let lines = |text: String| -> Vec<String> {
            text.lines()
                .filter(|line| !line.contains("VF-") && !line.starts_with('#'))
                .map(|line| line.split(" [").next().unwrap().to_owned())
                .collect()
        };
        let sets = lines(self.place.tool("ipset save"));
        let sets = sets.into_iter().filter(|line| !is_our_set(line));
        let sets = sets.map(|line| line.split(" initval ").next().unwrap().to_owned());
        let sets: Vec<String> = sets.collect();
        let of = |family| {
            let mut others = lines(self.place.tool(&fill("{ipt}-save", family)));
            others.extend(sets.clone());
            (family, others)
        };
        Family::BOTH.into_iter().map(of).collect()
    }

    fn check_others(
        &self,
        edit: &Edit,
        family: Family,
        before: &BTreeMap<Family, Vec<String>>,
        what: &str,
    ) {
        for (of, mut now) in self.others() {
            let mut before = before[&of].clone();
            match edit.others {
                Others::More(starts) => {
                    for start in starts.iter().map(|start| fill(start, family)) {
                        let all = now.len();
                        now.retain(|line| !line.starts_with(&start));
                        before.retain(|line| !line.starts_with(&start));
                        assert!(
                            of != family || now.len() < all,
                            "{what}: {start} in {now:#?}"
                        );
                    }
                }
                Others::Wiped if of == family => continue,
                Others::BothWiped => continue,
                _ => {}
            }
            assert_eq!(now, before, "{what} ({of})");
        }
    }

    /// The rules that the edit did not concern have counted on.
    fn check_counters(
        &self,
        edit: &Edit,
        family: Family,
        before: &BTreeMap<Family, Vec<Counted>>,
        what: &str,
    ) {
        let lost = self.records(edit, family);
        let now = self.counted();
        // Such an edit writes counters itself.
        let whole = edit.steps.iter().any(|step| matches!(step, Step::Whole(_)));
        for (of, rules) in before {
            if whole && *of == family {
                continue;
            }
            for rule in rules.iter().filter(|rule| rule.chain != "INPUT") {
                let concerned = lost.iter().any(|(family, class, chain, label)| {
                    let all = *class == Missing && label.is_empty();
                    family == of && *chain == rule.chain && (all || *label == rule.label)
                });
                assert!(
                    concerned || now[of].contains(rule),
                    "{what}: counters of {rule:#?} in {:#?}",
                    now[of]
                );
            }
            let passed = |rule: &Counted| !rule.text.starts_with("[0:0]");
            assert!(rules.iter().any(passed), "{what}: nothing has counted");
        }
    }
}

/// Whether the kernel cuts the name of a tool of this edit so.
fn is_tool_of(edit: &Edit, family: Family, comm: &str) -> bool {
    edit.steps.iter().any(|step| {
        let line = match step {
            Step::Run(line) | Step::Feed(line, _) => line,
            Step::Lines(_) | Step::Whole(_) => "{ipt}-restore",
            Step::Handle(..) => "nft",
            Step::Packet => "",
        };
        let line = fill(line, family);
        let program = line.split(' ').next().unwrap();
        program.chars().take(15).eq(comm.chars())
    })
}

/// A rule of ours or our jump with its counters.
#[derive(Debug, PartialEq)]
struct Counted {
    chain: String,
    label: String,
    text: String,
}

/// Our rules of `iptables-save -c`.
fn rules_of(saved: &str) -> impl Iterator<Item = Counted> {
    saved.lines().filter_map(|line| {
        let (_, rule) = line.split_once(" -A ")?;
        let chain = rule.split(' ').next()?;
        (rule.starts_with("VF-") || rule == "INPUT -j VF-INPUT").then(|| Counted {
            chain: chain.to_owned(),
            label: rule
                .split("--comment \"vf:")
                .nth(1)
                .and_then(|rest| rest.split('"').next())
                .unwrap_or_default()
                .to_owned(),
            text: line.to_owned(),
        })
    })
}

/// `iptables-save -c` with other counters on each rule.
fn numbered(saved: &str) -> String {
    let mut number = 0;
    let mut text = String::new();
    for line in saved.lines() {
        if let Some((_, rule)) = line.split_once("] -A ") {
            number += 1;
            let _ = writeln!(text, "[{number}:{}] -A {rule}", number * 100);
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn is_our_set(line: &str) -> bool {
    line.starts_with("create vf-") || line.starts_with("add vf-")
}

pub(super) fn brief(record: &DriftRecord) -> (Family, DriftClass, String, String) {
    let family = match record.family() {
        pb::Family::V6 => Family::V6,
        _ => Family::V4,
    };
    (
        family,
        record.class(),
        record.chain.clone(),
        record.rule.clone(),
    )
}
