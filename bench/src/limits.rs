//! The sizes of what is measured, and how long anything may take.

use std::time::Duration;

/// Fresh pairs of each row of `first-connection` with parking.
pub const FIRST_PAIRS: usize = 200;
/// Pods on each side: their square is more than the pairs of a row.
pub const FIRST_PODS: usize = 15;
/// Connections of each kind compared in `first-connection`'s second table.
pub const LATER_CONNECTIONS: usize = 2_000;
/// A connection that takes longer has failed: with parking off, three retransmissions fit.
pub const CONNECT: Duration = Duration::from_secs(10);

/// Pairs of `first-datagram`: one datagram each.
pub const DATAGRAM_PAIRS: usize = 1_000;
/// Pods on each side there.
pub const DATAGRAM_PODS: usize = 32;
/// Pairs whose datagrams go out at once.
pub const BURST_PAIRS: usize = 100;
/// Pods on each side of the burst.
pub const BURST_PODS: usize = 10;
/// Datagrams of each of them.
pub const BURST_DATAGRAMS: u32 = 20;
/// Datagrams of each pair of the stream: fewer than a pair may park, so that none is lost.
pub const STREAM_DATAGRAMS: u32 = 200;
/// Between two of them: the whole takes several times a handshake, so that the proof comes in the middle.
pub const STREAM_GAP: Duration = Duration::from_micros(20);
/// Between two pairs of the stream.
pub const STREAM_PAUSE: Duration = Duration::from_millis(10);
/// Nothing new for so long, and no more will come: parked frames are discarded after 5 s.
pub const QUIET: Duration = Duration::from_secs(6);

/// Packets per second of the flow in `renewal`.
pub const FLOW_RATE: u32 = 1_000;
/// Life of an SVID there.
pub const SHORT_TTL: Duration = Duration::from_secs(30);
/// How often the TCP flow speaks.
pub const TCP_BEAT: Duration = Duration::from_millis(10);
/// A TCP flow that hears nothing for so long counts as broken.
pub const TCP_SILENCE: Duration = Duration::from_secs(10);
/// How long the agent stays away after it was killed.
pub const AGENT_AWAY: Duration = Duration::from_secs(3);
/// How long after the agent's return a new pair may need before the run gives up on it.
pub const RETURN: Duration = Duration::from_secs(20);

/// Identities on each side of `handshakes`.
pub const HANDSHAKE_PODS: usize = 100;
/// Pairs per second offered when latency is measured.
pub const OFFERED_RATE: u32 = 2_000;
/// What the agents are to reach of what rustls alone does on one core, which is also offered as a rate: 2,000 pairs
/// per second on the machine where one core does 2,132.
pub const OF_ONE_CORE: f64 = 2_000.0 / 2_132.0;
/// How long rustls alone is measured, before and after.
pub const ALONE: Duration = Duration::from_secs(1);
/// Cold pairs send again after this, as TCP sends a SYN again (RFC 6298, section 2.1).
pub const RESEND: Duration = Duration::from_secs(1);
/// All pairs must be there by then.
pub const COLD: Duration = Duration::from_secs(60);
/// Between two datagrams of `policy-latency`: the resolution of what it measures.
pub const LATENCY_GAP: Duration = Duration::from_micros(500);
/// Nothing arrives for so long, and the flow is denied: no schedule of a busy machine keeps a datagram this long.
pub const LATENCY_SILENCE: Duration = Duration::from_millis(400);
/// Between two changes: the agent has nothing left to do.
pub const LATENCY_PAUSE: Duration = Duration::from_millis(100);
/// What a flush needs to reach both kernels, with the packets already on their way.
pub const SETTLE: Duration = Duration::from_millis(300);

/// Seconds of one stream through a tunnel.
pub const TUNNEL_SECONDS: u64 = 4;
/// Turns of every implementation.
pub const TUNNEL_ROUNDS: u32 = 3;

/// Handshake messages each second of `wireguard-flood`.
pub const FLOOD_RATE: u32 = 100_000;
/// How many leave in one system call: the flood must cost its sender little, since they share the machine.
pub const FLOOD_BURST: usize = 50;
/// How many different ones there are.
pub const FLOOD_MESSAGES: usize = 2_000;
/// The genuine flow beside it, in iperf3's words: a part of what the machine can carry, and (0) all of it. Then the
/// flood's sender, which is on the same machine, takes its part too.
pub const FLOOD_FLOWS: [&str; 2] = ["1G", "0"];
/// For so long.
pub const FLOOD_SECONDS: u64 = 4;
/// One look at what a function costs, and how many: what disturbs is seldom there in all of them.
pub const GLANCE: Duration = Duration::from_millis(50);
pub const GLANCES: usize = 10;
