//! The packages of the workspace, and what each is built from.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Every package that a package is built from, directly or not, without those of its tests.
///
/// Asked of `cargo tree` for the package alone: features that only other packages of the
/// workspace switch on do not count.
pub fn dependencies(workspace: &Path, package: &str) -> Result<BTreeSet<String>> {
    let arguments = ["tree", "--locked", "--edges", "normal", "--prefix", "none"];
    let tree = cargo(
        workspace,
        &[&arguments[..], &["--package", package]].concat(),
    )?;
    // A line is `name v1.2.3`, with `(path)` or `(*)` behind it.
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    Ok(names
        .filter(|name| !name.is_empty() && *name != package)
        .map(str::to_owned)
        .collect())
}

/// The workspace's packages by name, each with its folder below the workspace's root.
pub fn members(workspace: &Path) -> Result<Vec<(String, String)>> {
    let arguments = [
        "tree",
        "--locked",
        "--workspace",
        "--depth",
        "0",
        "--prefix",
        "none",
    ];
    let tree = cargo(workspace, &arguments)?;
    let root = workspace.display().to_string();
    tree.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            let folder = rest
                .split_once('(')
                .and_then(|(_, path)| path.strip_suffix(')'))
                .and_then(|path| path.strip_prefix(&root))
                .with_context(|| format!("a package elsewhere: {line}"))?;
            Ok((name.to_owned(), folder.trim_start_matches('/').to_owned()))
        })
        .collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "cargo alone knows which packages a build uses"
)]
fn cargo(workspace: &Path, arguments: &[&str]) -> Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(program)
        .args(arguments)
        .current_dir(workspace)
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
