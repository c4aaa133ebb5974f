//! The messages: what is sent is what is understood, and nothing else is.

use std::net::IpAddr;

use countersign_agent::handshake::limits::{MAX_ASSERTIONS, MAX_MESSAGE_BYTES, MAX_NODE_NAME_BYTES};
use countersign_agent::handshake::message::{
    Hello, MessageError, Reply, decode_ack, encode_ack, is_node_name, wire,
};
use countersign_agent::handshake::{Assertion, End, Refusal, Tunnel};
use countersign_wg_proto::PublicKey;
use proptest::prelude::*;
use prost::Message;

use crate::support::ip;

fn hello() -> Hello {
    Hello {
        node: "node-a".into(),
        to_node: "node-b".into(),
        identity: 300,
        asked_identity: 301,
        assertions: vec![Assertion { ip: ip("10.0.0.1"), generation: 1 }],
        not_after: 1_800_000_000,
        disowned: Vec::new(),
        tunnel: None,
        moved: None,
    }
}

fn tunnel(key: [u8; 32], epoch: u64) -> Tunnel {
    let end = End { public_key: PublicKey::from_bytes(key), epoch };
    Tunnel { client: end, server: end }
}

fn body(framed: &[u8]) -> &[u8] {
    let (head, body) = framed.split_at(4);
    assert_eq!(u32::from_be_bytes(head.try_into().unwrap()) as usize, body.len());
    body
}

#[test]
fn the_wire_form_does_not_change() {
    // Version 1, byte for byte: an agent of another release must understand it.
    let bytes = hello().encode();
    let hex: String = body(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "080112066e6f64652d611a066e6f64652d6220ac0228ad0232080a040a00000110013880a4a7da06");
    assert_eq!(encode_ack(), [0, 0, 0, 2, 8, 1]);
}

#[test]
fn the_largest_message_fits() {
    let assertions = vec![Assertion { ip: ip("fd00:ffff::ffff"), generation: u32::MAX }; MAX_ASSERTIONS];
    let name = "n".repeat(MAX_NODE_NAME_BYTES);
    let (node, to_node) = (name.clone(), name);
    let hello = Hello {
        node,
        to_node,
        identity: u32::MAX,
        asked_identity: u32::MAX,
        assertions,
        not_after: u64::MAX,
        disowned: Vec::new(),
        tunnel: Some(tunnel([255; 32], u64::MAX)),
        moved: Some(tunnel([255; 32], u64::MAX)),
    };
    let bytes = hello.encode();
    assert!(body(&bytes).len() <= MAX_MESSAGE_BYTES, "{}", bytes.len());
    assert_eq!(Hello::decode(body(&bytes)).unwrap(), hello);
}

