//! The verdict ladder: how the entries of the policy map that match a packet become one decision.

use crate::policy::{PolicyEntry, flag};

/// What policy says of one direction of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Decision {
    /// Whether the flow may pass, authentication aside.
    pub allow: bool,
    /// The rule denies it by name (as against nothing allowing it).
    pub deny_rule: bool,
    /// One of [`crate::policy::auth_type`].
    pub auth_type: u8,
    /// The deciding rule; 0 is none.
    pub rule_id: u32,
}

/// Chooses between the entry for the peer's own identity and the one for every peer.
///
/// Higher precedence wins, then the longer prefix, then the peer's own. Where the winner does not name an
/// authentication type, it inherits the other's, if that has the same precedence. Nothing found denies.
#[must_use]
#[inline(always)]
pub fn choose(own: Option<&PolicyEntry>, any: Option<&PolicyEntry>) -> Decision {
    let (winner, other) = match (own, any) {
        (Some(own), Some(any)) if stronger(any, own) => (any, Some(own)),
        (Some(own), any) => (own, any),
        (None, Some(any)) => (any, None),
        (None, None) => return Decision { allow: false, deny_rule: false, auth_type: 0, rule_id: 0 },
    };
    let deny = winner.flags & flag::DENY != 0;
    Decision {
        allow: !deny,
        // What denies and is no rule's stands for nothing allowing it.
        deny_rule: deny && winner.rule_id != 0,
        auth_type: if deny { 0 } else { auth_of(winner, other) },
        rule_id: winner.rule_id,
    }
}

#[inline(always)]
fn stronger(any: &PolicyEntry, own: &PolicyEntry) -> bool {
    any.precedence > own.precedence || (any.precedence == own.precedence && any.prefix_bits > own.prefix_bits)
}

#[inline(always)]
fn auth_of(winner: &PolicyEntry, other: Option<&PolicyEntry>) -> u8 {
    if winner.flags & flag::AUTH_EXPLICIT != 0 {
        return winner.auth_type;
    }
    match other {
        Some(other) if other.precedence == winner.precedence => winner.auth_type.max(other.auth_type),
        _ => winner.auth_type,
    }
}
