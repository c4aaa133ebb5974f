//! From an identity to its SPIFFE ID: one template for a whole cluster.

use std::fmt;

use crate::id::{IdError, SpiffeId, TrustDomain};

const HEAD: &str = "spiffe://{trust_domain}/";

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
    /// It does not begin with `spiffe://{trust_domain}/`.
    #[error("a template begins with {HEAD}")]
    Head,
    /// A gap that does not exist, or an unclosed brace.
    #[error("unknown gap {0}: there are {{number}}, {{namespace}} and {{service_account}}")]
    Gap(String),
    /// Different identities would get the same ID.
    #[error("a template needs {{number}}, or both {{namespace}} and {{service_account}}")]
    NotDistinct,
    /// The filled template is not a SPIFFE ID.
    #[error("the filled template is no SPIFFE ID: {0}")]
    Id(#[from] IdError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Number,
    Namespace,
    ServiceAccount,
}

/// A template such as `spiffe://{trust_domain}/identity/{number}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdTemplate {
    path: Vec<Part>,
}

impl Default for IdTemplate {
    /// `spiffe://{trust_domain}/identity/{number}`.
    fn default() -> Self {
        Self { path: vec![Part::Text("identity/".to_owned()), Part::Number] }
    }
}

impl IdTemplate {
    /// Takes the text of a template. It must begin with `spiffe://{trust_domain}/` and hold
    /// `{number}`, or both `{namespace}` and `{service_account}`.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut rest = text.strip_prefix(HEAD).ok_or(TemplateError::Head)?;
        let mut path = Vec::new();
        while let Some((before, from_brace)) = rest.split_once('{') {
            let (name, after) =
                from_brace.split_once('}').ok_or_else(|| TemplateError::Gap(from_brace.to_owned()))?;
            push_text(&mut path, before);
            path.push(gap(name)?);
            rest = after;
        }
        push_text(&mut path, rest);
        let template = Self { path };
        template.check()?;
        Ok(template)
    }

    /// `spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}`.
    #[must_use]
    pub fn service_account() -> Self {
        let text = |text: &str| Part::Text(text.to_owned());
        Self { path: vec![text("ns/"), Part::Namespace, text("/sa/"), Part::ServiceAccount] }
    }

    /// The SPIFFE ID of an identity.
    pub fn render(&self, domain: &TrustDomain, subject: &IdSubject<'_>) -> Result<SpiffeId, TemplateError> {
        let mut text = format!("spiffe://{domain}/");
        for part in &self.path {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Number => text.push_str(&subject.number.to_string()),
                Part::Namespace => text.push_str(subject.namespace),
                Part::ServiceAccount => text.push_str(subject.service_account),
            }
        }
        Ok(SpiffeId::parse(&text)?)
    }

    /// Whether the identity's number alone fills the template; otherwise namespace and service account
    /// are needed too.
    #[must_use]
    pub fn needs_only_number(&self) -> bool {
        !self.path.iter().any(|part| matches!(part, Part::Namespace | Part::ServiceAccount))
    }

    fn check(&self) -> Result<(), TemplateError> {
        let has = |wanted: Part| self.path.contains(&wanted);
        let distinct = has(Part::Number) || (has(Part::Namespace) && has(Part::ServiceAccount));
        if !distinct {
            return Err(TemplateError::NotDistinct);
        }
        let sample = IdSubject { number: 1, namespace: "n", service_account: "s" };
        self.render(&TrustDomain::parse("t")?, &sample).map(|_| ())
    }
}

impl fmt::Display for IdTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(HEAD)?;
        self.path.iter().try_for_each(|part| {
            out.write_str(match part {
                Part::Text(fixed) => fixed,
                Part::Number => "{number}",
                Part::Namespace => "{namespace}",
                Part::ServiceAccount => "{service_account}",
            })
        })
    }
}

impl std::str::FromStr for IdTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::parse(text)
    }
}

fn gap(name: &str) -> Result<Part, TemplateError> {
    match name {
        "number" => Ok(Part::Number),
        "namespace" => Ok(Part::Namespace),
        "service_account" => Ok(Part::ServiceAccount),
        other => Err(TemplateError::Gap(other.to_owned())),
    }
}

fn push_text(path: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        path.push(Part::Text(text.to_owned()));
    }
}
