//! The other side of a Cilium clause: endpoints, entities, address ranges.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::unbuilt::{self, Unbuilt};
use super::{Context, selectors};
use crate::fields::{Field, Object, Result};
use crate::identity::{cidr_labels, reserved_labels};
use crate::labels::{CLUSTER, Labels, Source};
use crate::model::{Action, AuthMode, Peers};
use crate::selector::{GroupRef, Operator, PodRange, Requirement, Selector};

/// The names of the fields of one direction.
pub(super) struct PeerFields {
    pub(super) endpoints: &'static str,
    pub(super) entities: &'static str,
    pub(super) cidr: &'static str,
    pub(super) cidr_set: &'static str,
    pub(super) requires: &'static str,
    pub(super) unbuilt: &'static [(&'static str, Unbuilt)],
}

pub(super) const FROM: PeerFields = PeerFields {
    endpoints: "fromEndpoints",
    entities: "fromEntities",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
    requires: "fromRequires",
    unbuilt: &[("fromNodes", Unbuilt::Nodes), ("fromGroups", Unbuilt::Groups)],
};

pub(super) const TO: PeerFields = PeerFields {
    endpoints: "toEndpoints",
    entities: "toEntities",
    cidr: "toCIDR",
    cidr_set: "toCIDRSet",
    requires: "toRequires",
    unbuilt: &[
        ("toNodes", Unbuilt::Nodes),
        ("toGroups", Unbuilt::Groups),
        ("toServices", Unbuilt::Services),
        ("toFQDNs", Unbuilt::Names),
    ],
};

/// Reads the peers of a clause; nothing where no field speaks of them. A field that is there and empty is nobody.
pub(super) fn peers(
    context: &mut Context<'_>,
    clause: &mut Object<'_>,
    names: &PeerFields,
    action: Action,
) -> Result<Option<Peers>> {
    no_requires(clause, names)?;
    let fields = [names.endpoints, names.entities, names.cidr, names.cidr_set].map(|name| clause.get(name));
    let unbuilt: Vec<_> =
        names.unbuilt.iter().filter_map(|(name, kind)| Some((clause.get(name)?, *kind))).collect();
    check_alone(clause, fields.iter().flatten().chain(unbuilt.iter().map(|(field, _)| field)))?;
    if fields.iter().all(Option::is_none) && unbuilt.is_empty() {
        return Ok(None);
    }
    let mut chosen = Vec::new();
    let mut any = false;
    let mut take = |peers| match peers {
        Peers::Any => any = true,
        Peers::Of(selectors) => chosen.extend(selectors),
    };
    for (field, read) in fields.iter().zip([endpoint, entity, cidr, cidr_set]) {
        for item in field.as_ref().map_or(Ok(Vec::new()), Field::items)? {
            take(read(context, &item, action)?);
        }
    }
    for (field, kind) in &unbuilt {
        take(unbuilt::peers(context, field, *kind, action)?);
    }
    Ok(Some(if any { Peers::Any } else { Peers::Of(chosen) }))
}

fn no_requires(clause: &mut Object<'_>, names: &PeerFields) -> Result<()> {
    match clause.get(names.requires) {
        Some(field) if !field.items()?.is_empty() => {
            Err(field
                .error("is no longer part of the API", format!("put its labels into `{}`", names.endpoints)))
        }
        _ => Ok(()),
    }
}

fn check_alone<'a>(clause: &Object<'_>, fields: impl Iterator<Item = &'a Field<'a>>) -> Result<()> {
    let filled = |field: &&Field<'_>| field.value.as_array().is_none_or(|list| !list.is_empty());
    let used: Vec<&Field<'_>> = fields.filter(filled).collect();
    if let [first, second, ..] = used.as_slice() {
        let name = |field: &Field<'_>| field.path().rsplit('.').next().unwrap_or_default().to_owned();
        let message = format!("`{}` and `{}` cannot be combined in one rule", name(first), name(second));
        return Err(clause.field().error(message, "write two rules"));
    }
    Ok(())
}

fn endpoint(context: &mut Context<'_>, field: &Field<'_>, action: Action) -> Result<Peers> {
    Ok(match selectors::peer(context, field)? {
        None if action == Action::Deny => Peers::Any,
        found => Peers::Of(found.into_iter().collect()),
    })
}

const CLUSTER_ENTITIES: [&str; 7] =
    ["host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"];

