//! The rules hold in this workspace.

use anyhow::Result;
use voipfleet_layers::workspace::{CHECKS, Workspace};

#[test]
fn the_layers_hold() -> Result<()> {
    let workspace = Workspace::here()?;
    let mut found = Vec::new();
    for (name, check) in CHECKS {
        for violation in check(&workspace)? {
            found.push(format!("{name}: {violation}"));
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    Ok(())
}
