//! `encrypt rotate-key`.

use serde::Serialize;

use super::escape::Safe;
use super::paint::Paint;

/// How far a node is with its new key.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Step {
    /// The node.
    pub node: String,
    /// What it does.
    pub phase: Phase,
    /// The new public key.
    pub public_key: String,
    /// Nodes that still need the old key.
    pub waiting_for: Vec<String>,
    /// Nodes that had not come along when the old key ended.
    pub cut_off: Vec<String>,
    /// Since the command began.
    pub seconds: f64,
}

/// What a node does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// There is a next key.
    #[default]
    Begun,
    /// Both keys are in use.
    Waiting,
    /// The old key has ended.
    Done,
}

impl Step {
    /// Whether there is nothing new but the time.
    #[must_use]
    pub fn is_same(&self, before: &Self) -> bool {
        Self { seconds: before.seconds, ..self.clone() } == *before
    }

    /// A line for people.
    #[must_use]
    pub fn text(&self, paint: Paint) -> String {
        let names = |nodes: &[String]| Safe(&nodes.join(", ")).to_string();
        let (node, key, seconds) = (Safe(&self.node), Safe(&self.public_key), self.seconds);
        match self.phase {
            Phase::Begun => format!("{node}: next key {key}\n"),
            Phase::Waiting if self.waiting_for.is_empty() => {
                format!("{node}: all nodes have come along ({seconds:.1} s)\n")
            }
            Phase::Waiting => {
                format!(
                    "{node}: both keys are in use, waiting for {} ({seconds:.1} s)\n",
                    names(&self.waiting_for)
                )
            }
            Phase::Done if self.cut_off.is_empty() => {
                format!("{node}: {} ({seconds:.1} s)\n", paint.good("the old key has ended"))
            }
            Phase::Done => {
                let late = paint.bad(format!("cut off until they come along: {}", names(&self.cut_off)));
                format!("{node}: the old key has ended; {late} ({seconds:.1} s)\n")
            }
        }
    }
}
