//! Events of the datapath and of the state machine, as flow records with names.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use countersign_agent_api as api;
use countersign_auth_proto::{Change, Event as AuthEvent, Notice, Pair};
use countersign_ebpf_common::event::{Event, kind};
use countersign_ebpf_common::policy::direction;
use countersign_ebpf_common::reason;
use countersign_ebpf_loader::Events;
use countersign_flows::{
    Context, Direction, Endpoint, Filter, FilterSpec, Flow, FlowEvent, L4, PolicyName, Resolve, Verdict,
    Workload, to_flow,
};
use countersign_policy::identity::reserved_name;
use countersign_policy::model::Direction as Way;
use countersign_policy::{PolicyId, Repository};

use super::Node;
use crate::clock;
use crate::handshake::Failure;
use crate::identities::Identities;
use crate::limits;

/// Failures remembered with their details; the oldest pairs are forgotten first.
const FAILURES: usize = 4096;
/// Names kept; beyond it they are worked out anew.
const WORKLOADS: usize = 8_192;
/// Pairs with packets parked of which one is remembered: as many as the queue can hold.
const PARKED: usize = 16_384;
/// Discarded packets of one pair are recorded at most this often: nanoseconds.
const DROP_REPEAT: u64 = 1_000_000_000;

/// What is remembered of a pair's last failure.
#[derive(Clone, Debug)]
pub(super) struct LastFailure {
    pub(super) message: String,
    pub(super) at: u64,
}

/// Who is behind an identity and an address.
type Workloads = RefCell<BTreeMap<(u32, Option<IpAddr>), Arc<Workload>>>;

/// Because of which policies what nothing allows is dropped: by identity, direction, and whether audit mode counts.
type Isolating = RefCell<BTreeMap<(u32, u8, bool), Arc<[PolicyName]>>>;

/// What records need beside the event.
pub(super) struct Names {
    node: Arc<str>,
    failures: BTreeMap<Pair, LastFailure>,
    drops: BTreeMap<Pair, u64>,
    /// The packet parked last, of pairs that have packets parked.
    parked: BTreeMap<Pair, Event>,
    /// Names worked out since the cluster last changed.
    workloads: Workloads,
    isolating: Isolating,
}

impl Names {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: Arc::from(node),
            failures: BTreeMap::new(),
            drops: BTreeMap::new(),
            parked: BTreeMap::new(),
            workloads: RefCell::default(),
            isolating: RefCell::default(),
        }
    }

    pub(super) fn remember_failure(&mut self, pair: Pair, failure: &Failure) {
        let last = LastFailure { message: failure.to_string(), at: clock::unix() };
        self.failures.insert(pair.canonical(), last);
        if self.failures.len() > FAILURES {
            let oldest = self.failures.iter().min_by_key(|(_, last)| last.at).map(|(pair, _)| *pair);
            oldest.and_then(|pair| self.failures.remove(&pair));
        }
    }

    pub(super) fn forget_failure(&mut self, pair: Pair) {
        self.failures.remove(&pair.canonical());
    }

    /// The cluster has changed: names may be others'.
    pub(super) fn forget_workloads(&self) {
        self.workloads.borrow_mut().clear();
        self.isolating.borrow_mut().clear();
    }

    pub(super) fn remember_parked(&mut self, pair: Pair, event: Event) {
        if self.parked.len() < PARKED || self.parked.contains_key(&pair.canonical()) {
            self.parked.insert(pair.canonical(), event);
        }
    }

    pub(super) fn forget_parked(&mut self, pair: Pair) -> Option<Event> {
        self.parked.remove(&pair.canonical())
    }

    /// Whether the last record of a drop of the pair is a second old.
    fn may_report_drop(&mut self, pair: Pair, now: u64) -> bool {
        if self.drops.len() >= FAILURES {
            self.drops.clear();
        }
        let last = self.drops.entry(pair.canonical()).or_default();
        let may = now.saturating_sub(*last) >= DROP_REPEAT;
        if may {
            *last = now;
        }
        may
    }

    pub(super) fn failure(&self, pair: Pair) -> Option<&LastFailure> {
        self.failures.get(&pair.canonical())
    }
}

/// Names for what an event carries.
struct Resolver<'a> {
    identities: &'a Identities,
    policies: &'a Repository,
    known: &'a Workloads,
    isolating: &'a Isolating,
}

