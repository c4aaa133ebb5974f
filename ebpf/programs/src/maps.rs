//! Every map of the object. Who writes which is said in the loader's documentation.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use countersign_ebpf_common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_common::budget::SlotBudget;
use countersign_ebpf_common::config::Config;
use countersign_ebpf_common::ct::{CtEntry, CtKey, CtKey4};
use countersign_ebpf_common::endpoint::{Endpoint, Epochs};
use countersign_ebpf_common::frag::{FragKey, FragKey4, FragPorts};
use countersign_ebpf_common::ipcache::IpEntry;
use countersign_ebpf_common::limits;
use countersign_ebpf_common::maps::Scratch;
use countersign_ebpf_common::metrics::{self, Counter};
use countersign_ebpf_common::park::{Pending, PendingKey};
use countersign_ebpf_common::policy::{PolicyEntry, PolicyKey};
use countersign_ebpf_common::report::Dedup;

/// Memory is taken when an entry comes, for tables that are mostly empty (`BPF_F_NO_PREALLOC`). Tables that
/// the programs themselves write to are allocated beforehand.
const ON_DEMAND: u32 = 1;

/// Settings, one record.
#[map(name = "cs_config")]
pub static CONFIG: Array<Config> = Array::pinned(1, 0);
/// The endpoint behind an interface, by interface index.
#[map(name = "cs_endpoints")]
pub static ENDPOINTS: HashMap<u32, Endpoint> = HashMap::pinned(limits::SLOTS, 0);
/// The same by slot, for what comes back from parking.
#[map(name = "cs_slots")]
pub static SLOTS: Array<Endpoint> = Array::pinned(limits::SLOTS, 0);
/// What a cached verdict must have been given under, by slot.
#[map(name = "cs_epochs")]
pub static EPOCHS: Array<Epochs> = Array::pinned(limits::SLOTS, 0);
/// Who is behind an exact IPv4 address.
#[map(name = "cs_ip4")]
pub static IP4: HashMap<u32, IpEntry> = HashMap::pinned(limits::IP_ENTRIES, ON_DEMAND);
/// Who is behind an exact IPv6 address.
#[map(name = "cs_ip6")]
pub static IP6: HashMap<[u32; 4], IpEntry> = HashMap::pinned(limits::IP_ENTRIES, ON_DEMAND);
/// Who is behind an IPv4 prefix.
#[map(name = "cs_cidr4")]
pub static CIDR4: LpmTrie<u32, IpEntry> = LpmTrie::pinned(limits::CIDR_ENTRIES, ON_DEMAND);
/// Who is behind an IPv6 prefix.
#[map(name = "cs_cidr6")]
pub static CIDR6: LpmTrie<[u32; 4], IpEntry> = LpmTrie::pinned(limits::CIDR_ENTRIES, ON_DEMAND);
/// Final verdicts for one peer, protocol and port.
#[map(name = "cs_policy")]
pub static POLICY: HashMap<PolicyKey, PolicyEntry> = HashMap::pinned(limits::POLICY_ENTRIES, ON_DEMAND);
/// Everything else that policy says, with wildcards and ranges of ports.
#[map(name = "cs_policy_lpm")]
pub static POLICY_LPM: LpmTrie<PolicyKey, PolicyEntry> =
    LpmTrie::pinned(limits::POLICY_LPM_ENTRIES, ON_DEMAND);
/// Proofs.
#[map(name = "cs_auth")]
pub static AUTH: HashMap<AuthKey, AuthValue> = HashMap::pinned(limits::AUTH_ENTRIES, ON_DEMAND);
/// Pairs that failed a short while ago, and until when they are not parked.
#[map(name = "cs_backoff")]
pub static BACKOFF: LruHashMap<AuthKey, u64> = LruHashMap::pinned(limits::BACKOFF_ENTRIES, 0);
/// Who an authenticated session says is behind an IPv4 address.
#[map(name = "cs_bound4")]
pub static BOUND4: HashMap<u32, Bound> = HashMap::pinned(limits::BOUND_ENTRIES, ON_DEMAND);
/// Who an authenticated session says is behind an IPv6 address.
#[map(name = "cs_bound6")]
pub static BOUND6: HashMap<[u32; 4], Bound> = HashMap::pinned(limits::BOUND_ENTRIES, ON_DEMAND);
/// IPv4 flows and the verdicts on them.
#[map(name = "cs_ct4")]
pub static CT4: LruHashMap<CtKey4, CtEntry> = LruHashMap::pinned(limits::CT_ENTRIES, 0);
/// IPv6 flows and the verdicts on them.
#[map(name = "cs_ct6")]
pub static CT6: LruHashMap<CtKey, CtEntry> = LruHashMap::pinned(limits::CT_ENTRIES, 0);
/// Ports of IPv4 datagrams in fragments.
#[map(name = "cs_frag4")]
pub static FRAG4: LruHashMap<FragKey4, FragPorts> = LruHashMap::pinned(limits::FRAG_ENTRIES, 0);
/// Ports of IPv6 datagrams in fragments.
#[map(name = "cs_frag6")]
pub static FRAG6: LruHashMap<FragKey, FragPorts> = LruHashMap::pinned(limits::FRAG_ENTRIES, 0);
/// What pairs without a proof have used up of their places.
#[map(name = "cs_pending")]
pub static PENDING: LruHashMap<PendingKey, Pending> = LruHashMap::pinned(limits::PENDING_ENTRIES, 0);
/// How many parked packets of a pair the agent has dealt with.
#[map(name = "cs_returned")]
pub static RETURNED: LruHashMap<PendingKey, u64> = LruHashMap::pinned(limits::PENDING_ENTRIES, 0);
/// What endpoints and senders have used up of what all share.
#[map(name = "cs_budgets")]
pub static BUDGETS: Array<SlotBudget> = Array::pinned(limits::BUDGETS, 0);
/// Which drop was reported last, by the low bits of its hash.
#[map(name = "cs_dedup")]
pub static DEDUP: Array<Dedup> = Array::pinned(limits::DEDUP_CELLS, 0);
/// Counters by direction and reason.
#[map(name = "cs_metrics")]
pub static METRICS: PerCpuArray<Counter> = PerCpuArray::pinned(metrics::ENTRIES, 0);
/// A packet's facts, too big for the stack.
#[map(name = "cs_scratch")]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// When the ring's reader was woken last, per CPU.
#[map(name = "cs_woken")]
pub static WOKEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Not pinned: its reader ends with the process, and so do the programs that write to it.
#[map(name = "cs_events")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(limits::RING_BYTES, 0);
