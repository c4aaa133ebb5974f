//! A pod's network: a namespace, a veth pair, addresses, and neighbours that nobody has to ask for.
//!
//! It is made in two parts. The first leaves the host's end down, so that nothing passes; the second, after the
//! agent has taken the endpoint, raises it.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ip::{Batch, link_exists};
use crate::limits::POD_MTU;
use crate::names::{host_interface, mac};
use crate::ns;
use crate::paths::Paths;
use crate::plan::{POD_GATEWAY_V4, POD_GATEWAY_V6};
use crate::wire::{POD_SYSCTLS, sysctls};

/// Everything about a pod's network that is decided before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNet {
    /// Network namespace of the pod.
    pub netns: String,
    /// Network namespace of its node.
    pub node_netns: String,
    /// Name of the veth's end on the node.
    pub interface: String,
    /// MAC address of that end.
    pub host_mac: String,
    /// MAC address of the pod's `eth0`.
    pub mac: String,
    /// IPv4 address of the pod.
    pub v4: Ipv4Addr,
    /// IPv6 address of the pod.
    pub v6: Ipv6Addr,
}

impl PodNet {
    /// For the pod with this UID.
    #[must_use]
    pub fn new(uid: &str, netns: String, node_netns: String, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Self {
        let (interface, host_mac, mac) = (host_interface(uid), mac(uid, "host"), mac(uid, "pod"));
        Self { netns, node_netns, interface, host_mac, mac, v4, v6 }
    }

    /// Makes everything, the host's end down. What is left of an earlier attempt is removed first.
    ///
    /// # Errors
    /// Needs root.
    pub fn create(&self) -> Result<()> {
        if Paths::netns(&self.netns).exists() {
            self.remove()?;
        }
        ns::create_net(&self.netns)?;
        sysctls(&self.netns, &POD_SYSCTLS)?;
        self.host_link().run_in(&self.node_netns).context("make the veth")?;
        self.inside().run_in(&self.netns).context("configure the pod")
    }

    /// Raises the host's end and makes the pod reachable.
    ///
    /// # Errors
    /// Where [`Self::create`] was not done.
    pub fn open(&self) -> Result<()> {
        let Self { interface, mac, v4, v6, .. } = self;
        let mut batch = Batch::default();
        batch.add(format!("link set {interface} up"));
        batch.add(format!("addr replace {POD_GATEWAY_V6}/64 dev {interface} nodad"));
        for ip in [v4.to_string(), v6.to_string()] {
            batch.add(format!("neigh replace {ip} lladdr {mac} dev {interface} nud permanent"));
            batch.add(format!("route replace {ip} dev {interface}"));
        }
        batch.run_in(&self.node_netns).context("open the pod's interface")
    }

    /// Removes everything; no error where it is gone already.
    ///
    /// # Errors
    /// Those of the mount table.
    pub fn remove(&self) -> Result<()> {
        // With its namespace the veth would go, too, but at the kernel's leisure.
        let mut batch = Batch::default();
        let deleted = batch.add(format!("link del {}", self.interface)).run_in(&self.node_netns);
        if deleted.is_err() && link_exists(&self.node_netns, &self.interface) {
            deleted?;
        }
        ns::remove_net(&self.netns)
    }

    fn host_link(&self) -> Batch {
        let Self { interface, host_mac, mac, netns, .. } = self;
        let mut batch = Batch::default();
        batch.add(format!(
            "link add {interface} address {host_mac} mtu {POD_MTU} \
             type veth peer name eth0 address {mac} mtu {POD_MTU} netns {netns}"
        ));
        batch.add(format!("link set {interface} addrgenmode none"));
        batch
    }

    fn inside(&self) -> Batch {
        let Self { host_mac, v4, v6, .. } = self;
        let mut batch = Batch::default();
        batch.add("link set lo up").add("link set eth0 up");
        batch.add(format!("addr add {v4}/32 dev eth0")).add(format!("addr add {v6}/128 dev eth0 nodad"));
        for (gateway, source) in
            [(POD_GATEWAY_V4.to_string(), v4.to_string()), (POD_GATEWAY_V6.to_string(), v6.to_string())]
        {
            batch.add(format!("neigh replace {gateway} lladdr {host_mac} dev eth0 nud permanent"));
            batch.add(format!("route add default via {gateway} dev eth0 src {source} onlink"));
        }
        batch
    }
}
