//! What somebody may do who can write another node's object: the key in it is not believed, `encrypt status` says why,
//! and nothing leaves in the clear. Needs root.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use countersign_agent_api::{Request, RotationBegun};
use countersign_certs::{Svid, TrustDomain, signature};
use countersign_cluster::NodePublisher;
use countersign_e2e::flow::Datagrams;
use countersign_e2e::manifests::{Pod, Rule, policy};
use countersign_e2e::udp::{self, Receiver};
use countersign_e2e::wire::Capture;
use countersign_e2e::world::{World, WorldOptions, eventually, in_world};
use countersign_spire::embedded::EmbeddedCa;
use countersign_wg_proto::{ANNOTATION, ANNOTATION_NEXT, Announcement, PrivateKey, Statement, node_id};

const DOMAIN: &str = "countersign.lab";
const SOON: Duration = Duration::from_secs(20);

fn cast() -> Vec<String> {
    vec![
        Pod::new("web", "node2", "web").yaml(),
        Pod::new("client", "node1", "client").yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &[], required: true }], &[]),
    ]
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// Who can write node2's object, and has got hold of SVIDs.
struct Attacker {
    ca: EmbeddedCa,
    object: NodePublisher,
}

impl Attacker {
    fn new(world: &World) -> Result<Self> {
        let paths = world.lab().paths();
        let ca = EmbeddedCa::open(&paths.embedded_ca(), &TrustDomain::parse(DOMAIN)?, now()?)?;
        Ok(Self { ca, object: NodePublisher::new(&paths.status(), "node2")? })
    }

    fn svid(&self, node: &str, ttl: u64) -> Result<Svid> {
        Ok(self.ca.issue(&node_id(self.ca.trust_domain(), node)?, now()?, ttl)?)
    }

    /// What node2 says of itself.
    fn genuine(&self) -> Result<String> {
        let mut said = None;
        let read = |object: &mut serde_json::Value| {
            said = object["metadata"]["annotations"][ANNOTATION].as_str().map(str::to_owned);
        };
        // What is not changed is not written.
        self.object.update(read)?;
        said.context("node2 has announced nothing")
    }

    fn write(&self, annotation: &str, text: &str) -> Result<()> {
        let annotations = BTreeMap::from([(annotation.to_owned(), Some(text.to_owned()))]);
        Ok(self.object.annotate(&annotations)?)
    }

    fn remove(&self, annotation: &str) -> Result<()> {
        Ok(self.object.annotate(&BTreeMap::from([(annotation.to_owned(), None)]))?)
    }
}

/// A statement as node2 makes it, about the attacker's key.
fn statement(epoch: u64, not_after: u64) -> Statement {
    Statement {
        trust_domain: DOMAIN.to_owned(),
        node: "node2".to_owned(),
        public_key: PrivateKey::from_bytes([77; 32]).public(),
        epoch,
        not_after,
    }
}

fn signed(svid: &Svid, statement: Statement) -> Result<String> {
    let signature = signature::sign(svid, &statement.signing_bytes())?;
    let chain = svid.chain().iter().map(|der| der.as_ref().to_vec()).collect();
    Ok(Announcement { statement, chain, signature }.encode()?)
}

/// Every forgery, for an epoch after the one that is, and words of the reason for which it is refused.
fn forgeries(attacker: &Attacker, epoch: u64) -> Result<Vec<(&'static str, String, &'static str)>> {
    let (now, genuine) = (now()?, Announcement::decode(&attacker.genuine()?)?);
    let mut swapped = genuine.clone();
    swapped.statement.public_key = PrivateKey::from_bytes([77; 32]).public();
    swapped.statement.epoch = epoch;
    let mut expired = genuine.clone();
    expired.statement.not_after = now - 1;
    let of_node2 = attacker.svid("node2", 3_600)?;
    let of_node1 = attacker.svid("node1", 3_600)?;
    // The shortest life that the authority gives.
    let old = attacker.svid("node2", 20)?;
    while self::now()? <= old.not_after() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(vec![
        ("a swapped key", swapped.encode()?, "signature"),
        ("an expired announcement", signed(&of_node2, statement(epoch, now - 1))?, "expired"),
        ("an expired announcement with another end", expired.encode()?, "expired"),
        ("a signature by an expired SVID", signed(&old, statement(epoch, now + 600))?, "expired"),
        ("a signature by another node's SVID", signed(&of_node1, statement(epoch, now + 600))?, "node/node1"),
    ])
}

