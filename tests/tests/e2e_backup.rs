//! The controller's machine is lost and made again of a backup: agents come back by themselves,
//! generations go on, and nothing that was decided before the backup is forgotten.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use voipfleet_tests::exec;
use voipfleet_tests::lab::{Lab, Options};

/// Copies what an operator keeps apart from backups, and the first admin's context.
fn copy_keys(data: &Path, keys: &Path) -> Result<()> {
    for file in [
        "controller.json",
        "ca/ca.key",
        "ca/ca.pem",
        "server/server.key",
        "server/server.pem",
        "admin.yaml",
    ] {
        let to = keys.join(file);
        std::fs::create_dir_all(to.parent().context("a key in no folder")?)?;
        std::fs::copy(data.join(file), to).with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(())
}

fn tenant(number: u32) -> String {
    format!("kind: Tenant\nname: t{number}\nnetworks: {{a: [10.77.{number}.0/24]}}\n")
}

/// Makes the site's deny list hold these.
fn deny(lab: &Lab, addresses: &str) -> Result<()> {
    let list = format!("kind: List\nname: voipbl\naddresses: [{addresses}]\n");
    let applied = lab.apply(&list)?;
    ensure!(applied.success(), "{}", applied.output());
    Ok(())
}

#[test]
fn a_lost_controller_is_restored_elsewhere() -> Result<()> {
    let options = Options {
        nodes: 3,
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        lab.wait_synced()?;
        let keep = tempfile::tempdir()?;
        let (keys, file) = (keep.path().join("keys"), keep.path().join("backup"));
        let data = lab.state().join("controller");
        copy_keys(&data, &keys)?;

        // Applies and a push go on while the backup is taken.
        deny(lab, "198.51.100.77, 192.0.2.66")?;
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        let block = [
            "block",
            "192.0.2.99",
            "--site",
            "site-a",
            "--reason",
            "scans",
        ];
        let block = lab.voipctl(&block)?;
        ensure!(
            block.stdout.contains("192.0.2.99 is blocked"),
            "{}",
            block.output()
        );
        let pushing = lab.start_voipctl(&["push", "site-a", "--yes"])?;
        let path = file.to_string_lossy().into_owned();
        let backup = lab.start_voipctl(&["backup", &path])?;
        for number in 0..5 {
            let applied = lab.apply(&tenant(number))?;
            ensure!(applied.success(), "{}", applied.output());
        }
        let backup = backup.finish()?;
        ensure!(backup.success(), "{}", backup.output());
        let pushing = pushing.finish()?;
        ensure!(pushing.success(), "{}", pushing.output());
        lab.wait_synced()?;
        let rules = lab.rules("sip1")?;

        // One more push, which the backup does not know.
        deny(lab, "198.51.100.77, 192.0.2.67")?;
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        let last = lab.wait_synced()?.generation;
        ensure!(rules != lab.rules("sip1")?, "the push changed nothing");

        lab.kill("controller")?;
        std::fs::remove_dir_all(&data)?;
        let restored = exec::run(
            &[
                lab.program("voipfleet-controller").into_os_string(),
                "restore".into(),
                file.clone().into_os_string(),
                "--data".into(),
                data.clone().into_os_string(),
                "--keys".into(),
                keys.clone().into_os_string(),
            ],
            &[],
        )?;
        ensure!(restored.success(), "{}", restored.output());
        std::fs::copy(keys.join("admin.yaml"), data.join("admin.yaml"))?;
        lab.start("controller")?;

        lab.wait("every agent back", || {
            let Ok(status) = lab.status() else {
                return Ok(None);
            };
            let back = status.nodes.iter().all(|node| node.state != "offline");
            Ok(back.then_some(()))
        })?;
        // What was decided before the backup is still there, and the next push reaches nodes that
        // know more than the store.
        let blocks = lab.voipctl_ok(&["blocks", "-o", "json"])?;
        ensure!(blocks.contains("192.0.2.99"), "the block is lost: {blocks}");
        let stored = lab.voipctl_ok(&["get", "list", "voipbl", "-o", "yaml"])?;
        ensure!(
            stored.contains("192.0.2.66") && !stored.contains("192.0.2.67"),
            "{stored}"
        );
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        let status = lab.wait_synced()?;
        ensure!(
            status.generation > last,
            "generation {} is not above {last}, which nodes know",
            status.generation
        );
        rules
            .same(&lab.rules("sip1")?)
            .context("not the rules of the backup's documents")
    })
}
