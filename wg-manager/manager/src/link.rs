//! The devices as the kernel sees them: up, MTU, and the routes that lead into them.
//!
//! Every remote pod prefix gets two routes: one into a device (only if its node's key is proved), and a
//! fallback of type `unreachable` with the worst metric. When the device goes away its routes go with it,
//! and the fallback keeps pod packets from taking the default route in the clear. A route moves from one device to
//! another in one step: at no time is there none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use countersign_wg_proto::Shrink;
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, LinkWireguard, RouteMessageBuilder};
use tokio::time::timeout;

use crate::limits::{DEVICE_METRIC, FALLBACK_METRIC, NETLINK_TIMEOUT, ROUTE_PROTOCOL};

/// Why the kernel's side could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("netlink: {0}")]
    Socket(#[from] std::io::Error),
    /// There is no device of this name in this network namespace.
    #[error("there is no device {0} here: the data plane is not running")]
    NoDevice(String),
    /// A device has the name of one of ours, and nobody's who moves encrypted packets.
    #[error("there is a device {0} already, and it is no tunnel: it is in the way")]
    InTheWay(String),
    /// The kernel has no route there.
    #[error("there is no path to {0}")]
    NoPath(IpAddr),
    /// A request failed.
    #[error("netlink, {doing}: {source}")]
    Request {
        /// What was asked.
        doing: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The kernel did not answer.
    #[error("netlink, {doing}: no answer within {} s", NETLINK_TIMEOUT.as_secs())]
    Timeout {
        /// What was asked.
        doing: String,
    },
}

/// Where packets to a prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Into the device with this index, in packets of so many bytes at most; 0 is what the device takes.
    Device(u32, u32),
    /// Nowhere; the sender is told.
    Unreachable,
}

/// Where packets to a prefix should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Into the device with this index, in packets of so many bytes at most; 0 is what the device takes.
    Device(u32, u32),
    /// Nowhere.
    Nowhere,
    /// Where they go now: whatever that is, it is not known better at the moment.
    Unchanged,
}

/// The routes there are, of this crate's.
pub type Routes = BTreeSet<(IpNet, Via)>;

