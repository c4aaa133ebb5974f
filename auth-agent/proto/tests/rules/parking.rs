//! The parking queue by itself.

use countersign_auth_proto::limits::{MS, PARK_DEADLINE, SECOND};
use countersign_auth_proto::{Full, Pair, ParkLimits, Parking, Source, Tally};

use crate::node::{A, AB, B, C};

const POD: Source = Source::Pod(1);
const OTHER: Source = Source::Pod(2);

fn small() -> ParkLimits {
    ParkLimits {
        frames_per_pair: 4,
        bytes_per_pair: 1_000,
        frames_per_source: 6,
        bytes_per_source: 3_000,
        frames: 5,
        bytes: 2_000,
        reserved_frames: 2,
        reserved_bytes: 300,
        sources: 3,
        ..ParkLimits::default()
    }
}

fn pair(i: u32) -> Pair {
    Pair::new(A, B + i, 1)
}

fn released(parking: &mut Parking<u32>, pair: Pair) -> Vec<u32> {
    parking.release(pair).map(|parked| parked.frame).collect()
}

fn expired(parking: &mut Parking<u32>, now: u64) -> Vec<(Pair, Vec<u32>)> {
    let all = parking.expire(now).into_iter();
    all.map(|(pair, frames)| (pair, frames.into_iter().map(|parked| parked.frame).collect())).collect()
}

#[test]
fn frames_leave_in_the_order_of_arrival_from_whatever_source() {
    let mut parking = Parking::new(ParkLimits::default());
    for i in 0..100 {
        let source = if i % 3 == 0 { POD } else { OTHER };
        parking.push(AB, source, i, 60, u64::from(i)).expect("a place");
    }
    assert_eq!(released(&mut parking, AB), (0..100).collect::<Vec<_>>());
    assert!(released(&mut parking, AB).is_empty());
    assert_eq!(parking.total(), Tally::default());
    assert_eq!(parking.next_deadline(), None);
}

#[test]
fn both_orders_of_a_pair_on_the_same_node_are_one_line() {
    let mut parking = Parking::new(ParkLimits::default());
    let (one, two) = (Pair::new(A, B, 0), Pair::new(B, A, 0));
    for i in 0..10 {
        parking.push(if i % 2 == 0 { one } else { two }, POD, i, 60, 0).expect("a place");
    }
    assert_eq!(parking.parked(one), 10);
    let frames: Vec<_> = parking.release(two).map(|parked| (parked.pair, parked.frame)).collect();
    assert_eq!(frames[0], (one, 0));
    assert_eq!(frames[1], (two, 1));
    assert_eq!(frames.len(), 10);
}

#[test]
fn the_newest_is_dropped_when_the_pairs_places_are_taken() {
    let mut parking = Parking::new(small());
    for i in 0..4 {
        assert_eq!(parking.push(AB, POD, i, 100, 0), Ok(()));
    }
    assert_eq!(parking.push(AB, POD, 4, 100, 0), Err(Full::Pair));
    assert_eq!(parking.push(AB, OTHER, 4, 100, 0), Err(Full::Pair));
    assert_eq!(parking.counters().full_pair, Tally { frames: 2, bytes: 200 });
    assert_eq!(released(&mut parking, AB), [0, 1, 2, 3]);
}

#[test]
fn bytes_are_bounded_too() {
    let mut parking = Parking::new(small());
    assert_eq!(parking.push(AB, POD, 0, 900, 0), Ok(()));
    assert_eq!(parking.push(AB, POD, 1, 101, 0), Err(Full::Pair));
    assert_eq!(parking.push(AB, POD, 2, 100, 0), Ok(()));
    assert_eq!(parking.push(pair(1), POD, 3, 1_000, 0), Ok(()));
    assert_eq!(parking.push(pair(2), POD, 4, 1_000, 0), Err(Full::Source).or(Err(Full::All)));
}

