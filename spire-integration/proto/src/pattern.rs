//! Text with named gaps: `k8s:pod-uid:{pod_uid}`.

use std::fmt;

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part<G> {
    Text(String),
    Gap(G),
}

/// Text with gaps of a kind that knows its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pattern<G> {
    parts: Vec<Part<G>>,
}

/// A kind of gap: a closed set of names.
pub(crate) trait Gap: Copy + PartialEq + 'static {
    const ALL: &'static [Self];

    fn name(self) -> &'static str;
}

/// Why some text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A name that does not exist.
    #[error("unknown variable {{{name}}}: there are {known}")]
    Unknown {
        /// What is written.
        name: String,
        /// What there is.
        known: String,
    },
    /// A brace without its other half.
    #[error("a brace has no other half")]
    Brace,
}

impl<G: Gap> Pattern<G> {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, from_brace)) = rest.split_once('{') {
            let (name, after) = from_brace.split_once('}').ok_or(PatternError::Brace)?;
            push_text(&mut parts, before)?;
            let known = G::ALL.iter().copied().find(|gap| gap.name() == name);
            parts.push(Part::Gap(known.ok_or_else(|| unknown::<G>(name))?));
            rest = after;
        }
        push_text(&mut parts, rest)?;
        Ok(Self { parts })
    }

    /// Text, and a gap behind it.
    pub(crate) fn around(before: &str, gap: G) -> Self {
        Self { parts: vec![Part::Text(before.to_owned()), Part::Gap(gap)] }
    }

    /// The gaps, in order.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = G> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Gap(gap) => Some(*gap),
        })
    }

    pub(crate) fn has(&self, gap: G) -> bool {
        self.gaps().any(|found| found == gap)
    }

    /// The text with its gaps filled; the first error of `fill` otherwise.
    pub(crate) fn fill<E>(&self, mut fill: impl FnMut(G) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Gap(gap) => text.push_str(&fill(*gap)?),
            }
        }
        Ok(text)
    }
}

impl<G: Gap> fmt::Display for Pattern<G> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(fixed) => out.write_str(fixed),
            Part::Gap(gap) => write!(out, "{{{}}}", gap.name()),
        })
    }
}

fn push_text<G>(parts: &mut Vec<Part<G>>, text: &str) -> Result<(), PatternError> {
    if text.contains('}') {
        return Err(PatternError::Brace);
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(())
}

fn unknown<G: Gap>(name: &str) -> PatternError {
    let names: Vec<String> = G::ALL.iter().map(|gap| format!("{{{}}}", gap.name())).collect();
    PatternError::Unknown { name: name.to_owned(), known: names.join(", ") }
}
