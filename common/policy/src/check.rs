//! Checks documents against each other and against those in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;

use super::address_space::AddressSpace;
use super::decode::{Decoded, Decoder, Scope, identity};
use super::diagnostic::{Diagnostic, Severity, Sink, Span, quoted};
use super::document::{Dated, Document, Documents, List};
use super::source::{MAX_SOURCE_BYTES, Source, is_below, named_files, normal, resolve, too_large};
use super::yaml::{self, Parsed};
use crate::Kind;

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The documents, in the order of the sources; meaningful only without errors.
    pub documents: Vec<Document>,
    /// Every mistake, in the order of the sources.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// Whether any mistake stops an apply.
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Parses every source and checks every document, against the others in `sources` and those in
/// `stored`. All mistakes in one run.
///
/// A source that a List names as its `file:` is a text of addresses; every other one is YAML.
pub fn check(sources: &[Source], stored: &Documents) -> Checked {
    let mut run = Run::new(sources);
    run.scope(stored);
    run.decode();
    run.finish()
}

/// One source with what came of it.
struct File<'s> {
    source: &'s Source,
    sink: Sink,
    parsed: Vec<Parsed<'s>>,
    /// A list's text, not YAML.
    is_list: bool,
}

struct Run<'s> {
    files: Vec<File<'s>>,
    /// Sources by their paths.
    paths: HashMap<String, usize>,
    scope: Scope,
    /// Decoded documents by source and place in it.
    documents: BTreeMap<(usize, usize), Document>,
    /// Addresses of list files that were read.
    lists: HashMap<usize, Vec<IpNet>>,
}

impl<'s> Run<'s> {
    fn new(sources: &'s [Source]) -> Self {
        let mut paths = HashMap::new();
        for (index, source) in sources.iter().enumerate() {
            paths.entry(normal(&source.path)).or_insert(index);
        }
        let mut files: Vec<File<'s>> = sources
            .iter()
            .map(|source| File {
                source,
                sink: Sink::default(),
                parsed: Vec::new(),
                is_list: false,
            })
            .collect();
        // Files that are YAML by name are read first; they name those that are lists. Of the rest,
        // one may still name another.
        let mut named = BTreeSet::new();
        for by_name in [true, false] {
            for file in &mut files {
                if file.source.is_yaml_by_name() == by_name
                    && !named.contains(&normal(&file.source.path))
                {
                    file.parse();
                    for (path, _) in named_files(&file.source.path, &file.parsed) {
                        named.insert(path);
                    }
                }
            }
        }
        for file in &mut files {
            if named.contains(&normal(&file.source.path)) {
                let within = file.source.text.len() <= MAX_SOURCE_BYTES;
                file.is_list = true;
                file.parsed = Vec::new();
                if within {
                    file.sink = Sink::default();
                } else {
                    file.too_large();
                }
            }
        }
        Self {
            files,
            paths,
            scope: Scope::default(),
            documents: BTreeMap::new(),
            lists: HashMap::new(),
        }
    }

    /// Collects the names that may be referred to, and reports documents that are defined twice.
    fn scope(&mut self, stored: &Documents) {
        let names = |scope: &mut Scope, kind: Kind, name: &str| {
            match kind {
                Kind::Tenant => scope.tenants.insert(name.to_owned()),
                Kind::Provider => scope.providers.insert(name.to_owned()),
                Kind::List => scope.lists.insert(name.to_owned()),
                Kind::Site => true,
            };
        };
        let mut first: HashMap<(Kind, String), String> = HashMap::new();
        for file in &mut self.files {
            let read_whole = file.is_list || file.source.text.len() <= MAX_SOURCE_BYTES;
            self.scope.incomplete |= !read_whole;
            for document in &file.parsed {
                let id = identity(&document.root);
                match (id.kind, id.name) {
                    (Some(kind), Some((name, span))) => {
                        names(&mut self.scope, kind, name);
                        let key = (kind, name.to_owned());
                        if let Some(path) = first.get(&key) {
                            let place = if *path == file.source.path {
                                "this file".to_owned()
                            } else {
                                path.clone()
                            };
                            file.sink.error(
                                span,
                                format!("{kind} {} is defined twice", quoted(name)),
                                "again here",
                                format!("the first is in {place}: keep one, or rename this one"),
                            );
                        } else {
                            first.insert(key, file.source.path.clone());
                        }
                    }
                    // Its kind is wrong, which is reported: references to it mean this one.
                    (None, Some((name, _))) => {
                        for kind in Kind::ALL {
                            names(&mut self.scope, kind, name);
                        }
                    }
                    (_, None) => self.scope.incomplete |= !document.whole,
                }
            }
        }
        for name in stored.tenants.keys() {
            names(&mut self.scope, Kind::Tenant, name.as_str());
        }
        for name in stored.providers.keys() {
            names(&mut self.scope, Kind::Provider, name.as_str());
        }
        for (name, list) in &stored.lists {
            names(&mut self.scope, Kind::List, name.as_str());
            let replaced = first.contains_key(&(Kind::List, name.to_string()));
            if !replaced && is_wide(list) {
                self.scope.wide_lists.insert(name.to_string());
            }
        }
    }

