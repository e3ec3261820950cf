//! Programs that are recognised by the names of their chains, sets and tables.

use super::ForeignFirewallKind;

/// By a chain or a set.
pub(super) fn is_fail2ban(name: &str) -> bool {
    name.starts_with("f2b-") || name.starts_with("fail2ban-")
}

/// By a chain or a set, or by a table of `nf_tables`.
pub(super) fn is_crowdsec(name: &str) -> bool {
    name.to_ascii_lowercase().starts_with("crowdsec")
}

/// The owner of a table of `nf_tables`.
pub(super) fn kind_of_table(table: &str) -> ForeignFirewallKind {
    let starts = |start: &str| table.starts_with(start);
    if table == "firewalld" {
        ForeignFirewallKind::Firewalld
    } else if table == "f2b-table" {
        ForeignFirewallKind::Fail2ban
    } else if is_crowdsec(table) {
        ForeignFirewallKind::Crowdsec
    } else if starts("docker") {
        ForeignFirewallKind::Docker
    } else if starts("netavark") || starts("podman") || starts("cni") {
        ForeignFirewallKind::Podman
    } else if starts("lxd") || starts("lxc") || starts("incus") {
        ForeignFirewallKind::Lxd
    } else if starts("libvirt") {
        ForeignFirewallKind::Libvirt
    } else {
        ForeignFirewallKind::NftTable
    }
}

/// The program that made an interface for its guests.
pub(super) fn kind_of_interface(interface: &str) -> Option<ForeignFirewallKind> {
    let starts = |start: &str| interface.starts_with(start);
    if starts("virbr") {
        Some(ForeignFirewallKind::Libvirt)
    } else if starts("lxdbr") || starts("lxcbr") || starts("incusbr") {
        Some(ForeignFirewallKind::Lxd)
    } else if starts("podman") || starts("cni") {
        Some(ForeignFirewallKind::Podman)
    } else if starts("docker") || starts("br-") {
        Some(ForeignFirewallKind::Docker)
    } else {
        None
    }
}
