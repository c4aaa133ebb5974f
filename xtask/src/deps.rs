//! Who may import whom, checked: the manifests directly and through others, and the pure crates' source for
//! clocks, files, sockets, the environment and global randomness.

mod graph;
mod purity;

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::rooms::{self, Kind, PROGRAMS, ROOMS, Room};
use crate::sh;
use graph::{Graph, Package};

/// Prints every violation with its path; fails if there is one.
pub fn run() -> Result<()> {
    let mut violations = check(&Graph::of_workspace("Cargo.toml")?);
    let programs = format!("{}/Cargo.toml", PROGRAMS.dir);
    if sh::root().join(&programs).exists() {
        violations.extend(check_programs(&Graph::of_workspace(&programs)?));
    }
    violations.extend(purity::scan_all()?);
    for violation in &violations {
        println!("deps: {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violation(s) of the import rules", violations.len());
    }
    println!("deps: {} rooms, every import allowed, the pure ones are pure", ROOMS.len());
    Ok(())
}

/// The rules of the workspace itself.
fn check(graph: &Graph) -> Vec<String> {
    let mut violations = Vec::new();
    for package in graph.members() {
        let Some(room) = rooms::find(&package.name) else {
            violations
                .push(format!("{}: is no room anybody knows; add it to xtask/src/rooms.rs", package.name));
            continue;
        };
        violations.extend(sources(package));
        violations.extend(foreign_rooms(package, room.imports));
        violations.extend(reserved(package));
        violations.extend(reached(graph, package, room));
    }
    violations
}

/// The eBPF programs: of ours only the common types, of others only aya's.
fn check_programs(graph: &Graph) -> Vec<String> {
    let mut violations = Vec::new();
    for package in graph.members() {
        violations.extend(sources(package));
        violations.extend(foreign_rooms(package, PROGRAMS.imports));
        for dependency in package.dependencies.iter().filter(|d| !d.local && !d.name.starts_with("aya-")) {
            violations.push(format!(
                "{} -> {}: a program imports aya's crates only",
                package.name, dependency.name
            ));
        }
    }
    violations
}

/// Versions are stated, and come from the registry or from this tree.
fn sources(package: &Package) -> Vec<String> {
    let mut violations = Vec::new();
    for dependency in &package.dependencies {
        let edge = format!("{} -> {}", package.name, dependency.name);
        if dependency.git {
            violations.push(format!("{edge}: comes from a git repository"));
        }
        if !dependency.local && dependency.requirement == "*" {
            violations.push(format!("{edge}: no version is required"));
        }
    }
    violations
}

/// Crates of ours outside `allowed`. The tests of what is no pure crate may bring in whom they like.
fn foreign_rooms(package: &Package, allowed: &[&str]) -> Vec<String> {
    let pure = rooms::find(&package.name).is_some_and(|room| room.kind == Kind::Pure);
    let mut violations = Vec::new();
    for dependency in package.dependencies.iter().filter(|d| d.local && (pure || !d.dev)) {
        let name = &dependency.name;
        if *name == package.name || allowed.contains(&name.as_str()) {
            continue;
        }
        let shells = is_shell(&package.name) && is_shell(name);
        let why = if shells { "shells meet in the agent's node.rs only" } else { "not among its imports" };
        violations.push(format!("{} -> {name}: {why}", package.name));
    }
    violations
}

fn is_shell(name: &str) -> bool {
    rooms::find(name).is_some_and(|room| room.kind == Kind::Shell)
}

/// Crates of others that another room alone may name.
fn reserved(package: &Package) -> Vec<String> {
    let mut violations = Vec::new();
    for dependency in &package.dependencies {
        for rule in rooms::RESERVED.iter().filter(|rule| rule.crates.contains(&dependency.name.as_str())) {
            if !rule.rooms.contains(&package.name.as_str()) {
                let owner = rule.rooms.join(", ");
                violations.push(format!("{} -> {}: only {owner} may", package.name, dependency.name));
            }
        }
    }
    violations
}

/// What must not be reached even through others.
fn reached(graph: &Graph, package: &Package, room: &Room) -> Vec<String> {
    let mut forbidden: BTreeSet<&str> = BTreeSet::new();
    if room.kind == Kind::Pure {
        forbidden.extend(rooms::IMPURE);
        forbidden.extend(ROOMS.iter().filter(|r| r.kind != Kind::Pure).map(|r| r.name));
    }
    if !room.reaches_aya {
        forbidden.insert("aya");
    }
    let mut violations: Vec<String> = graph
        .paths_to(&package.id, &forbidden)
        .into_iter()
        .map(|path| format!("{path}: must not be reached"))
        .collect();
    if room.name == "countersign-ebpf-common" {
        let own = package.dependencies.iter().filter(|d| !d.dev);
        violations.extend(own.map(|d| format!("{} -> {}: it has no dependencies", package.name, d.name)));
    }
    violations
}

#[cfg(test)]
mod tests;
