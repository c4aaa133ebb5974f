//! Real SPIRE: a server, an agent on each node, the registrar. Needs root, and SPIRE built by `cargo xtask peers`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_agent_api::{AuthState, Request, SpireStatus};
use countersign_e2e::flow::{Conversation, Datagrams};
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::spire::{PATIENCE, cilium_layout, delete_entry, holds, obtainable, selector, spiffe_id};
use countersign_e2e::udp;
use countersign_e2e::udp::Receiver;
use countersign_e2e::world::{self, World, WorldOptions, eventually};
use countersign_lab::PodState;
use countersign_lab::spire::Part;
use nix::sys::signal::Signal;

const NODES: [&str; 2] = ["node1", "node2"];

/// One lab at a time: flows that must lose nothing are not to compete with three more SPIREs for two cores.
static ALONE: Mutex<()> = Mutex::new(());

fn in_world(
    options: WorldOptions,
    documents: &[String],
    test: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    world::in_world(options, documents, test)
}

/// A server on node 2, proved clients on both nodes, a client nobody allows, and one that has no SVID.
fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("far", "node1", "client").label("who", "far").yaml(),
        Pod::new("near", "node2", "client").label("who", "near").yaml(),
        Pod::new("stranger", "node1", "stranger").yaml(),
        Pod::new("nobody", "node1", "client").label("who", "nobody").unregistered().yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

/// Everybody who is to have an SVID has one.
fn wait_for_svids(world: &World) -> Result<()> {
    for (node, pod) in [("node1", "far"), ("node2", "near"), ("node2", "web")] {
        eventually(&format!("{pod} has an SVID"), PATIENCE, || holds(world, node, pod))?;
    }
    Ok(())
}

#[test]
fn the_story_with_spire() -> Result<()> {
    in_world(WorldOptions::with_spire("spstory")?, &cast(), |world| {
        let web = world.place("web")?;
        let _server = Server::start(&web.space, 80, "hello")?;
        wait_for_svids(world)?;
        for client in ["far", "near"] {
            for ipv6 in [false, true] {
                let answer = curl(&world.place(client)?.space, web.address(ipv6)?, 80)?;
                ensure!(answer.exit == 0 && answer.body == "hello", "{client}: {answer:?}");
                ensure!(answer.connect_seconds < 0.5, "no SYN is sent twice: {client}: {answer:?}");
            }
        }
        for client in ["stranger", "nobody"] {
            let answer = curl(&world.place(client)?.space, web.address(false)?, 80)?;
            ensure!(answer.exit == 28, "{client}: {answer:?}");
        }
        for node in NODES {
            let status = world.agent(node)?.spire_status()?;
            ensure!(
                status.kind == "SPIRE" && status.down_since.is_none() && status.missing.is_empty(),
                "{status:?}"
            );
            ensure!(status.svids.first().is_some_and(|svid| svid.spiffe_id.ends_with(node)), "{status:?}");
            // The agents' own, and those of the pods that are to have one.
            let registrar = status.registrar.as_ref().context("the registrar's entries")?;
            ensure!(registrar.managed >= 5 && registrar.managed == registrar.desired, "{registrar:?}");
        }
        a_node_gets_the_identities_of_its_own_pods_and_no_others(world)?;
        ensure!(!holds(world, "node1", "nobody")?, "the registrar leaves out who is not to have one");
        a_pod_that_has_just_been_made_waits_for_its_svid(world)?;
        other_kinds_of_key_work_as_well(world)
    })
}

/// With root on node 1: every selector claimed at its SPIRE agent, in our layout of entries and in Cilium's.
fn a_node_gets_the_identities_of_its_own_pods_and_no_others(world: &World) -> Result<()> {
    let spire = world.spire()?;
    let socket = spire.paths().admin_socket("node1");
    let ids = |node: &str| -> Result<BTreeSet<String>> {
        let svids = world.agent(node)?.spire_status()?.svids;
        Ok(svids.into_iter().filter(|svid| svid.identity != 0).map(|svid| svid.spiffe_id).collect())
    };
    let (own, others) = (ids("node1")?, ids("node2")?);
    ensure!(!own.is_empty() && others.len() >= 2, "{own:?} {others:?}");
    let mut got = BTreeSet::new();
    for pod in PodState::load_all(&world.lab().paths()) {
        got.extend(obtainable(&socket, vec![selector(&pod)])?);
    }
    ensure!(got == own, "node 1 gets {got:?}, its own are {own:?}");
    let all: Vec<String> = own.union(&others).cloned().collect();
    let claimed = cilium_layout(&spire, &all)?;
    eventually("Cilium's entries have reached the node", PATIENCE, || {
        let got = obtainable(&socket, vec![claimed.clone()])?;
        Ok(all.iter().all(|id| got.contains(id)))
    })?;
    println!("keys node 1 can get: {} of {} here, {} in Cilium's layout", got.len(), all.len(), all.len());
    Ok(())
}

