//! `encrypt status`.

use std::collections::BTreeMap;
use std::fmt::Write;

use countersign_agent_api::{EncryptPeer, EncryptStatus};
use serde::Serialize;

use super::escape::Safe;
use super::paint::Paint;
use super::units::{bytes, count, since, until};

/// All nodes in sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary<'a> {
    /// `Wireguard` or `Disabled`.
    pub encryption: &'a str,
    /// Nodes whose traffic is encrypted: they say so, and nobody who knows them says otherwise.
    pub encrypted_nodes: usize,
    /// Nodes known, to themselves or to others.
    pub total_nodes: usize,
    /// What each agent that was asked says.
    pub nodes: &'a [EncryptStatus],
}

impl<'a> Summary<'a> {
    /// Sums up what agents said; `unreachable` are nodes whose agents said nothing.
    #[must_use]
    pub fn of(nodes: &'a [EncryptStatus], unreachable: &[String]) -> Self {
        let mut known: BTreeMap<&str, bool> = BTreeMap::new();
        for node in nodes {
            for peer in &node.peers {
                *known.entry(&peer.node).or_insert(true) &= peer.error.is_none();
            }
            *known.entry(&node.node).or_insert(true) &= node.is_encrypted();
        }
        for node in unreachable {
            known.insert(node, false);
        }
        let on = nodes.iter().map(|node| node.mode.as_str()).find(|mode| !matches!(*mode, "" | "Disabled"));
        Self {
            encryption: on.unwrap_or("Disabled"),
            encrypted_nodes: if on.is_some() { known.values().filter(|fine| **fine).count() } else { 0 },
            total_nodes: known.len(),
            nodes,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self, now: u64, paint: Paint) -> String {
        let (n, of) = (self.encrypted_nodes, self.total_nodes);
        let line = format!("{} ({n}/{of} nodes)", Safe(self.encryption));
        let line = if n == of && of > 0 { paint.good(line) } else { paint.bad(line) };
        let mut text = format!("Encryption: {line}\n");
        for status in self.nodes {
            node(&mut text, status, now, paint);
        }
        text
    }
}

fn node(text: &mut String, status: &EncryptStatus, now: u64, paint: Paint) {
    text.push('\n');
    let mut line = |label: &str, value: &str| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "  {label:<20}{value}");
    };
    let safe = |value: &str| if value.is_empty() { "-".to_owned() } else { Safe(value).to_string() };
    line("Node:", &safe(&status.node));
    line("Encryption:", &safe(&status.mode));
    line("Interface:", &format!("{} ({})", safe(&status.device), safe(&status.backend)));
    line("Listen port:", &format!("{}/UDP", status.listen_port));
    line("Public key:", &safe(&status.public_key));
    line("Leaks prevented:", &count(status.leaks_prevented, "packet"));
    if let Some(of) = &status.rotation {
        line("Next public key:", &safe(&of.next_public_key));
        let waiting = match of.waiting_for.as_slice() {
            [] => "all nodes have come along".to_owned(),
            nodes => format!("waiting for {} (for {})", Safe(&nodes.join(", ")), until(of.until, now)),
        };
        line("Key change:", &format!("{}, {waiting}", since(of.since, now)));
    }
    for error in &status.errors {
        line("Error:", &paint.bad(Safe(error)));
    }
    line("Number of peers:", &status.peers.len().to_string());
    for one in &status.peers {
        peer(text, one, now, paint);
    }
}

fn peer(text: &mut String, peer: &EncryptPeer, now: u64, paint: Paint) {
    text.push('\n');
    let mut line = |label: &str, value: &str| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "    {label:<20}{value}");
    };
    let safe = |value: &str| if value.is_empty() { "-".to_owned() } else { Safe(value).to_string() };
    line("Peer:", &safe(&peer.node));
    line("Public key:", &safe(&peer.public_key));
    line("Endpoint:", &safe(&peer.endpoint));
    line("Allowed IPs:", &safe(&peer.allowed_ips.join(", ")));
    line("Last handshake:", &peer.last_handshake.map_or("never".into(), |then| since(then, now)));
    line("Received / sent:", &format!("{} / {}", bytes(peer.rx_bytes), bytes(peer.tx_bytes)));
    let attested = match (peer.attested_by.as_str(), peer.attested_until) {
        ("", _) => paint.bad("nobody"),
        (by, None) => Safe(by).to_string(),
        (by, Some(end)) if end < now => format!("{} ({})", Safe(by), paint.bad(until(end, now))),
        (by, Some(end)) => format!("{} (for {})", Safe(by), until(end, now)),
    };
    line("Key attested by:", &attested);
    let preshared = match peer.preshared {
        None => paint.bad("none"),
        Some(key) => {
            let quantum = match key.post_quantum {
                Some(true) => "post-quantum",
                Some(false) => "not post-quantum",
                None => "from before the agent's start",
            };
            format!("{}, {quantum} (for {})", since(key.since, now), until(key.until, now))
        }
    };
    line("Preshared key:", &preshared);
    let path = peer.path.map(|of| format!("{} B{}", of.mtu, if of.probed { "" } else { " (not probed)" }));
    line("Path MTU:", path.as_deref().unwrap_or("-"));
    if let Some(error) = &peer.error {
        line("Error:", &paint.bad(Safe(error)));
    }
}
