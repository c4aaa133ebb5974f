//! Which entries a pod and a node get, and which layouts are refused.

use std::collections::BTreeSet;

use countersign_certs::{IdTemplate, TrustDomain};
use countersign_spire_proto::{
    Entry, Layout, LayoutConfig, LayoutError, NodeTemplate, Owner, PodFacts, Refused, Selector,
    SelectorTemplate,
};

const FACTS: PodFacts<'static> = PodFacts {
    namespace: "shop",
    pod: "web-0",
    pod_uid: "u-1",
    service_account: "web",
    node: "node1",
    supplemental_groups: &[70001],
};

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn config() -> LayoutConfig {
    LayoutConfig {
        trust_domain: domain("example.org"),
        owner: Owner::parse("east").unwrap(),
        pod_id: IdTemplate::default(),
        node_parent: NodeTemplate::default(),
        pod_selectors: vec![SelectorTemplate::pod_uid()],
        node_selectors: templates(&["k8s_psat:cluster:east", "k8s_psat:agent_node_name:{node}"]),
        agent_selectors: templates(&["k8s:ns:countersign", "k8s:sa:countersign-agent"]),
        x509_svid_ttl_seconds: 600,
        federates_with: BTreeSet::from([domain("partner.example")]),
        hint: "countersign".to_owned(),
    }
}

fn templates(texts: &[&str]) -> Vec<SelectorTemplate> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn selectors(texts: &[&str]) -> BTreeSet<Selector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_pod_is_registered_below_its_own_node() {
    let layout = Layout::new(config()).unwrap();
    let (id, entry) = layout.pod(17947, &FACTS).unwrap();
    assert!(layout.owner().owns(&id) && id.starts_with("countersign.east.pod."), "{id}");
    let expected = Entry {
        spiffe_id: "spiffe://example.org/identity/17947".parse().unwrap(),
        parent_id: "spiffe://example.org/spire-node/node1".parse().unwrap(),
        selectors: selectors(&["k8s:pod-uid:u-1"]),
        x509_svid_ttl_seconds: 600,
        federates_with: BTreeSet::from([domain("partner.example")]),
        hint: "countersign".to_owned(),
    };
    assert_eq!(entry, expected);
}

#[test]
fn an_entry_is_a_placements() {
    let layout = Layout::new(config()).unwrap();
    let id = |facts: PodFacts<'_>, identity| layout.pod(identity, &facts).unwrap().0;
    assert_eq!(id(FACTS, 1000), id(FACTS, 1001), "new labels are an update");
    let others = [
        PodFacts { node: "node2", ..FACTS },
        PodFacts { pod_uid: "u-2", ..FACTS },
        PodFacts { namespace: "sho", pod: "pweb-0", ..FACTS },
        PodFacts { pod: "web-1", ..FACTS },
    ];
    let ids: BTreeSet<String> =
        others.iter().map(|facts| id(*facts, 1000)).chain([id(FACTS, 1000)]).collect();
    assert_eq!(ids.len(), 5);
    let mut west = config();
    west.owner = Owner::parse("west").unwrap();
    assert!(!ids.contains(&Layout::new(west).unwrap().pod(1000, &FACTS).unwrap().0));
}

#[test]
fn a_node_has_an_alias_and_an_agent_where_they_are_ours() {
    let layout = Layout::new(config()).unwrap();
    let entries = layout.node("node1").unwrap();
    let [(alias_id, alias), (agent_id, agent)] = &entries[..] else { panic!("{entries:?}") };
    assert!(
        alias_id.starts_with("countersign.east.node.") && agent_id.starts_with("countersign.east.agent.")
    );
    assert_eq!(alias.spiffe_id.as_str(), "spiffe://example.org/spire-node/node1");
    assert_eq!(alias.parent_id.as_str(), "spiffe://example.org/spire/server");
    assert_eq!(alias.selectors, selectors(&["k8s_psat:agent_node_name:node1", "k8s_psat:cluster:east"]));
    assert_eq!(agent.parent_id, alias.spiffe_id);
    let node_id = countersign_wg_proto::node_id(&domain("example.org"), "node1").unwrap();
    assert_eq!(agent.spiffe_id, node_id, "whom the agent says it is");
    assert_eq!((agent.x509_svid_ttl_seconds, agent.hint.as_str()), (600, ""));
    let mut bare = config();
    bare.node_selectors.clear();
    bare.agent_selectors.clear();
    assert!(Layout::new(bare).unwrap().node("node1").unwrap().is_empty());
    assert!(matches!(layout.node("no such/../node"), Err(Refused::Node(_))));
}

