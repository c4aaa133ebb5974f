//! Audit mode, policies that find no room, and what a change of policy does to flows that are under way. Needs root.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use countersign_agent_api::{
    AuthState, EndpointEntry, Flow, FlowEvent, FlowFilter, Metrics, ObserveRequest, PolicyDocument,
    PolicyView, Request,
};
use countersign_e2e::flow::Datagrams;
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};

const SOON: Duration = Duration::from_secs(5);
const MODE: &str = "policy.countersign.dev/mode";
const PORT: u16 = 9000;

/// A server on node 2, the client that it is for, and somebody else.
fn cast(web: Pod) -> Vec<String> {
    let client = Pod::new("client", "node1", "client");
    [web, client, Pod::new("stranger", "node1", "stranger")].iter().map(Pod::yaml).collect()
}

fn web() -> Pod {
    Pod::new("web", "node2", "web")
}

/// Only the client may reach the server.
fn guard(required: bool) -> String {
    policy("guard", "web", &[Rule { peer: "client", ports: &["TCP/80", "UDP/9000"], required }], &[])
}

fn audited(document: &str) -> String {
    document.replacen(
        "  namespace: default\n",
        &format!("  namespace: default\n  annotations: {{{MODE}: audit}}\n"),
        1,
    )
}

fn reaches(world: &World, pod: &str) -> Result<bool> {
    Ok(curl(&world.place(pod)?.space, world.place("web")?.address(false)?, 80)?.exit == 0)
}

/// Flows into the server that the policy `guard` decided with this verdict.
fn by_guard(world: &World, verdict: &str) -> Result<Vec<Flow>> {
    let filter = FlowFilter {
        to_pod: vec!["default/web".to_owned()],
        verdict: vec![verdict.to_owned()],
        policy: vec!["default/guard".to_owned()],
        ..FlowFilter::default()
    };
    let events = world.agent("node2")?.observe(ObserveRequest { follow: false, last: 1000, filter })?;
    let flow = |event| if let FlowEvent::Flow(flow) = event { Some(flow) } else { None };
    Ok(events.into_iter().filter_map(flow).collect())
}

fn documents(world: &World) -> Result<Vec<PolicyDocument>> {
    Ok(world.agent("node2")?.call::<PolicyView>(&Request::PolicyGet)?.documents)
}

fn document(world: &World, name: &str) -> Result<PolicyDocument> {
    documents(world)?.into_iter().find(|one| one.name == name).with_context(|| format!("no policy {name}"))
}

fn endpoint(world: &World) -> Result<EndpointEntry> {
    let all = world.agent("node2")?.endpoints()?;
    all.into_iter().find(|endpoint| endpoint.pod == "web").context("no endpoint web")
}

/// Waits until the server's endpoint is enforced and audited as asked for.
fn settled(world: &World, mode: &str, enforced: bool, audited: bool) -> Result<()> {
    let seen = || endpoint(world).map(|e| (e.mode.clone(), e.ingress_enforced, e.ingress_audited));
    eventually("the mode of the endpoint", SOON, || Ok(seen()? == (mode.to_owned(), enforced, audited)))
        .with_context(|| format!("{:?}", endpoint(world)))?;
    Ok(())
}

fn with_agent_args(lab: &str, arguments: [&str; 2]) -> Result<WorldOptions> {
    Ok(WorldOptions { agent_args: arguments.map(str::to_owned).to_vec(), ..WorldOptions::new(lab)? })
}

