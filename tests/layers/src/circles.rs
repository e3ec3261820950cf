//! Circles between the modules of a target.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::modules::{Import, ModulePath, Modules};

/// Child modules of one module that import each other, directly or by way of others.
#[derive(Debug)]
pub struct Circle {
    /// The module that holds them: empty for the crate's root, whose children are its folders.
    pub parent: ModulePath,
    /// Their names.
    pub members: Vec<String>,
    /// The imports between them, each with the members that it leads from and to.
    imports: Vec<Edge>,
}

#[derive(Debug, Clone)]
struct Edge {
    from: String,
    to: String,
    import: Import,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = if self.parent.is_empty() {
            String::new()
        } else {
            format!(" in {}", self.parent.join("::"))
        };
        write!(f, "circle{within}: {}", self.members.join(", "))?;
        // One import of each pair is enough to find the others.
        let mut pairs: BTreeMap<(&str, &str), Vec<&Import>> = BTreeMap::new();
        for edge in &self.imports {
            pairs
                .entry((&edge.from, &edge.to))
                .or_default()
                .push(&edge.import);
        }
        for ((from, to), imports) in pairs {
            let count = imports.len();
            let example = imports.first().map(ToString::to_string).unwrap_or_default();
            write!(f, "\n    {from} -> {to}, {count} times: {example}")?;
        }
        Ok(())
    }
}

/// Finds them at every level. A folder counts as one module, whichever of its files imports or
/// is imported. Imports between a module and one of its own descendants make no circle: parent
/// and child are one unit in two files.
pub fn find(modules: &Modules) -> Vec<Circle> {
    let mut levels: BTreeMap<ModulePath, Vec<Edge>> = BTreeMap::new();
    for import in modules.imports() {
        let Some((root, inner)) = import.path.split_first() else {
            continue;
        };
        if root != "crate" {
            continue;
        }
        let mut from_path = import.from.clone();
        from_path.truncate(modules.file_module(&import.from).len());
        let to_path = modules.file_module(inner);
        let common = from_path
            .iter()
            .zip(&to_path)
            .take_while(|(a, b)| a == b)
            .count();
        if let (Some(from), Some(to)) = (from_path.get(common), to_path.get(common)) {
            let parent = to_path.iter().take(common).cloned().collect();
            let (from, to) = (from.clone(), to.clone());
            levels
                .entry(parent)
                .or_default()
                .push(Edge { from, to, import });
        }
    }
    levels
        .into_iter()
        .flat_map(|(parent, edges)| circles_of(&parent, &edges))
        .collect()
}

fn circles_of(parent: &ModulePath, edges: &[Edge]) -> Vec<Circle> {
    let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for edge in edges {
        arrows.entry(&edge.from).or_default().insert(&edge.to);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> = arrows
        .keys()
        .map(|start| (*start, reachable(&arrows, start)))
        .collect();
    let connected = |a: &str, b: &str| reach.get(a).is_some_and(|reached| reached.contains(b));
    let mut circles: Vec<Circle> = Vec::new();
    for name in arrows.keys().filter(|name| connected(name, name)) {
        let with = |circle: &&mut Circle| {
            circle
                .members
                .iter()
                .any(|m| connected(m, name) && connected(name, m))
        };
        if let Some(circle) = circles.iter_mut().find(with) {
            circle.members.push((*name).to_owned());
        } else {
            circles.push(Circle {
                parent: parent.clone(),
                members: vec![(*name).to_owned()],
                imports: Vec::new(),
            });
        }
    }
    for circle in &mut circles {
        let inside = |name: &String| circle.members.contains(name);
        let between = edges
            .iter()
            .filter(|edge| inside(&edge.from) && inside(&edge.to));
        circle.imports = between.cloned().collect();
    }
    circles
}

/// What is reached from a name by one arrow or more.
fn reachable<'a>(arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<&str> = vec![start];
    while let Some(name) = pending.pop() {
        for next in arrows.get(name).into_iter().flatten() {
            if reached.insert(*next) {
                pending.push(next);
            }
        }
    }
    reached
}
