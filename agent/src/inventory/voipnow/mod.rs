//! VoipNow on this machine: its node id, roles, back ends and trusted networks.

mod back_ends;
mod listeners;
mod roles;
mod trusted_networks;

use voipfleet_proto::v1 as pb;

use crate::host::{Processes, Root};

pub(super) use listeners::is_media_socket;
pub use listeners::listeners;

/// The longest version or node id that is reported.
const MAX_WORD: usize = 64;
/// The files of either hold one line.
const MAX_FILE: u64 = 4 << 10;

/// The report about VoipNow; none where it is not installed.
pub fn read(root: &Root, processes: &Processes) -> Option<pb::VoipNow> {
    let node_id = word(root, "/etc/voipnownode/nodeid");
    let version = word(root, "/usr/local/voipnow/.version");
    if node_id.is_none() && version.is_none() && !root.exists("/etc/voipnow") {
        return None;
    }
    let (back_ends, not_understood) = back_ends::back_ends(root);
    Some(pb::VoipNow {
        node_id: node_id.unwrap_or_default(),
        version: version.unwrap_or_default(),
        roles: roles::found(processes)
            .into_iter()
            .map(|role| role.code().to_owned())
            .collect(),
        back_ends: back_ends.iter().map(back_ends::BackEnd::to_wire).collect(),
        trusted_networks: trusted_networks::networks(root),
        not_understood,
    })
}

/// The first word of a file, if it is one that an id or a version can be.
fn word(root: &Root, path: &str) -> Option<String> {
    let text = root.text(path, MAX_FILE)?;
    let word = text.split_whitespace().next()?;
    let sound = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (word.len() <= MAX_WORD && word.chars().all(sound)).then(|| word.to_owned())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
