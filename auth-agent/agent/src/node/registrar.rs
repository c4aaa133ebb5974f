//! What the registrar of SPIRE's entries says of itself: a file of its, where it is to be seen from here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use countersign_agent_api as api;
use countersign_spire_proto::RegistrarStatus;
use nix::libc;

/// No registrar writes as much: its list of errors is bounded.
const MAX_BYTES: u64 = 256 * 1024;

/// What the file says; nothing where there is none.
pub(super) fn read(path: &Path) -> Option<api::RegistrarEntry> {
    let file = path.display().to_string();
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(api::RegistrarEntry {
            file,
            unreadable: Some(error.to_string()),
            ..api::RegistrarEntry::default()
        }),
        Ok((opened, written)) => Some(match parse(opened) {
            Ok(status) => entry(file, written, status),
            Err(error) => api::RegistrarEntry {
                file,
                written,
                unreadable: Some(error.to_string()),
                ..api::RegistrarEntry::default()
            },
        }),
    }
}

/// Opens it without waiting for anybody, and only if it is a file.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    Ok((file, u64::try_from(metadata.mtime()).unwrap_or(0)))
}

fn parse(file: File) -> io::Result<RegistrarStatus> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    // serde would take an empty list for a status in which nothing is said.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes)?;
    Ok(serde_json::from_value(object.into())?)
}

fn entry(file: String, written: u64, status: RegistrarStatus) -> api::RegistrarEntry {
    let trouble = |error: countersign_spire_proto::EntryError| api::EntryTrouble {
        about: error.about,
        message: error.message,
    };
    let turn = |turn: countersign_spire_proto::Turn| api::RegistrarTurn {
        lease: turn.lease,
        identity: turn.identity,
        leader: turn.leader,
        leads: turn.leads,
        seen: turn.seen,
    };
    api::RegistrarEntry {
        file,
        written,
        unreadable: None,
        cluster: status.cluster,
        server: status.server,
        managed: status.managed as u64,
        desired: status.desired as u64,
        elsewhere: status.elsewhere as u64,
        waiting: status.waiting as u64,
        failed: status.failed as u64,
        in_step: status.in_step,
        server_down_since: status.server_down_since,
        last_error: status.last_error,
        errors: status.errors.into_iter().map(trouble).collect(),
        turn: status.turn.map(turn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_and_damage_is_said() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("registrar.json");
        assert_eq!(read(&path), None, "no registrar here");
        let status = RegistrarStatus { managed: 3, desired: 4, failed: 1, ..RegistrarStatus::default() };
        std::fs::write(&path, serde_json::to_vec(&status).expect("JSON")).expect("write");
        let entry = read(&path).expect("it is there");
        assert_eq!((entry.managed, entry.desired, entry.failed, entry.unreadable), (3, 4, 1, None));
        assert!(entry.written > 0);
        for damage in ["{\"managed\": ", "", "[]"] {
            std::fs::write(&path, damage).expect("write");
            assert!(read(&path).expect("it is there").unreadable.is_some(), "{damage:?}");
        }
        assert!(read(dir.path()).expect("it is there").unreadable.is_some(), "a directory");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert!(read(&link).expect("it is there").unreadable.is_some(), "a planted link");
    }
}
