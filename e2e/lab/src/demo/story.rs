//! Who tries what in the demo, and what must come of it.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use countersign_agent_api::{AuthEntry, Request};

use crate::config::Parking;
use crate::lab::Lab;
use crate::limits::READY_TIMEOUT;
use crate::names::PodKey;
use crate::process::wait_until;

use super::table;
use super::wiretap::{Seen, Wiretap};

/// What the server says, and what must never be seen on the wire.
const MARKER: &[u8] = b"hello from web";

/// How long a connection may take before curl gives up with exit code 28.
const PATIENCE: &str = "2";

/// How curl says that it timed out: a denied packet is dropped without a word.
const TIMED_OUT: i32 = 28;

const MANIFESTS: [(&str, &str); 4] = [
    ("namespace.yaml", include_str!("../../../../deploy/demo/namespace.yaml")),
    ("policy.yaml", include_str!("../../../../deploy/demo/policy.yaml")),
    ("web.yaml", include_str!("../../../../deploy/demo/web.yaml")),
    ("clients.yaml", include_str!("../../../../deploy/demo/clients.yaml")),
];

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Whether an answer came.
    answered: bool,
    /// How long until the connection stood (or the datagram was answered).
    took: Duration,
    /// For people.
    pub(super) happened: String,
    /// The time, for people.
    pub(super) shown: String,
}

/// One line of the table.
pub(super) struct Row {
    pub(super) who: &'static str,
    pub(super) tries: &'static str,
    pub(super) first: Option<Outcome>,
    /// The same with first packets dropped.
    pub(super) without_parking: Option<Outcome>,
    expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// An answer, at once; a second late, or never, with parking off.
    Answer,
    Silence,
}

impl Row {
    pub(super) fn is_as_expected(&self) -> bool {
        let first = self.first.as_ref().is_some_and(|outcome| match self.expected {
            Expected::Answer => outcome.answered && outcome.took < Duration::from_millis(500),
            Expected::Silence => !outcome.answered,
        });
        let without = self.without_parking.as_ref();
        first && without.is_none_or(|outcome| !outcome.answered || outcome.took > Duration::from_millis(900))
    }
}

/// A story under way.
pub(super) struct Story<'a> {
    lab: &'a mut Lab,
    rows: Vec<Row>,
    wiretap: Option<Wiretap>,
    seen: Seen,
    well: bool,
}

impl<'a> Story<'a> {
    pub(super) fn new(lab: &'a mut Lab) -> Result<Self> {
        for (file, text) in MANIFESTS {
            lab.apply(file, text)?;
        }
        lab.wait_pods(READY_TIMEOUT)?;
        lab.wait_known(READY_TIMEOUT)?;
        wait_listening(lab, "web", 80)?;
        println!("\n{}\n", lab.view().to_text());
        let wiretap = Some(Wiretap::start(lab, MARKER)?);
        Ok(Self { lab, rows: Vec::new(), wiretap, seen: Seen::default(), well: true })
    }

    pub(super) fn tell(&mut self) -> Result<()> {
        say(
            "The policy lets pods with access=web reach web, and requires that both sides prove who they are.",
        );
        say("client has never spoken to web: its first packet waits until both have proved themselves.");
        self.attempt("client", "web, other node, IPv4", Expected::Answer, curl_v4)?;
        say("What is proved is proved: the next connection, of the other family even, asks nobody.");
        self.attempt("client", "web again, IPv6", Expected::Answer, curl_v6)?;
        say("neighbour is on web's own node. It proves itself all the same.");
        self.attempt("neighbour", "web, same node, IPv4", Expected::Answer, curl_v4)?;
        say("sender sends one datagram. Nothing would send it again.");
        self.attempt("sender", "web, one datagram", Expected::Answer, datagram)?;
        say("No policy allows stranger: silence.");
        self.attempt("stranger", "web, other node, IPv4", Expected::Silence, curl_v4)?;
        say("The policy allows unregistered, but nobody vouches for it: it has no SVID.");
        self.attempt("unregistered", "web, other node, IPv4", Expected::Silence, curl_v4)?;
        self.show_why("unregistered")?;
        self.show_wire()?;
        self.without_parking()
    }

    /// The table, and whether all went as it should.
    pub(super) fn finish(self) -> Result<bool> {
        println!("\n{}", table(&self.rows));
        let well = self.well && self.rows.iter().all(Row::is_as_expected);
        println!("{}", if well { "All as it should be." } else { "NOT all as it should be." });
        Ok(well)
    }