#[test]
fn what_is_audited_passes_and_is_said_to_be_dropped() -> Result<()> {
    in_world(WorldOptions::new("pmodes")?, &cast(web()), |world| {
        let _server = Server::start(&world.place("web")?.space, 80, "hello")?;
        let mode = || Ok::<_, anyhow::Error>(world.agent("node2")?.status()?.policy_mode);

        // By the policy's own annotation.
        world.apply("guard.yaml", &[audited(&guard(false))])?;
        settled(world, "enforce", false, true)?;
        ensure!(reaches(world, "stranger")? && reaches(world, "client")?, "an audited policy drops");
        eventually("AUDIT with the policy's name", SOON, || Ok(!by_guard(world, "AUDIT")?.is_empty()))?;
        for flow in by_guard(world, "AUDIT")? {
            ensure!(flow.source.pod == "stranger" && flow.direction == "INGRESS", "{flow:?}");
            ensure!(flow.drop_reason_desc == "POLICY_DENIED", "{flow:?}");
        }
        ensure!(by_guard(world, "DROPPED")?.is_empty(), "said to be dropped, and was not");
        ensure!(document(world, "guard")?.mode == "audit", "{:?}", documents(world)?);
        ensure!(mode()?.audited_policies == ["CiliumNetworkPolicy default/guard"], "{:?}", mode()?);
        let metrics = world.agent("node2")?.call::<Metrics>(&Request::Metrics)?.text;
        ensure!(metrics.contains("countersign_audited_total{direction=\"ingress\"}"), "{metrics}");

        // The same policy without it.
        world.apply("guard.yaml", &[guard(false)])?;
        settled(world, "enforce", true, false)?;
        ensure!(
            !reaches(world, "stranger")? && reaches(world, "client")?,
            "an enforced policy does not drop"
        );
        eventually("DROPPED with the policy's name", SOON, || Ok(!by_guard(world, "DROPPED")?.is_empty()))?;
        eventually("allowed flows have it, too", SOON, || {
            Ok(by_guard(world, "FORWARDED")?.iter().any(|flow| flow.source.pod == "client"))
        })?;
        ensure!(mode()?.audited_policies.is_empty() && document(world, "guard")?.mode == "enforce");

        // By the pod's, and by the namespace's.
        world.apply("all.yaml", &cast(web().annotation(MODE, "audit")))?;
        settled(world, "audit", false, true)?;
        ensure!(reaches(world, "stranger")?, "an audited endpoint drops");
        ensure!(mode()?.audited_endpoints == ["default/web"], "{:?}", mode()?);
        world.apply("all.yaml", &cast(web()))?;
        settled(world, "enforce", true, false)?;
        ensure!(!reaches(world, "stranger")?, "the endpoint is not enforced again");
        let namespace = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: default\n  annotations: {{{MODE}: audit}}\n"
        );
        world.apply("namespace.yaml", &[namespace])?;
        settled(world, "enforce", false, true)?;
        ensure!(reaches(world, "stranger")?, "an audited namespace drops");
        ensure!(mode()?.audited_namespaces == ["default"], "{:?}", mode()?);

        // It is so after a restart of the agent as well.
        world.kill_agent("node2")?;
        ensure!(reaches(world, "stranger")?, "the datapath audits without an agent");
        world.start_agent("node2")?;
        settled(world, "enforce", false, true)?;
        ensure!(reaches(world, "stranger")?, "not after a restart");
        eventually("AUDIT after the restart", SOON, || Ok(!by_guard(world, "AUDIT")?.is_empty()))?;
        Ok(())
    })
}

#[test]
fn nothing_is_enforced_where_everything_is_audited_and_the_status_says_so() -> Result<()> {
    let options = with_agent_args("pmall", ["--policy-audit-mode", "on"])?;
    let mut documents = cast(web());
    documents.push(guard(true));
    in_world(options, &documents, |world| {
        let _server = Server::start(&world.place("web")?.space, 80, "hello")?;
        settled(world, "audit", false, true)?;
        ensure!(reaches(world, "stranger")? && reaches(world, "client")?, "something was dropped");
        let reasons = |pod: &str| {
            let flows = by_guard(world, "AUDIT")?;
            let of = flows.into_iter().filter(|flow| flow.source.pod == pod);
            Ok::<Vec<String>, anyhow::Error>(of.map(|flow| flow.drop_reason_desc).collect())
        };
        eventually("both would not have passed, each for its reason", SOON, || {
            let missing = |what: &str, pod| Ok::<_, anyhow::Error>(reasons(pod)?.iter().any(|r| r == what));
            Ok(missing("POLICY_DENIED", "stranger")? && missing("AUTH_REQUIRED", "client")?)
        })?;
        ensure!(world.agent("node2")?.status()?.policy_mode.audit_all);
        Ok(())
    })
}

/// Lets the stranger in, on port 80 and as many more as there are to be.
fn huge(ports: u16) -> String {
    let mut text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: huge\n  namespace: default\n\
                    spec:\n  endpointSelector:\n    matchLabels:\n      app: web\n  ingress:\n"
        .to_owned();
    for start in (0..ports).step_by(40) {
        text.push_str(
            "  - fromEndpoints:\n    - matchLabels:\n        app: stranger\n    toPorts:\n    - ports:\n",
        );
        for port in start..(start + 40).min(ports) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "      - port: \"{}\"\n        protocol: TCP",
                if port == 0 { 80 } else { 20_000 + 2 * port }
            );
        }
    }
    text
}

