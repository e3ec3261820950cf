//! YAML text to a small tree of nodes with their places in the text.
//!
//! Bounded: no recursion, at most [`MAX_DEPTH`] levels and [`MAX_NODES`] nodes, and neither
//! anchors nor aliases nor tags, so that nothing in a document can grow.

use std::borrow::Cow;
use std::collections::HashSet;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError};

use super::diagnostic::{Sink, Span, quoted};

/// The deepest nesting of lists and mappings in a document.
pub const MAX_DEPTH: usize = 16;
/// The most scalars, lists and mappings in a source.
pub const MAX_NODES: usize = 500_000;

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Node<'s> {
    pub(super) span: Span,
    pub(super) value: Value<'s>,
}

#[derive(Debug, Clone)]
pub(super) enum Value<'s> {
    Scalar {
        text: Cow<'s, str>,
        plain: bool,
    },
    Sequence(Vec<Node<'s>>),
    Mapping(Vec<Entry<'s>>),
    /// Something whose mistake is already reported.
    Refused,
}

#[derive(Debug, Clone)]
pub(super) struct Entry<'s> {
    pub(super) key: Cow<'s, str>,
    pub(super) key_span: Span,
    pub(super) value: Node<'s>,
}

/// One YAML document of a source.
#[derive(Debug)]
pub(super) struct Parsed<'s> {
    pub(super) root: Node<'s>,
    /// Whether all of it could be read. Otherwise `root` holds the part before the mistake.
    pub(super) whole: bool,
}

impl Node<'_> {
    /// Whether nothing is written: `key:`, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(
            &self.value,
            Value::Scalar { text, plain: true } if matches!(text.as_ref(), "" | "~" | "null")
        )
    }

    /// What it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Refused => "something else",
        }
    }
}

/// Every document of `text`; empty ones are left out.
pub(super) fn parse<'s>(text: &'s str, sink: &mut Sink) -> Vec<Parsed<'s>> {
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    loop {
        let stop = match parser.next_event() {
            None => break,
            Some(Ok((event, span))) => {
                let range = span.byte_range().unwrap_or_default();
                let place = Place {
                    node: Span::new(range.start, range.end),
                    tag: span
                        .tag_span()
                        .and_then(|tag| tag.byte_range())
                        .map(|tag| Span::new(tag.start, tag.end)),
                };
                builder.event(event, &place, sink, &mut documents)
            }
            Some(Err(error)) => {
                syntax_error(text, &error, sink);
                Err(Stop::Document)
            }
        };
        match stop {
            Ok(()) => {}
            Err(Stop::Source) => {
                documents.extend(builder.abandon());
                break;
            }
            Err(Stop::Document) => {
                documents.extend(builder.abandon());
                match parser.proceed_next_document() {
                    Ok(true) => {}
                    Ok(false) | Err(_) => break,
                }
            }
        }
    }
    documents
}

/// The place of an event.
struct Place {
    node: Span,
    tag: Option<Span>,
}

/// Why reading does not go on.
enum Stop {
    /// The next document may be read.
    Document,
    /// Nothing more may be read.
    Source,
}

enum Frame<'s> {
    Sequence {
        start: Span,
        items: Vec<Node<'s>>,
    },
    Mapping {
        start: Span,
        entries: Vec<Entry<'s>>,
        key: Option<(Cow<'s, str>, Span)>,
    },
}

#[derive(Default)]
struct Builder<'s> {
    frames: Vec<Frame<'s>>,
    root: Option<Node<'s>>,
    nodes: usize,
    /// Anchors and tags are reported once a document: a bomb is full of them.
    anchors_told: bool,
    tags_told: bool,
}

