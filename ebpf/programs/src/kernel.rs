//! The tables and clocks as the kernel has them.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use countersign_ebpf_common::addr::{Addr, V4};
use countersign_ebpf_common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_common::budget::SlotBudget;
use countersign_ebpf_common::config::Config;
use countersign_ebpf_common::ct::{CtEntry, CtKey};
use countersign_ebpf_common::endpoint::{Endpoint, Epochs};
use countersign_ebpf_common::event::Event;
use countersign_ebpf_common::frag::{FragKey, FragPorts};
use countersign_ebpf_common::ipcache::IpEntry;
use countersign_ebpf_common::limits;
use countersign_ebpf_common::maps::{Maps, Scratch};
use countersign_ebpf_common::metrics::{self, Counter};
use countersign_ebpf_common::park::{Pending, PendingKey};
use countersign_ebpf_common::policy::{PolicyEntry, PolicyKey};
use countersign_ebpf_common::report::Dedup;

use crate::maps;

/// Bits of a policy key that a look-up fixes.
const POLICY_BITS: u32 = 96;

/// The kernel's maps.
pub struct Kernel;

/// A copy of the value. Values that user space writes are replaced as a whole, never changed in place.
#[inline(always)]
fn hash<K, V: Copy>(map: &HashMap<K, V>, key: &K) -> Option<V> {
    // SAFETY: the pointer is valid until the program ends; another CPU may replace the element meanwhile,
    // and we then have one of the two values (the kernel frees elements after a grace period).
    map.get_ptr(key).map(|value| unsafe { *value })
}

/// The element in place, where a copy would take too much of the stack.
#[inline(always)]
fn array<V>(map: &Array<V>, index: u32) -> Option<&V> {
    // SAFETY: elements of an array are there for ever; a field that is written meanwhile is old or new.
    map.get_ptr(index).map(|value| unsafe { &*value })
}

/// Works on an element in place. Several CPUs may do so at once; what must be exact is added atomically, and
/// of what is not, the last writer wins.
#[inline(always)]
fn with<V, R>(element: Option<*mut V>, work: impl FnOnce(&mut V) -> R) -> Option<R> {
    // SAFETY: the pointer came from a look-up in this run of the program, so that it is valid until its end.
    element.map(|value| work(unsafe { &mut *value }))
}

#[inline(always)]
fn counted(direction: u8, reason: u8, work: impl FnOnce(&mut Counter)) {
    let map: &PerCpuArray<Counter> = &maps::METRICS;
    with(map.get_ptr_mut(metrics::index(direction, reason)), work);
}

#[inline(always)]
fn put<K, V>(map: &LruHashMap<K, V>, key: &K, value: &V) -> bool {
    map.insert(key, value, u64::from(BPF_ANY)).is_ok()
}

#[inline(always)]
fn atomic_add(counter: &mut u64, amount: u64) {
    // SAFETY: an aligned counter that lives in a map; the instruction is the kernel's atomic add.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
            counter, amount,
        );
    }
}

