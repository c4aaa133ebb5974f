//! The published conformance suite of NetworkPolicy, made into what a lab can be told: namespaces, pods on two nodes,
//! policies, and the verdict of every pair of pods and port.
//!
//! The suite's pods have addresses of their own; a lab's have the lab's. A block of addresses that holds all of the
//! suite's pods becomes one that holds all of the lab's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use countersign_lab::plan::Plan;
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

use crate::matrix::{Probe, Protocol};

/// One step of the suite: a state of the cluster.
#[derive(Debug)]
pub struct Step {
    value: Value,
    /// Its place in the suite.
    pub number: usize,
    /// Which ways its policies have of naming a peer.
    pub kinds: BTreeSet<String>,
}

/// One verdict of a step.
#[derive(Clone, Debug)]
pub struct Row {
    /// What to send.
    pub probe: Probe,
    /// Whether it must arrive.
    pub allowed: bool,
}

/// Reads the suite's steps from a file of compressed lines.
///
/// # Errors
/// Where it is not what it must be.
pub fn read(file: &Path) -> Result<Vec<Step>> {
    let data = std::fs::File::open(file).with_context(|| file.display().to_string())?;
    let lines = BufReader::new(GzDecoder::new(data)).lines().enumerate();
    let step = |(number, line): (usize, std::io::Result<String>)| {
        let value: Value = serde_json::from_str(&line?)?;
        let kinds = kinds(&value);
        Ok(Step { value, number, kinds })
    };
    lines.map(step).collect()
}

impl Step {
    /// What it is called: case, step within it, and what was done.
    #[must_use]
    pub fn name(&self) -> String {
        format!(
            "case {} step {} ({})",
            self.value["Case"],
            self.value["Step"],
            text(&self.value["Description"])
        )
    }

    /// Its pods, as `namespace/name`.
    pub fn pods(&self) -> impl Iterator<Item = &str> {
        fields(&self.value["PodLabels"]).map(|(pod, _)| pod.as_str())
    }

    /// Namespaces and pods as manifests: half of the pods on each node.
    #[must_use]
    pub fn cast(&self) -> Vec<String> {
        let namespaces = fields(&self.value["Namespaces"]).map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        });
        let pods = fields(&self.value["PodLabels"]).map(|(pod, labels)| manifest(pod, labels));
        namespaces.chain(pods).map(|value| format!("{value}\n")).collect()
    }

    /// The labels that the identity of each pod must have: its own, and its namespace's.
    #[must_use]
    pub fn identities(&self) -> BTreeMap<String, BTreeSet<String>> {
        let of = |(pod, labels): (&String, &Value)| {
            let namespace = pod.split('/').next().unwrap_or_default();
            let own = fields(labels).map(|(key, value)| format!("k8s:{key}={}", text(value)));
            let around = fields(&self.value["Namespaces"][namespace])
                .map(|(key, value)| format!("k8s:io.cilium.k8s.namespace.labels.{key}={}", text(value)));
            (pod.clone(), own.chain(around).collect())
        };
        fields(&self.value["PodLabels"]).map(of).collect()
    }

    /// Its policies as manifests, by the names they have here: no two steps share one.
    ///
    /// # Errors
    /// Where a policy has a block of addresses that means nothing in a lab.
    pub fn policies(&self, plan: Plan) -> Result<BTreeMap<(String, String), String>> {
        let mut found = BTreeMap::new();
        for policy in self.value["Policies"].as_array().context("no policies")? {
            let mut policy = policy.clone();
            let name = format!("s{}-{}", self.number, text(&policy["metadata"]["name"]));
            let namespace = text(&policy["metadata"]["namespace"]);
            // Some of the suite's policies leave out what they are.
            policy["apiVersion"] = json!("networking.k8s.io/v1");
            policy["kind"] = json!("NetworkPolicy");
            policy["metadata"] = json!({"name": name, "namespace": namespace});
            move_blocks(&mut policy, plan)?;
            found.insert((namespace, name), format!("{policy}\n"));
        }
        Ok(found)
    }

    /// Every verdict.
    ///
    /// # Errors
    /// Where a row is not what it must be.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let rows = self.value["Verdicts"].as_array().context("no verdicts")?;
        rows.iter().map(row).collect()
    }
}

fn row(row: &Value) -> Result<Row> {
    let port = row["Port"].as_u64().and_then(|port| u16::try_from(port).ok()).context("no port")?;
    let protocol = match row["Proto"].as_str() {
        Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => bail!("no protocol: {row}"),
    };
    let probe = Probe { from: text(&row["From"]), to: text(&row["To"]), protocol, port };
    // A pod reaches itself whatever policies say; the suite's rows for that are what its peers would be told.
    let allowed = probe.from == probe.to || row["Combined"] == "allowed";
    Ok(Row { probe, allowed })
}