impl<'s> Builder<'s> {
    fn event(
        &mut self,
        event: Event<'s>,
        place: &Place,
        sink: &mut Sink,
        documents: &mut Vec<Parsed<'s>>,
    ) -> Result<(), Stop> {
        if let Some(tag) = place.tag {
            self.refuse_tag(tag, sink);
        }
        let span = place.node;
        match event {
            Event::Scalar(text, style, ..) => {
                self.count(span, sink)?;
                let plain = style == ScalarStyle::Plain;
                self.put(
                    Node {
                        span,
                        value: Value::Scalar { text, plain },
                    },
                    sink,
                );
            }
            Event::SequenceStart(..) => {
                self.open(span, sink)?;
                let items = Vec::new();
                self.frames.push(Frame::Sequence { start: span, items });
            }
            Event::MappingStart(..) => {
                self.open(span, sink)?;
                self.frames.push(Frame::Mapping {
                    start: span,
                    entries: Vec::new(),
                    key: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.frames.pop() {
                    let node = frame.close(span, sink);
                    self.put(node, sink);
                }
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.refuse_anchor(span, sink);
                let value = Value::Refused;
                self.put(Node { span, value }, sink);
            }
            Event::Anchor(..) => self.refuse_anchor(span, sink),
            Event::DocumentStart(..) => {
                self.anchors_told = false;
                self.tags_told = false;
            }
            Event::DocumentEnd => {
                if let Some(root) = self.root.take().filter(|root| !root.is_null()) {
                    documents.push(Parsed { root, whole: true });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, span: Span, sink: &mut Sink) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        sink.error(
            span.part(0, 1),
            format!("this file holds more than {MAX_NODES} values"),
            "the rest is not read",
            "split it into several files, or put a long list into a text file and name it with \
             `file:`",
        );
        Err(Stop::Source)
    }

    fn open(&mut self, span: Span, sink: &mut Sink) -> Result<(), Stop> {
        self.count(span, sink)?;
        if self.frames.len() < MAX_DEPTH {
            return Ok(());
        }
        too_deep(span.part(0, 1), sink);
        Err(Stop::Document)
    }

    /// Puts a finished node where it belongs.
    fn put(&mut self, node: Node<'s>, sink: &mut Sink) {
        match self.frames.last_mut() {
            None => self.root = Some(node),
            Some(Frame::Sequence { items, .. }) => items.push(node),
            Some(Frame::Mapping { entries, key, .. }) => {
                if let Some((key, key_span)) = key.take() {
                    entries.push(Entry {
                        key,
                        key_span,
                        value: node,
                    });
                } else {
                    let span = node.span;
                    *key = Some((key_text(node, sink), span));
                }
            }
        }
    }

    fn refuse_anchor(&mut self, span: Span, sink: &mut Sink) {
        if !std::mem::replace(&mut self.anchors_told, true) {
            sink.error(
                span,
                "YAML anchors (`&name`) and aliases (`*name`) are not allowed",
                "",
                "write the value out where it is needed; for addresses that are used in several \
                 places make a List and name it as `list:NAME`",
            );
        }
    }

    fn refuse_tag(&mut self, span: Span, sink: &mut Sink) {
        if !std::mem::replace(&mut self.tags_told, true) {
            sink.error(
                span,
                "YAML tags (`!name`) are not allowed",
                "",
                "remove the tag; put a text that starts with `!` into quotes",
            );
        }
    }

    /// The part before a mistake that ends a document.
    fn abandon(&mut self) -> Option<Parsed<'s>> {
        let mut sink = Sink::default();
        let root = if self.frames.is_empty() {
            self.root.take()
        } else {
            let frame = self.frames.swap_remove(0);
            self.frames.clear();
            self.root = None;
            Some(frame.close(Span::default(), &mut sink))
        }?;
        Some(Parsed { root, whole: false })
    }
}

fn key_text<'s>(node: Node<'s>, sink: &mut Sink) -> Cow<'s, str> {
    match node.value {
        Value::Scalar { text, .. } => text,
        Value::Refused => Cow::Borrowed(""),
        Value::Sequence(_) | Value::Mapping(_) => {
            sink.error(
                node.span,
                format!("a field's name must be a word, and this is {}", node.what()),
                "",
                "write `name: value`",
            );
            Cow::Borrowed("")
        }
    }
}

impl<'s> Frame<'s> {
    fn close(self, end: Span, sink: &mut Sink) -> Node<'s> {
        match self {
            Frame::Sequence { start, items } => {
                let last = items.last().map(|node| node.span);
                Node {
                    span: collection_span(start, last, end),
                    value: Value::Sequence(items),
                }
            }
            Frame::Mapping { start, entries, .. } => {
                let last = entries
                    .last()
                    .map(|entry| later(entry.key_span, entry.value.span));
                Node {
                    span: collection_span(start, last, end),
                    value: Value::Mapping(distinct(entries, sink)),
                }
            }
        }
    }
}

/// From the first character to the last. The end of a block collection is empty and on a later
/// line, so that the end of its last child is taken.
fn collection_span(start: Span, last: Option<Span>, end: Span) -> Span {
    let end = if end.len() > 0 {
        end.end
    } else {
        last.map_or(start.end, |last| last.end)
    };
    Span {
        start: start.start,
        end: end.max(start.start),
    }
}

fn later(a: Span, b: Span) -> Span {
    if b.end > a.end { b } else { a }
}

/// The entries without those whose key came before.
fn distinct<'s>(entries: Vec<Entry<'s>>, sink: &mut Sink) -> Vec<Entry<'s>> {
    let mut seen: HashSet<Cow<'s, str>> = HashSet::with_capacity(entries.len());
    entries
        .into_iter()
        .filter(|entry| {
            // An empty key is one whose mistake is already reported.
            let new = entry.key.is_empty() || seen.insert(entry.key.clone());
            if !new {
                sink.error(
                    entry.key_span,
                    format!("{} is given twice", quoted(&entry.key)),
                    "again here",
                    "keep one of the two; a list takes several values: `[a, b]`",
                );
            }
            new
        })
        .collect()
}

fn too_deep(span: Span, sink: &mut Sink) {
    sink.error(
        span,
        format!("lists and mappings are nested more than {MAX_DEPTH} deep"),
        "too deep",
        "no document needs more than 6 levels: check for brackets or indentation that are never \
         closed",
    );
}

fn syntax_error(text: &str, error: &ScanError, sink: &mut Sink) {
    let start = error.marker().byte_offset().unwrap_or_default();
    let start = start.min(text.len());
    let length = text
        .get(start..)
        .and_then(|rest| rest.chars().next())
        .filter(|c| *c != '\n')
        .map_or(0, char::len_utf8);
    let span = Span::new(start, start + length);
    let help = match error.kind() {
        // The scanner looks ahead, and may meet the depth before our count does.
        ErrorKind::RecursionLimitExceeded => return too_deep(span, sink),
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation => "indent with spaces",
        ErrorKind::UnclosedQuotedScalar => "close the quotes on the same line",
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::MismatchedFlowCollectionEnd { .. }
        | ErrorKind::MisplacedFlowCollectionEnd => "every `[` needs its `]`, every `{` its `}`",
        _ => "check indentation, quotes and brackets up to here; put an IPv6 address into quotes",
    };
    sink.error(
        span,
        format!("this is not YAML: {}", error.kind()),
        "reading stopped here",
        help,
    );
}
