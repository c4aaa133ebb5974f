//! The two programs on a pod's host-side device: everything from its packet to what is done with it.

use crate::action::{Action, Errand};
use crate::at::At;
use crate::config;
use crate::decide::{audit, decide};
use crate::endpoint;
use crate::event::kind;
use crate::flow::{self, Known};
use crate::fragment;
use crate::frame::Frame;
use crate::guard::{self, Step};
use crate::maps::{Maps, Scratch};
use crate::packet::{Kind, Packet};
use crate::park::{FROM_ADDRESS, Parked, address_line};
use crate::policy::direction;
use crate::reason;
use crate::related;
use crate::report::{self, About};
use crate::wait;

/// A packet that comes out of a pod. The errand says on which interface, and how many times it has been parked;
/// afterwards, where it goes if that is not its ordinary way.
#[inline(always)]
pub fn from_pod<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M, errand: &mut Errand) -> Action {
    run::<F, M, { direction::EGRESS }>(frame, maps, errand)
}

/// A packet that goes into a pod.
#[inline(always)]
pub fn to_pod<F: Frame + ?Sized, M: Maps>(frame: &F, maps: &M, errand: &mut Errand) -> Action {
    run::<F, M, { direction::INGRESS }>(frame, maps, errand)
}

#[inline(always)]
fn run<F: Frame + ?Sized, M: Maps, const DIRECTION: u8>(frame: &F, maps: &M, errand: &mut Errand) -> Action {
    let action = maps.with_scratch(|scratch| {
        let length = frame.len();
        scratch.packet = Packet::default();
        scratch.about = About { kind: kind::DROP, direction: DIRECTION, length, ..About::default() };
        match examine::<F, M, DIRECTION>(frame, maps, scratch, errand) {
            Ok(action) => action,
            Err(reason) => {
                scratch.about.reason = reason;
                refuse(maps, &scratch.about, &scratch.packet);
                Action::Drop
            }
        }
    });
    // The one cell of the scratch array is always there.
    action.unwrap_or(Action::Drop)
}

#[inline(always)]
fn examine<F: Frame + ?Sized, M: Maps, const DIRECTION: u8>(
    frame: &F,
    maps: &M,
    scratch: &mut Scratch,
    errand: &mut Errand,
) -> Result<Action, u8> {
    let Some(endpoint) = maps.endpoint(errand.ifindex) else { return Err(reason::EP_NOT_READY) };
    scratch.about.slot = endpoint.slot;
    scratch.about.local = endpoint.identity;
    if endpoint.flags & endpoint::flag::READY == 0 {
        return Err(reason::EP_NOT_READY);
    }
    let Some(config) = maps.config() else { return Err(reason::NO_CONFIG) };
    if !config.has(config::flag::READY) {
        return Err(reason::NO_CONFIG);
    }
    let at = At { config, endpoint, now: maps.coarse_now(), length: frame.len(), direction: DIRECTION };
    let step = if DIRECTION == direction::EGRESS {
        guard::leaves(frame, endpoint, &mut scratch.packet)?
    } else {
        guard::arrives(frame, endpoint, &mut scratch.packet)?
    };
    if step == Step::Pass {
        return Ok(pass(maps, &at));
    }
    if scratch.packet.kind == Kind::Error {
        reason::check(related::check(frame, maps, &at, scratch))?;
        return Ok(pass(maps, &at));
    }
    reason::check(fragment::follow(maps, endpoint.slot, DIRECTION, &mut scratch.packet))?;
    follow(maps, &at, scratch, errand)
}

/// What the packet's flow says.
#[inline(always)]
fn follow<M: Maps>(maps: &M, at: &At<'_>, scratch: &mut Scratch, errand: &mut Errand) -> Result<Action, u8> {
    let Scratch { packet, recall, verdict, about, wait, .. } = scratch;
    match flow::recall(maps, at, packet, recall) {
        Known::Holds => return Ok(pass(maps, at)),
        Known::Unsolicited => return Err(reason::ICMP_UNRELATED),
        Known::Ask => decide(maps, at, &recall.question, verdict),
    }
    about.auth_type = verdict.auth_type;
    about.node = verdict.remote.node;
    about.rule_id = verdict.rule_id;
    about.remote = verdict.remote.identity;
    if !matches!(verdict.reason, reason::FORWARDED | reason::AUTH_REQUIRED | reason::ADDRESS_UNKNOWN) {
        return Err(verdict.reason);
    }
    wait.line = address_line(&recall.question.remote);
    if wait::wait(maps, at, verdict, errand.round, wait) {
        about.kind = match verdict.reason {
            reason::ADDRESS_UNKNOWN => kind::ADDRESS_UNKNOWN,
            _ if recall.had_proof => kind::PROOF_ENDED,
            _ => kind::AUTH_REQUIRED,
        };
        return Ok(park(maps, at, scratch, errand));
    }
    if !flow::enter(maps, at, packet, recall, verdict) {
        return Err(reason::CT_INSERT_FAILED);
    }
    // Asked when the flow begins and when policy has changed, not whenever a verdict is renewed.
    if at.endpoint.audit_slot != 0 && !recall.is_judged {
        about.would = audit(maps, at, &recall.question, verdict);
    }
    if about.would != reason::FORWARDED {
        about.kind = kind::AUDIT;
        about.reason = reason::AUDITED;
        about.auth_type = verdict.decision.auth_type;
        about.rule_id = verdict.decision.rule_id;
        maps.count(at.direction, reason::AUDITED, at.length);
        report::report(maps, about, packet, at.now);
    } else if !recall.goes_on && at.config.has(config::flag::VERDICT_EVENTS) {
        about.kind = kind::VERDICT;
        report::report(maps, about, packet, at.now);
    }
    Ok(pass(maps, at))
}

/// Parks the packet if it has a place. The pair is reported now and then, whatever becomes of it.
#[inline(always)]
fn park<M: Maps>(maps: &M, at: &At<'_>, scratch: &mut Scratch, errand: &mut Errand) -> Action {
    let Scratch { packet, verdict, about, wait, .. } = scratch;
    about.reason = wait.reason;
    maps.count(at.direction, wait.reason, at.length);
    if wait.due {
        report::send(maps, about, packet, wait.unreported, 0);
    } else {
        maps.count_suppressed(at.direction, wait.reason);
    }
    if wait.reason != reason::PARKED {
        return Action::Drop;
    }
    let parked = Parked {
        direction: at.direction,
        round: (errand.round & !FROM_ADDRESS).wrapping_add(1),
        slot: at.endpoint.slot,
        node: verdict.remote.node,
        remote: wait.line,
    };
    errand.ifindex = at.config.park_ifindex;
    errand.macs = parked.encode();
    Action::Park
}

#[inline(always)]
fn pass<M: Maps>(maps: &M, at: &At<'_>) -> Action {
    maps.count(at.direction, reason::FORWARDED, at.length);
    Action::Pass
}

/// A drop is counted, and reported unless it is noise.
///
/// Not inlined: every reason leads here, and this way the verifier goes on from here once.
#[inline(never)]
pub fn refuse<M: Maps>(maps: &M, about: &About, packet: &Packet) {
    maps.count(about.direction, about.reason, about.length);
    if !report::is_quiet(about.reason) {
        report::report(maps, about, packet, maps.coarse_now());
    }
}
