//! Commands in the manual are those that the programs take.

use clap::{Command, CommandFactory as _};

use super::{code, pages};

fn programs() -> [(&'static str, Command); 3] {
    [
        ("voipctl", voipctl::cli::Cli::command()),
        ("voipfleet-agent", voipfleet_agent::cli::Cli::command()),
        (
            "voipfleet-controller",
            voipfleet_controller::cli::Cli::command(),
        ),
    ]
}

/// Whole lines of shell, with every argument.
#[test]
fn commands_in_blocks_parse() {
    let mut bad = Vec::new();
    for page in pages() {
        for (place, line) in code(&page, "sh") {
            let words = words(&line);
            for (program, command) in programs() {
                let Some(start) = start_of(&words, program) else {
                    continue;
                };
                let end = words
                    .iter()
                    .skip(start)
                    .position(|word| matches!(word.as_str(), "|" | "&&" | "||" | ">" | ";"));
                let end = end.map_or(words.len(), |end| start + end);
                let given = words.get(start..end).unwrap_or_default();
                if let Err(error) = command.try_get_matches_from(given)
                    && error.use_stderr()
                {
                    bad.push(format!("{place}: {line}\n{error}"));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Where a line runs a program: at its start, or behind a word that begins a command.
fn start_of(words: &[String], program: &str) -> Option<usize> {
    let starts = |index: usize| {
        let before = index.checked_sub(1).and_then(|before| words.get(before));
        before.is_none_or(|word| matches!(word.as_str(), "sudo" | "&&" | "|"))
    };
    (0..words.len())
        .find(|index| words.get(*index).is_some_and(|word| word == program) && starts(*index))
}

/// Commands in the text, which may have placeholders: their subcommands and options exist.
#[test]
fn commands_in_the_text_exist() {
    let mut bad = Vec::new();
    for page in pages() {
        for span in spans(&page.text) {
            let words = words(span);
            for (program, command) in programs() {
                if words.first().is_none_or(|word| word != program) {
                    continue;
                }
                if let Some(word) = unknown(&command, words.get(1..).unwrap_or_default()) {
                    bad.push(format!("{}: {span}: {word}", page.path.display()));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// The first word that is no subcommand or option of the command.
fn unknown(command: &Command, words: &[String]) -> Option<String> {
    let mut at = command.clone();
    at.build();
    let mut rest = words;
    while let Some((word, more)) = rest.split_first() {
        let Some(next) = at.find_subcommand(word) else {
            break;
        };
        at = next.clone();
        rest = more;
    }
    // A command that only has subcommands takes no other word.
    if let Some(word) = rest.first()
        && at.is_subcommand_required_set()
        && !word.starts_with('-')
        && word.chars().any(char::is_lowercase)
    {
        return Some(word.clone());
    }
    rest.iter()
        .filter_map(|word| word.strip_prefix("--"))
        .map(|option| option.split('=').next().unwrap_or(option))
        .find(|option| {
            !matches!(*option, "help" | "version" | "")
                && !at
                    .get_arguments()
                    .any(|known| known.get_long() == Some(*option))
        })
        .map(|option| format!("--{option}"))
}

/// What stands between single backquotes, outside of blocks.
fn spans(text: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 0 {
            spans.extend(part.split('`').skip(1).step_by(2));
        }
    }
    spans
}

/// The words of a line of shell, without its comment; what the shell would put in is `x`.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_none() && quote.is_none() => break,
            '\'' | '"' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if quote == Some(c) => quote = None,
            '$' => {
                // `$(...)`, `$name`
                if chars.next_if_eq(&'(').is_some() {
                    while chars.next().is_some_and(|c| c != ')') {}
                } else {
                    while chars
                        .next_if(|c| c.is_alphanumeric() || *c == '_')
                        .is_some()
                    {}
                }
                word.get_or_insert_default().push('x');
            }
            ' ' if quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
