//! The naive oracle: walks the documents as they are written, packet by packet, with no maps, no prefixes in
//! tries and none of the crate's types. Written from the description of Cilium's semantics.

use std::collections::BTreeMap;

use serde_json::Value;

/// Labels as `source:key` to value.
pub type LabelSet = BTreeMap<String, String>;

/// One side of a packet.
#[derive(Clone, Debug)]
pub struct Side {
    pub identity: u32,
    pub labels: LabelSet,
    /// The range whose identity an outside address has: address and length.
    pub range: Option<(u32, u8)>,
    pub named: BTreeMap<(String, String), u16>,
    /// The addresses of its pods, one each.
    pub pods: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub ingress: bool,
    pub subject: &'a Side,
    pub peer: &'a Side,
    pub protocol: &'a str,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub allow: bool,
    pub denied_by_rule: bool,
    pub auth: u8,
    /// Clauses that may be named as the reason: document, rule, `ingress`/`egress`, allow, index.
    pub rules: Vec<(String, String, bool, usize)>,
}

struct Found {
    /// Selected by name, as against everybody.
    own: bool,
    /// 0 for every protocol, 8 for a protocol, up to 24 for one port.
    bits: u8,
    auth: Option<u8>,
    /// It would allow if there were a proxy.
    withheld: bool,
    rule: (String, String, bool, usize),
}

/// A rule of a tier that matches: priority, position, and what it does.
struct Ordered {
    rank: (u64, usize),
    action: String,
    rule: (String, String, bool, usize),
}

pub fn decide(documents: &[Value], packet: Packet<'_>) -> Answer {
    let mut enforced = false;
    let (mut allows, mut denies) = (Vec::new(), Vec::new());
    let (mut admin, mut baseline) = (Vec::new(), Vec::new());
    for document in documents {
        if document["kind"] == "ClusterNetworkPolicy" {
            let tier = if document["spec"]["tier"] == "Admin" { &mut admin } else { &mut baseline };
            tier.append(&mut tiered(document, packet));
            continue;
        }
        for (path, spec) in specs(document) {
            if let Some(nodes) = spec.get("nodeSelector") {
                assert!(nodes.is_object());
                denies.extend(node_rule(document, &path, spec, packet));
                continue;
            }
            if !subject_matches(document, spec, packet.subject) {
                continue;
            }
            enforced |= default_deny(document, spec, packet.ingress);
            let names = if packet.ingress { ["ingress", "ingressDeny"] } else { ["egress", "egressDeny"] };
            for (name, found) in names.iter().zip([&mut allows, &mut denies]) {
                let list = spec.get(*name).and_then(Value::as_array).cloned().unwrap_or_default();
                if document["kind"] == "NetworkPolicy" && !applies(spec, packet.ingress) {
                    continue;
                }
                for (index, clause) in list.iter().enumerate() {
                    let id = document["metadata"]["name"].as_str().unwrap().to_owned();
                    let rule = (id, path.clone(), name.ends_with("Deny"), index);
                    found.extend(clause_matches(documents, document, clause, packet, rule));
                }
            }
        }
    }
    if let Some(answer) = first(admin) {
        return answer;
    }
    let (withheld, allows): (Vec<Found>, Vec<Found>) = allows.into_iter().partition(|found| found.withheld);
    if let Some(answer) = judge(&allows, &denies, &withheld) {
        return answer;
    }
    if !enforced && let Some(answer) = first(baseline) {
        return answer;
    }
    let probe = packet.ingress && packet.peer.identity == 1;
    Answer { allow: !enforced || probe, denied_by_rule: false, auth: 0, rules: Vec::new() }
}

/// What a tier in which the first rule that matches decides comes to; nothing where it passes.
fn first(mut rules: Vec<Ordered>) -> Option<Answer> {
    // Policies of one priority count as one, in which denying comes before accepting, and that before passing.
    let weight = |action: &str| ["Deny", "Accept", "Pass"].iter().position(|known| *known == action);
    rules.sort_by_key(|rule| (rule.rank, weight(&rule.action)));
    let decisive = rules.first().filter(|rule| rule.action != "Pass")?;
    let (rank, action) = (decisive.rank, decisive.action.clone());
    let alike = rules.into_iter().filter(|rule| rule.rank == rank && rule.action == action);
    let allow = action == "Accept";
    Some(Answer { allow, denied_by_rule: !allow, auth: 0, rules: alike.map(|rule| rule.rule).collect() })
}

