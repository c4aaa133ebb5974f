//! YAML text in, JSON values and the lines they stand at out.
//!
//! The dialect is the one `kubectl` applies: scalars resolve as in YAML 1.1's common part (`yes` is a boolean),
//! merge keys (`<<`) work, a key given twice is an error. JSON is a subset. Text, depth and the expansion of
//! aliases are bounded ([`crate::limits`]), and no input panics.

mod build;
mod lines;
mod scalar;

pub use lines::LineMap;

use serde_json::Value;

/// One document of a text, or one item of a `List`.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// Where each of its fields stands; empty for a document that did not come from text.
    pub lines: LineMap,
}

/// Why a text is not YAML, or more of it than is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct SyntaxError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

/// Reads every document of `text`; empty ones are left out, `kind: List` is replaced by its items.
///
/// # Errors
/// The first thing that is not YAML, or beyond a limit; then nothing of the text counts.
pub fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let documents = build::documents(text)?;
    Ok(documents.into_iter().flat_map(Document::items).collect())
}

impl Document {
    /// A document without lines, as it comes from an API server.
    #[must_use]
    pub fn from_value(value: Value) -> Self {
        Self { value, lines: LineMap::default() }
    }

    /// `apiVersion`, or nothing.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.string(&["apiVersion"])
    }

    /// `kind`, or nothing.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.string(&["kind"])
    }

    /// `metadata.name`, or nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        self.string(&["metadata", "name"])
    }

    /// `metadata.namespace`, or nothing.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.string(&["metadata", "namespace"])
    }

    fn string(&self, path: &[&str]) -> &str {
        let found = path.iter().try_fold(&self.value, |value, key| value.get(key));
        found.and_then(Value::as_str).unwrap_or_default()
    }

    /// The items of a `kind: …List`, each a document with its own lines; any other document is its only item.
    fn items(self) -> Vec<Self> {
        if !self.kind().ends_with("List") || !self.value.get("items").is_some_and(Value::is_array) {
            return vec![self];
        }
        let Self { mut value, mut lines } = self;
        let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else {
            return Vec::new();
        };
        let mut lines = lines.take_items("items").into_iter();
        let with_lines = |value| Self { value, lines: lines.next().unwrap_or_default() };
        items.into_iter().map(with_lines).collect()
    }
}
