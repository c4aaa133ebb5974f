//! When something is due (whitepaper, section 6). Times are nanoseconds of the boot clock; `None` is never.

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// An initiation was not answered.
    Retransmit,
    /// Data came, and nothing was sent since.
    Keepalive,
    /// Data was sent, and nothing came since.
    Silence,
    /// Nothing new for so long that no key is worth being kept.
    Wipe,
    /// The operator's own interval has passed.
    Persistent,
}

/// One of each.
#[derive(Debug, Default, Clone)]
pub(crate) struct Timers {
    pub retransmit: Option<u64>,
    pub keepalive: Option<u64>,
    pub silence: Option<u64>,
    pub wipe: Option<u64>,
    pub persistent: Option<u64>,
}

impl Timers {
    /// Takes one that is due.
    pub fn take(&mut self, now: u64) -> Option<Due> {
        let all = [
            (&mut self.wipe, Due::Wipe),
            (&mut self.retransmit, Due::Retransmit),
            (&mut self.silence, Due::Silence),
            (&mut self.keepalive, Due::Keepalive),
            (&mut self.persistent, Due::Persistent),
        ];
        let (timer, due) = all.into_iter().find(|(timer, _)| timer.is_some_and(|at| at <= now))?;
        *timer = None;
        Some(due)
    }

    /// When there will be one.
    pub fn next(&self) -> Option<u64> {
        [self.retransmit, self.keepalive, self.silence, self.wipe, self.persistent]
            .into_iter()
            .flatten()
            .min()
    }
}
