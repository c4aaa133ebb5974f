//! `countersign spire status`, `countersign svid list|show`.

use serde::{Deserialize, Serialize};

/// Where this node's SVIDs come from, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpireStatus {
    /// Name of the node.
    pub node: String,
    /// `SPIRE` or `embedded CA`.
    pub kind: String,
    /// The trust domain's name, without `spiffe://`.
    pub trust_domain: String,
    /// Connections to SPIRE's agent; none with the embedded CA.
    pub connections: Vec<SpireConnection>,
    /// Since when SPIRE's agent cannot be reached: Unix seconds.
    pub down_since: Option<u64>,
    /// Trust domains whose bundles are held.
    pub trust_domains: Vec<TrustDomainEntry>,
    /// SVIDs that are past the time at which they are renewed as a rule: its server may be away.
    pub renewals_overdue: u64,
    /// Pods here that should have an SVID and have none.
    pub missing: Vec<MissingSvid>,
    /// SVIDs held: the node's own first.
    pub svids: Vec<SvidEntry>,
    /// What the registrar of SPIRE's entries says of itself, where its status file can be read here.
    pub registrar: Option<RegistrarEntry>,
}

/// A registrar's status file, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistrarEntry {
    /// The file.
    pub file: String,
    /// When it was written last: Unix seconds. A registrar that is well looks at all entries, and says so, about once
    /// a minute.
    pub written: u64,
    /// Why it says nothing, if it is there and cannot be read.
    pub unreadable: Option<String>,
    /// Name of the cluster in the entries' IDs.
    pub cluster: String,
    /// How the server is reached.
    pub server: String,
    /// Entries on the server that are the registrar's.
    pub managed: u64,
    /// Entries that should be there, others' that do included.
    pub desired: u64,
    /// Of the desired ones, those that somebody else's entry does for.
    pub elsewhere: u64,
    /// Pods that are to have an entry and for which something is not known yet.
    pub waiting: u64,
    /// Entries that the server, or somebody else's entry, does not let be.
    pub failed: u64,
    /// When the server last had everything that is desired: Unix seconds.
    pub in_step: Option<u64>,
    /// Since when the server cannot be reached: Unix seconds.
    pub server_down_since: Option<u64>,
    /// What went wrong last, until it goes right.
    pub last_error: Option<String>,
    /// The first of what does not work, by pod or node.
    pub errors: Vec<EntryTrouble>,
    /// Where several registrars take turns: whose turn it is.
    pub turn: Option<RegistrarTurn>,
}

/// The Lease by which several registrars take turns, as one of them knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistrarTurn {
    /// The Lease, `namespace/name`.
    pub lease: String,
    /// The name of this registrar in it.
    pub identity: String,
    /// Who leads, as far as this registrar has seen.
    pub leader: Option<String>,
    /// Whether this registrar does; the others write no entry.
    pub leads: bool,
    /// When this was so, by the API server: Unix seconds.
    pub seen: u64,
}

/// An entry that does not work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntryTrouble {
    /// The pod (`namespace/name`) or node.
    pub about: String,
    /// What is wrong.
    pub message: String,
}

/// One connection to SPIRE's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpireConnection {
    /// `Workload API`, `Delegated Identity API` or `Broker API`.
    pub api: String,
    /// Path of the socket.
    pub socket: String,
    /// Whether the last thing heard was an answer.
    pub up: bool,
    /// Since when it is so: Unix seconds.
    pub since: u64,
    /// The last error, also after it was mended.
    pub last_error: Option<String>,
}

/// A trust domain and its authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrustDomainEntry {
    /// Its name, without `spiffe://`.
    pub name: String,
    /// Whether it is this cluster's own.
    pub own: bool,
    /// How many authorities its bundle has.
    pub authorities: u64,
    /// How many of them have ended: they vouch for nobody.
    pub expired: u64,
    /// Until when the last of those that live does: Unix seconds. Without one, nobody of the domain is believed.
    pub lives_until: Option<u64>,
}

/// A pod without an SVID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MissingSvid {
    /// `namespace/name`.
    pub pod: String,
    /// Its security identity.
    pub identity: u32,
    /// The SPIFFE ID it should have.
    pub spiffe_id: String,
    /// Why it has none, as far as that is known.
    pub why: String,
}

/// An SVID of this node. Its private key stays where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SvidEntry {
    /// The security identity; 0 for the node itself.
    pub identity: u32,
    /// Whom it speaks for.
    pub spiffe_id: String,
    /// Pods here that have it: `namespace/name`.
    pub pods: Vec<String>,
    /// Begin of its life: Unix seconds.
    pub not_before: u64,
    /// End of its life: Unix seconds.
    pub not_after: u64,
    /// Kind of its key, such as `ECDSA P-256`.
    pub key: String,
    /// Its chain, leaf first, in PEM.
    pub chain_pem: String,
}
