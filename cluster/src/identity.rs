//! Numbers for sets of labels, given without a leader.
//!
//! `identities/<number>.yaml` holds the labels; whoever makes the file first has given the number. A set's
//! number starts from its hash and moves up while the number is another set's, so that everyone who asks for
//! the same set looks at the same files in the same order and comes to the same number.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use countersign_policy::identity::{candidates, is_pod};
use countersign_policy::labels::{Labels, Source};
use countersign_policy::yaml::{self, Document};
use serde_json::{Map, Value, json};

use crate::files::{self, Replace};
use crate::limits::{IDENTITY_BYTES, IDENTITY_PROBES};
use crate::object::ClusterIdentity;
use crate::yaml_out::to_yaml;

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Every number that the set may have is another's: the directory must be damaged.
    #[error("{IDENTITY_PROBES} numbers from the set's own up are other sets'")]
    Exhausted,
}

/// The directory of identities below a status directory.
#[derive(Clone, Debug)]
pub struct IdentityRegistry {
    directory: PathBuf,
    /// Numbers that this process was given: they hold even if a file is damaged.
    claimed: BTreeMap<Labels, u32>,
}

/// What is at a number.
enum Place {
    Free,
    /// Something that is no identity.
    Damaged,
    Taken(Labels),
}

impl IdentityRegistry {
    /// Over the directory `identities` of `status`.
    #[must_use]
    pub fn new(status: &Path) -> Self {
        Self { directory: status.join("identities"), claimed: BTreeMap::new() }
    }

    /// The number of this set of labels (`source:key=value` each), given now if it has none.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing was given then.
    pub fn claim(&mut self, labels: &Labels) -> Result<u32, IdentityError> {
        fs::create_dir_all(&self.directory).map_err(|source| self.error(source))?;
        if let Some(number) = self.claimed.get(labels).copied() {
            self.keep(number, labels)?;
            return Ok(number);
        }
        let number = self.search(labels)?;
        self.claimed.insert(labels.clone(), number);
        Ok(number)
    }

    fn search(&self, labels: &Labels) -> Result<u32, IdentityError> {
        for (moved, number) in candidates(labels).take(IDENTITY_PROBES).enumerate() {
            if self.settle(number, labels, moved == 0)? {
                return Ok(number);
            }
        }
        Err(IdentityError::Exhausted)
    }

    /// Whether the number is this set's, as found or from now on.
    fn settle(&self, number: u32, labels: &Labels, is_first: bool) -> Result<bool, IdentityError> {
        match self.read(number)? {
            Place::Taken(theirs) => Ok(theirs == *labels),
            Place::Free if self.write(number, labels, Replace::No)? => Ok(true),
            // Somebody was faster: look at whose it is now.
            Place::Free => Ok(matches!(self.read(number)?, Place::Taken(theirs) if theirs == *labels)),
            // At its own place it was almost certainly this set's; anywhere else it may be anybody's.
            Place::Damaged if is_first => self.write(number, labels, Replace::Yes),
            Place::Damaged => Ok(false),
        }
    }

    /// Puts the file of a number that we were given back where it is gone or damaged.
    fn keep(&self, number: u32, labels: &Labels) -> Result<(), IdentityError> {
        match self.read(number)? {
            Place::Taken(_) => {}
            Place::Free => drop(self.write(number, labels, Replace::No)?),
            Place::Damaged => drop(self.write(number, labels, Replace::Yes)?),
        }
        Ok(())
    }

