//! Two devices with a network between them that loses, repeats, reorders and forges, and a clock that the test winds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use countersign_wg_core::limits::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT, SECOND, STAGED,
};
use countersign_wg_core::{
    Action, Context, DATA_OVERHEAD, Guard, INITIATION, Identity, Kind, Peer, Random, Session, receive,
    receiver,
};
use countersign_wg_proto::{PresharedKey, PrivateKey, PublicKey};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// Not random at all, but never the same twice.
struct Numbers(u64);

impl Random for Numbers {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

struct Side {
    own: Identity,
    peer: Peer,
    random: Numbers,
    /// Sessions by index; nothing for a handshake.
    indices: BTreeMap<u32, Option<Arc<Session>>>,
    /// What arrived, in order.
    heard: Vec<Vec<u8>>,
    initiations: usize,
}

struct World {
    now: u64,
    sides: [Side; 2],
    /// To the first, to the second.
    wires: [VecDeque<Vec<u8>>; 2],
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; 32])
}

fn side(own: u8, other: &PublicKey) -> Side {
    Side {
        own: Identity::new(&key(own)),
        peer: Peer::new(*other),
        random: Numbers(u64::from(own)),
        indices: BTreeMap::new(),
        heard: Vec::new(),
        initiations: 0,
    }
}

impl World {
    fn new() -> Self {
        let sides = [side(1, &key(2).public()), side(2, &key(1).public())];
        Self { now: 1_000 * SECOND, sides, wires: Default::default() }
    }

    fn with<R>(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut Peer, &mut Context<'_>, &mut Vec<Action>) -> R,
    ) -> R {
        let side = &mut self.sides[at];
        let (mut out, indices) = (Vec::new(), &side.indices);
        let mut world = Context {
            own: &side.own,
            now: self.now,
            unix: Duration::from_nanos(1_700_000_000 * SECOND + self.now),
            mtu: 1_420,
            random: &mut side.random,
            taken: &|index| indices.contains_key(&index),
        };
        let result = act(&mut side.peer, &mut world, &mut out);
        for action in out {
            match action {
                Action::Transmit(message) => {
                    side.initiations += usize::from(Kind::of(&message) == Some(Kind::Initiation));
                    self.wires[1 - at].push_back(message);
                }
                Action::Await(index) => assert!(side.indices.insert(index, None).is_none()),
                Action::Install(session) => drop(side.indices.insert(session.local, Some(session))),
                Action::Retire(index) => assert!(side.indices.remove(&index).is_some(), "{index}"),
                Action::NewSource => {}
            }
        }
        let mut known = side.peer.indices();
        known.sort_unstable();
        assert_eq!(known, side.indices.keys().copied().collect::<Vec<_>>());
        result
    }

    /// A packet of this side's.
    fn send(&mut self, at: usize, packet: &[u8]) {
        let wire = self.with(at, |peer, world, out| {
            let Some(session) = peer.session(world.now).cloned() else {
                peer.stage(packet.to_vec(), world, out);
                return None;
            };
            peer.sent(world, out);
            session.message(packet, world.mtu)
        });
        self.wires[1 - at].extend(wire);
    }

    /// The next message for this side arrives.
    fn arrive(&mut self, at: usize) {
        if let Some(message) = self.wires[at].pop_front() {
            self.hear(at, message);
        }
    }

    fn hear(&mut self, at: usize, mut message: Vec<u8>) {
        let side = &self.sides[at];
        let slot = receiver(&message).and_then(|index| side.indices.get(&index).cloned());
        match Kind::of(&message) {
            Some(Kind::Initiation) => {
                let bytes: [u8; INITIATION] = message.try_into().unwrap();
                let Ok(received) = receive(&side.own, &bytes) else { return };
                if received.public == key(2 - at as u8).public() {
                    let _ = self.with(at, |peer, world, out| peer.answer(received, &bytes, world, out));
                }
            }
            Some(Kind::Response) if slot.as_ref().is_some_and(Option::is_none) => {
                let bytes = message.try_into().unwrap();
                let _ = self.with(at, |peer, world, out| peer.finish(&bytes, world, out));
            }
            Some(Kind::CookieReply) => {
                self.sides[at].peer.hear_cookie(&message.try_into().unwrap(), self.now)
            }
            Some(Kind::Data) => {
                let Some(Some(session)) = slot else { return };
                let Ok((counter, packet)) = session.open(&mut message) else { return };
                let packet = packet.to_vec();
                let mut new = false;
                session.accept([counter].into_iter(), |fresh| new = fresh);
                if new && session.is_within_time(self.now) {
                    let data = !packet.is_empty();
                    self.with(at, |peer, world, out| peer.received(&session, data, world, out));
                    if data {
                        self.sides[at].heard.push(packet);
                    }
                }
            }
            _ => {}
        }
    }

