//! The loaded datapath: what the agent holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::RingBuf;
use countersign_ebpf_common::addr::Addr;
use countersign_ebpf_common::auth::{AuthKey, AuthValue, Bound};
use countersign_ebpf_common::config::{self, Config};
use countersign_ebpf_common::endpoint::{self, Endpoint};
use countersign_ebpf_common::ipcache::IpEntry;
use countersign_ebpf_common::layout::program;
use countersign_ebpf_common::limits;
use countersign_ebpf_common::park::PendingKey;
use countersign_ebpf_common::policy::{PolicyEntry, PolicyKey};
use ipnet::IpNet;

use crate::device;
use crate::error::{Error, LoadError};
use crate::events::{Events, Ring};
use crate::links::{AttachMode, Links};
use crate::open::{self, OpenConfig};
use crate::policy::{PolicyOp, PolicyTable};
use crate::tables::{Connection, MetricRow, Tables, Usage};

/// A pod to be guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Its slot, in 1 .. [`limits::SLOTS`].
    pub slot: u16,
    /// Index of the host-side device of its veth pair.
    pub ifindex: u32,
    /// Its security identity.
    pub identity: u32,
    /// Its IPv4 address.
    pub ip4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// MAC of the pod's device.
    pub mac: [u8; 6],
    /// MAC of the host-side device.
    pub host_mac: [u8; 6],
}

/// The programs and their maps. Dropping it detaches nothing.
pub struct Datapath {
    pub(crate) bpf: Ebpf,
    tables: Tables,
    links: Links,
    events: Option<Events>,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath").field("links", &self.links).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs, takes over maps and links that an earlier process pinned, and puts the new
    /// programs in the place of the old ones without a gap. Pins of interfaces that are gone are removed.
    pub fn open(config: &OpenConfig) -> Result<Self, LoadError> {
        let mut bpf = open::load(config)?;
        let tables = Tables::take(&mut bpf)?;
        let ring = bpf.take_map("cs_events").ok_or(LoadError::Missing("cs_events"))?;
        let events = Some(Events(Ring(RingBuf::try_from(ring)?)));
        let links = Links::new(open::links_dir(config), config.force_clsact);
        let mut this = Self { bpf, tables, links, events };
        this.take_over()?;
        open::remove_stale_maps(config)
            .map_err(|source| LoadError::PinDir { path: config.pin_dir.clone(), source })?;
        Ok(this)
    }

    fn take_over(&mut self) -> Result<(), Error> {
        // A pin that cannot be removed holds nothing back: its interface is gone.
        drop(self.links.sweep());
        for endpoint in self.endpoints() {
            if !device::exists(endpoint.ifindex) {
                self.forget(&endpoint)?;
            }
        }
        let mut places = self.links.pinned().unwrap_or_default();
        for endpoint in self.endpoints() {
            places.insert((endpoint.ifindex, program::FROM_POD));
            places.insert((endpoint.ifindex, program::TO_POD));
        }
        places.into_iter().try_for_each(|(ifindex, name)| self.attach(name, ifindex))
    }

    fn attach(&mut self, name: &'static str, ifindex: u32) -> Result<(), Error> {
        device::name(ifindex)?;
        let program = open::classifier(&mut self.bpf, name).map_err(|error| Error::Attach {
            program: name,
            ifindex,
            reason: error.to_string(),
        })?;
        self.links.attach(program, name, ifindex).map_err(|error| {
            let reason = error.source().map_or(error.to_string(), |source| format!("{error}: {source}"));
            Error::Attach { program: name, ifindex, reason }
        })
    }

    /// Lets frames that come back from parking in. The device itself is the agent's: a TAP, up, with an MTU
    /// of 65,535 bytes and a queue of at least 4 × [`limits::PARK_SLOT_PACKETS`].
    pub fn attach_park(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach(program::FROM_PARK, ifindex)
    }

