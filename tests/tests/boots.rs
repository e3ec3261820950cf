//! Real boots: a Debian system with the project's units, and a neighbour that knocks from
//! before the boot until after it. Nothing that the policy closes ever answers.
//!
//! The first run makes the system (a minute or two); it is kept in `target/boot`.

use anyhow::{Context as _, Result, ensure};
use voipfleet_tests::boot::{ALLOWED, Boots, REFUSED, SSH, missing_tool};
use voipfleet_tests::lab::{Family, Rules};

/// Runs `test` on a machine that was pushed to; says so where this system cannot boot one.
fn with_machine(backend: &str, test: impl FnOnce(&mut Boots) -> Result<()>) -> Result<()> {
    if let Some((tool, package)) = missing_tool() {
        // For whoever reads the run; cargo shows it with --nocapture.
        use std::io::Write as _;
        let why = format!("skipped: no {tool} here (apt-get install -y {package})");
        return Ok(writeln!(std::io::stderr(), "{why}")?);
    }
    Boots::run(backend, test)
}

/// What the policy opens.
fn by_policy(who: &str, port: u16) -> bool {
    matches!((who, port), ("admin", SSH) | ("client", ALLOWED))
}

/// What the management rules open.
fn by_management(who: &str, port: u16) -> bool {
    matches!((who, port), ("admin", SSH))
}

fn same(before: &Rules, now: &Rules) -> Result<()> {
    ensure!(
        before == now,
        "the kernel differs:\n{}",
        before.difference(now)
    );
    Ok(())
}

/// The agent can do its work within the bounds of its unit, and names the author of an edit.
fn works_in_its_sandbox(boots: &Boots, before: &Rules, edit: &str, author: &str) -> Result<()> {
    let nodes = boots.voipctl(&["nodes", "boots", "-o", "json"])?;
    for word in ["scratch", "preflight", "noticed only"] {
        ensure!(!nodes.contains(word), "{nodes}");
    }
    let machine = boots.machine()?;
    let said = machine.journal("voipfleet-agent")?;
    ensure!(!said.contains("polling only"), "{said}");
    // It sees a change at once, repairs it, and says who made it: on legacy with the program that
    // started it. On nft the kernel numbers processes as the machine outside does, so that the agent
    // cannot tell its own iptables-restore from another: only other tools are named.
    machine.must(edit)?;
    let records = boots.wait_drift()?;
    ensure!(records.contains(author), "{records}");
    same(before, &boots.rules()?)
}

fn runs_only_management(boots: &Boots) -> Result<()> {
    let machine = boots.machine()?;
    // Loud: the unit has failed, and says why.
    let result = machine.unit("voipfleet-restore", "ActiveState")?;
    ensure!(result == "failed", "the restore unit is {result}");
    let said = machine.journal("voipfleet-restore")?;
    ensure!(said.contains("only its management rules since"), "{said}");
    for tool in ["iptables", "ip6tables"] {
        let rules = machine.must(&format!("{tool}-save -t filter"))?;
        ensure!(rules.contains("vf:management:default"), "{rules}");
        ensure!(!rules.contains("match-set"), "{rules}");
    }
    let agent = machine.unit("voipfleet-agent", "ActiveState")?;
    ensure!(agent == "active", "the agent is {agent}");
    Ok(())
}

#[test]
fn a_reboot_changes_nothing_and_nothing_gets_in_meanwhile() -> Result<()> {
    with_machine("nft", |boots| {
        let before = boots.rules()?;
        ensure!(before.sets.iter().any(|line| line.contains("192.0.2.0/28")));
        boots.off()?;
        // Not by the help of the controller.
        boots.kill_controller();
        boots.boot_watched(by_policy)?;
        same(&before, &boots.rules()?)?;
        let machine = boots.machine()?;
        for unit in ["voipfleet-restore", "voipfleet-agent"] {
            let state = machine.unit(unit, "ActiveState")?;
            ensure!(state == "active", "{unit} is {state}");
        }
        let failed = machine.must("systemctl list-units --failed --plain --no-legend")?;
        ensure!(failed.is_empty(), "{failed}");
        let said = machine.journal("voipfleet-restore")?;
        ensure!(said.contains("generation 1 ("), "{said}");
        boots.start_controller()?;
        boots.wait_synced()?;
        works_in_its_sandbox(
            boots,
            &before,
            "iptables -F VF-INPUT",
            "\"comm\":\"iptables\"",
        )?;

        // The same boot without the units: every port answers. So it was the rules, and not
        // the machine, that kept silent.
        boots.off()?;
        boots.systemctl(&[
            "mask",
            "voipfleet-restore.service",
            "voipfleet-agent.service",
        ])?;
        boots.boot_watched(|_, _| true)
    })
}