    fn attempt(
        &mut self,
        who: &'static str,
        tries: &'static str,
        expected: Expected,
        how: fn(&Lab, &str, &str) -> Result<Outcome>,
    ) -> Result<()> {
        let outcome = how(self.lab, who, "web")?;
        println!("    {}", outcome.happened);
        self.rows.push(Row { who, tries, first: Some(outcome), without_parking: None, expected });
        Ok(())
    }

    /// What `auth list` says about a pod that could not prove itself.
    fn show_why(&mut self, pod: &str) -> Result<()> {
        let label = format!("k8s:app={pod}");
        let mut reasons = Vec::new();
        for node in self.lab.nodes() {
            let entries: Vec<AuthEntry> = node.ask_list(&Request::AuthList)?;
            let of_pod = entries
                .into_iter()
                .filter(|e| e.local_labels.contains(&label) || e.remote_labels.contains(&label));
            reasons.extend(of_pod.filter_map(|entry| Some((node.name(), entry.state, entry.last_error?))));
        }
        for (node, state, error) in &reasons {
            println!("    auth list on {node}: {state}: {}", error.message);
        }
        if reasons.is_empty() {
            println!("    NO agent says why");
            self.well = false;
        }
        Ok(())
    }

    fn show_wire(&mut self) -> Result<()> {
        self.seen = self.wiretap.take().context("the wiretap runs")?.stop()?;
        let Seen { encrypted, handshakes, neighbours, other, marked } = self.seen;
        say("Somebody has listened on the wire between the nodes all the time:");
        println!(
            "    {encrypted} packets of WireGuard, {handshakes} of handshakes (TLS 1.3), {neighbours} of neighbour \
             discovery, {other} others; \"hello from web\" in {marked} of them"
        );
        self.well &= encrypted > 0 && handshakes > 0 && other == 0 && marked == 0;
        Ok(())
    }

    /// The first attempts once more, by pods that have proved nothing yet.
    fn without_parking(&mut self) -> Result<()> {
        say("The same with parking switched off: first packets are dropped, as they are elsewhere today.");
        self.lab.set_parking(Parking::Off)?;
        let fresh = include_str!("../../../../deploy/demo/clients.yaml");
        let fresh = ["client", "neighbour", "sender"]
            .iter()
            .fold(fresh.to_owned(), |text, name| renamed(&text, name));
        self.lab.apply("late.yaml", &without_others(&fresh))?;
        self.lab.wait_pods(READY_TIMEOUT)?;
        self.lab.wait_known(READY_TIMEOUT)?;
        for (row, late, how) in [
            (0, "late-client", curl_v4 as fn(&Lab, &str, &str) -> Result<Outcome>),
            (2, "late-neighbour", curl_v4),
            (3, "late-sender", datagram),
        ] {
            let outcome = how(self.lab, late, "web")?;
            println!("    {}", outcome.happened);
            self.rows[row].without_parking = Some(outcome);
        }
        Ok(())
    }
}

/// Another pod of another identity, alike in everything else.
fn renamed(manifests: &str, name: &str) -> String {
    let named = manifests.replace(&format!("  name: {name}\n"), &format!("  name: late-{name}\n"));
    named.replace(&format!("{{app: {name},"), &format!("{{app: late-{name},"))
}

/// The documents of the late ones alone.
fn without_others(manifests: &str) -> String {
    let late: Vec<&str> = manifests.split("\n---\n").filter(|text| text.contains("name: late-")).collect();
    late.join("\n---\n")
}

/// Running says that a program was started, not that it is ready.
fn wait_listening(lab: &Lab, pod: &str, port: u16) -> Result<()> {
    let listens = || lab.inside(pod, || Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)).is_ok();
    if wait_until(READY_TIMEOUT, listens) { Ok(()) } else { bail!("{pod} does not listen at port {port}") }
}

fn say(text: &str) {
    println!("\n* {text}");
}

fn curl_v4(lab: &Lab, from: &str, to: &str) -> Result<Outcome> {
    let net = lab.pod(&PodKey::parse(to))?.net.context("a pod with a network")?;
    curl(lab, from, &format!("http://{}/", net.v4))
}

