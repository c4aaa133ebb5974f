//! The compiled maps as the programs see them: bytes of keys and prefixes, decided by the code that runs in the kernel.

use countersign_ebpf_common::addr::{Addr, V4};
use countersign_ebpf_common::at::At;
use countersign_ebpf_common::config::Config;
use countersign_ebpf_common::decide::{Question, Verdict, decide};
use countersign_ebpf_common::endpoint::Endpoint;
use countersign_ebpf_common::ipcache::IpEntry;
use countersign_ebpf_common::ladder::Decision;
use countersign_ebpf_common::twin::Twin;
use countersign_policy::endpoint::EndpointPolicy;
use countersign_policy::model::Direction;

use super::naive::Side;

/// The endpoint's slot.
pub const SLOT: u16 = 7;

/// One endpoint and everybody who may speak with it.
pub struct Kernel {
    tables: Twin,
    endpoint: Endpoint,
    config: Config,
}

impl Kernel {
    /// The tables as the agent fills them.
    pub fn new(policy: &EndpointPolicy, identity: u32, sides: &[Side]) -> Self {
        let mut tables = Twin { policy_exact: policy.exact.clone(), ..Twin::default() };
        let entries = policy.entries.iter().map(|((key, bits), entry)| ((*bits, *key), *entry));
        tables.policy_lpm = entries.collect();
        for side in sides {
            let entry = IpEntry { identity: side.identity, ..IpEntry::default() };
            tables.ips.insert((V4, 32, address(side.identity)), entry);
        }
        // Ports that no packet has, so that nothing is decided by them.
        let config = Config { handshake_port: 4250, wireguard_port: 51871, ..Config::default() };
        Self { tables, config, endpoint: Endpoint { identity, slot: SLOT, ..Endpoint::default() } }
    }

    /// What policy says of the first packet of a flow, proofs aside.
    pub fn decide(&self, way: Direction, peer: u32, protocol: u8, port: u16) -> Decision {
        let at = At {
            config: &self.config,
            endpoint: &self.endpoint,
            now: 1,
            length: 60,
            direction: way.number(),
        };
        let question = Question {
            remote: address(peer),
            port: port.to_be(),
            family: V4,
            protocol,
            direction: way.number(),
        };
        let mut verdict = Verdict::default();
        decide(&self.tables, &at, &question, &mut verdict);
        assert_eq!(verdict.remote.identity, peer, "the address is another's");
        verdict.decision
    }
}

/// An address for each identity.
fn address(identity: u32) -> Addr {
    Addr::v4(identity.to_be_bytes())
}