fn tiered(document: &Value, packet: Packet<'_>) -> Vec<Ordered> {
    let spec = &document["spec"];
    if !choice_matches(&spec["subject"], packet.subject, false) {
        return Vec::new();
    }
    let (list, way) = if packet.ingress { ("ingress", "from") } else { ("egress", "to") };
    let mut found = Vec::new();
    for (index, rule) in spec.get(list).and_then(Value::as_array).into_iter().flatten().enumerate() {
        let action = rule["action"].as_str().unwrap();
        let peers = rule[way].as_array().unwrap();
        let any = |wanted: &dyn Fn(&Value) -> bool| peers.iter().any(wanted);
        if !tiered_ports(rule, packet) {
            continue;
        }
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let push = |action: &str| Ordered {
            rank: (spec["priority"].as_u64().unwrap(), index),
            action: action.to_owned(),
            rule: (name.clone(), "spec".to_owned(), action == "Deny", index),
        };
        if any(&|peer| choice_matches(peer, packet.peer, action == "Deny")) {
            found.push(push(action));
        }
        // Nodes that cannot be told apart: who denies means them all, who passes closes.
        let unknown = any(&|peer| peer.get("nodes").is_some_and(|nodes| nodes != &serde_json::json!({})));
        if unknown && is_node(packet.peer) && action != "Accept" {
            found.push(push("Deny"));
        }
    }
    found
}

fn is_node(side: &Side) -> bool {
    ["host", "remote-node", "kube-apiserver"]
        .iter()
        .any(|name| side.labels.contains_key(&format!("reserved:{name}")))
}

fn choice_matches(choice: &Value, side: &Side, deny: bool) -> bool {
    let pod = side.labels.contains_key("k8s:io.kubernetes.pod.namespace");
    let of_namespace =
        |selector: &Value| selector_matches(selector, &side.labels, "k8s:io.cilium.k8s.namespace.labels.");
    if let Some(namespaces) = choice.get("namespaces") {
        return pod && of_namespace(namespaces);
    }
    if let Some(pods) = choice.get("pods") {
        return pod
            && of_namespace(&pods["namespaceSelector"])
            && selector_matches(&pods["podSelector"], &side.labels, "k8s:");
    }
    if let Some(nodes) = choice.get("nodes") {
        return nodes == &serde_json::json!({}) && is_node(side);
    }
    let nets = choice["networks"].as_array().unwrap();
    nets.iter().any(|net| in_block(net.as_str().unwrap(), &[], side, deny))
}

fn tiered_ports(rule: &Value, packet: Packet<'_>) -> bool {
    let Some(protocols) = rule.get("protocols").and_then(Value::as_array) else { return true };
    protocols.iter().any(|protocol| {
        let Some(ports) = protocol.get(packet.protocol.to_lowercase()) else { return false };
        let Some(port) = ports.get("destinationPort") else { return true };
        let number = |value: &Value| value.as_u64().unwrap();
        match port.get("range") {
            Some(range) => (number(&range["start"])..=number(&range["end"])).contains(&packet.port.into()),
            None => number(&port["number"]) == u64::from(packet.port),
        }
    })
}

/// A rule for nodes: in the directions it speaks of, pods and nodes do not reach each other.
fn node_rule(document: &Value, path: &str, spec: &Value, packet: Packet<'_>) -> Option<Found> {
    let pod = packet.subject.labels.contains_key("k8s:io.kubernetes.pod.namespace");
    let speaks = spec.get(if packet.ingress { "egress" } else { "ingress" }).is_some();
    (pod && speaks && is_node(packet.peer)).then(|| {
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        Found { own: true, bits: 0, auth: None, withheld: false, rule: (name, path.to_owned(), true, 0) }
    })
}

/// What rules without an order come to; nothing where none of them speaks of the packet.
fn judge(allows: &[Found], denies: &[Found], withheld: &[Found]) -> Option<Answer> {
    let answer = |allow, denied_by_rule, auth, found: &[Found]| {
        let rules = found.iter().map(|found| found.rule.clone()).collect();
        Some(Answer { allow, denied_by_rule, auth, rules })
    };
    if !denies.is_empty() {
        return answer(false, true, 0, denies);
    }
    let side = |own: bool| strongest(allows.iter().filter(|found| found.own == own).collect());
    match (side(true), side(false)) {
        (None, None) if !withheld.is_empty() => answer(false, true, 0, withheld),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => answer(true, false, one.auth, allows),
        (Some(own), Some(any)) => {
            let winner = if any.bits > own.bits { &any } else { &own };
            let auth = if winner.written { winner.auth } else { own.auth.max(any.auth) };
            answer(true, false, auth, allows)
        }
    }
}

