//! From an action to what the kernel is told. Nothing else returns a verdict to it.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_store_bytes};
use countersign_ebpf_common::pod::Action;

use crate::skb::Skb;

/// What we pass, others may still look at: we are the first on every hook, and our "pass" is "go on".
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

/// Carries the action out.
#[inline(always)]
pub fn act(skb: &Skb, action: Action) -> i32 {
    match action {
        Action::Pass => NEXT,
        Action::Drop => DROP,
        Action::Park { ifindex, macs } => redirect(skb, ifindex, &macs, 0),
        Action::Release { ifindex, macs, ingress, mark } => {
            skb.set_mark(mark);
            redirect(skb, ifindex, &macs, if ingress { u64::from(BPF_F_INGRESS) } else { 0 })
        }
    }
}

#[inline(always)]
fn redirect(skb: &Skb, ifindex: u32, macs: &[u8; 12], flags: u64) -> i32 {
    // SAFETY: twelve bytes that live on the stack; the helper checks that the packet has as many.
    let stored = unsafe { bpf_skb_store_bytes(skb.raw().cast(), 0, macs.as_ptr().cast(), 12, 0) };
    if stored != 0 {
        return DROP;
    }
    // SAFETY: a helper with two numbers.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}
