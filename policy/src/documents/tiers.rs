//! policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy: rules in an order, before and after everybody else's.

use super::selectors::{namespace_key, pod_key, requirements};
use super::unbuilt::all_nodes;
use super::{Context, peers, ports};
use crate::endpoint::tier;
use crate::fields::{Field, Object, Result};
use crate::labels::{POD_NAMESPACE, Source};
use crate::model::{Action, Clause, Direction, Peers, PortMatch, Ports, Rule};
use crate::selector::{PodRange, Requirement, Selector};

/// Most rules in one direction, peers of a rule, and protocols of a rule (the API's own bound).
const ENTRIES: usize = 25;
/// Ranks that one value of `priority` has room for.
const RANKS: u32 = 100;

/// Reads the `spec`.
pub(super) fn rules(context: &mut Context<'_>, mut root: Object<'_>) -> Result<Vec<Rule>> {
    let field = root.required("spec")?;
    root.finish(&[])?;
    let mut spec = field.object()?;
    let tier = tier(&spec.required("tier")?)?;
    let priority = spec.required("priority")?.integer(0..=1000)?;
    let first = tier + u32::try_from(priority).unwrap_or(1000) * RANKS;
    let subject = subject(&spec.required("subject")?)?;
    let lists = [spec.get("ingress"), spec.get("egress")];
    spec.finish(&[])?;
    let mut clauses = Vec::new();
    for (list, direction) in lists.iter().zip(Direction::ALL) {
        let items = list.as_ref().map_or(Ok(Vec::new()), bounded)?;
        for ((index, item), rank) in items.iter().enumerate().zip(first..) {
            clauses.append(&mut clause(context, item, direction, (index, rank))?);
        }
    }
    Ok(vec![Rule {
        path: field.path().to_owned(),
        subject,
        default_deny_ingress: false,
        default_deny_egress: false,
        clauses,
        labels: Vec::new(),
        description: String::new(),
        log: String::new(),
    }])
}

fn tier(field: &Field<'_>) -> Result<u32> {
    match field.string()? {
        "Admin" => Ok(tier::ADMIN),
        "Baseline" => Ok(tier::BASELINE),
        "Normal" | "NetworkPolicy" => Err(field.error(
            "is the tier of the other kinds of policy",
            "Admin or Baseline, or write a NetworkPolicy or CiliumNetworkPolicy",
        )),
        _ => Err(field.error("is not a tier", "Admin or Baseline")),
    }
}

fn bounded<'a>(list: &Field<'a>) -> Result<Vec<Field<'a>>> {
    let items = list.items()?;
    if items.len() > ENTRIES {
        return Err(list.error(format!("{} entries; at most {ENTRIES} are taken", items.len()), ""));
    }
    Ok(items)
}

/// The one field of `choice` that is there: its name and value.
fn only<'a>(choice: &Field<'a>, names: &'static [&'static str]) -> Result<(&'static str, Field<'a>)> {
    let mut object = choice.object()?;
    let there: Vec<_> = names.iter().filter_map(|name| Some((*name, object.get(name)?))).collect();
    object.finish(&[])?;
    match <[_; 1]>::try_from(there) {
        Ok([one]) => Ok(one),
        Err(_) => Err(choice.error("must have exactly one field", names.join(", "))),
    }
}

fn subject(field: &Field<'_>) -> Result<Selector> {
    let (name, inner) = only(field, &["namespaces", "pods"])?;
    pods(name, &inner)
}

/// `namespaces` or `pods`: pods with a network namespace of their own.
fn pods(name: &str, field: &Field<'_>) -> Result<Selector> {
    let mut found = if name == "namespaces" {
        requirements(field, &namespace_key)?
    } else {
        let mut pods = field.object()?;
        let (namespaces, selector) = (pods.required("namespaceSelector")?, pods.required("podSelector")?);
        pods.finish(&[])?;
        let mut found = requirements(&namespaces, &namespace_key)?;
        found.append(&mut requirements(&selector, &pod_key)?);
        found
    };
    found.push(Requirement::exists(Source::K8s, POD_NAMESPACE));
    Ok(Selector::labels(found))
}

fn clause(
    context: &mut Context<'_>,
    field: &Field<'_>,
    direction: Direction,
    (index, priority): (usize, u32),
) -> Result<Vec<Clause>> {
    let mut rule = field.object()?;
    let name = rule.get("name").map_or(Ok(""), |field| field.string())?;
    if name.len() > 100 {
        return Err(field.error("has a name longer than 100 bytes", ""));
    }
    let action = action(&rule.required("action")?)?;
    let listed = rule.required(if direction == Direction::Ingress { "from" } else { "to" })?;
    let protocols = rule.get("protocols");
    rule.finish(&[])?;
    let mut found = Found { chosen: Vec::new(), closed: Vec::new(), addresses: false };
    let entries = bounded(&listed)?;
    if entries.is_empty() {
        return Err(listed.error("is empty", "name at least one peer"));
    }
    for entry in &entries {
        found.peer(context, entry, direction, action)?;
    }
    let ports = protocols.as_ref().map_or(Ok(Ports::All), |list| self::protocols(list, &found))?;
    let of = |action, peers| Clause {
        direction,
        action,
        priority,
        index,
        line: field.line(),
        peers: Peers::Of(peers),
        ports: ports.clone(),
        auth: None,
    };
    let closed = (!found.closed.is_empty()).then(|| of(Action::Deny, found.closed));
    Ok([of(action, found.chosen)].into_iter().chain(closed).collect())
}