    /// Everything arrives, and what comes of it, in order.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.wires.iter().all(VecDeque::is_empty) {
                return;
            }
            self.arrive(0);
            self.arrive(1);
        }
        panic!("they never stop talking");
    }

    fn wait(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        for at in 0..2 {
            self.with(at, Peer::tick);
        }
    }
}

/// What was sent, as it arrives: padded.
fn packet(number: u32) -> Vec<u8> {
    let mut packet = number.to_be_bytes().to_vec();
    packet.resize(64, 7);
    packet
}

#[test]
fn what_waits_for_the_handshake_arrives_in_order() {
    let mut world = World::new();
    let all: Vec<Vec<u8>> = (0..50).map(packet).collect();
    all.iter().for_each(|packet| world.send(0, packet));
    assert_eq!(world.wires[1].len(), 1, "one initiation");
    world.settle();
    assert_eq!(world.sides[1].heard, all);
    world.send(1, &packet(99));
    world.settle();
    assert_eq!(world.sides[0].heard, [packet(99)]);
    assert_eq!([world.sides[0].initiations, world.sides[1].initiations], [1, 0]);
    assert!(world.sides.iter().all(|side| side.peer.last_handshake().is_some()));
}

#[test]
fn only_the_newest_wait() {
    let mut world = World::new();
    (0..STAGED as u32 + 44).for_each(|number| world.send(0, &packet(number)));
    world.settle();
    assert_eq!(world.sides[1].heard.len(), STAGED);
    assert_eq!(world.sides[1].heard[0], packet(44));
}

#[test]
fn an_initiation_is_repeated_and_given_up() {
    let mut world = World::new();
    world.send(0, &packet(1));
    for _ in 0..200 {
        world.wires[1].clear();
        world.wait(SECOND);
    }
    // At once, and then for 90 seconds every five and a bit.
    let tries = world.sides[0].initiations;
    assert!((17..=20).contains(&tries), "{tries}");
    // What waited is not sent much later.
    world.send(0, &packet(2));
    world.settle();
    assert_eq!(world.sides[1].heard, [packet(2)]);
}

#[test]
fn both_at_once_is_no_trouble() {
    let mut world = World::new();
    world.send(0, &packet(1));
    world.send(1, &packet(2));
    world.settle();
    assert_eq!((&world.sides[1].heard[..], &world.sides[0].heard[..]), (&[packet(1)][..], &[packet(2)][..]));
    for number in 3..20 {
        world.send((number % 2) as usize, &packet(number));
        world.settle();
    }
    assert_eq!(world.sides[0].heard.len() + world.sides[1].heard.len(), 19);
    assert_eq!([world.sides[0].initiations, world.sides[1].initiations], [1, 1]);
}

#[test]
fn sessions_are_renewed_in_time_and_end() {
    let mut world = World::new();
    let (mut sent, step) = (0, SECOND / 2);
    while sent < 2 * 600 {
        world.send(0, &packet(sent));
        sent += 1;
        world.settle();
        world.wait(step);
        world.settle();
    }
    assert_eq!(world.sides[1].heard.len(), sent as usize);
    // 600 s with a new session every 120.
    assert_eq!(world.sides[0].initiations, 5);
    // Silence: the session is too old, and nothing is sent with it.
    world.wait(REJECT_AFTER_TIME);
    assert!(world.sides[0].peer.session(world.now).is_none());
    for _ in 0..8 * REJECT_AFTER_TIME / SECOND {
        world.wires.iter_mut().for_each(VecDeque::clear);
        world.wait(SECOND);
    }
    assert!(world.sides.iter().all(|side| side.indices.is_empty()), "no key is kept for ever");
}

#[test]
fn who_only_listens_says_so_and_who_hears_nothing_asks() {
    let mut world = World::new();
    world.send(0, &packet(1));
    world.settle();
    world.send(0, &packet(2));
    world.settle();
    world.wait(KEEPALIVE_TIMEOUT + SECOND);
    assert_eq!(world.wires[0].front().map(Vec::len), Some(DATA_OVERHEAD), "an empty message");
    world.settle();
    // And now it is lost.
    world.send(0, &packet(3));
    world.wires[1].clear();
    world.wait(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + SECOND);
    assert_eq!(world.wires[1].front().and_then(|message| Kind::of(message)), Some(Kind::Initiation));
}