#[test]
fn without_the_package_ipset_only_admins_get_in() -> Result<()> {
    with_machine("nft", |boots| {
        let before = boots.rules()?;
        boots.off()?;
        let tool = boots.system().join("usr/sbin/ipset");
        let kept = std::fs::read(&tool)?;
        boots.chroot("dpkg --purge --force-depends ipset")?;
        ensure!(!tool.exists());
        boots.boot_watched(by_management)?;
        runs_only_management(boots)?;
        let error = boots.wait_error()?;
        ensure!(error.contains("only its management rules since"), "{error}");
        ensure!(error.contains("ipset is not installed"), "{error}");

        // The package comes back: so do the rules.
        std::fs::write(&tool, kept)?;
        let machine = boots.machine()?;
        machine.must("chmod 755 /usr/sbin/ipset")?;
        machine.must("systemctl restart voipfleet-agent")?;
        boots.wait_synced()?;
        same(&before, &boots.rules()?)
    })
}

#[test]
fn with_a_corrupt_ledger_only_admins_get_in_until_the_controller_is_reached() -> Result<()> {
    with_machine("legacy", |boots| {
        let before = boots.rules()?;
        boots.off()?;
        boots.kill_controller();
        let file = boots
            .system()
            .join("var/lib/voipfleet-agent/ledger/confirmed");
        let mut bytes = std::fs::read(&file)?;
        *bytes.last_mut().context("the ledger is empty")? ^= 1;
        std::fs::write(&file, bytes)?;
        boots.boot_watched(by_management)?;
        runs_only_management(boots)?;

        boots.start_controller()?;
        boots.wait_synced()?;
        same(&before, &boots.rules()?)?;
        works_in_its_sandbox(boots, &before, "/usr/local/bin/editor", "/usr/bin/perl")?;
        // Healed for good.
        boots.off()?;
        boots.boot_watched(by_policy)?;
        same(&before, &boots.rules()?)
    })
}

#[test]
fn rules_that_netfilter_persistent_holds_stay_beside_ours() -> Result<()> {
    with_machine("legacy", |boots| {
        let before = boots.rules()?;
        boots.off()?;
        for (file, banned) in [
            ("rules.v4", "192.0.2.99/32"),
            ("rules.v6", "2001:db8::99/128"),
        ] {
            let text = format!(
                "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                 :OTHERS - [0:0]\n-A INPUT -j OTHERS\n-A INPUT -p tcp --dport {REFUSED} -j ACCEPT\n\
                 -A OTHERS -s {banned} -j DROP\nCOMMIT\n"
            );
            std::fs::write(boots.system().join("etc/iptables").join(file), text)?;
        }
        // Theirs would open a port: ours stand above.
        boots.boot_watched(by_policy)?;
        let machine = boots.machine()?;
        let theirs = machine.unit("netfilter-persistent", "ActiveState")?;
        ensure!(theirs == "active", "netfilter-persistent is {theirs}");
        let now = boots.rules()?;
        for (family, banned) in [
            (Family::V4, "192.0.2.99/32"),
            (Family::V6, "2001:db8::99/128"),
        ] {
            ensure!(
                now.chain(family, "OTHERS") == [format!("-A OTHERS -s {banned} -j DROP")],
                "{now:#?}"
            );
            let input: Vec<&str> = now.chain(family, "INPUT");
            let accept = format!("-A INPUT -p tcp -m tcp --dport {REFUSED} -j ACCEPT");
            let wanted = ["-A INPUT -j OTHERS", "-A INPUT -j VF-INPUT", &accept];
            ensure!(input == wanted, "{input:#?}");
            ensure!(
                now.of(family)
                    .iter()
                    .any(|line| line.starts_with(":FORWARD DROP"))
            );
        }
        same(&ours(&before), &ours(&now))?;

        // An operator saves all that there is, ours too: at the next boot theirs fails for want
        // of our sets, and ours are in force all the same.
        machine.must("netfilter-persistent save")?;
        boots.off()?;
        boots.boot_watched(by_policy)?;
        same(&ours(&before), &ours(&boots.rules()?))
    })
}

/// Our chains and sets, without the chains of others and our place in them.
fn ours(rules: &Rules) -> Rules {
    let lines = |lines: &[String]| {
        let ours = |line: &&String| line.starts_with(":VF-") || line.starts_with("-A VF-");
        lines.iter().filter(ours).cloned().collect()
    };
    Rules {
        v4: lines(&rules.v4),
        v6: lines(&rules.v6),
        sets: rules.sets.clone(),
    }
}
