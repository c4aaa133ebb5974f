//! Documents that are too much: refused, and at once.

use std::time::{Duration, Instant};

use countersign_policy::yaml::{Document, parse as yaml};
use countersign_policy::{Settings, limits, parse};
use proptest::prelude::*;

/// Far less than anybody would wait, far more than a busy machine needs.
const AT_ONCE: Duration = Duration::from_secs(2);

fn refused_at_once(text: &str) {
    let started = Instant::now();
    let read = yaml(text).map(|documents| {
        documents.iter().map(|d| parse(d, &Settings::default()).is_ok()).collect::<Vec<_>>()
    });
    assert!(read.as_ref().is_err() || read.as_ref().is_ok_and(|good| good.iter().all(|good| !good)), "taken");
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
}

#[test]
fn ten_megabytes_are_refused() {
    let rule = "  - fromEndpoints: [{matchLabels: {app: client}}]\n";
    let head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: {}\n  ingress:\n";
    let text = format!("{head}{}", rule.repeat((10 << 20) / rule.len()));
    assert!(text.len() > limits::TEXT_BYTES);
    refused_at_once(&text);
}

#[test]
fn what_expands_is_refused() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let before = level - 1;
        let list = vec![format!("*a{before}"); 10].join(",");
        laughs.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    refused_at_once(&laughs);
    refused_at_once(&"[".repeat(200_000));
    refused_at_once(&"{a: ".repeat(200_000));
    refused_at_once(&format!("a: {}", "&x ".repeat(100_000)));
    refused_at_once(&"- - ".repeat(100_000));
    refused_at_once("a: &a [*a]");
    refused_at_once("a: &a {<<: *a}");
}

fn seed() -> impl Strategy<Value = String> {
    let text = include_str!("data/policies.yaml");
    let documents: Vec<String> = text.split("\n---\n").map(str::to_owned).collect();
    proptest::sample::select(documents)
}

/// What somebody who means harm would put into a text.
fn graft() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(
        &[
            "&a ",
            "*a",
            "<<: *a\n",
            "[",
            "]",
            "{",
            "}",
            ": ",
            "\n  ",
            "\t",
            "!!int ",
            "!!binary ",
            "|",
            ">-\n",
            "'",
            "\"",
            "\u{0}",
            "\u{feff}",
            "\u{2028}",
            "0x",
            "1e999",
            ".nan",
            "~",
            "? ",
            "- ",
            "--- ",
            "... ",
            "%YAML 1.1\n",
            "99999999999999999999",
            "10.0.0.0/33",
            "::/0",
            "k8s:",
            "reserved:",
            "cidrgroup:",
            "65536",
        ][..],
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CS_PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300), failure_persistence: None, ..ProptestConfig::default() })]

    /// Valid documents with things put in and taken out: read or refused, never a panic, never more than is bounded.
    #[test]
    fn grafted_text_is_read_or_refused(
        seed in seed(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), graft(), 0_usize..12), 1..8),
    ) {
        let mut text: Vec<char> = seed.chars().collect();
        for (at, put, cut) in changes {
            let from = at.index(text.len() + 1).min(text.len());
            let to = (from + cut).min(text.len());
            text.splice(from..to, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(documents) = yaml(&text) {
            for document in documents {
                if let Ok(policy) = parse(&document, &Settings::default()) {
                    let mut repository = countersign_policy::Repository::new();
                    repository.upsert_policy(policy);
                }
            }
        }
    }

    /// Whatever is a document is read the same from its text and from its value.
    #[test]
    fn a_value_and_its_text_are_refused_alike(seed in seed(), key in "[a-zA-Z]{1,12}") {
        let mut value = yaml(&seed).unwrap().remove(0).value;
        value["spec"][key] = serde_json::json!({"x": 1});
        let from_value = parse(&Document::from_value(value.clone()), &Settings::default()).is_ok();
        let from_text = parse(&yaml(&value.to_string()).unwrap()[0], &Settings::default()).is_ok();
        prop_assert_eq!(from_value, from_text);
    }
}
