//! The maps, typed. Every method is one kind of record.

use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, IterableMap, LpmTrie, Map, MapData, MapError, PerCpuArray};
use countersign_ebpf_common::addr::{V4, V6};
use countersign_ebpf_common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_common::config::Config;
use countersign_ebpf_common::ct::{CtEntry, CtKey, CtKey4};
use countersign_ebpf_common::endpoint::{Endpoint, Epochs};
use countersign_ebpf_common::ipcache::IpEntry;
use countersign_ebpf_common::metrics::{self, Counter};
use countersign_ebpf_common::park::{Pending, PendingKey};
use countersign_ebpf_common::policy::{PolicyEntry, PolicyKey};
use ipnet::IpNet;

use crate::error::{Error, LoadError};
use crate::plain::P;
use crate::policy::{PolicyOp, PolicyTable};

type Hash<K, V> = HashMap<MapData, K, V>;
type Trie<K, V> = LpmTrie<MapData, K, V>;

/// One counter, summed over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricRow {
    /// [`metrics::INGRESS`], [`metrics::EGRESS`] or [`metrics::WIRE`].
    pub direction: u8,
    /// One of [`countersign_ebpf_common::reason`]; 0 is forwarded.
    pub reason: u8,
    /// The counts.
    pub counter: Counter,
}

/// One flow of the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// 4 or 6.
    pub family: u8,
    /// Who and what.
    pub key: CtKey,
    /// State and verdict.
    pub entry: CtEntry,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The table.
    pub map: &'static str,
    /// Entries in it.
    pub entries: usize,
}

/// All maps that user space works with.
pub(crate) struct Tables {
    config: Array<MapData, P<Config>>,
    endpoints: Hash<u32, P<Endpoint>>,
    slots: Array<MapData, P<Endpoint>>,
    epochs: Array<MapData, P<Epochs>>,
    ip4: Hash<[u8; 4], P<IpEntry>>,
    ip6: Hash<[u8; 16], P<IpEntry>>,
    cidr4: Trie<[u8; 4], P<IpEntry>>,
    cidr6: Trie<[u8; 16], P<IpEntry>>,
    policy: Hash<P<PolicyKey>, P<PolicyEntry>>,
    policy_lpm: Trie<P<PolicyKey>, P<PolicyEntry>>,
    auth: Hash<P<AuthKey>, P<AuthValue>>,
    backoff: Hash<P<AuthKey>, u64>,
    pending: Hash<P<PendingKey>, P<Pending>>,
    returned: Hash<P<PendingKey>, u64>,
    bound4: Hash<[u8; 4], P<Bound>>,
    bound6: Hash<[u8; 16], P<Bound>>,
    ct4: Hash<P<CtKey4>, P<CtEntry>>,
    ct6: Hash<P<CtKey>, P<CtEntry>>,
    metrics: PerCpuArray<MapData, P<Counter>>,
    /// Room in `policy` and `policy_lpm`: that of a pinned map is not what was asked for.
    pub(crate) policy_room: (u32, u32),
}

/// Bytes of key and value of the maps that are pinned.
pub(crate) fn shape(map: &str) -> Option<(u32, u32)> {
    let (key, value) = match map {
        "cs_config" => (4, size_of::<Config>()),
        "cs_endpoints" | "cs_slots" => (4, size_of::<Endpoint>()),
        "cs_epochs" => (4, size_of::<Epochs>()),
        "cs_ip4" => (4, size_of::<IpEntry>()),
        "cs_ip6" => (16, size_of::<IpEntry>()),
        "cs_cidr4" => (8, size_of::<IpEntry>()),
        "cs_cidr6" => (20, size_of::<IpEntry>()),
        "cs_policy" => (size_of::<PolicyKey>(), size_of::<PolicyEntry>()),
        "cs_policy_lpm" => (4 + size_of::<PolicyKey>(), size_of::<PolicyEntry>()),
        "cs_auth" => (size_of::<AuthKey>(), size_of::<AuthValue>()),
        "cs_backoff" => (size_of::<AuthKey>(), 8),
        "cs_pending" => (size_of::<PendingKey>(), size_of::<Pending>()),
        "cs_returned" => (size_of::<PendingKey>(), 8),
        "cs_bound4" => (4, size_of::<Bound>()),
        "cs_bound6" => (16, size_of::<Bound>()),
        "cs_ct4" => (size_of::<CtKey4>(), size_of::<CtEntry>()),
        "cs_ct6" => (size_of::<CtKey>(), size_of::<CtEntry>()),
        "cs_metrics" => (4, size_of::<Counter>()),
        _ => return None,
    };
    Some((key as u32, value as u32))
}

