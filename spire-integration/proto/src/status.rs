//! What a registrar says of itself: one line of JSON in a file that everybody may read.

use serde::{Deserialize, Serialize};

/// The content of a registrar's status file. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistrarStatus {
    /// Name of the cluster in the entries' IDs.
    pub cluster: String,
    /// The trust domain.
    pub trust_domain: String,
    /// How the server is reached.
    pub server: String,
    /// Entries on the server that are this registrar's.
    pub managed: usize,
    /// Entries that should be there, others' that do included.
    pub desired: usize,
    /// Of the desired ones, those that somebody else's entry does for.
    pub elsewhere: usize,
    /// Pods that are to have an entry and for which something is not known yet.
    pub waiting: usize,
    /// Entries that the server, or somebody else's entry, does not let be.
    pub failed: usize,
    /// When this process began.
    pub since: u64,
    /// When the server last had everything that is desired.
    pub in_step: Option<u64>,
    /// When all of the server's entries were last looked at.
    pub listed: Option<u64>,
    /// Since when the server cannot be reached.
    pub server_down_since: Option<u64>,
    /// What went wrong last, until it goes right.
    pub last_error: Option<String>,
    /// The first of what does not work, by pod or node.
    pub errors: Vec<EntryError>,
    /// Where several registrars take turns: whose turn it is.
    pub turn: Option<Turn>,
}

/// What a registrar knows of the Lease by which several take turns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Turn {
    /// The Lease, `namespace/name`.
    pub lease: String,
    /// The name of this registrar in it.
    pub identity: String,
    /// Whose turn it is, as far as this registrar has seen.
    pub leader: Option<String>,
    /// Whether it is this one's: a registrar that does not lead writes no entry.
    pub leads: bool,
    /// When this was so, by the API server.
    pub seen: u64,
}

/// Something that does not work.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryError {
    /// The pod (`namespace/name`) or node.
    pub about: String,
    /// What is wrong.
    pub message: String,
}
