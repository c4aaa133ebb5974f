//! The story the demo tells, as tests: who gets through, who does not, and why that can be seen. Needs root.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_agent_api::{AuthState, FlowEvent, FlowFilter, ObserveRequest, Problem};
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};

/// Below this no SYN was sent twice: the first retransmission comes after a second.
const NO_RETRANSMISSION: f64 = 0.5;

/// A server on node 2, proved clients on both nodes, a client nobody allows, and one that has no SVID.
fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("far", "node1", "client").label("who", "far").yaml(),
        Pod::new("near", "node2", "client").label("who", "near").yaml(),
        Pod::new("stranger", "node1", "stranger").yaml(),
        Pod::new("nobody", "node1", "client").label("who", "nobody").unregistered().yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &["TCP/80"], required: true }], &[]),
    ]
}

fn story(name: &str, test: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    in_world(WorldOptions::new(name)?, &cast(), |world| {
        let _server = Server::start(&world.place("web")?.space, 80, "hello")?;
        test(world)
    })
}

#[test]
fn proved_clients_get_through_the_first_time() -> Result<()> {
    story("proved", |world| {
        let web = world.place("web")?;
        for client in ["far", "near"] {
            for ipv6 in [false, true] {
                let answer = curl(&world.place(client)?.space, web.address(ipv6)?, 80)?;
                ensure!(answer.exit == 0 && answer.body == "hello", "{client}: {answer:?}");
                ensure!(answer.connect_seconds < NO_RETRANSMISSION, "{client}: {answer:?}");
            }
        }
        let entries = world.agent("node2")?.auth_list()?;
        let proved = entries.iter().filter(|entry| entry.state == AuthState::Authenticated).count();
        ensure!(proved >= 2, "{entries:?}");
        Ok(())
    })
}

#[test]
fn a_stranger_is_dropped_silently_and_the_reason_can_be_seen() -> Result<()> {
    story("stranger", |world| {
        let answer = curl(&world.place("stranger")?.space, world.place("web")?.address(false)?, 80)?;
        ensure!(answer.exit == 28, "{answer:?}");
        dropped_for(world, "node2", "default/stranger", &["POLICY_DENIED", "POLICY_DENY"])
    })
}

#[test]
fn a_pod_without_an_svid_is_dropped_and_the_list_says_why() -> Result<()> {
    story("nobody", |world| {
        let answer = curl(&world.place("nobody")?.space, world.place("web")?.address(false)?, 80)?;
        ensure!(answer.exit == 28, "{answer:?}");
        let failed = |node: &str| -> Result<bool> {
            let entries = world.agent(node)?.auth_list()?;
            Ok(entries.iter().any(|entry| entry.state == AuthState::Failed && entry.last_error.is_some()))
        };
        eventually("a failed pair with its error", Duration::from_secs(5), || failed("node2"))?;
        dropped_for(world, "node2", "default/nobody", &["AUTH_REQUIRED"])
    })
}

/// Waits for a flow from `pod` that was dropped for one of `reasons`.
fn dropped_for(world: &World, node: &str, pod: &str, reasons: &[&str]) -> Result<()> {
    let agent = world.agent(node)?;
    let filter = FlowFilter {
        from_pod: vec![pod.to_owned()],
        verdict: vec!["DROPPED".to_owned()],
        ..FlowFilter::default()
    };
    let request = ObserveRequest { follow: false, last: 100, filter };
    let mut seen = Vec::new();
    eventually("a dropped flow with its reason", Duration::from_secs(8), || {
        seen = agent.observe(request.clone())?;
        let reason = |event: &FlowEvent| match event {
            FlowEvent::Flow(flow) => reasons.contains(&flow.drop_reason_desc.as_str()),
            FlowEvent::Lost { .. } => false,
        };
        Ok(seen.iter().any(reason))
    })
    .with_context(|| format!("flows of {pod}: {seen:?}"))?;
    Ok(())
}

#[test]
fn a_manifest_is_in_force_within_a_second() -> Result<()> {
    story("manifests", |world| {
        let (stranger, web) = (world.place("stranger")?, world.place("web")?);
        let rule = |peer| Rule { peer, ports: &["TCP/80"], required: false };
        world.apply("more.yaml", &[policy("more", "web", &[rule("stranger")], &[])])?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(curl(&stranger.space, web.address(false)?, 80)?.exit == 0, "the new policy is not in force");
        world.lab().delete("more.yaml")?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(curl(&stranger.space, web.address(false)?, 80)?.exit == 28, "the deleted policy is in force");
        Ok(())
    })
}

#[test]
fn a_broken_manifest_is_named_and_changes_nothing() -> Result<()> {
    story("broken", |world| {
        world.apply(
            "broken.yaml",
            &["apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: b}\nspec: [".into()],
        )?;
        let unenforced =
            policy("l7", "web", &[Rule { peer: "stranger", ports: &["TCP/80"], required: false }], &[])
                .replace(
                    "    toPorts:\n    - ports:",
                    "    toPorts:\n    - rules: {smtp: [{}]}\n      ports:",
                );
        world.apply("unenforced.yaml", &[unenforced])?;
        eventually("both files are reported", Duration::from_secs(3), || {
            let problems = problems(world)?;
            let named = |file: &str| problems.iter().any(|problem| problem.file.contains(file));
            Ok(named("broken.yaml") && named("unenforced.yaml"))
        })?;
        let problems = problems(world)?;
        ensure!(problems.iter().any(|problem| problem.field.contains("rules")), "{problems:?}");
        let web = world.place("web")?.address(false)?;
        ensure!(curl(&world.place("far")?.space, web, 80)?.exit == 0, "what was in force is gone");
        ensure!(
            curl(&world.place("stranger")?.space, web, 80)?.exit == 28,
            "a refused policy is half in force"
        );
        Ok(())
    })
}

fn problems(world: &World) -> Result<Vec<Problem>> {
    Ok(world.agent("node2")?.status()?.cluster.problems)
}