/// A netlink connection to the network namespace it was made in.
#[derive(Debug)]
pub struct Link {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Link {
    /// Connect. Must be called within a tokio runtime, on a thread in the device's network namespace.
    pub fn new() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, connection })
    }

    /// Give every remote prefix its fallback route. True if something had to be changed.
    pub async fn set_fallbacks(&self, nets: impl Iterator<Item = &IpNet>) -> Result<bool, Error> {
        let existing = self.own_routes().await?;
        let goal: Routes = nets.map(|net| (*net, Via::Unreachable)).collect();
        self.add_routes(goal.difference(&existing)).await
    }

    /// Lead into devices what may go there, and take away routes that should not be. True if something had to be
    /// changed.
    ///
    /// With [`Shrink::Forbidden`], routes of prefixes that `wanted` does not name stay.
    pub async fn set_routes(&self, wanted: &BTreeMap<IpNet, Target>, shrink: Shrink) -> Result<bool, Error> {
        let existing = self.own_routes().await?;
        let fallback = wanted.keys().map(|net| (*net, Via::Unreachable));
        let through = wanted.iter().filter_map(|(net, target)| match target {
            Target::Device(index, mtu) => Some((*net, Via::Device(*index, *mtu))),
            Target::Nowhere | Target::Unchanged => None,
        });
        let goal: Routes = fallback.chain(through).collect();
        let mut changed = self.add_routes(goal.difference(&existing)).await?;
        let may_go = |(net, via): &&(IpNet, Via)| match (wanted.get(net), via) {
            // The new one took its place, and the kernel would take that for it.
            (Some(Target::Device(index, _)), Via::Device(of, _)) if index == of => false,
            (Some(target), _) => *target != Target::Unchanged,
            (None, _) => shrink == Shrink::Allowed,
        };
        changed |= self.remove_routes(existing.difference(&goal).filter(may_go)).await?;
        Ok(changed)
    }

    async fn find_link(&self, device: &str) -> Result<Option<LinkMessage>, Error> {
        let mut found = self.handle.link().get().match_name(device.to_owned()).execute();
        match within("finding the device", found.try_next()).await {
            Err(Error::Request { source: rtnetlink::Error::NetlinkError(error), .. })
                if error.raw_code() == -libc::ENODEV =>
            {
                Ok(None)
            }
            other => other,
        }
    }

    /// Bring a device up, with its MTU. Returns its index, and whether something had to be changed.
    pub async fn bring_up(&self, device: &str, mtu: u32) -> Result<(u32, bool), Error> {
        let Some(link) = self.find_link(device).await? else {
            return Err(Error::NoDevice(device.to_owned()));
        };
        let index = link.header.index;
        let up = link.header.flags.contains(LinkFlags::Up);
        let has_mtu = |attribute: &LinkAttribute| *attribute == LinkAttribute::Mtu(mtu);
        if up && link.attributes.iter().any(has_mtu) {
            return Ok((index, false));
        }
        loosen(device);
        let request = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        within("bringing the device up", self.handle.link().set(request).execute()).await?;
        Ok((index, true))
    }

    /// Whether there is a device of this name, and it is the kernel's WireGuard.
    pub async fn is_wireguard(&self, device: &str) -> Result<bool, Error> {
        Ok(self.find_link(device).await?.is_some_and(|link| is_of_kind(&link, &InfoKind::Wireguard)))
    }

    /// Make a device of the kernel's WireGuard. It is down, and speaks to nobody.
    pub async fn add_wireguard(&self, device: &str) -> Result<(), Error> {
        within("making a device", self.handle.link().add(LinkWireguard::new(device).build()).execute()).await
    }

    /// Delete a device that another backend has made: its sessions end.
    pub async fn delete_tunnel(&self, device: &str) -> Result<(), Error> {
        let Some(link) = self.find_link(device).await? else { return Ok(()) };
        if ![InfoKind::Wireguard, InfoKind::Tun].iter().any(|kind| is_of_kind(&link, kind)) {
            return Err(Error::InTheWay(device.to_owned()));
        }
        within("deleting a device", self.handle.link().del(link.header.index).execute()).await
    }

    /// The largest packet that the kernel would send to `end`, in bytes: by what routers have said, or else by the
    /// device that it would leave by.
    pub async fn path_mtu(&self, end: IpAddr) -> Result<u32, Error> {
        let mut request = RouteMessage::default();
        let (family, address, length) = match end {
            IpAddr::V4(end) => (AddressFamily::Inet, RouteAddress::Inet(end), 32),
            IpAddr::V6(end) => (AddressFamily::Inet6, RouteAddress::Inet6(end), 128),
        };
        request.header.address_family = family;
        request.header.destination_prefix_length = length;
        request.attributes.push(RouteAttribute::Destination(address));
        let mut found = self.handle.route().get(request).execute();
        let none = || Error::NoPath(end);
        let route = within("asking for a path", found.try_next()).await?.ok_or_else(none)?;
        let oif = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let mut links = self.handle.link().get().match_index(oif.ok_or_else(none)?).execute();
        let link = within("asking for a device", links.try_next()).await?.ok_or_else(none)?;
        let device = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        metric_mtu(&route).into_iter().chain(device).min().ok_or_else(none)
    }

    /// Delete a device, if it is there: what serves it ends.
    pub async fn delete(&self, device: &str) -> Result<bool, Error> {
        let Some(link) = self.find_link(device).await? else { return Ok(false) };
        within("deleting a device", self.handle.link().del(link.header.index).execute()).await?;
        Ok(true)
    }

    /// The routes that this crate made.
    pub async fn own_routes(&self) -> Result<Routes, Error> {
        let mut own = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let all = self.handle.route().get(request).execute().try_collect::<Vec<_>>();
            own.extend(within("listing routes", all).await?.iter().filter_map(parse_own));
        }
        Ok(own)
    }

    async fn add_routes(&self, routes: impl Iterator<Item = &(IpNet, Via)>) -> Result<bool, Error> {
        let mut changed = false;
        for (net, via) in routes {
            let doing = format!("adding the route to {net}");
            within(&doing, self.handle.route().add(message(net, *via)).replace().execute()).await?;
            changed = true;
        }
        Ok(changed)
    }

    async fn remove_routes(&self, routes: impl Iterator<Item = &(IpNet, Via)>) -> Result<bool, Error> {
        let mut changed = false;
        for (net, via) in routes {
            let doing = format!("removing the route to {net}");
            match within(&doing, self.handle.route().del(message(net, *via)).execute()).await {
                // It went by itself, with its device.
                Err(Error::Request { source: rtnetlink::Error::NetlinkError(error), .. })
                    if error.raw_code() == -libc::ESRCH => {}
                result => result?,
            }
            changed = true;
        }
        Ok(changed)
    }
}

