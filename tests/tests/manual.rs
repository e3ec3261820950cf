//! The manual says what is so: its links lead somewhere, its commands parse, its tables are those
//! of the code, and the functions that it names exist.
//!
//! `UPDATE_DOCS=1` rewrites the generated tables.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a page that cannot be read fails its test"
)]

#[path = "manual/architecture.rs"]
mod architecture;
#[path = "manual/commands.rs"]
mod commands;
#[path = "manual/links.rs"]
mod links;
#[path = "manual/tables.rs"]
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

/// A page of the manual.
struct Page {
    /// Below the root of the checkout.
    path: PathBuf,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Every page, those outside of `docs/` too.
fn pages() -> Vec<Page> {
    let root = root();
    let mut paths: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "deploy/systemd/README.md"]
        .map(PathBuf::from)
        .into();
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        paths.push(Path::new("docs").join(entry.unwrap().file_name()));
    }
    paths
        .into_iter()
        .map(|path| Page {
            text: fs::read_to_string(root.join(&path)).unwrap(),
            path,
        })
        .collect()
}

/// The lines of fenced blocks in a language, each with its page and number.
fn code(page: &Page, language: &str) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut within = None;
    for (index, line) in page.text.lines().enumerate() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            within = match within {
                Some(_) => None,
                None => Some(fence == language),
            };
        } else if within == Some(true) {
            let place = format!("{}:{}", page.path.display(), index + 1);
            lines.push((place, line.to_owned()));
        }
    }
    lines
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 150);
}