    fn read(&self, number: u32) -> Result<Place, IdentityError> {
        let path = self.path(number);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Free),
            Err(error) => return Err(self.error(error)),
            Ok(meta) if !meta.is_file() || meta.len() > IDENTITY_BYTES => return Ok(Place::Damaged),
            Ok(_) => {}
        }
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Free),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Place::Damaged),
            other => other.map_err(|source| self.error(source))?,
        };
        let documents = yaml::parse(&text).unwrap_or_default();
        let read = documents.first().and_then(|document| from_document(document).ok());
        Ok(match read {
            Some(identity) if documents.len() == 1 && identity.number == number => {
                Place::Taken(identity.labels)
            }
            _ => Place::Damaged,
        })
    }

    /// Returns whether it was written: not where another file is there that may not be replaced.
    fn write(&self, number: u32, labels: &Labels, replace: Replace) -> Result<bool, IdentityError> {
        let text = |source: Source, key: &str| format!("{}:{key}", source.name());
        let map: Map<String, Value> =
            labels.iter().map(|l| (text(l.source, &l.key), Value::from(l.value.as_str()))).collect();
        let object = json!({
            "apiVersion": "countersign.dev/v1alpha1",
            "kind": "Identity",
            "metadata": {"name": number.to_string()},
            "securityLabels": map,
        });
        match files::write(&self.path(number), &to_yaml(&object), replace) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true).map_err(|source| self.error(source)),
        }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number}.yaml"))
    }

    fn error(&self, source: io::Error) -> IdentityError {
        IdentityError::Io { path: self.directory.clone(), source }
    }
}

/// Reads an identity document.
pub(crate) fn from_document(document: &Document) -> Result<ClusterIdentity, String> {
    let number = document.name().parse::<u32>().ok().filter(|number| is_pod(*number));
    let number = number.ok_or("metadata.name is no number of a pod's identity")?;
    let map = document.value.get("securityLabels").and_then(Value::as_object);
    let map = map.filter(|map| !map.is_empty()).ok_or("securityLabels is not a map, or empty")?;
    let label = |(name, value): (&String, &Value)| {
        let (source, key) = name.split_once(':')?;
        // Pods have no labels of any other source.
        let known = source == Source::K8s.name() && !key.is_empty();
        known.then_some((Source::K8s, key.to_owned(), value.as_str()?.to_owned()))
    };
    let labels: Option<Labels> = map.iter().map(label).collect();
    Ok(ClusterIdentity { number, labels: labels.ok_or("securityLabels must be of the form k8s:key: value")? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_policy::identity::identity_number;

    use super::*;

    fn set(labels: &[(&str, &str)]) -> Labels {
        labels.iter().map(|(key, value)| (Source::K8s, (*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn everyone_comes_to_the_same_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let claim_all = || {
            let mut registry = IdentityRegistry::new(dir.path());
            let mut numbers = Vec::new();
            for n in 0..50 {
                numbers.push(registry.claim(&set(&[("app", &format!("a{n}")), ("x", "")])).unwrap());
            }
            numbers
        };
        let claims: Vec<Vec<u32>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim_all)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(claims.iter().all(|numbers| *numbers == claims[0]));
        assert_eq!(claims[0].iter().collect::<BTreeSet<_>>().len(), 50);
        assert!(claims[0].iter().all(|number| is_pod(*number)));
    }

    #[test]
    fn a_taken_number_moves_the_next_set_up() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (set(&[("app", "mine")]), set(&[("app", "other")]));
        let registry = IdentityRegistry::new(dir.path());
        fs::create_dir_all(&registry.directory).unwrap();
        let first = identity_number(&mine);
        registry.write(first, &other, Replace::No).unwrap();
        for _ in 0..2 {
            assert_eq!(IdentityRegistry::new(dir.path()).claim(&mine).unwrap(), first + 1);
        }
        assert!(!registry.write(first, &mine, Replace::No).unwrap(), "a given number stays given");
    }

    #[test]
    fn damage_is_repaired_and_numbers_hold() {
        let dir = tempfile::tempdir().unwrap();
        let labels = set(&[("app", "a")]);
        let mut holder = IdentityRegistry::new(dir.path());
        let number = holder.claim(&labels).unwrap();
        let path = holder.path(number);
        for damage in ["", "{", "kind: Identity\nmetadata: {name: \"300\"}\nsecurityLabels: [x]\n", "\u{0}"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(IdentityRegistry::new(dir.path()).claim(&labels).unwrap(), number);
            fs::write(&path, damage).unwrap();
            assert_eq!(holder.claim(&labels).unwrap(), number);
            assert!(matches!(holder.read(number).unwrap(), Place::Taken(theirs) if theirs == labels));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(holder.claim(&labels).unwrap(), number);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert_eq!(holder.claim(&labels).unwrap(), number);
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}
