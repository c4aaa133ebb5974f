//! The packet as the kernel hands it over.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use countersign_ebpf_common::action::Errand;
use countersign_ebpf_common::frame::Frame;
use countersign_ebpf_common::park::{MARK, MARK_MASK};

/// Aligned, so that words of it are read as words: the target reads unaligned ones byte by byte.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

/// A packet at a tc hook.
pub struct Skb {
    raw: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self { raw: context.skb.skb }
    }

    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.raw
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: see above.
        unsafe { (*self.raw).mark = mark }
    }

    /// Where the packet is, and how many times it has been parked, from the mark that it came back with. The
    /// mark is taken off: it means something to us only. A mark that somebody else set that way costs him a
    /// place, no more.
    #[inline(always)]
    pub fn errand(&self) -> Errand {
        // SAFETY: the context is valid for the run of the program; the same below.
        let (ifindex, mark) = unsafe { ((*self.raw).ifindex, (*self.raw).mark) };
        let mut errand = Errand { ifindex, ..Errand::default() };
        if mark & MARK_MASK == MARK {
            self.set_mark(0);
            errand.round = (mark & !MARK_MASK) as u8;
        }
        errand
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: see above.
        unsafe { (*self.raw).len }
    }

    #[inline(always)]
    fn vlan(&self) -> bool {
        // SAFETY: see above.
        unsafe { (*self.raw).vlan_present != 0 }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<Aligned<N>>::uninit();
        // SAFETY: the helper writes N bytes or fails; it checks the bounds of the packet, also where parts
        // of it are not in the linear area.
        let failed =
            unsafe { bpf_skb_load_bytes(self.raw.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        if failed != 0 {
            return None;
        }
        // SAFETY: the helper has written all of it.
        Some(unsafe { bytes.assume_init() }.0)
    }
}
