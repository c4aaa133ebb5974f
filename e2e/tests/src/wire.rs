//! Listening on the lab's wire with tcpdump: what kinds of frames pass, and whether a marker is among them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use countersign_lab::LabName;

use crate::probe::MARKER;

/// The UDP ports of WireGuard's devices.
const WIREGUARD: RangeInclusive<u16> = 51871..=51874;
/// The TCP port of the handshake.
const HANDSHAKE: u16 = 4250;
/// A frame longer than this is no frame.
const MAX_FRAME: u32 = 256 << 10;
/// Frames with a marker that are shown, and bytes of each: Ethernet, two IPv6 headers, and what is between and after.
const MARKED: usize = 8;
const MARKED_BYTES: usize = 14 + 40 + 8 + 40 + 16;
/// How long tcpdump may take to open the interface.
const START: Duration = Duration::from_secs(5);

/// What passed on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Frames with the marker in them.
    pub with_marker: u64,
    /// The beginnings of the first of those, in hexadecimal digits: who sent what to whom.
    pub marked: Vec<String>,
}

impl Seen {
    /// The kinds that have no business on the wire, with their counts.
    #[must_use]
    pub fn foreign(&self) -> BTreeMap<String, u64> {
        let allowed = |kind: &str| matches!(kind, "wireguard" | "handshake" | "probe" | "arp" | "nd" | "mld");
        self.kinds.iter().filter(|(kind, _)| !allowed(kind)).map(|(kind, n)| (kind.clone(), *n)).collect()
    }

    /// Whether nothing but WireGuard, handshakes, probes of the path and neighbour discovery passed, and no marker.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.with_marker == 0 && self.foreign().is_empty()
    }

    /// The same where data planes end: to a port that nobody listens on any more a node answers "unreachable", with
    /// the packet's beginning, that of a WireGuard packet, or it would be among the markers.
    #[must_use]
    pub fn is_clean_but_for_unreachable(&self) -> bool {
        let known = |kind: &str| matches!(kind, "IPv4 ICMP type 3" | "IPv6 ICMP type 1");
        self.with_marker == 0 && self.foreign().keys().all(|kind| known(kind))
    }

    fn note(&mut self, frame: &[u8]) {
        *self.kinds.entry(kind(frame)).or_default() += 1;
        let marked = frame.windows(MARKER.len()).any(|window| window == MARKER);
        self.with_marker += u64::from(marked);
        if marked && self.marked.len() < MARKED {
            let head = frame.iter().take(MARKED_BYTES).map(|byte| format!("{byte:02x}"));
            self.marked.push(head.collect());
        }
    }
}

/// A tcpdump on the wire, read by a thread.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    reader: Option<JoinHandle<Result<Seen>>>,
}

impl Capture {
    /// Starts listening on the wire of `lab`; returns when it does.
    ///
    /// # Errors
    /// Where tcpdump is missing or the lab is down.
    pub fn start(lab: &LabName) -> Result<Self> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", lab.wire_netns())).args(["tcpdump", "-i", "wire"]);
        // Whole frames, written as they come, no names looked up, rights kept.
        command.args(["-w", "-", "-U", "-s", "0", "-n", "--immediate-mode", "-Z", "root", "-B", "16384"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut output = child.stdout.take().context("tcpdump's output")?;
        let mut header = [0; 24];
        // The file's header comes once the interface is open.
        if output.read_exact(&mut header).is_err() {
            let mut words = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut words)?;
            }
            let _ = child.wait();
            bail!("tcpdump: {}", words.trim());
        }
        let reader = std::thread::spawn(move || read_frames(output));
        Ok(Self { child, reader: Some(reader) })
    }

    /// Stops, and says what passed.
    ///
    /// # Errors
    /// Where tcpdump's output was not a capture.
    pub fn stop(mut self) -> Result<Seen> {
        // What was sent a moment ago is still on its way through the kernel's buffers.
        std::thread::sleep(Duration::from_millis(200));
        self.end()
    }

    fn end(&mut self) -> Result<Seen> {
        terminate(&mut self.child)?;
        let reader = self.reader.take().context("stopped twice")?;
        reader.join().map_err(|_| anyhow!("the capture's reader panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.reader.is_some() {
            // Nobody asked what passed; only the process must go.
            let _ = self.end();
        }
    }
}

/// Asks politely, so that the last frames are written out; kills what does not go.
fn terminate(child: &mut Child) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > START {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Reads the records after a pcap file's header (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>).
fn read_frames(mut from: impl Read) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut header = [0; 16];
    let mut frame = Vec::new();
    loop {
        match from.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(seen),
            other => other?,
        }
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        if length > MAX_FRAME {
            bail!("a frame of {length} bytes in tcpdump's output");
        }
        frame.resize(length as usize, 0);
        match from.read_exact(&mut frame) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(seen),
            other => other?,
        }
        seen.note(&frame);
    }
}

/// The kind of an Ethernet frame: `wireguard`, `handshake`, `probe`, `arp`, `nd`, `mld`, or its protocols and ports.
#[must_use]
pub fn kind(frame: &[u8]) -> String {
    let Some((_, rest)) = frame.split_first_chunk::<12>() else { return "short frame".to_owned() };
    let Some((ethertype, packet)) = rest.split_first_chunk::<2>() else { return "short frame".to_owned() };
    match u16::from_be_bytes(*ethertype) {
        0x0806 => "arp".to_owned(),
        0x0800 => ipv4(packet),
        0x86dd => ipv6(packet),
        other => format!("ethertype {other:#06x}"),
    }
}

