//! What carries the packets: the kernel's WireGuard, or `countersign-wg`. All devices of a node are of one kind.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command as Program, Stdio};

use countersign_wg_proto::{Observed, Op, Slot};

use crate::limits::START_TIMEOUT;
use crate::link::{self, Link};
use crate::manager::Config;
use crate::netlink::{self, Kernel};
use crate::uapi::{self, Uapi};

/// What carries the packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's own WireGuard.
    Kernel,
    /// `countersign-wg`, a process for each device.
    #[default]
    Userspace,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "countersign-wg (userspace)",
        })
    }
}

/// Which of them is to be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// What is there already; else the kernel's, if it has WireGuard; else userspace.
    #[default]
    Auto,
    /// The kernel's, or none.
    Kernel,
    /// `countersign-wg`, whatever the kernel has.
    Userspace,
}

/// Why a device could not be made, read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Uapi(#[from] uapi::Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error("{program} could not make {device}: {why}")]
    Start { program: PathBuf, device: String, why: String },
    /// There is a device of this name, but not one of this backend.
    #[error("{0} is a device of another kind")]
    OtherKind(String),
}

impl Error {
    /// The device is not there.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            Self::Uapi(uapi::Error::Connect { .. }) => true,
            Self::Netlink(error) => error.errno() == Some(libc::ENODEV),
            _ => false,
        }
    }
}

/// The backend, and what it needs.
#[derive(Debug)]
pub(crate) enum Plane {
    Kernel(Kernel),
    Userspace(Userspace),
}

/// The program of each device, spoken to over its socket.
#[derive(Debug)]
pub(crate) struct Userspace {
    program: PathBuf,
    uapi_dir: PathBuf,
}

impl Plane {
    /// The one that `config` asks for. None: it asks for the kernel's, and that has no WireGuard.
    pub(crate) async fn choose(config: &Config, link: &Link) -> Result<Option<Self>, Error> {
        let userspace = Userspace { program: config.program.clone(), uapi_dir: config.uapi_dir.clone() };
        let in_use = match config.backend {
            BackendChoice::Auto => userspace.in_use(config, link).await?,
            BackendChoice::Kernel => Some(Backend::Kernel),
            BackendChoice::Userspace => Some(Backend::Userspace),
        };
        if in_use == Some(Backend::Userspace) {
            return Ok(Some(Self::Userspace(userspace)));
        }
        let kernel = match Kernel::find().await {
            Err(error) if in_use.is_none() => {
                tracing::warn!(%error, "it cannot be found out whether this kernel has WireGuard");
                None
            }
            other => other?.map(Self::Kernel),
        };
        Ok(kernel.or_else(|| in_use.is_none().then_some(Self::Userspace(userspace))))
    }

    pub(crate) fn backend(&self) -> Backend {
        match self {
            Self::Kernel(_) => Backend::Kernel,
            Self::Userspace(_) => Backend::Userspace,
        }
    }

    /// Whether the first device is made like the others. That of countersign-wg is there before this process, and
    /// outlives it; whoever runs the node sees to that.
    pub(crate) fn makes(&self, slot: Slot) -> bool {
        self.backend() == Backend::Kernel || slot != Slot::default()
    }

    /// Makes a device that is not there. It outlives this process.
    pub(crate) async fn make(&self, device: &str, mtu: u32, link: &Link) -> Result<(), Error> {
        tracing::info!(device, backend = %self.backend(), "a device is needed, and is made");
        match self {
            Self::Kernel(_) => Ok(link.add_wireguard(device).await?),
            Self::Userspace(userspace) => userspace.make(device, mtu).await,
        }
    }

    /// Configuration and counters of a device of this backend.
    pub(crate) async fn read(&self, device: &str, link: &Link) -> Result<Observed, Error> {
        match self {
            Self::Kernel(kernel) => match kernel.read(device).await {
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                    Err(Error::OtherKind(device.to_owned()))
                }
                other => Ok(other?),
            },
            Self::Userspace(userspace) => match userspace.uapi(device).get().await {
                Err(uapi::Error::Connect { .. }) if link.is_wireguard(device).await? => {
                    Err(Error::OtherKind(device.to_owned()))
                }
                other => Ok(other?),
            },
        }
    }

    /// Do `ops`, in order.
    pub(crate) async fn apply(&self, device: &str, ops: &[Op]) -> Result<(), Error> {
        match self {
            Self::Kernel(kernel) => Ok(kernel.apply(device, ops).await?),
            Self::Userspace(userspace) => Ok(userspace.uapi(device).apply(ops).await?),
        }
    }
}

impl Userspace {
    fn uapi(&self, device: &str) -> Uapi {
        Uapi::new(&self.uapi_dir, device)
    }

    /// The backend of the devices that are there.
    async fn in_use(&self, config: &Config, link: &Link) -> Result<Option<Backend>, Error> {
        for device in Slot::ALL.map(|slot| config.device_of(slot)) {
            if link.is_wireguard(&device).await? {
                return Ok(Some(Backend::Kernel));
            }
            // One that is too busy to answer is there.
            if !matches!(self.uapi(&device).get().await, Err(uapi::Error::Connect { .. })) {
                return Ok(Some(Backend::Userspace));
            }
        }
        Ok(None)
    }

    /// The program goes to the background by itself.
    async fn make(&self, device: &str, mtu: u32) -> Result<(), Error> {
        let (program, name) = (self.program.clone(), device.to_owned());
        let mtu = mtu.to_string();
        let failed =
            |why: String| Error::Start { program: self.program.clone(), device: device.to_owned(), why };
        let run = tokio::task::spawn_blocking(move || {
            Program::new(program).args(["--mtu", &mtu, "--", &name]).stdin(Stdio::null()).output()
        });
        let output = tokio::time::timeout(START_TIMEOUT, run).await;
        let output = output.map_err(|_| failed(format!("not within {} s", START_TIMEOUT.as_secs())))?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
