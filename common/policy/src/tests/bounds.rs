//! Hostile input: the parser stays bounded and reports its limits.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::*;
use super::{checked, sources};

#[test]
fn a_long_list_in_a_file_is_taken() {
    let mut text = String::new();
    for index in 0..100_000_u32 {
        let [_, a, b, c] = index.to_be_bytes();
        writeln!(text, "100.{a}.{b}.{c}").unwrap();
    }
    let checked = checked(&[
        ("a.yaml", "kind: List\nname: long\nfile: long.txt\n"),
        ("long.txt", &text),
    ]);
    assert_eq!(checked.diagnostics, []);
    let Document::List(list) = &checked.documents[0] else {
        panic!()
    };
    assert_eq!(list.addresses.len(), 100_000);
}

#[test]
fn a_file_of_nothing_but_mistakes_is_reported_in_part() {
    let garbage = "not an address\n".repeat(300_000);
    let checked = checked(&[
        ("a.yaml", "kind: List\nname: long\nfile: long.txt\n"),
        ("long.txt", &garbage),
    ]);
    assert_eq!(checked.diagnostics.len(), MAX_DIAGNOSTICS + 1);
    let last = checked.diagnostics.last().unwrap();
    assert!(
        last.message.starts_with("299500 more mistakes"),
        "{}",
        last.message
    );
}

#[test]
fn a_text_that_is_too_large_is_not_parsed() {
    let huge = "[".repeat(MAX_SOURCE_BYTES + 1);
    for path in ["a.yaml", "a.txt", "-"] {
        let checked = checked(&[(path, &huge)]);
        assert_eq!(checked.diagnostics.len(), 1);
        assert!(checked.diagnostics[0].message.contains("8 MiB"));
    }
}

#[test]
fn what_makes_parsers_slow_is_over_soon() {
    let hard = [
        "a: ".repeat(700_000),
        "[".repeat(2_000_000),
        "{".repeat(2_000_000),
        "? ".repeat(1_000_000),
        "- ".repeat(1_000_000),
        "&a ".repeat(700_000),
        "*a ".repeat(700_000),
        "!t ".repeat(700_000),
        "\"".repeat(2_000_000),
        "'".repeat(2_000_001),
        "#".repeat(2_000_000),
        "---\n".repeat(300_000),
        "--- [\n".repeat(200_000),
        "a: |\n".repeat(300_000),
        "\n".repeat(4_000_000),
        "%YAML 1.2\n".repeat(200_000),
        "a,".repeat(1_000_000),
        format!("[{}]", "a,".repeat(240_000)),
        format!("{{{}}}", "a: b,".repeat(200_000)),
        format!("kind: Site\nname: {}\n", "x".repeat(4_000_000)),
        format!("{}: x\n", "x".repeat(1_000)),
        "é\u{feff}\t".repeat(500_000),
    ];
    for text in &hard {
        let checked = checked(&[("a.yaml", text)]);
        assert!(
            checked.diagnostics.len() <= 2 * (MAX_DIAGNOSTICS + 1),
            "{:?}",
            &text.chars().take(20).collect::<String>()
        );
        for diagnostic in &checked.diagnostics {
            // Rendering a line of megabytes is bounded as well.
            assert!(diagnostic.render(Some(text)).len() < 4_000);
        }
    }
}

/// Pieces of which YAML, and ours, is made.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "kind",
            "name",
            ": ",
            ":",
            "Site",
            "Tenant",
            "Provider",
            "List",
            "\n",
            "\n  ",
            "\n- ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "\"",
            "'",
            "#",
            "&a ",
            "*a",
            "!t ",
            "|\n",
            ">\n",
            "---\n",
            "admins",
            "services",
            "sip",
            "rtp",
            "ports",
            "from",
            "world",
            "10.0.0.1/8",
            "::/0",
            "rules",
            "accept",
            "proto",
            "tcp",
            "file",
            "a.txt",
            "networks",
            "deny",
            "limit",
            "per_source",
            "20/s",
            "5060-5061",
            "99999",
            "%YAML 1.2\n",
            "\t",
            "\u{feff}",
            "é",
            "\0",
            "kind: Site\nname: a\nadmins: ",
            "\nservices: {rtp: {ports: ",
            "kind: List\nname: l\n",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        match read("a.yaml", bytes.clone()) {
            Ok(source) => {
                let checked = check(std::slice::from_ref(&source), &Documents::default());
                for diagnostic in &checked.diagnostics {
                    diagnostic.render(Some(&source.text));
                }
            }
            Err(diagnostic) => {
                diagnostic.render(Some(&String::from_utf8_lossy(&bytes)));
            }
        }
    }

    #[test]
    fn every_mistake_lies_in_its_text(a in pieces(), b in pieces()) {
        let all = sources(&[("a.yaml", &a), ("a.txt", &b)]);
        for diagnostic in check(&all, &Documents::default()).diagnostics {
            let text = &all.iter().find(|s| s.path == diagnostic.path).unwrap().text;
            let end = diagnostic.offset + diagnostic.length;
            prop_assert!(text.get(diagnostic.offset..end).is_some(), "{diagnostic:?}");
            let line = text.split('\n').nth(diagnostic.line as usize - 1);
            prop_assert!(line.is_some(), "{diagnostic:?}");
            diagnostic.render(Some(text));
        }
    }
}

#[test]
fn suggestions_for_very_many_unknown_names_are_bounded() {
    let mut text = String::new();
    for index in 0..40_000 {
        writeln!(
            text,
            "kind: Tenant\nname: customer-number-{index:05}\nnetworks: {{}}\n---"
        )
        .unwrap();
    }
    text.push_str("kind: Site\nname: a\nadmins: 192.0.2.1\ntenants:\n");
    for index in 0..100_000 {
        writeln!(text, "- customer-numbre-{index:05}").unwrap();
    }
    let checked = checked(&[("a.yaml", &text)]);
    assert_eq!(checked.diagnostics.len(), MAX_DIAGNOSTICS + 1);
    assert!(
        checked.diagnostics[0]
            .help
            .starts_with("did you mean `customer-number-")
    );
}

#[test]
fn a_document_has_a_bounded_number_of_dns_names() {
    let hosts = |count: usize| {
        let hosts: Vec<String> = (0..count).map(|n| format!("h{n}.example.net")).collect();
        hosts.join(", ")
    };
    for (one, other, fine) in [(200, 56, true), (200, 57, false), (257, 0, false)] {
        let (one, other) = (hosts(one), hosts(other));
        for text in [
            format!("kind: Tenant\nname: t\nnetworks: {{a: [{one}], b: [{other}]}}\n"),
            format!("kind: Provider\nname: p\nsignalling: [{one}]\nmedia: [{other}]\n"),
        ] {
            let found = checked(&[("a.yaml", &text)]);
            assert_eq!(!found.has_errors(), fine, "{text}");
            let message = "257 DNS names are too many for one document";
            assert!(fine || found.diagnostics[0].message == message);
        }
    }
    // One that came in before there was a limit.
    let hosts: Vec<String> = (0..300).map(|n| format!("h{n}.example.net")).collect();
    let json = serde_json::json!({"kind": "Tenant", "name": "t", "networks": {"a": hosts}});
    let stored: Document = serde_json::from_value(json).unwrap();
    let Document::Tenant(tenant) = stored else {
        panic!()
    };
    assert_eq!(tenant.names["a"].len(), 300);
}
