//! The programs at tc: entry points only. What they do is in `countersign-ebpf-common`, which runs on the
//! host in tests as well.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the target has no atomic add outside of the intrinsics")]

mod act;
mod kernel;
mod maps;
mod skb;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use countersign_ebpf_common::action::Errand;
use countersign_ebpf_common::{pod, wire};

use crate::act::act;
use crate::kernel::Kernel;
use crate::skb::Skb;

/// tc ingress of a pod's host-side device.
#[classifier]
pub fn cs_from_pod(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let mut errand = skb.errand();
    let action = pod::from_pod(&skb, &Kernel, &mut errand);
    act(&skb, action, &errand)
}

/// tc egress of a pod's host-side device.
#[classifier]
pub fn cs_to_pod(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let mut errand = skb.errand();
    let action = pod::to_pod(&skb, &Kernel, &mut errand);
    act(&skb, action, &errand)
}

/// tc ingress of the parking device.
#[classifier]
pub fn cs_from_park(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let mut errand = Errand::default();
    let action = wire::from_park(&skb, &Kernel, &mut errand);
    act(&skb, action, &errand)
}

/// tc egress of an uplink.
#[classifier]
pub fn cs_to_wire(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    act(&skb, wire::to_wire(&skb, &Kernel), &Errand::default())
}

/// tc ingress of an uplink.
#[classifier]
pub fn cs_from_wire(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    act(&skb, wire::from_wire(&skb, &Kernel), &Errand::default())
}

/// tc egress of the encrypted device.
#[classifier]
pub fn cs_to_wg(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    act(&skb, wire::to_wg(&skb, &Kernel), &Errand::default())
}

/// tc ingress of the encrypted device.
#[classifier]
pub fn cs_from_wg(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    act(&skb, wire::from_wg(&skb, &Kernel), &Errand::default())
}

/// Never reached: nothing here panics, and the verifier would refuse a program that could end up here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Dual, as the kernel's helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
