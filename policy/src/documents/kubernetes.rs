//! networking.k8s.io/v1 NetworkPolicy.

use super::selectors::{namespace_key, pod_key, requirements};
use super::{Context, peers, ports};
use crate::endpoint::tier;
use crate::fields::{Field, Object, Result};
use crate::labels::{POD_NAMESPACE, Source};
use crate::model::{Action, Clause, Direction, Peers, PortMatch, Ports, Rule};
use crate::selector::{PodRange, Requirement, Selector};

/// Reads the `spec`.
pub(super) fn rules(context: &mut Context<'_>, mut root: Object<'_>) -> Result<Vec<Rule>> {
    let field = root.required("spec")?;
    root.finish(&[])?;
    let mut spec = field.object()?;
    let selector = spec.get("podSelector");
    let types = policy_types(&mut spec)?;
    let lists = [spec.get("ingress"), spec.get("egress")];
    spec.finish(&[])?;
    let mut subject = selector.as_ref().map_or(Ok(Vec::new()), |field| requirements(field, &pod_key))?;
    subject.push(own_namespace(context));
    let egress_by_default =
        lists[1].as_ref().is_some_and(|list| list.value.as_array().is_some_and(|l| !l.is_empty()));
    let [ingress, egress] = types.unwrap_or([true, egress_by_default]);
    let mut clauses = Vec::new();
    for ((list, direction), applies) in lists.iter().zip(Direction::ALL).zip([ingress, egress]) {
        let found = list.as_ref().map_or(Ok(Vec::new()), |list| self::clauses(context, list, direction))?;
        if applies {
            clauses.extend(found);
        } else if let Some(list) = list.as_ref().filter(|_| !found.is_empty()) {
            context.note(list, "has no effect: `policyTypes` does not name this direction");
        }
    }
    Ok(vec![Rule {
        path: field.path().to_owned(),
        subject: Selector::labels(subject),
        default_deny_ingress: ingress,
        default_deny_egress: egress,
        clauses,
        labels: Vec::new(),
        description: String::new(),
        log: String::new(),
    }])
}

fn own_namespace(context: &Context<'_>) -> Requirement {
    Requirement::equals(Source::K8s, POD_NAMESPACE, context.namespace.as_deref().unwrap_or_default())
}

/// Whether ingress and egress are named; nothing where the list is absent or empty.
fn policy_types(spec: &mut Object<'_>) -> Result<Option<[bool; 2]>> {
    let items = spec.get("policyTypes").map_or(Ok(Vec::new()), |list| list.items())?;
    let mut named = [false, false];
    for item in &items {
        match item.string()? {
            "Ingress" => named[0] = true,
            "Egress" => named[1] = true,
            _ => return Err(item.error("is not a type of policy", "Ingress or Egress")),
        }
    }
    Ok((!items.is_empty()).then_some(named))
}

fn clauses(context: &Context<'_>, list: &Field<'_>, direction: Direction) -> Result<Vec<Clause>> {
    let items = list.items()?;
    items.iter().enumerate().map(|(index, field)| clause(context, field, direction, index)).collect()
}

fn clause(context: &Context<'_>, field: &Field<'_>, direction: Direction, index: usize) -> Result<Clause> {
    let mut rule = field.object()?;
    let from = rule.get(if direction == Direction::Ingress { "from" } else { "to" });
    let listed = rule.get("ports");
    rule.finish(&[])?;
    let mut chosen = Vec::new();
    let entries = from.as_ref().map_or(Ok(Vec::new()), Field::items)?;
    for entry in &entries {
        chosen.push(peer(context, entry)?);
    }
    let peers = if entries.is_empty() { Peers::Any } else { Peers::Of(chosen) };
    let mut matches = Vec::new();
    for entry in listed.as_ref().map_or(Ok(Vec::new()), Field::items)? {
        matches.push(port(&entry)?);
    }
    let ports = if matches.is_empty() { Ports::All } else { Ports::Of(matches) };
    let (action, priority, line) = (Action::Allow, tier::NORMAL, field.line());
    Ok(Clause { direction, action, priority, index, line, peers, ports, auth: None })
}

fn peer(context: &Context<'_>, field: &Field<'_>) -> Result<Selector> {
    let mut entry = field.object()?;
    let (pods, namespaces, block) =
        (entry.get("podSelector"), entry.get("namespaceSelector"), entry.get("ipBlock"));
    entry.finish(&[])?;
    if let Some(block) = block {
        if pods.is_some() || namespaces.is_some() {
            return Err(block.error("cannot stand beside a selector", "write two entries"));
        }
        return ip_block(&block);
    }
    if pods.is_none() && namespaces.is_none() {
        return Err(field.error("selects nothing", "`podSelector: {}` is every pod of the namespace"));
    }
    let mut found = pods.as_ref().map_or(Ok(Vec::new()), |field| requirements(field, &pod_key))?;
    match namespaces {
        None => found.push(own_namespace(context)),
        Some(field) => {
            found.append(&mut requirements(&field, &namespace_key)?);
            // A selector of what is absent must not reach outside the cluster, where every label is.
            found.push(Requirement::exists(Source::K8s, POD_NAMESPACE));
        }
    }
    Ok(Selector::labels(found))
}

fn ip_block(field: &Field<'_>) -> Result<Selector> {
    let mut block = field.object()?;
    let net = block.required("cidr")?;
    let except = block.get("except");
    block.finish(&[])?;
    peers::range(&net, except.as_ref(), PodRange::Whole)
}

fn port(field: &Field<'_>) -> Result<PortMatch> {
    let mut entry = field.object()?;
    let (name, port, end) = (entry.get("protocol"), entry.get("port"), entry.get("endPort"));
    entry.finish(&[])?;
    let text = name.as_ref().map_or(Ok("TCP"), Field::string)?;
    let Some(protocol) = ports::transport(text) else {
        return Err(name
            .as_ref()
            .unwrap_or(field)
            .error(format!("{text:?} is not a protocol"), "TCP, UDP or SCTP"));
    };
    match (port, end) {
        (Some(port), end) => ports::port_match(protocol, &port, end.as_ref()),
        (None, None) => Ok(PortMatch::Protocol(protocol)),
        (None, Some(end)) => Err(end.error("has no meaning without `port`", "")),
    }
}