fn is_of_kind(link: &LinkMessage, kind: &InfoKind) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().any(|info| matches!(info, LinkInfo::Kind(of) if of == kind))
}

/// While packets of a node come by one device and go by another, a strict reverse path filter would drop them.
fn loosen(device: &str) {
    let setting = |of: &str| format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
    let read = |of: &str| std::fs::read_to_string(setting(of)).ok()?.trim().parse::<u8>().ok();
    // The larger one of the two is in force; 2 is loose.
    let strictness = read("all").max(read(device));
    if strictness == Some(1)
        && let Err(error) = std::fs::write(setting(device), "2")
    {
        tracing::warn!(device, %error, "strict reverse path filter: packets get lost while keys change");
    }
}

async fn within<T>(
    doing: &str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, Error> {
    match timeout(NETLINK_TIMEOUT, request).await {
        Ok(result) => result.map_err(|source| Error::Request { doing: doing.to_owned(), source }),
        Err(_) => Err(Error::Timeout { doing: doing.to_owned() }),
    }
}

fn message(net: &IpNet, via: Via) -> RouteMessage {
    let builder = match net {
        IpNet::V4(net) => {
            let builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new();
            builder.destination_prefix(net.network(), net.prefix_len()).build()
        }
        IpNet::V6(net) => {
            let builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new();
            builder.destination_prefix(net.network(), net.prefix_len()).build()
        }
    };
    let mut message = builder;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    match via {
        Via::Device(index, mtu) => {
            message.attributes.push(RouteAttribute::Oif(index));
            if mtu > 0 {
                message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
            }
            message.attributes.push(RouteAttribute::Priority(DEVICE_METRIC));
        }
        Via::Unreachable => {
            message.header.kind = RouteType::Unreachable;
            message.attributes.push(RouteAttribute::Priority(FALLBACK_METRIC));
        }
    }
    message
}

/// A route that this crate made, or nothing.
fn parse_own(route: &RouteMessage) -> Option<(IpNet, Via)> {
    let header = &route.header;
    if header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let mut oif = 0;
    let mtu = metric_mtu(route).unwrap_or(0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = IpAddr::V4(*address),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = IpAddr::V6(*address),
            RouteAttribute::Oif(index) => oif = *index,
            _ => {}
        }
    }
    let net = IpNet::new(destination, header.destination_prefix_length).ok()?;
    match header.kind {
        RouteType::Unreachable => Some((net, Via::Unreachable)),
        _ => Some((net, Via::Device(oif, mtu))),
    }
}

/// The MTU that a route says.
fn metric_mtu(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_routes_are_recognised_and_others_are_not() {
        for net in ["10.0.1.0/24", "0.0.0.0/0", "fd00:1::/64", "10.1.2.3/32"] {
            let net: IpNet = net.parse().unwrap();
            for via in [Via::Device(7, 0), Via::Device(7, 1_300), Via::Unreachable] {
                assert_eq!(parse_own(&message(&net, via)), Some((net, via)));
            }
            let mut foreign = message(&net, Via::Device(7, 0));
            foreign.header.protocol = RouteProtocol::Static;
            assert_eq!(parse_own(&foreign), None);
        }
    }
}
