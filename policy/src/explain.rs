//! Why a flow is let through or not: the rule that decided, and of every other one why it did not.

use countersign_ebpf_common::ladder::Decision;
use countersign_ebpf_common::policy::auth_type;
use serde::{Deserialize, Serialize};

use crate::endpoint::EndpointPolicy;
use crate::labels::{CLUSTER, Labels, NAMESPACE_LABELS, POD_NAMESPACE};
use crate::model::{Action, Clause, Direction, Peers, Policy, PortMatch, Ports, Rule};
use crate::repository::{Repository, RuleOrigin};
use crate::selector::{Operator, Requirement, Selector};

/// What one side of a flow says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// `egress` for the sender, `ingress` for the receiver.
    pub direction: Direction,
    /// Whose policy this is: `namespace/pod`.
    pub endpoint: String,
    /// Its identity.
    pub identity: u32,
    /// The other side, as it was asked for.
    pub peer: String,
    /// The other side's identity.
    pub peer_identity: u32,
    /// Whether what no rule allows is denied in this direction.
    pub enforced: bool,
    /// Whether the flow passes this side.
    pub allowed: bool,
    /// `none`, `required` or `test-always-fail`.
    pub auth: String,
    /// One sentence.
    pub reason: String,
    /// The rule that decided; none where it was the default.
    pub rule: Option<RuleOrigin>,
    /// What policies in audit mode would do to it, if that is different.
    pub audit: Option<String>,
    /// Every rule of every policy, and what it says or why it does not.
    pub rules: Vec<Account>,
}

/// What a rule has to do with a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// `kind namespace/name`.
    pub policy: String,
    /// The rule, as in `spec.ingress[0]`.
    pub rule: String,
    /// Its line, where the document came from text.
    pub line: Option<u32>,
    /// How far it goes.
    pub fit: Fit,
    /// What it does, or why not.
    pub why: String,
}

/// How far a rule fits a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// It speaks of the flow.
    Match,
    /// It is for this endpoint and this direction, and means another peer or port.
    NotThisFlow,
    /// It is for this endpoint, in the other direction only.
    OtherDirection,
    /// It is for other endpoints.
    NotThisEndpoint,
}

