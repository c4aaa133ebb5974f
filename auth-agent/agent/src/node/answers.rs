//! Answers on the control socket.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_agent_api as api;
use countersign_auth_proto::{Event, PairState, PairStatus};
use countersign_ebpf_common::metrics as counters;
use countersign_ebpf_common::policy::auth_type;
use countersign_ebpf_common::reason;
use countersign_ebpf_loader::AttachMode;
use countersign_flows::LossSource;
use countersign_policy::EndpointPolicy;
use countersign_policy::identity::reserved;
use countersign_wg_proto::{Known, PublicKey, TunnelId};
use serde::Serialize;

use super::policy::mode_name;
use super::{Node, Request};
use crate::clock;
use crate::config::{EnablePolicy, Switch};
use crate::endpoints::Endpoint;

/// Answers with one value.
pub(super) fn reply<T: Serialize + Send + Sync + 'static>(responder: api::Responder, value: T) {
    // A client that has gone needs no answer.
    tokio::spawn(async move { drop(responder.reply(&value).await) });
}

fn list<T: Serialize + Send + Sync + 'static>(responder: api::Responder, items: Vec<T>) {
    tokio::spawn(async move { drop(responder.list(&items).await) });
}

pub(super) fn refuse(responder: api::Responder, error: api::Error) {
    tokio::spawn(async move { drop(responder.error(error).await) });
}

impl Node {
    /// Answers one request, now or when what it waits for has come.
    pub(super) fn answer(&mut self, request: Request) {
        let api::Connection { request, responder } = request;
        match request {
            api::Request::Status => reply(responder, self.status()),
            api::Request::EncryptStatus => self.encrypt_status(responder),
            api::Request::RotateKey => self.begin_rotation(Some(responder)),
            api::Request::SpireStatus => reply(responder, self.spire_status()),
            api::Request::AuthList => list(responder, self.auth_list()),
            api::Request::AuthFlush => reply(responder, self.flush()),
            api::Request::IdentityList => list(responder, self.identity_list()),
            api::Request::EndpointList => list(responder, self.endpoint_list()),
            api::Request::EndpointAdd(spec) => self.add_endpoint(spec, responder),
            api::Request::EndpointRemove(of) => {
                self.remove_endpoint(&(of.namespace, of.name));
                reply(responder, api::Done {});
            }
            api::Request::PolicyGet => reply(responder, self.policy_view()),
            api::Request::PolicyExplain(flow) => match self.explain(&flow) {
                Ok(explanation) => reply(responder, explanation),
                Err(error) => refuse(responder, error),
            },
            api::Request::Observe(observe) => self.observe(&observe, responder),
            api::Request::Metrics => {
                let text = self.exposition();
                reply(responder, api::Metrics { text });
            }
            api::Request::IpcacheList => list(responder, self.ipcache_list()),
        }
    }

    fn flush(&mut self) -> api::AuthFlushed {
        let removed = self.datapath.auth_entries().len() as u64;
        self.machine.handle(Event::Flush, clock::boot_ns());
        self.act();
        for (key, _) in self.datapath.backoffs() {
            drop(self.datapath.backoff_clear(&key));
        }
        api::AuthFlushed { removed }
    }

    fn auth_list(&self) -> Vec<api::AuthEntry> {
        self.machine.pairs(&self.parking).map(|status| self.auth_entry(&status)).collect()
    }

