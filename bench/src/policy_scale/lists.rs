//! What a packet costs in a list of rules of iptables and of nftables, of which the last one is about it.

use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};

/// Packets that are measured; each walks the whole list.
const PACKETS: u32 = 300;
/// Runs, of which the least counts.
const ROUNDS: u32 = 5;

/// Nanoseconds per packet of a list of iptables.
pub fn iptables(rules: u32) -> Result<f64> {
    beside(rules, &["iptables-legacy-restore"], |rules| {
        let mut text = String::from("*filter\n:OUTPUT ACCEPT [0:0]\n");
        for peer in peers(rules) {
            text.push_str(&format!("-A OUTPUT -p udp -d {peer}/32 --dport 80 -j ACCEPT\n"));
        }
        text + "-A OUTPUT -p udp -d 127.0.0.1/32 --dport 80 -j DROP\nCOMMIT\n"
    })
}

/// Nanoseconds per packet of a list of nftables.
pub fn nftables(rules: u32) -> Result<f64> {
    beside(rules, &["nft", "-f", "-"], |rules| {
        let mut text = String::from(
            "table ip scale {\n chain out {\n  type filter hook output priority 0; policy accept;\n",
        );
        for peer in peers(rules) {
            text.push_str(&format!("  ip daddr {peer} udp dport 80 accept\n"));
        }
        text + "  ip daddr 127.0.0.1 udp dport 80 drop\n }\n}\n"
    })
}

fn peers(rules: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..rules).map(|index| Ipv4Addr::from(0x0a00_0000 + index))
}

/// The cost of a packet with the list, less that with its last rule alone.
fn beside(rules: u32, command: &'static [&'static str], text: fn(u32) -> String) -> Result<f64> {
    let of = |rules| {
        let measured = thread::spawn(move || in_namespace(command, &text(rules))).join();
        measured.map_err(|_| anyhow!("the measuring thread panicked"))?
    };
    let (alone, all): (f64, f64) = (of(1)?, of(rules)?);
    Ok(all - alone)
}

fn in_namespace(command: &[&str], text: &str) -> Result<f64> {
    unshare(CloneFlags::CLONE_NEWNET).context("a new namespace: root is needed")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("running ip")?;
    ensure!(up.success(), "the loopback device: {up}");
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program} (package iptables or nftables)"))?;
    child.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "{program}: {status}");
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..PACKETS {
            ensure!(socket.send_to(b"x", "127.0.0.1:80").is_err(), "the last rule did not drop");
        }
        least = least.min(started.elapsed().as_nanos() as f64 / f64::from(PACKETS));
    }
    Ok(least)
}
