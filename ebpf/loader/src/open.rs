//! Loading: the object, the pins, and what an earlier process left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use countersign_ebpf_common::{layout, limits};

use crate::error::LoadError;

/// The programs, as the build left them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CS_BPF_OBJECT_PATH"));

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct OpenConfig {
    /// Directory on a bpffs for links and maps; made if missing.
    pub pin_dir: PathBuf,
    /// Sizes of the maps that are made; a map that is pinned already keeps its size.
    pub sizes: MapSizes,
    /// Attach through the clsact qdisc even where the kernel has tcx (for tests).
    pub force_clsact: bool,
}

/// Entries of the maps, see [`countersign_ebpf_common::limits`] for the defaults and their reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Flows, per family.
    pub flows: u32,
    /// Exact addresses, per family.
    pub addresses: u32,
    /// Prefixes, per family.
    pub prefixes: u32,
    /// Exact policy entries.
    pub policy: u32,
    /// Policy entries with wildcards or ranges.
    pub policy_lpm: u32,
    /// Proofs.
    pub auth: u32,
    /// Asserted addresses, per family.
    pub bound: u32,
    /// Fragmented datagrams, per family.
    pub fragments: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            flows: limits::CT_ENTRIES,
            addresses: limits::IP_ENTRIES,
            prefixes: limits::CIDR_ENTRIES,
            policy: limits::POLICY_ENTRIES,
            policy_lpm: limits::POLICY_LPM_ENTRIES,
            auth: limits::AUTH_ENTRIES,
            bound: limits::BOUND_ENTRIES,
            fragments: limits::FRAG_ENTRIES,
        }
    }
}

impl Default for OpenConfig {
    fn default() -> Self {
        Self {
            pin_dir: PathBuf::from("/sys/fs/bpf/countersign"),
            sizes: MapSizes::default(),
            force_clsact: false,
        }
    }
}

impl MapSizes {
    fn apply(&self, loader: &mut EbpfLoader<'_>) {
        let sizes = [
            ("cs_ct4", self.flows),
            ("cs_ct6", self.flows),
            ("cs_ip4", self.addresses),
            ("cs_ip6", self.addresses),
            ("cs_cidr4", self.prefixes),
            ("cs_cidr6", self.prefixes),
            ("cs_policy", self.policy),
            ("cs_policy_lpm", self.policy_lpm),
            ("cs_auth", self.auth),
            ("cs_bound4", self.bound),
            ("cs_bound6", self.bound),
            ("cs_frag4", self.fragments),
            ("cs_frag6", self.fragments),
        ];
        for (map, size) in sizes {
            loader.map_max_entries(map, size);
        }
    }
}

/// Where the links are: independent of the layout's version, so that an upgrade takes them over.
pub(crate) fn links_dir(config: &OpenConfig) -> PathBuf {
    config.pin_dir.join("links")
}

fn maps_dir(config: &OpenConfig) -> PathBuf {
    config.pin_dir.join(format!("maps-v{}", layout::VERSION))
}

/// Makes the directories, loads the object with its maps pinned (or taken from their pins), and verifies
/// every program.
pub(crate) fn load(config: &OpenConfig) -> Result<Ebpf, LoadError> {
    let maps = maps_dir(config);
    for dir in [&maps, &links_dir(config)] {
        make_dir(dir)?;
    }
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&maps);
    config.sizes.apply(&mut loader);
    let mut bpf = loader.load(OBJECT)?;
    check_shapes(&bpf)?;
    for name in layout::program::ALL {
        let program = classifier(&mut bpf, name)?;
        program.load().map_err(|source| LoadError::Program { program: name, source: Box::new(source) })?;
    }
    Ok(bpf)
}

/// A program of the object by its name.
pub(crate) fn classifier<'a>(
    bpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, LoadError> {
    let program = bpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|source| LoadError::Program { program: name, source: Box::new(source) })
}

fn make_dir(dir: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(dir).map_err(|source| LoadError::PinDir { path: dir.to_owned(), source })
}

/// A map that was pinned by somebody else under our path would be read as something it is not.
fn check_shapes(bpf: &Ebpf) -> Result<(), LoadError> {
    for (name, map) in bpf.maps() {
        let Some((want_key, want_value)) = crate::tables::shape(name) else { continue };
        let info = crate::tables::data(map).map(|data| data.info()).transpose()?;
        let Some(info) = info else { continue };
        let (key, value) = (info.key_size(), info.value_size());
        if (key, value) != (want_key, want_value) {
            return Err(LoadError::Shape { map: name.to_owned(), key, value, want_key, want_value });
        }
    }
    Ok(())
}

/// Removes the maps of other layouts. To be called when every link runs the new programs.
pub(crate) fn remove_stale_maps(config: &OpenConfig) -> io::Result<()> {
    let keep = maps_dir(config);
    for entry in fs::read_dir(&config.pin_dir)? {
        let path = entry?.path();
        let stale = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-v"));
        if stale && path != keep {
            for pin in fs::read_dir(&path)? {
                fs::remove_file(pin?.path())?;
            }
            fs::remove_dir(&path)?;
        }
    }
    Ok(())
}
