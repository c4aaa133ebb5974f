//! Every number that bounds something in the datapath, with its reason.

/// Endpoint slots of a node; slot 0 is never used. More than the field's 110 pods per node, and small enough
/// for arrays.
pub const SLOTS: u32 = 4096;
/// Flows in the connection table, per family.
pub const CT_ENTRIES: u32 = 131_072;
/// Fragmented datagrams followed at a time, per family; a datagram lives for 30 s at most.
pub const FRAG_ENTRIES: u32 = 8_192;
/// Exact addresses known, per family: pods and nodes of the cluster.
pub const IP_ENTRIES: u32 = 131_072;
/// Prefixes known, per family: pod CIDRs and the CIDRs of rules.
pub const CIDR_ENTRIES: u32 = 16_384;
/// Policy entries of all endpoints together, exact ones.
pub const POLICY_ENTRIES: u32 = 262_144;
/// Policy entries of all endpoints together, with wildcards or port ranges.
pub const POLICY_LPM_ENTRIES: u32 = 131_072;
/// Proofs: pairs of identities with a node.
pub const AUTH_ENTRIES: u32 = 131_072;
/// Addresses whose owner an authenticated session has asserted, per family.
pub const BOUND_ENTRIES: u32 = 65_536;
/// Pairs that are waiting for their proof at a time; the oldest is forgotten (and may park again).
pub const PENDING_ENTRIES: u32 = 16_384;
/// Pairs whose handshake failed, not to be parked for a while.
pub const BACKOFF_ENTRIES: u32 = 16_384;
/// Cells that remember which drop was reported last. A power of two: the cell is a hash's low bits.
pub const DEDUP_CELLS: u32 = 8_192;
/// Bytes of the event ring: 26,000 events.
pub const RING_BYTES: u32 = 1 << 21;

/// A cached verdict is checked again after this long at the latest: the bound on how long a suspended or
/// stepped clock can stretch a proof.
pub const REVALIDATE_NS: u64 = 1_000_000_000;
/// The coarse clock lags behind the exact one by a tick of the kernel at most (10 ms at 100 Hz).
pub const CLOCK_SLACK_NS: u64 = 10_000_000;

/// Life of a flow without packets: TCP that has been answered (as in the field's conntracks).
pub const LIFE_TCP_NS: u64 = 8_000_000_000_000;
/// Life of a TCP flow without an answer.
pub const LIFE_SYN_NS: u64 = 60_000_000_000;
/// Life of any other flow.
pub const LIFE_OTHER_NS: u64 = 60_000_000_000;
/// Life of a TCP flow after FIN or RST.
pub const LIFE_CLOSING_NS: u64 = 10_000_000_000;

/// IPv6 extension headers of one packet. Real packets have one or two.
pub const EXTENSION_HEADERS: u32 = 4;

/// A window in which a pair's parked packets are counted.
pub const PARK_WINDOW_NS: u64 = 1_000_000_000;
/// Packets of one pair parked per window: a 1,000 packet/s flow during a handshake of a quarter second.
pub const PARK_PAIR_PACKETS: u32 = 256;
/// Bytes of one pair parked per window: the packets above at 1 KiB, and four full-size offloaded ones.
pub const PARK_PAIR_BYTES: u32 = 256 * 1024;
/// Packets of one endpoint parked at once and per second, over all its pairs: 200 pairs of 20 packets.
pub const PARK_SLOT_PACKETS: u32 = 4_096;
/// Bytes of one endpoint parked at once and per second, over all its pairs.
pub const PARK_SLOT_BYTES: u32 = 4 * 1024 * 1024;
/// Places of all pods of another node together, in those of one endpoint: room for the 10,000 pairs that a node may
/// open at once, and not all of the parking device.
pub const PARK_NODE_SHARE: u32 = 3;
/// Budgets: of endpoints, of other nodes, of identities of this node; the latter two by their low bits.
pub const BUDGETS: u32 = 3 * SLOTS;
/// Times one packet may be parked: once for its own end, once for the other on the same node, once because
/// the proof ended in between.
pub const PARK_ROUNDS: u8 = 3;

/// Packets queue up behind parked ones for this long after the last that was parked for want of a proof: as long
/// as the agent keeps a packet. If the agent dies meanwhile, the pair is open again after that.
pub const BEHIND_NS: u64 = 5_000_000_000;

/// A pair's need for authentication is reported at most this often.
pub const AUTH_EVENT_NS: u64 = 100_000_000;
/// One and the same drop is reported at most this often.
pub const EVENT_REPEAT_NS: u64 = 1_000_000_000;
/// Events of one endpoint at once and per second; what is more is counted.
pub const EVENTS_PER_SLOT: u32 = 2_048;
/// The reader of the ring is woken at most this often, so that delivering an event costs no interrupt.
pub const EVENT_WAKE_NS: u64 = 10_000_000;

const _: () = assert!(2 * SLOTS <= 1 << 16); // a policy slot has 16 bits, and every endpoint may have two
const _: () =
    assert!(SLOTS.is_power_of_two() && DEDUP_CELLS.is_power_of_two() && RING_BYTES.is_power_of_two());
