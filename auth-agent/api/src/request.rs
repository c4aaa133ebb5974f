//! What can be asked of an agent.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_FILTER_VALUES, MAX_LAST};
use crate::{Error, ErrorKind};

/// One request; the name of the variant travels in the field `request`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Answer: [`crate::Status`].
    Status,
    /// Answer: [`crate::EncryptStatus`].
    EncryptStatus,
    /// Change the node's WireGuard key. Answer, once there is a next one: [`crate::RotationBegun`]; how far it is
    /// says [`crate::EncryptStatus`].
    RotateKey,
    /// Answer: [`crate::SpireStatus`].
    SpireStatus,
    /// Answer: a list of [`crate::AuthEntry`].
    AuthList,
    /// Forget every authenticated pair, so that each proves itself again. Answer: [`crate::AuthFlushed`].
    AuthFlush,
    /// Answer: a list of [`crate::IdentityEntry`].
    IdentityList,
    /// Answer: a list of [`crate::EndpointEntry`].
    EndpointList,
    /// Take an interface under enforcement. Answer, once its policy is in place: [`crate::EndpointAdded`].
    EndpointAdd(EndpointSpec),
    /// Let go of an endpoint; it not existing is no error. Answer: [`crate::Done`].
    EndpointRemove(EndpointRef),
    /// Answer: [`crate::PolicyView`].
    PolicyGet,
    /// Answer: [`crate::PolicyExplanation`].
    PolicyExplain(ExplainRequest),
    /// Answer: a stream of [`crate::FlowEvent`].
    Observe(ObserveRequest),
    /// Answer: [`crate::Metrics`].
    Metrics,
    /// Answer: a list of [`crate::IpcacheEntry`].
    IpcacheList,
}

/// An interface that a CNI plugin (or the lab) has made for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod object.
    pub uid: String,
    /// Name of the veth's end on the host.
    pub interface: String,
    /// MAC address of the pod's end, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// The pod's addresses, at most one of each family.
    pub ips: Vec<IpAddr>,
    /// Inode of the pod's network namespace: by it a process of the pod is found, for SPIRE's Broker API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
}

/// A flow to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `namespace/pod`, or an address.
    pub from: String,
    /// `namespace/pod`, or an address.
    pub to: String,
    /// Name or number of a protocol.
    pub protocol: String,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// Names an endpoint by its pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
}

/// Which flows to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObserveRequest {
    /// Go on with new flows after the past ones.
    pub follow: bool,
    /// How many past flows, counted after filtering, newest kept.
    pub last: u32,
    /// Which of them.
    pub filter: FlowFilter,
}

/// Selects flows: an empty field selects all; the values of a field are alternatives; all fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowFilter {
    /// Namespace of source or destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespace: Vec<String>,
    /// `namespace/prefix`, or `prefix` in any namespace, of source or destination pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod: Vec<String>,
    /// Like `pod`, of the source alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_pod: Vec<String>,
    /// Like `pod`, of the destination alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_pod: Vec<String>,
    /// Security identity of source or destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<u32>,
    /// `FORWARDED`, `DROPPED`, …, in any case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdict: Vec<String>,
    /// Number or name of a drop reason (`189`, `AUTH_REQUIRED`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop_reason: Vec<String>,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv4`, `icmpv6` or a number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<String>,
    /// Source or destination port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<u16>,
    /// Prefix that source or destination address is in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<IpNet>,
    /// `namespace/name` or `name` of a policy that decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<String>,
    /// `ingress` or `egress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
}

impl Request {
    /// Checks what types cannot say: the bounds of lists and counts.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`], naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Observe(observe) => observe.validate(),
            Self::EndpointAdd(spec) => spec.validate(),
            Self::PolicyExplain(of) => of.validate(),
            Self::EndpointRemove(of) => named("namespace", &of.namespace).and(named("name", &of.name)),
            Self::Status
            | Self::EncryptStatus
            | Self::RotateKey
            | Self::SpireStatus
            | Self::AuthList
            | Self::AuthFlush
            | Self::IdentityList
            | Self::EndpointList
            | Self::PolicyGet
            | Self::Metrics
            | Self::IpcacheList => Ok(()),
        }
    }
}

impl ObserveRequest {
    fn validate(&self) -> Result<(), Error> {
        if self.last > MAX_LAST {
            return Err(bad(format!("last: at most {MAX_LAST} flows")));
        }
        let f = &self.filter;
        let longest = [&f.namespace, &f.pod, &f.from_pod, &f.to_pod, &f.verdict, &f.drop_reason, &f.protocol]
            .into_iter()
            .map(Vec::len)
            .chain([f.policy.len(), f.identity.len(), f.port.len(), f.ip.len()])
            .max();
        match longest {
            Some(n) if n > MAX_FILTER_VALUES => {
                Err(bad(format!("filter: at most {MAX_FILTER_VALUES} values in a field")))
            }
            _ => Ok(()),
        }
    }
}

impl ExplainRequest {
    fn validate(&self) -> Result<(), Error> {
        for (field, side) in [("from", &self.from), ("to", &self.to)] {
            match side.split_once('/') {
                Some((namespace, name)) => named(field, namespace).and(named(field, name))?,
                None if side.parse::<IpAddr>().is_ok() => {}
                None => {
                    return Err(bad(format!("{field}: {side:?} is neither namespace/pod nor an address")));
                }
            }
        }
        if self.protocol.is_empty() || self.protocol.len() > 16 {
            return Err(bad("protocol: a name or a number"));
        }
        Ok(())
    }
}

impl EndpointSpec {
    fn validate(&self) -> Result<(), Error> {
        named("namespace", &self.namespace)?;
        named("name", &self.name)?;
        interface(&self.interface)?;
        self.mac_bytes()?;
        let v4 = self.ips.iter().filter(|ip| ip.is_ipv4()).count();
        if self.ips.is_empty() || v4 > 1 || self.ips.len() - v4 > 1 {
            return Err(bad("ips: one address, or one of each family"));
        }
        Ok(())
    }

    /// The MAC address.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] where it is not six hexadecimal bytes with colons between them.
    pub fn mac_bytes(&self) -> Result<[u8; 6], Error> {
        let wrong = || bad(format!("mac: {:?} is not like aa:bb:cc:dd:ee:ff", self.mac));
        let mut bytes = [0; 6];
        let mut parts = self.mac.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(wrong)?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(bytes) }
    }
}

/// A Kubernetes object name: a DNS subdomain.
fn named(field: &str, name: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(fine) {
        return Err(bad(format!("{field}: {name:?} is not the name of a Kubernetes object")));
    }
    Ok(())
}

/// A Linux interface name (`IFNAMSIZ`, no slash, no space).
fn interface(name: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    if name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || !name.bytes().all(fine) {
        return Err(bad(format!("interface: {name:?} is not the name of an interface")));
    }
    Ok(())
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadRequest, message)
}
