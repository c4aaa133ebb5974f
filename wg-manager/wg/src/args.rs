//! The command line.

use clap::Parser;

use crate::limits::THREADS;
use crate::tun_sys::MAX_NAME;

/// A WireGuard device in user space, configured with wg(8).
///
/// Creates the TUN device INTERFACE and serves its configuration at /var/run/wireguard/INTERFACE.sock.
/// Without --foreground the program goes to the background, and returns when device and socket are there.
/// The device exists as long as the process does.
#[derive(Debug, Clone, Parser)]
#[command(name = "countersign-wg", version)]
pub struct Args {
    /// The device's name.
    #[arg(value_parser = interface)]
    pub interface: String,
    /// Stay in the foreground, and log to standard error.
    #[arg(short, long, env = "WG_PROCESS_FOREGROUND", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0, default_value_t = false, default_missing_value = "true")]
    pub foreground: bool,
    /// The device's MTU: that of the network below, less 80 (60 if that is IPv4 only).
    #[arg(long, env = "COUNTERSIGN_WG_MTU", default_value_t = 1420, value_parser = clap::value_parser!(u16).range(576..=65_535))]
    pub mtu: u16,
    /// What is logged: error, warn, info, debug or trace.
    #[arg(long, env = "COUNTERSIGN_WG_LOG", default_value = "info")]
    pub log_level: tracing::Level,
    /// Go on in the place of the process that has the device now, with its sockets and sessions: an upgrade
    /// without a lost packet. That process ends; where it cannot give everything away, it goes on.
    #[arg(long, conflicts_with = "mtu")]
    pub take_over: bool,
    /// Threads for each direction; one flow uses them all, in order. Without it, a quarter of the cores: as many
    /// again work for the other direction, and those who send and receive need theirs.
    #[arg(long, env = "COUNTERSIGN_WG_THREADS", value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: Option<u16>,
    /// Write a line to this file descriptor, and close it, when device and socket are there.
    #[arg(long, value_name = "FD")]
    pub ready_fd: Option<i32>,
}

impl Args {
    /// Threads for each direction.
    pub fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or((cores / 4).clamp(1, THREADS), usize::from)
    }
}

fn interface(name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':' && byte != b'%';
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) || name == "." || name == ".." {
        return Err(format!("an interface name has 1 to {MAX_NAME} plain characters"));
    }
    Ok(name.to_owned())
}
