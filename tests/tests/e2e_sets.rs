//! Address sets from the document to the kernel: entries that end, and what is counted.

use anyhow::{Context as _, Result, ensure};
use voipfleet_agent::host::clock;
use voipfleet_ruleset::ruleset::Until;
use voipfleet_tests::lab::{Lab, Options, Sets};

/// The only node of a single-node lab.
const NODE: &str = "all1";
const SET: &str = "vf-deny-voipbl-4";
/// What stays in it, what ends soon, and what does not.
const STAYS: &str = "198.51.100.77";
const ENDS: &str = "198.51.100.88";
const LASTS: &str = "198.51.100.99";

fn holds(lab: &Lab, element: &str) -> Result<bool> {
    let start = format!("add {SET} {element} ");
    let saved = lab.rules(NODE)?.sets;
    Ok(saved
        .iter()
        .any(|line| format!("{line} ").starts_with(&start)))
}

fn sets(lab: &Lab) -> Result<Sets> {
    let status = lab.status()?;
    let sets = status.node(NODE)?.sets.clone();
    sets.context("the node counts nothing")
}

fn push_list(lab: &Lab, left: u64) -> Result<()> {
    let until = |seconds: u64| -> Result<Until> {
        Until::from_unix(clock::unix(clock::now()) + seconds).context("no such time")
    };
    let applied = lab.apply(&format!(
        "kind: List\nname: voipbl\naddresses:\n  - {STAYS}\n  - {{address: {ENDS}, until: {}}}\n  \
         - {{address: {LASTS}, until: {}}}\n",
        until(left)?,
        until(40_000_000)?,
    ))?;
    ensure!(applied.success(), "{}", applied.output());
    let push = lab.push()?;
    ensure!(push.ended.success(), "{}", push.ended.output());
    lab.wait_synced()?;
    Ok(())
}

#[test]
fn what_ends_goes_by_itself_and_what_is_lost_is_counted() -> Result<()> {
    let options = Options {
        nodes: 1,
        backend: "nft",
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        push_list(lab, 60)?;
        ensure!(holds(lab, STAYS)? && holds(lab, ENDS)? && holds(lab, LASTS)?);
        let whole = sets(lab)?;
        ensure!(whole.enforced == whole.wanted, "{whole:?}");

        // The same list, and an earlier end: a delta.
        push_list(lab, 8)?;
        let drift = lab.drift()?.len();
        lab.wait(
            "the entry to end",
            || Ok((!holds(lab, ENDS)?).then_some(())),
        )?;
        let less = Sets {
            enforced: whole.enforced - 1,
            wanted: whole.wanted - 1,
        };
        lab.wait("one element less, of one less", || {
            Ok((sets(lab)? == less).then_some(()))
        })?;
        ensure!(lab.drift()?.len() == drift, "an end is no drift");
        ensure!(holds(lab, STAYS)? && holds(lab, LASTS)?);

        // Somebody takes an element out again and again, until the node waits.
        lab.wait("status to say what is lost", || {
            let _gone = lab.on(NODE, &["ipset", "del", SET, STAYS])?;
            Ok((sets(lab)?.enforced < less.wanted).then_some(()))
        })?;
        lab.wait("it to come back", || Ok((sets(lab)? == less).then_some(())))?;
        ensure!(holds(lab, STAYS)?);
        let records = lab.drift()?;
        let new = records.len() - drift;
        ensure!(new > 0, "it is no drift");
        ensure!(
            records.iter().take(new).all(|record| {
                record.class == "set"
                    && record.chain.as_deref() == Some(SET)
                    && record.wanted.as_deref() == Some("198.51.100.77/32")
            }),
            "{records:#?}"
        );
        Ok(())
    })
}
