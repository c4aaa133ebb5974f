//! ICMP errors: good for something only if they are about a flow that is alive.

use crate::at::At;
use crate::decide::{decide, whois};
use crate::flow::{self, Known};
use crate::frame::Frame;
use crate::ipcache;
use crate::maps::{Maps, Scratch};
use crate::packet::Packet;
use crate::parse;
use crate::policy::direction;
use crate::reason;

/// An ICMP error passes if what it quotes went the other way through this endpoint in a live flow, and it
/// comes from the flow's peer or from something that is no pod (a router). Gives [`reason::FORWARDED`] or
/// [`reason::ICMP_UNRELATED`].
#[inline(never)]
pub fn check<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M, at: &At<'_>, scratch: &mut Scratch) -> u8 {
    let Scratch { packet: error, quoted, recall, verdict, .. } = scratch;
    if parse::embedded(frame, error, quoted) != reason::FORWARDED {
        return reason::ICMP_UNRELATED;
    }
    let (own, other_way) = if at.direction == direction::EGRESS {
        (quoted.destination, direction::INGRESS)
    } else {
        (quoted.source, direction::EGRESS)
    };
    let sent_by_peer = at.direction == direction::EGRESS || error.source == quoted.destination;
    let genuine = at.endpoint.owns(error.family, &own) && (sent_by_peer || !is_pod(maps, error));
    if !genuine {
        return reason::ICMP_UNRELATED;
    }
    match flow::recall_quoted(maps, at, quoted, other_way, recall) {
        Known::Holds => return reason::FORWARDED,
        Known::Unsolicited => return reason::ICMP_UNRELATED,
        Known::Ask => decide(maps, at, &recall.question, verdict),
    }
    if verdict.reason == reason::FORWARDED { reason::FORWARDED } else { reason::ICMP_UNRELATED }
}

#[inline(always)]
fn is_pod<M: Maps>(maps: &M, error: &Packet) -> bool {
    whois(maps, error.family, &error.source).has(ipcache::flag::POD)
}