#[test]
fn refusals_survive_the_wire_and_new_ones_are_refusals() {
    for refusal in [
        Refusal::NotLocal,
        Refusal::Overload,
        Refusal::WrongIdentity,
        Refusal::Version,
        Refusal::WrongNode,
        Refusal::Declined,
    ] {
        let reply = Reply { node: "b".into(), verdict: Err(refusal) };
        assert_eq!(Reply::decode(body(&reply.encode())).unwrap(), reply);
    }
    // A refusal is understood whatever the version.
    let newer = wire::Reply { version: 9, node: "b".into(), refusal: 4711, ..wire::Reply::default() };
    assert_eq!(Reply::decode(&newer.encode_to_vec()).unwrap().verdict, Err(Refusal::Declined));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let wire = wire::Hello::decode(body(&hello().encode())).unwrap();
    let decode = |wire: wire::Hello| Hello::decode(&wire.encode_to_vec());
    let with_ip = |ip: &[u8]| {
        decode(wire::Hello {
            assertions: vec![wire::Assertion { ip: ip.to_vec(), generation: 0 }],
            ..wire.clone()
        })
    };
    assert_eq!(decode(wire::Hello { version: 0, ..wire.clone() }), Err(MessageError::Version(0)));
    assert_eq!(decode(wire::Hello { node: "a/b".into(), ..wire.clone() }), Err(MessageError::NodeName));
    assert_eq!(
        decode(wire::Hello { to_node: "\x1b[2J".into(), ..wire.clone() }),
        Err(MessageError::NodeName)
    );
    for bytes in [&[][..], &[10, 0, 0], &[0; 4], &[224, 0, 0, 1], &[255; 17], &[127, 9, 9, 9]] {
        assert_eq!(with_ip(bytes), Err(MessageError::Address), "{bytes:?}");
    }
    let mapped = "::ffff:10.0.0.1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert_eq!(with_ip(&mapped), Err(MessageError::Address), "one address has one form");
    let many = vec![wire::Assertion::default(); MAX_ASSERTIONS + 1];
    let refused = decode(wire::Hello { assertions: many, ..wire.clone() });
    assert_eq!(refused, Err(MessageError::TooManyAssertions(MAX_ASSERTIONS + 1)));
    for length in [0, 31, 33] {
        let tunnel =
            wire::Tunnel { client_key: vec![1; 32], server_key: vec![1; length], ..Default::default() };
        let refused = decode(wire::Hello { tunnel: Some(tunnel), ..wire.clone() });
        assert_eq!(refused, Err(MessageError::WireguardKey), "{length}");
    }
    let huge = vec![0; MAX_MESSAGE_BYTES + 1];
    assert_eq!(Hello::decode(&huge), Err(MessageError::TooLarge(huge.len())));
    assert!(matches!(Hello::decode(&[0xff; 20]), Err(MessageError::Protobuf(_))));
    assert!(decode_ack(&[]).is_err() && decode_ack(&[8, 0]).is_err() && decode_ack(&[8, 1]).is_ok());
}

#[test]
fn node_names() {
    for good in ["a", "node-1", "ip-10-0-0-1.ec2.internal", "N_1"] {
        assert!(is_node_name(good), "{good}");
    }
    for bad in ["", "a b", "a/b", "nöd", "a\0", "a\n"] {
        assert!(!is_node_name(bad), "{bad:?}");
    }
    assert!(!is_node_name(&"a".repeat(MAX_NODE_NAME_BYTES + 1)));
}

fn assertion() -> impl Strategy<Value = Assertion> {
    let ip = prop_oneof![
        (11_u8..100, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
        any::<[u16; 7]>().prop_map(|[b, c, d, e, f, g, h]| IpAddr::from([0xfd00, b, c, d, e, f, g, h])),
    ];
    (ip, any::<u32>()).prop_map(|(ip, generation)| Assertion { ip, generation })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_what_is_understood(
        node in "[a-z0-9.-]{1,40}", to_node in "[a-z0-9.-]{1,40}", identity: u32, asked_identity: u32,
        assertions in prop::collection::vec(assertion(), 0..40), not_after: u64,
        key: Option<[u8; 32]>, epoch: u64,
    ) {
        let hello = Hello { node: node.clone(), to_node, identity, asked_identity, assertions: assertions.clone(), not_after, disowned: vec![1, 300], tunnel: key.map(|key| tunnel(key, epoch)), moved: key.map(|key| tunnel(key, !epoch)) };
        prop_assert_eq!(Hello::decode(body(&hello.encode())).unwrap(), hello);
        let reply = Reply { node, verdict: Ok((assertions, not_after)) };
        prop_assert_eq!(Reply::decode(body(&reply.encode())).unwrap(), reply);
    }

    #[test]
    fn any_bytes_are_no_trouble(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Reply::decode(&bytes);
        let _ = decode_ack(&bytes);
        if let Ok(hello) = Hello::decode(&bytes) {
            prop_assert!(is_node_name(&hello.node) && hello.assertions.len() <= MAX_ASSERTIONS);
        }
    }

    #[test]
    fn damaged_messages_are_no_trouble(at in any::<u16>(), to: u8, cut in any::<u16>()) {
        let mut bytes = body(&hello().encode()).to_vec();
        let at = usize::from(at) % bytes.len();
        bytes[at] = to;
        bytes.truncate(usize::from(cut) % (bytes.len() + 1));
        let _ = Hello::decode(&bytes);
    }
}
