//! Every limit of this crate, each with its reason.

/// Flows held by default: the field's usual number. A flow is some 400 bytes, its workloads shared.
pub const DEFAULT_CAPACITY: usize = 4096;

/// Most flows a store can be made to hold: 400 MiB of them.
pub const MAX_CAPACITY: usize = 1 << 20;

/// Readers at once: as many as the control socket serves.
pub const MAX_SUBSCRIBERS: usize = 64;

/// Flows that wait for one reader. At 10,000 flows a second that bridges a pause of 100 ms.
pub const SUBSCRIBER_QUEUE: usize = 1024;

/// Most values in one field of a filter: it is evaluated for every flow.
pub const MAX_FILTER_VALUES: usize = 64;

/// Handshake durations remembered for quantiles: the 99th percentile then rests on ten samples.
pub const LATENCY_SAMPLES: usize = 1024;
