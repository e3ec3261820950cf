//! How a push goes through the nodes of a site, and what must work after it.

use std::collections::BTreeSet;

use voipfleet_ruleset::ruleset::{MAX_PROBES, Probe, ProbeCheck, ProbeName};

use super::super::document::{Batch, OnFailure, Rollout};
use super::super::schema::{ON_FAILURE, PROBE, PROBE_CHECKS, ROLLOUT};
use super::super::yaml::{Node, Value};
use super::{Decoder, head};

/// What `confirm_within` may be, in milliseconds.
const CONFIRM_WITHIN: std::ops::RangeInclusive<u64> = 100..=3_600_000;

/// The longest `pause`, in milliseconds.
const MAX_PAUSE: u64 = 3_600_000;

const ENDPOINT: &str = "write \"HOST:PORT\", as \"10.0.0.53:53\" or \"[2001:db8::53]:53\"";
const HOST: &str = "write a host, as 10.0.0.1, \"2001:db8::1\" or gateway.example.com";

impl Default for Rollout {
    fn default() -> Self {
        Self {
            canary: 1,
            batch: Batch::Percent(25),
            max_failures: 0,
            pause_ms: 0,
            on_failure: OnFailure::Halt,
            confirm_within_ms: 30_000,
        }
    }
}

impl Rollout {
    /// The default of a site without `rollout`: every node at once, and no failure stops it.
    pub fn at_once() -> Self {
        Self {
            canary: 0,
            batch: Batch::Percent(100),
            max_failures: 10_000,
            ..Self::default()
        }
    }

    /// Whether it is that, whatever its times.
    pub fn is_at_once(&self) -> bool {
        let confirm_within_ms = self.confirm_within_ms;
        let at_once = Self::at_once();
        *self
            == Self {
                confirm_within_ms,
                ..at_once
            }
    }
}

impl Decoder<'_> {
    pub(super) fn probes(&mut self, node: Option<&Node<'_>>) -> Vec<Probe> {
        let probes = self.each(node, "probes", Self::probe);
        if let Some(Value::Sequence(items)) = node.map(|node| &node.value)
            && let Some(extra) = items.get(MAX_PROBES)
        {
            self.sink.error(
                head(extra),
                format!("a site has at most {MAX_PROBES} probes"),
                format!("the first of {} too many", items.len() - MAX_PROBES),
                "probe one address of each thing that a node cannot do without",
            );
        }
        probes
    }

    fn probe(&mut self, node: &Node<'_>, names: &mut BTreeSet<String>) -> Option<Probe> {
        let fields = self.fields(node, &PROBE)?;
        let name = fields.get("name").and_then(|node| {
            let text = self.scalar(node, "name")?;
            let Ok(name) = text.parse::<ProbeName>() else {
                self.bad_name(node.span, text);
                return None;
            };
            self.unique(names, text, node.span, "probes");
            Some(name)
        });
        let mut given = fields
            .entries
            .iter()
            .filter(|(field, _)| PROBE_CHECKS.contains(field))
            .copied();
        let Some((check, entry)) = given.next() else {
            self.sink.error(
                head(node),
                "this probe tries nothing",
                "",
                "add one of: tcp, udp-sip, dns (each \"HOST:PORT\"), icmp (a host)",
            );
            return None;
        };
        if let Some((_, second)) = given.next() {
            self.sink.error(
                second.key_span,
                "a probe tries one thing",
                "a second one",
                "make two probes of it",
            );
        }
        let check = match check {
            "tcp" => ProbeCheck::Tcp(self.target(&entry.value, check, ENDPOINT)?),
            "udp-sip" => ProbeCheck::UdpSip(self.target(&entry.value, check, ENDPOINT)?),
            "dns" => ProbeCheck::Dns(self.target(&entry.value, check, ENDPOINT)?),
            _ => ProbeCheck::Icmp(self.target(&entry.value, check, HOST)?),
        };
        Some(Probe { name: name?, check })
    }

    pub(super) fn rollout(&mut self, node: &Node<'_>) -> Rollout {
        let Some(fields) = self.fields(node, &ROLLOUT) else {
            return Rollout::at_once();
        };
        let staged = ["canary", "batch", "max_failures", "pause", "on_failure"];
        let default = if staged.iter().any(|name| fields.get(name).is_some()) {
            Rollout::default()
        } else {
            Rollout::at_once()
        };
        Rollout {
            canary: fields
                .get("canary")
                .and_then(|node| self.count(node, "canary", 0, 10_000))
                .unwrap_or(default.canary),
            batch: fields
                .get("batch")
                .and_then(|node| self.batch(node, "batch"))
                .unwrap_or(default.batch),
            max_failures: fields
                .get("max_failures")
                .and_then(|node| self.count(node, "max_failures", 0, 10_000))
                .unwrap_or(default.max_failures),
            pause_ms: fields
                .get("pause")
                .and_then(|node| self.duration(node, "pause", 0, MAX_PAUSE))
                .unwrap_or(default.pause_ms),
            on_failure: fields
                .get("on_failure")
                .and_then(|node| self.choice(node, "on_failure", ON_FAILURE))
                .map_or(default.on_failure, |word| match word {
                    "rollback" => OnFailure::Rollback,
                    _ => OnFailure::Halt,
                }),
            confirm_within_ms: fields
                .get("confirm_within")
                .and_then(|node| {
                    let (least, most) = CONFIRM_WITHIN.into_inner();
                    self.duration(node, "confirm_within", least, most)
                })
                .unwrap_or(default.confirm_within_ms),
        }
    }
}
