//! What one source file imports and declares.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// The path of a module below its crate's root: empty for the root itself.
pub type ModulePath = Vec<String>;

/// A module that has a file of its own: `mod name;`.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub(crate) name: String,
    /// Of a `#[path]` attribute.
    pub(crate) path: Option<String>,
}

/// What one module holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Whether it has no file of its own.
    pub(crate) is_inline: bool,
    /// Every path in its code, as written.
    pub(crate) paths: BTreeSet<Vec<String>>,
    /// Names that `use` brings in, with their paths as written.
    pub(crate) names: BTreeMap<String, Vec<String>>,
    /// Paths of `use path::*`.
    pub(crate) globs: Vec<Vec<String>>,
    /// Names of the items that are defined here.
    pub(crate) items: BTreeSet<String>,
    /// Child modules in files of their own.
    pub(crate) files: Vec<Declared>,
}

/// The modules of a file, itself first, without those that are only for tests.
pub(crate) fn collect(file: &syn::File, path: &[String]) -> Vec<(ModulePath, Contents)> {
    let mut collector = Collector {
        done: Vec::new(),
        open: vec![(path.to_vec(), Contents::default())],
    };
    collector.visit_file(file);
    collector.done.append(&mut collector.open);
    collector.done
}

struct Collector {
    done: Vec<(ModulePath, Contents)>,
    /// The module that is being read, inside those that enclose it.
    open: Vec<(ModulePath, Contents)>,
}

impl Collector {
    fn add_path(&mut self, path: Vec<String>) {
        if let Some((_, contents)) = self.open.last_mut() {
            contents.paths.insert(path);
        }
    }

    fn add_use(&mut self, prefix: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(part) => {
                prefix.push(part.ident.to_string());
                self.add_use(prefix, &part.tree);
                prefix.pop();
            }
            UseTree::Name(part) => self.add_name(prefix, &part.ident, &part.ident),
            UseTree::Rename(part) => self.add_name(prefix, &part.ident, &part.rename),
            UseTree::Glob(_) => {
                self.add_path(prefix.clone());
                if let Some((_, contents)) = self.open.last_mut() {
                    contents.globs.push(prefix.clone());
                }
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(prefix, tree);
                }
            }
        }
    }

    fn add_name(&mut self, prefix: &[String], imported: &syn::Ident, local: &syn::Ident) {
        let mut path = prefix.to_vec();
        let mut local = local.to_string();
        if imported == "self" {
            if local == "self" {
                local = path.last().cloned().unwrap_or_default();
            }
        } else {
            path.push(imported.to_string());
        }
        self.add_path(path.clone());
        if let Some((_, contents)) = self.open.last_mut() {
            contents.names.insert(local, path);
        }
    }

    /// Paths in a macro's arguments, which have no syntax yet.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end_path(&mut path);
                    colons = 0;
                    self.scan(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.end_path(&mut path);
                    colons = 0;
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.add_path(path);
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        if let (Some(name), Some((_, contents))) = (name(item), self.open.last_mut()) {
            contents.items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if item.content.is_none() {
            let path = item.attrs.iter().find_map(path_attribute);
            if let Some((_, contents)) = self.open.last_mut() {
                contents.files.push(Declared { name, path });
            }
            return;
        }
        let mut path = self
            .open
            .last()
            .map(|(path, _)| path.clone())
            .unwrap_or_default();
        path.push(name);
        let contents = Contents {
            is_inline: true,
            ..Contents::default()
        };
        self.open.push((path, contents));
        visit::visit_item_mod(self, item);
        self.done.extend(self.open.pop());
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&mut Vec::new(), &item.tree);
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add_path(
            path.segments
                .iter()
                .map(|part| part.ident.to_string())
                .collect(),
        );
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.scan(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
    }
}

/// `#[cfg(test)]`, alone or with further conditions that must hold too, and `#[test]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("test") {
            return true;
        }
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident("cfg") && requires_test(list.tokens.clone())
    })
}

fn requires_test(condition: TokenStream) -> bool {
    let mut tokens = condition.into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(word)), None) => word == "test",
        (Some(TokenTree::Ident(word)), Some(TokenTree::Group(group))) if word == "all" => {
            let mut part = TokenStream::new();
            let mut parts = Vec::new();
            for token in group.stream() {
                if matches!(&token, TokenTree::Punct(comma) if comma.as_char() == ',') {
                    parts.push(std::mem::take(&mut part));
                } else {
                    part.extend([token]);
                }
            }
            parts.push(part);
            parts.into_iter().any(requires_test)
        }
        _ => false,
    }
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    let syn::Expr::Lit(literal) = &pair.value else {
        return None;
    };
    match &literal.lit {
        syn::Lit::Str(text) if pair.path.is_ident("path") => Some(text.value()),
        _ => None,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
