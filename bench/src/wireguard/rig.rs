//! Two namespaces, a cable, and one implementation of WireGuard on both ends of it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

/// A program that makes a WireGuard device: `PROGRAM [arguments] DEVICE`, in the foreground.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    /// What it wants before the device's name: to stay in the foreground, and to stay root.
    pub arguments: &'static [&'static str],
}

/// One end.
pub struct End {
    namespace: String,
    device: String,
    number: u8,
    process: Option<Child>,
}

/// Both ends, gone when dropped.
pub struct Rig {
    pub ends: [End; 2],
}

impl Rig {
    /// Brings up `program` on both ends of a new cable, configured by `wg` and tried with a ping.
    pub fn up(program: &Program, index: usize) -> Result<Self> {
        let own = std::process::id();
        let end = |number: u8| End {
            namespace: format!("csbench-{own}-{index}-{number}"),
            device: format!("csb{index}{number}"),
            number,
            process: None,
        };
        let mut rig = Self { ends: [end(1), end(2)] };
        let [a, b] = [&rig.ends[0].namespace, &rig.ends[1].namespace].map(Clone::clone);
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("-n {a} link add eth0 type veth peer name eth0 netns {b}"))?;
        for end in &mut rig.ends {
            end.wire()?;
            end.start(program)?;
        }
        rig.meet()?;
        let [near, far] = &rig.ends;
        let ping = ["ping", "-c", "3", "-i", "0.2", "-W", "5", &far.tunnel().to_string()];
        near.run(&ping).with_context(|| format!("{}: nothing comes through", program.name))?;
        Ok(rig)
    }

    /// Keys, and each other's addresses.
    fn meet(&self) -> Result<()> {
        let keys: [String; 2] = [pipe("wg", &["genkey"], "")?, pipe("wg", &["genkey"], "")?];
        for (end, other, own, peer) in [
            (&self.ends[0], &self.ends[1], &keys[0], &keys[1]),
            (&self.ends[1], &self.ends[0], &keys[1], &keys[0]),
        ] {
            let public = pipe("wg", &["pubkey"], peer)?;
            let config = format!(
                "[Interface]\nPrivateKey = {own}\nListenPort = {port}\n[Peer]\nPublicKey = {public}\nAllowedIPs = \
                 10.99.0.0/24\nEndpoint = {}:{port}\n",
                other.underlay(),
                port = End::PORT
            );
            pipe(
                "ip",
                &["netns", "exec", &end.namespace, "wg", "setconf", &end.device, "/dev/stdin"],
                &config,
            )?;
            ip(&format!("-n {} address add {}/24 dev {}", end.namespace, end.tunnel(), end.device))?;
            ip(&format!("-n {} link set {} up", end.namespace, end.device))?;
        }
        Ok(())
    }

    /// A VXLAN device over the tunnel on each end; its addresses are [`End::inner`].
    pub fn vxlan(&self) -> Result<()> {
        for (end, other) in [(&self.ends[0], &self.ends[1]), (&self.ends[1], &self.ends[0])] {
            let (space, device) = (&end.namespace, &end.device);
            ip(&format!(
                "-n {space} link add vx0 type vxlan id 7 dstport 4789 local {} remote {} dev {device}",
                end.tunnel(),
                other.tunnel()
            ))?;
            ip(&format!("-n {space} address add {}/24 dev vx0", end.inner()))?;
            ip(&format!("-n {space} link set vx0 mtu 1370 up"))?;
        }
        Ok(())
    }

    /// Seconds of processor time both processes have used.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let processes = self.ends.iter().filter_map(|end| end.process.as_ref());
        processes.map(|process| cpu_seconds(process.id())).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for end in &mut self.ends {
            if let Some(mut process) = end.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
            // What it would have removed itself, had it been asked to end.
            let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", end.device));
            let _ = ip(&format!("netns del {}", end.namespace));
        }
    }
}

impl End {
    /// Where both listen.
    pub const PORT: u16 = 51820;

    pub fn device(&self) -> &str {
        &self.device
    }

    pub fn underlay(&self) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, self.number).into()
    }

    pub fn tunnel(&self) -> IpAddr {
        Ipv4Addr::new(10, 99, 0, self.number).into()
    }

    pub fn inner(&self) -> IpAddr {
        Ipv4Addr::new(10, 98, 0, self.number).into()
    }

    fn wire(&self) -> Result<()> {
        let space = &self.namespace;
        ip(&format!("-n {space} address add {}/24 dev eth0", self.underlay()))?;
        ip(&format!("-n {space} link set eth0 up"))?;
        ip(&format!("-n {space} link set lo up"))
    }

    fn start(&mut self, program: &Program) -> Result<()> {
        let path = program.path.to_str().context("the program's path is not text")?;
        let mut command = vec![path];
        command.extend(program.arguments);
        command.push(&self.device);
        let mut ip = Command::new("ip");
        // It becomes the program.
        ip.args(["netns", "exec", &self.namespace]).args(&command);
        ip.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(ip.spawn().with_context(|| format!("starting {}", program.name))?);
        let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", self.device));
        let end = Instant::now() + Duration::from_secs(10);
        while !socket.exists() || self.run(&["ip", "link", "show", &self.device]).is_err() {
            ensure!(Instant::now() < end, "{} has made no device", program.name);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Runs a program here, and returns what it prints.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let mut arguments = vec!["netns", "exec", &self.namespace];
        arguments.extend(command);
        pipe("ip", &arguments, "")
    }

    /// The same, without waiting for its end.
    pub fn spawn(&self, command: &[&str]) -> Result<Child> {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", &self.namespace]).args(command).stdin(Stdio::null());
        ip.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("running ip")
    }

    /// Runs `work` on a thread that is here.
    pub fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> thread::JoinHandle<Result<T>> {
        let path = Path::new("/run/netns").join(&self.namespace);
        thread::spawn(move || {
            let space = File::open(&path).with_context(|| path.display().to_string())?;
            setns(space, CloneFlags::CLONE_NEWNET).context("entering a namespace: root is needed")?;
            work()
        })
    }
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // utime and stime are the 14th and 15th, after a name that may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("/proc/PID/stat");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn ip(line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    pipe("ip", &words, "").map(drop)
}

/// Runs a program with `input`, and returns what it prints, trimmed.
pub fn pipe(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program}"))?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
