//! Two nodes that agree on keys over a network that loses, delays and cuts whatever it likes.

use std::collections::BTreeMap;

use countersign_wg_proto::limits::{ASK_AGAIN_MOST, CANDIDATE_LIFE, PRESHARED_KEY_LIFE};
use countersign_wg_proto::{Agreed, Agreements, Busy, PresharedKey, PublicKey, TunnelId};
use proptest::prelude::*;

const NAMES: [&str; 2] = ["node-a", "node-b"];
const SECOND: u64 = 1_000_000_000;

fn agreements(own: usize) -> Agreements {
    let mut one = Agreements::new(NAMES[own], u64::MAX);
    one.set_tunnels(&tunnels(own, 1));
    one
}

/// A node's key: its first one or a later one.
fn key(node: usize, generation: u8) -> PublicKey {
    PublicKey::from_bytes([generation * 2 + u8::from(node == 1); 32])
}

/// The tunnel to `to`, with the keys that both have at first.
fn tunnel(to: usize) -> TunnelId {
    TunnelId { node: NAMES[to].to_owned(), own: key(1 - to, 1), peer: key(to, 1) }
}

/// That of a node to the other one, who has its first key or a later one.
fn tunnels(own: usize, generation: u8) -> BTreeMap<TunnelId, bool> {
    BTreeMap::from([(TunnelId { peer: key(1 - own, generation), ..tunnel(1 - own) }, true)])
}

fn agreed(number: u8, until: u64) -> Agreed {
    Agreed { key: PresharedKey::from_bytes([number; 32]), post_quantum: true, until }
}

/// A handshake under way: who asks, the attempts' numbers on both sides, and how far it has come.
#[derive(Debug)]
struct Handshake {
    client: usize,
    asking: u64,
    asked: Option<u64>,
    agreed: Agreed,
}

/// Both nodes, and what is between them. Keys are numbered, so that the same one is recognised.
struct World {
    nodes: [Agreements; 2],
    between: Vec<Handshake>,
    now: u64,
    made: u8,
}

#[derive(Clone, Debug)]
enum Step {
    Look(usize),
    /// The first message of a handshake arrives, or gets lost.
    Arrive(usize, bool),
    /// The answer arrives, and then the client's word does or does not.
    Answer(usize, bool, bool),
    Restart(usize),
    Rotate(usize),
    Wait(u64),
}

impl World {
    fn new() -> Self {
        Self { nodes: [agreements(0), agreements(1)], between: Vec::new(), now: SECOND, made: 0 }
    }

    fn keys(&self) -> [Option<PresharedKey>; 2] {
        let key = |own: usize| self.nodes[own].key(&tunnel(1 - own)).map(|key| key.key.clone());
        [key(0), key(1)]
    }

    fn look(&mut self, own: usize) {
        self.nodes[own].expire(self.now);
        for ask in self.nodes[own].due(self.now) {
            self.made = self.made.wrapping_add(1).max(1);
            let agreed = agreed(self.made, self.now + PRESHARED_KEY_LIFE);
            self.between.push(Handshake { client: own, asking: ask.attempt, asked: None, agreed });
        }
    }

