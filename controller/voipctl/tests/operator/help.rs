//! `--help` of every command, on a terminal of 80 columns.

use clap::Command;

fn paths(command: &Command, path: &[String], found: &mut Vec<Vec<String>>) {
    found.push(path.to_vec());
    for sub in command.get_subcommands() {
        let path = [path, &[sub.get_name().to_owned()]].concat();
        paths(sub, &path, found);
    }
}

#[test]
fn help_of_every_command() {
    let command = voipctl::cli::command().term_width(80);
    let mut found = Vec::new();
    paths(&command, &["voipctl".to_owned()], &mut found);
    let help = |path: Vec<String>| {
        let line = [&path[..], &["--help".to_owned()]].concat();
        let help = command.clone().try_get_matches_from(line).unwrap_err();
        format!("=== {}\n{help}\n", path.join(" "))
    };
    let text = found.into_iter().map(help).collect::<Vec<_>>().concat();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "too long: {line}");
    }
    insta::assert_snapshot!(text);
}