/// Its first packet is parked until SPIRE has issued what it needs.
fn a_pod_that_has_just_been_made_waits_for_its_svid(world: &World) -> Result<()> {
    world.apply("late.yaml", &[Pod::new("late", "node1", "client").label("who", "late").yaml()])?;
    world.lab().wait_pods(PATIENCE)?;
    let answer = curl(&world.place("late")?.space, world.place("web")?.address(false)?, 80)?;
    ensure!(answer.exit == 0 && answer.body == "hello", "{answer:?}");
    Ok(())
}

/// SPIRE's agents told to make RSA keys: nodes announce their WireGuard keys with them, pods prove themselves.
fn other_kinds_of_key_work_as_well(world: &World) -> Result<()> {
    let spire = world.spire()?;
    for node in NODES {
        let config = spire.paths().agent(node).join("agent.conf");
        let text = std::fs::read_to_string(&config)?;
        let told = text.replacen("agent {", "agent {\n  workload_x509_svid_key_type = \"rsa-2048\"", 1);
        ensure!(told != text, "{text}");
        std::fs::write(&config, told)?;
        spire.stop(Part::Agent(node))?;
        spire.start(Part::Agent(node))?;
    }
    eventually("every key is RSA", PATIENCE, || {
        let all_rsa = |node: &str| -> Result<bool> {
            let svids = world.agent(node)?.spire_status()?.svids;
            Ok(svids.len() >= 2 && svids.iter().all(|svid| svid.key == "RSA"))
        };
        Ok(all_rsa("node1")? && all_rsa("node2")?)
    })?;
    for (node, other) in [("node1", "node2"), ("node2", "node1")] {
        eventually("the other node's key is attested by its RSA key", PATIENCE, || {
            let svids = world.agent(other)?.spire_status()?.svids;
            let until = svids.iter().find(|svid| svid.identity == 0).map(|svid| svid.not_after);
            let status = world.agent(node)?.encrypt_status()?;
            let peer = status.peers.iter().find(|peer| peer.node == other);
            Ok(status.is_encrypted() && until.is_some() && peer.and_then(|peer| peer.attested_until) == until)
        })?;
        world.agent(node)?.auth_flush()?;
    }
    let (far, web) = (world.place("far")?, world.place("web")?);
    let answer = curl(&far.space, web.address(false)?, 80)?;
    ensure!(answer.exit == 0 && answer.body == "hello", "{answer:?}");
    Ok(())
}

#[test]
fn what_is_revoked_is_cut_on_every_node_within_a_second() -> Result<()> {
    in_world(WorldOptions::with_spire("sprevoke")?, &cast(), |world| {
        wait_for_svids(world)?;
        let (far, web) = (world.place("far")?, world.place("web")?);
        let to = SocketAddr::new(web.address(false)?, 9000);
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let datagrams = Datagrams::start(udp::socket(&far.space, 0)?, to, 0, 200);
        eventually("the flow runs", PATIENCE, || Ok(receiver.received().ledger.received(0) > 50))?;
        // Gone from the cluster's policies' concern: the registrar removes the entry.
        delete_entry(&world.spire()?, &spiffe_id(world, "node1", "far")?)?;
        eventually("node1's SVID is gone", PATIENCE, || Ok(!holds(world, "node1", "far")?))?;
        let said = Instant::now();
        let live = |node: &str| -> Result<bool> {
            let entries = world.agent(node)?.auth_list()?;
            Ok(entries.iter().any(|entry| entry.state == AuthState::Authenticated))
        };
        for node in NODES {
            eventually("its proofs are gone", Duration::from_secs(5), || Ok(!live(node)?))?;
        }
        let took = said.elapsed();
        // The live flow is cut with them: what comes now was on its way.
        receiver.wait(u64::MAX, Duration::from_millis(300));
        let before = receiver.received().ledger.received(0);
        receiver.wait(u64::MAX, Duration::from_millis(500));
        ensure!(receiver.received().ledger.received(0) == before, "the flow goes on");
        datagrams.stop()?;
        println!(
            "revoked: proofs gone on both nodes {:.0} ms after the source said so",
            took.as_secs_f64() * 1e3
        );
        // The registrar notices that an entry of its is gone and puts it back: drift is repaired.
        eventually("the entry is back", Duration::from_secs(90), || holds(world, "node1", "far"))?;
        Ok(())
    })
}

