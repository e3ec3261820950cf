//! What a site says of a push: how it goes through the nodes, and what must work after it.

use std::collections::BTreeSet;

use super::super::document::{Batch, Probe, ProbeCheck, Rollout};
use super::super::schema::{PROBE, PROBE_CHECKS, ROLLOUT};
use super::super::yaml::Node;
use super::{Decoder, head};

/// What `confirm_within` may be, in milliseconds.
const CONFIRM_WITHIN: std::ops::RangeInclusive<u64> = 100..=3_600_000;

impl Default for Rollout {
    fn default() -> Self {
        Self {
            canary: 1,
            batch: Batch::Percent(25),
            max_failures: 0,
            confirm_within_ms: 30_000,
        }
    }
}

impl Decoder<'_> {
    pub(super) fn probe(&mut self, node: &Node<'_>, names: &mut BTreeSet<String>) -> Option<Probe> {
        let fields = self.fields(node, &PROBE)?;
        let name = fields.get("name").and_then(|node| {
            let text = self.scalar(node, "name")?;
            if !crate::names::is_name(text) {
                self.bad_name(node.span, text);
                return None;
            }
            self.unique(names, text, node.span, "probes");
            Some(text.to_owned())
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
        let target = self.target(&entry.value, check, check != "icmp")?;
        Some(Probe {
            name: name?,
            check: match check {
                "tcp" => ProbeCheck::Tcp(target),
                "udp-sip" => ProbeCheck::UdpSip(target),
                "dns" => ProbeCheck::Dns(target),
                _ => ProbeCheck::Icmp(target),
            },
        })
    }

    pub(super) fn rollout(&mut self, node: &Node<'_>) -> Rollout {
        let default = Rollout::default();
        let Some(fields) = self.fields(node, &ROLLOUT) else {
            return default;
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