    /// Decodes every document; lists before the sites that open something to them.
    fn decode(&mut self) {
        for sites in [false, true] {
            for index in 0..self.files.len() {
                for (place, Decoded { document, file }) in self.decode_file(index, sites) {
                    let document = match document {
                        Document::List(list) => Document::List(self.list(index, list, file)),
                        other => other,
                    };
                    self.documents.insert((index, place), document);
                }
            }
        }
    }

    /// Decodes the sites of a source, or all but the sites.
    fn decode_file(&mut self, index: usize, sites: bool) -> Vec<(usize, Decoded)> {
        let Some(file) = self.files.get_mut(index) else {
            return Vec::new();
        };
        let mut decoder = Decoder {
            sink: &mut file.sink,
            scope: Some(&self.scope),
        };
        file.parsed
            .iter()
            .enumerate()
            .filter(|(_, document)| {
                document.whole && (identity(&document.root).kind == Some(Kind::Site)) == sites
            })
            .filter_map(|(place, document)| Some((place, decoder.document(&document.root)?)))
            .collect()
    }

    /// A list with the addresses of its file.
    fn list(&mut self, index: usize, mut list: List, file: Option<(String, Span)>) -> List {
        if let Some((name, span)) = file {
            list.extend(self.list_file(index, &name, span), Dated::default());
        }
        if is_wide(&list) {
            self.scope.wide_lists.insert(list.name.to_string());
        }
        list
    }

    /// The addresses of the file that a list of source `index` names.
    fn list_file(&mut self, index: usize, name: &str, span: Span) -> Vec<IpNet> {
        let Some(file) = self.files.get_mut(index) else {
            return Vec::new();
        };
        let path = resolve(&file.source.path, name);
        if !is_below(&file.source.path, &path) {
            file.sink.error(
                span,
                format!(
                    "the file {} is outside of this document's folder",
                    quoted(name)
                ),
                "not read",
                "move it into the document's folder, or into one below it",
            );
            return Vec::new();
        }
        let Some(&target) = self.paths.get(&path) else {
            file.sink.error(
                span,
                format!("the file {} is not here", quoted(name)),
                "unknown file",
                format!("no such source: {path}; pass it along with this document"),
            );
            return Vec::new();
        };
        if let Some(addresses) = self.lists.get(&target) {
            return addresses.clone();
        }
        let Some(file) = self.files.get_mut(target) else {
            return Vec::new();
        };
        if file.source.text.len() > MAX_SOURCE_BYTES {
            return Vec::new();
        }
        let addresses = Decoder {
            sink: &mut file.sink,
            scope: Some(&self.scope),
        }
        .list_file(&file.source.text);
        self.lists.insert(target, addresses.clone());
        addresses
    }

    fn finish(self) -> Checked {
        let mut diagnostics = Vec::new();
        for mut file in self.files {
            if !file.is_list && file.parsed.is_empty() && file.sink.errors() == 0 {
                file.sink.warning(
                    Span::default(),
                    "this file holds no document",
                    "",
                    "start one with `kind: Site`, `kind: Tenant`, `kind: Provider` or `kind: List`",
                );
            }
            file.sink
                .finish(&file.source.path, &file.source.text, &mut diagnostics);
        }
        Checked {
            documents: self.documents.into_values().collect(),
            diagnostics,
        }
    }
}

/// Whether opening something to a list is as good as opening it to the world.
fn is_wide(list: &List) -> bool {
    AddressSpace::of(list.nets()).is_wide()
}

impl File<'_> {
    fn parse(&mut self) {
        if self.source.text.len() > MAX_SOURCE_BYTES {
            self.too_large();
        } else {
            self.parsed = yaml::parse(&self.source.text, &mut self.sink);
        }
    }

    fn too_large(&mut self) {
        let (message, help) = too_large(self.source.text.len());
        self.sink = Sink::default();
        self.sink.error(Span::default(), message, "", help);
    }
}
