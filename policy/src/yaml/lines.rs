//! The line of every field of a document.

use std::collections::BTreeMap;

/// The lines of a value and of what it holds; the same shape as the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineMap {
    line: u32,
    inside: Inside,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Nothing,
    Fields(BTreeMap<String, LineMap>),
    Items(Vec<LineMap>),
}

impl LineMap {
    pub(super) fn leaf(line: u32) -> Self {
        Self { line, inside: Inside::Nothing }
    }

    pub(super) fn fields(line: u32, fields: BTreeMap<String, Self>) -> Self {
        Self { line, inside: Inside::Fields(fields) }
    }

    pub(super) fn items(line: u32, items: Vec<Self>) -> Self {
        Self { line, inside: Inside::Items(items) }
    }

    pub(super) fn move_to(&mut self, line: u32) {
        self.line = line;
    }

    /// Line of the value itself, from 1; nothing where the document did not come from text.
    #[must_use]
    pub fn line(&self) -> Option<u32> {
        (self.line != 0).then_some(self.line)
    }

    /// The field `key` of a map.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Self> {
        match &self.inside {
            Inside::Fields(fields) => fields.get(key),
            Inside::Items(_) | Inside::Nothing => None,
        }
    }

    /// Item `index` of a list.
    #[must_use]
    pub fn item(&self, index: usize) -> Option<&Self> {
        match &self.inside {
            Inside::Items(items) => items.get(index),
            Inside::Fields(_) | Inside::Nothing => None,
        }
    }

    /// Line of the field at `path`, as in `spec.ingress[0].fromEndpoints` (keys with other characters are written
    /// `["a.b/c"]`), or of the nearest thing around it that is there.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<u32> {
        let mut here = self;
        let mut rest = path;
        while let Some((step, after)) = next_step(rest) {
            let inner = match step {
                Step::Key(key) => here.field(key),
                Step::Index(index) => here.item(index),
            };
            let Some(inner) = inner else { break };
            here = inner;
            rest = after;
        }
        here.line()
    }

    /// Takes the items of the list at `key` out of a map.
    pub(super) fn take_items(&mut self, key: &str) -> Vec<Self> {
        let Inside::Fields(fields) = &mut self.inside else { return Vec::new() };
        match fields.remove(key).map(|list| list.inside) {
            Some(Inside::Items(items)) => items,
            _ => Vec::new(),
        }
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn next_step(path: &str) -> Option<(Step<'_>, &str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some(rest) = path.strip_prefix("[\"") {
        let (key, rest) = rest.split_once("\"]")?;
        return Some((Step::Key(key), rest));
    }
    if let Some(rest) = path.strip_prefix('[') {
        let (index, rest) = rest.split_once(']')?;
        return Some((Step::Index(index.parse().ok()?), rest));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (key, rest) = path.split_at(end);
    (!key.is_empty()).then_some((Step::Key(key), rest))
}