    fn fail(&mut self, handshake: &Handshake) {
        let (client, now) = (handshake.client, self.now);
        self.nodes[client].failed(&tunnel(1 - client), handshake.asking, "lost".to_owned(), now);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Look(own) => self.look(own),
            Step::Arrive(index, lost) => self.arrive(index, lost),
            Step::Answer(index, lost, unheard) => self.answer(index, lost, unheard),
            Step::Restart(own) => {
                // What it was doing is cut; the device keeps its key.
                let key = self.keys()[own].clone();
                for handshake in std::mem::take(&mut self.between) {
                    self.cut(handshake, own);
                }
                self.nodes[own] = agreements(own);
                if let Some(key) = key {
                    self.nodes[own].restore(&tunnel(1 - own), key, self.now);
                }
            }
            Step::Rotate(own) => self.nodes[own].renew_all(self.now),
            Step::Wait(nanoseconds) => self.now += nanoseconds,
        }
    }

    fn cut(&mut self, handshake: Handshake, gone: usize) {
        if handshake.client != gone {
            self.fail(&handshake);
        } else if let Some(asked) = handshake.asked {
            let server = 1 - handshake.client;
            self.nodes[server].unconfirmed(&tunnel(handshake.client), asked, self.now);
        }
    }

    fn arrive(&mut self, index: usize, lost: bool) {
        let Some(at) = self.nth(index, |handshake| handshake.asked.is_none()) else { return };
        let (client, now) = (self.between[at].client, self.now);
        let answer = (!lost)
            .then(|| self.nodes[1 - client].asked(&tunnel(client), self.between[at].agreed.clone(), now));
        match answer {
            Some(Ok(attempt)) => self.between[at].asked = Some(attempt),
            _ => {
                let handshake = self.between.remove(at);
                self.fail(&handshake);
            }
        }
    }

    fn answer(&mut self, index: usize, lost: bool, unheard: bool) {
        let Some(at) = self.nth(index, |handshake| handshake.asked.is_some()) else { return };
        let handshake = self.between.remove(at);
        let (client, server, now) = (handshake.client, 1 - handshake.client, self.now);
        let attempt = handshake.asked.unwrap();
        let mut confirmed = false;
        if lost {
            self.fail(&handshake);
        } else {
            let agreed = handshake.agreed.clone();
            confirmed =
                self.nodes[client].answered(&tunnel(server), handshake.asking, agreed, now) && !unheard;
        }
        if confirmed {
            self.nodes[server].confirmed(&tunnel(client), attempt, now);
        } else {
            self.nodes[server].unconfirmed(&tunnel(client), attempt, now);
        }
    }

    fn nth(&self, index: usize, which: impl Fn(&Handshake) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.between.len()).filter(|at| which(&self.between[*at])).collect();
        (!all.is_empty()).then(|| all[index % all.len()])
    }

    /// From now on nothing is lost.
    fn calm_down(&mut self) {
        for _ in 0..64 {
            for own in 0..2 {
                self.look(own);
            }
            while !self.between.is_empty() {
                self.arrive(0, false);
                self.answer(0, false, false);
            }
            self.now += ASK_AGAIN_MOST.max(CANDIDATE_LIFE) / 8;
        }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_usize).prop_map(Step::Look),
        4 => (0..4_usize, prop::bool::weighted(0.3)).prop_map(|(index, lost)| Step::Arrive(index, lost)),
        4 => (0..4_usize, prop::bool::weighted(0.3), prop::bool::weighted(0.3))
            .prop_map(|(index, lost, unheard)| Step::Answer(index, lost, unheard)),
        1 => (0..2_usize).prop_map(Step::Restart),
        1 => (0..2_usize).prop_map(Step::Rotate),
        2 => (0..20 * SECOND).prop_map(Step::Wait),
        1 => Just(Step::Wait(PRESHARED_KEY_LIFE / 2)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_lost_both_have_one_key_in_the_end(steps in prop::collection::vec(steps(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.calm_down();
        let [a, b] = world.keys();
        prop_assert!(a.is_some());
        prop_assert_eq!(a, b);
    }

    #[test]
    fn who_is_asked_uses_nothing_before_the_other_side_does(steps in prop::collection::vec(steps(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            // Of a handshake that has not been answered, neither side has the key.
            for handshake in &world.between {
                for key in world.keys().into_iter().flatten() {
                    prop_assert_ne!(&key, &handshake.agreed.key);
                }
            }
        }
    }
}

#[test]
fn when_both_ask_the_smaller_name_goes_first() {
    let [mut a, mut b] = [agreements(0), agreements(1)];
    let (from_a, from_b) = (a.due(1).remove(0), b.due(1).remove(0));
    assert_eq!(a.asked(&tunnel(1), agreed(2, u64::MAX), 1), Err(Busy));
    b.failed(&tunnel(0), from_b.attempt, "busy".to_owned(), 1);
    let asked = b.asked(&tunnel(0), agreed(1, u64::MAX), 1).unwrap();
    assert!(a.answered(&tunnel(1), from_a.attempt, agreed(1, u64::MAX), 2));
    assert!(b.key(&tunnel(0)).is_none(), "nothing is in force before the word of the other side");
    assert!(b.confirmed(&tunnel(0), asked, 3));
    assert_eq!(a.key(&tunnel(1)).map(|key| &key.key), b.key(&tunnel(0)).map(|key| &key.key));
}

#[test]
fn an_answer_to_what_was_given_up_is_void() {
    let mut b = agreements(1);
    let own = b.due(1).remove(0);
    b.asked(&tunnel(0), agreed(1, u64::MAX), 1).unwrap();
    assert!(!b.answered(&tunnel(0), own.attempt, agreed(2, u64::MAX), 2));
    assert!(b.key(&tunnel(0)).is_none());
}

#[test]
fn a_key_ends_with_what_it_rests_on_and_within_an_hour() {
    let mut a = agreements(0);
    for (until, end) in [(100 * SECOND, 100 * SECOND), (u64::MAX, 50 * SECOND + PRESHARED_KEY_LIFE)] {
        let mut a_new = agreements(0);
        let ask = a_new.due(50 * SECOND).remove(0);
        assert!(a_new.answered(&tunnel(1), ask.attempt, agreed(1, until), 50 * SECOND));
        assert!(a_new.expire(end - 1).is_empty());
        assert_eq!(a_new.due(end - 1).len(), 1, "it is asked for again well before");
        assert_eq!(a_new.expire(end), [tunnel(1)]);
        assert!(a_new.key(&tunnel(1)).is_none());
        a = a_new;
    }
    assert!(a.nodes().is_empty());
}

#[test]
fn nothing_that_was_agreed_on_is_for_a_tunnel_to_another_key() {
    let mut a = agreements(0);
    let ask = a.due(1).remove(0);
    assert!(a.answered(&tunnel(1), ask.attempt, agreed(1, u64::MAX), 1));
    a.set_tunnels(&tunnels(0, 1));
    assert!(a.key(&tunnel(1)).is_some(), "it is the same tunnel");
    let (old, asked) = (a.key(&tunnel(1)).cloned(), a.asked(&tunnel(1), agreed(2, u64::MAX), 2).unwrap());
    a.set_tunnels(&tunnels(0, 2));
    assert_eq!(a.key(&tunnel(1)), None);
    assert!(!a.confirmed(&tunnel(1), asked, 3), "nor what is on its way");
    assert!(old.is_some() && a.due(3).len() == 1);
}

#[test]
fn a_new_svid_is_for_new_keys() {
    let mut a = agreements(0);
    let ask = a.due(1).remove(0);
    assert!(a.answered(&tunnel(1), ask.attempt, agreed(1, u64::MAX), 1));
    assert!(a.due(2).is_empty());
    a.renew_all(3);
    assert_eq!(a.due(3).len(), 1);
    assert!(a.key(&tunnel(1)).is_some(), "the old one is in force until then");
}

/// Somebody on the way lets everything through but the last word, which neither side can know.
#[test]
fn a_last_word_that_never_arrives_makes_no_storm() {
    let mut world = World::new();
    let end = 3_600 * SECOND;
    let mut handshakes = 0;
    while world.now < end {
        for own in 0..2 {
            world.look(own);
        }
        handshakes += world.between.len();
        while !world.between.is_empty() {
            world.arrive(0, false);
            world.answer(0, false, true);
        }
        world.now += SECOND / 1_000;
    }
    println!("{handshakes} handshakes in an hour");
    assert!(handshakes < 1_500, "{handshakes} handshakes in an hour");
}

#[test]
fn who_fails_is_asked_more_and_more_seldom() {
    let mut a = agreements(0);
    let (mut now, mut asked) = (SECOND, 0);
    while now < 3_600 * SECOND {
        for ask in a.due(now) {
            asked += 1;
            a.failed(&tunnel(1), ask.attempt, "no route".to_owned(), now);
        }
        now += SECOND / 10;
    }
    assert!((100..150).contains(&asked), "{asked} in an hour");
    assert_eq!(a.last_error("node-b"), Some("no route"));
}

/// While keys change there are several tunnels between two nodes: one is asked for, another may come.
#[test]
fn a_tunnel_that_is_not_asked_for_is_agreed_on_when_the_other_side_asks() {
    let mut a = agreements(0);
    let other = TunnelId { peer: key(1, 2), ..tunnel(1) };
    a.set_tunnels(&BTreeMap::from([(tunnel(1), false), (other.clone(), true)]));
    let asks = a.due(1);
    assert_eq!(asks.iter().map(|ask| &ask.tunnel).collect::<Vec<_>>(), [&other]);
    let asked = a.asked(&tunnel(1), agreed(1, u64::MAX), 1).unwrap();
    assert!(a.confirmed(&tunnel(1), asked, 2));
    assert!(a.answered(&other, asks[0].attempt, agreed(2, u64::MAX), 3));
    assert_eq!(a.agreed().count(), 2);
    assert_ne!(a.key(&tunnel(1)).map(|key| &key.key), a.key(&other).map(|key| &key.key));
    // Whether the other side has it is not known: it is asked for after all.
    let third = TunnelId { own: key(0, 2), ..tunnel(1) };
    let tunnels = [(tunnel(1), false), (other.clone(), true), (third.clone(), false)];
    a.set_tunnels(&BTreeMap::from(tunnels));
    let asked = a.asked(&third, agreed(3, u64::MAX), 4).unwrap();
    a.unconfirmed(&third, asked, 4);
    assert!(a.key(&third).is_none());
    assert_eq!(a.due(4 + ASK_AGAIN_MOST).iter().map(|ask| &ask.tunnel).collect::<Vec<_>>(), [&third]);
    a.set_tunnels(&BTreeMap::from([(other, true)]));
    assert_eq!(a.agreed().count(), 1, "the others end with their keys");
}