    fn auth_entry(&self, status: &PairStatus) -> api::AuthEntry {
        let now = clock::boot_ns();
        let left = |at: u64| Duration::from_nanos(at.saturating_sub(now));
        let labels = |identity| self.identities.labels(identity).map(|l| l.to_strings()).unwrap_or_default();
        let id = |identity| self.spiffe_id(identity).map(|id| id.to_string()).unwrap_or_default();
        let node = self.node_ids.name(status.pair.node).unwrap_or_default().to_owned();
        let failure = self.names.failure(status.pair);
        let last_error = status.last_error.map(|kind| api::LastError {
            kind: kind.as_str().to_owned(),
            message: failure.map_or_else(|| kind.as_str().to_owned(), |last| last.message.clone()),
            ago_seconds: failure.map_or(0, |last| clock::unix().saturating_sub(last.at)),
        });
        api::AuthEntry {
            local_identity: status.pair.local,
            local_labels: labels(status.pair.local),
            local_spiffe_id: id(status.pair.local),
            remote_identity: status.pair.remote,
            remote_labels: labels(status.pair.remote),
            remote_spiffe_id: id(status.pair.remote),
            peer_address: self.world.nodes.get(&node).and_then(|node| node.internal_ips.first().copied()),
            peer_node: node,
            auth_type: "spire".to_owned(),
            state: state(status.state),
            expires_at: status.expires_at.map(|at| clock::unix() + left(at).as_secs()),
            expires_in_seconds: status.expires_at.map(|at| left(at).as_secs()),
            handshake_ms: status.last_handshake.map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1000.0),
            retry_in_seconds: status.retry_at.map(|at| left(at).as_secs_f64()),
            last_error,
            parked: status.parked as u64,
        }
    }

    fn identity_list(&self) -> Vec<api::IdentityEntry> {
        let entry = |id: u32, labels: Vec<String>, spiffe_id: String| api::IdentityEntry {
            id,
            labels,
            spiffe_id,
            local_endpoints: self.endpoints.slots_of_identity(id).count() as u64,
            svid_expiry: self.svids.expiry(id),
        };
        let known = self.policies.identities();
        known
            .map(|(id, labels)| {
                let pod = countersign_policy::identity::is_pod(id);
                let spiffe_id =
                    self.spiffe_id(id).filter(|_| pod).map(|id| id.to_string()).unwrap_or_default();
                entry(id, labels.to_strings(), spiffe_id)
            })
            .collect()
    }

    fn endpoint_list(&self) -> Vec<api::EndpointEntry> {
        self.endpoints.iter().map(|endpoint| self.endpoint_entry(endpoint)).collect()
    }

    fn endpoint_entry(&self, endpoint: &Endpoint) -> api::EndpointEntry {
        let spec = &endpoint.saved.spec;
        let svid_error = match (endpoint.registered, self.svids.expiry(endpoint.identity)) {
            (false, _) => {
                Some("the pod is not registered (annotation countersign.dev/svid: none)".to_owned())
            }
            (true, None) if self.lacks_svid(endpoint) => Some(self.why_no_svid(endpoint)),
            // No policy asks it for one.
            (true, None) => None,
            (true, Some(_)) => None,
        };
        api::EndpointEntry {
            id: endpoint.saved.slot,
            namespace: spec.namespace.clone(),
            pod: spec.name.clone(),
            identity: endpoint.identity,
            labels: self.identities.labels(endpoint.identity).map(|l| l.to_strings()).unwrap_or_default(),
            ipv4: spec
                .ips
                .iter()
                .find_map(|ip| if let std::net::IpAddr::V4(ip) = ip { Some(*ip) } else { None }),
            ipv6: spec
                .ips
                .iter()
                .find_map(|ip| if let std::net::IpAddr::V6(ip) = ip { Some(*ip) } else { None }),
            mac: spec.mac.clone(),
            interface: spec.interface.clone(),
            ingress_enforced: endpoint.policy.ingress_enforced,
            egress_enforced: endpoint.policy.egress_enforced,
            ingress_audited: audits(endpoint, |policy| policy.ingress_enforced),
            egress_audited: audits(endpoint, |policy| policy.egress_enforced),
            mode: mode_name(endpoint.audited).to_owned(),
            auth_required: !endpoint.policy.required_peers().is_empty(),
            state: endpoint_state(endpoint).to_owned(),
            svid_expiry: if endpoint.registered { self.svids.expiry(endpoint.identity) } else { None },
            svid_error,
        }
    }

    fn ipcache_list(&self) -> Vec<api::IpcacheEntry> {
        use countersign_ebpf_common::ipcache::flag;
        let all = self.addresses.known.iter();
        all.map(|(net, entry)| api::IpcacheEntry {
            address: net.network(),
            prefix_len: net.prefix_len(),
            identity: entry.identity,
            node: self.node_ids.name(entry.node).unwrap_or_default().to_owned(),
            encrypted: entry.has(flag::ENCRYPTED),
            local: entry.has(flag::LOCAL),
        })
        .collect()
    }

    fn status(&self) -> api::Status {
        let reasons = self.degradations();
        let state = if reasons.is_empty() { api::HealthState::Ok } else { api::HealthState::Degraded };
        let problems = self.world.problems.values().flatten();
        let refused = self.world.problems.len() as u64;
        api::Status {
            node: self.config.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            health: api::Health { state, reasons },
            identity_source: self.identity_source(),
            cluster: api::ClusterSource {
                kind: "directory".to_owned(),
                location: self.config.manifests.display().to_string(),
                synced: self.world.synced,
                objects: BTreeMap::from([
                    ("pods".to_owned(), self.world.pods.len() as u64),
                    ("namespaces".to_owned(), self.world.namespaces.len() as u64),
                    ("nodes".to_owned(), self.world.nodes.len() as u64),
                    ("policies".to_owned(), self.policies.policies().count() as u64),
                ]),
                problems: problems.map(problem).collect(),
            },
            datapath: self.datapath_status(),
            parking: self.parking_status(),
            authentication: self.authentication(),
            encryption: api::EncryptSummary {
                mode: "Wireguard".to_owned(),
                device: self.config.wireguard_device.clone(),
                listen_port: self.config.wireguard_port,
                public_key: self.encryption.manager.public_key().to_string(),
                peers: (self.world.nodes.len().saturating_sub(1 + self.encryption.troubles().len())) as u64,
                leaks_prevented: self.leaks_prevented(),
            },
            endpoints: self.endpoints.iter().fold(BTreeMap::new(), |mut states, endpoint| {
                *states.entry(endpoint_state(endpoint).to_owned()).or_default() += 1;
                states
            }),
            policies: api::PolicyCounts { accepted: self.policies.policies().count() as u64, refused },
            policy_mode: self.policy_mode(),
            events_lost: BTreeMap::from([
                (LossSource::RingBuffer.as_str().to_owned(), self.flows.stats().lost_in_kernel),
                (LossSource::Subscriber.as_str().to_owned(), self.flows.stats().lost_by_subscribers),
            ]),
        }
    }

    /// What is not as it should be, the worst first.
    fn degradations(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.world.synced {
            reasons.push(
                "the cluster is not known yet: endpoints keep what they had, new ones stay closed".into(),
            );
        }
        if self.servers.is_empty() {
            reasons.push(
                "no handshake is accepted: this node's InternalIP is not known, or the port is taken".into(),
            );
        }
        if self.encryption.watched.is_empty() {
            let device = &self.config.wireguard_device;
            reasons.push(format!(
                "{device} is not there: no pod traffic leaves this node (`countersign encrypt status` says why)"
            ));
        }
        if let Some((since, why)) = self.svids.source().down() {
            let span = clock::unix().saturating_sub(since);
            reasons.push(format!("the identity source has been away for {span} s: {why}"));
        }
        if self.svids.node_svid().is_none() {
            reasons.push("this node has no SVID: its WireGuard key is not announced".into());
        }
        for (node, why) in &self.encryption.troubles() {
            reasons.push(if self.encryption.is_reachable(node) {
                format!("node {node} is spoken to under its last good key: {why}")
            } else {
                format!("pods of node {node} are unreachable: {why}")
            });
        }
        for endpoint in self.endpoints.iter() {
            let spec = &endpoint.saved.spec;
            let pod = format!("{}/{}", spec.namespace, spec.name);
            if let Some(behind) = &endpoint.behind {
                let offender = behind.offender.as_ref().map_or(String::new(), |(id, _)| format!("{id}: "));
                reasons.push(format!("{pod} keeps its last good policy: {offender}{}", behind.why));
            }
            if let Some(behind) = &endpoint.audit_behind {
                reasons.push(format!("what audit mode lets through at {pod} is not said: {}", behind.why));
            }
        }
        for problem in self.world.problems.values().flatten() {
            reasons.push(format!("refused: {problem}"));
        }
        reasons
    }

    fn policy_mode(&self) -> api::PolicyMode {
        let enforcement = match self.config.enable_policy {
            EnablePolicy::Default => "default",
            EnablePolicy::Always => "always",
            EnablePolicy::Never => "never",
        };
        let audited = self.endpoints.iter().filter(|endpoint| endpoint.audited);
        let ids = self.policies.policies().map(|policy| &policy.id);
        let namespaces = self.world.namespaces.values().filter(|namespace| namespace.is_audited());
        api::PolicyMode {
            enforcement: enforcement.to_owned(),
            audit_all: self.config.policy_audit_mode == Switch::On,
            audited_endpoints: audited
                .map(|endpoint| format!("{}/{}", endpoint.saved.spec.namespace, endpoint.saved.spec.name))
                .collect(),
            audited_namespaces: namespaces.map(|namespace| namespace.name.clone()).collect(),
            audited_policies: ids
                .filter(|id| self.policies.is_policy_audited(id))
                .map(ToString::to_string)
                .collect(),
        }
    }

    fn identity_source(&self) -> api::IdentitySource {
        let all_held = !self.endpoints.iter().any(|endpoint| self.lacks_svid(endpoint));
        let source = self.svids.source();
        let down = source.down();
        let fine = self.svids.bundle().is_some() && all_held && down.is_none();
        api::IdentitySource {
            kind: self.source_kind().to_owned(),
            trust_domain: self.svids.domain().to_string(),
            state: if fine { api::SourceState::Ok } else { api::SourceState::Failing },
            since: down.map_or_else(|| self.svids.since(), |(since, _)| since),
            svids_held: self.svids.held().count() as u64,
            next_expiry: self.svids.held().map(|(_, svid)| svid.not_after()).min(),
            last_error: down.map(|(since, why)| api::LastError {
                kind: "unreachable".to_owned(),
                message: why.to_owned(),
                ago_seconds: clock::unix().saturating_sub(since),
            }),
        }
    }

    fn datapath_status(&self) -> api::Datapath {
        let maps = self.datapath.usage();
        api::Datapath {
            attach_mode: self.datapath.attached().next().map_or("none", AttachMode::as_str).to_owned(),
            programs: self.datapath.attached().count() as u64,
            maps: maps
                .into_iter()
                .map(|usage| api::MapUse {
                    name: usage.map.to_owned(),
                    entries: Some(usage.entries as u64),
                    max_entries: self.capacity(usage.map).into(),
                })
                .collect(),
        }
    }

    /// How many entries a map of the datapath has room for.
    fn capacity(&self, map: &str) -> u32 {
        use countersign_ebpf_common::limits::{AUTH_ENTRIES, BOUND_ENTRIES, CT_ENTRIES, IP_ENTRIES, SLOTS};
        match map {
            "cs_auth" => AUTH_ENTRIES,
            "cs_bound4" | "cs_bound6" => BOUND_ENTRIES,
            "cs_ct4" | "cs_ct6" => CT_ENTRIES,
            "cs_ip4" | "cs_ip6" => IP_ENTRIES,
            "cs_policy" => self.datapath.policy_room().0,
            "cs_policy_lpm" => self.datapath.policy_room().1,
            _ => SLOTS,
        }
    }

    fn parking_status(&self) -> api::Parking {
        let total = self.parking.total();
        let reasons = self.discarded.iter().map(|(reason, count)| ((*reason).to_owned(), *count));
        api::Parking {
            enabled: self.config.parking == Switch::On,
            parked_packets: total.frames,
            parked_bytes: total.bytes,
            released: self.parking.counters().released.frames,
            discarded: reasons.collect(),
        }
    }

    fn authentication(&self) -> api::Authentication {
        let mut pairs: BTreeMap<api::AuthState, u64> = BTreeMap::new();
        for status in self.machine.pairs(&self.parking) {
            *pairs.entry(state(status.state)).or_default() += 1;
        }
        let ms = |q| self.latency.quantile(q).map(|took| took.as_secs_f64() * 1000.0);
        let failed = self.handshake_failures.iter().map(|(kind, count)| ((*kind).to_owned(), *count));
        api::Authentication {
            pairs,
            handshakes_ok: self.handshakes_ok,
            handshakes_failed: failed.collect(),
            in_flight: self.machine.summary().in_flight as u64,
            latency_p50_ms: ms(0.5),
            latency_p99_ms: ms(0.99),
        }
    }

    fn leaks_prevented(&self) -> u64 {
        let rows = self.datapath.metrics().unwrap_or_default();
        let leaks = rows.iter().filter(|row| row.reason == reason::UNENCRYPTED_TRAFFIC);
        leaks.map(|row| row.counter.packets).sum()
    }

    fn encrypt_status(&self, responder: api::Responder) {
        let manager = self.encryption.manager.clone();
        let troubles = self.encryption.troubles().into_iter();
        let troubles: BTreeMap<String, (String, bool)> = troubles
            .map(|(node, why)| {
                let is_reachable = self.encryption.is_reachable(&node);
                (node, (why, is_reachable))
            })
            .collect();
        let agreed = self.agreed_keys();
        let node = self.config.node_name.clone();
        let leaks_prevented = self.leaks_prevented();
        let unset = self.encryption.watched.is_empty();
        let rotation = self.key_rotation();
        tokio::spawn(async move {
            let status = match manager.status().await {
                Ok(status) => status,
                Err(error) => {
                    let error = api::Error::new(api::ErrorKind::Internal, error.to_string());
                    return drop(responder.error(error).await);
                }
            };
            let shown = status.peers.iter().map(|of| {
                let preshared = agreed.get(&(of.device.clone(), of.public_key));
                peer(of, preshared.copied())
            });
            let mut peers: Vec<api::EncryptPeer> = shown.collect();
            for (node, (why, is_reachable)) in troubles {
                peers.retain(|peer| peer.node != node || is_reachable);
                let shown = peers.iter_mut().filter(|peer| peer.node == node);
                let shown = shown.map(|peer| peer.error = Some(why.clone())).count();
                if shown == 0 {
                    peers.push(api::EncryptPeer { node, error: Some(why), ..api::EncryptPeer::default() });
                }
            }
            let mut errors = status.errors;
            if unset && errors.is_empty() {
                errors.push(format!("{} is not there", status.device));
            }
            let answer = api::EncryptStatus {
                node,
                mode: "Wireguard".to_owned(),
                device: status.device,
                backend: status.backend.to_string(),
                listen_port: status.listen_port,
                public_key: status.public_key.map(|key| key.to_string()).unwrap_or_default(),
                peers,
                errors,
                leaks_prevented,
                rotation,
            };
            drop(responder.reply(&answer).await);
        });
    }

    /// By device and peer.
    fn agreed_keys(&self) -> BTreeMap<(String, PublicKey), api::PresharedKey> {
        let (unix, boot) = (clock::unix(), clock::boot_ns());
        let shown = |key: &countersign_wg_proto::InForce| api::PresharedKey {
            since: unix.saturating_sub(boot.saturating_sub(key.since) / 1_000_000_000),
            until: clock::unix_at_boot(key.until),
            post_quantum: key.post_quantum,
        };
        let device = |tunnel: &TunnelId| {
            let slot = self.encryption.slot_of(tunnel)?;
            self.encryption.devices.iter().find(|(of, _)| *of == slot).map(|(_, name)| name.clone())
        };
        let agreed = self.encryption.agreements.agreed();
        agreed.filter_map(|(of, key)| Some(((device(of)?, of.peer), shown(key)))).collect()
    }

    fn exposition(&mut self) -> String {
        for row in self.datapath.metrics().unwrap_or_default() {
            let direction = match row.direction {
                counters::INGRESS => "ingress",
                counters::EGRESS => "egress",
                _ => "wire",
            };
            match row.reason {
                reason::FORWARDED => self.metrics.set_forwarded(direction, row.counter.packets),
                reason::AUDITED => self.metrics.set_audited(direction, row.counter.packets),
                reason => self.metrics.set_dropped(reason, direction, row.counter.packets),
            }
        }
        let mut states: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut next_expiry = u64::MAX;
        for status in self.machine.pairs(&self.parking) {
            *states.entry(state(status.state).as_str()).or_default() += 1;
            next_expiry = next_expiry.min(status.expires_at.unwrap_or(u64::MAX));
        }
        for name in ["pending", "handshaking", "authenticated", "renewing", "failed"] {
            self.metrics.set_auth_entries(name, states.get(name).copied().unwrap_or(0));
        }
        if next_expiry < u64::MAX {
            self.metrics
                .set_auth_next_expiry(Duration::from_nanos(next_expiry.saturating_sub(clock::boot_ns())));
        }
        let expiry = self.svids.held().map(|(_, svid)| svid.not_after()).min().unwrap_or(0);
        let left = Duration::from_secs(expiry.saturating_sub(clock::unix()));
        self.metrics.set_svids(self.svids.held().count() as u64, left);
        let down_since = self.svids.source().down().map(|(since, _)| since);
        let is_up = self.svids.bundle().is_some() && down_since.is_none();
        self.metrics.set_identity_source_up(is_up, down_since);
        self.metrics.set_handshakes_in_flight(self.machine.summary().in_flight as u64);
        self.metrics.set_parked_now(self.parking.total().frames);
        let accepted = self.policies.policies().count() as u64;
        self.metrics.set_policies(accepted, self.world.problems.len() as u64);
        self.metrics.set_endpoints(self.endpoints.iter().count() as u64);
        let behind = self.endpoints.iter().filter(|endpoint| endpoint.behind.is_some()).count();
        self.metrics.set_policy_behind(behind as u64);
        self.metrics.set_encrypt_peers(self.addresses.of_nodes.len().saturating_sub(1) as u64);
        self.metrics.set_leaks_prevented(self.leaks_prevented());
        self.metrics.render()
    }
}

