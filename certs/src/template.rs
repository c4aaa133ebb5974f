//! From an identity to its SPIFFE ID: one template for a whole cluster.

use std::fmt;

use crate::id::{IdError, SpiffeId, TrustDomain};

const DOMAIN: &str = "spiffe://{trust_domain}";

/// What may fill a template's gaps.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdSubject<'a> {
    /// The identity's number.
    pub number: u32,
    /// The namespace of its pods.
    pub namespace: &'a str,
    /// The service account of its pods.
    pub service_account: &'a str,
}

/// Why some text is not a template, or a template cannot be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It begins neither with `spiffe://{trust_domain}/` nor with `/`.
    #[error("a template begins with {DOMAIN}/ or with /")]
    Head,
    /// A gap that does not exist.
    #[error("unknown gap {{{0}}}: there are {{number}}, {{namespace}} and {{service_account}}")]
    Gap(String),
    /// A brace without its other half.
    #[error("a brace without its other half near {0:?}")]
    Brace(String),
    /// Different identities would get the same ID.
    #[error("a template needs {{number}}, or both {{namespace}} and {{service_account}}")]
    NotDistinct,
    /// Different identities could get the same ID: where one value ends and the next begins cannot be told.
    #[error(
        "between {{{0}}} and {{{1}}} there must be something that cannot be part of both, such as '/' or '_'"
    )]
    Ambiguous(&'static str, &'static str),
    /// There is nothing to fill a gap with.
    #[error("nothing to fill {{{0}}} with")]
    NoValue(&'static str),
    /// The filled template is not a SPIFFE ID.
    #[error("the filled template is no SPIFFE ID: {0}")]
    Id(#[from] IdError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    Number,
    Namespace,
    ServiceAccount,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Gap(Gap),
}

/// A template such as `spiffe://{trust_domain}/identity/{number}`, or `/identity/{number}` for short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdTemplate {
    /// Begins with a slash.
    path: Vec<Part>,
}

impl Default for IdTemplate {
    /// `spiffe://{trust_domain}/identity/{number}`.
    fn default() -> Self {
        Self { path: vec![Part::Text("/identity/".to_owned()), Part::Gap(Gap::Number)] }
    }
}

