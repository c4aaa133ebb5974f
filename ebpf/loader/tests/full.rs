//! A policy table that is full says so, and what was in it stays as it was.

mod support;

use countersign_ebpf_loader::common::policy::{PolicyKey, auth_type, direction};
use countersign_ebpf_loader::common::proto;
use countersign_ebpf_loader::{Error, MapSizes, PolicyOp, PolicyTable};
use support::World;
use support::scene::allowing;

const ROOM: u32 = 8;

fn upsert(table: PolicyTable, port: u16) -> PolicyOp {
    let key = PolicyKey {
        identity: 1000,
        slot_be: 1u16.to_be(),
        direction: direction::INGRESS,
        protocol: proto::TCP,
        port_be: port.to_be(),
        pad: 0,
    };
    PolicyOp::Upsert(table, key, allowing(auth_type::NONE, 80))
}

#[test]
fn a_full_policy_table_takes_no_more_and_loses_nothing() {
    let Some(mut world) = World::new() else { return };
    world.config.sizes = MapSizes { policy: ROOM, policy_lpm: ROOM, ..world.config.sizes };
    let mut datapath = world.open();
    assert_eq!(datapath.policy_room(), (ROOM, ROOM));
    for (table, name) in [(PolicyTable::Exact, "cs_policy"), (PolicyTable::Prefix(80), "cs_policy_lpm")] {
        let before = datapath.policy().len();
        let ops: Vec<PolicyOp> = (1..=20).map(|port| upsert(table, port)).collect();
        let full = datapath.policy_apply(&ops).unwrap_err();
        assert!(matches!(full, Error::Full(map) if map == name), "{full}");
        // Those that fitted, in their order, and no other.
        assert_eq!(datapath.policy().len() - before, ROOM as usize);
        let ports: Vec<u16> = datapath
            .policy()
            .into_iter()
            .filter(|(of, _, _)| *of == table)
            .map(|(_, key, _)| u16::from_be(key.port_be))
            .collect();
        assert_eq!(ports.iter().copied().max(), Some(ROOM as u16), "{ports:?}");
    }
}
