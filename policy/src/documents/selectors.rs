//! Label selectors: keys with their sources, and the scope that each kind of document adds.

use super::Context;
use crate::fields::{Field, Object, Result};
use crate::labels::{CLUSTER, NAMESPACE_LABELS, POD_NAMESPACE, Source};
use crate::objects::good_label_value;
use crate::selector::{Operator, Requirement, Selector};

/// A key of a selector: its source (none is any) and the key proper.
pub(super) type Key = (Option<Source>, String);

/// Reads `matchLabels` and `matchExpressions`; `key` says what a key means.
pub(super) fn requirements(
    field: &Field<'_>,
    key: &dyn Fn(&Field<'_>, &str) -> Result<Key>,
) -> Result<Vec<Requirement>> {
    let mut selector = field.object()?;
    let (mut labels, mut expressions) = both(&mut selector, key)?;
    selector.finish(&[])?;
    labels.append(&mut expressions);
    Ok(labels)
}

type Both = (Vec<Requirement>, Vec<Requirement>);

fn both(selector: &mut Object<'_>, key: &dyn Fn(&Field<'_>, &str) -> Result<Key>) -> Result<Both> {
    let (mut labels, mut expressions) = (Vec::new(), Vec::new());
    if let Some(map) = selector.get("matchLabels") {
        for (text, value) in map.object()?.entries() {
            let (source, key) = key(&value, text)?;
            labels.push(Requirement { key, source, operator: Operator::In(vec![label_value(&value)?]) });
        }
    }
    for expression in selector.get("matchExpressions").map_or(Ok(Vec::new()), |list| list.items())? {
        expressions.push(match_expression(&expression, key)?);
    }
    Ok((labels, expressions))
}

fn label_value(field: &Field<'_>) -> Result<String> {
    let value = field.string()?;
    if good_label_value(value) {
        return Ok(value.to_owned());
    }
    Err(field.error("is not the value of a label", "letters, digits, `-`, `_` and `.`, at most 63"))
}

fn match_expression(field: &Field<'_>, key: &dyn Fn(&Field<'_>, &str) -> Result<Key>) -> Result<Requirement> {
    let mut expression = field.object()?;
    let text = expression.required("key")?;
    let (source, key) = key(&text, text.string()?)?;
    let operator = expression.required("operator")?;
    let listed = expression.get("values");
    expression.finish(&[])?;
    let values: Vec<String> = match &listed {
        Some(list) => list.items()?.iter().map(label_value).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let name = operator.string()?;
    let operator = match name {
        "In" | "NotIn" if values.is_empty() => {
            return Err(field.error(format!("`{name}` needs `values`"), ""));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            return Err(field.error(format!("`{name}` takes no `values`"), ""));
        }
        "In" => Operator::In(sorted(values)),
        "NotIn" => Operator::NotIn(sorted(values)),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return Err(operator.error("is not an operator", "In, NotIn, Exists or DoesNotExist")),
    };
    Ok(Requirement { key, source, operator })
}

fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort();
    values.dedup();
    values
}

/// A key of a Cilium selector: `source:key`, without a source any.
fn cilium_key(field: &Field<'_>, text: &str) -> Result<Key> {
    let (source, key) = match text.split_once(':') {
        None => (None, text),
        Some(("any", key)) => (None, key),
        Some((source, key)) => match Source::named(source) {
            Some(source) => (Some(source), key),
            None => {
                let hint = "k8s:, any: and reserved: are those in use";
                return Err(field.error(format!("`{source}:` is not a source of labels"), hint));
            }
        },
    };
    if key.is_empty() {
        return Err(field.error("the key is empty", ""));
    }
    Ok((source, key.to_owned()))
}

/// A key of a NetworkPolicy's `podSelector`.
pub(super) fn pod_key(_: &Field<'_>, text: &str) -> Result<Key> {
    Ok((Some(Source::K8s), text.to_owned()))
}

/// A key of a NetworkPolicy's `namespaceSelector`.
pub(super) fn namespace_key(_: &Field<'_>, text: &str) -> Result<Key> {
    Ok((Some(Source::K8s), format!("{NAMESPACE_LABELS}{text}")))
}

fn names_namespace(requirement: &Requirement) -> bool {
    requirement.key == POD_NAMESPACE && requirement.source != Some(Source::Reserved)
}

/// The endpoints a Cilium rule is for. A namespaced policy never gets out of its namespace: the namespace that
/// its `matchLabels` name is replaced by its own, and expressions can only narrow.
pub(super) fn subject(context: &mut Context<'_>, field: &Field<'_>) -> Result<Selector> {
    let mut selector = field.object()?;
    let (mut labels, mut expressions) = both(&mut selector, &cilium_key)?;
    selector.finish(&[])?;
    if let Some(namespace) = context.namespace.clone() {
        let own = Requirement::equals(Source::K8s, POD_NAMESPACE, &namespace);
        if labels.iter().any(|label| names_namespace(label) && label.operator != own.operator) {
            context
                .note(field, format!("names another namespace; the policy is for pods in {namespace} only"));
        }
        labels.retain(|label| !names_namespace(label));
        labels.push(own);
    }
    labels.append(&mut expressions);
    Ok(Selector::labels(labels))
}

/// One entry of `fromEndpoints` or `toEndpoints`, within the scope that the document gives it: its own namespace,
/// or, for a cluster-wide one, any; and its own cluster. One that names a `reserved:` label is left as it is.
/// Nothing where it selects by what cannot be known.
pub(super) fn peer(context: &mut Context<'_>, field: &Field<'_>) -> Result<Option<Selector>> {
    let mut selector = field.object()?;
    let (mut found, mut expressions) = both(&mut selector, &cilium_key)?;
    found.append(&mut expressions);
    let namespaces = selector.get("namespaceSelector");
    selector.finish(&[])?;
    if let Some(namespaces) = namespaces {
        found.append(&mut requirements(&namespaces, &namespace_key)?);
        found.push(Requirement::exists(Source::K8s, POD_NAMESPACE));
        context.note(
            &namespaces,
            "read as labels of namespaces (`k8s:io.cilium.k8s.namespace.labels.…`); Cilium does not know it",
        );
    }
    if found.iter().any(|requirement| requirement.source.is_some_and(is_elsewhere)) {
        context.missing(field, "selects by labels that only addresses, names or nodes have; use CIDR rules");
        return Ok(None);
    }
    Ok(Some(scoped(context, found)))
}

/// Labels of what has no identity of its own yet.
fn is_elsewhere(source: Source) -> bool {
    matches!(source, Source::Cidr | Source::CidrGroup | Source::Fqdn | Source::Node)
}

fn scoped(context: &Context<'_>, mut found: Vec<Requirement>) -> Selector {
    if found.iter().any(|requirement| requirement.source == Some(Source::Reserved)) {
        return Selector::labels(found);
    }
    let by_namespace = found.iter().any(names_namespace);
    let by_its_labels = found.iter().any(|requirement| requirement.key.starts_with(NAMESPACE_LABELS));
    match &context.namespace {
        _ if by_namespace => {}
        None => found.push(Requirement::exists(Source::K8s, POD_NAMESPACE)),
        Some(_) if by_its_labels => {}
        Some(namespace) => found.push(Requirement::equals(Source::K8s, POD_NAMESPACE, namespace)),
    }
    if !found.iter().any(|requirement| requirement.key == CLUSTER) {
        found.push(Requirement::equals(Source::K8s, CLUSTER, &context.settings.cluster));
    }
    Selector::labels(found)
}
