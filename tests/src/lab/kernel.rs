//! What the kernel of a node holds, seen and changed with the node's own tools.

use std::fmt;

use anyhow::{Context as _, Result, ensure};

use super::{Lab, Node};
use crate::exec::{self, Ended};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// `iptables` or `ip6tables`.
    pub fn tool(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}

/// Everything in the filter tables and sets of a node, as the kernel prints it, without
/// counters, times and the random seeds of sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Of `iptables-save -t filter`.
    pub v4: Vec<String>,
    /// Of `ip6tables-save -t filter`.
    pub v6: Vec<String>,
    /// Of `ipset save`, sorted: the kernel keeps members by hash.
    pub sets: Vec<String>,
}

impl Rules {
    /// Reads them by `run`, which runs a command line where they are.
    pub fn read(run: impl Fn(&str) -> Result<String>) -> Result<Self> {
        let filter = |tool: &str| -> Result<Vec<String>> {
            let text = run(&format!("{tool}-save -t filter"))?;
            Ok(text
                .lines()
                .filter(|line| !line.starts_with('#'))
                .map(without_counters)
                .collect())
        };
        let mut sets: Vec<String> = run("ipset save")?.lines().map(without_seed).collect();
        sets.sort();
        Ok(Self {
            v4: filter("iptables")?,
            v6: filter("ip6tables")?,
            sets,
        })
    }

    /// The lines of a family.
    pub fn of(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The lines that others than Voipfleet own.
    #[must_use]
    pub fn foreign(&self) -> Self {
        let foreign = |lines: &[String]| {
            lines
                .iter()
                .filter(|line| !line.contains("VF-"))
                .cloned()
                .collect()
        };
        Self {
            v4: foreign(&self.v4),
            v6: foreign(&self.v6),
            sets: self
                .sets
                .iter()
                .filter(|line| {
                    !line
                        .split(' ')
                        .nth(1)
                        .is_some_and(|name| name.starts_with("vf-"))
                })
                .cloned()
                .collect(),
        }
    }

    /// Whether there is something of Voipfleet's.
    pub fn has_ours(&self) -> bool {
        *self != self.foreign()
    }

    /// The rules of a chain, `-A CHAIN ...`, in order.
    pub fn chain(&self, family: Family, chain: &str) -> Vec<&str> {
        let start = format!("-A {chain} ");
        self.of(family)
            .iter()
            .filter(|line| line.starts_with(&start))
            .map(String::as_str)
            .collect()
    }

    /// Lines that are only here or only in `other`, for messages.
    pub fn difference(&self, other: &Self) -> String {
        let only = |sign: char, a: &Self, b: &Self| -> Vec<String> {
            [(&a.v4, &b.v4), (&a.v6, &b.v6), (&a.sets, &b.sets)]
                .into_iter()
                .flat_map(|(a, b)| a.iter().filter(|line| !b.contains(line)))
                .map(|line| format!("{sign} {line}"))
                .collect()
        };
        let mut lines = only('-', self, other);
        lines.extend(only('+', other, self));
        if lines.is_empty() && self != other {
            return "the same lines in another order".to_owned();
        }
        lines.join("\n")
    }
}

/// Rules of fail2ban, as a node may have them before an agent comes.
pub struct Foreign;

impl Foreign {
    /// Puts a chain `f2b-sshd` with a ban, and its jump, into both families of a node.
    pub fn install(lab: &Lab, node: &str) -> Result<()> {
        for (family, banned) in [
            (Family::V4, "198.51.100.99"),
            (Family::V6, "2001:db8:66::99"),
        ] {
            let tool = family.tool();
            for rule in [
                "-N f2b-sshd".to_owned(),
                "-A f2b-sshd -j RETURN".to_owned(),
                "-I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd".to_owned(),
                format!("-I f2b-sshd 1 -s {banned} -j REJECT"),
            ] {
                lab.edit(node, &format!("{tool} -w {rule}"))?;
            }
        }
        Ok(())
    }

