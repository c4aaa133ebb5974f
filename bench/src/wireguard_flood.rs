//! `wireguard-flood`: a genuine flow beside somebody who floods one end with handshake messages.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use countersign_e2e::stats::rounded;
use countersign_wg_core::{Action, Context, INITIATION, Identity, Peer, Random};
use countersign_wg_proto::{PrivateKey, PublicKey};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use serde::Serialize;

use crate::limits::{FLOOD_BURST, FLOOD_FLOWS, FLOOD_MESSAGES, FLOOD_RATE, FLOOD_SECONDS};
use crate::report;
use crate::wireguard::rig::{End, Rig};
use crate::wireguard::{programs, throughput};

#[derive(Serialize)]
struct Row {
    program: &'static str,
    kind: &'static str,
    /// Messages each second that were sent.
    flood_per_second: f64,
    quiet_gbps: f64,
    flooded_gbps: f64,
    /// Of the genuine flow's rate.
    kept: f64,
}

/// What the flood is made of.
#[derive(Clone, Copy)]
enum Kind {
    /// The right length and type.
    Noise,
    /// From keys that nobody knows, but to this device: its owner must calculate, or ask for proof of an address.
    Strangers,
    /// The same, but the MAC does not fit.
    Damaged,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Strangers => "unknown keys, first MAC right",
            Self::Damaged => "unknown keys, a bit flipped",
        }
    }
}

/// Ours and wireguard-go in turns.
pub fn run(json: bool) -> Result<()> {
    let mut rows = Vec::new();
    for (index, program) in programs()?.iter().enumerate().take(2) {
        let rig = Rig::up(program, index)?;
        let victim: PublicKey =
            rig.ends[1].run(&["wg", "show", rig.ends[1].device(), "public-key"])?.parse()?;
        let kinds = [Kind::Noise, Kind::Strangers, Kind::Damaged];
        for (flow, kind) in FLOOD_FLOWS.into_iter().flat_map(|flow| kinds.map(|kind| (flow, kind))) {
            let quiet_gbps = rounded(genuine(&rig, flow)?);
            let messages = messages(kind, &victim)?;
            let (flood_per_second, flooded) = flooded(&rig, flow, messages)?;
            let kept = rounded(flooded / quiet_gbps);
            let flooded_gbps = rounded(flooded);
            let (program, kind) = (program.name, kind.name());
            rows.push(Row { program, kind, flood_per_second, quiet_gbps, flooded_gbps, kept });
        }
    }
    let mut table = report::table(&[
        "",
        "handshake messages",
        "sent each second",
        "flow alone, Gbit/s",
        "flooded",
        "kept",
    ]);
    for row in &rows {
        table.add_row([
            row.program.to_owned(),
            row.kind.to_owned(),
            format!("{:.0}", row.flood_per_second),
            format!("{:.2}", row.quiet_gbps),
            format!("{:.2}", row.flooded_gbps),
            format!("{:.0} %", row.kept * 100.0),
        ]);
    }
    println!("{table}");
    report::json(json, &rows)
}

/// The genuine flow: a TCP stream.
fn genuine(rig: &Rig, flow: &str) -> Result<f64> {
    throughput(rig, FLOOD_SECONDS, &["-b", flow])
}

/// The same, with the flood.
fn flooded(rig: &Rig, flow: &str, messages: Vec<Vec<u8>>) -> Result<(f64, f64)> {
    let stop = Arc::new(AtomicBool::new(false));
    let to = SocketAddr::new(rig.ends[1].underlay(), End::PORT);
    let stopped = Arc::clone(&stop);
    let flood = rig.ends[0].inside(move || send(&messages, to, &stopped));
    let gbps = genuine(rig, flow);
    stop.store(true, Ordering::Relaxed);
    let rate = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
    Ok((rounded(rate), gbps?))
}

/// Bursts at an even pace; how many each second it was.
fn send(messages: &[Vec<u8>], to: SocketAddr, stop: &AtomicBool) -> Result<f64> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let to = SockaddrStorage::from(to);
    let size = u16::try_from(INITIATION)?;
    let bursts: Vec<Vec<u8>> = messages.chunks(FLOOD_BURST).map(<[_]>::concat).collect();
    let pace = Duration::from_secs(1) * u32::try_from(FLOOD_BURST)? / FLOOD_RATE;
    let (began, mut sent) = (Instant::now(), 0_u32);
    for burst in bursts.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let segments = [ControlMessage::UdpGsoSegments(&size)];
        let slices = [std::io::IoSlice::new(burst)];
        sendmsg(socket.as_raw_fd(), &slices, &segments, MsgFlags::empty(), Some(&to))?;
        sent += 1;
        let next = pace * sent;
        if let Some(early) = next.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
    }
    Ok(f64::from(sent) * FLOOD_BURST as f64 / began.elapsed().as_secs_f64())
}

/// Bytes from a counter: what strangers are called does not matter.
struct Numbers(u64);

impl Random for Numbers {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

fn messages(kind: Kind, victim: &PublicKey) -> Result<Vec<Vec<u8>>> {
    let mut random = Numbers(7);
    (0..FLOOD_MESSAGES)
        .map(|_| {
            let mut message = initiation(victim, &mut random).context("an initiation cannot be made")?;
            match kind {
                Kind::Noise => random.fill(&mut message[4..]),
                Kind::Strangers => {}
                Kind::Damaged => message[60] ^= 1,
            }
            Ok(message)
        })
        .collect()
}

fn initiation(victim: &PublicKey, random: &mut Numbers) -> Option<Vec<u8>> {
    let mut key = [0; 32];
    random.fill(&mut key);
    let own = Identity::new(&PrivateKey::from_bytes(key));
    let mut out = Vec::new();
    let mut world = Context {
        own: &own,
        now: 1_000_000_000_000,
        unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        mtu: 1_420,
        random,
        taken: &|_| false,
    };
    Peer::new(*victim).initiate(&mut world, &mut out);
    out.into_iter().find_map(|action| match action {
        Action::Transmit(message) => Some(message),
        _ => None,
    })
}
