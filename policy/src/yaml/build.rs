//! From the parser's events to documents.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value};

use super::{Document, LineMap, SyntaxError, scalar};
use crate::limits;

/// A finished value: what it says, where, and how much it is.
#[derive(Clone)]
struct Node {
    value: Value,
    lines: LineMap,
    size: Size,
}

/// How many values something holds, itself included, and how many bytes their strings and keys have.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Size {
    /// A value of its own, without what is in it.
    const fn of(text: &str) -> Self {
        Self { nodes: 1, bytes: text.len() }
    }

    fn add(&mut self, more: Self) {
        self.nodes = self.nodes.saturating_add(more.nodes);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// A list or map that is not finished.
struct Open {
    anchor: usize,
    line: u32,
    size: Size,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Value>, Vec<LineMap>),
    Map { values: Map<String, Value>, lines: BTreeMap<String, LineMap>, merged: Vec<Node>, key: Option<Key> },
}

struct Key {
    text: String,
    line: u32,
    merge: bool,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    total: Size,
    done: Vec<Document>,
}

pub(super) fn documents(text: &str) -> Result<Vec<Document>, SyntaxError> {
    if text.len() > limits::TEXT_BYTES {
        return Err(error(
            1,
            format!("{} bytes of text; at most {} are taken", text.len(), limits::TEXT_BYTES),
        ));
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| error(line_number(e.marker().line()), e.info().to_owned()))?;
        builder.event(event, line_number(span.start.line()))?;
    }
    Ok(builder.done)
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

fn error(line: u32, message: impl Into<String>) -> SyntaxError {
    SyntaxError { line, message: message.into() }
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: u32) -> Result<(), SyntaxError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor);
                let node =
                    node.cloned().ok_or_else(|| error(line, "an alias to a value that is not finished"))?;
                self.count(node.size, line)?;
                self.finished(node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, anchor, tag.as_deref(), line)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_ref(), "seq", line)?;
                self.start(anchor, line, OpenKind::List(Vec::new(), Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_ref(), "map", line)?;
                let (values, lines) = (Map::new(), BTreeMap::new());
                self.start(anchor, line, OpenKind::Map { values, lines, merged: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(line),
        }
    }

    fn count(&mut self, more: Size, line: u32) -> Result<(), SyntaxError> {
        self.total.add(more);
        if self.total.nodes > limits::NODES {
            return Err(error(line, format!("more than {} values, aliases expanded", limits::NODES)));
        }
        if self.total.bytes > limits::EXPANDED_BYTES {
            let most = limits::EXPANDED_BYTES;
            return Err(error(line, format!("more than {most} bytes of text, aliases expanded")));
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        line: u32,
    ) -> Result<(), SyntaxError> {
        let expects_key = self.expects_key();
        if expects_key {
            return self.key(text, style, line);
        }
        let value = match tag {
            Some(tag) if tag.is_yaml_core_schema() => scalar::tagged(&tag.suffix, text),
            Some(tag) if tag.suffix.is_empty() => Ok(Value::String(text.to_owned())),
            Some(tag) => Err(format!("the tag {tag} is not supported")),
            None if style == ScalarStyle::Plain => scalar::plain(text),
            None => Ok(Value::String(text.to_owned())),
        };
        let value = value.map_err(|message| error(line, message))?;
        let size = Size::of(text);
        self.count(size, line)?;
        self.finished(Node { value, lines: LineMap::leaf(line), size }, anchor)
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { kind: OpenKind::Map { key: None, .. }, .. }))
    }

    fn key(&mut self, text: &str, style: ScalarStyle, line: u32) -> Result<(), SyntaxError> {
        if let Some(Open { kind: OpenKind::Map { key, values, .. }, size: open, .. }) = self.open.last_mut() {
            if values.contains_key(text) {
                return Err(error(line, format!("the key {text:?} is given twice")));
            }
            let merge = text == "<<" && style == ScalarStyle::Plain;
            *key = Some(Key { text: text.to_owned(), line, merge });
            let size = Size { nodes: 0, bytes: text.len() };
            open.add(size);
            self.count(size, line)?;
        }
        Ok(())
    }

    fn start(&mut self, anchor: usize, line: u32, kind: OpenKind) -> Result<(), SyntaxError> {
        if self.expects_key() {
            return Err(error(line, "a key must be a string"));
        }
        if self.open.len() >= limits::DEPTH {
            return Err(error(line, format!("nested more than {} deep", limits::DEPTH)));
        }
        let size = Size::of("");
        self.count(size, line)?;
        self.open.push(Open { anchor, line, size, kind });
        Ok(())
    }

    fn end(&mut self, line: u32) -> Result<(), SyntaxError> {
        let Some(open) = self.open.pop() else {
            return Err(error(line, "the end of something that was not begun"));
        };
        let (anchor, size) = (open.anchor, open.size);
        let (value, lines) = match open.kind {
            OpenKind::List(values, lines) => (Value::Array(values), LineMap::items(open.line, lines)),
            OpenKind::Map { values, lines, merged, .. } => merge(values, lines, merged, open.line),
        };
        self.finished(Node { value, lines, size }, anchor)
    }

    /// Puts a finished value where it belongs.
    fn finished(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            self.count(node.size, node.lines.line().unwrap_or(1))?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            if !node.value.is_null() {
                self.done.push(Document { value: node.value, lines: node.lines });
            }
            return Ok(());
        };
        open.size.add(node.size);
        match &mut open.kind {
            OpenKind::List(values, lines) => {
                values.push(node.value);
                lines.push(node.lines);
                Ok(())
            }
            OpenKind::Map { values, lines, merged, key } => {
                let key = key.take().ok_or_else(|| error(open.line, "a key must be a string"))?;
                if key.merge {
                    return push_merged(merged, node, key.line);
                }
                lines.insert(key.text.clone(), at_key(node.lines, key.line));
                values.insert(key.text, node.value);
                Ok(())
            }
        }
    }
}

/// A field stands where its key does.
fn at_key(mut lines: LineMap, line: u32) -> LineMap {
    lines.move_to(line);
    lines
}

fn push_merged(merged: &mut Vec<Node>, node: Node, line: u32) -> Result<(), SyntaxError> {
    match node.value {
        Value::Object(_) => merged.push(node),
        Value::Array(values) if values.iter().all(Value::is_object) => {
            for (index, value) in values.into_iter().enumerate() {
                let lines = node.lines.item(index).cloned().unwrap_or_default();
                merged.push(Node { value, lines, size: Size::default() });
            }
        }
        _ => return Err(error(line, "`<<` merges maps only")),
    }
    Ok(())
}

/// Adds the merged maps' fields that the map itself, or an earlier one of them, does not have.
fn merge(
    mut values: Map<String, Value>,
    mut lines: BTreeMap<String, LineMap>,
    merged: Vec<Node>,
    line: u32,
) -> (Value, LineMap) {
    for node in merged {
        let Value::Object(fields) = node.value else { continue };
        for (key, value) in fields {
            if !values.contains_key(&key) {
                lines.insert(key.clone(), node.lines.field(&key).cloned().unwrap_or_default());
                values.insert(key, value);
            }
        }
    }
    (Value::Object(values), LineMap::fields(line, lines))
}

fn check_tag(tag: Option<&Cow<'_, Tag>>, expected: &str, line: u32) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == expected) => {
            Err(error(line, format!("the tag {tag} is not supported")))
        }
        _ => Ok(()),
    }
}
