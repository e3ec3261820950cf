//! Each rule fails on a small sample that breaks it, and passes one that does not.

#![allow(
    clippy::unwrap_used,
    reason = "a sample that cannot be read fails its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use voipfleet_layers::circles;
use voipfleet_layers::modules::Modules;
use voipfleet_layers::rules;

/// The modules of a crate whose files are given by path and text.
fn sample(files: &[(&str, &str)]) -> Modules {
    let files: BTreeMap<PathBuf, String> = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
        .collect();
    Modules::read(Path::new("src/lib.rs"), &|path| files.get(path).cloned()).unwrap()
}

fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let circles = circles::find(&sample(files));
    circles
        .iter()
        .map(|circle| circle.members.join(" "))
        .collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const ROOT: (&str, &str) = ("src/lib.rs", "mod a; mod b; mod c;");
const NOTHING: (&str, &str) = ("src/c.rs", "");

#[test]
fn folders_that_import_each_other_are_a_circle() {
    let files = [
        ROOT,
        ("src/a/mod.rs", "mod deep;"),
        ("src/a/deep.rs", "use crate::b::B;"),
        ("src/b.rs", "pub struct B; pub fn f() { crate::a::f() }"),
        NOTHING,
    ];
    assert_eq!(circles_of(&files), ["a b"]);
}

#[test]
fn imports_in_one_direction_are_no_circle() {
    let files = [
        ROOT,
        ("src/a/mod.rs", "mod deep;"),
        ("src/a/deep.rs", "use crate::b::B;"),
        ("src/b.rs", "use crate::c; pub struct B;"),
        NOTHING,
    ];
    assert!(circles_of(&files).is_empty());
}

#[test]
fn a_circle_by_way_of_a_third_folder_is_found() {
    let files = [
        ROOT,
        ("src/a.rs", "use super::b;"),
        ("src/b.rs", "use super::c;"),
        ("src/c.rs", "use super::a;"),
    ];
    assert_eq!(circles_of(&files), ["a b c"]);
}

#[test]
fn files_of_a_folder_that_import_each_other_are_a_circle() {
    let files = [
        ("src/lib.rs", "mod a;"),
        ("src/a/mod.rs", "mod x; mod y;"),
        ("src/a/x.rs", "use super::y::Y; pub struct X;"),
        ("src/a/y.rs", "use super::x::X; pub struct Y;"),
    ];
    assert_eq!(circles_of(&files), ["x y"]);
}

#[test]
fn a_reexport_does_not_hide_a_circle() {
    let files = [
        ("src/lib.rs", "mod a;"),
        ("src/a/mod.rs", "mod x; mod y; pub use x::X; pub use y::*;"),
        ("src/a/x.rs", "use super::Y; pub struct X;"),
        ("src/a/y.rs", "use crate::a::X; pub struct Y;"),
    ];
    assert_eq!(circles_of(&files), ["x y"]);
}

#[test]
fn a_parent_and_its_child_may_import_each_other() {
    let files = [
        ("src/lib.rs", "mod a;"),
        ("src/a/mod.rs", "mod x; pub fn f() { x::g() }"),
        ("src/a/x.rs", "pub fn g() { super::f() }"),
    ];
    assert!(circles_of(&files).is_empty());
}

#[test]
fn a_path_inside_a_macro_counts() {
    let files = [
        ROOT,
        ("src/a.rs", "fn f() { println!(\"{}\", crate::b::g()) }"),
        (
            "src/b.rs",
            "#[derive(Parser)] struct B { #[arg(value_parser = crate::a::parse)] x: u8 }",
        ),
        NOTHING,
    ];
    assert_eq!(circles_of(&files), ["a b"]);
}