#[test]
fn a_peer_that_is_kept_alive_is_asked_for_ever() {
    let mut world = World::new();
    world.sides[0].peer.set_keepalive(25);
    world.with(0, Peer::keep_alive);
    for _ in 0..1_000 {
        world.wires[1].clear();
        world.wait(SECOND);
    }
    assert!(world.sides[0].initiations > 100, "{}", world.sides[0].initiations);
    world.wait(30 * SECOND);
    world.settle();
    let before = world.sides[1].heard.len();
    for _ in 0..100 {
        world.wait(SECOND);
        world.settle();
    }
    assert_eq!(world.sides[1].heard.len(), before);
    assert!(world.sides[0].peer.session(world.now).is_some());
}

#[test]
fn a_preshared_key_counts_from_the_next_handshake_on() {
    let mut world = World::new();
    world.send(0, &packet(1));
    world.settle();
    world.sides[0].peer.set_preshared(Some(&PresharedKey::from_bytes([9; 32])));
    world.send(0, &packet(2));
    world.settle();
    assert_eq!(world.sides[1].heard.len(), 2, "the session goes on");
    world.wait(REKEY_AFTER_TIME);
    world.send(0, &packet(3));
    world.settle();
    world.wait(REJECT_AFTER_TIME - REKEY_AFTER_TIME);
    world.send(0, &packet(4));
    world.settle();
    assert_eq!(world.sides[1].heard.len(), 3, "no new one comes about");
    world.sides[1].peer.set_preshared(Some(&PresharedKey::from_bytes([9; 32])));
    world.wait(REKEY_TIMEOUT + SECOND);
    world.settle();
    assert_eq!(world.sides[1].heard.len(), 4);
}

#[test]
fn an_old_initiation_is_not_answered() {
    let mut world = World::new();
    world.send(0, &packet(1));
    let initiation = world.wires[1][0].clone();
    world.settle();
    world.wait(SECOND);
    world.settle();
    world.hear(1, initiation);
    assert!(world.wires[0].is_empty());
}

#[test]
fn under_load_a_cookie_is_asked_for_and_given_back() {
    let mut world = World::new();
    let from = "192.0.2.1:51871".parse().unwrap();
    let mut guard = Guard::new(&key(2).public(), [3; 32], world.now);
    world.send(0, &packet(1));
    let first = world.wires[1].pop_front().unwrap();
    assert!(guard.knows_us(&first) && !guard.hears_us(&first, from));
    let reply = guard.reply(&first, from, &[5; 24]).unwrap();
    let mut forged = reply;
    forged[40] ^= 1;
    world.hear(0, forged.to_vec());
    world.hear(0, reply.to_vec());
    world.wait(REKEY_TIMEOUT + SECOND);
    let second = world.wires[1].pop_front().unwrap();
    assert!(guard.knows_us(&second) && guard.hears_us(&second, from));
    let elsewhere = ["192.0.2.2:51871", "192.0.2.1:51872", "[::1]:51871"];
    assert!(elsewhere.iter().all(|other| !guard.hears_us(&second, other.parse().unwrap())));
    assert!(guard.secret_is_old(world.now + 120 * SECOND));
    guard.renew([4; 32], world.now);
    assert!(!guard.hears_us(&second, from));
    let admitted = (0..100).filter(|_| guard.admits(from.ip(), world.now)).count();
    assert_eq!(admitted, 5);
    assert!(guard.admits(from.ip(), world.now + SECOND / 20));
}

