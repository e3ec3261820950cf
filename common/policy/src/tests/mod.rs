//! Documents from text to types and back.

mod bounds;
mod cluster;
pub(super) mod generate;
mod hosts;
mod mistakes;
mod round_trip;
mod samples;
mod yaml;

use super::{Checked, Documents, Source, check};

/// Sources from pairs of path and text.
fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    files
        .iter()
        .map(|(path, text)| Source {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        })
        .collect()
}

/// Checks against an empty store.
fn checked(files: &[(&str, &str)]) -> Checked {
    check(&sources(files), &Documents::default())
}

/// Every diagnostic as it is shown.
fn shown(files: &[(&str, &str)]) -> String {
    rendered(&sources(files), &checked(files))
}

fn rendered(sources: &[Source], checked: &Checked) -> String {
    checked
        .diagnostics
        .iter()
        .map(|diagnostic| {
            let source = sources.iter().find(|s| s.path == diagnostic.path);
            diagnostic.render(source.map(|source| source.text.as_str()))
        })
        .collect::<Vec<_>>()
        .join("\n")
}