#[test]
fn test_code_may_import_as_it_likes() {
    let files = [
        ROOT,
        ("src/a.rs", "use crate::b;"),
        (
            "src/b.rs",
            "#[cfg(test)] mod tests { use crate::a; }
             #[cfg(all(test, unix))] use crate::a;
             #[cfg(test)] mod more_tests;
             struct B; impl B { #[cfg(test)] fn f() { crate::a::f() } }",
        ),
        NOTHING,
    ];
    assert!(circles_of(&files).is_empty());
}

#[test]
fn a_package_above_is_refused() {
    let bad = rules::layer_violations("voipctl", &names(&["voipfleet-controller", "clap"]));
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(rules::layer_violations("voipctl", &names(&["voipfleet-policy"])).is_empty());
    assert_eq!(
        rules::layer_violations("voipctl", &names(&["voipfleet-testkit"])).len(),
        1
    );
}

#[test]
fn a_package_without_a_layer_is_refused() {
    assert_eq!(
        rules::layer_violations("voipfleet-new", &names(&[])).len(),
        1
    );
    assert!(rules::layer_violations("voipfleet-tests", &names(&["voipctl"])).is_empty());
}

#[test]
fn a_forbidden_crate_is_refused() {
    for (package, name) in [
        ("voipfleet-controller-core", "tonic"),
        ("voipfleet-controller-core", "sled"),
        ("voipfleet-ruleset", "tokio"),
        ("voipfleet-protocol", "rand"),
        ("voipfleet-store", "tonic"),
        ("voipfleet-agent", "sled"),
    ] {
        let bad = rules::crate_violations(package, &names(&["serde", name]));
        assert_eq!(bad.len(), 1, "{package} {name}: {bad:?}");
    }
    assert!(rules::crate_violations("voipfleet-controller", &names(&["tonic", "sled"])).is_empty());
}

#[test]
fn a_forbidden_path_is_refused_however_it_is_written() {
    for text in [
        "use std::fs;",
        "use std::{collections::BTreeMap, fs::File};",
        "fn f() { std::fs::read(\"x\"); }",
        "use std::net::{IpAddr, TcpStream};",
        "use std::time; fn f() { time::Instant::now(); }",
        "use std::time::SystemTime as Clock; fn f() { Clock::now(); }",
        "fn f() { assert!(jiff::Timestamp::now() > x); }",
    ] {
        let modules = sample(&[("src/lib.rs", text)]);
        let bad = rules::path_violations("voipfleet-policy", &modules.imports());
        assert!(!bad.is_empty(), "{text}");
        assert!(rules::path_violations("voipfleet-agent", &modules.imports()).is_empty());
    }
    let pure = "use std::{time::{Duration, Instant}, net::IpAddr}; use jiff::Timestamp; fn f(now: Instant) {}";
    let modules = sample(&[("src/lib.rs", pure)]);
    assert!(rules::path_violations("voipfleet-policy", &modules.imports()).is_empty());
}

#[test]
fn grpc_types_stay_in_the_folders_that_speak_it() {
    for (package, allowed) in [
        ("voipfleet-controller", "server"),
        ("voipfleet-agent", "link"),
    ] {
        for (folder, violations) in [(allowed, 0), ("push", 1)] {
            let files = [
                ("src/lib.rs".to_owned(), format!("mod {folder};")),
                (format!("src/{folder}/mod.rs"), "mod x;".to_owned()),
                (
                    format!("src/{folder}/x.rs"),
                    "use tonic::Status;".to_owned(),
                ),
            ];
            let files: Vec<(&str, &str)> = files
                .iter()
                .map(|(path, text)| (path.as_str(), text.as_str()))
                .collect();
            let bad = rules::path_violations(package, &sample(&files).imports());
            assert_eq!(bad.len(), violations, "{package} {folder}: {bad:?}");
        }
    }
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let line = "fn f() {}\n";
    assert!(rules::length_violation("x.rs", &line.repeat(rules::MAX_LINES)).is_none());
    assert!(rules::length_violation("x.rs", &line.repeat(rules::MAX_LINES + 1)).is_some());
}