fn ipv4(packet: &[u8]) -> String {
    let Some(&first) = packet.first() else { return "short IPv4".to_owned() };
    let header = usize::from(first & 0x0f) * 4;
    let (Some(&protocol), Some(rest)) = (packet.get(9), packet.get(header..)) else {
        return "short IPv4".to_owned();
    };
    transport("IPv4", protocol, rest)
}

fn ipv6(packet: &[u8]) -> String {
    let (Some(&next), Some(rest)) = (packet.get(6), packet.get(40..)) else { return "short IPv6".to_owned() };
    match (next, rest) {
        (58, [133..=137, ..]) => "nd".to_owned(),
        // Listener reports carry a router alert before them (RFC 3810, section 5).
        (0, [58, 0, _, _, _, _, _, _, 130 | 131 | 132 | 143, ..]) => "mld".to_owned(),
        _ => transport("IPv6", next, rest),
    }
}

fn transport(family: &str, protocol: u8, rest: &[u8]) -> String {
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let (Some(from), Some(to)) = (port(0), port(2)) else {
        return format!("{family} protocol {protocol}, short");
    };
    match protocol {
        17 if WIREGUARD.contains(&from) || WIREGUARD.contains(&to) => "wireguard".to_owned(),
        6 if from == HANDSHAKE || to == HANDSHAKE => "handshake".to_owned(),
        // The lower port is the service; the other would make a kind of every connection.
        6 => format!("{family} TCP {}", from.min(to)),
        17 => format!("{family} UDP {}", from.min(to)),
        1 | 58 if is_probe(rest) => "probe".to_owned(),
        1 | 58 => format!("{family} ICMP type {}", rest[0]),
        other => format!("{family} protocol {other}"),
    }
}

/// An echo request of the WireGuard manager's, or its answer: a secret, a number, and nothing.
fn is_probe(icmp: &[u8]) -> bool {
    let is_echo = matches!(icmp, [8 | 0 | 128 | 129, 0, ..]);
    is_echo && icmp.get(20..).is_some_and(|rest| rest.len() > 1_000 && rest.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &ethertype.to_be_bytes(), packet].concat()
    }

    fn v4(protocol: u8, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        packet.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
        packet.extend(payload);
        frame(0x0800, &packet)
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[6]) = (0x60, next);
        packet.extend(rest);
        frame(0x86dd, &packet)
    }

    #[test]
    fn what_belongs_there_is_known() {
        assert_eq!(kind(&v4(17, (40000, 51871), &[])), "wireguard");
        assert_eq!(kind(&v4(6, (4250, 40000), &[])), "handshake");
        assert_eq!(kind(&v6(17, &[0xca, 0x9f, 1, 1])), "wireguard");
        assert_eq!(kind(&v6(58, &[135, 0, 0, 0])), "nd");
        assert_eq!(kind(&v6(0, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0])), "mld");
        assert_eq!(kind(&frame(0x0806, &[0; 28])), "arp");
        let (probe, ping) =
            ([&[128, 0][..], &[7; 18], &[0; 1_200]].concat(), [&[128, 0][..], &[7; 1_220]].concat());
        assert_eq!(
            (kind(&v6(58, &probe)), kind(&v6(58, &ping))),
            ("probe".to_owned(), "IPv6 ICMP type 128".to_owned())
        );
    }

    #[test]
    fn everything_else_is_foreign() {
        let mut seen = Seen::default();
        seen.note(&v4(17, (40000, 51871), b"noise"));
        assert!(seen.is_clean());
        seen.note(&v4(6, (40000, 80), b"GET / countersign-plaintext-85"));
        seen.note(&v6(58, &[128, 0, 0, 0]));
        seen.note(&[1, 2, 3]);
        assert_eq!(seen.with_marker, 1);
        let foreign: Vec<_> = seen.foreign().into_keys().collect();
        assert_eq!(foreign, ["IPv4 TCP 80", "IPv6 ICMP type 128", "short frame"]);
    }

    #[test]
    fn a_capture_cut_short_is_read_to_its_end() {
        let frame = v4(17, (1, 51871), &[]);
        let mut file = vec![0; 8];
        file.extend(u32::try_from(frame.len()).unwrap().to_ne_bytes());
        file.extend([0; 4]);
        file.extend(&frame);
        let whole = file.len();
        file.extend_from_within(..20);
        let seen = read_frames(&file[..]).unwrap();
        assert_eq!(seen.kinds, BTreeMap::from([("wireguard".to_owned(), 1)]));
        assert_eq!(read_frames(&file[..whole - 1]).unwrap(), Seen::default());
    }

    #[test]
    fn odd_lengths_do_no_harm() {
        for length in 0..60 {
            for first in [0x45, 0x4f, 0x60] {
                let mut bytes = vec![first; length];
                assert_ne!(kind(&frame(0x0800, &bytes)), "");
                assert_ne!(kind(&frame(0x86dd, &bytes)), "");
                bytes.truncate(13);
                assert_eq!(kind(&bytes), "short frame");
            }
        }
    }
}