/// A flow, as one side sees it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The side's direction.
    pub direction: Direction,
    /// Name and identity of the endpoint.
    pub endpoint: (&'a str, u32),
    /// Name and identity of its peer.
    pub peer: (&'a str, u32),
    /// IP protocol.
    pub protocol: u8,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// Explains what one side says of a flow.
#[must_use]
pub fn side(repository: &Repository, question: &Question<'_>) -> Side {
    let Question { direction, endpoint, peer, protocol, port } = *question;
    let policy = repository.resolve(endpoint.1, 1);
    let look = |policy: &EndpointPolicy| policy.lookup(direction, peer.1, protocol, port);
    let decision = look(&policy);
    let enforced = match direction {
        Direction::Ingress => policy.ingress_enforced,
        Direction::Egress => policy.egress_enforced,
    };
    let rule = repository.rule(decision.rule_id).cloned();
    let would = repository.resolve_as_if(endpoint.1, 1).map(|policy| look(&policy));
    Side {
        direction,
        endpoint: endpoint.0.to_owned(),
        identity: endpoint.1,
        peer: peer.0.to_owned(),
        peer_identity: peer.1,
        enforced,
        allowed: decision.allow,
        auth: auth_name(decision.auth_type).to_owned(),
        reason: reason(&decision, rule.as_ref(), enforced, direction),
        rule,
        audit: would.and_then(|would| difference(repository, Some(&decision), &would)),
        rules: accounts(repository, question),
    }
}

/// What policies in audit mode would do, where that is not what is done.
pub(crate) fn difference(
    repository: &Repository,
    enforced: Option<&Decision>,
    would: &Decision,
) -> Option<String> {
    let weight = |decision: &Decision| (decision.allow, decision.auth_type);
    (enforced.map(weight) != Some(weight(would))).then(|| audit(repository, would))
}

fn auth_name(of: u8) -> &'static str {
    match of {
        auth_type::NONE => "none",
        auth_type::SPIRE => "required",
        _ => "test-always-fail",
    }
}

fn audit(repository: &Repository, would: &Decision) -> String {
    let by =
        repository.rule(would.rule_id).map_or_else(|| "by default".to_owned(), |rule| format!("by {rule}"));
    match (would.allow, would.auth_type) {
        (false, _) => format!("would be dropped {by}"),
        (true, auth_type::NONE) => format!("would be allowed {by}"),
        (true, _) => format!("would have to authenticate, {by}"),
    }
}

fn reason(decision: &Decision, rule: Option<&RuleOrigin>, enforced: bool, direction: Direction) -> String {
    let way = match direction {
        Direction::Ingress => "receive",
        Direction::Egress => "send",
    };
    match (decision.allow, rule) {
        (true, Some(rule)) if decision.auth_type != auth_type::NONE => {
            format!("allowed by {rule}, once the two have authenticated")
        }
        (true, Some(rule)) => format!("allowed by {rule}"),
        (true, None) if enforced => "allowed: the node's own packets always reach its pods".to_owned(),
        (true, None) => format!("allowed: no policy restricts what this endpoint may {way}"),
        (false, Some(rule)) if rule.action == Action::Withhold => {
            format!("denied: {rule} would allow a part of it, by a part that is not built yet")
        }
        (false, Some(rule)) => format!("denied by {rule}"),
        (false, None) => {
            format!("denied: policies restrict what this endpoint may {way}, and none allows this")
        }
    }
}

fn accounts(repository: &Repository, question: &Question<'_>) -> Vec<Account> {
    let mut found: Vec<Account> =
        repository.policies().flat_map(|p| of_policy(repository, p, question)).collect();
    found.sort_by_key(|account| account.fit);
    found
}

fn of_policy(repository: &Repository, policy: &Policy, question: &Question<'_>) -> Vec<Account> {
    let nobody = Labels::new();
    let labels = |identity| repository.identity(identity).unwrap_or(&nobody);
    let (endpoint, peer) = (labels(question.endpoint.1), labels(question.peer.1));
    let mut found = Vec::new();
    for rule in &policy.rules {
        let account = |path: String, line, fit, why| Account {
            policy: policy.id.to_string(),
            rule: path,
            line,
            fit,
            why,
        };
        if let Some(why) = why_not(&rule.subject, endpoint) {
            let why = format!("is not for {}: it {why}", question.endpoint.0);
            found.push(account(rule.path.clone(), None, Fit::NotThisEndpoint, why));
            continue;
        }
        let clauses = rule.clauses.iter().filter(|clause| clause.direction == question.direction);
        let mut clauses = clauses.peekable();
        if clauses.peek().is_none() {
            let (fit, why) = silence(rule, question.direction);
            found.push(account(rule.path.clone(), None, fit, why));
        }
        for clause in clauses {
            let path = format!("{}.{}[{}]", rule.path, list_name(clause), clause.index);
            let (fit, why) = of_clause(repository, clause, question, peer);
            found.push(account(path, clause.line, fit, why));
        }
    }
    found
}

fn silence(rule: &Rule, direction: Direction) -> (Fit, String) {
    let denies = match direction {
        Direction::Ingress => rule.default_deny_ingress,
        Direction::Egress => rule.default_deny_egress,
    };
    match (denies, direction) {
        (true, _) => (Fit::Match, "denies by default, and allows nobody".to_owned()),
        (false, Direction::Ingress) => (
            Fit::OtherDirection,
            "speaks of egress only: it does not restrict who may reach its pods".to_owned(),
        ),
        (false, Direction::Egress) => (
            Fit::OtherDirection,
            "speaks of ingress only: it does not restrict what its pods may reach".to_owned(),
        ),
    }
}

fn list_name(clause: &Clause) -> &'static str {
    match (clause.direction, clause.action) {
        (Direction::Ingress, Action::Deny) => "ingressDeny",
        (Direction::Ingress, _) => "ingress",
        (Direction::Egress, Action::Deny) => "egressDeny",
        (Direction::Egress, _) => "egress",
    }
}

fn of_clause(
    repository: &Repository,
    clause: &Clause,
    question: &Question<'_>,
    peer: &Labels,
) -> (Fit, String) {
    if let Some(why) = why_not_peer(repository, clause, question, peer) {
        return (Fit::NotThisFlow, why);
    }
    if let Some(why) = why_not_ports(repository, &clause.ports, question) {
        return (Fit::NotThisFlow, why);
    }
    let says = match clause.action {
        Action::Allow if clause.auth.is_some_and(|mode| mode.number() != 0) => "allows it, authenticated",
        Action::Allow => "allows it",
        Action::Deny => "denies it",
        Action::Pass => "leaves it to the next tier",
        Action::Withhold => "would allow a part of it; that part is not built yet, so it denies it",
    };
    (Fit::Match, says.to_owned())
}

