//! Words and colours for the wire's states; the words in JSON are a contract.

use voipfleet_proto::v1::{
    CutOffKind, DifferenceKind, DriftClass, DriftState, Family, NeighbourKind, PushNodeState,
    SyncState,
};

use crate::console::style::Tone;

/// `synced`, `stale`, `not_sent`, `unprotected`, `open`, `error`, `offline`.
pub fn sync(state: i32) -> (&'static str, Tone) {
    match SyncState::try_from(state).unwrap_or_default() {
        SyncState::Synced => ("synced", Tone::Good),
        SyncState::Stale => ("stale", Tone::Attention),
        SyncState::NotSent => ("not_sent", Tone::Attention),
        SyncState::Error => ("error", Tone::Bad),
        SyncState::Offline => ("offline", Tone::Attention),
        SyncState::Unprotected => ("unprotected", Tone::Bad),
        SyncState::Open => ("open", Tone::Bad),
        SyncState::Unspecified => ("unknown", Tone::Attention),
    }
}

/// `clean`, `drifted`, `unreadable`, `contended`, `unknown`; `None` until the node has reported.
pub fn drift(state: i32) -> (Option<&'static str>, Tone) {
    match DriftState::try_from(state).unwrap_or_default() {
        DriftState::Clean => (Some("clean"), Tone::Good),
        DriftState::Drifted => (Some("drifted"), Tone::Bad),
        DriftState::Unreadable => (Some("unreadable"), Tone::Bad),
        DriftState::Contended => (Some("contended"), Tone::Bad),
        DriftState::Unknown => (Some("unknown"), Tone::Attention),
        DriftState::Unspecified => (None, Tone::Plain),
    }
}

/// A node's state during a push.
pub fn push(state: PushNodeState) -> (&'static str, Tone) {
    match state {
        PushNodeState::Offline => ("offline", Tone::Attention),
        PushNodeState::Sent => ("sent", Tone::Plain),
        PushNodeState::Applying => ("applying", Tone::Plain),
        PushNodeState::Trial => ("trial", Tone::Plain),
        PushNodeState::Applied => ("applied", Tone::Good),
        PushNodeState::RolledBack => ("rolled_back", Tone::Bad),
        PushNodeState::Rejected => ("rejected", Tone::Bad),
        PushNodeState::Failed => ("failed", Tone::Bad),
        PushNodeState::Unchanged => ("unchanged", Tone::Good),
        PushNodeState::TimedOut => ("timed_out", Tone::Bad),
        PushNodeState::Waiting => ("waiting", Tone::Attention),
        PushNodeState::Untouched => ("untouched", Tone::Plain),
        PushNodeState::Unspecified => ("unknown", Tone::Attention),
    }
}

/// A rollout's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutState {
    /// It goes on by itself.
    Running,
    /// An operator paused it.
    Paused,
    /// Too many nodes failed.
    Halted,
    /// An operator ended it.
    Aborted,
    /// It is undoing its changes.
    RollingBack,
    /// It has undone its changes.
    RolledBack,
    /// Every node has the generation.
    Done,
    /// A state that only a newer voipctl knows.
    Unknown,
}

impl RolloutState {
    /// Reads the wire's word.
    pub fn of(word: &str) -> Self {
        match word {
            "running" => Self::Running,
            "paused" => Self::Paused,
            "halted" => Self::Halted,
            "aborted" => Self::Aborted,
            "rolling_back" => Self::RollingBack,
            "rolled_back" => Self::RolledBack,
            "done" => Self::Done,
            _ => Self::Unknown,
        }
    }

    /// Its colour.
    pub fn tone(self) -> Tone {
        match self {
            Self::Done => Tone::Good,
            Self::Running | Self::Paused | Self::RollingBack => Tone::Attention,
            Self::Halted | Self::Aborted | Self::RolledBack | Self::Unknown => Tone::Bad,
        }
    }
}

/// The colour of a node's state in a rollout.
pub fn rollout_node(state: &str) -> Tone {
    match state {
        "applied" | "unchanged" => Tone::Good,
        "waiting" | "working" => Tone::Plain,
        "offline" | "withdrawn" => Tone::Attention,
        _ => Tone::Bad,
    }
}

/// The class of a drift record.
pub fn class(class: i32) -> &'static str {
    DriftClass::try_from(class).unwrap_or_default().word()
}

/// `ipv4`, `ipv6`; none for both.
pub fn family(family: i32) -> Option<&'static str> {
    match Family::try_from(family).unwrap_or_default() {
        Family::V4 => Some("ipv4"),
        Family::V6 => Some("ipv6"),
        Family::Unspecified => None,
    }
}

/// Other programs that change a node's firewall, by their usual names.
pub fn neighbour(kind: i32) -> &'static str {
    match NeighbourKind::try_from(kind).unwrap_or_default() {
        NeighbourKind::Firewalld => "firewalld",
        NeighbourKind::Ufw => "ufw",
        NeighbourKind::IptablesServices => "iptables-services",
        NeighbourKind::NetfilterPersistent => "netfilter-persistent",
        NeighbourKind::NftablesService => "nftables-service",
        NeighbourKind::VoipnowFirewall => "voipnow_firewall",
        NeighbourKind::OtherBackend => "other-backend",
        NeighbourKind::NfConntrackSip => "nf_conntrack_sip",
        NeighbourKind::Docker => "docker",
        NeighbourKind::Fail2ban => "fail2ban",
        NeighbourKind::NftTable => "nft-table",
        NeighbourKind::ForeignRules => "foreign-rules",
        NeighbourKind::SavedRules => "saved-rules",
        NeighbourKind::Crowdsec => "crowdsec",
        NeighbourKind::Podman => "podman",
        NeighbourKind::Lxd => "lxd",
        NeighbourKind::Libvirt => "libvirt",
        NeighbourKind::Unspecified => "unknown",
    }
}

/// Whose address a foreign firewall cuts off.
pub fn cut_off(kind: CutOffKind) -> &'static str {
    match kind {
        CutOffKind::Controller => "controller",
        CutOffKind::Admin => "admin",
        CutOffKind::Cluster => "cluster",
        CutOffKind::Tenant => "tenant",
        CutOffKind::Provider => "provider",
        CutOffKind::Client => "client",
        CutOffKind::Other => "other",
        CutOffKind::Unspecified => "unknown",
    }
}

/// Differences between a host and the documents.
pub fn difference(kind: i32) -> &'static str {
    match DifferenceKind::try_from(kind).unwrap_or_default() {
        DifferenceKind::RoleNotEnrolled => "role_not_enrolled",
        DifferenceKind::RoleNotRunning => "role_not_running",
        DifferenceKind::Port => "port",
        DifferenceKind::TrustedNetwork => "trusted_network",
        DifferenceKind::OpenListener => "open_listener",
        DifferenceKind::Unspecified => "unknown",
    }
}