/// What is behind a map of one of the kinds we use.
pub(crate) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(bpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    let map = bpf.take_map(name).ok_or(LoadError::Missing(name))?;
    Ok(map.try_into()?)
}

fn room(bpf: &Ebpf, name: &'static str) -> Result<u32, LoadError> {
    let map = bpf.map(name).and_then(data).ok_or(LoadError::Missing(name))?;
    Ok(map.info()?.max_entries())
}

fn failed(map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| match os_error(&source) {
        Some(libc::E2BIG | libc::ENOSPC) => Error::Full(map),
        _ => Error::Map { map, source: Box::new(source) },
    }
}

fn os_error(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Removing what is not there is no failure: `false`.
fn removed(map: &'static str, result: Result<(), MapError>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(false),
        Err(error) if os_error(&error) == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(failed(map)(error)),
    }
}

/// Entries of a table. One that is deleted while we walk is left out; the kernel may start a walk again from
/// the beginning when that happens, so keys can repeat: callers collect into what tolerates it.
fn entries<K, V, M>(map: &M) -> impl Iterator<Item = (K, V)> + use<'_, K, V, M>
where
    K: aya::Pod,
    M: IterableMap<K, V>,
    for<'a> &'a M: IntoIterator<Item = Result<(K, V), MapError>>,
{
    map.into_iter().filter_map(Result::ok)
}

impl Tables {
    pub(crate) fn take(bpf: &mut Ebpf) -> Result<Self, LoadError> {
        let policy_room = (room(bpf, "cs_policy")?, room(bpf, "cs_policy_lpm")?);
        Ok(Self {
            policy_room,
            config: take(bpf, "cs_config")?,
            endpoints: take(bpf, "cs_endpoints")?,
            slots: take(bpf, "cs_slots")?,
            epochs: take(bpf, "cs_epochs")?,
            ip4: take(bpf, "cs_ip4")?,
            ip6: take(bpf, "cs_ip6")?,
            cidr4: take(bpf, "cs_cidr4")?,
            cidr6: take(bpf, "cs_cidr6")?,
            policy: take(bpf, "cs_policy")?,
            policy_lpm: take(bpf, "cs_policy_lpm")?,
            auth: take(bpf, "cs_auth")?,
            backoff: take(bpf, "cs_backoff")?,
            pending: take(bpf, "cs_pending")?,
            returned: take(bpf, "cs_returned")?,
            bound4: take(bpf, "cs_bound4")?,
            bound6: take(bpf, "cs_bound6")?,
            ct4: take(bpf, "cs_ct4")?,
            ct6: take(bpf, "cs_ct6")?,
            metrics: take(bpf, "cs_metrics")?,
        })
    }

    pub(crate) fn config(&self) -> Result<Config, Error> {
        self.config.get(&0, 0).map(|P(config)| config).map_err(failed("cs_config"))
    }