fn manifest(pod: &str, labels: &Value) -> Value {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    let ports: Vec<Value> = Protocol::ALL
        .iter()
        .flat_map(|protocol| {
            [80, 81].map(|port| {
                let name = format!("serve-{port}-{}", protocol.name().to_lowercase());
                json!({"name": name, "containerPort": port, "protocol": protocol.name()})
            })
        })
        .collect();
    // Pairs of one node and pairs of two, within each namespace and between them.
    let second = matches!((namespace, name), (_, "b") | ("y", "c"));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": if second { "node2" } else { "node1" },
            "containers": [{"name": "c", "image": "host", "ports": ports}],
        },
    })
}

/// Blocks around the suite's pods become blocks around the lab's.
fn move_blocks(value: &mut Value, plan: Plan) -> Result<()> {
    match value {
        Value::Array(items) => items.iter_mut().try_for_each(|item| move_blocks(item, plan)),
        Value::Object(fields) => {
            if let Some(block) = fields.get_mut("ipBlock").and_then(Value::as_object_mut) {
                return move_block(block, plan);
            }
            fields.values_mut().try_for_each(|value| move_blocks(value, plan))
        }
        _ => Ok(()),
    }
}

fn move_block(block: &mut Map<String, Value>, plan: Plan) -> Result<()> {
    let cidr = block.get_mut("cidr").context("an ipBlock without a cidr")?;
    *cidr = moved(cidr, plan)?;
    if let Some(Value::Array(except)) = block.get_mut("except") {
        for part in except {
            *part = moved(part, plan)?;
        }
    }
    Ok(())
}

fn moved(cidr: &Value, plan: Plan) -> Result<Value> {
    // The pod networks of the nodes 1 and 2 are the second and third /24 of it.
    let first = plan.pod(0, 0).0;
    match cidr.as_str() {
        Some("192.168.1.0/24") => Ok(json!(format!("{first}/21"))),
        Some("192.168.1.0/28") => Ok(json!(format!("{first}/22"))),
        // Everything, and nothing.
        Some("0.0.0.0/0" | "0.0.0.0/31") => Ok(cidr.clone()),
        _ => bail!("the block {cidr} means nothing in a lab"),
    }
}

/// The ways in which the policies of a step name peers, ports and pods: which selectors, and what each asks for.
fn kinds(step: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for policy in step["Policies"].as_array().into_iter().flatten() {
        for (list, way) in [("ingress", "from"), ("egress", "to")] {
            for rule in policy["spec"][list].as_array().into_iter().flatten() {
                match rule[way].as_array().filter(|peers| !peers.is_empty()) {
                    None => drop(found.insert(format!("{list}: everybody"))),
                    Some(peers) => found.extend(peers.iter().map(|peer| format!("{list}: {}", kind(peer)))),
                }
            }
        }
    }
    found
}

fn kind(peer: &Value) -> String {
    let of = |(field, value): (&String, &Value)| match field.as_str() {
        "ipBlock" if value["except"].as_array().is_some_and(|except| !except.is_empty()) => {
            "block less".to_owned()
        }
        "ipBlock" => "block".to_owned(),
        _ => {
            let labels = fields(&value["matchLabels"]).next().map(|_| "labels".to_owned());
            let operators = value["matchExpressions"].as_array().into_iter().flatten();
            let asked: BTreeSet<String> =
                labels.into_iter().chain(operators.map(|one| text(&one["operator"]))).collect();
            format!("{field} {}", asked.into_iter().collect::<Vec<_>>().join("+"))
        }
    };
    fields(peer).filter(|(_, value)| !value.is_null()).map(of).collect::<Vec<_>>().join(", ")
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stay_around_the_pods() {
        let plan = Plan::new(3);
        let block =
            |cidr: &str, except: Value| json!({"spec": {"ipBlock": {"cidr": cidr, "except": except}}});
        let mut policy = block("192.168.1.0/24", json!(["192.168.1.0/28"]));
        move_blocks(&mut policy, plan).unwrap();
        assert_eq!(policy, block("10.67.0.0/21", json!(["10.67.0.0/22"])));
        assert!(move_blocks(&mut block("192.0.2.0/24", json!([])), plan).is_err());
    }

    #[test]
    fn kinds_of_peer_are_told_apart() {
        let step = json!({"Policies": [{"spec": {
            "ingress": [{"from": [
                {"podSelector": {"matchLabels": {"a": "b"}}},
                {"podSelector": {"matchLabels": {"c": "d"}}},
                {"podSelector": {}, "namespaceSelector": {"matchExpressions": [{"operator": "In"}]}},
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["0.0.0.0/31"]}},
            ]}],
            "egress": [{}],
        }}]});
        let found: Vec<String> = kinds(&step).into_iter().collect();
        assert_eq!(
            found,
            [
                "egress: everybody",
                "ingress: block less",
                "ingress: namespaceSelector In, podSelector ",
                "ingress: podSelector labels"
            ]
        );
    }
}
