//! The namespace of process ids that the agent runs in.

use super::Root;

/// The first one of a machine: `PROC_PID_INIT_INO` of `linux/proc_ns.h`.
const INITIAL: &str = "pid:[4026531836]";

/// Whether ids of processes that the kernel names mean something else here, or nothing: the agent
/// runs in a container. Where that cannot be read, they count as the same.
pub fn has_own_ids(root: &Root) -> bool {
    let namespace = std::fs::read_link(root.path("/proc/self/ns/pid"));
    namespace.is_ok_and(|namespace| namespace.as_os_str() != INITIAL)
}
