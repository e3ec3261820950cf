//! The documents that people start from.

use anyhow::{Context as _, Result, ensure};
use voipfleet_policy::{self as policy, Documents};

#[test]
fn the_sample_policies_are_without_a_mistake() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policies");
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Beside them is what voipctl remembers of an apply.
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.to_string_lossy().into_owned();
        let source = policy::read(&name, std::fs::read(&path)?)
            .map_err(|diagnostic| anyhow::anyhow!("{diagnostic:#?}"))?;
        sources.push(source);
    }
    ensure!(!sources.is_empty(), "{folder} is empty");
    let checked = policy::check(&sources, &Documents::default());
    ensure!(checked.diagnostics.is_empty(), "{:#?}", checked.diagnostics);
    checked.documents.first().context("no document was read")?;
    Ok(())
}
