//! Links between the pages, and into the checkout.

use std::fs;

use super::{Page, pages, root};

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        for link in links(&page.text) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                root().join(&page.path)
            } else {
                root().join(&page.path).parent().unwrap().join(path)
            };
            let found = if anchor.is_empty() {
                target.exists()
            } else {
                fs::read_to_string(&target)
                    .is_ok_and(|text| anchors(&text).contains(&anchor.to_owned()))
            };
            if !found {
                broken.push(format!("{}: {link}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_readme_links_to_every_page() {
    let all = pages();
    let readme = all
        .iter()
        .find(|page| page.path.ends_with("README.md"))
        .unwrap();
    let missing: Vec<&Page> = all
        .iter()
        .filter(|page| page.path.starts_with("docs"))
        .filter(|page| !readme.text.contains(&format!("({})", page.path.display())))
        .collect();
    let missing: Vec<_> = missing.iter().map(|page| &page.path).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What is between `](` and `)`.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect()
}

/// The anchors of a page's headings, made as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}
