//! The embedded CA's directory: shared, private, and never half made.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use countersign_certs::{SpiffeId, TrustDomain, chain, signature};
use countersign_spire::embedded::{EmbeddedCa, EmbeddedError};

const NOW: u64 = 1_800_000_000;

fn domain() -> TrustDomain {
    TrustDomain::parse("countersign.lab").unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://countersign.lab/node/node-a").unwrap()
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/ca");
    (dir, path)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn open(path: &Path) -> Result<EmbeddedCa, EmbeddedError> {
    EmbeddedCa::open(path, &domain(), NOW)
}

#[test]
fn what_one_process_issues_another_believes() {
    let (_dir, path) = fresh();
    let (first, second) = (open(&path).unwrap(), open(&path).unwrap());
    let svid = first.issue(&id(), NOW, 60).unwrap();
    let bundle = second.bundle().unwrap();
    assert_eq!(first.bundle().unwrap().version(), bundle.version());
    chain::verify(svid.chain(), &bundle, &id(), NOW).unwrap();
    let signed = signature::sign(&svid, b"statement").unwrap();
    signature::verify(svid.chain(), &bundle, &id(), NOW, b"statement", &signed).unwrap();
}

#[test]
fn many_at_once_make_one_root() {
    let (_dir, path) = fresh();
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || *open(&path).unwrap().bundle().unwrap().version())
        })
        .collect();
    let versions: std::collections::BTreeSet<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(versions.len(), 1);
}

#[test]
fn only_the_owner_gets_at_the_key() {
    let (_dir, path) = fresh();
    open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("ca.key")), 0o600);
    fs::set_permissions(path.join("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("accessible to others"), "{error}");
}

#[test]
fn symbolic_links_pipes_and_huge_files_are_refused() {
    for name in ["ca.key", "ca.pem", "ca.lock"] {
        let (_dir, path) = fresh();
        open(&path).unwrap();
        let target = path.join("elsewhere");
        fs::rename(path.join(name), &target).unwrap();
        symlink(&target, path.join(name)).unwrap();
        assert!(matches!(open(&path), Err(EmbeddedError::File { .. })), "{name}");
    }
    let (_dir, path) = fresh();
    open(&path).unwrap();
    fs::write(path.join("ca.pem"), vec![b'x'; 100_000]).unwrap();
    assert!(matches!(open(&path), Err(EmbeddedError::File { .. })));
    fs::remove_file(path.join("ca.pem")).unwrap();
    fs::create_dir(path.join("ca.pem")).unwrap();
    assert!(matches!(open(&path), Err(EmbeddedError::File { .. })));
}

#[test]
fn dying_between_key_and_certificate_loses_nothing() {
    let (_dir, path) = fresh();
    open(&path).unwrap();
    let key = fs::read(path.join("ca.key")).unwrap();
    fs::remove_file(path.join("ca.pem")).unwrap();
    fs::write(path.join("ca.tmp"), b"half a certificate").unwrap();
    open(&path).unwrap();
    assert_eq!(fs::read(path.join("ca.key")).unwrap(), key);
    assert!(!path.join("ca.tmp").exists());
}

#[test]
fn damage_is_an_error_and_changes_nothing() {
    let (_dir, path) = fresh();
    open(&path).unwrap();
    fs::remove_file(path.join("ca.key")).unwrap();
    assert!(matches!(open(&path), Err(EmbeddedError::KeyMissing(_))));
    for (name, bytes) in [("ca.key", &b""[..]), ("ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n")] {
        let (_dir, path) = fresh();
        open(&path).unwrap();
        fs::write(path.join(name), bytes).unwrap();
        open(&path).unwrap_err();
        assert_eq!(fs::read(path.join(name)).unwrap(), bytes);
    }
}

#[test]
fn another_domain_or_another_key_is_not_taken() {
    let (_dir, path) = fresh();
    open(&path).unwrap();
    let other = TrustDomain::parse("other.example").unwrap();
    assert!(matches!(EmbeddedCa::open(&path, &other, NOW), Err(EmbeddedError::Issue(_))));
    let (_dir2, elsewhere) = fresh();
    open(&elsewhere).unwrap();
    fs::copy(elsewhere.join("ca.key"), path.join("ca.key")).unwrap();
    assert!(matches!(open(&path), Err(EmbeddedError::Issue(_))));
}

#[test]
fn debug_output_shows_no_key() {
    let (_dir, path) = fresh();
    let ca = open(&path).unwrap();
    let svid = ca.issue(&id(), NOW, 60).unwrap();
    let shown = format!("{ca:?} {svid:?} {:?}", svid.private_key());
    assert!(shown.len() < 400, "{shown}");
    assert!(!shown.contains("PRIVATE") && !shown.contains("48, 1"), "{shown}");
}