impl IdTemplate {
    /// Takes the text of a template. It must begin with `spiffe://{trust_domain}/`, or just with `/`, and
    /// hold `{number}`, or both `{namespace}` and `{service_account}`, so that no two identities can have the
    /// same SPIFFE ID.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut rest = text.strip_prefix(DOMAIN).unwrap_or(text);
        if !rest.starts_with('/') {
            return Err(TemplateError::Head);
        }
        let mut path = Vec::new();
        while let Some((before, from_brace)) = rest.split_once('{') {
            let (name, after) = from_brace.split_once('}').ok_or_else(|| brace(from_brace))?;
            push_text(&mut path, before)?;
            path.push(Part::Gap(Gap::parse(name)?));
            rest = after;
        }
        push_text(&mut path, rest)?;
        let template = Self { path };
        template.check()?;
        Ok(template)
    }

    /// `spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}`.
    #[must_use]
    pub fn service_account() -> Self {
        let text = |text: &str| Part::Text(text.to_owned());
        let gap = Part::Gap;
        Self { path: vec![text("/ns/"), gap(Gap::Namespace), text("/sa/"), gap(Gap::ServiceAccount)] }
    }

    /// The SPIFFE ID of an identity.
    pub fn render(&self, domain: &TrustDomain, subject: &IdSubject<'_>) -> Result<SpiffeId, TemplateError> {
        let mut text = format!("spiffe://{domain}");
        for part in &self.path {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Gap(Gap::Number) => text.push_str(&subject.number.to_string()),
                Part::Gap(Gap::Namespace) => text.push_str(value(subject.namespace, Gap::Namespace)?),
                Part::Gap(Gap::ServiceAccount) => {
                    text.push_str(value(subject.service_account, Gap::ServiceAccount)?);
                }
            }
        }
        Ok(SpiffeId::parse(&text)?)
    }

    /// Whether the identity's number alone fills the template; otherwise namespace and service account
    /// are needed too.
    #[must_use]
    pub fn needs_only_number(&self) -> bool {
        !self.has(Gap::Namespace) && !self.has(Gap::ServiceAccount)
    }

    fn has(&self, gap: Gap) -> bool {
        self.path.contains(&Part::Gap(gap))
    }

    fn check(&self) -> Result<(), TemplateError> {
        if !(self.has(Gap::Number) || self.has(Gap::Namespace) && self.has(Gap::ServiceAccount)) {
            return Err(TemplateError::NotDistinct);
        }
        let sample = IdSubject { number: 1, namespace: "n", service_account: "s" };
        self.render(&TrustDomain::parse("t")?, &sample)?;
        self.check_ambiguity()
    }

    /// No value holds a slash, so segments stand for themselves. Within one, two gaps can be told apart if
    /// what stands between them holds a character that one of the two cannot; with more than two, one that
    /// none of them can.
    fn check_ambiguity(&self) -> Result<(), TemplateError> {
        for gaps in self.segments() {
            for pair in gaps.windows(2) {
                let [(first, between), (second, _)] = pair else { continue };
                let marks = |c: char| match gaps.len() {
                    2 => !first.may_hold(c) || !second.may_hold(c),
                    _ => gaps.iter().all(|(gap, _)| !gap.may_hold(c)),
                };
                if !between.chars().any(marks) {
                    return Err(TemplateError::Ambiguous(first.name(), second.name()));
                }
            }
        }
        Ok(())
    }

    /// The gaps of each segment, each with the text between it and the next one of its segment.
    fn segments(&self) -> Vec<Vec<(Gap, String)>> {
        let mut segments: Vec<Vec<(Gap, String)>> = vec![Vec::new()];
        for part in &self.path {
            match part {
                Part::Text(text) if text.contains('/') => segments.push(Vec::new()),
                Part::Text(text) => {
                    let gap = segments.last_mut().and_then(|gaps| gaps.last_mut());
                    gap.into_iter().for_each(|(_, after)| after.push_str(text));
                }
                Part::Gap(gap) => {
                    segments.last_mut().into_iter().for_each(|gaps| gaps.push((*gap, String::new())));
                }
            }
        }
        segments
    }
}

impl Gap {
    fn parse(name: &str) -> Result<Self, TemplateError> {
        let all = [Self::Number, Self::Namespace, Self::ServiceAccount];
        let found = all.into_iter().find(|gap| gap.name() == name);
        found.ok_or_else(|| TemplateError::Gap(name.to_owned()))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Namespace => "namespace",
            Self::ServiceAccount => "service_account",
        }
    }

    /// Kubernetes' names: a namespace is a DNS label, a service account a DNS subdomain.
    fn may_hold(self, c: char) -> bool {
        let label = c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        match self {
            Self::Number => c.is_ascii_digit(),
            Self::Namespace => label,
            Self::ServiceAccount => label || c == '.',
        }
    }
}

impl fmt::Display for IdTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(DOMAIN)?;
        self.path.iter().try_for_each(|part| match part {
            Part::Text(fixed) => out.write_str(fixed),
            Part::Gap(gap) => write!(out, "{{{}}}", gap.name()),
        })
    }
}

impl std::str::FromStr for IdTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text)
    }
}

/// A value, which has to be there and to be a Kubernetes name: otherwise it could say something else than
/// the template does.
fn value(text: &str, gap: Gap) -> Result<&str, TemplateError> {
    if text.is_empty() {
        return Err(TemplateError::NoValue(gap.name()));
    }
    if text.chars().all(|c| gap.may_hold(c)) { Ok(text) } else { Err(IdError::PathCharacter.into()) }
}

fn brace(near: &str) -> TemplateError {
    TemplateError::Brace(near.chars().take(32).collect())
}

fn push_text(path: &mut Vec<Part>, text: &str) -> Result<(), TemplateError> {
    if text.contains('}') {
        return Err(brace(text));
    }
    if !text.is_empty() {
        path.push(Part::Text(text.to_owned()));
    }
    Ok(())
}