/// Why node1 does not believe node2.
fn complaint(world: &World) -> Result<Option<String>> {
    let peers = world.agent("node1")?.encrypt_status()?.peers;
    Ok(peers.into_iter().find(|peer| peer.node == "node2").and_then(|peer| peer.error))
}

fn refused(world: &World, what: &str, words: &str) -> Result<()> {
    let mut said = None;
    eventually(what, SOON, || {
        said = complaint(world)?;
        Ok(said.as_ref().is_some_and(|said| said.contains(words)))
    })
    .with_context(|| format!("{what}: {said:?} does not say {words:?}"))?;
    Ok(())
}

#[test]
fn keys_that_are_not_proved_are_refused_and_nothing_leaves_in_the_clear() -> Result<()> {
    in_world(WorldOptions::new("forged")?, &cast(), |world| {
        let (client, web) = (world.place("client")?, world.place("web")?);
        let receiver = Receiver::start(vec![udp::socket(&web.space, 9000)?]);
        let to = SocketAddr::new(web.address(false)?, 9000);
        let arrived = || receiver.received().ledger.received(0);
        let capture = Capture::start(&world.name())?;
        let datagrams = Datagrams::start(udp::socket(&client.space, 0)?, to, 0, 200);
        eventually("the flow runs", SOON, || Ok(arrived() > 20))?;

        let attacker = Attacker::new(world)?;
        let first = attacker.genuine()?;
        let begun: RotationBegun = world.agent("node2")?.call(&Request::RotateKey)?;
        eventually("node2 has another key", Duration::from_secs(60), || {
            let announced = Announcement::decode(&attacker.genuine()?)?.statement.public_key;
            Ok(announced.to_string() == begun.next_public_key && complaint(world)?.is_none())
        })?;
        let genuine = attacker.genuine()?;
        let epoch = Announcement::decode(&genuine)?.statement.epoch;

        // What was believed before is not shaken by any of it.
        let mut all = forgeries(&attacker, epoch + 1)?;
        all.push(("an older epoch, replayed", first.clone(), "older"));
        for (what, text, words) in &all {
            for annotation in [ANNOTATION, ANNOTATION_NEXT] {
                if annotation == ANNOTATION_NEXT && *words == "older" {
                    continue;
                }
                attacker.write(annotation, text)?;
                refused(world, what, words)?;
                let before = arrived();
                eventually("the flow goes on with the key that is good", SOON, || {
                    Ok(arrived() > before + 20)
                })?;
                attacker.write(ANNOTATION, &genuine)?;
                attacker.remove(ANNOTATION_NEXT)?;
                eventually("nothing is wrong any more", SOON, || Ok(complaint(world)?.is_none()))?;
            }
        }
        attacker.write(ANNOTATION_NEXT, &first)?;
        refused(world, "an older key as the next one", "cannot come after")?;
        attacker.remove(ANNOTATION_NEXT)?;
        let sent = u64::from(datagrams.sent());
        eventually("not one is lost", SOON, || Ok(arrived() >= sent))?;

        // And who believes nothing yet, as after a restart, does not begin with it: nothing gets through at all.
        for (what, text, words) in &all {
            world.kill_agent("node1")?;
            attacker.write(ANNOTATION, text)?;
            world.start_agent("node1")?;
            refused(world, what, words)?;
            eventually("nothing gets through", SOON, || {
                let before = arrived();
                std::thread::sleep(Duration::from_millis(300));
                Ok(arrived() == before)
            })?;
            let peers = world.agent("node1")?.encrypt_status()?.peers;
            ensure!(peers.iter().all(|peer| peer.public_key.is_empty()), "{what}: {peers:?}");
        }
        let before = arrived();
        attacker.write(ANNOTATION, &genuine)?;
        eventually("it heals", Duration::from_secs(60), || Ok(arrived() > before + 20))?;
        datagrams.stop()?;
        let seen = capture.stop()?;
        println!("{seen:?}");
        // The device of node2's old key ends while the test runs.
        ensure!(seen.is_clean_but_for_unreachable() && seen.kinds.contains_key("wireguard"), "{seen:?}");
        Ok(())
    })
}
