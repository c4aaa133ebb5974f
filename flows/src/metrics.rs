//! The numbers, and their Prometheus text.
//!
//! All labels are `'static`: an attacker can add to a count but never to the number of series.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::record::LossSource;

/// Name and value of labels; both from the program's text.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// All metrics of an agent. Clones count into the same numbers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    handshakes: Family<Labels<1>, Counter>,
    handshake_duration: Histogram,
    handshakes_in_flight: Gauge,
    parked: Counter,
    parked_now: Gauge,
    released: Counter,
    discarded: Family<Labels<1>, Counter>,
    dropped: Family<Labels<2>, Counter>,
    forwarded: Family<Labels<1>, Counter>,
    audited: Family<Labels<1>, Counter>,
    policy_overflows: Counter,
    policy_behind: Gauge,
    auth_entries: Family<Labels<1>, Gauge>,
    auth_next_expiry: Gauge<f64, AtomicU64>,
    svids: Gauge,
    svid_next_expiry: Gauge<f64, AtomicU64>,
    svid_rotations: Family<Labels<1>, Counter>,
    identity_source_up: Gauge,
    identity_source_down_since: Gauge,
    policies: Gauge,
    policies_refused: Gauge,
    endpoints: Gauge,
    encrypt_peers: Gauge,
    leaks_prevented: Counter,
    events_lost: Family<Labels<1>, Counter>,
    flows: Family<Labels<2>, Counter>,
    api_refused: Family<Labels<1>, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("countersign"),
            handshakes: Family::default(),
            // 0.25 ms to 8 s by doubling: a handshake on the same node takes under one, the deadline is seconds.
            handshake_duration: Histogram::new(exponential_buckets(0.00025, 2.0, 16)),
            handshakes_in_flight: Gauge::default(),
            parked: Counter::default(),
            parked_now: Gauge::default(),
            released: Counter::default(),
            discarded: Family::default(),
            dropped: Family::default(),
            forwarded: Family::default(),
            audited: Family::default(),
            policy_overflows: Counter::default(),
            policy_behind: Gauge::default(),
            auth_entries: Family::default(),
            auth_next_expiry: Gauge::default(),
            svids: Gauge::default(),
            svid_next_expiry: Gauge::default(),
            svid_rotations: Family::default(),
            identity_source_up: Gauge::default(),
            identity_source_down_since: Gauge::default(),
            policies: Gauge::default(),
            policies_refused: Gauge::default(),
            endpoints: Gauge::default(),
            encrypt_peers: Gauge::default(),
            leaks_prevented: Counter::default(),
            events_lost: Family::default(),
            flows: Family::default(),
            api_refused: Family::default(),
        };
        metrics.register_authentication();
        metrics.register_parking();
        metrics.register_datapath();
        metrics.register_state();
        metrics
    }

    fn register_authentication(&mut self) {
        let r = &mut self.registry;
        r.register("auth_handshakes", "Handshakes ended, by result", self.handshakes.clone());
        r.register_with_unit(
            "auth_handshake_duration",
            "How long handshakes that succeeded took",
            Unit::Seconds,
            self.handshake_duration.clone(),
        );
        r.register("auth_handshakes_in_flight", "Handshakes under way", self.handshakes_in_flight.clone());
        r.register("auth_entries", "Pairs of identities, by state", self.auth_entries.clone());
        r.register_with_unit(
            "auth_next_expiry",
            "Time until the first entry expires",
            Unit::Seconds,
            self.auth_next_expiry.clone(),
        );
    }

    fn register_parking(&mut self) {
        let r = &mut self.registry;
        let packets = || Unit::Other("packets".into());
        r.register_with_unit(
            "parking_parked",
            "Packets held back for a proof",
            packets(),
            self.parked.clone(),
        );
        r.register_with_unit("parking_held", "Packets held back now", packets(), self.parked_now.clone());
        r.register_with_unit("parking_released", "Packets let go on", packets(), self.released.clone());
        r.register_with_unit("parking_discarded", "Packets given up", packets(), self.discarded.clone());
    }

    fn register_datapath(&mut self) {
        let r = &mut self.registry;
        let packets = || Unit::Other("packets".into());
        r.register_with_unit("dropped", "Packets dropped, by reason", packets(), self.dropped.clone());
        r.register_with_unit("forwarded", "Packets let through", packets(), self.forwarded.clone());
        r.register(
            "audited",
            "Verdicts on flows that were let through and would be dropped if policies in audit mode were enforced",
            self.audited.clone(),
        );
        r.register_with_unit(
            "encrypt_leaks_prevented",
            "Plaintext packets of encrypted peers, dropped",
            packets(),
            self.leaks_prevented.clone(),
        );
        r.register("events_lost", "Flow events lost, by where", self.events_lost.clone());
        r.register("flows", "Flow events seen", self.flows.clone());
    }

    fn register_state(&mut self) {
        let r = &mut self.registry;
        r.register("svids", "SVIDs held", self.svids.clone());
        r.register_with_unit(
            "svid_next_expiry",
            "Time until the first SVID expires",
            Unit::Seconds,
            self.svid_next_expiry.clone(),
        );
        r.register("svid_rotations", "SVIDs fetched, by result", self.svid_rotations.clone());
        r.register(
            "identity_source_up",
            "1 while the identity source answers",
            self.identity_source_up.clone(),
        );
        r.register_with_unit(
            "identity_source_down_since",
            "When the identity source answered last, since the Unix epoch; 0 while it answers",
            Unit::Seconds,
            self.identity_source_down_since.clone(),
        );
        r.register("policy_documents", "Policy documents in force", self.policies.clone());
        r.register("policy_documents_refused", "Policy documents refused", self.policies_refused.clone());
        r.register(
            "policy_map_overflows",
            "Changes of policy that found no room in the maps",
            self.policy_overflows.clone(),
        );
        r.register(
            "policy_endpoints_behind",
            "Endpoints that keep their last good policy, because there is no room for a newer one",
            self.policy_behind.clone(),
        );
        r.register("endpoints", "Endpoints of this node", self.endpoints.clone());
        r.register("encrypt_peers", "Nodes with a verified key", self.encrypt_peers.clone());
        r.register("api_refused", "Control connections refused, by reason", self.api_refused.clone());
    }

    /// A handshake succeeded.
    pub fn handshake_ok(&self, took: Duration) {
        self.handshakes.get_or_create(&[("result", "ok")]).inc();
        self.handshake_duration.observe(took.as_secs_f64());
    }

    /// A handshake failed: `timeout`, `refused`, `untrusted`, …
    pub fn handshake_failed(&self, kind: &'static str) {
        self.handshakes.get_or_create(&[("result", kind)]).inc();
    }

    /// Handshakes under way.
    pub fn set_handshakes_in_flight(&self, count: u64) {
        self.handshakes_in_flight.set(gauge(count));
    }

    /// Packets were parked.
    pub fn parked(&self, packets: u64) {
        self.parked.inc_by(packets);
    }

    /// Packets parked now.
    pub fn set_parked_now(&self, packets: u64) {
        self.parked_now.set(gauge(packets));
    }

    /// Parked packets were let go on.
    pub fn released(&self, packets: u64) {
        self.released.inc_by(packets);
    }

    /// Parked packets were given up.
    pub fn discarded(&self, reason: &'static str, packets: u64) {
        self.discarded.get_or_create(&[("reason", reason)]).inc_by(packets);
    }

    /// What the kernel's counter says of packets dropped: number of the reason, `ingress`, `egress` or `wire`.
    pub fn set_dropped(&self, reason: u8, direction: &'static str, packets: u64) {
        let labels = [("reason", crate::reason::name(reason)), ("direction", direction)];
        raise(&self.dropped.get_or_create(&labels), packets);
    }

    /// What the kernel's counter says of packets let through.
    pub fn set_forwarded(&self, direction: &'static str, packets: u64) {
        raise(&self.forwarded.get_or_create(&[("direction", direction)]), packets);
    }

    /// What the kernel's counter says of flows that were let through in audit mode alone.
    pub fn set_audited(&self, direction: &'static str, verdicts: u64) {
        raise(&self.audited.get_or_create(&[("direction", direction)]), verdicts);
    }

    /// A change of policy found no room in the maps.
    pub fn policy_overflow(&self) {
        self.policy_overflows.inc();
    }

    /// Endpoints that keep their last good policy.
    pub fn set_policy_behind(&self, endpoints: u64) {
        self.policy_behind.set(gauge(endpoints));
    }

    /// Pairs in a state.
    pub fn set_auth_entries(&self, state: &'static str, count: u64) {
        self.auth_entries.get_or_create(&[("state", state)]).set(gauge(count));
    }

    /// Time until the first entry expires; 0 where there is none.
    pub fn set_auth_next_expiry(&self, left: Duration) {
        self.auth_next_expiry.set(left.as_secs_f64());
    }

    /// SVIDs held, and time until the first of them expires.
    pub fn set_svids(&self, count: u64, next_expiry: Duration) {
        self.svids.set(gauge(count));
        self.svid_next_expiry.set(next_expiry.as_secs_f64());
    }

    /// An SVID was fetched (`ok`) or not (why).
    pub fn svid_rotated(&self, result: &'static str) {
        self.svid_rotations.get_or_create(&[("result", result)]).inc();
    }

    /// Whether the identity source answers.
    /// Since when it does not, in Unix seconds, where that is so.
    pub fn set_identity_source_up(&self, up: bool, down_since: Option<u64>) {
        self.identity_source_up.set(i64::from(up));
        let since = down_since.map_or(0, |since| i64::try_from(since).unwrap_or(i64::MAX));
        self.identity_source_down_since.set(since);
    }

    /// Policy documents in force and refused.
    pub fn set_policies(&self, accepted: u64, refused: u64) {
        self.policies.set(gauge(accepted));
        self.policies_refused.set(gauge(refused));
    }

    /// Endpoints of this node.
    pub fn set_endpoints(&self, count: u64) {
        self.endpoints.set(gauge(count));
    }

    /// Nodes with a verified key.
    pub fn set_encrypt_peers(&self, count: u64) {
        self.encrypt_peers.set(gauge(count));
    }

    /// What the kernel's counter says of plaintext packets of encrypted peers.
    pub fn set_leaks_prevented(&self, packets: u64) {
        raise(&self.leaks_prevented, packets);
    }

    /// Flow events were lost.
    pub fn events_lost(&self, source: LossSource, count: u64) {
        self.events_lost.get_or_create(&[("source", source.as_str())]).inc_by(count);
    }

    /// A flow event came in.
    pub fn flow(&self, verdict: &'static str, event_type: &'static str) {
        self.flows.get_or_create(&[("verdict", verdict), ("type", event_type)]).inc();
    }

    /// What the control socket's counter says of connections refused.
    pub fn set_api_refused(&self, reason: &'static str, count: u64) {
        raise(&self.api_refused.get_or_create(&[("reason", reason)]), count);
    }

    /// The exposition in the OpenMetrics text format, its series in a fixed order.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => sorted(&text),
            // Writing into a string fails only if an encoder is broken; half an exposition would mislead.
            Err(std::fmt::Error) => String::from("# EOF\n"),
        }
    }
}

/// Sorts the series of each metric, which come in the order of a hash table. A histogram has one series and an
/// order of its own.
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let is_series = |line: &&str| !line.starts_with('#') && !line.contains("_bucket{");
    for run in lines.chunk_by_mut(|a, b| is_series(a) == is_series(b)) {
        if run.first().is_some_and(is_series) && !run.iter().any(|line| line.contains("_duration_seconds_")) {
            run.sort_unstable();
        }
    }
    lines.into_iter().flat_map(|line| [line, "\n"]).collect()
}

/// Counters never go down, not even when a map was made anew: such a one is shown once it has caught up.
fn raise(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
