//! Going to the background, and telling when the device is ready.
//!
//! The process starts itself anew, in a session of its own, and returns when the new process has written a
//! line to a pipe: `ready`, or why it could not start.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;

use crate::args::Args;
use crate::limits::START_TIMEOUT;

/// Start the process in the background, and wait until it is ready.
pub fn start(args: &Args) -> anyhow::Result<()> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    // This end alone goes to the child.
    fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty())).context("pipe")?;
    let program = std::env::current_exe().context("finding this program")?;
    let mtu = args.mtu.to_string();
    let device = if args.take_over { vec!["--take-over"] } else { vec!["--mtu", &mtu] };
    let mut child = Command::new(program)
        .args(["--foreground", "--log-level", args.log_level.as_str()])
        .args(device)
        .args(args.threads.map(|threads| format!("--threads={threads}")))
        .args(["--ready-fd", &writer.as_raw_fd().to_string(), "--", &args.interface])
        .env("COUNTERSIGN_WG_BACKGROUND", "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the background process")?;
    drop(writer);
    match wait(&reader) {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn wait(reader: &OwnedFd) -> anyhow::Result<()> {
    use std::os::fd::AsFd as _;
    let limit = PollTimeout::try_from(START_TIMEOUT).context("timeout")?;
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, limit).context("waiting for the background process")? == 0 {
        bail!("the background process was not ready within {} s", START_TIMEOUT.as_secs());
    }
    let mut line = String::new();
    BufReader::new(File::from(reader.try_clone()?)).read_line(&mut line)?;
    match line.trim_end() {
        "ready" => Ok(()),
        "" => bail!("the background process ended before it was ready"),
        why => bail!("{why}"),
    }
}

/// In the background process: leave the session of whoever started it.
pub fn detach() {
    if std::env::var_os("COUNTERSIGN_WG_BACKGROUND").is_some() {
        let _ = nix::unistd::setsid();
    }
}

/// Whoever waits for this process to be ready.
pub struct Ready(Option<File>);

impl Ready {
    /// The one behind the descriptor, if any.
    pub fn new(fd: Option<i32>) -> Self {
        let valid = fd.filter(|fd| *fd > 2);
        // SAFETY: the caller passed the descriptor for this purpose (--ready-fd), and nothing else here has
        // it; standard descriptors are excluded. Should it not be open, writing fails and says so.
        Self(valid.map(|fd| unsafe { File::from_raw_fd(fd) }))
    }

    /// Tell the result, once.
    pub fn tell(&mut self, result: &anyhow::Result<()>) {
        let Some(mut file) = self.0.take() else { return };
        let line = match result {
            Ok(()) => "ready\n".to_owned(),
            Err(error) => format!("{error:#}\n"),
        };
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "telling that the device is ready");
        }
    }
}

/// No core dumps, no ptrace by other users: there are keys in this memory.
pub fn harden() {
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    use nix::sys::resource::{Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// A panic in one task would leave a device that looks alive and carries nothing. Whoever supervises the
/// process starts it again.
pub fn end_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        std::process::abort();
    }));
}
