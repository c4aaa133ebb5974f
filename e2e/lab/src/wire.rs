//! The wire and the nodes on it: a bridge in a namespace of its own, a veth to each node.

use anyhow::{Context, Result};

use crate::config::{AgentMode, LabConfig};
use crate::ip::{Batch, link_exists};
use crate::names::mac;
use crate::plan::WORLD;
use crate::{mounts, ns};

/// What a node's kernel is told before it has an interface: forward everything, believe no router, do not judge
/// by source address, have no address that nobody gave.
const NODE_SYSCTLS: [(&str, &str); 11] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// The same for a pod; addresses come from the lab alone, link-local ones included.
pub(crate) const POD_SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// Makes the wire's namespace and bridge, or what of them is missing.
///
/// # Errors
/// Needs root.
pub fn create_wire(config: &LabConfig) -> Result<bool> {
    let netns = config.name.wire_netns();
    ns::create_net(&netns)?;
    if link_exists(&netns, "wire") {
        return Ok(false);
    }
    sysctls(&netns, &NODE_SYSCTLS)?;
    let (v4, v6) = config.plan().wire();
    let mut batch = Batch::default();
    batch.add("link set lo up");
    for address in WORLD {
        batch.add(format!("addr add {address} dev lo{}", if address.contains(':') { " nodad" } else { "" }));
    }
    batch.add("link add wire type bridge stp_state 0 mcast_snooping 0").add("link set wire up");
    batch.add(format!("addr add {v4}/24 dev wire")).add(format!("addr add {v6}/64 dev wire nodad"));
    batch.run_in(&netns)?;
    Ok(true)
}

/// Makes a node's namespaces and its uplink, or what of them is missing.
///
/// # Errors
/// Where the wire does not exist; needs root.
pub fn create_node(config: &LabConfig, number: u8, name: &str) -> Result<bool> {
    let netns = config.name.node_netns(name);
    ns::create_net(&netns)?;
    let made = mounts::create_node(&config.paths(), name, &netns)?;
    if link_exists(&netns, "eth0") {
        return Ok(made);
    }
    sysctls(&netns, &NODE_SYSCTLS)?;
    plug(config, number, name)?;
    uplink(config, number, name)?;
    Ok(true)
}

/// The cable: one end in the bridge, the other is the node's `eth0`.
fn plug(config: &LabConfig, number: u8, name: &str) -> Result<()> {
    let (wire, node) = (config.name.wire_netns(), config.name.node_netns(name));
    let id = format!("{}/{name}", config.name);
    let (v4, v6) = config.plan().node(number);
    let (pods4, pods6) = config.plan().pod_cidrs(number);
    let mut batch = Batch::default();
    batch.add(format!(
        "link add {name} address {} type veth peer name eth0 address {} netns {node}",
        mac(&id, "wire"),
        mac(&id, "uplink"),
    ));
    batch.add(format!("link set {name} master wire")).add(format!("link set {name} up"));
    // The world's way back to pods; nodes do not masquerade.
    batch.add(format!("route replace {pods4} via {v4} dev wire"));
    batch.add(format!("route replace {pods6} via {v6} dev wire"));
    batch.run_in(&wire).with_context(|| format!("plug {name} in"))
}

fn uplink(config: &LabConfig, number: u8, name: &str) -> Result<()> {
    let plan = config.plan();
    let ((v4, v6), (gateway4, gateway6)) = (plan.node(number), plan.wire());
    let mut batch = Batch::default();
    batch.add("link set lo up").add("link set eth0 up");
    batch.add(format!("addr add {v4}/24 dev eth0")).add(format!("addr add {v6}/64 dev eth0 nodad"));
    batch.add(format!("route replace default via {gateway4} dev eth0"));
    batch.add(format!("route replace default via {gateway6} dev eth0"));
    if config.agent == AgentMode::None {
        for (other, _) in config.node_names().filter(|(other, _)| *other != number) {
            let ((via4, via6), (pods4, pods6)) = (plan.node(other), plan.pod_cidrs(other));
            batch.add(format!("route replace {pods4} via {via4} dev eth0"));
            batch.add(format!("route replace {pods6} via {via6} dev eth0"));
        }
    }
    batch.run_in(&config.name.node_netns(name)).with_context(|| format!("configure {name}"))
}

/// Writes settings below `/proc/sys` in a network namespace.
pub(crate) fn sysctls(netns: &str, settings: &[(&str, &str)]) -> Result<()> {
    ns::Space::net(netns)?.run(|| {
        for (name, value) in settings {
            std::fs::write(format!("/proc/sys/{name}"), value)
                .with_context(|| format!("set {name} in {netns}"))?;
        }
        Ok(())
    })
}