#[test]
fn what_is_not_known_yet_gives_no_entry() {
    let layout = Layout::new(config()).unwrap();
    let refused = |facts: PodFacts<'_>| layout.pod(1000, &facts).unwrap_err().to_string();
    assert_eq!(refused(PodFacts { pod_uid: "", ..FACTS }), "nothing is known for {pod_uid}");
    assert!(refused(PodFacts { node: "", ..FACTS }).contains("node's name"));
}

fn refusal(change: impl FnOnce(&mut LayoutConfig)) -> Option<LayoutError> {
    let mut config = config();
    change(&mut config);
    Layout::new(config).err()
}

#[test]
fn ids_that_users_could_make_nodes_of_are_refused() {
    // A user who may name namespaces or service accounts must not get a node's ID, nor another namespace's.
    let refused = [
        "spiffe://{trust_domain}/{namespace}/{service_account}",
        "spiffe://{trust_domain}/node/{number}",
        "spiffe://{trust_domain}/spire-node/{number}",
        "spiffe://{trust_domain}/spire/agent/{number}",
        "spiffe://{trust_domain}/spire/{number}",
        "spiffe://{trust_domain}/x/{namespace}-{service_account}",
        "spiffe://{trust_domain}/x/{namespace}{service_account}",
        "spiffe://{trust_domain}/x/{number}{namespace}/{service_account}",
    ];
    for text in refused {
        // Some are no templates to begin with.
        let Ok(pod_id) = IdTemplate::parse(text) else { continue };
        let error = refusal(|config| config.pod_id = pod_id);
        assert!(
            matches!(
                error,
                Some(LayoutError::Collision { .. } | LayoutError::Ambiguous(_) | LayoutError::Reserved(_))
            ),
            "{text}: {error:?}"
        );
    }
    let taken = [
        "spiffe://{trust_domain}/identity/{number}",
        "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}",
        "spiffe://{trust_domain}/{number}",
        "spiffe://{trust_domain}/x/{namespace}_{service_account}",
        "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}/{number}",
    ];
    for text in taken {
        let pod_id = IdTemplate::parse(text).unwrap();
        assert_eq!(refusal(|config| config.pod_id = pod_id), None, "{text}");
    }
    for text in ["spiffe://{trust_domain}/node/{node}", "spiffe://{trust_domain}/spire/agent/{node}"] {
        let parent = NodeTemplate::parse(text).unwrap();
        assert!(refusal(|config| config.node_parent = parent).is_some(), "{text}");
    }
}

