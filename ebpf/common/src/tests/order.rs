//! Order: what a pod sends does not overtake what of it is still on its way back from parking.

use std::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;

use super::scene::{A_SLOT, C, Host, REMOTE_NODE, SECOND, Scene};
use crate::action::{Action, Errand};
use crate::config::flag::PARKING;
use crate::decide::auth_key;
use crate::ipcache::IpEntry;
use crate::limits;
use crate::park::{Parked, PendingKey, is_address_line};
use crate::policy::auth_type::{NONE, SPIRE};
use crate::policy::direction::{EGRESS, INGRESS};
use crate::reason;

/// A packet that is parked: its number, and what its frame says of itself.
type Waiting = (u16, Parked);

/// A pod, its peer, and an agent that reads, proves and gives back as it pleases.
struct Line {
    scene: Scene,
    /// At the parking device, and with the agent.
    device: VecDeque<Waiting>,
    agent: VecDeque<Waiting>,
    /// What got through, by direction.
    through: [Vec<u16>; 2],
    sent: u16,
}

impl Line {
    fn new() -> Self {
        let mut scene = Scene::new();
        scene.allow(A_SLOT, EGRESS, 0, SPIRE);
        scene.allow(A_SLOT, INGRESS, 0, SPIRE);
        scene.twin.config.as_mut().unwrap().flags |= PARKING;
        let agent = VecDeque::new();
        Self { scene, device: VecDeque::new(), agent, through: [Vec::new(), Vec::new()], sent: 0 }
    }

    /// The peer is a pod that the node has not heard of.
    fn unknown(auth_type: u8) -> Self {
        let mut line = Self::new();
        line.scene.allow(A_SLOT, EGRESS, 0, auth_type);
        line.scene.allow(A_SLOT, INGRESS, 0, auth_type);
        line.scene.forget(Host::C);
        line
    }

    /// All of one flow: the pod's packets, and the peer's answers.
    fn pass(&mut self, number: u16, direction: u8, round: u8) {
        let craft = self.scene.craft(Host::A, Host::C, false);
        let (action, errand) = if direction == EGRESS {
            self.scene.leave_again(Host::A, &craft.udp(1000, 53, &number.to_be_bytes()), round)
        } else {
            self.scene.arrive(Host::A, &craft.reversed().udp(53, 1000, &number.to_be_bytes()), round)
        };
        match action {
            Action::Pass => self.through[usize::from(direction)].push(number),
            Action::Park => self.device.push_back((number, said(&errand))),
            other => assert_eq!((other, round), (Action::Drop, 0), "lost on its way back"),
        }
    }

    fn send(&mut self, direction: u8) {
        self.sent += 1;
        self.pass(self.sent, direction, 0);
    }

    fn is_proved(&self) -> bool {
        self.scene.twin.auth.values().any(|proof| proof.expires_at > self.scene.twin.boot.get())
    }

    /// The agent takes some of what waits at the device.
    fn read(&mut self, count: usize) {
        let count = count.min(self.device.len());
        self.agent.extend(self.device.drain(..count));
    }

    /// With a proof it gives all of them back, and says so when it has; those that wait for word of an address when
    /// that is known.
    fn give_back(&mut self, in_between: u16) {
        let (proved, known) = (self.is_proved(), self.scene.knows(Host::C));
        let goes = |waiting: &Waiting| if is_address_line(waiting.1.remote) { known } else { proved };
        let (batch, rest): (Vec<_>, Vec<_>) = self.agent.drain(..).partition(goes);
        self.agent = rest.into();
        for (number, parked) in &batch {
            self.pass(*number, parked.direction, parked.comes_back());
            for _ in 0..in_between {
                self.send(parked.direction);
            }
        }
        for (_, parked) in batch {
            let Parked { remote, node, slot, direction, .. } = parked;
            let key = PendingKey::new(super::scene::A, remote, node, slot, direction);
            *self.scene.twin.returned.entry(key).or_default() += 1;
        }
    }

    fn prove(&mut self) {
        // Whom it is about has to be known.
        if self.scene.knows(Host::C) {
            self.scene.prove(Host::A, Host::C, 60 * SECOND);
        }
    }

    fn withdraw(&mut self) {
        self.scene.twin.auth.clear();
        self.scene.twin.epochs.entry(A_SLOT).or_default().auth += 1;
    }

    fn settle(&mut self) {
        self.scene.know(Host::C);
        self.prove();
        while !(self.device.is_empty() && self.agent.is_empty()) {
            self.read(usize::MAX);
            self.give_back(0);
        }
    }

    fn is_in_order(&self) -> bool {
        self.through.iter().all(|numbers| numbers.is_sorted())
    }

    /// Numbers and directions of what waits at the device.
    fn at_device(&self) -> Vec<(u16, u8)> {
        self.device.iter().map(|(number, parked)| (*number, parked.direction)).collect()
    }
}

fn said(errand: &Errand) -> Parked {
    Parked::decode(&errand.macs).unwrap()
}

#[test]
fn what_comes_after_the_proof_queues_up_behind_what_waited_for_it() {
    let mut line = Line::new();
    line.send(EGRESS);
    line.read(1);
    line.prove();
    line.send(EGRESS);
    assert_eq!(line.at_device(), [(2, EGRESS)]);
    line.give_back(0);
    // The second is still at the device: the first one's verdict must not let the third pass.
    line.send(EGRESS);
    line.settle();
    line.send(EGRESS);
    assert_eq!(line.through[usize::from(EGRESS)], [1, 2, 3, 4]);
    assert!(line.device.is_empty());
    // And now the flow is cached as any other.
    let flows = line.scene.twin.flows.borrow();
    assert!(flows.values().all(|flow| flow.valid_until > line.scene.twin.coarse.get()));
}

