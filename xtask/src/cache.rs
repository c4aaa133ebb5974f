//! Where builds and downloads of others stay: outside the tree, so that a machine makes them once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The directory; it need not be there yet.
pub fn dir() -> Result<PathBuf> {
    let given = std::env::var_os("COUNTERSIGN_CACHE_DIR").map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("countersign"));
    let home = || std::env::var_os("HOME").map(|dir| Path::new(&dir).join(".cache/countersign"));
    given
        .or_else(xdg)
        .or_else(home)
        .context("no HOME: set COUNTERSIGN_CACHE_DIR to where builds of others may stay")
}