fn entity(context: &mut Context<'_>, field: &Field<'_>, _: Action) -> Result<Peers> {
    let name = field.string()?;
    let chosen = match name {
        "all" => return Ok(Peers::Any),
        "none" => Vec::new(),
        "world" => vec![Selector::reserved(name)],
        "cluster" => {
            let pods = Requirement::equals(Source::K8s, CLUSTER, &context.settings.cluster);
            let reserved = CLUSTER_ENTITIES.iter().map(|name| Selector::reserved(name));
            reserved.chain([Selector::labels(vec![pods])]).collect()
        }
        known if CLUSTER_ENTITIES.contains(&known) => vec![Selector::reserved(known)],
        "cluster-mesh" => vec![Selector::labels(vec![
            Requirement::exists(Source::K8s, CLUSTER),
            Requirement {
                key: CLUSTER.to_owned(),
                source: Some(Source::K8s),
                operator: Operator::NotIn(vec![context.settings.cluster.clone()]),
            },
        ])],
        "world-ipv4" => vec![everywhere(Ipv4Net::default().into())],
        "world-ipv6" => vec![everywhere(Ipv6Net::default().into())],
        _ => {
            let hint = "all, world, cluster, cluster-mesh, host, remote-node, kube-apiserver, ingress, health, init, unmanaged, none";
            return Err(field.error(format!("{name:?} is not an entity"), hint));
        }
    };
    Ok(Peers::Of(chosen))
}

fn everywhere(net: IpNet) -> Selector {
    Selector::Cidr { net, except: Vec::new(), pods: PodRange::None }
}

fn cidr(_: &mut Context<'_>, field: &Field<'_>, _: Action) -> Result<Peers> {
    let text = field.string()?;
    let net = match text.parse::<std::net::IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => field.parsed("an address or a range of addresses")?,
    };
    Ok(Peers::Of(vec![everywhere(usable(field, net)?)]))
}

fn cidr_set(_: &mut Context<'_>, field: &Field<'_>, _: Action) -> Result<Peers> {
    let mut set = field.object()?;
    let (net, name, labels) = (set.get("cidr"), set.get("cidrGroupRef"), set.get("cidrGroupSelector"));
    let except = set.get("except");
    set.finish(&[])?;
    let selector = match (net, name, labels) {
        (Some(net), None, None) => range(&net, except.as_ref(), PodRange::None)?,
        (None, Some(name), None) => Selector::Group {
            of: GroupRef::Name(name.name()?.to_owned()),
            except: exceptions(except.as_ref())?,
        },
        (None, None, Some(labels)) => {
            let labels = selectors::requirements(&labels, &selectors::pod_key)?;
            Selector::Group { of: GroupRef::Labels(labels), except: exceptions(except.as_ref())? }
        }
        (None, None, None) => return Err(field.error("`cidr` is missing", "or `cidrGroupRef`")),
        _ => return Err(field.error("names its ranges in more than one way", "write two entries")),
    };
    Ok(Peers::Of(vec![selector]))
}

/// Ranges to be left out of ranges that are known later.
fn exceptions(except: Option<&Field<'_>>) -> Result<Vec<IpNet>> {
    let mut left_out = Vec::new();
    for item in except.map_or(Ok(Vec::new()), Field::items)? {
        left_out.push(usable(&item, item.parsed("a range of addresses, as 10.1.0.0/16")?)?);
    }
    left_out.sort();
    left_out.dedup();
    Ok(left_out)
}

/// An address range with exceptions, each of which must lie within it.
pub(super) fn range(net: &Field<'_>, except: Option<&Field<'_>>, pods: PodRange) -> Result<Selector> {
    let whole = usable(net, net.parsed("a range of addresses, as 10.0.0.0/8")?)?;
    for item in except.map_or(Ok(Vec::new()), Field::items)? {
        let part: IpNet = usable(&item, item.parsed("a range of addresses, as 10.1.0.0/16")?)?;
        if !whole.contains(&part) {
            return Err(item.error(format!("{part} is not inside {whole}"), ""));
        }
    }
    let left_out = exceptions(except)?;
    Ok(Selector::Cidr { net: whole, except: left_out, pods })
}

pub(super) fn usable(field: &Field<'_>, net: IpNet) -> Result<IpNet> {
    match net {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96 => {
            Err(field.error("IPv4 addresses in IPv6 form never match a packet", "write the IPv4 form"))
        }
        _ => Ok(net.trunc()),
    }
}

/// Refuses authentication with peers that have no certificate: it could only ever drop.
pub(super) fn check_auth(field: &Field<'_>, mode: AuthMode, peers: &Peers) -> Result<()> {
    if mode == AuthMode::Disabled {
        return Ok(());
    }
    let unable = match peers {
        Peers::Any => Some("everybody, the world included".to_owned()),
        Peers::Of(selectors) => selectors.iter().find_map(without_certificate),
    };
    let Some(unable) = unable else { return Ok(()) };
    let hint = "select pods with fromEndpoints/toEndpoints, and allow the others in a rule of their own";
    Err(field.error(format!("the rule selects {unable}, which cannot authenticate"), hint))
}

fn without_certificate(selector: &Selector) -> Option<String> {
    if let Selector::Cidr { .. } | Selector::Group { .. } = selector {
        return Some(format!("addresses ({selector})"));
    }
    let anywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok()).map(cidr_labels);
    let mut all = reserved_labels().into_values().chain(anywhere).chain([Labels::new()]);
    all.find(|labels| selector.matches(labels)).map(|labels| match labels.iter().next() {
        Some(label) => label.to_string(),
        None => "what is not known".to_owned(),
    })
}
