//! The tree of nodes, and the bounds of its parser.

use std::fmt::Write as _;

use super::super::diagnostic::{Sink, Span};
use super::super::yaml::{MAX_NODES, Parsed, Value, parse};

fn messages(text: &str) -> (Vec<Parsed<'_>>, Vec<String>) {
    let mut sink = Sink::default();
    let parsed = parse(text, &mut sink);
    let mut out = Vec::new();
    sink.finish("x.yaml", text, &mut out);
    let lines = out
        .iter()
        .map(|d| {
            let marked = &text[d.offset..d.offset + d.length];
            format!("{}:{} {marked:?} {}", d.line, d.column, d.message)
        })
        .collect();
    (parsed, lines)
}

#[test]
fn a_broken_document_keeps_its_head_and_the_next_one_is_read() {
    let (parsed, lines) =
        messages("kind: Site\nname: a\nadmins: [1, 2\nmode: x\n---\nkind: List\nname: b\n");
    assert_eq!(lines.len(), 1, "{lines:?}");
    let shapes: Vec<(bool, usize)> = parsed
        .iter()
        .map(|p| match &p.root.value {
            Value::Mapping(entries) => (p.whole, entries.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(shapes, [(false, 2), (true, 2)]);
}

#[test]
fn spans_cover_exactly_the_text() {
    let text = "a: [1,  two]\nb:\n  - x y\n  - \"q\"\nc: {d: e}\n\n\n# end\n";
    let mut sink = Sink::default();
    let parsed = parse(text, &mut sink);
    let Value::Mapping(entries) = &parsed[0].root.value else {
        panic!()
    };
    let cut = |span: Span| &text[span.start as usize..span.end as usize];
    let cuts: Vec<(&str, &str)> = entries
        .iter()
        .map(|e| (cut(e.key_span), cut(e.value.span)))
        .collect();
    assert_eq!(
        cuts,
        [
            ("a", "[1,  two]"),
            ("b", "- x y\n  - \"q\""),
            ("c", "{d: e}")
        ]
    );
    let Value::Sequence(items) = &entries[1].value.value else {
        panic!()
    };
    assert_eq!(
        items.iter().map(|n| cut(n.span)).collect::<Vec<_>>(),
        ["x y", "\"q\""]
    );
}

#[test]
fn a_bomb_is_refused_at_its_first_anchor() {
    let mut bomb = String::from("a0: &a0 [x, x]\n");
    for level in 1..64 {
        let below = level - 1;
        writeln!(bomb, "a{level}: &a{level} [*a{below}, *a{below}]").unwrap();
    }
    let (_, lines) = messages(&bomb);
    assert_eq!(
        lines,
        ["1:5 \"&a0\" YAML anchors (`&name`) and aliases (`*name`) are not allowed"]
    );
    let (_, lines) = messages("a: !!python/object x\nb: *nowhere\n");
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn depth_is_bounded_and_the_next_document_is_still_read() {
    for deep in [
        "[".repeat(1_000_000),
        "- ".repeat(1_000_000),
        "{a: ".repeat(300_000),
    ] {
        let text = format!("{deep}\n---\na: b\n");
        let (parsed, lines) = messages(&text);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("16 deep"), "{lines:?}");
        assert!(parsed.last().unwrap().whole);
    }
}

#[test]
fn the_number_of_values_is_bounded() {
    let text = "- a\n".repeat(MAX_NODES + 10);
    let (parsed, lines) = messages(&text);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("more than 500000 values"), "{lines:?}");
    assert!(!parsed[0].whole);
}

#[test]
fn keys_are_words_and_stand_once() {
    let (parsed, lines) = messages("a: 1\nb: 2\na: 3\n? [x]\n: 4\n");
    assert_eq!(
        lines,
        [
            "3:1 \"a\" `a` is given twice",
            "4:3 \"[x]\" a field's name must be a word, and this is a list"
        ]
    );
    let Value::Mapping(entries) = &parsed[0].root.value else {
        panic!()
    };
    assert_eq!(entries.len(), 3);
}
