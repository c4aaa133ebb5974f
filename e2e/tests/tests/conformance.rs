//! The conformance suite of NetworkPolicy through the real datapath: the steps with the most kinds of peer, every pair
//! of pods, every protocol and port, with real packets. Needs root.
//!
//! `CS_CONFORMANCE_STEPS=256` runs all of the suite.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_agent_api::{IdentityEntry, IpcacheEntry, Metrics, PolicyView, Request};
use countersign_e2e::agent::Agent;
use countersign_e2e::matrix::Matrix;
use countersign_e2e::suite::{self, Row, Step};
use countersign_e2e::world::{World, WorldOptions, eventually};

/// Steps that are run.
const STEPS: usize = 64;
const PORTS: [u16; 2] = [80, 81];
const SOON: Duration = Duration::from_secs(30);
const DATA: &str = "../../policy/tests/data/networkpolicy-verdicts.jsonl.gz";

/// The steps with the most kinds of peer, in the order of the suite.
fn chosen() -> Result<Vec<Step>> {
    let count =
        std::env::var("CS_CONFORMANCE_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STEPS);
    let mut steps = suite::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(DATA))?;
    ensure!(steps.len() == 256, "{} steps", steps.len());
    steps.sort_by_key(|step| (std::cmp::Reverse(step.kinds.len()), step.number));
    steps.truncate(count);
    steps.sort_by_key(|step| step.number);
    Ok(steps)
}

struct Stage {
    world: World,
    agents: Vec<Agent>,
    matrix: Matrix,
    /// The labels of the identities of the pods that are there.
    cast: BTreeMap<String, BTreeSet<String>>,
}

impl Stage {
    fn new(first: &Step) -> Result<Self> {
        let world = World::up(WorldOptions::new("conformance")?, &first.cast())?;
        let agents = ["node1", "node2"].iter().map(|node| world.agent(node)).collect::<Result<_>>()?;
        Ok(Self { world, agents, matrix: Matrix::new(&PORTS), cast: BTreeMap::new() })
    }

    /// Makes the cluster what the step says, and waits until it is in force.
    fn set(&mut self, step: &Step) -> Result<()> {
        let cast = step.identities();
        if cast != self.cast {
            self.world.apply("all.yaml", &step.cast())?;
            self.world.lab().wait_pods(SOON)?;
            for gone in self.cast.keys().filter(|pod| !cast.contains_key(*pod)) {
                self.world.lab().wait_gone(gone, SOON)?;
            }
            self.wait_identities(&cast)?;
            self.matrix.set_pods(step.pods(), |pod| self.world.place(pod))?;
            self.cast = cast;
        }
        let policies = step.policies(self.world.lab().config().plan())?;
        let documents: Vec<String> = policies.values().cloned().collect();
        self.world.apply("policies.yaml", &documents)?;
        let wanted: BTreeSet<&(String, String)> = policies.keys().collect();
        for agent in &self.agents {
            eventually("the policies are in force", SOON, || {
                let view: PolicyView = agent.call(&Request::PolicyGet)?;
                let known: Vec<(String, String)> =
                    view.documents.into_iter().map(|document| (document.namespace, document.name)).collect();
                Ok(known.iter().collect::<BTreeSet<_>>() == wanted)
            })?;
        }
        Ok(())
    }

    /// Both nodes know the identity behind each pod's addresses, and it has these labels.
    fn wait_identities(&self, cast: &BTreeMap<String, BTreeSet<String>>) -> Result<()> {
        for agent in &self.agents {
            eventually("the pods' identities are known", SOON, || {
                let known: Vec<IpcacheEntry> = agent.list(&Request::IpcacheList)?;
                let known: BTreeMap<_, u32> =
                    known.iter().map(|entry| (entry.address, entry.identity)).collect();
                let identities: Vec<IdentityEntry> = agent.list(&Request::IdentityList)?;
                let labels: BTreeMap<u32, Vec<String>> =
                    identities.into_iter().map(|i| (i.id, i.labels)).collect();
                for (pod, wanted) in cast {
                    let ips = self.world.place(pod)?.ips;
                    let fits =
                        |ip| known.get(ip).and_then(|id| labels.get(id)).is_some_and(|l| fit(l, wanted));
                    if !ips.iter().all(fits) {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Packets that the programs of both nodes have dropped because of policy.
    fn dropped(agents: &[Agent]) -> Result<u64> {
        let mut sum = 0;
        for agent in agents {
            let Metrics { text } = agent.call(&Request::Metrics)?;
            let of_policy = |line: &&str| {
                line.starts_with("countersign_dropped_packets_total{") && line.contains("reason=\"POLICY_DEN")
            };
            for line in text.lines().filter(of_policy) {
                let (_, number) = line.rsplit_once(' ').context("a counter without a number")?;
                sum += number.parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    /// Every probe of a step; returns what came out wrong.
    fn probe(&mut self, step: &Step, rows: &[Row]) -> Result<Vec<String>> {
        let probes: Vec<_> = rows.iter().map(|row| row.probe.clone()).collect();
        let expected: Vec<bool> = rows.iter().map(|row| row.allowed).collect();
        let agents = &self.agents;
        let arrived = self.matrix.round(&probes, &expected, || Self::dropped(agents))?;
        let wrong = rows.iter().zip(arrived).filter(|(row, arrived)| row.allowed != *arrived);
        let told = |(row, arrived): (&Row, bool)| {
            let (probe, is) = (&row.probe, if arrived { "let through" } else { "denied" });
            let pair = format!("{} -> {} {}/{}", probe.from, probe.to, probe.protocol.name(), probe.port);
            format!("{}: {pair} is {is}", step.name())
        };
        Ok(wrong.map(told).collect())
    }
}

/// Whether an identity has these labels, and no others of pods and namespaces that could choose it.
fn fit(labels: &[String], wanted: &BTreeSet<String>) -> bool {
    let own = |label: &&String| {
        let of_namespace = label.strip_prefix("k8s:io.cilium.k8s.namespace.labels.");
        // The API server gives every namespace its name as a label, whether the suite says so or not.
        of_namespace
            .map_or(!label.contains("io.c") && !label.contains("io.k"), |l| !l.starts_with("kubernetes.io/"))
    };
    let wanted = wanted.iter().filter(own).collect::<BTreeSet<_>>();
    labels.iter().filter(own).collect::<BTreeSet<_>>() == wanted
}

#[test]
fn every_verdict_of_the_suite_through_the_datapath() -> Result<()> {
    let steps = chosen()?;
    let mut stage = Stage::new(steps.first().context("no steps")?)?;
    let (mut verdicts, mut wrong) = (0, Vec::new());
    for step in &steps {
        let rows = step.rows()?;
        let run = stage.set(step).and_then(|()| stage.probe(step, &rows));
        wrong.extend(run.with_context(|| step.name()).inspect_err(|_| stage.world.show_logs())?);
        verdicts += rows.len();
    }
    println!("{} cases, {verdicts} verdicts, {} wrong", steps.len(), wrong.len());
    ensure!(wrong.is_empty(), "{}", wrong[..wrong.len().min(50)].join("\n"));
    Ok(())
}
