//! Every bound of the agent that is not another crate's, with its reason.

use std::time::Duration;

/// Handshakes that have ended and wait for the node task: as many as can be under way.
pub const HANDSHAKE_RESULTS: usize = 1024;
/// Authenticated clients that wait for the node task's answer; beyond it they are refused with `overload`.
pub const INBOUND: usize = 1024;
/// Requests on the control socket that wait for the node task.
pub const REQUESTS: usize = 64;
/// Changes of the cluster taken in before their effects are worked out: enough for a burst, few enough that
/// handshakes are not kept waiting.
pub const CHANGES_PER_TURN: usize = 512;
/// Parked frames read before anything else gets its turn.
pub const FRAMES_PER_TURN: usize = 256;
/// Times that the parking device is read empty again in one turn, for those who send while what waited for them
/// goes back.
pub const SETTLE_ROUNDS: usize = 8;
/// Packets that the programs have parked and that have not come after this are lost: nanoseconds.
pub const SETTLE: u64 = 20_000_000;
/// Events of the datapath read before anything else gets its turn.
pub const EVENTS_PER_TURN: usize = 512;
/// Results and clients taken before anything else gets its turn.
pub const RESULTS_PER_TURN: usize = 64;
/// The largest frame the parking device can hold: 64 KiB and an Ethernet header.
pub const MAX_FRAME: usize = 65_536 + 18;
/// How often the node task looks around without a reason: late ring events, interfaces that came or went.
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks between looks at interfaces and expiring announcements.
pub const TICKS_PER_LOOK: u64 = 5;
/// How long an endpoint that is being added may wait for its pod to be known.
pub const ENDPOINT_WAIT: Duration = Duration::from_secs(10);
/// Endpoints waiting for that; beyond it adding is refused, to be tried again.
pub const ENDPOINTS_WAITING: usize = 512;
/// Policy entries shown by `policy get`: what fits into one line of the control socket.
pub const POLICY_ENTRIES_SHOWN: usize = 2_000;
/// The device is looked for, and its peers set anew, at most this often without a change.
pub const ENCRYPTION_RETRY: Duration = Duration::from_secs(1);
/// Entries of each kind that are saved of what peers still believe: as many as there are proofs (the size of the
/// datapath's map), and a file of 2 MiB at most.
pub const TOLD_SAVED: usize = 65_536;
/// After a trust bundle changed, what cannot be proved under the new one ends within this: nanoseconds.
pub const REVALIDATE_WITHIN: u64 = 5_000_000_000;
/// After packets of an unknown address have waited in vain, more of them are not taken in for this long: as long as
/// they waited. Nanoseconds.
pub const ADDRESS_QUIET: u64 = 5_000_000_000;
/// Addresses of which that is remembered, by who talks to them: what a node's pods can have tried within that time, in
/// a table of the datapath that holds as many; of more, packets go on waiting in vain.
pub const ADDRESSES_GIVEN_UP: usize = 16_384;
