//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use super::peers::{self, PeerFields};
use super::{Context, ports, selectors};
use crate::fields::{Field, Object, Result};
use crate::model::{Action, AuthMode, Clause, Direction, Peers, Ports, Rule};

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

const NOT_YET: &str = "select pods with endpoints, and what is outside with CIDR rules";

/// Fields of clauses that are known and not enforced.
const UNSUPPORTED_CLAUSE: [(&str, &str); 6] = [
    ("fromNodes", NOT_YET),
    ("fromGroups", NOT_YET),
    ("toNodes", NOT_YET),
    ("toGroups", NOT_YET),
    ("toServices", "select the pods behind the service with toEndpoints"),
    ("toFQDNs", "names are not resolved yet; list the addresses with toCIDR"),
];

const UNSUPPORTED_RULE: [(&str, &str); 2] = [
    ("nodeSelector", "policies for the node itself are not built yet; use endpointSelector"),
    ("log", "leave it out"),
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
    let selector = spec.get("endpointSelector");
    let lists = SECTIONS.map(|section| spec.get(section.name).map(|list| (section, list)));
    let switches = default_deny(&mut spec)?;
    let labels = spec.get("labels").map_or(Ok(Vec::new()), |field| labels(&field))?;
    let description = spec.get("description").map_or(Ok(""), |field| field.string())?.to_owned();
    spec.finish(&UNSUPPORTED_RULE)?;
    let selector =
        selector.ok_or_else(|| field.error("`endpointSelector` is missing", "`{}` is every pod"))?;
    let mut rule = Rule {
        path: field.path().to_owned(),
        subject: selectors::subject(context, &selector)?,
        default_deny_ingress: false,
        default_deny_egress: false,
        clauses: Vec::new(),
        labels,
        description,
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
    if silent { Err(field.error("says nothing", hint)) } else { Ok(rule) }
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

fn clauses(context: &Context<'_>, section: &Section, list: &Field<'_>) -> Result<Vec<Clause>> {
    let items = list.items()?;
    items.iter().enumerate().map(|(index, field)| clause(context, section, index, field)).collect()
}

fn clause(context: &Context<'_>, section: &Section, index: usize, field: &Field<'_>) -> Result<Clause> {
    let mut clause = field.object()?;
    let found = peers::peers(context, &mut clause, section.peers)?;
    let ports = ports::cilium(&mut clause)?;
    let auth = match section.action {
        Action::Allow => authentication(&mut clause, found.as_ref().unwrap_or(&Peers::Any))?,
        Action::Deny => None,
    };
    clause.finish(&UNSUPPORTED_CLAUSE)?;
    let peers = match (found, &ports) {
        (Some(peers), _) => peers,
        // `- {}` selects nobody: it is how default deny is written.
        (None, Ports::All) => Peers::Of(Vec::new()),
        (None, Ports::Of(_)) => Peers::Any,
    };
    let Section { direction, action, .. } = *section;
    Ok(Clause { direction, action, index, line: field.line(), peers, ports, auth })
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