    pub(crate) fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        self.config.set(0, P(*config), 0).map_err(failed("cs_config"))
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let mut all: Vec<_> = entries(&self.endpoints).map(|(_, P(endpoint)): (u32, _)| endpoint).collect();
        all.sort_by_key(|endpoint| endpoint.slot);
        all.dedup();
        all
    }

    /// The slot's record first: a frame that comes back from parking finds it when the endpoint is there.
    pub(crate) fn put_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        self.slots.set(endpoint.slot.into(), P(*endpoint), 0).map_err(failed("cs_slots"))?;
        self.endpoints.insert(endpoint.ifindex, P(*endpoint), 0).map_err(failed("cs_endpoints"))
    }

    pub(crate) fn remove_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        removed("cs_endpoints", self.endpoints.remove(&endpoint.ifindex))?;
        self.slots.set(endpoint.slot.into(), P(Endpoint::default()), 0).map_err(failed("cs_slots"))
    }

    pub(crate) fn epochs(&self, slot: u16) -> Result<Epochs, Error> {
        self.epochs.get(&slot.into(), 0).map(|P(epochs)| epochs).map_err(failed("cs_epochs"))
    }

    pub(crate) fn set_epochs(&mut self, slot: u16, epochs: &Epochs) -> Result<(), Error> {
        self.epochs.set(slot.into(), P(*epochs), 0).map_err(failed("cs_epochs"))
    }

    /// A prefix that is a single address goes into the exact table.
    pub(crate) fn ip_upsert(&mut self, net: IpNet, entry: IpEntry) -> Result<(), Error> {
        let (len, max) = (u32::from(net.prefix_len()), u32::from(net.max_prefix_len()));
        match net.network() {
            IpAddr::V4(ip) if len == max => {
                self.ip4.insert(ip.octets(), P(entry), 0).map_err(failed("cs_ip4"))
            }
            IpAddr::V6(ip) if len == max => {
                self.ip6.insert(ip.octets(), P(entry), 0).map_err(failed("cs_ip6"))
            }
            IpAddr::V4(ip) => {
                self.cidr4.insert(&Key::new(len, ip.octets()), P(entry), 0).map_err(failed("cs_cidr4"))
            }
            IpAddr::V6(ip) => {
                self.cidr6.insert(&Key::new(len, ip.octets()), P(entry), 0).map_err(failed("cs_cidr6"))
            }
        }
    }

    pub(crate) fn ip_remove(&mut self, net: IpNet) -> Result<bool, Error> {
        let (len, max) = (u32::from(net.prefix_len()), u32::from(net.max_prefix_len()));
        match net.network() {
            IpAddr::V4(ip) if len == max => removed("cs_ip4", self.ip4.remove(&ip.octets())),
            IpAddr::V6(ip) if len == max => removed("cs_ip6", self.ip6.remove(&ip.octets())),
            IpAddr::V4(ip) => removed("cs_cidr4", self.cidr4.remove(&Key::new(len, ip.octets()))),
            IpAddr::V6(ip) => removed("cs_cidr6", self.cidr6.remove(&Key::new(len, ip.octets()))),
        }
    }

    pub(crate) fn ips(&self) -> Vec<(IpNet, IpEntry)> {
        let exact4 = entries(&self.ip4).map(|(ip, entry)| (net(IpAddr::from(ip), 32), entry));
        let exact6 = entries(&self.ip6).map(|(ip, entry)| (net(IpAddr::from(ip), 128), entry));
        let cidr4 = entries(&self.cidr4)
            .map(|(key, entry): (Key<[u8; 4]>, _)| (net(IpAddr::from(key.data()), key.prefix_len()), entry));
        let cidr6 = entries(&self.cidr6)
            .map(|(key, entry): (Key<[u8; 16]>, _)| (net(IpAddr::from(key.data()), key.prefix_len()), entry));
        let all = exact4.chain(exact6).chain(cidr4).chain(cidr6);
        sorted(all.filter_map(|(net, P(entry))| Some((net?, entry))))
    }

    pub(crate) fn policy_apply(&mut self, op: &PolicyOp) -> Result<(), Error> {
        match *op {
            PolicyOp::Upsert(PolicyTable::Exact, key, entry) => {
                self.policy.insert(P(key), P(entry), 0).map_err(failed("cs_policy"))
            }
            PolicyOp::Upsert(PolicyTable::Prefix(bits), key, entry) => self
                .policy_lpm
                .insert(&Key::new(bits.into(), P(key)), P(entry), 0)
                .map_err(failed("cs_policy_lpm")),
            PolicyOp::Delete(PolicyTable::Exact, key) => {
                removed("cs_policy", self.policy.remove(&P(key))).map(drop)
            }
            PolicyOp::Delete(PolicyTable::Prefix(bits), key) => {
                removed("cs_policy_lpm", self.policy_lpm.remove(&Key::new(bits.into(), P(key)))).map(drop)
            }
        }
    }

    pub(crate) fn policies(&self) -> Vec<(PolicyTable, PolicyKey, PolicyEntry)> {
        let exact = entries(&self.policy).map(|(P(key), P(entry))| (PolicyTable::Exact, key, entry));
        let prefix = entries(&self.policy_lpm).map(|(key, P(entry)): (Key<P<PolicyKey>>, _)| {
            (PolicyTable::Prefix(key.prefix_len() as u8), key.data().0, entry)
        });
        sorted(exact.chain(prefix))
    }

    pub(crate) fn auth_upsert(&mut self, key: AuthKey, value: AuthValue) -> Result<(), Error> {
        self.auth.insert(P(key), P(value), 0).map_err(failed("cs_auth"))
    }

    pub(crate) fn auth_remove(&mut self, key: &AuthKey) -> Result<bool, Error> {
        removed("cs_auth", self.auth.remove(&P(*key)))
    }

    pub(crate) fn auths(&self) -> Vec<(AuthKey, AuthValue)> {
        sorted(entries(&self.auth).map(|(P(key), P(value))| (key, value)))
    }

    pub(crate) fn backoff_set(&mut self, key: AuthKey, until: u64) -> Result<(), Error> {
        self.backoff.insert(P(key), until, 0).map_err(failed("cs_backoff"))
    }

    pub(crate) fn backoff_clear(&mut self, key: &AuthKey) -> Result<bool, Error> {
        removed("cs_backoff", self.backoff.remove(&P(*key)))
    }

    pub(crate) fn backoffs(&self) -> Vec<(AuthKey, u64)> {
        sorted(entries(&self.backoff).map(|(P(key), until)| (key, until)))
    }

    pub(crate) fn parked(&self, key: &PendingKey) -> Result<u64, Error> {
        match self.pending.get(&P(*key), 0) {
            Ok(P(pending)) => Ok(pending.parked),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(failed("cs_pending")(error)),
        }
    }

    pub(crate) fn set_returned(&mut self, key: PendingKey, frames: u64) -> Result<(), Error> {
        self.returned.insert(P(key), frames, 0).map_err(failed("cs_returned"))
    }

    /// What was parked first: a smaller number there than in the other table holds nobody up.
    pub(crate) fn forget_parked(&mut self, key: &PendingKey) -> Result<(), Error> {
        removed("cs_pending", self.pending.remove(&P(*key)))?;
        removed("cs_returned", self.returned.remove(&P(*key))).map(drop)
    }

    pub(crate) fn pending(&self) -> Vec<PendingKey> {
        sorted(self.pending.keys().flatten().chain(self.returned.keys().flatten()).map(|P(key)| key))
    }

    pub(crate) fn bind(&mut self, ip: IpAddr, bound: Bound) -> Result<(), Error> {
        match ip {
            IpAddr::V4(ip) => self.bound4.insert(ip.octets(), P(bound), 0).map_err(failed("cs_bound4")),
            IpAddr::V6(ip) => self.bound6.insert(ip.octets(), P(bound), 0).map_err(failed("cs_bound6")),
        }
    }

    pub(crate) fn unbind(&mut self, ip: IpAddr) -> Result<bool, Error> {
        match ip {
            IpAddr::V4(ip) => removed("cs_bound4", self.bound4.remove(&ip.octets())),
            IpAddr::V6(ip) => removed("cs_bound6", self.bound6.remove(&ip.octets())),
        }
    }

    pub(crate) fn bounds(&self) -> Vec<(IpAddr, Bound)> {
        let v4 = entries(&self.bound4).map(|(ip, P(bound))| (IpAddr::from(ip), bound));
        let v6 = entries(&self.bound6).map(|(ip, P(bound))| (IpAddr::from(ip), bound));
        sorted(v4.chain(v6))
    }

    pub(crate) fn connections(&self) -> Vec<Connection> {
        let v4 =
            entries(&self.ct4).map(|(P(key), P(entry))| Connection { family: V4, key: wide(key), entry });
        let v6 = entries(&self.ct6).map(|(P(key), P(entry))| Connection { family: V6, key, entry });
        let mut all: Vec<_> = v4.chain(v6).collect();
        all.sort_by_key(|connection| (connection.family, connection.key));
        all.dedup_by_key(|connection| (connection.family, connection.key));
        all
    }

    pub(crate) fn metrics(&self) -> Result<Vec<MetricRow>, Error> {
        let mut rows = Vec::new();
        for index in 0..metrics::ENTRIES {
            let values = self.metrics.get(&index, 0).map_err(failed("cs_metrics"))?;
            let counter = values.iter().fold(Counter::default(), |sum, P(one)| add(sum, one));
            if counter != Counter::default() {
                rows.push(MetricRow { direction: (index >> 8) as u8, reason: index as u8, counter });
            }
        }
        Ok(rows)
    }

    pub(crate) fn usage(&self) -> Vec<Usage> {
        let count = |map, entries| Usage { map, entries };
        vec![
            count("cs_auth", self.auth.keys().flatten().count()),
            count("cs_bound4", self.bound4.keys().flatten().count()),
            count("cs_bound6", self.bound6.keys().flatten().count()),
            count("cs_ct4", self.ct4.keys().flatten().count()),
            count("cs_ct6", self.ct6.keys().flatten().count()),
            count("cs_endpoints", self.endpoints.keys().flatten().count()),
            count("cs_ip4", self.ip4.keys().flatten().count()),
            count("cs_ip6", self.ip6.keys().flatten().count()),
            count("cs_policy", self.policy.keys().flatten().count()),
            count("cs_policy_lpm", self.policy_lpm.keys().flatten().count()),
        ]
    }
}

fn net(ip: IpAddr, len: u32) -> Option<IpNet> {
    IpNet::new(ip, u8::try_from(len).ok()?).ok()
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = items.collect();
    all.sort();
    all.dedup();
    all
}

fn wide(key: CtKey4) -> CtKey {
    CtKey {
        remote: countersign_ebpf_common::addr::Addr { words: [key.remote, 0, 0, 0] },
        local_port: key.local_port,
        remote_port: key.remote_port,
        slot: key.slot,
        protocol: key.protocol,
        role: key.role,
    }
}

fn add(a: Counter, b: &Counter) -> Counter {
    Counter {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
        suppressed: a.suppressed.wrapping_add(b.suppressed),
        lost: a.lost.wrapping_add(b.lost),
    }
}
