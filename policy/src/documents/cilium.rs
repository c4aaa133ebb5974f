//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use super::peers::{self, PeerFields};
use super::ports::{self, Side};
use super::unbuilt::all_nodes;
use super::{Context, selectors};
use crate::endpoint::tier;
use crate::fields::{Field, Object, Result};
use crate::labels::{POD_NAMESPACE, Source};
use crate::model::{Action, AuthMode, Clause, Direction, Peers, Ports, Rule};
use crate::selector::{Requirement, Selector};

/// One of the four lists of a rule.
struct Section {
    name: &'static str,
    direction: Direction,
    action: Action,
    peers: &'static PeerFields,
}

const SECTIONS: [Section; 4] = [
    Section { name: "ingress", direction: Direction::Ingress, action: Action::Allow, peers: &peers::FROM },
    Section { name: "ingressDeny", direction: Direction::Ingress, action: Action::Deny, peers: &peers::FROM },
    Section { name: "egress", direction: Direction::Egress, action: Action::Allow, peers: &peers::TO },
    Section { name: "egressDeny", direction: Direction::Egress, action: Action::Deny, peers: &peers::TO },
];

/// Reads `spec` and `specs`.
pub(super) fn rules(context: &mut Context<'_>, mut root: Object<'_>) -> Result<Vec<Rule>> {
    let (spec, specs) = (root.get("spec"), root.get("specs"));
    if spec.is_none() && specs.is_none() {
        return Err(root.field().error("neither `spec` nor `specs` is there", ""));
    }
    let missing =
        specs.as_ref().filter(|list| list.value.as_array().is_some_and(Vec::is_empty) && spec.is_none());
    if let Some(list) = missing {
        return Err(list.error("is empty", ""));
    }
    root.finish(&[])?;
    let mut found = Vec::new();
    for field in spec.into_iter().chain(specs.map_or(Ok(Vec::new()), |list| list.items())?) {
        found.push(rule(context, &field)?);
    }
    Ok(found)
}

fn rule(context: &mut Context<'_>, field: &Field<'_>) -> Result<Rule> {
    let mut spec = field.object()?;
    let selectors = (spec.get("endpointSelector"), spec.get("nodeSelector"));
    let lists = SECTIONS.map(|section| spec.get(section.name).map(|list| (section, list)));
    let switches = default_deny(&mut spec)?;
    let labels = spec.get("labels").map_or(Ok(Vec::new()), |field| labels(&field))?;
    let description = spec.get("description").map_or(Ok(""), |field| field.string())?.to_owned();
    let log = spec.get("log").map_or(Ok(String::new()), |field| log(&field))?;
    spec.finish(&[])?;
    let (subject, of_node) = subject(context, field, selectors)?;
    let mut rule = Rule {
        path: field.path().to_owned(),
        subject,
        default_deny_ingress: false,
        default_deny_egress: false,
        clauses: Vec::new(),
        labels,
        description,
        log,
    };
    let mut speaks = [false, false];
    for (section, list) in lists.iter().flatten() {
        let found = clauses(context, section, list)?;
        let empty = found.is_empty();
        if empty && section.action == Action::Allow {
            context.note(list, "is there and empty: everything in this direction is denied by default");
        }
        speaks[usize::from(section.direction.number())] |= !empty || section.action == Action::Allow;
        rule.clauses.extend(found);
    }
    rule.default_deny_ingress = switches[0].unwrap_or(speaks[0]);
    rule.default_deny_egress = switches[1].unwrap_or(speaks[1]);
    let hint = "add `ingress`, `egress`, `ingressDeny` or `egressDeny`";
    let silent = !(speaks[0] || speaks[1] || rule.default_deny_ingress || rule.default_deny_egress);
    if silent {
        return Err(field.error("says nothing", hint));
    }
    Ok(if of_node { node_rule(rule, field) } else { rule })
}

/// Whom the rule is for, and whether that is the node itself.
fn subject(
    context: &mut Context<'_>,
    rule: &Field<'_>,
    found: (Option<Field<'_>>, Option<Field<'_>>),
) -> Result<(Selector, bool)> {
    match found {
        (Some(selector), None) => Ok((selectors::subject(context, &selector)?, false)),
        (None, None) => Err(rule.error("`endpointSelector` is missing", "`{}` is every pod")),
        (Some(_), Some(nodes)) => {
            Err(nodes.error("cannot stand beside `endpointSelector`", "write two rules"))
        }
        (None, Some(nodes)) if context.namespace.is_some() => {
            Err(nodes.error("can stand in a CiliumClusterwideNetworkPolicy only", ""))
        }
        (None, Some(nodes)) => {
            selectors::requirements(&nodes, &selectors::pod_key)?;
            context.missing(
                &nodes,
                "policies for nodes themselves are not built yet; between pods and nodes, all in the \
                 directions that the rule restricts",
            );
            Ok((Selector::labels(vec![Requirement::exists(Source::K8s, POD_NAMESPACE)]), true))
        }
    }
}