impl Resolve for Resolver<'_> {
    fn workload(&self, identity: u32, ip: Option<IpAddr>) -> Arc<Workload> {
        let mut known = self.known.borrow_mut();
        if known.len() >= WORKLOADS {
            known.clear();
        }
        Arc::clone(known.entry((identity, ip)).or_insert_with(|| self.describe(identity, ip)))
    }

    fn policies(&self, event: &Event) -> Arc<[PolicyName]> {
        let by_default =
            matches!(event.kind, kind::DROP | kind::AUDIT) && event.detail == reason::POLICY_DENIED;
        match self.policies.rule(event.rule_id) {
            Some(origin) => Arc::new([name(&origin.policy())]),
            None if by_default => self.isolating(event),
            None => Arc::new([]),
        }
    }

    fn log(&self, rule_id: u32) -> Arc<str> {
        Arc::from(self.policies.rule(rule_id).map_or("", |origin| origin.log.as_str()))
    }
}

fn name(id: &PolicyId) -> PolicyName {
    let PolicyId { kind, namespace, name } = id.clone();
    PolicyName { kind: kind.name().to_owned(), namespace, name }
}

impl Resolver<'_> {
    /// The policies because of which a packet is dropped that none of them speaks of. An answer may be what shows
    /// that a flow is not allowed any more: then they are those of the other direction.
    fn isolating(&self, event: &Event) -> Arc<[PolicyName]> {
        let as_if = event.kind == kind::AUDIT;
        let mut known = self.isolating.borrow_mut();
        if known.len() >= WORKLOADS {
            known.clear();
        }
        let key = (event.local_identity, event.direction, as_if);
        let work_out = || {
            let of = |way| self.policies.isolating(event.local_identity, way, as_if);
            let (own, other) = match event.direction {
                direction::EGRESS => (Way::Egress, Way::Ingress),
                _ => (Way::Ingress, Way::Egress),
            };
            let own = of(own);
            let names = if own.is_empty() { of(other) } else { own };
            names.iter().map(name).collect()
        };
        Arc::clone(known.entry(key).or_insert_with(work_out))
    }

    fn describe(&self, identity: u32, ip: Option<IpAddr>) -> Arc<Workload> {
        let labels = match (self.identities.labels(identity), reserved_name(identity)) {
            (Some(labels), _) => labels.to_strings(),
            (None, Some(name)) => vec![format!("reserved:{name}")],
            (None, None) => Vec::new(),
        };
        let key = ip.and_then(|ip| self.identities.pod_at(ip));
        let key = key.filter(|key| self.identities.placement(key).is_some_and(|at| at.identity == identity));
        let (namespace, pod) = key.cloned().unwrap_or_default();
        Arc::new(Workload { namespace, pod, labels })
    }
}

