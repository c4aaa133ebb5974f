//! Flows: who opened them decides, in both directions, for as long as they live.

use super::scene::{A, A_SLOT, B_SLOT, C, Host, SECOND, Scene, endpoint, ip};
use crate::action::Action;
use crate::craft::Craft;
use crate::ipcache::{IpEntry, flag};
use crate::limits;
use crate::policy::direction::{EGRESS, INGRESS};
use crate::policy::{PREFIX_PORT, PolicyEntry, PolicyKey, auth_type, flag as entry_flag, precedence};
use crate::proto::{self, tcp};
use crate::reason;

/// A may open flows to everybody, and nobody to A.
fn one_way() -> Scene {
    let mut scene = Scene::new();
    scene.allow(A_SLOT, EGRESS, 0, auth_type::NONE);
    scene
}

#[test]
fn answers_pass_and_questions_do_not() {
    for v6 in [false, true] {
        let scene = one_way();
        let out = scene.craft(Host::A, Host::C, v6);
        let back = out.reversed();
        assert_eq!(scene.enter(Host::A, &back.udp(53, 1000, b"x")), Action::Drop);
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Pass);
        assert_eq!(scene.enter(Host::A, &back.udp(53, 1000, b"x")), Action::Pass);
        assert_eq!(scene.enter(Host::A, &back.udp(53, 1001, b"x")), Action::Drop);
        assert_eq!(scene.enter(Host::A, &back.udp(54, 1000, b"x")), Action::Drop);
        assert_eq!(
            scene.enter(Host::A, &back.build(proto::UDP_LITE, &[0, 53, 3, 0xe8, 0, 8, 0, 0])),
            Action::Drop
        );
    }
}

#[test]
fn a_syn_is_always_a_flow_of_its_own() {
    let scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    let back = out.reversed();
    assert_eq!(scene.leave(Host::A, &out.tcp(1000, 80, tcp::SYN)), Action::Pass);
    assert_eq!(scene.enter(Host::A, &back.tcp(80, 1000, tcp::SYN | tcp::ACK)), Action::Pass);
    // Simultaneous open, or an attack that looks like it: judged as what it is, and the flow stays as it was.
    assert_eq!(scene.enter(Host::A, &back.tcp(80, 1000, tcp::SYN)), Action::Drop);
    assert_eq!(scene.enter(Host::A, &back.tcp(80, 1000, tcp::ACK)), Action::Pass);
    // With data in it (TCP Fast Open) it is no different.
    let mut header = crate::craft::tcp(80, 1000, tcp::SYN);
    header.extend(b"data in the first segment");
    assert_eq!(scene.enter(Host::A, &back.build(proto::TCP, &header)), Action::Drop);
}

#[test]
fn ports_that_are_used_again_are_judged_again() {
    let mut scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    assert_eq!(scene.leave(Host::A, &out.tcp(1000, 80, tcp::SYN)), Action::Pass);
    assert_eq!(scene.enter(Host::A, &out.reversed().tcp(80, 1000, tcp::RST)), Action::Pass);
    scene.twin.policy_lpm.clear();
    // Nobody bumped the epoch, so that what is known goes on for a while; a SYN does not.
    assert_eq!(scene.leave(Host::A, &out.tcp(1000, 80, tcp::ACK)), Action::Pass);
    assert_eq!(scene.leave(Host::A, &out.tcp(1000, 80, tcp::SYN)), Action::Drop);
    scene.twin.advance(SECOND + 1);
    assert_eq!(scene.leave(Host::A, &out.tcp(1000, 80, tcp::ACK)), Action::Drop);
}

#[test]
fn a_changed_policy_cuts_flows_in_both_directions_at_once() {
    for v6 in [false, true] {
        let mut scene = one_way();
        let out = scene.craft(Host::A, Host::C, v6);
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Pass);
        assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Pass);
        scene.forbid_everything();
        assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Drop);
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Drop);
        // Allowed again: the flow goes on where it was, answers first.
        scene.allow(A_SLOT, EGRESS, 0, auth_type::NONE);
        assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Pass);
    }
}

#[test]
fn an_address_that_changes_hands_takes_its_flows_along_to_the_new_identity() {
    let mut scene = Scene::new();
    scene.allow(A_SLOT, EGRESS, C, auth_type::NONE);
    let out = scene.craft(Host::A, Host::C, false);
    assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Pass);
    let (addr, family) = crate::addr::Addr::from_ip(ip(Host::C, false));
    scene.twin.ips.insert((family, 32, addr), IpEntry { identity: 4000, node: 7, flags: flag::POD });
    scene.bump(A_SLOT);
    assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Drop);
}

