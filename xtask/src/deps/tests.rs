//! The rules, against small made-up workspaces.

use serde_json::{Value, json};

use super::*;

/// `(package, [(dependency, kind)])`; names of ours are members.
fn graph(packages: &[(&str, &[(&str, &str)])]) -> Graph {
    let ours = |name: &str| name.starts_with("countersign") || name == "xtask";
    let package = |(name, deps): &(&str, &[(&str, &str)])| {
        let deps: Vec<Value> = deps.iter().map(|(name, kind)| declared(name, kind, ours(name))).collect();
        json!({"id": name, "name": name, "dependencies": deps})
    };
    let node = |(name, deps): &(&str, &[(&str, &str)])| {
        let deps: Vec<Value> = deps
            .iter()
            .map(|(name, kind)| json!({"pkg": name, "dep_kinds": [{"kind": kind_of(kind)}]}))
            .collect();
        json!({"id": name, "deps": deps})
    };
    let members: Vec<&str> = packages.iter().map(|p| p.0).filter(|name| ours(name)).collect();
    Graph::parse(&json!({
        "packages": packages.iter().map(package).collect::<Vec<_>>(),
        "workspace_members": members,
        "resolve": {"nodes": packages.iter().map(node).collect::<Vec<_>>()},
    }))
    .unwrap()
}

fn kind_of(kind: &str) -> Value {
    if kind == "dev" { json!("dev") } else { Value::Null }
}

fn declared(name: &str, kind: &str, local: bool) -> Value {
    let source = match kind {
        "git" => json!("git+https://example.org/x"),
        _ if local => Value::Null,
        _ => json!("registry+https://example.org/index"),
    };
    let requirement = if kind == "any" || local { "*" } else { "^1" };
    json!({"name": name, "source": source, "kind": kind_of(kind), "req": requirement})
}

#[test]
fn what_the_table_allows_passes() {
    let graph = graph(&[
        ("countersign-policy", &[("countersign-ebpf-common", ""), ("serde", ""), ("proptest", "dev")]),
        ("countersign-ebpf-common", &[("proptest", "dev")]),
        ("countersign-ebpf-loader", &[("countersign-ebpf-common", ""), ("aya", "")]),
        ("countersign-agent", &[("countersign-ebpf-loader", ""), ("countersign-policy", ""), ("tokio", "")]),
        ("serde", &[]),
        ("aya", &[("tokio", "")]),
    ]);
    assert_eq!(check(&graph), Vec::<String>::new());
}

#[test]
fn a_pure_crate_reaches_no_runtime_through_others() {
    let graph = graph(&[
        ("countersign-certs", &[("helpful", "")]),
        ("helpful", &[("deeper", "")]),
        ("deeper", &[("tokio", "")]),
    ]);
    assert_eq!(check(&graph), ["countersign-certs -> helpful -> deeper -> tokio: must not be reached"]);
}

#[test]
fn development_dependencies_are_not_reached_through() {
    let graph = graph(&[("countersign-certs", &[("tester", "dev")]), ("tester", &[("tokio", "")])]);
    assert_eq!(check(&graph), Vec::<String>::new());
}

#[test]
fn shells_do_not_import_each_other() {
    let graph = graph(&[("countersign-flows", &[("countersign-cluster", "")]), ("countersign-cluster", &[])]);
    assert_eq!(
        check(&graph),
        ["countersign-flows -> countersign-cluster: shells meet in the agent's node.rs only"]
    );
}

#[test]
fn tests_may_bring_in_others_unless_their_crate_is_pure() {
    let graph = graph(&[
        ("countersign-wg", &[("countersign-wg-manager", "dev")]),
        ("countersign-policy", &[("countersign-wg-manager", "dev")]),
        ("countersign-wg-manager", &[]),
    ]);
    assert_eq!(check(&graph), ["countersign-policy -> countersign-wg-manager: not among its imports"]);
}

#[test]
fn aya_belongs_to_the_loader() {
    let graph =
        graph(&[("countersign-agent", &[("aya", "")]), ("countersign-cli", &[("aya", "")]), ("aya", &[])]);
    assert_eq!(
        check(&graph),
        [
            "countersign-agent -> aya: only countersign-ebpf-loader may",
            "countersign-cli -> aya: only countersign-ebpf-loader may",
            "countersign-cli -> aya: must not be reached",
        ]
    );
}

#[test]
fn the_common_types_depend_on_nothing() {
    let graph = graph(&[("countersign-ebpf-common", &[("serde", "")]), ("serde", &[])]);
    assert_eq!(check(&graph), ["countersign-ebpf-common -> serde: it has no dependencies"]);
}

#[test]
fn unknown_rooms_git_and_wildcards_are_refused() {
    let graph = graph(&[("countersign-annex", &[]), ("xtask", &[("forked", "git"), ("loose", "any")])]);
    assert_eq!(
        check(&graph),
        [
            "countersign-annex: is no room anybody knows; add it to xtask/src/rooms.rs",
            "xtask -> forked: comes from a git repository",
            "xtask -> loose: no version is required",
        ]
    );
}

#[test]
fn the_programs_import_the_common_types_and_aya_only() {
    let packages: &[(&str, &[(&str, &str)])] = &[(
        "countersign-ebpf-programs",
        &[("countersign-ebpf-common", ""), ("aya-ebpf", ""), ("countersign-policy", ""), ("libm", "")],
    )];
    assert_eq!(
        check_programs(&graph(packages)),
        [
            "countersign-ebpf-programs -> countersign-policy: not among its imports",
            "countersign-ebpf-programs -> libm: a program imports aya's crates only",
        ]
    );
}
