//! How tools are run.

use super::*;

fn within(limit: Duration) -> Runner {
    Runner {
        limit,
        ..Runner::new("/usr/bin:/bin")
    }
}

fn sh(script: &str, input: &str, limit: Duration) -> Result<Output, ExecError> {
    within(limit).run("sh", &["-c", script], input)
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn input_goes_through_whatever_its_size() {
    let input = "0123456789abcdef".repeat(1 << 16);
    let output = sh("cat", &input, LONG).unwrap();
    assert!(output.stdout == input);
}

#[test]
fn nothing_of_our_environment_is_handed_on() {
    let output = sh("env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD='", "", LONG).unwrap();
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["LC_ALL=C", "PATH=/usr/bin:/bin"]);
}

#[test]
fn a_refusal_carries_the_words() {
    let error = sh(
        "echo 'bad \x1b rule' >&2; echo 'line 3' >&2; exit 4",
        "unread",
        LONG,
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "sh exited with status 4: bad  rule; line 3"
    );
}

#[test]
fn time_is_up_for_the_children_too() {
    let error = sh("sleep 600 & sleep 600", "", Duration::from_millis(50));
    assert!(matches!(error, Err(ExecError::TimedOut { .. })));
}

#[test]
fn a_tool_that_closes_its_outputs_and_stays_is_killed() {
    let script = "exec >/dev/null 2>&1; exec sleep 600";
    let error = sh(script, "", Duration::from_millis(50));
    assert!(matches!(error, Err(ExecError::TimedOut { .. })));
}

#[test]
fn a_missing_tool_is_named() {
    let error = Runner::new("/nowhere:relative")
        .run("ipset", &["save"], "")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "ipset is not installed (looked in /nowhere:relative)"
    );
}

#[test]
fn its_process_is_known_as_ours() {
    let runner = Runner::new("/usr/bin:/bin");
    let pid = runner.run("sh", &["-c", "echo $$"], "").unwrap().stdout;
    assert!(runner.own().contains(pid.trim().parse().unwrap()));
}

#[test]
fn one_that_was_started_waits_for_its_input_and_goes_when_nobody_wants_it() {
    let runner = within(LONG);
    let started = runner.start("cat", &["-"]).unwrap();
    assert_eq!(started.finish("later").unwrap().stdout, "later");
    let unwanted = runner.start("cat", &["-"]).unwrap();
    let folder = format!("/proc/{}", unwanted.child.id());
    assert!(std::fs::exists(&folder).unwrap());
    drop(unwanted);
    assert!(!std::fs::exists(&folder).unwrap(), "killed and reaped");
}