#[test]
fn flows_end_when_nobody_uses_them() {
    let scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    let back = out.reversed();
    for (protocol, life) in [(proto::UDP, limits::LIFE_OTHER_NS), (proto::SCTP, limits::LIFE_OTHER_NS)] {
        let ports = |from: u16, to: u16| {
            let mut header = crate::craft::udp(from, to, b"1234567890");
            header.truncate(16);
            header
        };
        assert_eq!(scene.leave(Host::A, &out.build(protocol, &ports(7, 8))), Action::Pass);
        scene.twin.advance(life - 1);
        assert_eq!(scene.enter(Host::A, &back.build(protocol, &ports(8, 7))), Action::Pass);
        scene.twin.advance(life + 1);
        assert_eq!(scene.enter(Host::A, &back.build(protocol, &ports(8, 7))), Action::Drop);
    }
}

#[test]
fn tcp_lives_by_its_state() {
    let scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    let back = out.reversed();
    let answer = |scene: &Scene, flags| scene.enter(Host::A, &back.tcp(80, 1000, flags));
    let open = |scene: &Scene| scene.leave(Host::A, &out.tcp(1000, 80, tcp::SYN));
    // Without an answer a minute, with one 8,000 s, after FIN or RST 10 s.
    assert_eq!(open(&scene), Action::Pass);
    scene.twin.advance(limits::LIFE_SYN_NS + 1);
    assert_eq!(answer(&scene, tcp::SYN | tcp::ACK), Action::Drop);
    assert_eq!(open(&scene), Action::Pass);
    assert_eq!(answer(&scene, tcp::SYN | tcp::ACK), Action::Pass);
    scene.twin.advance(limits::LIFE_TCP_NS - 1);
    assert_eq!(answer(&scene, tcp::ACK), Action::Pass);
    assert_eq!(answer(&scene, tcp::FIN | tcp::ACK), Action::Pass);
    scene.twin.advance(limits::LIFE_CLOSING_NS - 1);
    assert_eq!(answer(&scene, tcp::ACK), Action::Pass);
    scene.twin.advance(limits::LIFE_CLOSING_NS + 1);
    assert_eq!(answer(&scene, tcp::ACK), Action::Drop);
}

#[test]
fn counters_of_a_flow_count_both_directions() {
    let scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    let (frame, answer) = (out.udp(1000, 53, b"question"), out.reversed().udp(53, 1000, b"an answer"));
    for _ in 0..3 {
        assert_eq!(scene.leave(Host::A, &frame), Action::Pass);
        assert_eq!(scene.enter(Host::A, &answer), Action::Pass);
    }
    let flows = scene.twin.flows.borrow();
    let entry = flows.values().next().unwrap();
    assert_eq!((entry.packets, entry.bytes), (6, 3 * (frame.len() + answer.len()) as u64));
    assert_eq!((entry.remote_identity, entry.rule_id, entry.opened), (C, 42, EGRESS));
    assert_eq!(scene.twin.counter(EGRESS, reason::FORWARDED).packets, 3);
    assert_eq!(scene.twin.counter(INGRESS, reason::FORWARDED).packets, 3);
}

#[test]
fn the_next_endpoint_in_a_slot_inherits_no_flows() {
    let mut scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Pass);
    let epochs = scene.twin.epochs.get_mut(&A_SLOT).unwrap();
    epochs.policy += 1;
    epochs.birth = epochs.policy;
    assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Drop);
    // And epochs may go round.
    let epochs = scene.twin.epochs.get_mut(&A_SLOT).unwrap();
    (epochs.policy, epochs.birth) = (u32::MAX, u32::MAX);
    assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Pass);
    scene.bump(A_SLOT);
    assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Pass);
}

#[test]
fn a_full_table_admits_nobody_new_and_forgets_nobody() {
    let scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Pass);
    scene.twin.flows_full.set(true);
    assert_eq!(scene.leave(Host::A, &out.udp(1001, 53, b"x")), Action::Drop);
    assert_eq!(scene.twin.counter(EGRESS, reason::CT_INSERT_FAILED).packets, 1);
    assert_eq!(scene.enter(Host::A, &out.reversed().udp(53, 1000, b"x")), Action::Pass);
}

