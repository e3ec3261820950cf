//! A Debian system to boot, made once and kept.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{must, root_of_checkout};
use crate::exec;

/// What a node has, as far as it matters here. A change of this list makes a new image.
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,iproute2,iptables,ipset,netfilter-persistent,iptables-persistent";
/// What makes and boots it, and where it comes from.
const TOOLS: [(&str, &str); 3] = [
    ("systemd-nspawn", "systemd-container"),
    ("debootstrap", "debootstrap"),
    ("apt-get", "apt"),
];

/// The tool that is missing, and its package; none if all are there.
pub fn missing_tool() -> Option<(&'static str, &'static str)> {
    let found = |tool: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(tool).exists())
    };
    TOOLS.into_iter().find(|(tool, _)| !found(tool))
}

/// Where apt of this machine gets its own release from. That release, and no other, has the
/// C library that the programs under test were built with.
struct Source {
    release: String,
    site: String,
    components: Vec<String>,
}

fn source() -> Result<Source> {
    let os = std::fs::read_to_string("/etc/os-release")?;
    let release = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no release: a Debian or Ubuntu is needed here")?
        .trim_matches('"')
        .to_owned();
    let targets = must(&[
        "apt-get",
        "indextargets",
        "--format",
        "$(CODENAME) $(SITE) $(COMPONENT)",
        "Identifier: Packages",
    ])?;
    let mut site = None;
    let mut components = Vec::new();
    for line in targets.lines() {
        let [codename, from, component] = line.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        if codename == release && site.get_or_insert(from) == &from {
            components.push(component.to_owned());
        }
    }
    Ok(Source {
        site: site
            .with_context(|| format!("apt has no source of {release}; run apt-get update"))?
            .to_owned(),
        release,
        components,
    })
}

/// The image as a tar file: whoever owns the checkout may own it.
fn archive() -> Result<PathBuf> {
    let source = source()?;
    let folder = root_of_checkout()?.join("target/boot");
    let name = format!("{}-{}.tar", source.release, PACKAGES.replace(',', "-"));
    let archive = folder.join(name);
    if archive.exists() {
        return Ok(archive);
    }
    std::fs::create_dir_all(&folder)?;
    let work = tempfile::Builder::new().prefix("vb-").tempdir_in(&folder)?;
    let system = work.path().join("system");
    let system = system.to_str().context("the checkout's path is no text")?;
    must(&[
        "debootstrap",
        "--variant=minbase",
        &format!("--components={}", source.components.join(",")),
        &format!("--include={PACKAGES}"),
        &source.release,
        system,
        &source.site,
    ])
    .context("a system to boot could not be made")?;
    // The package saves what runs while it is installed: this machine's own rules.
    for file in ["rules.v4", "rules.v6"] {
        let path = Path::new(system).join("etc/iptables").join(file);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    let new = work.path().join("new.tar");
    let new = new.to_str().context("the checkout's path is no text")?;
    must(&[
        "tar",
        "-C",
        system,
        "--numeric-owner",
        "--exclude=./var/cache/apt",
        "--exclude=./var/lib/apt/lists",
        "--exclude=./usr/share/doc",
        "--exclude=./usr/share/locale",
        "-cf",
        new,
        ".",
    ])?;
    std::fs::rename(new, &archive)?;
    Ok(archive)
}

/// A fresh system in `folder`.
pub(super) fn unpack(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let archive = archive()?;
    let ended = exec::run(
        &[
            "tar".as_ref(),
            "-C".as_ref(),
            folder.as_os_str(),
            "--numeric-owner".as_ref(),
            "-xpf".as_ref(),
            archive.as_os_str(),
        ],
        &[],
    )?;
    ensure!(ended.success(), "{}", ended.output());
    Ok(())
}
