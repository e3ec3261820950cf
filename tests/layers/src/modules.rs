//! The module tree of a crate, read from its source files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::imports::{self, Contents, Declared};

pub use crate::imports::ModulePath;

/// How many re-exports and aliases are followed before giving up: more is a loop.
const MAX_HOPS: usize = 16;

/// Reads a source file; `None` where there is none.
pub type Reader<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// One import of one module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The importing module.
    pub from: ModulePath,
    /// The imported path. Inside the crate it begins with `crate`, otherwise with a crate's name.
    pub path: Vec<String>,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.from.is_empty() {
            "the crate's root".to_owned()
        } else {
            self.from.join("::")
        };
        write!(f, "{from} imports {}", self.path.join("::"))
    }
}

/// The modules of one target (a library or a program).
#[derive(Debug, Default)]
pub struct Modules {
    by_path: BTreeMap<ModulePath, Contents>,
}

impl Modules {
    /// Reads a target from its root file, `src/lib.rs` for example, and the files that it declares.
    pub fn read(root: &Path, read: Reader<'_>) -> Result<Self> {
        let mut modules = Self::default();
        // The file, its module, and the folder in which its child modules are.
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        let mut pending = vec![(root.to_owned(), ModulePath::new(), folder)];
        while let Some((file, path, folder)) = pending.pop() {
            let text = read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let parsed = syn::parse_file(&text)
                .with_context(|| format!("{} is not Rust", file.display()))?;
            for (path, contents) in imports::collect(&parsed, &path) {
                for declared in &contents.files {
                    let child = find_file(&file, &folder, &path, declared, read)?;
                    let mut child_path = path.clone();
                    child_path.push(declared.name.clone());
                    pending.push((child.0, child_path, child.1));
                }
                modules.by_path.insert(path, contents);
            }
        }
        Ok(modules)
    }

    /// Every import outside of test code, with aliases and re-exports resolved. One through a
    /// re-export counts for the module that is named and for the one that defines the item.
    pub fn imports(&self) -> BTreeSet<Import> {
        let mut found = BTreeSet::new();
        for (from, contents) in &self.by_path {
            for raw in &contents.paths {
                let mut path = self.absolute(from, raw, 0);
                for _ in 0..MAX_HOPS {
                    let next = self.through_reexport(&path);
                    found.insert(Import {
                        from: from.clone(),
                        path,
                    });
                    match next {
                        Some(next) => path = next,
                        None => break,
                    }
                }
            }
        }
        found
    }

    /// The module with a file of its own that a path inside the crate leads to.
    pub fn file_module(&self, path: &[String]) -> ModulePath {
        let (mut module, _) = self.split(path);
        while self.by_path.get(&module).is_some_and(|m| m.is_inline) {
            module.pop();
        }
        module
    }

    /// The longest module of a path, and what follows it.
    fn split<'a>(&self, path: &'a [String]) -> (ModulePath, &'a [String]) {
        let mut module = ModulePath::new();
        let mut rest = path;
        while let Some((first, after)) = rest.split_first() {
            module.push(first.clone());
            if !self.by_path.contains_key(&module) {
                module.pop();
                break;
            }
            rest = after;
        }
        (module, rest)
    }

    /// A path as written in a module, from the crate's root or from another crate.
    fn absolute(&self, from: &[String], raw: &[String], hops: usize) -> Vec<String> {
        let inside = |module: &[String], rest: &[String]| {
            let mut path = vec!["crate".to_owned()];
            path.extend_from_slice(module);
            path.extend_from_slice(rest);
            path
        };
        let mut module = from.to_vec();
        let mut rest = raw;
        let mut relative = false;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" => module.clear(),
                "self" => {}
                "super" => {
                    module.pop();
                }
                _ => break,
            }
            relative = true;
            rest = after;
        }
        let Some((first, after)) = rest.split_first() else {
            return inside(&module, rest);
        };
        if relative {
            return inside(&module, rest);
        }
        let mut child = from.to_vec();
        child.push(first.clone());
        if self.by_path.contains_key(&child) {
            return inside(&child, after);
        }
        let alias = self.by_path.get(from).and_then(|m| m.names.get(first));
        match alias {
            Some(target) if target.first() != Some(first) && hops < MAX_HOPS => {
                let mut path = target.clone();
                path.extend_from_slice(after);
                self.absolute(from, &path, hops + 1)
            }
            Some(target) if target.len() > 1 => {
                // `use tonic::{transport, …}` under the name of its own first word.
                let mut path = target.clone();
                path.extend_from_slice(after);
                path
            }
            _ => rest.to_vec(),
        }
    }

    /// Where a module of the crate has a name from, if it only passes it on.
    fn through_reexport(&self, path: &[String]) -> Option<Vec<String>> {
        let (root, inner) = path.split_first()?;
        if root != "crate" {
            return None;
        }
        let (module, rest) = self.split(inner);
        let (name, after) = rest.split_first()?;
        let contents = self.by_path.get(&module)?;
        let mut target = if let Some(target) = contents.names.get(name) {
            self.absolute(&module, target, 0)
        } else {
            let globs = contents.globs.iter();
            let mut targets = globs.map(|glob| self.absolute(&module, glob, 0));
            let mut target = targets.find(|target| self.defines(target, name))?;
            target.push(name.clone());
            target
        };
        target.extend_from_slice(after);
        (target != path).then_some(target)
    }

    fn defines(&self, module: &[String], name: &str) -> bool {
        let Some((root, inner)) = module.split_first() else {
            return false;
        };
        root == "crate"
            && self.by_path.get(inner).is_some_and(|contents| {
                contents.items.contains(name) || contents.names.contains_key(name)
            })
    }
}

/// The file of a declared module, and the folder of its own child modules.
fn find_file(
    parent: &Path,
    folder: &Path,
    module: &[String],
    declared: &Declared,
    read: Reader<'_>,
) -> Result<(PathBuf, PathBuf)> {
    if let Some(path) = &declared.path {
        let file = parent.parent().unwrap_or(Path::new("")).join(path);
        let children = file.parent().unwrap_or(Path::new("")).to_owned();
        return Ok((file, children));
    }
    let name = &declared.name;
    let children = folder.join(name);
    for file in [folder.join(format!("{name}.rs")), children.join("mod.rs")] {
        if read(&file).is_some() {
            return Ok((file, children));
        }
    }
    bail!(
        "module {}::{name} has no file in {}",
        module.join("::"),
        folder.display()
    )
}