fn action(field: &Field<'_>) -> Result<Action> {
    match field.string()? {
        "Accept" => Ok(Action::Allow),
        "Deny" => Ok(Action::Deny),
        "Pass" => Ok(Action::Pass),
        _ => Err(field.error("is not an action", "Accept, Deny or Pass")),
    }
}

/// Peers of one rule.
struct Found {
    chosen: Vec<Selector>,
    /// Whom a rule that passes would have to know to pass them: they are denied instead.
    closed: Vec<Selector>,
    /// Whether some have no named ports.
    addresses: bool,
}

impl Found {
    fn peer(
        &mut self,
        context: &mut Context<'_>,
        entry: &Field<'_>,
        direction: Direction,
        action: Action,
    ) -> Result<()> {
        let names: &'static [&'static str] = match direction {
            Direction::Ingress => &["namespaces", "pods"],
            Direction::Egress => &["namespaces", "pods", "nodes", "networks", "domainNames"],
        };
        let (name, field) = only(entry, names)?;
        self.addresses |= matches!(name, "nodes" | "networks" | "domainNames");
        match name {
            "nodes" => self.nodes(context, &field, action),
            "networks" => self.networks(&field, action),
            "domainNames" => {
                if action != Action::Allow {
                    return Err(field.error("can stand in rules that accept only", ""));
                }
                field.strings()?;
                context.missing(&field, "names are not resolved yet");
                Ok(())
            }
            _ => {
                self.chosen.push(pods(name, &field)?);
                Ok(())
            }
        }
    }

    fn nodes(&mut self, context: &mut Context<'_>, field: &Field<'_>, action: Action) -> Result<()> {
        if requirements(field, &pod_key)?.is_empty() {
            self.chosen.append(&mut all_nodes());
            return Ok(());
        }
        context.missing(field, "nodes are not told apart by their labels yet");
        match action {
            Action::Deny => self.chosen.append(&mut all_nodes()),
            Action::Pass => self.closed.append(&mut all_nodes()),
            Action::Allow | Action::Withhold => {}
        }
        Ok(())
    }

    /// Ranges mean everybody with an address in them, pods and nodes included.
    fn networks(&mut self, field: &Field<'_>, action: Action) -> Result<()> {
        let meant = if action == Action::Deny { PodRange::Part } else { PodRange::Whole };
        let items = bounded(field)?;
        if items.is_empty() {
            return Err(field.error("is empty", ""));
        }
        for item in items {
            self.chosen.push(peers::range(&item, None, meant)?);
        }
        Ok(())
    }
}

fn protocols(list: &Field<'_>, peers: &Found) -> Result<Ports> {
    let items = bounded(list)?;
    if items.is_empty() {
        return Err(list.error("is empty, which could mean every protocol or none", "leave it out for every"));
    }
    let mut matches = Vec::new();
    for item in items {
        let (name, field) = only(&item, &["tcp", "udp", "sctp", "destinationNamedPort"])?;
        match ports::transport(&name.to_ascii_uppercase()) {
            Some(protocol) => matches.push(port(protocol, &field)?),
            None if peers.addresses => {
                return Err(field.error("has no meaning for nodes, networks and names", "write two rules"));
            }
            None => {
                let name = ports::name_of_port(&field)?;
                let all = [ports::protocol::TCP, ports::protocol::UDP, ports::protocol::SCTP];
                matches.extend(all.map(|protocol| PortMatch::Named(protocol, name.clone())));
            }
        }
    }
    Ok(Ports::Of(matches))
}

fn port(protocol: u8, field: &Field<'_>) -> Result<PortMatch> {
    let mut inner = field.object()?;
    let destination = inner.get("destinationPort");
    inner.finish(&[])?;
    let Some(destination) = destination else { return Ok(PortMatch::Protocol(protocol)) };
    let number = |field: &Field<'_>| field.integer(1..=65535).map(|n| u16::try_from(n).unwrap_or(u16::MAX));
    let (name, field) = only(&destination, &["number", "range"])?;
    if name == "number" {
        let port = number(&field)?;
        return Ok(PortMatch::Range(protocol, port, port));
    }
    let mut range = field.object()?;
    let (start, end) = (number(&range.required("start")?)?, number(&range.required("end")?)?);
    range.finish(&[])?;
    if start >= end {
        return Err(field.error(format!("{end} is not after {start}"), ""));
    }
    Ok(PortMatch::Range(protocol, start, end))
}
