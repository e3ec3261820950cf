//! Whether the kernel has `nf_tables` without being asked in a way that loads it.

use std::sync::OnceLock;

use crate::host::Root;

/// A symbol of `nf_tables` in the kernel's own list.
const SYMBOL: &str = " nf_tables_newtable";
/// The module in the list of those that are built in.
const BUILT_IN: &str = "/nf_tables.ko";

/// What does not change until the next boot is looked up once.
#[derive(Debug, Default)]
pub(super) struct NftPresence {
    is_built_in: OnceLock<bool>,
}

impl NftPresence {
    /// A module is in `/sys/module` once it is loaded; what is built in is not.
    pub(super) fn is_there(&self, root: &Root) -> bool {
        root.exists("/sys/module/nf_tables") || *self.is_built_in.get_or_init(|| is_built_in(root))
    }
}

fn is_built_in(root: &Root) -> bool {
    let release = nix::sys::utsname::uname().ok();
    let release = release.and_then(|name| name.release().to_str().map(str::to_owned));
    let listed = release.is_some_and(|release| {
        let list = format!("/lib/modules/{release}/modules.builtin");
        root.any_line(&list, |line| line.ends_with(BUILT_IN))
    });
    listed || root.any_line("/proc/kallsyms", |line| line.ends_with(SYMBOL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nf_tables_is_found_as_a_module_and_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir_all(root.path("/proc")).unwrap();
        std::fs::create_dir_all(root.path("/sys/module")).unwrap();
        std::fs::write(
            root.path("/proc/kallsyms"),
            "0000 t nf_tables_newtable\t[nf_tables]\n",
        )
        .unwrap();
        assert!(!NftPresence::default().is_there(&root));
        std::fs::write(root.path("/proc/kallsyms"), "0000 t nf_tables_newtable\n").unwrap();
        assert!(NftPresence::default().is_there(&root));
        std::fs::remove_file(root.path("/proc/kallsyms")).unwrap();
        let presence = NftPresence::default();
        assert!(!presence.is_there(&root));
        std::fs::create_dir(root.path("/sys/module/nf_tables")).unwrap();
        assert!(presence.is_there(&root));
    }
}
