//! Which flows a reader wants.

use ipnet::IpNet;

use crate::limits::MAX_FILTER_VALUES;
use crate::record::{Direction, Endpoint, Flow, PolicyName, Protocol, Verdict};

/// What was asked for, as text. An empty field selects all; the values of a field are alternatives; all fields must
/// match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterSpec {
    /// Namespace of source or destination.
    pub namespace: Vec<String>,
    /// `namespace/prefix`, or `prefix` in any namespace, of source or destination pod.
    pub pod: Vec<String>,
    /// Like `pod`, of the source alone.
    pub from_pod: Vec<String>,
    /// Like `pod`, of the destination alone.
    pub to_pod: Vec<String>,
    /// Security identity of source or destination.
    pub identity: Vec<u32>,
    /// Names of verdicts, in any case.
    pub verdict: Vec<String>,
    /// Numbers or names of drop reasons.
    pub drop_reason: Vec<String>,
    /// Names or numbers of IP protocols; `icmp` is both of them.
    pub protocol: Vec<String>,
    /// Source or destination port.
    pub port: Vec<u16>,
    /// Prefix that source or destination address is in.
    pub ip: Vec<IpNet>,
    /// `namespace/name` or `name` of a policy that decided.
    pub policy: Vec<String>,
    /// `ingress` or `egress`.
    pub direction: Option<String>,
}

/// A value that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not one of the field's values.
    #[error("{field}: {value:?} is not {expected}")]
    Value {
        /// Field of [`FilterSpec`].
        field: &'static str,
        /// What was given.
        value: String,
        /// What could have been.
        expected: &'static str,
    },
    /// More alternatives than [`MAX_FILTER_VALUES`].
    #[error("{field}: more than {MAX_FILTER_VALUES} values")]
    TooMany {
        /// Field of [`FilterSpec`].
        field: &'static str,
    },
}

/// A checked filter. The default one matches every flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    namespace: Vec<String>,
    pod: Vec<PodPrefix>,
    from_pod: Vec<PodPrefix>,
    to_pod: Vec<PodPrefix>,
    identity: Vec<u32>,
    verdict: Vec<Verdict>,
    drop_reason: Vec<u8>,
    protocol: Vec<Protocol>,
    port: Vec<u16>,
    ip: Vec<IpNet>,
    policy: Vec<(Option<String>, String)>,
    direction: Option<Direction>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PodPrefix {
    namespace: Option<String>,
    prefix: String,
}

impl Filter {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// A value that means nothing, or too many values.
    pub fn parse(spec: &FilterSpec) -> Result<Self, FilterError> {
        spec.check_lengths()?;
        Ok(Self {
            namespace: spec.namespace.clone(),
            pod: spec.pod.iter().map(|text| PodPrefix::parse(text)).collect(),
            from_pod: spec.from_pod.iter().map(|text| PodPrefix::parse(text)).collect(),
            to_pod: spec.to_pod.iter().map(|text| PodPrefix::parse(text)).collect(),
            identity: spec.identity.clone(),
            verdict: all(
                "verdict",
                &spec.verdict,
                "a verdict (forwarded, dropped, redirected, …)",
                |text| Verdict::parse(text).map(|verdict| vec![verdict]),
            )?,
            drop_reason: all(
                "drop_reason",
                &spec.drop_reason,
                "a drop reason (a number, or a name like AUTH_REQUIRED)",
                reason,
            )?,
            protocol: all("protocol", &spec.protocol, "an IP protocol (tcp, udp, icmp, …)", protocols)?,
            port: spec.port.clone(),
            ip: spec.ip.clone(),
            policy: spec.policy.iter().map(|text| qualified(text)).collect(),
            direction: spec.direction.as_deref().map(direction).transpose()?,
        })
    }