/// What no template of SPIFFE IDs may be, whoever reads it.
#[test]
fn templates_that_make_no_spiffe_id_are_refused_when_read() {
    let refused = [
        "",
        "identity/{number}",
        "spiffe://example.org/identity/{number}",
        "SPIFFE://{trust_domain}/identity/{number}",
        "spiffe://{trust_domain}",
        "spiffe://{trust_domain}/",
        "spiffe://{trust_domain}/identity",
        "spiffe://{trust_domain}/{namespace}",
        "spiffe://{trust_domain}/{service_account}",
        "spiffe://{trust_domain}/identity/{id}",
        "spiffe://{trust_domain}/identity/{number",
        "spiffe://{trust_domain}/identity/number}/{number}",
        "spiffe://{trust_domain}//{number}",
        "spiffe://{trust_domain}/identity/{number}/",
        "spiffe://{trust_domain}/../{number}",
        "spiffe://{trust_domain}/./{number}",
        "spiffe://{trust_domain}/%2e%2e/{number}",
        "spiffe://{trust_domain}/a b/{number}",
        "spiffe://{trust_domain}/ä/{number}",
        "spiffe://{trust_domain}/{number}?x",
        "spiffe://{trust_domain}/{number}#x",
        "spiffe://{trust_domain}:8081/{number}",
        "spiffe://user@{trust_domain}/{number}",
    ];
    for text in refused {
        assert!(IdTemplate::parse(text).is_err(), "{text}");
    }
    let long = format!("spiffe://{{trust_domain}}/{}/{{number}}", "x".repeat(2048));
    assert!(IdTemplate::parse(&long).is_err());
}

#[test]
fn selectors_that_mean_several_pods_or_nodes_are_refused() {
    let with = |texts: &[&str]| {
        let selectors = templates(texts);
        refusal(|config| config.pod_selectors = selectors)
    };
    for bad in [
        &["k8s:ns:{namespace}"][..],
        &["k8s:ns:{namespace}", "k8s:sa:{service_account}"],
        &["unix:uid:0"],
        &["cilium:mutual-auth"],
        &["k8s:pod-name:{pod}"],
        &[],
    ] {
        assert!(matches!(with(bad), Some(LayoutError::PodSelectors(_))), "{bad:?}");
    }
    for good in [
        &["k8s:ns:{namespace}", "k8s:pod-name:{pod}"][..],
        &["unix:supplementary_gid:{supplemental_group}"],
        &["k8s:pod-uid:{pod_uid}", "k8s:sa:{service_account}"],
    ] {
        assert_eq!(with(good), None, "{good:?}");
    }
    // Where the account is all that the ID says, it is all that selectors need to tell.
    let account = refusal(|config| {
        config.pod_id = IdTemplate::service_account();
        config.pod_selectors = templates(&["k8s:ns:{namespace}", "k8s:sa:{service_account}"]);
    });
    assert_eq!(account, None);
    let nodes = |texts: &[&str]| {
        let selectors = templates(texts);
        refusal(|config| config.node_selectors = selectors)
    };
    assert_eq!(nodes(&["k8s_psat:cluster:east"]), Some(LayoutError::NodeSelectors), "Cilium's layout");
    assert!(matches!(nodes(&["x:{pod}:{node}"]), Some(LayoutError::OnlyNode(_))));
    let agent = refusal(|config| config.agent_selectors = templates(&["k8s:pod-uid:{pod_uid}"]));
    assert!(matches!(agent, Some(LayoutError::OnlyNode(_))));
}

#[test]
fn other_values_are_checked() {
    for (ttl, good) in [(0, true), (19, false), (20, true), (604_800, true), (604_801, false)] {
        assert_eq!(refusal(|config| config.x509_svid_ttl_seconds = ttl).is_none(), good, "{ttl}");
    }
    assert_eq!(refusal(|config| config.hint = "x".repeat(1025)), Some(LayoutError::Hint));
    let federated = refusal(|config| config.federates_with = [domain("example.org")].into());
    assert!(matches!(federated, Some(LayoutError::Federation(_))));
    for (name, good) in
        [("a", true), ("a-1", true), ("", false), ("a.b", false), ("-a", false), ("a-", false)]
    {
        assert_eq!(Owner::parse(name).is_ok(), good, "{name}");
    }
    for bad in ["A", "ä", "a_b", "a b", &"a".repeat(64)] {
        assert!(Owner::parse(bad).is_err(), "{bad}");
    }
    let owner = Owner::parse("a").unwrap();
    assert!(owner.owns("countersign.a.pod.1"));
    for other in ["countersign.ab.pod.1", "countersign.a", "countersign.b.a.pod", "x.countersign.a.pod.1", ""]
    {
        assert!(!owner.owns(other), "{other}");
    }
}