#[derive(Debug, Clone)]
enum Event {
    Send(usize),
    Arrive(usize),
    Lose(usize),
    Repeat(usize),
    Swap(usize),
    Flip(usize, usize),
    Noise(usize, Vec<u8>),
    Wait(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let side = 0_usize..2;
    let event = prop_oneof![
        6 => side.clone().prop_map(Event::Send),
        12 => side.clone().prop_map(Event::Arrive),
        2 => side.clone().prop_map(Event::Lose),
        2 => side.clone().prop_map(Event::Repeat),
        2 => side.clone().prop_map(Event::Swap),
        2 => (side.clone(), any::<usize>()).prop_map(|(at, bit)| Event::Flip(at, bit)),
        1 => (side, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(at, bytes)| Event::Noise(at, bytes)),
        4 => (0_u64..20 * SECOND).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..300)
}

fn survive(events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let mut sent = [0_u32; 2];
    for event in events {
        match event {
            Event::Send(at) => {
                world.send(at, &packet(sent[at]));
                sent[at] += 1;
            }
            Event::Arrive(at) => world.arrive(at),
            Event::Lose(at) => drop(world.wires[at].pop_front()),
            Event::Repeat(at) => {
                let again = world.wires[at].front().cloned();
                world.wires[at].extend(again);
            }
            Event::Swap(at) => world.wires[at].rotate_left(world.wires[at].len().min(1)),
            Event::Flip(at, bit) => {
                if let Some(message) = world.wires[at].front_mut().filter(|message| !message.is_empty()) {
                    let bit = bit % (message.len() * 8);
                    message[bit / 8] ^= 1 << (bit % 8);
                }
            }
            Event::Noise(at, bytes) => world.wires[at].push_back(bytes),
            Event::Wait(time) => world.wait(time),
        }
    }
    for (at, count) in sent.into_iter().enumerate() {
        let mut numbers: Vec<u32> = world.sides[1 - at]
            .heard
            .iter()
            .map(|packet| u32::from_be_bytes(packet[..4].try_into().unwrap()))
            .collect();
        prop_assert!(
            world.sides[1 - at]
                .heard
                .iter()
                .all(|bytes| bytes.len() == 64 && bytes[4..].iter().all(|byte| *byte == 7))
        );
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), all, "something arrived twice");
        prop_assert!(numbers.last().is_none_or(|last| *last < count));
    }
    // A quiet network, and time for whoever was given up to be asked again.
    for _ in 0..4 {
        world.settle();
        world.wait(REKEY_TIMEOUT + SECOND);
    }
    world.settle();
    for (at, count) in sent.into_iter().enumerate() {
        let before = world.sides[1 - at].heard.len();
        world.send(at, &packet(count));
        world.settle();
        world.wait(REKEY_TIMEOUT + SECOND);
        world.settle();
        prop_assert!(world.sides[1 - at].heard.len() > before, "it does not heal");
        prop_assert_eq!(world.sides[1 - at].heard.last(), Some(&packet(count)));
    }
    Ok(())
}

fn cases() -> u32 {
    std::env::var("CS_PROPTEST_CASES").map_or(300, |cases| cases.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Whatever the network does: nothing arrives that was not sent, nothing twice, and as soon as it is quiet
    /// everything that is sent arrives.
    #[test]
    fn nothing_is_forged_or_repeated_and_it_always_heals(events in events()) {
        survive(events)?;
    }

    /// Noise with a valid first word and length changes nothing and stops nobody.
    #[test]
    fn any_bytes_are_survived(kind in 1_u32..5, mut bytes in prop::collection::vec(any::<u8>(), 0..260), cut in any::<bool>()) {
        let mut world = World::new();
        world.send(0, &packet(1));
        world.settle();
        if cut {
            bytes.resize([148, 92, 64, 32][kind as usize - 1], 0);
        }
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&kind.to_le_bytes());
        }
        if bytes.len() >= 12 {
            // To an index that exists.
            let index = *world.sides[1].indices.keys().next().unwrap();
            bytes[if kind == 2 { 8..12 } else { 4..8 }].copy_from_slice(&index.to_le_bytes());
        }
        world.hear(1, bytes);
        prop_assert!(world.wires.iter().all(VecDeque::is_empty));
        world.send(0, &packet(2));
        world.settle();
        prop_assert_eq!(world.sides[1].heard.len(), 2);
    }
}

/// The same for longer: `cargo xtask fuzz wireguard --minutes 30`.
#[test]
fn messages_on_a_bad_network_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, seconds) = (number("CS_FUZZ_SEED").unwrap_or(1), number("CS_FUZZ_SECONDS"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let (began, mut worlds, mut happened) = (std::time::Instant::now(), 0, 0);
    while seconds.map_or(worlds < 20, |seconds| began.elapsed().as_secs() < seconds) {
        let events = events().new_tree(&mut runner).unwrap().current();
        happened += events.len();
        if let Err(error) = survive(events.clone()) {
            panic!("{error}: {events:?}");
        }
        worlds += 1;
    }
    println!("seed {seed}, {:?}: {worlds} pairs, {happened} events", began.elapsed());
}