#[test]
fn an_answer_opens_nothing_for_packets_that_would_overtake() {
    let mut line = Line::new();
    line.send(EGRESS);
    line.send(EGRESS);
    line.read(1);
    line.prove();
    line.give_back(0);
    // The peer has the first one and answers, while the second is still at the device.
    line.send(INGRESS);
    line.send(EGRESS);
    assert_eq!(line.at_device(), [(2, EGRESS), (4, EGRESS)]);
    line.settle();
    assert!(line.is_in_order());
}

#[test]
fn other_pairs_do_not_wait() {
    let mut line = Line::new();
    line.send(EGRESS);
    line.prove();
    line.scene.prove(Host::A, Host::B, 60 * SECOND);
    let other = line.scene.craft(Host::A, Host::B, false).udp(1000, 53, b"x");
    assert_eq!(line.scene.leave(Host::A, &other), Action::Pass);
}

#[test]
fn an_agent_that_is_gone_holds_nobody_up_for_long() {
    let mut line = Line::new();
    line.send(EGRESS);
    line.prove();
    line.send(EGRESS);
    assert_eq!(line.device.len(), 2);
    line.device.clear();
    line.scene.twin.advance(limits::BEHIND_NS - 1);
    line.send(EGRESS);
    assert_eq!(line.device.len(), 1);
    // What queues up behind others does not prolong it.
    line.scene.twin.advance(1);
    line.send(EGRESS);
    assert_eq!(line.through[usize::from(EGRESS)], [4]);
}

#[test]
fn with_no_place_behind_the_others_a_proved_packet_passes_and_is_counted() {
    let mut line = Line::new();
    line.scene.twin.config.as_mut().unwrap().park_slot_packets = 3;
    line.send(EGRESS);
    line.prove();
    (0..5).for_each(|_| line.send(EGRESS));
    assert_eq!((line.device.len(), line.through[usize::from(EGRESS)].len()), (3, 3));
    assert_eq!(line.scene.twin.counter(EGRESS, reason::OVERTOOK).packets, 3);
    assert_eq!(line.scene.twin.counter(EGRESS, reason::PARK_FULL).packets, 0);
}

#[test]
fn without_parking_nothing_waits_behind_anything() {
    let mut line = Line::new();
    line.scene.twin.config.as_mut().unwrap().flags &= !PARKING;
    line.send(EGRESS);
    let entry = IpEntry { identity: C, node: REMOTE_NODE, flags: 0 };
    line.scene.twin.auth.remove(&auth_key(&super::scene::endpoint(Host::A), entry));
    line.prove();
    line.send(EGRESS);
    assert_eq!(line.through[usize::from(EGRESS)], [2]);
}

#[test]
fn what_comes_when_the_address_is_known_queues_up_behind_what_waited_for_that() {
    for auth_type in [NONE, SPIRE] {
        let mut line = Line::unknown(auth_type);
        line.send(INGRESS);
        line.send(INGRESS);
        line.read(1);
        line.scene.know(Host::C);
        line.prove();
        line.send(INGRESS);
        line.give_back(0);
        // The first one is through; its flow must not take the third past the second, and no answer either.
        line.send(EGRESS);
        line.send(INGRESS);
        assert_eq!(line.at_device(), [(2, INGRESS), (3, INGRESS), (4, EGRESS), (5, INGRESS)]);
        line.settle();
        line.send(INGRESS);
        assert_eq!(line.through[usize::from(INGRESS)], [1, 2, 3, 5, 6]);
        assert_eq!(line.through[usize::from(EGRESS)], [4]);
        assert!(line.device.is_empty());
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(u8),
    Read(usize),
    GiveBack { in_between: u16 },
    Know,
    Forget,
    Prove,
    Withdraw,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Send(EGRESS)),
        3 => Just(Step::Send(INGRESS)),
        3 => (0..6usize).prop_map(Step::Read),
        3 => (0..3u16).prop_map(|in_between| Step::GiveBack { in_between }),
        2 => Just(Step::Know),
        1 => Just(Step::Forget),
        2 => Just(Step::Prove),
        1 => Just(Step::Withdraw),
        1 => prop_oneof![Just(1_000_000), Just(SECOND / 3), Just(SECOND)].prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The oracle of a line is its numbers: whatever happens, they come out as they went in, each once.
    #[test]
    fn nothing_overtakes(
        steps in proptest::collection::vec(step(), 1..80),
        unknown in proptest::option::of(prop_oneof![Just(SPIRE), Just(NONE)]),
    ) {
        let mut line = unknown.map_or_else(Line::new, Line::unknown);
        let mut waited = 0;
        for step in steps {
            match step {
                Step::Send(direction) => line.send(direction),
                Step::Read(count) => line.read(count),
                Step::GiveBack { in_between } => line.give_back(in_between),
                Step::Know => line.scene.know(Host::C),
                // What is on its way to a pod that goes has no order to keep with what is sent to the next.
                Step::Forget if line.device.is_empty() && line.agent.is_empty() => line.scene.forget(Host::C),
                Step::Forget => {}
                Step::Prove => line.prove(),
                Step::Withdraw => line.withdraw(),
                // Shorter in all than the life of what waits.
                Step::Wait(time) if waited + time < limits::BEHIND_NS => {
                    waited += time;
                    line.scene.twin.advance(time);
                }
                Step::Wait(_) => {}
            }
            prop_assert!(line.is_in_order(), "{:?}", line.through);
        }
        line.settle();
        line.send(EGRESS);
        prop_assert!(line.is_in_order(), "{:?}", line.through);
        prop_assert_eq!(line.through.iter().map(Vec::len).sum::<usize>(), usize::from(line.sent));
    }
}
