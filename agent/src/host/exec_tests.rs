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
fn input_of_any_size_reaches_the_tool() {
    let input = "0123456789abcdef".repeat(1 << 16);
    let output = sh("cat", &input, LONG).unwrap();
    assert!(output.stdout == input);
}

#[test]
fn environment_is_not_inherited() {
    let output = sh("env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD='", "", LONG).unwrap();
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["LC_ALL=C", "PATH=/usr/bin:/bin"]);
}

#[test]
fn error_carries_the_tools_stderr() {
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
fn timeout_kills_the_whole_process_group() {
    let error = sh("sleep 600 & sleep 600", "", Duration::from_millis(50));
    assert!(matches!(error, Err(ExecError::TimedOut { .. })));
}

#[test]
fn tool_that_closes_its_outputs_without_exiting_is_killed() {
    let script = "exec >/dev/null 2>&1; exec sleep 600";
    let error = sh(script, "", Duration::from_millis(50));
    assert!(matches!(error, Err(ExecError::TimedOut { .. })));
}

#[test]
fn missing_tool_is_named_in_the_error() {
    let error = Runner::new("/nowhere:relative")
        .run("ipset", &["save"], "")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "ipset is not installed (looked in /nowhere:relative)"
    );
}

#[test]
fn started_process_is_recorded_as_own() {
    let runner = Runner::new("/usr/bin:/bin");
    let pid = runner.run("sh", &["-c", "echo $$"], "").unwrap().stdout;
    assert!(runner.own().contains(pid.trim().parse().unwrap()));
}

#[test]
fn dropped_tool_is_killed_while_it_waits_for_input() {
    let runner = within(LONG);
    let started = runner.start("cat", &["-"]).unwrap();
    assert_eq!(started.finish("later").unwrap().stdout, "later");
    let unwanted = runner.start("cat", &["-"]).unwrap();
    let folder = format!("/proc/{}", unwanted.child.id());
    assert!(std::fs::exists(&folder).unwrap());
    drop(unwanted);
    assert!(!std::fs::exists(&folder).unwrap(), "killed and reaped");
}
