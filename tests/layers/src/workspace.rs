//! The rules, applied to every package of this workspace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::modules::{Import, Modules};
use crate::{circles, packages, rules};

/// A check of the workspace; gives what breaks its rule.
pub type Check = fn(&Workspace) -> Result<Vec<String>>;

/// Every check, with its name.
pub const CHECKS: &[(&str, Check)] = &[
    ("no modules import each other in a circle", circles),
    ("packages are built from layers below them", layers),
    ("source names no forbidden path", paths),
    ("no source file is too long", lengths),
];

/// The packages of a checkout.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    /// Name and folder of each.
    packages: Vec<(String, String)>,
}

impl Workspace {
    /// The workspace that this program was built from.
    pub fn here() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().context("the checkout is gone")?;
        let packages = packages::members(&root)?;
        Ok(Self { root, packages })
    }

    fn each(&self, find: impl Fn(&str, &str) -> Result<Vec<String>>) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (package, folder) in &self.packages {
            found.extend(find(package, folder).with_context(|| package.clone())?);
        }
        Ok(found)
    }

    /// The libraries and programs of a package.
    fn targets(&self, folder: &str) -> Result<Vec<Modules>> {
        let source = self.root.join(folder).join("src");
        let mut roots: Vec<PathBuf> = ["lib.rs", "main.rs"].map(|name| source.join(name)).into();
        if let Ok(programs) = std::fs::read_dir(source.join("bin")) {
            for program in programs {
                let path = program?.path();
                roots.push(if path.is_dir() {
                    path.join("main.rs")
                } else {
                    path
                });
            }
        }
        roots
            .iter()
            .filter(|root| root.exists())
            .map(|root| Modules::read(root, &|path| std::fs::read_to_string(path).ok()))
            .collect()
    }
}

fn circles(workspace: &Workspace) -> Result<Vec<String>> {
    workspace.each(|_, folder| {
        let mut found = Vec::new();
        for modules in workspace.targets(folder)? {
            let circles = circles::find(&modules);
            found.extend(
                circles
                    .iter()
                    .map(|circle| format!("{folder}/src: {circle}")),
            );
        }
        Ok(found)
    })
}

fn layers(workspace: &Workspace) -> Result<Vec<String>> {
    workspace.each(|package, _| {
        let dependencies = packages::dependencies(&workspace.root, package)?;
        let mut found = rules::layer_violations(package, &dependencies);
        found.extend(rules::crate_violations(package, &dependencies));
        Ok(found)
    })
}

fn paths(workspace: &Workspace) -> Result<Vec<String>> {
    workspace.each(|package, folder| {
        let targets = workspace.targets(folder)?;
        let imports: BTreeSet<Import> = targets.iter().flat_map(Modules::imports).collect();
        Ok(rules::path_violations(package, &imports))
    })
}

fn lengths(workspace: &Workspace) -> Result<Vec<String>> {
    workspace.each(|_, folder| {
        let mut found = Vec::new();
        for part in ["src", "tests", "build.rs"] {
            lengths_in(
                workspace,
                &workspace.root.join(folder).join(part),
                &mut found,
            )?;
        }
        Ok(found)
    })
}

fn lengths_in(workspace: &Workspace, path: &Path, found: &mut Vec<String>) -> Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            lengths_in(workspace, &entry?.path(), found)?;
        }
    } else if path.extension().is_some_and(|extension| extension == "rs")
        && let Ok(text) = std::fs::read_to_string(path)
    {
        let name = path.strip_prefix(&workspace.root).unwrap_or(path);
        found.extend(rules::length_violation(&name.display().to_string(), &text));
    }
    Ok(())
}
