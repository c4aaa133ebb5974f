//! Real SPIRE, asked by its Broker API (experimental in 1.15): its agents are told of a process of each pod and attest
//! it themselves. Needs root, and SPIRE built by `cargo xtask peers`.

use anyhow::{Context as _, Result, ensure};
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::spire::{PATIENCE, delete_entry, holds, obtainable, selector, spiffe_id};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};
use countersign_lab::spire::{Part, PodsBy, Tuning};
use countersign_lab::{IdentitySource, PodState};

const NODES: [&str; 2] = ["node1", "node2"];

fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("far", "node1", "client").label("who", "far").yaml(),
        Pod::new("near", "node2", "client").label("who", "near").yaml(),
        Pod::new("stranger", "node1", "stranger").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

fn reaches(world: &World, client: &str) -> Result<bool> {
    let web = world.place("web")?;
    let answers = [false, true].map(|ipv6| curl(&world.place(client)?.space, web.address(ipv6)?, 80));
    answers
        .into_iter()
        .map(|answer| answer.map(|answer| answer.exit == 0))
        .try_fold(true, |all, one| Ok(all && one?))
}

#[test]
fn pods_are_attested_by_their_processes() -> Result<()> {
    let identity_source = IdentitySource::Spire { tuning: Tuning::Fast, pods: PodsBy::Broker };
    let options = WorldOptions { identity_source, ..WorldOptions::new("spbroker")? };
    in_world(options, &cast(), |world| {
        let _server = Server::start(&world.place("web")?.space, 80, "hello")?;
        for (node, pod) in [("node1", "far"), ("node2", "near"), ("node2", "web")] {
            eventually(&format!("{pod} has an SVID"), PATIENCE, || holds(world, node, pod))?;
        }
        ensure!(reaches(world, "far")? && reaches(world, "near")?, "clients are let through");
        ensure!(!reaches(world, "stranger")?, "the stranger is let through");
        let spire = world.spire()?;
        for node in NODES {
            let status = world.agent(node)?.spire_status()?;
            let apis: Vec<&str> =
                status.connections.iter().map(|connection| connection.api.as_str()).collect();
            ensure!(apis == ["Workload API", "Broker API"] && status.down_since.is_none(), "{status:?}");
            // Nobody is believed about selectors.
            let socket = spire.paths().admin_socket(node);
            for pod in PodState::load_all(&world.lab().paths()) {
                let got = obtainable(&socket, vec![selector(&pod)]);
                ensure!(got.is_err(), "{node}: who claims to be {} gets {got:?}", pod.key);
            }
        }

        // SPIRE's agent restarts: what is held is held, and the subscriptions come back by themselves.
        spire.stop(Part::Agent("node1"))?;
        let down = || Ok(world.agent("node1")?.spire_status()?.down_since.is_some());
        eventually("the agent says that SPIRE is away", PATIENCE, down)?;
        ensure!(holds(world, "node1", "far")?, "what was held is held");
        spire.start(Part::Agent("node1"))?;
        eventually("and that it is back", PATIENCE, || Ok(!down()?))?;
        world.apply("new.yaml", &[Pod::new("new", "node1", "client").label("who", "new").yaml()])?;
        eventually("a new pod has an SVID", PATIENCE, || {
            Ok(world.is_running("new") && holds(world, "node1", "new")?)
        })?;
        ensure!(reaches(world, "new")?, "the new client is let through");

        // An entry that goes takes the SVID with it, and the registrar puts it back.
        let id = spiffe_id(world, "node1", "far").context("far's ID")?;
        delete_entry(&spire, &id)?;
        eventually("the SVID is gone", PATIENCE, || Ok(!holds(world, "node1", "far")?))?;
        eventually("the entry is back", PATIENCE * 3, || holds(world, "node1", "far"))?;
        Ok(())
    })
}
