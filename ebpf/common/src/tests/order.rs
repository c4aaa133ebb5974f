//! Order: what a pod sends does not overtake what of it is still on its way back from parking.

use std::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;

use super::scene::{A_SLOT, C, Host, REMOTE_NODE, SECOND, Scene};
use crate::action::Action;
use crate::config::flag::PARKING;
use crate::decide::auth_key;
use crate::ipcache::IpEntry;
use crate::limits;
use crate::park::PendingKey;
use crate::policy::auth_type::SPIRE;
use crate::policy::direction::{EGRESS, INGRESS};
use crate::reason;

/// A pod, its peer, and an agent that reads, proves and gives back as it pleases.
struct Line {
    scene: Scene,
    /// At the parking device, and with the agent: numbers of packets and their directions.
    device: VecDeque<(u16, u8)>,
    agent: VecDeque<(u16, u8)>,
    /// What got through, by direction.
    through: [Vec<u16>; 2],
    sent: u16,
}

fn key(direction: u8) -> PendingKey {
    PendingKey { local: super::scene::A, remote: C, node: REMOTE_NODE, slot: A_SLOT, direction, pad: [0; 3] }
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

    /// All of one flow: the pod's packets, and the peer's answers.
    fn pass(&mut self, number: u16, direction: u8, round: u8) {
        let craft = self.scene.craft(Host::A, Host::C, false);
        let action = if direction == EGRESS {
            self.scene.leave_again(Host::A, &craft.udp(1000, 53, &number.to_be_bytes()), round).0
        } else {
            self.scene.enter_again(Host::A, &craft.reversed().udp(53, 1000, &number.to_be_bytes()), round)
        };
        match action {
            Action::Pass => self.through[usize::from(direction)].push(number),
            Action::Park => self.device.push_back((number, direction)),
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

    /// With a proof it gives all of them back, and says so when it has.
    fn give_back(&mut self, in_between: u16) {
        if !self.is_proved() {
            return;
        }
        let batch: Vec<_> = self.agent.drain(..).collect();
        for (number, direction) in &batch {
            self.pass(*number, *direction, 1);
            for _ in 0..in_between {
                self.send(*direction);
            }
        }
        for (_, direction) in batch {
            *self.scene.twin.returned.entry(key(direction)).or_default() += 1;
        }
    }

    fn prove(&mut self) {
        self.scene.prove(Host::A, Host::C, 60 * SECOND);
    }

    fn withdraw(&mut self) {
        self.scene.twin.auth.clear();
        self.scene.twin.epochs.entry(A_SLOT).or_default().auth += 1;
    }

    fn settle(&mut self) {
        self.prove();
        while !(self.device.is_empty() && self.agent.is_empty()) {
            self.read(usize::MAX);
            self.give_back(0);
        }
    }

    fn is_in_order(&self) -> bool {
        self.through.iter().all(|numbers| numbers.is_sorted())
    }
}

#[test]
fn what_comes_after_the_proof_queues_up_behind_what_waited_for_it() {
    let mut line = Line::new();
    line.send(EGRESS);
    line.read(1);
    line.prove();
    line.send(EGRESS);
    assert_eq!(line.device, [(2, EGRESS)]);
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
    assert_eq!(line.device, [(2, EGRESS), (4, EGRESS)]);
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

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(u8),
    Read(usize),
    GiveBack { in_between: u16 },
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
        2 => Just(Step::Prove),
        1 => Just(Step::Withdraw),
        1 => prop_oneof![Just(1_000_000), Just(SECOND / 3), Just(SECOND)].prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The oracle of a line is its numbers: whatever happens, they come out as they went in, each once.
    #[test]
    fn nothing_overtakes(steps in proptest::collection::vec(step(), 1..80)) {
        let mut line = Line::new();
        let mut waited = 0;
        for step in steps {
            match step {
                Step::Send(direction) => line.send(direction),
                Step::Read(count) => line.read(count),
                Step::GiveBack { in_between } => line.give_back(in_between),
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