#[test]
fn nobodys_echo_passes_as_the_answer_to_anothers() {
    for v6 in [false, true] {
        let scene = one_way();
        let out = scene.craft(Host::A, Host::C, v6);
        let back = out.reversed();
        assert_eq!(scene.enter(Host::A, &back.echo(9, false)), Action::Drop);
        assert_eq!(scene.leave(Host::A, &out.echo(9, true)), Action::Pass);
        assert_eq!(scene.enter(Host::A, &back.echo(9, false)), Action::Pass);
        // GHSA-c66w-hq56-4q97: a request with the identifier of an allowed exchange.
        assert_eq!(scene.enter(Host::A, &back.echo(9, true)), Action::Drop);
        assert_eq!(scene.leave(Host::A, &out.echo(9, false)), Action::Drop);
        assert_eq!(scene.enter(Host::A, &back.echo(10, false)), Action::Drop);
    }
}

#[test]
fn the_type_is_the_port_of_an_echo() {
    let mut scene = Scene::new();
    let request = |slot: u16, kind: u16| PolicyKey {
        identity: C,
        slot_be: slot.to_be(),
        direction: EGRESS,
        protocol: proto::ICMP,
        port_be: kind.to_be(),
        pad: 0,
    };
    let entry =
        PolicyEntry { precedence: precedence(0, false), prefix_bits: PREFIX_PORT, ..PolicyEntry::default() };
    scene.twin.policy_exact.insert(request(A_SLOT, 8), entry);
    let out = scene.craft(Host::A, Host::C, false);
    assert_eq!(scene.leave(Host::A, &out.echo(1, true)), Action::Pass);
    scene.twin.advance(2 * SECOND);
    assert_eq!(scene.enter(Host::A, &out.reversed().echo(1, false)), Action::Pass);
    scene.twin.policy_exact.clear();
    scene.twin.policy_exact.insert(request(A_SLOT, 0), entry);
    scene.twin.advance(2 * SECOND);
    assert_eq!(scene.enter(Host::A, &out.reversed().echo(1, false)), Action::Drop);
}

#[test]
fn icmp_errors_need_a_live_flow() {
    for v6 in [false, true] {
        let mut scene = one_way();
        let out = scene.craft(Host::A, Host::C, v6);
        let sent = out.udp(1000, 53, b"question");
        let router = scene.craft(Host::World, Host::A, v6);
        let error = |quoted: &[u8]| router.icmp_error(&quoted[14..]);
        assert_eq!(scene.enter(Host::A, &error(&sent)), Action::Drop);
        assert_eq!(scene.leave(Host::A, &sent), Action::Pass);
        assert_eq!(scene.enter(Host::A, &error(&sent)), Action::Pass);
        // Of another flow, of another pod's packet, cut off, a fragment.
        assert_eq!(scene.enter(Host::A, &error(&out.udp(1001, 53, b"question"))), Action::Drop);
        let other = Craft { source: ip(Host::B, v6), ..out.clone() }.udp(1000, 53, b"question");
        assert_eq!(scene.enter(Host::A, &error(&other)), Action::Drop);
        let header = if v6 { 54 } else { 34 };
        assert_eq!(scene.enter(Host::A, &error(&sent[..header + 2])), Action::Drop);
        assert_eq!(scene.enter(Host::A, &error(&sent[..header - 4])), Action::Drop);
        // About a later fragment, whose first bytes are no ports (here they look like some).
        let piece = Craft { fragment: Some((1, 8, false)), ..out.clone() };
        let piece = piece.build(proto::UDP, &crate::craft::udp(1000, 53, b"question"));
        assert_eq!(scene.enter(Host::A, &error(&piece)), Action::Drop);
        // Another pod knows the tuple: it is neither the peer nor a router.
        let forged = scene.craft(Host::C, Host::A, v6);
        let forged = Craft { source: ip(Host::B, v6), ..forged };
        assert_eq!(scene.enter(Host::A, &forged.icmp_error(&sent[14..])), Action::Drop);
        assert_eq!(scene.enter(Host::A, &out.reversed().icmp_error(&sent[14..])), Action::Pass);
        // Idle for a while, the verdict is renewed; once policy says no, errors end as well.
        scene.twin.advance(10 * SECOND);
        assert_eq!(scene.enter(Host::A, &error(&sent)), Action::Pass);
        scene.forbid_everything();
        assert_eq!(scene.enter(Host::A, &error(&sent)), Action::Drop);
        assert_eq!(scene.twin.counter(INGRESS, reason::ICMP_UNRELATED).packets, 8);
    }
}