struct Strongest {
    bits: u8,
    auth: u8,
    written: bool,
}

/// The narrowest match, with its own authentication mode or that of the nearest broader one that names one.
fn strongest(mut found: Vec<&Found>) -> Option<Strongest> {
    found.sort_by_key(|found| std::cmp::Reverse(found.bits));
    let bits = found.first()?.bits;
    for candidate in &found {
        let at = candidate.bits;
        let modes = found.iter().filter(|found| found.bits == at).filter_map(|found| found.auth);
        if let Some(auth) = modes.max() {
            return Some(Strongest { bits, auth, written: at == bits });
        }
    }
    Some(Strongest { bits, auth: 0, written: false })
}

fn specs(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    if let Some(spec) = document.get("spec") {
        found.push(("spec".to_owned(), spec));
    }
    for (index, spec) in document.get("specs").and_then(Value::as_array).into_iter().flatten().enumerate() {
        found.push((format!("specs[{index}]"), spec));
    }
    found
}

fn namespace(document: &Value) -> Option<&str> {
    document["metadata"]["namespace"].as_str()
}

fn subject_matches(document: &Value, spec: &Value, subject: &Side) -> bool {
    let kubernetes = document["kind"] == "NetworkPolicy";
    let selector = if kubernetes { &spec["podSelector"] } else { &spec["endpointSelector"] };
    let in_namespace = match namespace(document) {
        Some(namespace) => {
            subject.labels.get("k8s:io.kubernetes.pod.namespace").map(String::as_str) == Some(namespace)
        }
        None => true,
    };
    let mut selector = selector.clone();
    if let (false, Some(_), Some(labels)) =
        (kubernetes, namespace(document), selector["matchLabels"].as_object_mut())
    {
        // A namespaced policy's own namespace replaces what its selector says of namespaces.
        for source in ["", "any:", "k8s:"] {
            labels.remove(&format!("{source}io.kubernetes.pod.namespace"));
        }
    }
    in_namespace && selector_matches(&selector, &subject.labels, if kubernetes { "k8s:" } else { "" })
}

fn default_deny(document: &Value, spec: &Value, ingress: bool) -> bool {
    if document["kind"] == "NetworkPolicy" {
        return applies(spec, ingress);
    }
    let (allow, deny) = if ingress { ("ingress", "ingressDeny") } else { ("egress", "egressDeny") };
    let switch = &spec["enableDefaultDeny"][allow];
    let listed = spec.get(allow).is_some();
    let denying = spec.get(deny).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    switch.as_bool().unwrap_or(listed || denying)
}

fn applies(spec: &Value, ingress: bool) -> bool {
    match spec.get("policyTypes").and_then(Value::as_array) {
        Some(types) if !types.is_empty() => {
            types.iter().any(|t| t == if ingress { "Ingress" } else { "Egress" })
        }
        _ => ingress || spec.get("egress").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
    }
}

fn selector_matches(selector: &Value, labels: &LabelSet, prefix: &str) -> bool {
    let equal = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut equal = equal
        .map(|(key, value)| values(&format!("{prefix}{key}"), labels).contains(&value.as_str().unwrap()));
    let listed = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    let mut listed = listed.map(|expression| {
        let there = values(&format!("{prefix}{}", expression["key"].as_str().unwrap()), labels);
        let wanted = expression["values"].as_array().cloned().unwrap_or_default();
        let hit = there.iter().any(|value| wanted.iter().any(|wanted| wanted == value));
        match expression["operator"].as_str().unwrap() {
            "In" => hit,
            "NotIn" => !hit,
            "Exists" => !there.is_empty(),
            _ => there.is_empty(),
        }
    });
    equal.all(|good| good) && listed.all(|good| good)
}

/// The values of a key; without a source, or with `any:`, whatever their source.
fn values<'a>(key: &str, labels: &'a LabelSet) -> Vec<&'a str> {
    let bare = key.strip_prefix("any:").unwrap_or(key);
    let full = if bare.contains(':') { vec![bare.to_owned()] } else { vec![] };
    let any = ["k8s:", "reserved:"].iter().map(|source| format!("{source}{bare}")).collect();
    let keys: Vec<String> = if full.is_empty() { any } else { full };
    keys.iter().filter_map(|key| labels.get(key)).map(String::as_str).collect()
}

