//! Selectors and their templates, as operators write them.

use countersign_policy::objects::Pod;
use countersign_policy::yaml;
use countersign_spire_proto::{Missing, NodeTemplate, PodFacts, Selector, SelectorTemplate, render_all};

const FACTS: PodFacts<'static> = PodFacts {
    namespace: "shop",
    pod: "web-0",
    pod_uid: "2f0c6a1e-7c1d-4c39-9a51-1d7d2a0f8a11",
    service_account: "web",
    node: "node1",
    supplemental_groups: &[70002, 70001, 70002],
};

#[test]
fn a_selector_is_a_kind_and_a_value() {
    let read = Selector::parse("k8s:pod-label:app:web").unwrap();
    assert_eq!((read.kind(), read.value()), ("k8s", "pod-label:app:web"));
    assert_eq!(read.to_string(), "k8s:pod-label:app:web");
    let long = format!("k8s:{}", "x".repeat(256));
    for bad in ["", "k8s", ":", "k8s:", ":x", "k8s:\n", "k8s:ü", "k\u{0}:x", &long] {
        assert!(Selector::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn templates_are_filled_with_the_facts_of_a_pod() {
    let cases: [(&str, &[&str]); 6] = [
        ("k8s:pod-uid:{pod_uid}", &["k8s:pod-uid:2f0c6a1e-7c1d-4c39-9a51-1d7d2a0f8a11"]),
        ("k8s:ns:{namespace}", &["k8s:ns:shop"]),
        ("x:{namespace}/{pod}@{node}", &["x:shop/web-0@node1"]),
        ("k8s:sa:{service_account}", &["k8s:sa:web"]),
        ("unix:uid:0", &["unix:uid:0"]),
        // One of each group, in order, none twice.
        (
            "unix:supplementary_gid:{supplemental_group}",
            &["unix:supplementary_gid:70001", "unix:supplementary_gid:70002"],
        ),
    ];
    for (text, expected) in cases {
        let template: SelectorTemplate = text.parse().unwrap();
        assert_eq!(template.to_string(), text);
        let rendered: Vec<String> =
            template.render(&FACTS).unwrap().iter().map(Selector::to_string).collect();
        assert_eq!(rendered, expected);
    }
    let all = [SelectorTemplate::pod_uid(), "unix:uid:0".parse().unwrap()];
    assert_eq!(render_all(&all, &FACTS).unwrap().len(), 2);
    assert_eq!(all[0].to_string(), "k8s:pod-uid:{pod_uid}");
}

#[test]
fn what_is_no_template_is_refused_with_what_would_be() {
    let refused = |text: &str| SelectorTemplate::parse(text).unwrap_err().to_string();
    let unknown = refused("k8s:pod-uid:{uid}");
    assert_eq!(
        unknown,
        "unknown variable {uid}: there are {pod_uid}, {pod}, {namespace}, {service_account}, {node}, \
         {supplemental_group}"
    );
    for text in ["k8s:x:{pod", "k8s:x:pod}", "k8s:{pod}}"] {
        assert_eq!(refused(text), "a brace has no other half", "{text}");
    }
    assert!(refused("k8s:{{pod}}").starts_with("unknown variable {{pod}"));
    assert!(refused("{namespace}:x").contains("fixed"));
    for text in ["", "k8s", "k8s:", ":{pod}"] {
        assert!(refused(text).contains("type:value"), "{text}");
    }
}

#[test]
fn nothing_is_rendered_from_facts_that_are_not_there() {
    let uid = SelectorTemplate::pod_uid();
    let group = SelectorTemplate::parse("unix:supplementary_gid:{supplemental_group}").unwrap();
    let with_uid = |pod_uid| PodFacts { pod_uid, ..FACTS };
    assert_eq!(uid.render(&with_uid("")), Err(Missing::Fact("pod_uid")));
    for forged in ["a b", "x:y", "../x", "ü", &"a".repeat(65)] {
        assert_eq!(uid.render(&with_uid(forged)), Err(Missing::Uid), "{forged}");
    }
    let with_groups = |supplemental_groups| PodFacts { supplemental_groups, ..FACTS };
    assert_eq!(group.render(&with_groups(&[])), Err(Missing::Fact("supplemental_group")));
    let many: Vec<u32> = (0..33).collect();
    assert_eq!(group.render(&with_groups(&many)), Err(Missing::Groups));
    assert_eq!(group.render(&PodFacts::of_node("node1")), Err(Missing::Fact("supplemental_group")));
    assert_eq!(Missing::Fact("pod_uid").to_string(), "nothing is known for {pod_uid}");
}

#[test]
fn facts_are_those_of_the_pod_object() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, namespace: shop, uid: u-1}\nspec:\n  \
                nodeName: node1\n  securityContext: {supplementalGroups: [70001, 0, 2147483647], runAsUser: 1}\n";
    let pod = Pod::from_document(&yaml::parse(text).unwrap()[0]).unwrap();
    let facts = PodFacts::of(&pod);
    assert_eq!((facts.namespace, facts.pod, facts.pod_uid), ("shop", "web-0", "u-1"));
    assert_eq!((facts.service_account, facts.node), ("default", "node1"));
    assert_eq!(facts.supplemental_groups, [70001, 0, 2_147_483_647]);
    for bad in ["[-1]", "[2147483648]", "[x]", "7", "{a: 1}"] {
        let text = text.replace("[70001, 0, 2147483647]", bad);
        let error = Pod::from_document(&yaml::parse(&text).unwrap()[0]).unwrap_err();
        assert!(error.path.starts_with("spec.securityContext.supplementalGroups"), "{bad}: {error}");
    }
}

#[test]
fn parents_of_nodes() {
    let domain = "example.org".parse().unwrap();
    let parent = |text: &str| NodeTemplate::parse(text).unwrap().render(&domain, "node1.example").unwrap();
    let default = NodeTemplate::default();
    assert_eq!(default.to_string(), "spiffe://{trust_domain}/spire-node/{node}");
    assert_eq!(NodeTemplate::parse(&default.to_string()).unwrap(), default);
    assert_eq!(parent(&default.to_string()).as_str(), "spiffe://example.org/spire-node/node1.example");
    assert_eq!(
        parent("spiffe://{trust_domain}/a/{node}/b").as_str(),
        "spiffe://example.org/a/node1.example/b"
    );
    assert!(default.render(&domain, "").is_err() && default.render(&domain, "..").is_err());
    let cases = [
        ("spiffe://example.org/{node}", "begins with"),
        ("/spire-node/{node}", "begins with"),
        ("spiffe://{trust_domain}/nodes", "needs {node}"),
        ("spiffe://{trust_domain}/{nodename}", "unknown variable {nodename}: there are {node}"),
        ("spiffe://{trust_domain}//{node}", "segment is empty"),
        ("spiffe://{trust_domain}/a b/{node}", "may hold only"),
        ("spiffe://{trust_domain}/%2e/{node}", "may hold only"),
    ];
    for (text, message) in cases {
        let error = NodeTemplate::parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}