    /// Whether the flow is wanted.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let (from, to) = (&flow.source, &flow.destination);
        let ports = [flow.l4.source_port, flow.l4.destination_port];
        any(&self.verdict, |&verdict| flow.verdict == verdict)
            && self.direction.is_none_or(|direction| flow.direction == direction)
            && any(&self.drop_reason, |&reason| is_reason(reason, flow))
            && any(&self.protocol, |&protocol| flow.l4.protocol == Some(protocol))
            && any(&self.port, |&port| ports.contains(&Some(port)))
            && any(&self.identity, |&identity| [from, to].iter().any(|side| side.identity == identity))
            && any(&self.namespace, |name| [from, to].iter().any(|side| side.workload.namespace == *name))
            && any(&self.pod, |pod| pod.matches(from) || pod.matches(to))
            && any(&self.from_pod, |pod| pod.matches(from))
            && any(&self.to_pod, |pod| pod.matches(to))
            && any(&self.ip, |net| [from.ip, to.ip].iter().flatten().any(|ip| net.contains(ip)))
            && any(&self.policy, |wanted| flow.policies.iter().any(|policy| is_policy(wanted, policy)))
    }
}

/// No alternatives is no restriction.
fn any<T>(alternatives: &[T], matches: impl Fn(&T) -> bool) -> bool {
    alternatives.is_empty() || alternatives.iter().any(matches)
}

fn all<T>(
    field: &'static str,
    values: &[String],
    expected: &'static str,
    parse: impl Fn(&str) -> Option<Vec<T>>,
) -> Result<Vec<T>, FilterError> {
    let mut parsed = Vec::with_capacity(values.len());
    for value in values {
        let one = parse(value).ok_or_else(|| FilterError::Value { field, value: value.clone(), expected })?;
        parsed.extend(one);
    }
    Ok(parsed)
}

fn protocols(text: &str) -> Option<Vec<Protocol>> {
    if text.eq_ignore_ascii_case("icmp") {
        return Some(vec![Protocol::ICMPV4, Protocol::ICMPV6]);
    }
    Protocol::parse(text).map(|protocol| vec![protocol])
}

fn reason(text: &str) -> Option<Vec<u8>> {
    text.parse()
        .ok()
        .or_else(|| crate::reason::number(text))
        .filter(|&number| number != 0)
        .map(|number| vec![number])
}

/// The field's reason, or our own more exact one.
fn is_reason(number: u8, flow: &Flow) -> bool {
    matches!(flow.verdict, Verdict::Dropped | Verdict::Audit)
        && (flow.drop_reason == number
            || (!flow.drop_detail.is_empty() && flow.drop_detail == crate::reason::name(number)))
}

fn direction(text: &str) -> Result<Direction, FilterError> {
    match text {
        _ if text.eq_ignore_ascii_case("ingress") => Ok(Direction::Ingress),
        _ if text.eq_ignore_ascii_case("egress") => Ok(Direction::Egress),
        _ => {
            Err(FilterError::Value { field: "direction", value: text.into(), expected: "ingress or egress" })
        }
    }
}

fn qualified(text: &str) -> (Option<String>, String) {
    match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.into()), name.into()),
        None => (None, text.into()),
    }
}

fn is_policy((namespace, name): &(Option<String>, String), policy: &PolicyName) -> bool {
    policy.name == *name && namespace.as_ref().is_none_or(|namespace| policy.namespace == *namespace)
}

impl PodPrefix {
    fn parse(text: &str) -> Self {
        let (namespace, prefix) = qualified(text);
        Self { namespace, prefix }
    }

    fn matches(&self, side: &Endpoint) -> bool {
        let workload = &side.workload;
        !workload.pod.is_empty()
            && workload.pod.starts_with(&self.prefix)
            && self.namespace.as_ref().is_none_or(|namespace| workload.namespace == *namespace)
    }
}

impl FilterSpec {
    fn check_lengths(&self) -> Result<(), FilterError> {
        let lengths = [
            ("namespace", self.namespace.len()),
            ("pod", self.pod.len()),
            ("from_pod", self.from_pod.len()),
            ("to_pod", self.to_pod.len()),
            ("identity", self.identity.len()),
            ("verdict", self.verdict.len()),
            ("drop_reason", self.drop_reason.len()),
            ("protocol", self.protocol.len()),
            ("port", self.port.len()),
            ("ip", self.ip.len()),
            ("policy", self.policy.len()),
        ];
        match lengths.into_iter().find(|&(_, length)| length > MAX_FILTER_VALUES) {
            Some((field, _)) => Err(FilterError::TooMany { field }),
            None => Ok(()),
        }
    }
}
