//! The graph of packages, as `cargo metadata` prints it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::sh;

/// Packages and who depends on whom. Development dependencies are in a package's list but make no edges.
pub struct Graph {
    packages: BTreeMap<String, Package>,
    members: BTreeSet<String>,
    edges: BTreeMap<String, Vec<String>>,
}

/// One package.
pub struct Package {
    /// Cargo's name for this package at this version.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What its manifest names.
    pub dependencies: Vec<Dependency>,
}

/// One dependency, as a manifest declares it.
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// It lies in this tree.
    pub local: bool,
    /// It comes from a git repository.
    pub git: bool,
    /// For tests, examples and benchmarks only.
    pub dev: bool,
    /// The version required.
    pub requirement: String,
}

impl Graph {
    /// What cargo says of the workspace of `manifest`.
    pub fn of_workspace(manifest: &str) -> Result<Self> {
        let host = sh::output(&mut sh::command("rustc", ["-vV"]))?;
        let host =
            host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        let mut command = sh::cargo(["metadata", "--format-version", "1", "--manifest-path", manifest]);
        command.args(["--filter-platform", host]);
        let json = sh::output(&mut command)?;
        Self::parse(&serde_json::from_str(&json)?).context("cargo metadata has another shape than expected")
    }

    /// Reads the output of `cargo metadata --format-version 1`.
    pub fn parse(metadata: &Value) -> Option<Self> {
        let packages = metadata["packages"].as_array()?.iter().map(package).collect::<Option<Vec<_>>>()?;
        let nodes = metadata["resolve"]["nodes"].as_array()?;
        Some(Self {
            packages: packages.into_iter().map(|p| (p.id.clone(), p)).collect(),
            members: strings(&metadata["workspace_members"]),
            edges: nodes.iter().map(|n| Some((text(&n["id"])?, edges_of(n)?))).collect::<Option<_>>()?,
        })
    }

    /// The packages of the workspace itself.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| self.members.contains(&package.id))
    }

    /// A shortest path (`a -> b -> c`) from package `from` to each of the `forbidden` names it reaches.
    pub fn paths_to(&self, from: &str, forbidden: &BTreeSet<&str>) -> Vec<String> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        let mut found = Vec::new();
        while let Some(at) = queue.pop_front() {
            for next in self.edges.get(at).into_iter().flatten() {
                if next == from || came_from.contains_key(next.as_str()) {
                    continue;
                }
                came_from.insert(next, at);
                match forbidden.contains(self.name(next)) {
                    true => found.push(self.path(&came_from, next)),
                    false => queue.push_back(next),
                }
            }
        }
        found
    }

    fn path(&self, came_from: &BTreeMap<&str, &str>, to: &str) -> String {
        let mut names = vec![self.name(to)];
        let mut at = to;
        while let Some(before) = came_from.get(at) {
            names.push(self.name(before));
            at = before;
        }
        names.reverse();
        names.join(" -> ")
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.packages.get(id).map_or(id, |package| &package.name)
    }
}

fn package(value: &Value) -> Option<Package> {
    let dependencies = value["dependencies"].as_array()?;
    Some(Package {
        id: text(&value["id"])?,
        name: text(&value["name"])?,
        dependencies: dependencies.iter().map(dependency).collect::<Option<_>>()?,
    })
}

fn dependency(value: &Value) -> Option<Dependency> {
    let source = value["source"].as_str();
    Some(Dependency {
        name: text(&value["name"])?,
        local: source.is_none(),
        git: source.is_some_and(|source| source.starts_with("git+")),
        dev: value["kind"] == "dev",
        requirement: text(&value["req"])?,
    })
}

/// The packages a node of the resolved graph is built from.
fn edges_of(node: &Value) -> Option<Vec<String>> {
    let built_from = |dep: &&Value| {
        dep["dep_kinds"].as_array().is_none_or(|kinds| kinds.iter().any(|k| k["kind"] != "dev"))
    };
    node["deps"].as_array()?.iter().filter(built_from).map(|dep| text(&dep["pkg"])).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn strings(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}