fn curl_v6(lab: &Lab, from: &str, to: &str) -> Result<Outcome> {
    let net = lab.pod(&PodKey::parse(to))?.net.context("a pod with a network")?;
    curl(lab, from, &format!("http://[{}]/", net.v6))
}

fn curl(lab: &Lab, from: &str, url: &str) -> Result<Outcome> {
    let words = ["curl", "-sS", "-g", "-m", PATIENCE, "-w", "%{time_namelookup} %{time_connect}", url];
    println!("    {from}$ curl -m {PATIENCE} '{url}'");
    let output = lab.exec(from, &words)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let (body, times) = said.rsplit_once('\n').unwrap_or(("", said.as_ref()));
    // From the moment at which curl knew where to: there is no name to look up, but curl itself takes time.
    let mut times = times.split(' ').map(|seconds| seconds.parse().unwrap_or(0.0));
    let (began, stood): (f64, f64) = (times.next().unwrap_or(0.0), times.next().unwrap_or(0.0));
    let took = Duration::from_secs_f64((stood - began).max(0.0));
    Ok(match output.status.code() {
        Some(0) => {
            Outcome { answered: true, took, happened: format!("\"{body}\""), shown: milliseconds(took) }
        }
        Some(TIMED_OUT) => Outcome {
            answered: false,
            took,
            happened: "no answer (curl exits 28)".to_owned(),
            shown: "none".to_owned(),
        },
        code => bail!("curl from {from} exits {code:?}: {}", String::from_utf8_lossy(&output.stderr).trim()),
    })
}

fn datagram(lab: &Lab, from: &str, to: &str) -> Result<Outcome> {
    let net = lab.pod(&PodKey::parse(to))?.net.context("a pod with a network")?;
    println!("    {from}$ one datagram to {}:9, which sends it back", net.v4);
    lab.inside(from, || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        let begun = Instant::now();
        socket.send_to(b"hello", (net.v4, 9))?;
        let answered = socket.recv(&mut [0; 16]).is_ok();
        let took = begun.elapsed();
        let (happened, shown) =
            if answered { ("sent back", milliseconds(took)) } else { ("lost", "never".to_owned()) };
        Ok(Outcome { answered, took, happened: happened.to_owned(), shown })
    })
}

fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_say_what_the_story_says() {
        for (file, text) in MANIFESTS {
            let documents = countersign_policy::yaml::parse(text).unwrap();
            assert!(!documents.is_empty(), "{file}");
        }
        let settings = countersign_policy::Settings::default();
        let policy = countersign_policy::yaml::parse(MANIFESTS[1].1).unwrap();
        assert!(countersign_policy::parse(&policy[0], &settings).is_ok());
        let late = renamed(&renamed(&renamed(MANIFESTS[3].1, "client"), "neighbour"), "sender");
        let late = countersign_policy::yaml::parse(&without_others(&late)).unwrap();
        let names: Vec<&str> = late.iter().map(countersign_policy::yaml::Document::name).collect();
        assert_eq!(names, ["late-client", "late-neighbour", "late-sender"]);
        let apps: Vec<_> =
            late.iter().map(|d| d.value["metadata"]["labels"]["app"].as_str().unwrap()).collect();
        assert_eq!(apps, names, "each is an identity of its own");
    }

    #[test]
    fn a_row_is_right_only_if_all_of_it_is() {
        let outcome = |answered, ms| Outcome {
            answered,
            took: Duration::from_millis(ms),
            happened: String::new(),
            shown: String::new(),
        };
        let row =
            |expected, first, without_parking| Row { who: "", tries: "", first, without_parking, expected };
        let fine = [
            row(Expected::Answer, Some(outcome(true, 5)), None),
            row(Expected::Answer, Some(outcome(true, 5)), Some(outcome(true, 1010))),
            row(Expected::Answer, Some(outcome(true, 5)), Some(outcome(false, 3000))),
            row(Expected::Silence, Some(outcome(false, 2000)), None),
        ];
        assert!(fine.iter().all(Row::is_as_expected));
        let wrong = [
            row(Expected::Answer, None, None),
            row(Expected::Answer, Some(outcome(false, 2000)), None),
            row(Expected::Answer, Some(outcome(true, 1010)), None),
            row(Expected::Answer, Some(outcome(true, 5)), Some(outcome(true, 5))),
            row(Expected::Silence, Some(outcome(true, 5)), None),
        ];
        assert!(!wrong.iter().any(Row::is_as_expected));
    }
}
