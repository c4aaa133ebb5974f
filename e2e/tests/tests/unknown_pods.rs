//! A pod speaks before the other node has heard of it: what it says is neither lost nor let through unjudged. Needs
//! root.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use countersign_agent_api::{Flow, FlowEvent, FlowFilter, ObserveRequest};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::news::freeze;
use countersign_e2e::probe::Probe;
use countersign_e2e::sequence::Totals;
use countersign_e2e::tcp::{self, Acceptor};
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 9000;
/// Datagrams of each flow.
const COUNT: u32 = 20;
/// Parked packets are dropped after 5 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// One server asks for a proof, one lets clients in without, one lets everybody in but the attacker.
fn cast() -> Vec<String> {
    let rule = |required| Rule { peer: "client", ports: &[], required };
    let all_but = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: open\nspec:\n  \
        endpointSelector:\n    matchLabels:\n      app: open\n  ingress:\n  - fromEndpoints:\n    - {}\n  \
        ingressDeny:\n  - fromEndpoints:\n    - matchLabels:\n        app: attacker\n";
    vec![
        Pod::new("proof", "node2", "proof").yaml(),
        Pod::new("plain", "node2", "plain").yaml(),
        Pod::new("open", "node2", "open").yaml(),
        policy("proof", "proof", &[rule(true)], &[]),
        policy("plain", "plain", &[rule(false)], &[]),
        all_but.to_owned(),
    ]
}

const SERVERS: [&str; 3] = ["proof", "plain", "open"];

/// Sends datagrams of flow `flow` to the server of that number.
fn send(world: &World, pod: &str, flow: u32) -> Result<()> {
    let socket = udp::socket(&world.place(pod)?.space, 0)?;
    let server = world.place(SERVERS[flow as usize])?.address(false)?;
    for number in 0..COUNT {
        socket.send_to(&Probe::now(flow, number).encode(), udp::mapped(SocketAddr::new(server, PORT)))?;
    }
    Ok(())
}

/// What node 2 says of a pod's packets.
fn flows(world: &World, pod: &str) -> Result<Vec<Flow>> {
    let address = world.place(pod)?.address(false)?;
    let filter = FlowFilter { ip: vec![address.into()], ..FlowFilter::default() };
    let events = world.agent("node2")?.observe(ObserveRequest { last: 4_000, follow: false, filter })?;
    let flow = |event| match event {
        FlowEvent::Flow(flow) => Some(flow),
        FlowEvent::Lost { .. } => None,
    };
    Ok(events.into_iter().filter_map(flow).collect())
}

/// How many servers' packets of the pod were parked because nobody knew it.
fn parked(world: &World, pod: &str) -> Result<usize> {
    let is = |flow: &&Flow| flow.event_type == "address-unknown" && flow.verdict == "REDIRECTED";
    Ok(flows(world, pod)?.iter().filter(is).count())
}

/// How many were dropped for a reason.
fn dropped(world: &World, pod: &str, reason: &str) -> Result<usize> {
    let is = |flow: &&Flow| flow.verdict == "DROPPED" && flow.drop_reason_desc == reason;
    Ok(flows(world, pod)?.iter().filter(is).count())
}

#[test]
fn what_a_new_pod_says_waits_until_the_other_node_knows_it() -> Result<()> {
    in_world(WorldOptions::new("late")?, &cast(), |world| {
        let space = |server: &str| world.place(server).map(|place| place.space);
        let sockets = SERVERS.iter().map(|server| udp::socket(&space(server)?, PORT));
        let receiver = Receiver::start(sockets.collect::<Result<_>>()?);
        let acceptor = Acceptor::start(vec![tcp::listen(&space("proof")?, PORT)?]);
        let to = SocketAddr::new(world.place("proof")?.address(false)?, PORT);

        let frozen = freeze(world, "node2")?;
        let pods = [("client", "client"), ("attacker", "attacker")];
        world.apply("new.yaml", &pods.map(|(name, app)| Pod::new(name, "node1", app).yaml()))?;
        world.lab().wait_pods(SOON)?;
        (0..3).try_for_each(|flow| send(world, "client", flow))?;
        let socket = tcp::sockets(&world.place("client")?.space, to, 1)?.pop().context("one socket")?;
        let connecting = std::thread::spawn(move || tcp::timed_connect(&socket, to, PATIENCE));
        eventually("they are parked", SOON, || Ok(parked(world, "client")? >= 3))?;
        ensure!(receiver.received().ledger.totals().received == 0, "something was let through unjudged");

        frozen.thaw()?;
        let wanted = u64::from(3 * COUNT);
        receiver.wait(wanted, PATIENCE);
        let totals = receiver.take().ledger.totals();
        ensure!(
            totals == Totals { received: wanted, duplicates: 0, reordered: 0 },
            "{wanted} sent, {totals:?}"
        );
        let took = connecting.join().map_err(|_| anyhow!("connecting panicked"))??;
        println!("the connection was made {:.0} ms after its SYN", took.as_secs_f64() * 1e3);
        let proved = world.agent("node2")?.auth_list()?.len();
        ensure!(proved == 1, "{proved} pairs are proved, one had to be");

        // Known from now on, and allowed nowhere; by two of them because nothing allows it, by one by name.
        (0..3).try_for_each(|flow| send(world, "attacker", flow))?;
        receiver.wait(1, Duration::from_secs(1));
        ensure!(receiver.received().ledger.totals().received == 0, "the attacker was let through");
        drop(acceptor);
        Ok(())
    })
}

#[test]
fn who_stays_unknown_or_may_not_is_not_let_through() -> Result<()> {
    in_world(WorldOptions::new("never")?, &cast(), |world| {
        let space = |server: &str| world.place(server).map(|place| place.space);
        let sockets = SERVERS.iter().map(|server| udp::socket(&space(server)?, PORT));
        let receiver = Receiver::start(sockets.collect::<Result<_>>()?);
        let frozen = freeze(world, "node2")?;
        world.apply("new.yaml", &[Pod::new("attacker", "node1", "attacker").yaml()])?;
        world.lab().wait_pods(SOON)?;

        // Nobody says who it is: dropped at the deadline, with the reason.
        (0..3).try_for_each(|flow| send(world, "attacker", flow))?;
        eventually("they are dropped", SOON, || Ok(dropped(world, "attacker", "ADDRESS_UNKNOWN")? >= 3))?;
        ensure!(receiver.received().ledger.totals().received == 0, "who is unknown was let through");
        // For a while they are not taken in any more, and known from there on it is judged at once.
        (0..3).try_for_each(|flow| send(world, "attacker", flow))?;
        frozen.thaw()?;
        world.lab().wait_known(SOON)?;
        (0..3).try_for_each(|flow| send(world, "attacker", flow))?;
        let denied = || {
            let by_default = dropped(world, "attacker", "POLICY_DENIED")?;
            Ok(by_default >= 2 && dropped(world, "attacker", "POLICY_DENY")? >= 1)
        };
        eventually("policy speaks", SOON, denied)?;
        ensure!(receiver.received().ledger.totals().received == 0, "the attacker was let through");
        Ok(())
    })
}
