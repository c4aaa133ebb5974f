//! Protocols and ports of a clause.

use crate::fields::{Field, Object, Result};
use crate::model::{PortMatch, Ports};

/// IP protocol numbers (IANA).
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const SCTP: u8 = 132;
}

/// Most entries of one `ports` or `fields` list (Cilium's own bound).
const ENTRIES: usize = 40;

const LAYER_7: &str =
    "rules above ports are not built yet; a plain port rule would allow more than is written";

/// Reads `toPorts` and `icmps` of a Cilium clause; neither of them is every protocol.
pub(super) fn cilium(clause: &mut Object<'_>) -> Result<Ports> {
    let (to_ports, icmps) = (clause.get("toPorts"), clause.get("icmps"));
    let read: Vec<Vec<PortMatch>> = match (to_ports, icmps) {
        (Some(_), Some(icmps)) => return Err(icmps.error("cannot stand beside `toPorts`", "write two rules")),
        (Some(list), None) => filled(&list)?.iter().map(port_rule).collect::<Result<_>>()?,
        (None, Some(list)) => filled(&list)?.iter().map(icmp_rule).collect::<Result<_>>()?,
        (None, None) => return Ok(Ports::All),
    };
    Ok(Ports::Of(read.concat()))
}

fn filled<'a>(list: &Field<'a>) -> Result<Vec<Field<'a>>> {
    let items = list.items()?;
    if items.is_empty() {
        return Err(
            list.error("is empty, which could mean every port or none", "leave it out for every port")
        );
    }
    Ok(items)
}

fn bounded<'a>(list: &Field<'a>) -> Result<Vec<Field<'a>>> {
    let items = filled(list)?;
    if items.len() > ENTRIES {
        return Err(
            list.error(format!("{} entries; at most {ENTRIES} are taken", items.len()), "write two rules")
        );
    }
    Ok(items)
}

fn port_rule(field: &Field<'_>) -> Result<Vec<PortMatch>> {
    let mut rule = field.object()?;
    let ports = rule.required("ports")?;
    let above = ["rules", "serverNames", "listener", "terminatingTLS", "originatingTLS"];
    rule.finish(&above.map(|name| (name, LAYER_7)))?;
    let mut matches = Vec::new();
    for entry in bounded(&ports)? {
        let mut entry = entry.object()?;
        let protocols = cilium_protocols(entry.get("protocol"))?;
        let hint = "write \"0\" for every port of the protocol";
        let port = entry.get("port").ok_or_else(|| entry.field().error("`port` is missing", hint))?;
        let end = entry.get("endPort");
        entry.finish(&[])?;
        for protocol in protocols {
            matches.push(port_match(protocol, &port, end.as_ref())?);
        }
    }
    Ok(matches)
}

/// The protocols of a port entry; without one, or with ANY, those that have ports.
fn cilium_protocols(field: Option<Field<'_>>) -> Result<Vec<u8>> {
    let any = vec![protocol::TCP, protocol::UDP, protocol::SCTP];
    let Some(field) = field else { return Ok(any) };
    match field.string()? {
        "" | "ANY" => Ok(any),
        "VRRP" | "IGMP" | "GRE" | "IPIP" | "IPV6" | "ESP" | "AH" => {
            Err(field.error("is not enforced yet, so the document is refused", "TCP, UDP, SCTP or ANY"))
        }
        "ICMP" | "ICMPv6" | "ICMPV6" => Err(field.error("has no ports", "use `icmps`")),
        name => match transport(name) {
            Some(number) => Ok(vec![number]),
            None => Err(field.error(format!("{name:?} is not a protocol"), "TCP, UDP, SCTP or ANY")),
        },
    }
}

/// The number of a protocol that has ports.
pub(super) fn transport(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(protocol::TCP),
        "UDP" => Some(protocol::UDP),
        "SCTP" => Some(protocol::SCTP),
        _ => None,
    }
}

/// One port entry: a number (0 is every port), a number and an end, or a name.
pub(super) fn port_match(protocol: u8, port: &Field<'_>, end: Option<&Field<'_>>) -> Result<PortMatch> {
    let number = match port.value.as_str() {
        Some(name) if name.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
            return named(protocol, name, port, end);
        }
        Some(_) => port.parsed::<u16>("a port")?,
        None => u16::try_from(port.integer(0..=65535)?).unwrap_or_default(),
    };
    let last = end.map_or(Ok(0), |end| end.integer(0..=65535))?;
    match (number, u16::try_from(last).unwrap_or_default(), end) {
        (0, 0, _) => Ok(PortMatch::Protocol(protocol)),
        (0, _, Some(end)) => {
            Err(end.error("has no meaning beside port 0", "leave it out, or begin at port 1"))
        }
        (_, 0, _) => Ok(PortMatch::Range(protocol, number, number)),
        (_, last, Some(end)) if last < number => Err(end.error(format!("{last} is before {number}"), "")),
        (_, last, _) => Ok(PortMatch::Range(protocol, number, last)),
    }
}

fn named(protocol: u8, name: &str, port: &Field<'_>, end: Option<&Field<'_>>) -> Result<PortMatch> {
    if let Some(end) = end {
        return Err(end.error("has no meaning beside the name of a port", ""));
    }
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > 15 || !name.to_ascii_lowercase().bytes().all(inside) {
        return Err(port.error("is not the name of a port", "letters, digits and `-`, at most 15"));
    }
    Ok(PortMatch::Named(protocol, name.to_ascii_lowercase()))
}

fn icmp_rule(field: &Field<'_>) -> Result<Vec<PortMatch>> {
    let mut rule = field.object()?;
    let fields = rule.required("fields")?;
    rule.finish(&[])?;
    bounded(&fields)?.iter().map(icmp_match).collect()
}

fn icmp_match(field: &Field<'_>) -> Result<PortMatch> {
    let mut entry = field.object()?;
    let family = entry.get("family");
    let kind = entry.required("type")?;
    entry.finish(&[])?;
    let (protocol, names) = match family.as_ref().map_or(Ok("IPv4"), Field::string)? {
        "IPv4" => (protocol::ICMP, ICMP_TYPES),
        "IPv6" => (protocol::ICMPV6, ICMPV6_TYPES),
        other => return Err(entry_error(family.as_ref().unwrap_or(field), other)),
    };
    let number = match kind.value.as_str() {
        Some(text) => {
            icmp_type(text, names).ok_or_else(|| kind.error(format!("{text:?} is not an ICMP type"), ""))?
        }
        None => u8::try_from(kind.integer(0..=255)?).unwrap_or_default(),
    };
    Ok(PortMatch::Range(protocol, number.into(), number.into()))
}

fn entry_error(field: &Field<'_>, found: &str) -> crate::fields::DocumentError {
    field.error(format!("{found:?} is not a family"), "IPv4 or IPv6")
}

fn icmp_type(text: &str, names: &[(&str, u8)]) -> Option<u8> {
    let named = names.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named.or_else(|| text.parse().ok())
}

/// Names of ICMP types (RFC 792 and later, IANA's registry).
const ICMP_TYPES: &[(&str, u8)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// Names of ICMPv6 types (RFC 4443 and later, IANA's registry).
const ICMPV6_TYPES: &[(&str, u8)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];