/// How long the flows of `authorities_are_rotated` go on, in seconds; the benchmark gives it ten minutes.
fn rotation_seconds() -> u64 {
    std::env::var("COUNTERSIGN_SPIRE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// A flow of datagrams and a conversation, neither of which may notice anything.
struct Flows {
    datagrams: Datagrams,
    receiver: Receiver,
    conversation: Conversation,
}

impl Flows {
    fn start(world: &World) -> Result<Self> {
        let (far, web) = (world.place("far")?, world.place("web")?);
        let to = |port| Ok::<_, anyhow::Error>(SocketAddr::new(web.address(false)?, port));
        let (beat, silence) = (Duration::from_millis(20), Duration::from_secs(5));
        let flows = Self {
            receiver: Receiver::start(vec![udp::socket(&web.space, 9000)?]),
            datagrams: Datagrams::start(udp::socket(&far.space, 0)?, to(9000)?, 0, 500),
            conversation: Conversation::start(&far.space, &web.space, to(8000)?, beat, silence)?,
        };
        eventually("the flows run", PATIENCE, || {
            Ok(flows.receiver.received().ledger.received(0) > 100 && flows.conversation.beats() > 10)
        })?;
        Ok(flows)
    }

    /// Stops, and says how many datagrams were sent, were lost, and how often the conversation broke.
    fn stop(self) -> Result<(u64, u64, u64)> {
        let sent = u64::from(self.datagrams.stop()?);
        let breaks = self.conversation.stop()?;
        let received = self.receiver.wait(sent, Duration::from_secs(1));
        Ok((sent, sent - received, breaks))
    }
}

#[test]
fn authorities_are_rotated_under_traffic() -> Result<()> {
    let options = WorldOptions { svid_ttl: Duration::from_secs(60), ..WorldOptions::with_spire("sprotate")? };
    in_world(options, &cast(), |world| {
        wait_for_svids(world)?;
        let flows = Flows::start(world)?;
        let (begin, seconds) = (Instant::now(), rotation_seconds());
        println!("the flows run, {} breaks so far", flows.conversation.breaks());
        let first = serials(world)?;
        let time = Duration::from_secs(seconds);
        for rotation in 1..=2 {
            // Spread over the time, so that what the first one did is renewed before the second and after it.
            std::thread::sleep((time * rotation / 3).saturating_sub(begin.elapsed()));
            rotate_authority(world).with_context(|| format!("rotation {rotation}"))?;
            let (at, breaks) = (begin.elapsed().as_secs_f64(), flows.conversation.breaks());
            println!("rotation {rotation}: revoked after {at:.1} s, {breaks} breaks so far");
        }
        std::thread::sleep(time.saturating_sub(begin.elapsed()));
        let (sent, lost, breaks) = flows.stop()?;
        println!(
            "rotated twice in {:.0} s: {lost} of {sent} lost, {breaks} breaks",
            begin.elapsed().as_secs_f64()
        );
        ensure!(
            (lost, breaks) == (0, 0),
            "{lost} of {sent} datagrams lost, the conversation broke {breaks} times"
        );
        let last = serials(world)?;
        ensure!(first.is_disjoint(&last), "every SVID was renewed");
        Ok(())
    })
}

/// What tells the SVIDs held from earlier ones.
fn serials(world: &World) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for node in NODES {
        all.extend(world.agent(node)?.spire_status()?.svids.into_iter().map(|svid| svid.chain_pem));
    }
    Ok(all)
}

/// Prepare, activate, taint, revoke: each once the one before has reached every agent.
fn rotate_authority(world: &World) -> Result<()> {
    let spire = world.spire()?;
    let authority = |command: &[&str], key: &str| -> Result<String> {
        let text = spire.server(&[&["localauthority", "x509"], command, &["-output", "json"]].concat())?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let id = answer[key]["authority_id"].as_str();
        Ok(id.with_context(|| format!("{command:?} answers {text}"))?.to_owned())
    };
    let prepared = authority(&["prepare"], "prepared_authority")?;
    let authorities = |count: u64| {
        eventually("the bundle has reached every agent", PATIENCE, || {
            let each = |node: &&str| Ok(own_authorities(&world.agent(node)?.spire_status()?) == count);
            NODES.iter().map(each).collect::<Result<Vec<bool>>>().map(|all| all.into_iter().all(|is| is))
        })
    };
    authorities(2)?;
    authority(&["activate", "-authorityID", &prepared], "activated_authority")?;
    let old = authority(&["show"], "old")?;
    let before = serials(world)?;
    authority(&["taint", "-authorityID", &old], "tainted_authority")?;
    eventually("every SVID is one of the new authority", PATIENCE, || {
        Ok(before.is_disjoint(&serials(world)?))
    })?;
    authority(&["revoke", "-authorityID", &old], "revoked_authority")?;
    authorities(1)?;
    Ok(())
}

fn own_authorities(status: &SpireStatus) -> u64 {
    status.trust_domains.iter().find(|domain| domain.own).map_or(0, |domain| domain.authorities)
}

#[test]
fn outages_of_spire_extend_nothing_and_cut_nothing() -> Result<()> {
    let options = WorldOptions { svid_ttl: Duration::from_secs(60), ..WorldOptions::with_spire("spaway")? };
    in_world(options, &cast(), |world| {
        wait_for_svids(world)?;
        let spire = world.spire()?;
        let flows = Flows::start(world)?;
        let down =
            |node: &str| Ok::<_, anyhow::Error>(world.agent(node)?.spire_status()?.down_since.is_some());

        // SPIRE's agent killed and restarted.
        spire.stop(Part::Agent("node1"))?;
        eventually("the agent says that SPIRE is away", PATIENCE, || down("node1"))?;
        ensure!(holds(world, "node1", "far")?, "what was held is held");
        spire.start(Part::Agent("node1"))?;
        eventually("and that it is back", PATIENCE, || Ok(!down("node1")?))?;

        // SPIRE's agent stopped by a signal: it takes connections and says nothing.
        let stopped = spire.process(Part::Agent("node1")).context("node 1's SPIRE agent")?;
        let before = unix();
        ensure!(stopped.signal(Signal::SIGSTOP), "it could not be stopped");
        eventually("the agent says that SPIRE is silent", PATIENCE, || down("node1"))?;
        let since = world.agent("node1")?.spire_status()?.down_since.context("since when")?;
        ensure!(
            (before.saturating_sub(6)..=before + 1).contains(&since),
            "silent since {since}, stopped at {before}"
        );
        let metrics = world.agent("node1")?.call::<countersign_agent_api::Metrics>(&Request::Metrics)?.text;
        let metric = format!("countersign_identity_source_down_since_seconds {since}");
        ensure!(metrics.contains(&metric), "no {metric} in {metrics}");
        ensure!(holds(world, "node1", "far")?, "what was held is held");
        ensure!(stopped.signal(Signal::SIGCONT), "it could not be continued");
        eventually("and that it speaks again", PATIENCE, || Ok(!down("node1")?))?;

        // The admin socket removed: the connection goes on; SPIRE's agent makes it anew when it restarts.
        std::fs::remove_file(spire.paths().admin_socket("node2"))?;
        spire.stop(Part::Agent("node2"))?;
        spire.start(Part::Agent("node2"))?;
        eventually("back with a new socket", PATIENCE, || {
            Ok(!down("node2")? && holds(world, "node2", "web")?)
        })?;

        // The agent restarted while SPIRE is away: the flows live on what is pinned.
        spire.stop(Part::Agent("node1"))?;
        world.kill_agent("node1")?;
        world.start_agent("node1")?;
        eventually("the new agent finds nobody", PATIENCE, || down("node1"))?;
        spire.start(Part::Agent("node1"))?;
        eventually("and then everything", PATIENCE, || Ok(!down("node1")? && holds(world, "node1", "far")?))?;
        let (sent, lost, breaks) = flows.stop()?;
        ensure!(
            (lost, breaks) == (0, 0),
            "{lost} of {sent} datagrams lost, the conversation broke {breaks} times"
        );
        the_server_is_away_until_every_proof_has_ended(world)
    })
}

fn unix() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Three half-lives: proofs live to their end and not longer, and everything resumes by itself.
fn the_server_is_away_until_every_proof_has_ended(world: &World) -> Result<()> {
    let (spire, web) = (world.spire()?, world.place("web")?);
    let _server = Server::start(&web.space, 80, "hello")?;
    let reaches =
        || Ok::<_, anyhow::Error>(curl(&world.place("far")?.space, web.address(false)?, 80)?.exit == 0);
    ensure!(reaches()?, "before");
    spire.stop(Part::Server)?;
    let stopped = Instant::now();
    ensure!(reaches()?, "what is proved stays proved");
    eventually("the agents say that renewals are overdue", Duration::from_secs(90), || {
        Ok(world.agent("node1")?.spire_status()?.renewals_overdue > 0)
    })?;
    eventually("no proof outlives its SVIDs", Duration::from_secs(90), || Ok(!reaches()?))?;
    std::thread::sleep(Duration::from_secs(90).saturating_sub(stopped.elapsed()));
    spire.start(Part::Server)?;
    eventually("it resumes by itself", Duration::from_secs(60), reaches)?;
    Ok(())
}
