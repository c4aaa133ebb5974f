//! Reading a document's fields: where one is, what it must be, and what is wrong with it otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::limits;
use crate::yaml::{Document, LineMap};

/// What is wrong with a document: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{path}: {message}{}", line_prefix(*line), hint_suffix(hint))]
pub struct DocumentError {
    /// The field, as in `spec.ingress[0].fromEndpoints`; empty for the document as such.
    pub path: String,
    /// Its line in the text, from 1, where the document came from text.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

fn line_prefix(line: Option<u32>) -> String {
    line.map_or_else(String::new, |line| format!("line {line}: "))
}

fn hint_suffix(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!(" ({hint})") }
}

pub(crate) type Result<T> = std::result::Result<T, DocumentError>;

/// A field of a document.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) value: &'a Value,
    lines: Option<&'a LineMap>,
    path: String,
    /// Line of the nearest thing around it that has one.
    line: Option<u32>,
}

/// A field that is a map, with the keys that were asked for.
pub(crate) struct Object<'a> {
    field: Field<'a>,
    map: &'a Map<String, Value>,
    seen: BTreeSet<&'static str>,
}

impl<'a> Field<'a> {
    pub(crate) fn root(document: &'a Document) -> Self {
        let lines = Some(&document.lines);
        Self { value: &document.value, lines, path: String::new(), line: document.lines.line() }
    }

    pub(crate) fn line(&self) -> Option<u32> {
        self.line
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// An error at this field.
    pub(crate) fn error(&self, message: impl Into<String>, hint: impl Into<String>) -> DocumentError {
        DocumentError { path: self.path.clone(), line: self.line, message: message.into(), hint: hint.into() }
    }

    fn wrong_type(&self, expected: &str) -> DocumentError {
        let found = match self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(_) | Value::Number(_) => format!("`{}`", self.value),
            Value::String(_) => "a string".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "a map".to_owned(),
        };
        let scalar = matches!(self.value, Value::Bool(_) | Value::Number(_));
        let hint = if scalar && expected == "a string" { "put it in quotes" } else { "" };
        self.error(format!("must be {expected}, not {found}"), hint)
    }

    fn inner(&self, path: String, value: &'a Value, lines: Option<&'a LineMap>) -> Self {
        let line = lines.and_then(LineMap::line).or(self.line);
        Self { value, lines, path, line }
    }

    fn key(&self, key: &str, value: &'a Value) -> Self {
        let lines = self.lines.and_then(|lines| lines.field(key));
        self.inner(join(&self.path, key), value, lines)
    }

    pub(crate) fn object(&self) -> Result<Object<'a>> {
        let Value::Object(map) = self.value else { return Err(self.wrong_type("a map")) };
        Ok(Object { field: self.clone(), map, seen: BTreeSet::new() })
    }

    pub(crate) fn items(&self) -> Result<Vec<Field<'a>>> {
        let Value::Array(items) = self.value else { return Err(self.wrong_type("a list")) };
        let item = |(index, value)| {
            let lines = self.lines.and_then(|lines| lines.item(index));
            self.inner(format!("{}[{index}]", self.path), value, lines)
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(crate) fn string(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    pub(crate) fn bool(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&self, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        let outside =
            || self.wrong_type(&format!("a whole number from {} to {}", range.start(), range.end()));
        self.value.as_u64().filter(|number| range.contains(number)).ok_or_else(outside)
    }

    pub(crate) fn strings(&self) -> Result<Vec<String>> {
        self.items()?.iter().map(|item| item.string().map(str::to_owned)).collect()
    }

    /// A map of strings.
    pub(crate) fn string_map(&self) -> Result<BTreeMap<String, String>> {
        let entries = self.object()?.entries();
        entries.into_iter().map(|(key, value)| Ok((key.to_owned(), value.string()?.to_owned()))).collect()
    }

    pub(crate) fn parsed<T: std::str::FromStr>(&self, what: &str) -> Result<T>
    where
        T::Err: fmt::Display,
    {
        let text = self.string()?;
        text.parse().map_err(|error| self.error(format!("{text:?} is not {what}: {error}"), ""))
    }

    /// A name of an object: lower-case letters, digits, `-` and `.` only, so that it is safe in a path, too.
    pub(crate) fn name(&self) -> Result<&'a str> {
        let name = self.string()?;
        let edges = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let good = name.len() <= limits::NAME_BYTES
            && edges(name.chars().next())
            && edges(name.chars().next_back())
            && name.chars().all(inside)
            && !name.contains("..");
        if good {
            return Ok(name);
        }
        let hint = "lower-case letters, digits, `-` and `.`, at most 253, a letter or digit first and last";
        Err(self.error("is not a valid name", hint))
    }
}

impl<'a> Object<'a> {
    /// The field `key`; a null counts as absent, as in the API server.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.seen.insert(key);
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(self.field.key(key, value))
    }

    pub(crate) fn required(&mut self, key: &'static str) -> Result<Field<'a>> {
        let missing = self.field.error(format!("`{key}` is missing"), "");
        self.get(key).ok_or(missing)
    }

    /// The map at `key`, if it is there.
    pub(crate) fn object(&mut self, key: &'static str) -> Result<Option<Object<'a>>> {
        self.get(key).map(|field| field.object()).transpose()
    }

    pub(crate) fn field(&self) -> &Field<'a> {
        &self.field
    }

    /// Every field that is not null.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Field<'a>)> {
        let filled = self.map.iter().filter(|(_, value)| !value.is_null());
        filled.map(|(key, value)| (key.as_str(), self.field.key(key, value))).collect()
    }

    /// Refuses every field that was not asked for; `unsupported` says of known ones what to do instead.
    pub(crate) fn finish(self, unsupported: &[(&str, &str)]) -> Result<()> {
        let Some((key, field)) = self.entries().into_iter().find(|(key, _)| !self.seen.contains(key)) else {
            return Ok(());
        };
        match unsupported.iter().find(|(known, _)| *known == key) {
            Some((_, hint)) => Err(field.error("is not enforced yet, so the document is refused", *hint)),
            None => Err(field.error("is not a known field", known_fields(&self.seen))),
        }
    }
}

fn known_fields(seen: &BTreeSet<&'static str>) -> String {
    let names: Vec<&str> = seen.iter().copied().collect();
    format!("known here: {}", names.join(", "))
}

fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[\"{key}\"]"),
    }
}
