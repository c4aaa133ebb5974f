//! NetworkPolicy against a published conformance suite: 256 steps, 123,669 verdicts, every one of them right.
//!
//! A line of the data is one step: policies, namespaces, pods, and the verdict of every pair of pods, protocol and
//! port. Pods have containers that name the ports 80 and 81 of each protocol `serve-<port>-<protocol>`.

use std::io::{BufRead, BufReader};

use countersign_policy::Settings;
use countersign_policy::verdicts::{Flow, Manifests, Outcome, World};
use countersign_policy::yaml::Document;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

const DATA: &[u8] = include_bytes!("data/networkpolicy-verdicts.jsonl.gz");

fn world(step: &Value) -> World {
    let mut manifests = Manifests::new(Settings::default());
    let mut add = |value: Value| manifests.add(&Document::from_value(value)).unwrap();
    for (name, labels) in step["Namespaces"].as_object().unwrap() {
        add(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
    }
    for (pod, labels) in step["PodLabels"].as_object().unwrap() {
        let (namespace, name) = pod.split_once('/').unwrap();
        let ports: Vec<Value> = ["TCP", "UDP", "SCTP"]
            .iter()
            .flat_map(|protocol| {
                [80, 81].map(|port| {
                    let name = format!("serve-{port}-{}", protocol.to_lowercase());
                    json!({"name": name, "containerPort": port, "protocol": protocol})
                })
            })
            .collect();
        add(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {"podIP": step["PodIPs"][pod]},
        }));
    }
    for policy in step["Policies"].as_array().unwrap() {
        // Some of the suite's policies leave out what they are.
        let mut policy = policy.clone();
        policy["apiVersion"] = json!("networking.k8s.io/v1");
        policy["kind"] = json!("NetworkPolicy");
        add(policy);
    }
    World::new(manifests)
}

fn outcome(text: &Value) -> Outcome {
    if text == "allowed" { Outcome::Allowed } else { Outcome::Denied }
}

#[test]
fn every_verdict_of_the_suite() {
    let (mut steps, mut verdicts, mut wrong) = (0, 0, Vec::new());
    for line in BufReader::new(GzDecoder::new(DATA)).lines() {
        let step: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let mut world = world(&step);
        for row in step["Verdicts"].as_array().unwrap() {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            let port = u16::try_from(row["Port"].as_u64().unwrap()).unwrap();
            let flow = Flow { from: text("From"), to: text("To"), protocol: text("Proto"), port };
            let got = world.verdict(&flow).unwrap();
            let expected = if row["From"] == row["To"] {
                [Outcome::Allowed; 3]
            } else {
                [outcome(&row["Egress"]), outcome(&row["Ingress"]), outcome(&row["Combined"])]
            };
            verdicts += 1;
            if [got.egress, got.ingress, got.verdict] != expected {
                wrong.push(format!("{} {}: {row} is {got:?}", step["Case"], step["Description"]));
            }
        }
        steps += 1;
    }
    assert_eq!((steps, verdicts), (256, 123_669));
    println!("{verdicts} verdicts, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}