fn clause_matches(
    documents: &[Value],
    document: &Value,
    clause: &Value,
    packet: Packet<'_>,
    rule: (String, String, bool, usize),
) -> Vec<Found> {
    let kubernetes = document["kind"] == "NetworkPolicy";
    let own = match if kubernetes {
        kubernetes_peer(document, clause, packet)
    } else {
        cilium_peer(documents, document, clause, packet, rule.2)
    } {
        Peer::Named(true) => true,
        Peer::Named(false) => return Vec::new(),
        Peer::Everybody => false,
    };
    let (plain, withheld) =
        if kubernetes { (kubernetes_ports(clause, packet), None) } else { cilium_ports(clause, packet) };
    let auth = match clause["authentication"]["mode"].as_str() {
        Some("required") => Some(1),
        Some("test-always-fail") => Some(2),
        Some("disabled") => Some(0),
        _ => None,
    };
    // The name of a port means something else for each receiver, so that such a match names its peer.
    let found = |(bits, named_on_egress): PortHit, withheld| Found {
        own: own || named_on_egress,
        bits,
        auth,
        withheld,
        rule: rule.clone(),
    };
    plain.map(|hit| found(hit, false)).into_iter().chain(withheld.map(|hit| found(hit, true))).collect()
}

enum Peer {
    Everybody,
    Named(bool),
}

fn cilium_peer(
    documents: &[Value],
    document: &Value,
    clause: &Value,
    packet: Packet<'_>,
    deny: bool,
) -> Peer {
    let way = if packet.ingress { "from" } else { "to" };
    let field = |name: &str| clause.get(format!("{way}{name}")).and_then(Value::as_array);
    let (endpoints, entities, cidrs, sets) =
        (field("Endpoints"), field("Entities"), field("CIDR"), field("CIDRSet"));
    let unbuilt = ["Nodes", "Groups", "Services", "FQDNs"].into_iter().find(|name| field(name).is_some());
    if let Some(kind) = unbuilt {
        let world = packet.peer.labels.contains_key("reserved:world");
        return match (deny, kind) {
            (false, _) => Peer::Named(false),
            (true, "Nodes") => Peer::Named(is_node(packet.peer)),
            (true, "Groups") => Peer::Named(world),
            (true, _) => Peer::Everybody,
        };
    }
    if endpoints.is_none() && entities.is_none() && cidrs.is_none() && sets.is_none() {
        let has_ports = clause.get("toPorts").is_some() || clause.get("icmps").is_some();
        return if has_ports { Peer::Everybody } else { Peer::Named(false) };
    }
    if entities.into_iter().flatten().any(|entity| entity == "all") {
        return Peer::Everybody;
    }
    let peer = packet.peer;
    // Labels that only nodes have: nobody's in what allows, everybody's in what denies.
    let elsewhere = |selector: &&Value| selector.to_string().contains("\"node:");
    if deny && endpoints.into_iter().flatten().any(|selector| elsewhere(&selector)) {
        return Peer::Everybody;
    }
    let endpoints: Option<Vec<&Value>> =
        endpoints.map(|list| list.iter().filter(|s| !elsewhere(s)).collect());
    let by_endpoint = endpoints.into_iter().flatten().any(|selector| peer_selected(document, selector, peer));
    let by_entity = entities.into_iter().flatten().any(|entity| is_entity(entity.as_str().unwrap(), peer));
    let by_cidr = cidrs.into_iter().flatten().any(|net| inside(net.as_str().unwrap(), peer));
    let by_set = sets.into_iter().flatten().any(|set| in_set(documents, set, peer));
    Peer::Named(by_endpoint || by_entity || by_cidr || by_set)
}

