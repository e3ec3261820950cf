//! The vendor's own firewall script, and cron jobs that flush iptables.

use super::{ForeignFirewall, ForeignFirewallKind};

use super::foreign_firewall;
use crate::host::Root;

/// Where VoipNow 3 and 5 have it (the vendor's page "Network Security").
const SCRIPTS: [&str; 2] = [
    "/usr/local/voipnow/admin/bin/voipnow_firewall",
    "/usr/local/voipnow/admin/sbin/voipnow_firewall",
];
const CRONTABS: [&str; 3] = [
    "/etc/crontab",
    "/var/spool/cron/root",
    "/var/spool/cron/crontabs/root",
];
const CRON_FOLDER: &str = "/etc/cron.d";
/// The longest crontab that is searched, and the most of them.
const MAX_FILE: u64 = 64 << 10;
const MAX_CRONTABS: usize = 64;

pub(super) fn find(root: &Root) -> Vec<ForeignFirewall> {
    let mut found = Vec::new();
    let mut crontabs: Vec<String> = CRONTABS.map(str::to_owned).into();
    let folder = root.names(CRON_FOLDER).into_iter();
    crontabs.extend(folder.map(|name| format!("{CRON_FOLDER}/{name}")));
    // The lines themselves are not reported: they may contain passwords.
    for crontab in crontabs.into_iter().take(MAX_CRONTABS) {
        let text = root.text(&crontab, MAX_FILE).unwrap_or_default();
        let mut jobs = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        if jobs.any(flushes) {
            found.push(foreign_firewall(
                ForeignFirewallKind::VoipnowFirewall,
                format!("a cron job in {crontab} flushes iptables or runs voipnow_firewall"),
                "the test mode of voipnow_firewall leaves such a job, which flushes every rule \
                 within 3 minutes: remove its line",
            ));
        }
    }
    if found.is_empty()
        && let Some(script) = SCRIPTS.into_iter().find(|script| root.exists(script))
    {
        // Every VoipNow has it; it is a problem only when it is run.
        found.push(foreign_firewall(
            ForeignFirewallKind::VoipnowFirewall,
            format!("{script} is installed, but no cron job runs it; do not run it"),
            "",
        ));
    }
    found
}

/// Whether a line of a crontab flushes iptables, or runs the vendor's script.
fn flushes(line: &str) -> bool {
    let mut words = line.split(|c: char| c.is_whitespace() || ";|&'\"".contains(c));
    let flush = |word: &str| matches!(word, "-F" | "--flush");
    line.contains("voipnow_firewall")
        || (line.contains("tables") && words.any(flush))
        || line.contains("flush ruleset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushing_cron_job_is_reported_without_its_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert_eq!(find(&root), []);
        for path in [
            "/usr/local/voipnow/admin/bin",
            "/etc/cron.d",
            "/var/spool/cron",
        ] {
            std::fs::create_dir_all(root.path(path)).unwrap();
        }
        std::fs::write(root.path(SCRIPTS[0]), "").unwrap();
        std::fs::write(
            root.path("/etc/cron.d/clean"),
            "# iptables -F\n1 * * * * root true\n",
        )
        .unwrap();
        let found = find(&root);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].advice, "");

        let job = "*/3 * * * * PASS=hunter2 /sbin/iptables -F; /sbin/iptables -X\n";
        std::fs::write(root.path("/var/spool/cron/root"), job).unwrap();
        let found = find(&root);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].detail.contains("/var/spool/cron/root"),
            "{found:?}"
        );
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn only_flushing_commands_count_as_flushes() {
        assert!(flushes("* * * * * root /usr/sbin/iptables --flush"));
        assert!(flushes("* * * * * root sh -c 'iptables -F INPUT'"));
        assert!(flushes("* * * * * root nft flush ruleset"));
        for harmless in [
            "* * * * * root iptables -nL",
            "* * * * * root grep -F x /etc/hosts",
            "",
        ] {
            assert!(!flushes(harmless), "{harmless}");
        }
    }
}
