//! The source files of a room.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::source::Source;

/// One `.rs` file.
pub struct File {
    /// Its path.
    pub path: PathBuf,
    /// What is in it.
    pub source: Source,
    /// All of it is test code: by its place, or because it is declared under `#[cfg(test)]`.
    pub all_test: bool,
}

/// Reads every `.rs` file below `room`, other rooms inside it and build output left out, in order of path.
pub fn read_room(room: &Path) -> Result<Vec<File>> {
    let mut paths = Vec::new();
    collect(room, true, &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let inside = path.strip_prefix(room).unwrap_or(&path);
        let all_test =
            inside.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches");
        files.push(File { source: Source::parse(&text), all_test, path });
    }
    mark_declared_tests(&mut files);
    Ok(files)
}

fn collect(dir: &Path, top: bool, paths: &mut Vec<PathBuf>) -> Result<()> {
    let other_room = !top && dir.join("Cargo.toml").exists();
    if other_room || dir.file_name().is_some_and(|name| name == "target") {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, false, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// A file declared as `#[cfg(test)] mod name;` in the file above it is a test, and so is what lies below it.
fn mark_declared_tests(files: &mut [File]) {
    let mut declared: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files.iter() {
        let stem = file.path.file_stem().unwrap_or_default();
        let parent = file.path.parent().unwrap_or(Path::new(""));
        let is_root = ["lib", "main", "mod"].iter().any(|name| stem == *name);
        let below = if is_root { parent.to_path_buf() } else { parent.join(stem) };
        declared.extend(file.source.test_modules.iter().map(|name| below.join(name)));
    }
    for file in files.iter_mut() {
        file.all_test |= file.path.with_extension("").ancestors().any(|path| declared.contains(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_within_and_build_output_are_left_out_and_tests_known() {
        let room = std::env::temp_dir().join(format!("xtask-tree-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = room.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("Cargo.toml", "");
        write("src/lib.rs", "mod a;\n#[cfg(test)]\nmod oracle;");
        write("src/a.rs", "#[cfg(test)]\nmod tests;");
        write("src/a/tests.rs", "");
        write("src/oracle/deep.rs", "");
        write("tests/it.rs", "");
        write("inner/Cargo.toml", "");
        write("inner/src/lib.rs", "");
        write("target/out.rs", "");
        let files = read_room(&room).unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|f| (f.path.strip_prefix(&room).unwrap().to_str().unwrap(), f.all_test))
            .collect();
        std::fs::remove_dir_all(&room).unwrap();
        assert_eq!(
            found,
            [
                ("src/a/tests.rs", true),
                ("src/a.rs", false),
                ("src/lib.rs", false),
                ("src/oracle/deep.rs", true),
                ("tests/it.rs", true),
            ]
        );
    }
}