fn peer_selected(document: &Value, selector: &Value, peer: &Side) -> bool {
    let mut keys: Vec<String> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, _)| key.clone())
        .collect();
    let listed = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    keys.extend(listed.map(|expression| expression["key"].as_str().unwrap().to_owned()));
    let mut matches = selector_matches(selector, &peer.labels, "");
    let by_selector = selector.get("namespaceSelector");
    if let Some(namespaces) = by_selector {
        let pod = peer.labels.contains_key("k8s:io.kubernetes.pod.namespace");
        matches &= pod && selector_matches(namespaces, &peer.labels, "k8s:io.cilium.k8s.namespace.labels.");
        // It is the same as naming the labels: a selector of namespaces that says something, or that they exist.
        keys.push("k8s:io.kubernetes.pod.namespace".to_owned());
    }
    if keys.iter().any(|key| key.starts_with("reserved:")) {
        return matches;
    }
    let strip = |key: &String| key.trim_start_matches("any:").trim_start_matches("k8s:").to_owned();
    let by_namespace = keys.iter().any(|key| strip(key) == "io.kubernetes.pod.namespace");
    let by_labels = keys.iter().any(|key| strip(key).starts_with("io.cilium.k8s.namespace.labels."));
    let there = peer.labels.get("k8s:io.kubernetes.pod.namespace");
    let scoped = match namespace(document) {
        _ if by_namespace => true,
        None => there.is_some(),
        Some(_) if by_labels => true,
        Some(namespace) => there.map(String::as_str) == Some(namespace),
    };
    let local = peer.labels.get("k8s:io.cilium.k8s.policy.cluster").map(String::as_str) == Some("default");
    matches && scoped && local
}

fn is_entity(entity: &str, peer: &Side) -> bool {
    let pod = peer.labels.contains_key("k8s:io.cilium.k8s.policy.cluster");
    match entity {
        "none" | "cluster-mesh" => false,
        "world-ipv4" => inside("0.0.0.0/0", peer),
        "cluster" => pod || !peer.labels.contains_key("reserved:world"),
        name => peer.labels.contains_key(&format!("reserved:{name}")),
    }
}

fn parse_net(net: &str) -> (u32, u8) {
    let (address, length) = net.split_once('/').unwrap_or((net, "32"));
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    let length: u8 = length.parse().unwrap();
    (u32::from(address) & mask(length), length)
}

fn mask(length: u8) -> u32 {
    if length == 0 { 0 } else { u32::MAX << (32 - length) }
}

/// Whether the peer's range lies inside `net`.
fn inside(net: &str, peer: &Side) -> bool {
    let (address, length) = parse_net(net);
    peer.range.is_some_and(|(range, bits)| bits >= length && range & mask(length) == address)
}

fn in_set(documents: &[Value], set: &Value, peer: &Side) -> bool {
    let except = set["except"].as_array().cloned().unwrap_or_default();
    let left = !except.iter().any(|net| inside(net.as_str().unwrap(), peer));
    if let Some(net) = set.get("cidr") {
        return left && inside(net.as_str().unwrap(), peer);
    }
    let groups = documents.iter().filter(|document| document["kind"] == "CiliumCIDRGroup");
    let mut meant = groups.filter(|group| match set.get("cidrGroupRef") {
        Some(name) => group["metadata"]["name"] == *name,
        None => group["metadata"]["labels"]["team"] == set["cidrGroupSelector"]["matchLabels"]["team"],
    });
    left && meant.any(|group| {
        group["spec"]["externalCIDRs"]
            .as_array()
            .unwrap()
            .iter()
            .any(|net| inside(net.as_str().unwrap(), peer))
    })
}

/// Whether a block of addresses means a side: by its range, or by where all of its pods are (one of them, for
/// what denies).
fn in_block(net: &str, except: &[Value], side: &Side, deny: bool) -> bool {
    let left = !except.iter().any(|net| inside(net.as_str().unwrap(), side));
    let holds = |address: u32, net: &str| {
        let (base, length) = parse_net(net);
        address & mask(length) == base
    };
    let pod = |address: &u32| {
        holds(*address, net) && !except.iter().any(|part| holds(*address, part.as_str().unwrap()))
    };
    let pods = match (side.pods.is_empty(), deny) {
        (true, _) => false,
        (false, true) => side.pods.iter().any(pod),
        (false, false) => side.pods.iter().all(pod),
    };
    pods || (left && inside(net, side))
}

/// Bits matched, and whether the match is by the name of a port on egress.
type PortHit = (u8, bool);

