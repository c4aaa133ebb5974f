//! What a node says about itself: its Node object, written by its own agent and by nobody else at a time.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use countersign_policy::yaml;
use serde_json::{Map, Value, json};

use crate::files::{self, Replace};
use crate::yaml_out::to_yaml;

/// Writes `nodes/<node>.yaml` below a status directory.
#[derive(Clone, Debug)]
pub struct NodePublisher {
    directory: PathBuf,
    node: String,
}

impl NodePublisher {
    /// For the node of that name.
    ///
    /// # Errors
    /// `InvalidInput` where the name is not one of a Kubernetes object and would not be safe in a path.
    pub fn new(status: &Path, node: &str) -> io::Result<Self> {
        let safe = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if node.is_empty() || node.starts_with('.') || node.len() > 253 || !node.bytes().all(safe) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{node:?} is no name of a node"),
            ));
        }
        Ok(Self { directory: status.join("nodes"), node: node.to_owned() })
    }

    /// Sets annotations (`Some`) or removes them (`None`); everything else of the object stays as it is. Writes
    /// nothing where nothing is different.
    ///
    /// # Errors
    /// Those of the file system; the old object is then still in place.
    pub fn annotate(&self, annotations: &BTreeMap<String, Option<String>>) -> io::Result<()> {
        self.update(|node| {
            let known = object_at(node, &["metadata", "annotations"]);
            for (key, value) in annotations {
                match value {
                    Some(value) => known.insert(key.clone(), Value::from(value.as_str())),
                    None => known.remove(key),
                };
            }
        })
    }

    /// Changes the object under a lock, so that no other writer's change is lost. A file that is damaged is
    /// written anew.
    ///
    /// # Errors
    /// Those of the file system; the old object is then still in place.
    pub fn update(&self, change: impl FnOnce(&mut Value)) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let _lock = files::lock(&self.directory)?;
        let path = self.directory.join(format!("{}.yaml", self.node));
        let before = read(&path)?;
        let mut node = before.clone().unwrap_or(Value::Null);
        change(&mut node);
        self.name(&mut node);
        if before.as_ref() == Some(&node) {
            return Ok(());
        }
        files::write(&path, &to_yaml(&node), Replace::Yes)
    }

    /// What every Node object says, and this node's name whatever was there.
    fn name(&self, node: &mut Value) {
        object_at(node, &["metadata"]).insert("name".into(), json!(self.node));
        let root = object_at(node, &[]);
        root.insert("apiVersion".into(), json!("v1"));
        root.insert("kind".into(), json!("Node"));
    }
}

/// The object in the file; nothing where there is none, or none that can be read.
fn read(path: &Path) -> io::Result<Option<Value>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(meta) if !meta.is_file() || meta.len() > crate::limits::FILE_BYTES => return Ok(None),
        Ok(_) => {}
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let mut documents = yaml::parse(&text).unwrap_or_default();
    let usable = documents.len() == 1 && documents[0].kind() == "Node";
    Ok(usable.then(|| documents.remove(0).value))
}

/// The map at `path`, made where there is none.
fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { unreachable!("made above") };
    match path.split_first() {
        None => map,
        Some((first, rest)) => object_at(map.entry((*first).to_owned()).or_insert(Value::Null), rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(key: &str, value: Option<&str>) -> BTreeMap<String, Option<String>> {
        BTreeMap::from([(key.to_owned(), value.map(str::to_owned))])
    }

    #[test]
    fn an_annotation_leaves_the_rest_alone() {
        let dir = tempfile::tempdir().unwrap();
        let publisher = NodePublisher::new(dir.path(), "node1").unwrap();
        publisher.update(|node| *node = json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}})).unwrap();
        publisher.annotate(&annotation("a/b", Some("1"))).unwrap();
        publisher.annotate(&annotation("c", Some("2"))).unwrap();
        publisher.annotate(&annotation("c", None)).unwrap();
        let path = dir.path().join("nodes/node1.yaml");
        let expected = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node1", "annotations": {"a/b": "1"}},
            "spec": {"podCIDRs": ["10.0.1.0/24"]},
        });
        assert_eq!(read(&path).unwrap(), Some(expected));
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        publisher.annotate(&annotation("a/b", Some("1"))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written, "nothing new, nothing written");
    }

    #[test]
    fn writers_lose_nothing_of_each_others() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let publisher = NodePublisher::new(dir.path(), "node1").unwrap();
                scope.spawn(move || {
                    for n in 0..10 {
                        publisher.annotate(&annotation(&format!("w{writer}-{n}"), Some("x"))).unwrap();
                    }
                });
            }
        });
        let node = read(&dir.path().join("nodes/node1.yaml")).unwrap().unwrap();
        assert_eq!(node["metadata"]["annotations"].as_object().unwrap().len(), 40);
    }

    #[test]
    fn damage_is_replaced_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let publisher = NodePublisher::new(dir.path(), "node1").unwrap();
        let path = dir.path().join("nodes/node1.yaml");
        for damage in ["", "\0\0\0", "{", "kind: Pod", "- 1"] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, damage).unwrap();
            publisher.annotate(&annotation("a", Some("1"))).unwrap();
            assert_eq!(read(&path).unwrap().unwrap()["metadata"]["name"], "node1");
        }
        let victim = dir.path().join("victim");
        fs::write(&victim, "kind: Node\nsecret: 1\n").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        publisher.annotate(&annotation("a", Some("1"))).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kind: Node\nsecret: 1\n");
        assert!(read(&path).unwrap().unwrap().get("secret").is_none());
        assert!(NodePublisher::new(dir.path(), "../x").is_err());
    }
}