/// Whether the second verdict denies by default where the one that is enforced does not.
fn audits(endpoint: &Endpoint, enforced: impl Fn(&EndpointPolicy) -> bool) -> bool {
    endpoint.audit.as_ref().is_some_and(&enforced) && !enforced(&endpoint.policy)
}

fn state(of: PairState) -> api::AuthState {
    match of {
        PairState::Queued => api::AuthState::Pending,
        PairState::Proving => api::AuthState::Handshaking,
        PairState::Live | PairState::RenewalFailed => api::AuthState::Authenticated,
        PairState::Renewing => api::AuthState::Renewing,
        PairState::Failed => api::AuthState::Failed,
    }
}

fn endpoint_state(endpoint: &Endpoint) -> &'static str {
    if endpoint.behind.is_some() {
        "policy-not-applied"
    } else if endpoint.identity == reserved::INIT {
        "waiting-for-identity"
    } else {
        "ready"
    }
}

pub(super) fn auth_name(of: u8) -> &'static str {
    match of {
        auth_type::SPIRE => "required",
        auth_type::ALWAYS_FAIL => "test-always-fail",
        _ => "none",
    }
}

pub(super) fn protocol(number: u8, bits: u8) -> String {
    if bits < countersign_ebpf_common::policy::PREFIX_PROTOCOL {
        return "ANY".to_owned();
    }
    countersign_flows::Protocol(number).to_string()
}

fn problem(of: &countersign_cluster::Problem) -> api::Problem {
    api::Problem {
        file: of.file.display().to_string(),
        line: of.line.unwrap_or(0).into(),
        field: of.field.clone(),
        message: of.message.clone(),
    }
}

fn peer(of: &countersign_wg_manager::PeerStatus, preshared: Option<api::PresharedKey>) -> api::EncryptPeer {
    api::EncryptPeer {
        node: of.node.clone(),
        public_key: of.public_key.to_string(),
        device: of.device.clone(),
        endpoint: of.endpoint.map(|at| at.to_string()).unwrap_or_default(),
        allowed_ips: of.allowed_ips.iter().map(ToString::to_string).collect(),
        last_handshake: of.last_handshake_unix,
        rx_bytes: of.rx_bytes,
        tx_bytes: of.tx_bytes,
        attested_by: of.attested_by.clone(),
        attested_until: Some(of.attested_until),
        preshared,
        path: of
            .path
            .map(|path| api::PathMtu { mtu: path.mtu, probed: matches!(path.known, Known::Takes(_)) }),
        error: None,
    }
}
