//! The functions that `docs/architecture.md` names exist where it says.

use std::fs;

use super::root;

#[test]
fn functions_are_where_the_traces_say() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut steps = 0;
    let mut bad = Vec::new();
    for line in text.lines() {
        // | 3 | `function` | `path/file.rs` | what it does |
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, function, file, ..] = cells[..] else {
            continue;
        };
        if number.parse::<u32>().is_err() {
            continue;
        }
        steps += 1;
        let function = function.trim_matches('`').trim_end_matches("()");
        let name = function.rsplit("::").next().unwrap_or(function);
        let file = file.trim_matches('`');
        let found = fs::read_to_string(root().join(file)).is_ok_and(|source| {
            [format!("fn {name}("), format!("fn {name}<")]
                .iter()
                .any(|head| source.contains(head))
        });
        if !found {
            bad.push(format!("{function} is not in {file}"));
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(steps >= 10, "the traces have {steps} steps");
}

#[test]
fn a_trace_has_at_most_ten_functions() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    assert!(!text.lines().any(|line| line.starts_with("| 11 |")));
}

#[test]
fn paths_exist() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let missing: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| span.contains('/') && !span.contains([' ', '*', '{', '<', '\n']))
        .filter(|span| !root().join(span.trim_end_matches('/')).exists())
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