/// What the plain ports hit, and what those with something above them hit.
fn cilium_ports(clause: &Value, packet: Packet<'_>) -> (Option<PortHit>, Option<PortHit>) {
    if let Some(icmps) = clause.get("icmps").and_then(Value::as_array) {
        let family = match packet.protocol {
            "ICMP" => "IPv4",
            "ICMPv6" => "IPv6",
            _ => return (None, None),
        };
        let mut fields = icmps.iter().flat_map(|icmp| icmp["fields"].as_array().unwrap());
        let hit = |f: &Value| f["family"].as_str().unwrap_or("IPv4") == family && f["type"] == packet.port;
        return (fields.any(hit).then_some((24, false)), None);
    }
    let Some(rules) = clause.get("toPorts").and_then(Value::as_array) else {
        return (Some((0, false)), None);
    };
    let is_above = |rule: &&Value| rule.get("rules").is_some() || rule.get("serverNames").is_some();
    let hit = |rule: &Value| {
        let dns = rule["rules"].get("dns").is_some() || rule.get("rules") == Some(&serde_json::json!({}));
        let tcp = is_above(&rule) && !dns;
        rule["ports"].as_array().unwrap().iter().filter_map(|entry| entry_hit(entry, tcp, packet)).max()
    };
    let above = rules.iter().filter(is_above).filter_map(hit).max();
    (rules.iter().filter(|rule| !is_above(rule)).filter_map(hit).max(), above)
}

fn entry_hit(entry: &Value, tcp: bool, packet: Packet<'_>) -> Option<PortHit> {
    let protocol = entry["protocol"].as_str().unwrap_or("ANY");
    if let Some(number) =
        [("GRE", "GRE"), ("47", "GRE"), ("ESP", "ESP")].iter().find(|(name, _)| *name == protocol)
    {
        return (number.1 == packet.protocol).then_some((8, false));
    }
    let protocol = if tcp && protocol == "ANY" { "TCP" } else { protocol };
    let fits = protocol == packet.protocol
        || (protocol == "ANY" && ["TCP", "UDP", "SCTP"].contains(&packet.protocol));
    fits.then(|| port_hit(&entry["port"], entry.get("endPort"), packet)).flatten()
}

fn port_hit(port: &Value, end: Option<&Value>, packet: Packet<'_>) -> Option<PortHit> {
    let text = port.as_str().map_or_else(|| port.to_string(), str::to_owned);
    let Ok(first) = text.parse::<u16>() else {
        let receiver = if packet.ingress { packet.subject } else { packet.peer };
        let number = receiver.named.get(&(packet.protocol.to_owned(), text))?;
        return (*number == packet.port).then_some((24, !packet.ingress));
    };
    if first == 0 {
        return Some((8, false));
    }
    let last =
        end.and_then(Value::as_u64).filter(|end| *end != 0).map_or(first, |end| u16::try_from(end).unwrap());
    (first..=last).contains(&packet.port).then(|| (8 + block_bits(first, last, packet.port), false))
}

/// How many bits of the port the largest aligned block around it, inside the range, leaves fixed.
fn block_bits(first: u16, last: u16, port: u16) -> u8 {
    let (first, last, port) = (u32::from(first), u32::from(last), u32::from(port));
    let fits = |free: &u8| {
        let size = 1_u32 << free;
        let start = port / size * size;
        start >= first && start + size - 1 <= last
    };
    16 - (0..=16).rev().find(fits).unwrap()
}

fn kubernetes_peer(document: &Value, clause: &Value, packet: Packet<'_>) -> Peer {
    let list = clause.get(if packet.ingress { "from" } else { "to" }).and_then(Value::as_array);
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Peer::Everybody };
    let there = packet.peer.labels.get("k8s:io.kubernetes.pod.namespace");
    let entry = |entry: &Value| {
        if let Some(block) = entry.get("ipBlock") {
            let except = block["except"].as_array().cloned().unwrap_or_default();
            return in_block(block["cidr"].as_str().unwrap(), &except, packet.peer, false);
        }
        let pods = entry.get("podSelector").is_none_or(|s| selector_matches(s, &packet.peer.labels, "k8s:"));
        let namespaces = match entry.get("namespaceSelector") {
            Some(s) => selector_matches(s, &packet.peer.labels, "k8s:io.cilium.k8s.namespace.labels."),
            None => there.map(String::as_str) == namespace(document),
        };
        there.is_some() && pods && namespaces
    };
    Peer::Named(list.iter().any(entry))
}

fn kubernetes_ports(clause: &Value, packet: Packet<'_>) -> Option<PortHit> {
    let list = clause.get("ports").and_then(Value::as_array);
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Some((0, false)) };
    let hits = list.iter().filter(|entry| entry["protocol"].as_str().unwrap_or("TCP") == packet.protocol);
    let hits = hits.filter_map(|entry| match entry.get("port") {
        Some(port) => port_hit(port, entry.get("endPort"), packet),
        None => Some((8, false)),
    });
    hits.max()
}