    /// Whether the chain and its jump are there, byte for byte as installed.
    pub fn check(rules: &Rules) -> Result<()> {
        for (family, ban) in [
            (
                Family::V4,
                "-A f2b-sshd -s 198.51.100.99/32 -j REJECT --reject-with icmp-port-unreachable",
            ),
            (
                Family::V6,
                "-A f2b-sshd -s 2001:db8:66::99/128 -j REJECT --reject-with icmp6-port-unreachable",
            ),
        ] {
            let lines: Vec<&str> = rules
                .of(family)
                .iter()
                .filter(|line| line.contains("f2b-sshd"))
                .map(String::as_str)
                .collect();
            ensure!(
                lines
                    == [
                        ":f2b-sshd - [0:0]",
                        "-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd",
                        ban,
                        "-A f2b-sshd -j RETURN",
                    ],
                "fail2ban's rules were touched ({family}): {lines:#?}"
            );
        }
        Ok(())
    }
}

impl Lab {
    /// Runs a program on a node, whatever its exit status.
    pub fn on<S: AsRef<str>>(&self, node: &str, argv: &[S]) -> Result<Ended> {
        exec::run(&self.argv_on(node, argv)?, &[])
    }

    /// The same with something on its standard input.
    pub fn on_with_input<S: AsRef<str>>(
        &self,
        node: &str,
        argv: &[S],
        input: &str,
    ) -> Result<Ended> {
        exec::run_with_input(&self.argv_on(node, argv)?, input)
    }

    fn argv_on<S: AsRef<str>>(&self, node: &str, argv: &[S]) -> Result<Vec<String>> {
        let backend = &self.node(node)?.backend;
        let state = self.state();
        let tools = state.join("tools").join(backend);
        let mut full = vec![
            "nsenter".to_owned(),
            format!("--net=/run/netns/vf-{node}"),
            format!("--mount={}", state.join(format!("ns/{node}.mnt")).display()),
            format!("--uts={}", state.join(format!("ns/{node}.uts")).display()),
            "--".to_owned(),
            "env".to_owned(),
            format!("PATH={}:/usr/sbin:/sbin:/usr/bin:/bin", tools.display()),
        ];
        full.extend(argv.iter().map(|word| word.as_ref().to_owned()));
        Ok(full)
    }

    /// Runs a command line on a node, split at spaces; it must succeed. Gives its output.
    pub fn edit(&self, node: &str, line: &str) -> Result<String> {
        let argv: Vec<&str> = line.split_whitespace().collect();
        let ended = self.on(node, &argv)?;
        ensure!(ended.success(), "{node}: {line}: {}", ended.output());
        Ok(ended.stdout)
    }

    /// Drops every new connection from a node to the controller (`-A`), or no longer (`-D`); those
    /// that are open go on. As with rules that lock a node out: the failsafe chain keeps our own
    /// from doing it.
    pub fn cut(&self, node: &str, verb: &str) -> Result<()> {
        let drop = "OUTPUT -p tcp -m tcp --dport 7443 --syn -j DROP";
        self.edit(node, &format!("iptables -w {verb} {drop}"))?;
        Ok(())
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes()
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("the lab has no node {name}"))
    }

    /// What the kernel of a node holds now.
    pub fn rules(&self, node: &str) -> Result<Rules> {
        Rules::read(|line| self.edit(node, line))
    }

    /// Takes everything out of a node's kernel, as a reboot does.
    pub fn wipe(&self, node: &str) -> Result<()> {
        for tool in ["iptables", "ip6tables"] {
            for edit in ["-P INPUT ACCEPT", "-F", "-X"] {
                self.edit(node, &format!("{tool} -w {edit}"))?;
            }
        }
        self.edit(node, "ipset destroy")?;
        Ok(())
    }
}

/// `create ... initval 0xa767ef21` seeds the set's hash, at random; `add ... timeout 3599` is
/// what is left of a member's time.
fn without_seed(line: &str) -> String {
    let moving = if line.starts_with("create") {
        "initval"
    } else {
        "timeout"
    };
    let words = line.split(' ').scan(false, |skip, word| {
        let shown = !*skip && word != moving;
        *skip = word == moving;
        Some(shown.then_some(word))
    });
    words.flatten().collect::<Vec<_>>().join(" ")
}

/// `:INPUT ACCEPT [12:840]` counts packets.
fn without_counters(line: &str) -> String {
    match line.split_once(" [") {
        Some((head, _)) if line.starts_with(':') => format!("{head} [0:0]"),
        _ => line.to_owned(),
    }
}