#[test]
fn a_flood_cannot_take_the_places_of_others() {
    let mut parking = Parking::new(small());
    let mut taken = 0;
    for i in 0..100 {
        taken += u32::from(parking.push(pair(i), POD, i, 100, 0).is_ok());
    }
    assert_eq!(taken, 6, "its two own and four shared ones");
    assert_eq!(parking.counters().full_source.frames, 94);
    // Somebody else floods as well and takes the last shared place.
    let other = (0..100).filter(|i| parking.push(pair(*i), OTHER, *i, 100, 0).is_ok()).count();
    assert_eq!(other, 3);
    // Everything shared is taken, and a third still has places of its own.
    for i in 0..2 {
        assert_eq!(parking.push(pair(50 + i), Source::Pod(3), 7, 100, 0), Ok(()));
    }
    assert_eq!(parking.push(pair(60), Source::Pod(3), 7, 100, 0), Err(Full::All));
    // A fourth finds no places of its own left to be had: there are three sources with them.
    assert_eq!(parking.push(pair(61), Source::Pod(4), 7, 100, 0), Err(Full::All));
}

#[test]
fn remote_sources_are_told_apart() {
    let mut parking = Parking::new(ParkLimits { frames_per_source: 2, ..ParkLimits::default() });
    let flooder = Source::Remote { identity: B, node: 1 };
    for i in 0..10 {
        let _ = parking.push(AB, flooder, i, 100, 0);
    }
    assert_eq!(parking.parked(AB), 2);
    let quiet = Source::Remote { identity: C, node: 1 };
    assert_eq!(parking.push(Pair::new(A, C, 1), quiet, 99, 100, 0), Ok(()));
}

#[test]
fn every_frame_has_its_deadline() {
    let mut parking = Parking::new(ParkLimits::default());
    for i in 0..10 {
        parking.push(AB, POD, i, 100, u64::from(i) * 100 * MS).expect("a place");
        if i == 2 {
            parking.push(pair(1), POD, 99, 100, 250 * MS).expect("a place");
        }
    }
    assert_eq!(parking.next_deadline(), Some(PARK_DEADLINE));
    assert!(parking.expire(PARK_DEADLINE - 1).is_empty());
    let expired = expired(&mut parking, PARK_DEADLINE + 300 * MS);
    assert_eq!(expired, [(AB, vec![0, 1, 2, 3]), (pair(1), vec![99])]);
    assert_eq!(parking.next_deadline(), Some(PARK_DEADLINE + 400 * MS));
    assert_eq!(released(&mut parking, AB), [4, 5, 6, 7, 8, 9]);
    assert_eq!(parking.next_deadline(), None);
}

#[test]
fn a_clock_that_goes_back_does_not_break_the_order() {
    let mut parking = Parking::new(ParkLimits::default());
    parking.push(AB, POD, 0, 100, 9 * SECOND).expect("a place");
    parking.push(AB, POD, 1, 100, SECOND).expect("a place");
    assert!(parking.expire(SECOND + PARK_DEADLINE).is_empty());
    assert_eq!(expired(&mut parking, 9 * SECOND + PARK_DEADLINE), [(AB, vec![0, 1])]);
}

#[test]
fn every_frame_is_accounted_for() {
    let mut parking = Parking::new(small());
    let mut now = 0;
    for round in 0..1_000u32 {
        now += 37 * MS;
        let source = Source::Pod((round % 5) as u16);
        let _ = parking.push(pair(round * 7 % 11), source, round, 90 + round as usize % 50, now);
        match round % 13 {
            0 => drop(parking.release(pair(round % 11))),
            5 => drop(parking.discard(pair(round % 11))),
            9 => drop(parking.expire(now)),
            _ => {}
        }
        let counters = parking.counters();
        let out = counters.released.frames + counters.discarded.frames + counters.expired.frames;
        assert_eq!(counters.parked.frames, out + parking.total().frames);
        let bytes = counters.released.bytes + counters.discarded.bytes + counters.expired.bytes;
        assert_eq!(counters.parked.bytes, bytes + parking.total().bytes);
    }
    parking.expire(now + PARK_DEADLINE);
    assert_eq!(parking.total(), Tally::default());
}

#[test]
fn the_default_holds_what_the_first_packets_need() {
    let mut parking = Parking::new(ParkLimits::default());
    for i in 0..1_000 {
        parking.push(pair(i), POD, i, 1_500, 0).expect("a thousand pairs, one datagram each");
    }
    let mut parking = Parking::new(ParkLimits::default());
    for i in 0..2_000 {
        parking.push(pair(i % 100), POD, i, 1_500, 0).expect("a hundred pairs, twenty datagrams each");
    }
}
