//! An initramfs: a cpio archive in its "new ASCII" form (the kernel's `initramfs-buffer-format`).

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// A file of this machine, at `place` (no slash in front), executable.
    pub fn copy(&mut self, place: &str, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| from.display().to_string())?;
        self.file(place, &content);
        Ok(())
    }

    /// A file at `place` (no slash in front), executable, with the directories it is in.
    pub fn file(&mut self, place: &str, content: &[u8]) {
        for (at, _) in place.match_indices('/') {
            if self.directories.insert(place[..at].to_owned()) {
                self.entry(&place[..at], DIRECTORY, &[]);
            }
        }
        self.entry(place, PROGRAM, content);
    }

    /// The whole of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // inode, mode, uid, gid, links, time, size, two devices of two numbers, name's length, check (none)
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_describes() {
        let mut archive = Archive::default();
        archive.file("a/b", b"12345");
        archive.file("a/c", b"");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        // Each directory once, before what is in it.
        let names: Vec<_> = ["a\0", "a/b\0", "a/c\0", "TRAILER!!!\0"].map(|name| text.find(name)).into();
        assert!(names.iter().all(Option::is_some) && names.is_sorted(), "{names:?}");
        assert_eq!(text.matches("070701").count(), 4);
        assert!(text.match_indices("070701").all(|(at, _)| at % 4 == 0));
        let file = &text[text.match_indices("070701").nth(1).unwrap().0..];
        assert_eq!(&file[14..22], "000081ed", "its mode");
        assert_eq!(&file[54..62], "00000005", "its size");
    }
}