impl Node {
    fn resolver(&self) -> Resolver<'_> {
        Resolver {
            identities: &self.identities,
            policies: &self.policies,
            known: &self.names.workloads,
            isolating: &self.names.isolating,
        }
    }

    /// Reads what is in the ring, up to a turn's worth; says whether there may be more.
    pub(super) fn read_events(&mut self, events: &mut Events) -> bool {
        let context = self.context();
        for _ in 0..limits::EVENTS_PER_TURN {
            let Some(event) = events.next() else { return false };
            self.follow_event(&event);
            let flow = to_flow(&event, &context, &self.resolver());
            self.metrics.flow(flow.verdict.as_str(), flow.event_type);
            self.flows.push(flow);
        }
        true
    }

    /// A packet that misses its proof and was not parked is asked for here.
    fn follow_event(&mut self, event: &Event) {
        let asks = matches!(event.kind, kind::AUTH_REQUIRED | kind::PROOF_ENDED);
        if !asks || matches!(event.detail, reason::PARKED | reason::AUTH_BACKOFF | reason::AUTH_IMPOSSIBLE) {
            return;
        }
        let remote_ip = super::park::remote_address(event);
        let pair = Pair::new(event.local_identity, event.remote_identity, event.node);
        self.machine.handle(AuthEvent::Missing { pair, remote_ip }, clock::boot_ns());
    }

    /// A state change of a pair, as a record: `observe` says why something does not work.
    pub(super) fn record(&mut self, notice: Notice) {
        let (verdict, event_type, summary) = match notice.change {
            Change::Proved { took, inbound, renewal, .. } => {
                let how = if renewal { "proved again" } else { "proved" };
                let who = if inbound { "by the peer" } else { "by this node" };
                let ms = std::time::Duration::from_nanos(took).as_secs_f64() * 1000.0;
                (Verdict::Traced, "authenticated", format!("{how} {who} in {ms:.1} ms"))
            }
            Change::Failed { why, attempts, .. } => {
                let known = self.names.failure(notice.pair).map(|last| last.message.clone());
                let reason = known.unwrap_or_else(|| why.as_str().to_owned());
                (Verdict::Error, "auth-failed", format!("handshake failed ({attempts} in a row): {reason}"))
            }
            Change::Removed(why) => {
                (Verdict::Traced, "revoked", format!("proof withdrawn: {}", why.as_str()))
            }
        };
        let flow = self.pair_flow(notice.pair, verdict, event_type, summary);
        self.flows.push(flow);
    }

    /// Packets that came while their pair backs off are dropped: as a record, once a second for a pair. The
    /// counters have all of them.
    pub(super) fn record_drop(&mut self, pair: Pair, mut event: Event, frames: u64) {
        let now = clock::boot_ns();
        if !self.names.may_report_drop(pair, now) {
            return;
        }
        event.time = now;
        event.suppressed = u32::try_from(frames.saturating_sub(1)).unwrap_or(u32::MAX);
        let flow = to_flow(&event, &self.context(), &self.resolver());
        self.flows.push(flow);
    }

    /// Packets that had waited for a proof are dropped; the last of them stands for all.
    pub(super) fn record_parked_drop(&mut self, pair: Pair, frames: u64) {
        if let Some(event) = self.names.forget_parked(pair) {
            self.record_drop(pair, event, frames);
        }
    }

    fn context(&self) -> Context {
        Context {
            node: Arc::clone(&self.names.node),
            boot_to_unix_ns: clock::unix_ns().saturating_sub(clock::boot_ns()),
        }
    }

    /// A record about a pair rather than about a packet.
    fn pair_flow(&self, pair: Pair, verdict: Verdict, event_type: &'static str, summary: String) -> Flow {
        let resolver = self.resolver();
        let side = |identity| Endpoint { identity, workload: resolver.workload(identity, None), ip: None };
        Flow {
            time: clock::unix_ns(),
            node: Arc::clone(&self.names.node),
            direction: Direction::Unknown,
            verdict,
            drop_reason: 0,
            drop_reason_desc: "",
            drop_detail: "",
            drop_text: "",
            auth_type: "SPIRE",
            source: side(pair.local),
            destination: side(pair.remote),
            l4: L4::default(),
            policies: Arc::from([]),
            policy_log: Arc::from(""),
            event_type,
            summary,
            suppressed: 0,
            suppressed_other: 0,
            is_reply: None,
        }
    }

    /// Past flows, and new ones as long as the client stays.
    pub(super) fn observe(&mut self, request: &api::ObserveRequest, mut responder: api::Responder) {
        let filter = match Filter::parse(&spec(&request.filter)) {
            Ok(filter) => filter,
            Err(error) => {
                let bad = api::Error::new(api::ErrorKind::BadRequest, error.to_string());
                return super::answers::refuse(responder, bad);
            }
        };
        let past = self.flows.last(request.last as usize, &filter);
        let mut following = None;
        if request.follow {
            match self.flows.subscribe(filter) {
                Ok(subscription) => following = Some(subscription),
                Err(error) => {
                    let full = api::Error::new(api::ErrorKind::Overloaded, error.to_string());
                    return super::answers::refuse(responder, full);
                }
            }
        }
        tokio::spawn(async move {
            for flow in past {
                if responder.item(&FlowEvent::Flow(flow)).await.is_err() {
                    return;
                }
            }
            while let Some(subscription) = &mut following {
                let event = tokio::select! {
                    event = subscription.next() => event,
                    () = responder.closed() => return,
                };
                let Some(event) = event else { break };
                if responder.item(&event).await.is_err() {
                    return;
                }
            }
            drop(responder.end().await);
        });
    }
}

fn spec(filter: &api::FlowFilter) -> FilterSpec {
    let api::FlowFilter {
        namespace,
        pod,
        from_pod,
        to_pod,
        identity,
        verdict,
        drop_reason,
        protocol,
        port,
        ip,
        policy,
        direction,
    } = filter.clone();
    FilterSpec {
        namespace,
        pod,
        from_pod,
        to_pod,
        identity,
        verdict,
        drop_reason,
        protocol,
        port,
        ip,
        policy,
        direction,
    }
}