/// A rule for nodes, from the side of the pods, where it can be enforced: nodes and pods do not reach each other
/// in the directions that it speaks of.
fn node_rule(rule: Rule, field: &Field<'_>) -> Rule {
    let speaks = |direction| {
        let denies = match direction {
            Direction::Ingress => rule.default_deny_ingress,
            Direction::Egress => rule.default_deny_egress,
        };
        denies || rule.clauses.iter().any(|clause| clause.direction == direction)
    };
    let opposite = |direction| match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    };
    let deny = |direction| Clause {
        direction: opposite(direction),
        action: Action::Deny,
        priority: tier::NORMAL,
        index: 0,
        line: field.line(),
        peers: Peers::Of(all_nodes()),
        ports: Ports::All,
        auth: None,
    };
    let clauses = Direction::ALL.into_iter().filter(|direction| speaks(*direction)).map(deny).collect();
    Rule { default_deny_ingress: false, default_deny_egress: false, clauses, ..rule }
}

/// `log.value`: what events about the rule are to carry.
fn log(field: &Field<'_>) -> Result<String> {
    let mut log = field.object()?;
    let value = log.get("value");
    log.finish(&[])?;
    let Some(value) = value else { return Ok(String::new()) };
    let text = value.string()?;
    if text.len() > 32 || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(value.error("must be at most 32 printable characters", ""));
    }
    Ok(text.to_owned())
}

/// `enableDefaultDeny`: the switches for ingress and egress, where they are there.
fn default_deny(spec: &mut Object<'_>) -> Result<[Option<bool>; 2]> {
    let Some(mut field) = spec.object("enableDefaultDeny")? else { return Ok([None, None]) };
    let mut switches = [None, None];
    for (switch, key) in switches.iter_mut().zip(["ingress", "egress"]) {
        *switch = field.get(key).map(|field| field.bool()).transpose()?;
    }
    field.finish(&[])?;
    Ok(switches)
}

fn clauses(context: &mut Context<'_>, section: &Section, list: &Field<'_>) -> Result<Vec<Clause>> {
    let mut found = Vec::new();
    for (index, field) in list.items()?.iter().enumerate() {
        found.append(&mut clause(context, section, index, field)?);
    }
    Ok(found)
}

/// One entry: what of it can be enforced, and what has to be withheld.
fn clause(
    context: &mut Context<'_>,
    section: &Section,
    index: usize,
    field: &Field<'_>,
) -> Result<Vec<Clause>> {
    let mut clause = field.object()?;
    let Section { direction, action, .. } = *section;
    let found = peers::peers(context, &mut clause, section.peers, action)?;
    let ports = ports::cilium(context, &mut clause, Side { direction, action })?;
    let auth = match action {
        Action::Deny => None,
        _ => authentication(&mut clause, found.as_ref().unwrap_or(&Peers::Any))?,
    };
    clause.finish(&[])?;
    let peers = match (found, &ports.plain) {
        (Some(peers), _) => peers,
        // `- {}` selects nobody: it is how default deny is written.
        (None, Some(Ports::All)) => Peers::Of(Vec::new()),
        (None, _) => Peers::Any,
    };
    let of = |action, ports, auth| Clause {
        direction,
        action,
        priority: tier::NORMAL,
        index,
        line: field.line(),
        peers: peers.clone(),
        ports,
        auth,
    };
    let plain = ports.plain.map(|ports| of(action, ports, auth));
    let withheld = (!ports.withheld.is_empty()).then_some(ports.withheld);
    let withheld = withheld.map(|ports| of(Action::Withhold, Ports::Of(ports), None));
    Ok(plain.into_iter().chain(withheld).collect())
}

fn authentication(clause: &mut Object<'_>, peers: &Peers) -> Result<Option<AuthMode>> {
    let Some(field) = clause.get("authentication") else { return Ok(None) };
    let mut authentication = field.object()?;
    let mode = authentication.required("mode")?;
    authentication.finish(&[])?;
    let read = match mode.string()? {
        "required" => AuthMode::Required,
        "disabled" => AuthMode::Disabled,
        "test-always-fail" => AuthMode::AlwaysFail,
        _ => return Err(mode.error("is not a mode", "required, disabled or test-always-fail")),
    };
    peers::check_auth(&mode, read, peers)?;
    Ok(Some(read))
}

fn labels(field: &Field<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for item in field.items()? {
        let mut label = item.object()?;
        let key = label.required("key")?.string()?.to_owned();
        let value = label.get("value").map_or(Ok(""), |field| field.string())?.to_owned();
        let source = label.get("source").map_or(Ok("unspec"), |field| field.string())?.to_owned();
        label.finish(&[])?;
        found.push(format!("{source}:{key}={value}"));
    }
    Ok(found)
}
