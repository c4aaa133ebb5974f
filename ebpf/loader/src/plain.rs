//! Carries the shared types into aya's maps.

use countersign_ebpf_common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_common::config::Config;
use countersign_ebpf_common::ct::{CtEntry, CtKey, CtKey4};
use countersign_ebpf_common::endpoint::{Endpoint, Epochs};
use countersign_ebpf_common::ipcache::IpEntry;
use countersign_ebpf_common::metrics::Counter;
use countersign_ebpf_common::park::{Pending, PendingKey};
use countersign_ebpf_common::policy::{PolicyEntry, PolicyKey};

/// A type of the shared crate as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct P<T: Plain>(pub T);

/// Types of which every byte is data.
///
/// # Safety
///
/// `repr(C)`, without padding, and valid whatever its bytes are. The shared crate asserts the sizes.
pub(crate) unsafe trait Plain: Copy + 'static {}

// SAFETY: `P` is transparent over a `Plain` type, which is what `Pod` asks for.
unsafe impl<T: Plain> aya::Pod for P<T> {}

macro_rules! plain {
    ($($name:ty),* $(,)?) => {
        // SAFETY: integers and arrays of them, `repr(C)`, sizes asserted to be the sums of the fields'.
        $(unsafe impl Plain for $name {})*
    };
}

plain!(AuthKey, AuthValue, Bound, Config, Counter, CtEntry, CtKey, CtKey4, Endpoint, Epochs, IpEntry);
plain!(Pending, PendingKey, PolicyEntry, PolicyKey);
