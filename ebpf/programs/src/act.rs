//! From an action to what the kernel is told. Nothing else returns a verdict to it.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_store_bytes};
use countersign_ebpf_common::action::{Action, Errand};

use crate::skb::Skb;

/// What we pass, others may still look at: we are the first on every hook, and our "pass" is "go on".
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

/// Carries the action out.
#[inline(always)]
pub fn act(skb: &Skb, action: Action, errand: &Errand) -> i32 {
    let flags = match action {
        Action::Pass => return NEXT,
        Action::Drop => return DROP,
        Action::Park | Action::ReleaseOut => 0,
        Action::ReleaseIn => u64::from(BPF_F_INGRESS),
    };
    if action != Action::Park {
        skb.set_mark(errand.mark);
    }
    redirect(skb, errand, flags)
}

#[inline(always)]
fn redirect(skb: &Skb, errand: &Errand, flags: u64) -> i32 {
    let macs = errand.macs.as_ptr().cast();
    // SAFETY: twelve bytes that live on the stack; the helper checks that the packet has as many.
    let failed = unsafe { bpf_skb_store_bytes(skb.raw().cast(), 0, macs, 12, 0) };
    if failed != 0 {
        return DROP;
    }
    // SAFETY: a helper with two numbers.
    unsafe { bpf_redirect(errand.ifindex, flags) as i32 }
}