fn why_not_peer(
    repository: &Repository,
    clause: &Clause,
    question: &Question<'_>,
    peer: &Labels,
) -> Option<String> {
    let Peers::Of(selectors) = &clause.peers else { return None };
    if repository.chooses(selectors, question.peer.1) {
        return None;
    }
    let name = question.peer.0;
    if selectors.is_empty() {
        return Some("selects no peer".to_owned());
    }
    let reasons: Vec<String> = selectors.iter().filter_map(|selector| why_not(selector, peer)).collect();
    let first = reasons.first().cloned().unwrap_or_else(|| "means others".to_owned());
    let more = if reasons.len() > 1 {
        format!(" (and {} more peers that are not it)", reasons.len() - 1)
    } else {
        String::new()
    };
    Some(format!("does not mean {name}: it {first}{more}"))
}

/// Why a selector does not choose these labels, to be read after "it"; nothing where it does.
#[must_use]
pub fn why_not(selector: &Selector, labels: &Labels) -> Option<String> {
    match selector {
        Selector::Labels(requirements) => {
            let failed: Vec<&Requirement> = requirements.iter().filter(|r| !r.holds(labels)).collect();
            // That it is somebody of another namespace says more than a label that is missing.
            let namespace = failed.iter().find(|requirement| requirement.key == POD_NAMESPACE);
            namespace.or(failed.first()).map(|requirement| unmet(requirement, labels))
        }
        Selector::Cidr { .. } if selector.matches(labels) => None,
        Selector::Cidr { .. } => Some(format!("means addresses in {selector}, outside of the cluster")),
        Selector::Group { .. } => Some(format!("means the addresses of {selector}")),
    }
}

fn unmet(requirement: &Requirement, labels: &Labels) -> String {
    let key = requirement.key.as_str();
    let there = labels.with_key(key).next().map(|label| label.value.as_str());
    let listed = |values: &[String]| values.join(" or ");
    match (&requirement.operator, key, there) {
        (Operator::In(values), POD_NAMESPACE, Some(found)) => {
            format!("means pods of namespace {}, and this one is in {found}", listed(values))
        }
        (Operator::In(values), POD_NAMESPACE, None) => {
            format!("means pods of namespace {}, and this is no pod", listed(values))
        }
        (Operator::Exists, POD_NAMESPACE, _) => "means pods, and this is none".to_owned(),
        (Operator::In(values), CLUSTER, _) => format!("means pods of the cluster {}", listed(values)),
        (Operator::In(values), _, Some(found)) => {
            format!("wants {} = {}, which is {found:?} here", display_key(key), listed(values))
        }
        (Operator::In(values), _, None) => {
            format!("wants {} = {}, and there is no such label", display_key(key), listed(values))
        }
        (Operator::NotIn(_), _, found) => {
            format!("wants {} to be anything but {}", display_key(key), found.unwrap_or_default())
        }
        (Operator::Exists, _, _) => format!("wants the label {}, which is missing", display_key(key)),
        (Operator::DoesNotExist, _, _) => format!("wants no label {}, and there is one", display_key(key)),
    }
}

fn display_key(key: &str) -> String {
    key.strip_prefix(NAMESPACE_LABELS)
        .map_or_else(|| key.to_owned(), |label| format!("the namespace's {label}"))
}

fn why_not_ports(repository: &Repository, ports: &Ports, question: &Question<'_>) -> Option<String> {
    let Ports::Of(matches) = ports else { return None };
    let fits = |one: &PortMatch| match one {
        PortMatch::Protocol(protocol) => *protocol == question.protocol,
        PortMatch::Range(protocol, first, last) => {
            *protocol == question.protocol && (*first..=*last).contains(&question.port)
        }
        PortMatch::Named(protocol, name) => {
            let receiver = match question.direction {
                Direction::Ingress => question.endpoint.1,
                Direction::Egress => question.peer.1,
            };
            *protocol == question.protocol && repository.is_named(receiver, *protocol, name, question.port)
        }
    };
    if matches.iter().any(fits) {
        return None;
    }
    let protocol_of = |one: &PortMatch| match one {
        PortMatch::Protocol(protocol) | PortMatch::Range(protocol, ..) | PortMatch::Named(protocol, _) => {
            *protocol
        }
    };
    let texts: Vec<String> = matches.iter().map(ToString::to_string).collect();
    if matches.iter().all(|one| protocol_of(one) != question.protocol) {
        return Some(format!("is about another protocol: {}", texts.join(", ")));
    }
    Some(format!("is about other ports: {}", texts.join(", ")))
}