impl Maps for Kernel {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        array(&maps::CONFIG, 0)
    }

    #[inline(always)]
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        // SAFETY: elements are replaced, never changed in place, and stay until the program ends.
        maps::ENDPOINTS.get_ptr(ifindex).map(|endpoint| unsafe { &*endpoint })
    }

    #[inline(always)]
    fn slot(&self, slot: u16) -> Option<&Endpoint> {
        array(&maps::SLOTS, u32::from(slot))
    }

    #[inline(always)]
    fn epochs(&self, slot: u16) -> Option<Epochs> {
        array(&maps::EPOCHS, u32::from(slot)).copied()
    }

    #[inline(always)]
    fn ip_exact(&self, family: u8, address: &Addr) -> Option<IpEntry> {
        if family == V4 { hash(&maps::IP4, &address.words[0]) } else { hash(&maps::IP6, &address.words) }
    }

    #[inline(always)]
    fn ip_prefix(&self, family: u8, address: &Addr) -> Option<IpEntry> {
        if family == V4 {
            maps::CIDR4.get(Key::new(32, address.words[0])).copied()
        } else {
            maps::CIDR6.get(Key::new(128, address.words)).copied()
        }
    }

    #[inline(always)]
    fn policy_exact(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        hash(&maps::POLICY, key)
    }

    #[inline(always)]
    fn policy_prefix(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        maps::POLICY_LPM.get(Key::new(POLICY_BITS, *key)).copied()
    }

    #[inline(always)]
    fn auth(&self, key: &AuthKey) -> Option<AuthValue> {
        hash(&maps::AUTH, key)
    }

    #[inline(always)]
    fn backoff(&self, key: &AuthKey) -> Option<u64> {
        // SAFETY: as in `hash`.
        maps::BACKOFF.get_ptr(key).map(|until| unsafe { *until })
    }

    #[inline(always)]
    fn bound(&self, family: u8, address: &Addr) -> Option<Bound> {
        if family == V4 {
            hash(&maps::BOUND4, &address.words[0])
        } else {
            hash(&maps::BOUND6, &address.words)
        }
    }

    #[inline(always)]
    fn with_flow<R>(&self, family: u8, key: &CtKey, work: impl FnOnce(&mut CtEntry) -> R) -> Option<R> {
        let element = if family == V4 { maps::CT4.get_ptr_mut(key.v4()) } else { maps::CT6.get_ptr_mut(key) };
        with(element, work)
    }

    #[inline(always)]
    fn put_flow(&self, family: u8, key: &CtKey, entry: &CtEntry) -> bool {
        if family == V4 { put(&maps::CT4, &key.v4(), entry) } else { put(&maps::CT6, key, entry) }
    }

    #[inline(always)]
    fn fragment(&self, family: u8, key: &FragKey) -> Option<FragPorts> {
        let found = if family == V4 { maps::FRAG4.get_ptr(key.v4()) } else { maps::FRAG6.get_ptr(key) };
        // SAFETY: as in `hash`.
        found.map(|ports| unsafe { *ports })
    }

    #[inline(always)]
    fn put_fragment(&self, family: u8, key: &FragKey, ports: &FragPorts) -> bool {
        if family == V4 { put(&maps::FRAG4, &key.v4(), ports) } else { put(&maps::FRAG6, key, ports) }
    }

    #[inline(always)]
    fn with_pending<R>(&self, key: &PendingKey, work: impl FnOnce(&mut Pending) -> R) -> Option<R> {
        let mut element = maps::PENDING.get_ptr_mut(key);
        if element.is_none() {
            put(&maps::PENDING, key, &Pending::default());
            element = maps::PENDING.get_ptr_mut(key);
        }
        with(element, work)
    }

    #[inline(always)]
    fn pending(&self, key: &PendingKey) -> Option<(u64, u64)> {
        // SAFETY: as in `hash`; the two numbers are read one by one, and either may be a packet older.
        maps::PENDING.get_ptr(key).map(|pending| unsafe { ((*pending).parked, (*pending).waited) })
    }

    #[inline(always)]
    fn returned(&self, key: &PendingKey) -> u64 {
        // SAFETY: as in `hash`.
        maps::RETURNED.get_ptr(key).map_or(0, |returned| unsafe { *returned })
    }

    #[inline(always)]
    fn with_budget<R>(&self, cell: u32, work: impl FnOnce(&mut SlotBudget) -> R) -> Option<R> {
        with(maps::BUDGETS.get_ptr_mut(cell), work)
    }

    #[inline(always)]
    fn with_dedup<R>(&self, cell: u32, work: impl FnOnce(&mut Dedup) -> R) -> Option<R> {
        with(maps::DEDUP.get_ptr_mut(cell), work)
    }

    #[inline(always)]
    fn count(&self, direction: u8, reason: u8, bytes: u32) {
        counted(direction, reason, |counter| {
            counter.packets = counter.packets.wrapping_add(1);
            counter.bytes = counter.bytes.wrapping_add(u64::from(bytes));
        });
    }

    #[inline(always)]
    fn count_suppressed(&self, direction: u8, reason: u8) {
        counted(direction, reason, |counter| counter.suppressed = counter.suppressed.wrapping_add(1));
    }

    #[inline(always)]
    fn emit(&self, direction: u8, reason: u8, event: impl FnOnce() -> Event) {
        let Some(mut place) = maps::EVENTS.reserve::<Event>(0) else {
            counted(direction, reason, |counter| counter.lost = counter.lost.wrapping_add(1));
            return;
        };
        place.write(event());
        place.submit(wakeup(self.coarse_now()));
    }

    #[inline(always)]
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        // Nobody else runs on this CPU meanwhile: at tc, softirqs are off.
        with(maps::SCRATCH.get_ptr_mut(0), work)
    }

    #[inline(always)]
    fn add(counter: &mut u64, amount: u64) {
        atomic_add(counter, amount);
    }

    #[inline(always)]
    fn coarse_now(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn boot_now(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}

/// Waking the reader costs an interrupt, so it is done now and then; the reader looks in by itself as well.
#[inline(always)]
fn wakeup(now: u64) -> u64 {
    let due = with(maps::WOKEN.get_ptr_mut(0), |woken| {
        let due = now.wrapping_sub(*woken) >= limits::EVENT_WAKE_NS;
        if due {
            *woken = now;
        }
        due
    });
    if due == Some(false) { u64::from(BPF_RB_NO_WAKEUP) } else { 0 }
}
