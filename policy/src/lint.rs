//! What is likely to be a mistake in a directory of manifests: rules that do something else than their author
//! believes. Each finding has its policy, field and line, and what to do.

mod reach;
mod void;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::labels::{POD_NAMESPACE, Source};
use crate::model::{Action, Clause, Direction, NoteKind, Peers, Policy, PolicyId, Rule};
use crate::objects::Pod;
use crate::repository::Repository;
use crate::selector::{Operator, Requirement, Selector};
use crate::verdicts::{Manifests, World};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It breaks something, or is not in force at all.
    Error,
    /// It very likely does not do what it is written for.
    Warning,
    /// To be known.
    Note,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it.
    pub check: &'static str,
    /// The policy it is about.
    pub policy: PolicyId,
    /// The field, as in `spec.ingress[0]`.
    pub path: String,
    /// Its line, where the document came from text.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub fix: String,
}

/// A pod of the manifests.
struct Known {
    name: String,
    identity: u32,
    pod: Pod,
}

/// What the checks look at, and what they have found.
struct Lint {
    repository: Repository,
    policies: Vec<Policy>,
    pods: Vec<Known>,
    found: Vec<Finding>,
}

/// Looks for mistakes; findings are sorted by policy, then line.
#[must_use]
pub fn lint(manifests: &Manifests) -> Vec<Finding> {
    let mut lint = Lint::new(manifests);
    for policy in lint.policies.clone() {
        lint.notes(&policy);
        for rule in &policy.rules {
            lint.subject(&policy, rule);
            for clause in &rule.clauses {
                lint.peers(&policy, rule, clause);
            }
        }
    }
    lint.reach();
    lint.void();
    let mut found = lint.found;
    found.sort_by(|one, other| {
        (&one.policy, one.line, one.check, &one.path).cmp(&(
            &other.policy,
            other.line,
            other.check,
            &other.path,
        ))
    });
    found.dedup();
    found
}

impl Lint {
    fn new(manifests: &Manifests) -> Self {
        let world = World::new(manifests.clone());
        let known = |pod: &Pod| {
            let name = format!("{}/{}", pod.namespace, pod.name);
            Some(Known { identity: world.identity_of(&name)?, name, pod: pod.clone() })
        };
        let pods = manifests.pods().iter().filter_map(known).collect();
        let policies = manifests.policies().to_vec();
        Self { repository: world.into_repository(), policies, pods, found: Vec::new() }
    }

    fn report(
        &mut self,
        (severity, check): (Severity, &'static str),
        policy: &Policy,
        (path, line): (String, Option<u32>),
        message: String,
        fix: &str,
    ) {
        let (policy, fix) = (policy.id.clone(), fix.to_owned());
        self.found.push(Finding { severity, check, policy, path, line, message, fix });
    }

    /// What was noted when the document was read.
    fn notes(&mut self, policy: &Policy) {
        for note in self.repository.conditions(&policy.id) {
            let check = match note.kind {
                NoteKind::Missing => (Severity::Warning, "missing-part"),
                NoteKind::Remark if note.message.contains("one label") => {
                    (Severity::Warning, "wildcard-depth")
                }
                NoteKind::Remark => (Severity::Note, "remark"),
            };
            self.report(check, policy, (note.path, note.line), note.message, "");
        }
    }

    fn is_chosen(&self, selector: &Selector) -> bool {
        self.pods.iter().any(|pod| self.repository.chooses(std::slice::from_ref(selector), pod.identity))
    }

    /// A rule for nobody.
    fn subject(&mut self, policy: &Policy, rule: &Rule) {
        if self.pods.is_empty() || self.is_chosen(&rule.subject) {
            return;
        }
        let message = format!("is for no pod of these manifests ({})", rule.subject);
        let line = rule.clauses.first().and_then(|clause| clause.line);
        self.report(
            (Severity::Warning, "selects-no-pod"),
            policy,
            (rule.path.clone(), line),
            message,
            "check labels and namespace",
        );
    }

    /// Peers that are nobody here, and somebody elsewhere.
    fn peers(&mut self, policy: &Policy, rule: &Rule, clause: &Clause) {
        let Peers::Of(selectors) = &clause.peers else { return };
        for selector in selectors {
            let Selector::Labels(requirements) = selector else { continue };
            let reserved =
                requirements.iter().any(|requirement| requirement.source == Some(Source::Reserved));
            if self.pods.is_empty() || reserved || self.is_chosen(selector) {
                continue;
            }
            let elsewhere = self.elsewhere(policy, requirements);
            let at = (place(rule, clause), clause.line);
            if elsewhere.is_empty() {
                let message = format!("selects nobody of these manifests ({selector})");
                self.report((Severity::Note, "selects-no-peer"), policy, at, message, "check the labels");
                continue;
            }
            let there: Vec<String> = elsewhere.iter().map(|(ns, count)| format!("{count} in {ns}")).collect();
            let own = &policy.id.namespace;
            let message = format!(
                "selects no pod, since it means namespace {own}; elsewhere it would: {}",
                there.join(", ")
            );
            let first = elsewhere.keys().next().cloned().unwrap_or_default();
            let fix = format!("add the label k8s:io.kubernetes.pod.namespace: {first}");
            self.report((Severity::Warning, "peer-namespace"), policy, at, message, &fix);
        }
    }

    /// Pods that the requirements would choose if they did not mean the policy's own namespace, by namespace.
    fn elsewhere(&self, policy: &Policy, requirements: &[Requirement]) -> BTreeMap<String, usize> {
        let own = |requirement: &Requirement| {
            requirement.key == POD_NAMESPACE
                && matches!(&requirement.operator, Operator::In(values) if *values == [policy.id.namespace.clone()])
        };
        let mut counts = BTreeMap::new();
        if policy.id.namespace.is_empty() || !requirements.iter().any(own) {
            return counts;
        }
        let others: Vec<Requirement> = requirements.iter().filter(|r| !own(r)).cloned().collect();
        let anywhere = Selector::labels(others);
        for pod in &self.pods {
            let labels = self.repository.identity(pod.identity);
            if labels.is_some_and(|labels| anywhere.matches(labels)) {
                *counts.entry(pod.pod.namespace.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Identities of the pods that a rule is for.
    fn subjects(&self, rule: &Rule) -> BTreeSet<u32> {
        let chosen = self.pods.iter().map(|pod| pod.identity);
        chosen.filter(|id| self.repository.chooses(std::slice::from_ref(&rule.subject), *id)).collect()
    }

    /// A pod of an identity, for messages.
    fn name_of(&self, identity: u32) -> String {
        let found = self.pods.iter().find(|pod| pod.identity == identity);
        found.map_or_else(|| identity.to_string(), |pod| pod.name.clone())
    }
}

/// A clause, as its author finds it.
fn place(rule: &Rule, clause: &Clause) -> String {
    let list = match (clause.direction, clause.action) {
        (Direction::Ingress, Action::Deny) => "ingressDeny",
        (Direction::Ingress, _) => "ingress",
        (Direction::Egress, Action::Deny) => "egressDeny",
        (Direction::Egress, _) => "egress",
    };
    format!("{}.{list}[{}]", rule.path, clause.index)
}
