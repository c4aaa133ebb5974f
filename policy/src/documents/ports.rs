//! Protocols and ports of a clause.

use super::Context;
use super::layer7::{self, Above};
use crate::fields::{Field, Object, Result};
use crate::model::{Action, Direction, PortMatch, Ports};

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

/// Protocols without ports that rules may name.
const PORTLESS: [(&str, u8); 7] =
    [("VRRP", 112), ("IGMP", 2), ("GRE", 47), ("IPIP", 4), ("IPV6", 41), ("ESP", 50), ("AH", 51)];

/// Which list a clause stands in.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) direction: Direction,
    pub(super) action: Action,
}

/// What a clause says of protocols and ports.
pub(super) struct PortRules {
    /// What can be enforced as it is; nothing where all of it needs more.
    pub(super) plain: Option<Ports>,
    /// What needs more than addresses, protocols and ports.
    pub(super) withheld: Vec<PortMatch>,
}

/// Reads `toPorts` and `icmps` of a Cilium clause; neither of them is every protocol.
pub(super) fn cilium(context: &mut Context<'_>, clause: &mut Object<'_>, side: Side) -> Result<PortRules> {
    let (to_ports, icmps) = (clause.get("toPorts"), clause.get("icmps"));
    let (mut plain, mut withheld) = (Vec::new(), Vec::new());
    match (to_ports, icmps) {
        (Some(_), Some(icmps)) => return Err(icmps.error("cannot stand beside `toPorts`", "write two rules")),
        (Some(list), None) => {
            for rule in filled(&list)? {
                let (above, mut matches) = port_rule(context, &rule, side)?;
                if above { withheld.append(&mut matches) } else { plain.append(&mut matches) }
            }
        }
        (None, Some(list)) => {
            for rule in filled(&list)? {
                plain.append(&mut icmp_rule(&rule)?);
            }
        }
        (None, None) => return Ok(PortRules { plain: Some(Ports::All), withheld }),
    }
    let plain = (!plain.is_empty()).then_some(Ports::Of(plain));
    Ok(PortRules { plain, withheld })
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

/// The ports of a rule, and whether they may not be allowed as they are.
fn port_rule(context: &mut Context<'_>, field: &Field<'_>, side: Side) -> Result<(bool, Vec<PortMatch>)> {
    let mut rule = field.object()?;
    let ports = rule.required("ports")?;
    let above = layer7::read(context, &mut rule, side)?;
    rule.finish(&[])?;
    let mut matches = Vec::new();
    for entry in bounded(&ports)? {
        matches.append(&mut port_entry(context, &entry, above)?);
    }
    Ok((above.any, matches))
}

fn port_entry(context: &mut Context<'_>, field: &Field<'_>, above: Above) -> Result<Vec<PortMatch>> {
    let mut entry = field.object()?;
    let (protocol, port, end) = (entry.get("protocol"), entry.get("port"), entry.get("endPort"));
    entry.finish(&[])?;
    let protocols = match cilium_protocols(protocol.as_ref())? {
        Protocols::Portless(protocol) => return portless(field, port.as_ref(), end.as_ref(), protocol),
        Protocols::Any if above.tcp_only => {
            context.note(field, "names no protocol: read as TCP, which is what the rule above it speaks");
            vec![protocol::TCP]
        }
        Protocols::Any => vec![protocol::TCP, protocol::UDP, protocol::SCTP],
        Protocols::One(protocol::TCP) => vec![protocol::TCP],
        Protocols::One(_) if above.tcp_only => {
            return Err(field.error("must be TCP, which is what the rule above it speaks", ""));
        }
        Protocols::One(protocol) => vec![protocol],
    };
    let hint = "write \"0\" for every port of the protocol";
    let port = port.ok_or_else(|| field.error("`port` is missing", hint))?;
    let mut matches = Vec::new();
    for protocol in protocols {
        let found = port_match(protocol, &port, end.as_ref())?;
        if above.rules && matches!(found, PortMatch::Protocol(_)) {
            return Err(port.error("every port cannot have rules above it", "name the port"));
        }
        matches.push(found);
    }
    Ok(matches)
}

enum Protocols {
    /// Those that have ports.
    Any,
    One(u8),
    Portless(u8),
}

/// The protocol of a port entry; without one, or with ANY, those that have ports.
fn cilium_protocols(field: Option<&Field<'_>>) -> Result<Protocols> {
    let Some(field) = field else { return Ok(Protocols::Any) };
    let name = match field.value {
        serde_json::Value::Number(number) => number.to_string(),
        _ => field.string()?.to_owned(),
    };
    if matches!(name.as_str(), "" | "ANY") {
        return Ok(Protocols::Any);
    }
    if matches!(name.as_str(), "ICMP" | "ICMPv6" | "ICMPV6" | "1" | "58") {
        return Err(field.error("has types and no ports", "use `icmps`"));
    }
    let known = PORTLESS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match transport(&name).or(known).or_else(|| name.parse().ok().filter(|number| *number != 0)) {
        Some(number @ (protocol::TCP | protocol::UDP | protocol::SCTP)) => Ok(Protocols::One(number)),
        Some(number) => Ok(Protocols::Portless(number)),
        None => Err(field.error(
            format!("{name:?} is not a protocol"),
            "TCP, UDP, SCTP, ANY, VRRP, IGMP, GRE, IPIP, IPV6, ESP, AH, or a number",
        )),
    }
}

/// A protocol without ports, where `port` may only say so.
fn portless(
    field: &Field<'_>,
    port: Option<&Field<'_>>,
    end: Option<&Field<'_>>,
    protocol: u8,
) -> Result<Vec<PortMatch>> {
    let silent = |field: &&Field<'_>| {
        !(field.value.as_str().is_some_and(|text| text.is_empty() || text == "0") || field.value == 0)
    };
    match port.filter(silent).or(end.filter(silent)) {
        Some(port) => Err(port.error("the protocol has no ports", "leave it out")),
        None if protocol == 0 => Err(field.error("`protocol` is missing", "")),
        None => Ok(vec![PortMatch::Protocol(protocol)]),
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
        Some(text) if text.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
            return named(protocol, port, end);
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

fn named(protocol: u8, port: &Field<'_>, end: Option<&Field<'_>>) -> Result<PortMatch> {
    if let Some(end) = end {
        return Err(end.error("has no meaning beside the name of a port", ""));
    }
    Ok(PortMatch::Named(protocol, name_of_port(port)?))
}

/// A name that containers may give a port.
pub(super) fn name_of_port(field: &Field<'_>) -> Result<String> {
    let name = field.string()?.to_ascii_lowercase();
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 15 || !name.bytes().all(inside) {
        return Err(field.error("is not the name of a port", "letters, digits and `-`, at most 15"));
    }
    Ok(name)
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