#[test]
fn a_pod_may_send_errors_about_what_it_was_sent() {
    for v6 in [false, true] {
        let mut scene = Scene::new();
        scene.allow(B_SLOT, INGRESS, A, auth_type::NONE);
        let into = scene.craft(Host::A, Host::B, v6);
        let own = endpoint(Host::B);
        let received = into.udp(1000, 53, b"question");
        let reply = Craft::new((own.mac, own.host_mac), ip(Host::B, v6), ip(Host::A, v6));
        assert_eq!(scene.leave(Host::B, &reply.icmp_error(&received[14..])), Action::Drop);
        assert_eq!(scene.enter(Host::B, &received), Action::Pass);
        assert_eq!(scene.leave(Host::B, &reply.icmp_error(&received[14..])), Action::Pass);
        let lie = into.reversed().udp(1000, 53, b"question");
        assert_eq!(scene.leave(Host::B, &reply.icmp_error(&lie[14..])), Action::Drop);
    }
}

#[test]
fn errors_about_echoes_keep_the_role() {
    let scene = one_way();
    let out = scene.craft(Host::A, Host::C, false);
    let request = out.echo(9, true);
    let router = scene.craft(Host::World, Host::A, false);
    assert_eq!(scene.leave(Host::A, &request), Action::Pass);
    assert_eq!(scene.enter(Host::A, &router.icmp_error(&request[14..])), Action::Pass);
    assert_eq!(scene.enter(Host::A, &router.icmp_error(&out.echo(9, false)[14..])), Action::Drop);
}

#[test]
fn the_agents_ports_are_closed_whatever_policy_says() {
    let scene = Scene::open();
    for v6 in [false, true] {
        let out = scene.craft(Host::A, Host::Node, v6);
        assert_eq!(scene.leave(Host::A, &out.tcp(1000, 4250, tcp::SYN)), Action::Drop);
        for port in [51871, 51874] {
            assert_eq!(scene.leave(Host::A, &out.udp(1000, port, b"x")), Action::Drop);
        }
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 51870, b"x")), Action::Pass);
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 51875, b"x")), Action::Pass);
        assert_eq!(scene.leave(Host::A, &out.tcp(1000, 51871, tcp::SYN)), Action::Pass);
        assert_eq!(scene.leave(Host::A, &out.udp(1000, 4250, b"x")), Action::Pass);
        let elsewhere = scene.craft(Host::A, Host::World, v6);
        assert_eq!(scene.leave(Host::A, &elsewhere.tcp(1000, 4250, tcp::SYN)), Action::Pass);
    }
    // By the address that every pod's gateway has.
    let gateway = Craft { destination: "fe80::1".parse().unwrap(), ..scene.craft(Host::A, Host::Node, true) };
    assert_eq!(scene.leave(Host::A, &gateway.tcp(1000, 4250, tcp::SYN)), Action::Drop);
    assert_eq!(scene.leave(Host::A, &gateway.tcp(1000, 80, tcp::SYN)), Action::Pass);
    assert_eq!(scene.twin.counter(EGRESS, reason::AGENT_PORT).packets, 7);
}

#[test]
fn a_rule_that_denies_is_told_from_none_that_allows() {
    let mut scene = Scene::open();
    let key = PolicyKey { identity: C, slot_be: A_SLOT.to_be(), direction: EGRESS, ..PolicyKey::default() };
    let deny = PolicyEntry {
        precedence: precedence(0, true),
        rule_id: 66,
        flags: entry_flag::DENY,
        prefix_bits: crate::policy::PREFIX_STATIC,
        ..PolicyEntry::default()
    };
    scene.twin.policy_lpm.insert((crate::policy::PREFIX_STATIC, key), deny);
    let out = scene.craft(Host::A, Host::C, false);
    assert_eq!(scene.leave(Host::A, &out.udp(1000, 53, b"x")), Action::Drop);
    assert_eq!(scene.twin.counter(EGRESS, reason::POLICY_DENY).packets, 1);
    let events = scene.twin.events.borrow();
    assert_eq!((events[0].rule_id, events[0].reason, events[0].remote_identity), (66, 181, C));
}
