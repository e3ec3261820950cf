//! Services of the distribution that load firewall rules.

use super::{ForeignFirewall, ForeignFirewallKind};

use super::foreign_firewall;
use crate::host::{Host, Root};

/// The longest file of settings that is searched.
const MAX_FILE: u64 = 1 << 20;

/// A service that loads firewall rules.
struct Service {
    kind: ForeignFirewallKind,
    units: &'static [&'static str],
    advice: &'static str,
}

const SERVICES: [Service; 4] = [
    Service {
        kind: ForeignFirewallKind::Firewalld,
        units: &["firewalld.service"],
        advice: "it drops what its zones do not open, whatever the policy opens: systemctl \
                 disable --now firewalld",
    },
    Service {
        kind: ForeignFirewallKind::IptablesServices,
        units: &["iptables.service", "ip6tables.service"],
        advice: "it flushes the filter table when it starts, stops or reloads: systemctl disable \
                 iptables ip6tables; voipfleet-agent loads the policy at boot by itself",
    },
    Service {
        kind: ForeignFirewallKind::NetfilterPersistent,
        units: &["netfilter-persistent.service"],
        advice: "it replaces the filter table when it starts: systemctl disable \
                 netfilter-persistent; voipfleet-agent loads the policy at boot by itself",
    },
    Service {
        kind: ForeignFirewallKind::NftablesService,
        units: &["nftables.service"],
        advice: "it flushes every table when it starts, stops or reloads, including those of \
                 iptables: systemctl disable --now nftables, or remove `flush ruleset` from its \
                 files",
    },
];

/// The state of a unit.
struct State {
    active: bool,
    at_boot: bool,
}

/// The services that are active, or will be at the next boot.
pub(super) fn find(host: &Host) -> Vec<ForeignFirewall> {
    let mut found: Vec<ForeignFirewall> = SERVICES
        .iter()
        .filter_map(|service| service.find(host))
        .collect();
    found.extend(ufw(&host.root));
    found
}

impl Service {
    fn find(&self, host: &Host) -> Option<ForeignFirewall> {
        let mut words = Vec::new();
        for unit in self.units {
            match state(host, unit) {
                State {
                    active: true,
                    at_boot: true,
                } => {
                    words.push(format!("{unit} is active, and starts at boot"));
                }
                State { active: true, .. } => words.push(format!("{unit} is active")),
                State { at_boot: true, .. } => words.push(format!("{unit} starts at boot")),
                _ => {}
            }
        }
        if words.is_empty() {
            return None;
        }
        Some(foreign_firewall(self.kind, words.join("; "), self.advice))
    }
}

/// Reads the files of systemd, or asks systemd before version 235, which has none.
fn state(host: &Host, unit: &str) -> State {
    let root = &host.root;
    let active = if root.exists("/run/systemd/units") {
        root.exists(&format!("/run/systemd/units/invocation:{unit}"))
    } else {
        root.exists("/run/systemd/system")
            && host
                .runner
                .run("systemctl", &["is-active", "--quiet", unit], "")
                .is_ok()
    };
    let folder = "/etc/systemd/system";
    let at_boot = root
        .names(folder)
        .iter()
        .filter(|name| matches!(name.rsplit_once('.'), Some((_, "wants" | "requires"))))
        .any(|wants| root.exists(&format!("{folder}/{wants}/{unit}")));
    State { active, at_boot }
}

/// ufw's unit is active also where ufw is off: only its settings tell.
fn ufw(root: &Root) -> Option<ForeignFirewall> {
    let settings = root.text("/etc/ufw/ufw.conf", MAX_FILE)?;
    let enabled = settings.lines().any(|line| {
        let value = line.trim().strip_prefix("ENABLED=");
        value.is_some_and(|value| {
            value
                .trim_matches(['"', '\'', ' '])
                .eq_ignore_ascii_case("yes")
        })
    });
    enabled.then(|| {
        foreign_firewall(
            ForeignFirewallKind::Ufw,
            "/etc/ufw/ufw.conf has ENABLED=yes",
            UFW,
        )
    })
}

/// The advice about ufw.
pub(super) const UFW: &str =
    "it drops what its own rules do not open, and rewrites INPUT when it reloads: ufw disable";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::host::exec::Runner;

    fn write(host: &Host, path: &str, text: &str) {
        let path = host.root.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn services_are_found_by_unit_files() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::at(folder.path(), Runner::new("/nowhere"));
        write(&host, "/run/systemd/units/log-level-max:x.service", "");
        write(&host, "/etc/ufw/ufw.conf", "# ufw\nENABLED=no\n");
        assert_eq!(find(&host), []);

        let units = host.root.path("/run/systemd/units");
        for unit in ["firewalld.service", "ip6tables.service"] {
            symlink("0123456789abcdef", units.join(format!("invocation:{unit}"))).unwrap();
        }
        let wants = "/etc/systemd/system/multi-user.target.wants";
        write(&host, &format!("{wants}/netfilter-persistent.service"), "");
        write(&host, &format!("{wants}/ip6tables.service"), "");
        write(&host, "/etc/ufw/ufw.conf", "ENABLED=yes\n");
        let found: Vec<_> = find(&host)
            .into_iter()
            .map(|foreign_firewall| (foreign_firewall.kind(), foreign_firewall.detail))
            .collect();
        let wanted = [
            (
                ForeignFirewallKind::Firewalld,
                "firewalld.service is active",
            ),
            (
                ForeignFirewallKind::IptablesServices,
                "ip6tables.service is active, and starts at boot",
            ),
            (
                ForeignFirewallKind::NetfilterPersistent,
                "netfilter-persistent.service starts at boot",
            ),
            (
                ForeignFirewallKind::Ufw,
                "/etc/ufw/ufw.conf has ENABLED=yes",
            ),
        ];
        assert_eq!(
            found,
            wanted.map(|(kind, detail)| (kind, detail.to_owned()))
        );
    }

    #[test]
    fn systemctl_is_queried_without_unit_files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let tools = folder.path().join("tools");
        let host = Host::at(folder.path(), Runner::new(tools.to_str().unwrap()));
        write(&host, "/run/systemd/system/x", "");
        write(
            &host,
            "/tools/systemctl",
            "#!/bin/sh\n[ \"$1 $2 $3\" = \"is-active --quiet firewalld.service\" ]\n",
        );
        let tool = tools.join("systemctl");
        fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
        let found = find(&host);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].kind(), ForeignFirewallKind::Firewalld);
    }
}
