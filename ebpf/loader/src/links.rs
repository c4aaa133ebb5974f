//! Attaching programs to interfaces, for good: the links are pinned, one file per interface and program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use countersign_ebpf_common::layout::program;

use crate::device;
use crate::qdisc;

/// Whatever went wrong, for people.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Our place among the filters of a clsact qdisc: the first, each program with a handle of its own.
const PRIORITY: u16 = 1;

fn handle(name: &str) -> TcHandle {
    let number = program::ALL.into_iter().position(|known| known == name).unwrap_or(program::ALL.len());
    TcHandle::new(0, number as u16 + 1)
}

/// Which way packets go where the program sits.
pub(crate) fn hook(name: &str) -> TcAttachType {
    match name {
        program::TO_POD | program::TO_WIRE | program::TO_WG => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// By a link at the interface's tcx hook.
    Tcx,
    /// As a filter of its clsact qdisc.
    Clsact,
}

impl AttachMode {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Attaches programs, and remembers in bpffs where.
#[derive(Debug)]
pub(crate) struct Links {
    dir: PathBuf,
    force_clsact: bool,
    attached: BTreeMap<(u32, &'static str), AttachMode>,
}

impl Links {
    pub(crate) fn new(dir: PathBuf, force_clsact: bool) -> Self {
        Self { dir, force_clsact, attached: BTreeMap::new() }
    }

    /// How the programs are attached that this process has attached or taken over, one item each.
    pub(crate) fn attached(&self) -> impl Iterator<Item = AttachMode> + '_ {
        self.attached.iter().filter(|((ifindex, _), _)| device::exists(*ifindex)).map(|(_, mode)| *mode)
    }

    fn path(&self, ifindex: u32, name: &str) -> PathBuf {
        self.dir.join(format!("{ifindex}-{name}"))
    }

    /// Attaches the program, or puts it in the place of an earlier version of itself without a gap.
    pub(crate) fn attach(
        &mut self,
        program: &mut SchedClassifier,
        name: &'static str,
        ifindex: u32,
    ) -> Result<(), Failure> {
        let mode = self.attach_somehow(program, name, ifindex)?;
        self.attached.insert((ifindex, name), mode);
        Ok(())
    }

    fn attach_somehow(
        &self,
        program: &mut SchedClassifier,
        name: &'static str,
        ifindex: u32,
    ) -> Result<AttachMode, Failure> {
        let path = self.path(ifindex, name);
        if let Ok(pinned) = PinnedLink::from_pin(&path) {
            if update(program, pinned).is_ok() {
                return Ok(AttachMode::Tcx);
            }
            // The link's interface is gone, and this is another one.
            remove(&path);
        }
        if !self.force_clsact {
            match attach_tcx(program, name, ifindex) {
                Ok(link) => {
                    link.pin(path)?;
                    return Ok(AttachMode::Tcx);
                }
                Err(error) if tcx_is_missing(error.as_ref()) => {}
                Err(error) => return Err(error),
            }
        }
        attach_clsact(program, name, ifindex)?;
        Ok(AttachMode::Clsact)
    }

    /// The interfaces with pinned links, and the programs on them.
    pub(crate) fn pinned(&self) -> io::Result<BTreeSet<(u32, &'static str)>> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(parse));
        }
        Ok(found)
    }

    /// Removes the pins of interfaces that are gone.
    pub(crate) fn sweep(&mut self) -> io::Result<()> {
        self.attached.retain(|(ifindex, _), _| device::exists(*ifindex));
        for (ifindex, name) in self.pinned()? {
            if !device::exists(ifindex) {
                remove(&self.path(ifindex, name));
            }
        }
        Ok(())
    }

    /// Detaches the program from the interface.
    pub(crate) fn detach(&mut self, name: &'static str, ifindex: u32) {
        self.attached.remove(&(ifindex, name));
        let path = self.path(ifindex, name);
        if path.exists() {
            remove(&path);
        } else if let Ok(device) = device::name(ifindex) {
            // Nothing attached is what is wanted.
            drop(tc::qdisc_detach_program(&device, hook(name), name));
        }
    }
}

fn parse(file: &str) -> Option<(u32, &'static str)> {
    let (ifindex, name) = file.split_once('-')?;
    let name = program::ALL.into_iter().find(|known| *known == name)?;
    Some((ifindex.parse().ok()?, name))
}

/// Best effort: a pin that stays holds a link to nothing.
fn remove(path: &Path) {
    drop(fs::remove_file(path));
}

fn update(program: &mut SchedClassifier, pinned: PinnedLink) -> Result<(), Failure> {
    let link: SchedClassifierLink = FdLink::from(pinned).try_into()?;
    let id = program.attach_to_link(link)?;
    // Closes our descriptor; the pin holds the link.
    drop(program.take_link(id)?);
    Ok(())
}

fn attach_tcx(program: &mut SchedClassifier, name: &'static str, ifindex: u32) -> Result<FdLink, Failure> {
    let device = device::name(ifindex)?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&device, hook(name), options)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Filters of a qdisc need no pin: they live as long as the interface.
fn attach_clsact(program: &mut SchedClassifier, name: &'static str, ifindex: u32) -> Result<(), Failure> {
    let device = device::name(ifindex)?;
    // It may be there already, ours or another's.
    drop(tc::qdisc_add_clsact(&device));
    if !qdisc::is_clsact(ifindex)? {
        return Err("another qdisc is where clsact should be".into());
    }
    let old = SchedClassifierLink::attached(&device, hook(name), PRIORITY, handle(name), None)?;
    let id = match program.attach_to_link(old) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: handle(name), classid: None };
            program.attach_with_options(&device, hook(name), TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping the link would detach it.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Kernels before 6.6 know no such attach type.
fn tcx_is_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(ProgramError::SyscallError(error)) = error.downcast_ref() else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}
