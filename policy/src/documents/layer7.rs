//! What of a port rule lies above ports: rules for HTTP, Kafka and DNS, TLS, names of servers, listeners.
//!
//! None of it can be enforced without a proxy, which is not built yet. It is read all the same, so that a slip of
//! the pen is found, and the ports that it is about are withheld.

use super::Context;
use super::ports::Side;
use crate::fields::{Field, Object, Result};
use crate::model::{Action, Direction};

/// What there is above the ports of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Above {
    /// Anything at all: the ports cannot be allowed as they are.
    pub(super) any: bool,
    /// What speaks TCP and nothing else: HTTP, Kafka, TLS.
    pub(super) tcp_only: bool,
    /// Rules for a protocol, which need ports and no ranges of DNS ports.
    pub(super) rules: bool,
}

const PROXY: &str = "needs the proxy, which is not built yet";

const HTTP: [&str; 5] = ["path", "method", "host", "headers", "headerMatches"];
const KAFKA: [&str; 5] = ["role", "apiKey", "apiVersion", "clientID", "topic"];
const DNS: [&str; 2] = ["matchName", "matchPattern"];

/// Reads everything above ports, with a note for each field that is there.
pub(super) fn read(context: &mut Context<'_>, rule: &mut Object<'_>, side: Side) -> Result<Above> {
    let (rules, names) = (rule.get("rules"), rule.get("serverNames"));
    let (terminating, originating) = (rule.get("terminatingTLS"), rule.get("originatingTLS"));
    let listener = rule.get("listener");
    let there = [&rules, &names, &terminating, &originating, &listener];
    if let (Action::Deny, Some(field)) = (side.action, there.iter().find_map(|field| field.as_ref())) {
        return Err(field.error("cannot stand in a rule that denies", "deny the ports, or allow less"));
    }
    if let (Some(rules), Some(listener)) = (&rules, &listener) {
        let hint = format!("write two rules; `{}` is the other", rules.path());
        return Err(listener.error("cannot stand beside `rules`", hint));
    }
    let mut above = Above::default();
    if let Some(field) = &rules {
        above = protocol_rules(context, field, side)?;
    }
    if let Some(field) = &names {
        server_names(field)?;
        context.missing(field, PROXY);
        above = Above { any: true, tcp_only: true, ..above };
    }
    for field in [terminating, originating].iter().flatten() {
        tls(field)?;
        context.missing(field, PROXY);
        above = Above { any: true, tcp_only: true, ..above };
    }
    if let Some(field) = &listener {
        self::listener(field, side)?;
        context.missing(field, PROXY);
        above.any = true;
    }
    Ok(above)
}

fn protocol_rules(context: &mut Context<'_>, field: &Field<'_>, side: Side) -> Result<Above> {
    let mut rules = field.object()?;
    let names = ["http", "kafka", "dns", "l7", "l7proto"];
    let lists = names.map(|name| rules.get(name));
    rules.finish(&[])?;
    let [http, kafka, dns, generic, proto] = &lists;
    let kinds = [http.is_some(), kafka.is_some(), dns.is_some(), generic.is_some() || proto.is_some()];
    match kinds.iter().filter(|there| **there).count() {
        0 => context.missing(
            field,
            "is there and empty, as rules are that an API server has pruned (it does not know `kafka`)",
        ),
        1 => context.missing(field, PROXY),
        _ => return Err(field.error("holds rules for more than one protocol", "write two rules")),
    }
    for (list, known) in [(http, &HTTP[..]), (kafka, &KAFKA), (dns, &DNS)] {
        for item in list.as_ref().map_or(Ok(Vec::new()), Field::items)? {
            check_item(&item, known)?;
        }
    }
    if let Some(proto) = proto {
        proto.string()?;
    }
    if let (Some(dns), Direction::Ingress) = (dns, side.direction) {
        return Err(dns.error("can stand in egress rules only", "the sender of a query is whom it restricts"));
    }
    Ok(Above { any: true, tcp_only: http.is_some() || kafka.is_some(), rules: kinds.contains(&true) })
}

/// One rule for a protocol: known fields, strings where strings belong.
fn check_item(item: &Field<'_>, known: &[&'static str]) -> Result<()> {
    let mut rule = item.object()?;
    for name in known {
        let Some(field) = rule.get(name) else { continue };
        match *name {
            "headers" => drop(field.strings()?),
            "headerMatches" => drop(field.items()?),
            _ => drop(field.string()?),
        }
    }
    rule.finish(&[])
}

fn server_names(field: &Field<'_>) -> Result<()> {
    let names = field.strings()?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '*');
    if names.is_empty() || names.iter().any(|name| name.is_empty() || !name.chars().all(good)) {
        return Err(field.error("must be names of servers", "letters, digits, `-`, `.`, `_` and `*`"));
    }
    Ok(())
}

fn tls(field: &Field<'_>) -> Result<()> {
    let mut tls = field.object()?;
    let mut secret = tls.required("secret")?.object()?;
    secret.required("name")?.name()?;
    secret.get("namespace").map_or(Ok(""), |namespace| namespace.name())?;
    secret.finish(&[])?;
    for name in ["trustedCA", "certificate", "privateKey"] {
        tls.get(name).map_or(Ok(""), |field| field.string())?;
    }
    tls.finish(&[])
}

fn listener(field: &Field<'_>, side: Side) -> Result<()> {
    if side.direction == Direction::Ingress {
        return Err(field.error("can stand in egress rules only", ""));
    }
    let mut listener = field.object()?;
    let mut config = listener.required("envoyConfig")?.object()?;
    config.get("kind").map_or(Ok(""), |kind| kind.string())?;
    config.required("name")?.string()?;
    config.finish(&[])?;
    listener.required("name")?.string()?;
    listener.get("priority").map_or(Ok(1), |priority| priority.integer(1..=100))?;
    listener.finish(&[])
}
