//! The stage of a benchmark: a lab of its own with pods whose identities all differ.

use anyhow::{Context as _, Result};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::world::{Place, World, WorldOptions};

use crate::limits::SETTLE;

/// What the pods of a group are called, and where they are.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Prefix of their names.
    pub name: &'static str,
    /// Their node.
    pub node: &'static str,
    /// Their label `app`, by which policies select them.
    pub app: &'static str,
    /// How many.
    pub count: usize,
}

impl Group {
    /// Their manifests. Each pod has a label of its own and with it an identity of its own.
    pub fn manifests(self) -> Vec<String> {
        let pod = |name: String| Pod::new(&name, self.node, self.app).label("who", &name).yaml();
        (0..self.count).map(|n| pod(format!("{}-{n}", self.name))).collect()
    }

    /// The places of its pods in `world`.
    pub fn places(self, world: &World) -> Result<Vec<Place>> {
        (0..self.count).map(|n| world.place(&format!("{}-{n}", self.name))).collect()
    }
}

/// Brings up a lab with `groups`, under the policies `documents`.
pub fn up(options: WorldOptions, groups: &[Group], documents: Vec<String>) -> Result<World> {
    let mut all = documents;
    all.extend(groups.iter().flat_map(|group| group.manifests()));
    let pods: usize = groups.iter().map(|group| group.count).sum();
    println!("lab {}: {pods} pods on 2 nodes …", options.name);
    World::up(options, &all)
}

/// `required` for clients on the ports `ports` of servers.
pub fn required(ports: &[&str]) -> String {
    policy("servers", "server", &[Rule { peer: "client", ports, required: true }], &[])
}

/// Makes every pair of both nodes fresh again.
pub fn flush(world: &World) -> Result<()> {
    // What is still on its way would prove its pair again right after.
    std::thread::sleep(SETTLE);
    for node in ["node1", "node2"] {
        world.agent(node)?.auth_flush().with_context(|| format!("auth flush on {node}"))?;
    }
    std::thread::sleep(SETTLE);
    Ok(())
}