fn overflows(world: &World) -> Result<u64> {
    let text = world.agent("node2")?.call::<Metrics>(&Request::Metrics)?.text;
    let line = text.lines().find_map(|line| line.strip_prefix("countersign_policy_map_overflows_total "));
    line.context("no such metric")?.parse().context("no number")
}

#[test]
fn a_policy_without_room_is_named_and_the_last_good_one_stays() -> Result<()> {
    let options = with_agent_args("pfull", ["--bpf-policy-map-max", "256"])?;
    let mut manifests = cast(web());
    manifests.push(guard(false));
    in_world(options, &manifests, |world| {
        let _server = Server::start(&world.place("web")?.space, 80, "hello")?;
        settled(world, "enforce", true, false)?;
        let entries =
            || Ok::<_, anyhow::Error>(world.agent("node2")?.call::<PolicyView>(&Request::PolicyGet)?.entries);
        let before = entries()?;
        ensure!(overflows(world)? == 0);

        // It would let the stranger in.
        world.apply("huge.yaml", &[huge(400)])?;
        eventually("the policy is named", SOON, || {
            let found = documents(world)?;
            Ok(found.iter().any(|one| one.name == "huge" && one.not_applied == 1))
        })?;
        let named = document(world, "huge")?;
        ensure!(named.conditions.iter().any(|c| c.message.contains("last good policy")), "{named:?}");
        let guard = document(world, "guard")?;
        ensure!(guard.not_applied == 0 && guard.conditions.is_empty(), "{guard:?}");
        ensure!(entries()? == before, "the map is not what it was");
        ensure!(overflows(world)? >= 1);
        let reasons = world.agent("node2")?.status()?.health.reasons;
        ensure!(reasons.iter().any(|r| r.contains("default/web") && r.contains("huge")), "{reasons:?}");
        ensure!(
            reaches(world, "client")? && !reaches(world, "stranger")?,
            "the last good policy does not hold"
        );

        // With room for it, it is in force.
        world.apply("huge.yaml", &[huge(40)])?;
        eventually("there is room", SOON, || Ok(document(world, "huge")?.not_applied == 0))?;
        ensure!(reaches(world, "client")? && reaches(world, "stranger")?, "not in force");
        ensure!(document(world, "huge")?.conditions.is_empty());
        Ok(())
    })
}

#[test]
fn a_flow_under_way_follows_the_policy() -> Result<()> {
    let mut manifests = cast(web());
    manifests.push(guard(false));
    in_world(WorldOptions::new("pchange")?, &manifests, |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        settled(world, "enforce", true, false)?;
        let to = SocketAddr::new(web.address(false)?, PORT);
        let receiver = Receiver::start(vec![udp::socket(&web.space, PORT)?]);
        let datagrams = Datagrams::start(udp::socket(&client.space, 0)?, to, 0, 500);
        let received = || receiver.received().ledger.received(0);
        eventually("the flow is there", SOON, || Ok(received() > 100))?;
        let proved = || -> Result<bool> {
            let pairs = world.agent("node2")?.auth_list()?;
            Ok(pairs.iter().any(|pair| pair.state == AuthState::Authenticated))
        };
        ensure!(!proved()?, "nothing asks for a proof yet");

        // What is newly asked for a proof gives it, and nothing is lost.
        world.apply("all.yaml", &[cast(self::web()), vec![guard(true)]].concat())?;
        eventually("the pair is proved", SOON, proved)?;
        let at = datagrams.sent();
        eventually("the flow goes on", SOON, || Ok(datagrams.sent() > at + 200))?;

        // What is denied is cut: nothing comes after the first that was dropped.
        world.apply(
            "all.yaml",
            &[cast(self::web()), vec![guard(true).replace("app: client", "app: nobody")]].concat(),
        )?;
        eventually("the flow is dropped, by its policy", SOON, || {
            Ok(by_guard(world, "DROPPED")?.iter().any(|flow| flow.source.pod == "client"))
        })?;
        let at = datagrams.sent();
        eventually("more is sent", SOON, || Ok(datagrams.sent() > at + 200))?;
        let sent = datagrams.stop()?;
        receiver.wait(u64::from(sent), Duration::from_millis(500));
        let got = receiver.take().ledger;
        let first_lost = (0..sent).find(|number| !got.has(0, *number)).unwrap_or(sent);
        if first_lost == sent {
            bail!("nothing was cut");
        }
        let totals = got.totals();
        ensure!(
            totals.received == u64::from(first_lost),
            "lost before, or not cut at once: {first_lost}, {totals:?}"
        );
        ensure!(totals.duplicates == 0 && totals.reordered == 0, "{totals:?}");
        Ok(())
    })
}
