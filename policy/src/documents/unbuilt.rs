//! Peers that only a part that is not built yet could find: nodes by their labels, groups at a cloud provider,
//! services, names. They are read as strictly as everything else; then an allowing rule allows none of them, and
//! a denying one denies everybody that they could be.

use super::Context;
use super::selectors::{Key, requirements};
use crate::fields::{Field, Result};
use crate::model::{Action, Peers};
use crate::selector::Selector;

/// A kind of peer that cannot be found yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbuilt {
    Nodes,
    Groups,
    Services,
    Names,
}

/// What nodes are, whichever of them is meant.
const NODES: [&str; 3] = ["host", "remote-node", "kube-apiserver"];

/// Everybody who is a node.
pub(super) fn all_nodes() -> Vec<Selector> {
    NODES.iter().map(|name| Selector::reserved(name)).collect()
}

/// Reads a list of such peers; an empty one is nobody.
pub(super) fn peers(
    context: &mut Context<'_>,
    field: &Field<'_>,
    kind: Unbuilt,
    action: Action,
) -> Result<Peers> {
    let items = field.items()?;
    for item in &items {
        match kind {
            Unbuilt::Nodes => drop(requirements(item, &node_key)?),
            Unbuilt::Groups => provider_group(item)?,
            Unbuilt::Services => service(item)?,
            Unbuilt::Names => domain_name(context, item)?,
        }
    }
    if items.is_empty() {
        return Ok(Peers::Of(Vec::new()));
    }
    if kind == Unbuilt::Names && action == Action::Deny {
        return Err(field.error("cannot stand in a rule that denies", "allow what is wanted instead"));
    }
    context.missing(field, reason(kind));
    if action != Action::Deny {
        return Ok(Peers::Of(Vec::new()));
    }
    Ok(match kind {
        Unbuilt::Nodes => Peers::Of(all_nodes()),
        Unbuilt::Groups => Peers::Of(vec![Selector::reserved("world")]),
        Unbuilt::Services | Unbuilt::Names => Peers::Any,
    })
}

fn reason(kind: Unbuilt) -> &'static str {
    match kind {
        Unbuilt::Nodes => "nodes are not told apart by their labels yet",
        Unbuilt::Groups => "groups of a cloud provider are not looked up",
        Unbuilt::Services => "services are not known yet; select the pods behind it with endpoints",
        Unbuilt::Names => "names are not resolved yet; list the addresses with toCIDR",
    }
}

fn node_key(_: &Field<'_>, text: &str) -> Result<Key> {
    Ok((None, text.to_owned()))
}

fn provider_group(item: &Field<'_>) -> Result<()> {
    let mut group = item.object()?;
    if let Some(mut aws) = group.object("aws")? {
        aws.get("labels").map_or(Ok(Default::default()), |field| field.string_map())?;
        for name in ["securityGroupsIds", "securityGroupsNames"] {
            aws.get(name).map_or(Ok(Vec::new()), |field| field.strings())?;
        }
        aws.get("region").map_or(Ok(""), |field| field.string())?;
        aws.finish(&[])?;
    }
    group.finish(&[])
}

fn service(item: &Field<'_>) -> Result<()> {
    let mut entry = item.object()?;
    let named = entry.object("k8sService")?;
    let selected = entry.object("k8sServiceSelector")?;
    entry.finish(&[])?;
    if named.is_none() && selected.is_none() {
        return Err(item.error("names no service", "`k8sService` or `k8sServiceSelector`"));
    }
    if let Some(mut service) = named {
        service.get("serviceName").map_or(Ok(""), |field| field.string())?;
        service.get("namespace").map_or(Ok(""), |field| field.string())?;
        service.finish(&[])?;
    }
    if let Some(mut service) = selected {
        requirements(&service.required("selector")?, &node_key)?;
        service.get("namespace").map_or(Ok(""), |field| field.string())?;
        service.finish(&[])?;
    }
    Ok(())
}

fn domain_name(context: &mut Context<'_>, item: &Field<'_>) -> Result<()> {
    let mut entry = item.object()?;
    let (name, pattern) = (entry.get("matchName"), entry.get("matchPattern"));
    entry.finish(&[])?;
    let (text, wild) = match (&name, &pattern) {
        (Some(name), None) => (name, false),
        (None, Some(pattern)) => (pattern, true),
        _ => return Err(item.error("must have `matchName` or `matchPattern`, and not both", "")),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') || (wild && c == '*');
    if text.string()?.starts_with("*.") {
        context
            .note(text, "`*` is one label: names further down (a.b.…) are not meant; `**.` means those, too");
    }
    match text.string()? {
        found if !found.is_empty() && found.chars().all(good) => Ok(()),
        _ => Err(text.error("is not a name", if wild { "" } else { "patterns go into `matchPattern`" })),
    }
}
