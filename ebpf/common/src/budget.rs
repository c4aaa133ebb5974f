//! Token buckets: what one endpoint may use of what all share.

/// A bucket that fills within a second and holds a second's worth.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bucket {
    /// When it was filled last (coarse clock); 0 is never, and the bucket is full.
    pub stamp: u64,
    /// Tokens used since.
    pub used: u64,
}

/// Element of `cs_budgets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SlotBudget {
    /// Packets parked.
    pub packets: Bucket,
    /// Bytes parked.
    pub bytes: Bucket,
    /// Events sent.
    pub events: Bucket,
}

const SECOND: u64 = 1_000_000_000;

impl Bucket {
    /// Takes tokens out; `false`, and nothing is taken, where there are not enough. `size` is both what the
    /// bucket holds and what it gains per second.
    #[inline(always)]
    pub fn take(&mut self, now: u64, amount: u32, size: u32) -> bool {
        let elapsed = now.saturating_sub(self.stamp);
        let gained = if elapsed >= SECOND { u64::from(size) } else { share(elapsed, size) };
        if gained > 0 {
            // What a fraction of a token took of the time is lost with the stamp: the bucket errs low.
            self.used = self.used.saturating_sub(gained);
            self.stamp = now;
        }
        let used = self.used.wrapping_add(u64::from(amount));
        if used > u64::from(size) {
            return false;
        }
        self.used = used;
        true
    }
}

/// `size` × `elapsed` ÷ a second, without a division by a variable and without overflow: `elapsed` is below
/// 2^30 and `size` below 2^32.
#[inline(always)]
const fn share(elapsed: u64, size: u32) -> u64 {
    elapsed.wrapping_mul(size as u64) / SECOND
}

const _: () = assert!(size_of::<SlotBudget>() == 48);
