//! `countersign auth list` and `auth flush`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::status::LastError;

/// One authenticated (or not yet authenticated) pair of identities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthEntry {
    /// Identity on this node.
    pub local_identity: u32,
    /// Its labels (`k8s:app=x`).
    pub local_labels: Vec<String>,
    /// Its SPIFFE ID; empty where it has no SVID.
    pub local_spiffe_id: String,
    /// Identity on the peer node.
    pub remote_identity: u32,
    /// Its labels.
    pub remote_labels: Vec<String>,
    /// Its SPIFFE ID.
    pub remote_spiffe_id: String,
    /// Name of the node of the remote endpoint; this node's own for pairs within it.
    pub peer_node: String,
    /// Address of that node.
    pub peer_address: Option<IpAddr>,
    /// `spire`, `test-always-fail`.
    #[serde(rename = "type")]
    pub auth_type: String,
    /// Where it is.
    pub state: AuthState,
    /// When the entry ends; none while there is none.
    pub expires_at: Option<u64>,
    /// Seconds until then.
    pub expires_in_seconds: Option<u64>,
    /// Duration of the last successful handshake, in milliseconds.
    pub handshake_ms: Option<f64>,
    /// Seconds until the next attempt, while backing off.
    pub retry_in_seconds: Option<f64>,
    /// Last failure of the pair.
    pub last_error: Option<LastError>,
    /// Packets parked for it now.
    pub parked: u64,
}

/// Where a pair is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthState {
    /// Waiting for its turn.
    #[default]
    Pending,
    /// A handshake is under way; there is no entry yet.
    Handshaking,
    /// Proved.
    Authenticated,
    /// Proved, and proving itself again before that ends.
    Renewing,
    /// The last attempt failed; there is no entry.
    Failed,
}

impl AuthState {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Handshaking => "handshaking",
            Self::Authenticated => "authenticated",
            Self::Renewing => "renewing",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for AuthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Answer to [`crate::Request::AuthFlush`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthFlushed {
    /// Entries removed.
    pub removed: u64,
}