    /// Watches an uplink in both directions for pod traffic in the clear.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach(program::TO_WIRE, ifindex)?;
        self.attach(program::FROM_WIRE, ifindex)
    }

    /// Watches the encrypted device in both directions.
    pub fn attach_wg(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach(program::TO_WG, ifindex)?;
        self.attach(program::FROM_WG, ifindex)
    }

    /// Detaches whatever of ours is on the interface.
    pub fn detach(&mut self, ifindex: u32) {
        for name in program::ALL {
            self.links.detach(name, ifindex);
        }
    }

    /// How each of the programs is attached that are.
    pub fn attached(&self) -> impl Iterator<Item = AttachMode> + '_ {
        self.links.attached()
    }

    /// Guards a pod: attaches both programs, then lets them pass what policy allows.
    ///
    /// Flows of an earlier endpoint in the same slot are forgotten. If anything fails, the interface is taken
    /// down and what is attached to it drops everything.
    pub fn add_endpoint(&mut self, config: &EndpointConfig) -> Result<(), Error> {
        check_slot(config.slot)?;
        drop(self.links.sweep());
        let attached = self
            .attach(program::TO_POD, config.ifindex)
            .and_then(|()| self.attach(program::FROM_POD, config.ifindex));
        let done = attached.and_then(|()| self.enter(config));
        if done.is_err() {
            device::take_down(config.ifindex);
        }
        done
    }

    fn enter(&mut self, config: &EndpointConfig) -> Result<(), Error> {
        let endpoint = record(config);
        let same = |old: &Endpoint| old.slot == config.slot || old.ifindex == config.ifindex;
        for old in self.endpoints().into_iter().filter(same) {
            // A process that starts again finds what its predecessor audits.
            if (Endpoint { audit_slot: 0, ..old }) == endpoint {
                return Ok(());
            }
            self.forget(&old)?;
        }
        let mut epochs = self.tables.epochs(config.slot)?;
        epochs.policy = epochs.policy.wrapping_add(1);
        epochs.auth = epochs.auth.wrapping_add(1);
        epochs.birth = epochs.policy;
        self.tables.set_epochs(config.slot, &epochs)?;
        self.tables.put_endpoint(&endpoint)
    }

    /// Gives the endpoint another identity; its policy entries must be there already. Bumps its policy epoch.
    pub fn update_endpoint_identity(&mut self, slot: u16, identity: u32) -> Result<(), Error> {
        let mut endpoint = self.endpoint(slot).ok_or(Error::NoEndpoint(slot))?;
        endpoint.identity = identity;
        self.tables.put_endpoint(&endpoint)?;
        self.epoch_bump_policy(slot)?;
        self.epoch_bump_auth(slot)
    }

    /// Asks for a second verdict on the endpoint's flows, from the policy entries of [`endpoint::audit_slot`], or
    /// no more. Its entries must be there before, and stay until after. Bumps its policy epoch.
    pub fn set_audited(&mut self, slot: u16, audited: bool) -> Result<(), Error> {
        let mut record = self.endpoint(slot).ok_or(Error::NoEndpoint(slot))?;
        let audit_slot = if audited { endpoint::audit_slot(slot) } else { 0 };
        if record.audit_slot != audit_slot {
            record.audit_slot = audit_slot;
            self.tables.put_endpoint(&record)?;
        }
        self.epoch_bump_policy(slot)
    }

    /// Forgets an endpoint. Its programs stay on the interface as long as that exists and drop everything.
    /// `false` if there was none.
    pub fn remove_endpoint(&mut self, slot: u16) -> Result<bool, Error> {
        drop(self.links.sweep());
        let Some(endpoint) = self.endpoint(slot) else { return Ok(false) };
        self.forget(&endpoint)?;
        Ok(true)
    }

    fn forget(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        self.tables.remove_endpoint(endpoint)
    }

    fn endpoint(&self, slot: u16) -> Option<Endpoint> {
        self.endpoints().into_iter().find(|endpoint| endpoint.slot == slot)
    }

    /// The endpoints there are, by slot: what a process that starts again finds.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.tables.endpoints()
    }

    /// The settings; all zero if they were never set.
    pub fn config(&self) -> Result<Config, Error> {
        self.tables.config()
    }

    /// Sets the settings, in one piece; adds [`config::flag::READY`]. Keep [`Config::auth_epoch`] as
    /// [`Datapath::config`] reads it unless all proofs are meant to end.
    pub fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        self.tables.set_config(&Config { flags: config.flags | config::flag::READY, ..*config })
    }

    /// Says who is behind an address (`/32`, `/128`) or a prefix. Cached verdicts are not touched: bump the
    /// policy epochs of the endpoints concerned if an identity changed.
    pub fn ipcache_upsert(&mut self, net: IpNet, entry: IpEntry) -> Result<(), Error> {
        self.tables.ip_upsert(net, entry)
    }

    /// Forgets an address or a prefix; `false` if it was not known.
    pub fn ipcache_remove(&mut self, net: IpNet) -> Result<bool, Error> {
        self.tables.ip_remove(net)
    }

    /// All addresses and prefixes, sorted.
    #[must_use]
    pub fn ipcache(&self) -> Vec<(IpNet, IpEntry)> {
        self.tables.ips()
    }

    /// Applies changes of the policy map in their order; stops at the first that fails. Then bump the
    /// endpoints' policy epochs. Upserts should come before deletes, so that nothing is missing in between.
    pub fn policy_apply(&mut self, ops: &[PolicyOp]) -> Result<(), Error> {
        ops.iter().try_for_each(|op| self.tables.policy_apply(op))
    }

    /// How many exact policy entries there is room for, and how many with wildcards or ranges.
    #[must_use]
    pub fn policy_room(&self) -> (u32, u32) {
        self.tables.policy_room
    }

    /// All policy entries, sorted.
    #[must_use]
    pub fn policy(&self) -> Vec<(PolicyTable, PolicyKey, PolicyEntry)> {
        self.tables.policies()
    }

    /// Makes every cached verdict of the endpoint stale at its next packet. Call after the maps changed.
    pub fn epoch_bump_policy(&mut self, slot: u16) -> Result<(), Error> {
        check_slot(slot)?;
        let mut epochs = self.tables.epochs(slot)?;
        epochs.policy = epochs.policy.wrapping_add(1);
        self.tables.set_epochs(slot, &epochs)
    }

    /// As [`Self::epoch_bump_policy`], after proofs of the endpoint's identity were withdrawn.
    pub fn epoch_bump_auth(&mut self, slot: u16) -> Result<(), Error> {
        check_slot(slot)?;
        let mut epochs = self.tables.epochs(slot)?;
        epochs.auth = epochs.auth.wrapping_add(1);
        self.tables.set_epochs(slot, &epochs)
    }

    /// Installs or extends a proof, and ends its back-off. [`Error::Full`] leaves the others untouched.
    pub fn auth_upsert(&mut self, key: AuthKey, value: AuthValue) -> Result<(), Error> {
        self.tables.auth_upsert(key, value)?;
        self.tables.backoff_clear(&key).map(drop)
    }

    /// Withdraws a proof. Cached verdicts last up to a second: bump the auth epochs to end them at once.
    pub fn auth_remove(&mut self, key: &AuthKey) -> Result<bool, Error> {
        self.tables.auth_remove(key)
    }

    /// All proofs, sorted, expired ones included.
    #[must_use]
    pub fn auth_entries(&self) -> Vec<(AuthKey, AuthValue)> {
        self.tables.auths()
    }

    /// Until the given time of the boot clock the pair's packets are dropped without being parked.
    pub fn backoff_set(&mut self, key: AuthKey, until: u64) -> Result<(), Error> {
        self.tables.backoff_set(key, until)
    }

    /// Ends a back-off early.
    pub fn backoff_clear(&mut self, key: &AuthKey) -> Result<bool, Error> {
        self.tables.backoff_clear(key)
    }

    /// All back-offs, sorted, past ones included.
    #[must_use]
    pub fn backoffs(&self) -> Vec<(AuthKey, u64)> {
        self.tables.backoffs()
    }

    /// How many packets of a pair at an endpoint the programs have parked since they know of it.
    pub fn parked(&self, key: &PendingKey) -> Result<u64, Error> {
        self.tables.parked(key)
    }

    /// How many of those have been given back or discarded. As long as that is fewer, later packets of the
    /// pair queue up behind.
    pub fn set_returned(&mut self, key: PendingKey, frames: u64) -> Result<(), Error> {
        self.tables.set_returned(key, frames)
    }

    /// Forgets both numbers of a pair of which nothing is on its way, and what it has used up of its places.
    pub fn forget_parked(&mut self, key: &PendingKey) -> Result<(), Error> {
        self.tables.forget_parked(key)
    }

    /// As [`Self::forget_parked`] for all pairs: whatever an earlier process held is lost.
    pub fn forget_all_parked(&mut self) -> Result<(), Error> {
        self.tables.pending().iter().try_for_each(|key| self.tables.forget_parked(key))
    }

    /// Enters what an authenticated session says is behind an address.
    pub fn bind(&mut self, ip: IpAddr, bound: Bound) -> Result<(), Error> {
        self.tables.bind(ip, bound)
    }

    /// Withdraws it.
    pub fn unbind(&mut self, ip: IpAddr) -> Result<bool, Error> {
        self.tables.unbind(ip)
    }

    /// All asserted addresses, sorted.
    #[must_use]
    pub fn bound(&self) -> Vec<(IpAddr, Bound)> {
        self.tables.bounds()
    }

    /// All counters that are not zero.
    pub fn metrics(&self) -> Result<Vec<MetricRow>, Error> {
        self.tables.metrics()
    }

    /// How full the tables are. Walks them: for status, not for every scrape.
    #[must_use]
    pub fn usage(&self) -> Vec<Usage> {
        self.tables.usage()
    }

    /// The flows. Walks the whole table.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.tables.connections()
    }

    /// The reading end of the ring of events; there is one, so `None` the second time.
    pub fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }
}

fn check_slot(slot: u16) -> Result<(), Error> {
    if slot == 0 || u32::from(slot) >= limits::SLOTS { Err(Error::BadSlot(slot)) } else { Ok(()) }
}

fn record(config: &EndpointConfig) -> Endpoint {
    Endpoint {
        identity: config.identity,
        ifindex: config.ifindex,
        ip4: config.ip4.map_or(0, |ip| u32::from_ne_bytes(ip.octets())),
        slot: config.slot,
        flags: endpoint::flag::READY,
        ip6: config.ip6.map_or_else(Addr::default, |ip| Addr::v6(ip.octets())),
        mac: config.mac,
        host_mac: config.host_mac,
        audit_slot: 0,
        pad: 0,
    }
}
