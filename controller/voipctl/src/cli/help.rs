//! The help: subcommands in groups, and examples for each.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Command, CommandFactory as _};

use super::Cli;
use super::examples::{EXAMPLES, Example};

const GROUPS: [(&str, &[&str]); 7] = [
    (
        "Policy",
        &["apply", "get", "export", "delete", "catalogue", "schema"],
    ),
    (
        "Push",
        &[
            "plan", "push", "rollout", "rollback", "history", "show", "diff", "render",
        ],
    ),
    ("Status", &["status", "drift", "nodes"]),
    (
        "Emergency",
        &[
            "block",
            "unblock",
            "allow",
            "disallow",
            "blocks",
            "panic-open",
            "panic-close",
        ],
    ),
    ("Sources", &["names", "feeds"]),
    (
        "People and access",
        &["token", "operator", "audit", "context"],
    ),
    ("Housekeeping", &["backup", "completions"]),
];

const AFTER_HELP: &str = "\
Examples:
  Check the documents in a folder, and store them:
    voipctl apply -f policies/
  See what a push would change, push, and check every node:
    voipctl plan site-a
    voipctl push site-a
    voipctl status site-a
  Block an address at every site for an hour:
    voipctl block 203.0.113.9 --reason toll-fraud

`voipctl COMMAND --help` shows the options of a command, with examples.

Exit status:
  0  done
  1  not successful on every node, or --exit-code found what it checks for
  2  bad usage or bad input
  3  the controller cannot be reached, or refused";

/// The command line with its help.
pub fn command() -> Command {
    let command = with_examples(Cli::command(), "");
    let template = format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{}{}\n{{options}}{{after-help}}",
        groups(&command),
        heading("Options")
    );
    command
        .help_template(StyledStr::from(template))
        .after_help(AFTER_HELP)
}

fn heading(title: &str) -> String {
    let style = clap::builder::Styles::styled();
    let style = style.get_header();
    format!("{style}{title}:{style:#}")
}

/// The subcommands in their groups, with their purposes.
fn groups(command: &Command) -> String {
    let names = GROUPS.iter().flat_map(|(_, names)| names.iter());
    let width = names.map(|name| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (title, names) in GROUPS {
        let _ = writeln!(text, "{}", heading(title));
        for name in names {
            let about = command
                .find_subcommand(name)
                .and_then(Command::get_about)
                .cloned()
                .unwrap_or_default();
            let _ = writeln!(text, "  {name:width$}  {about}");
        }
        text.push('\n');
    }
    text
}

/// Adds their examples to a command and its subcommands; `path` is its name without `voipctl`.
fn with_examples(mut command: Command, path: &str) -> Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        let path = format!("{path} {name}");
        command = command.mut_subcommand(name, |sub| with_examples(sub, path.trim_start()));
    }
    match EXAMPLES.iter().find(|(known, _)| *known == path) {
        Some((_, examples)) => command.after_help(listed(examples)),
        None => command,
    }
}

fn listed(examples: &[Example]) -> String {
    let mut text = "Examples:".to_owned();
    for (purpose, command) in examples {
        let _ = write!(text, "\n  {purpose}:\n    {command}");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn leaves<'c>(command: &'c Command, path: &str, found: &mut Vec<(String, &'c Command)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            if !sub.has_subcommands() {
                found.push((path.trim_start().to_owned(), sub));
            }
            leaves(sub, path.trim_start(), found);
        }
    }

    #[test]
    fn clap_accepts_the_command_line() {
        command().debug_assert();
    }

    #[test]
    fn every_subcommand_is_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let command = Cli::command();
        let mut known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        grouped.sort_unstable();
        known.sort_unstable();
        assert_eq!(grouped, known);
    }

    #[test]
    fn every_subcommand_has_examples_that_parse() {
        let command = Cli::command();
        let mut found = Vec::new();
        leaves(&command, "", &mut found);
        for (path, _) in &found {
            let examples = EXAMPLES.iter().find(|(known, _)| known == path);
            assert!(examples.is_some(), "no examples of {path}");
        }
        for (path, examples) in EXAMPLES {
            assert!(!examples.is_empty(), "no examples of {path}");
            for (_, example) in *examples {
                assert!(
                    example.starts_with(&format!("voipctl {path}")),
                    "{path}: {example}"
                );
                let line = example.split(" > ").next().unwrap();
                let parsed = Cli::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
                assert!(example.len() <= 76, "{example} is too long");
            }
        }
    }
}
