//! A lab that went down has left nothing, whatever was killed in it; and two labs do not disturb each other.
//! Needs root.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use countersign_e2e::http::{Server, curl};
use countersign_e2e::manifests::{Pod as Manifest, Rule, policy};
use countersign_e2e::world::{World, WorldOptions};
use countersign_lab::LabName;
use countersign_lab::ns;
use countersign_lab::paths::Paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn cast() -> Vec<String> {
    vec![
        Manifest::new("web", "node2", "web").yaml(),
        Manifest::new("client", "node1", "client").command(&["sleep", "infinity"]).yaml(),
        policy("web", "web", &[Rule { peer: "client", ports: &["TCP/80"], required: true }], &[]),
    ]
}

/// What is left of a lab: namespaces, files, mounts.
fn remains(lab: &LabName) -> Result<Vec<String>> {
    let mut remains = ns::list_net(&lab.netns_prefix())?;
    let root = Paths::new(lab).root().to_path_buf();
    if root.exists() {
        remains.push(root.display().to_string());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let (directory, prefix) = (root.display().to_string(), format!("/{}", lab.netns_prefix()));
    let of_lab = |line: &&str| line.contains(&directory) || line.contains(&prefix);
    remains.extend(mounts.lines().filter(of_lab).map(str::to_owned));
    Ok(remains)
}

/// Processes whose command line speaks of the lab.
fn processes(lab: &LabName) -> BTreeSet<String> {
    let directory = Paths::new(lab).root().display().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let text = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    text.filter(|line| line.contains(&directory) || line.contains(&format!("--name {lab} "))).collect()
}

#[test]
fn down_leaves_nothing_behind() -> Result<()> {
    let options = WorldOptions::new("gone")?;
    let lab = options.name.clone();
    drop(World::up(options, &cast())?);
    ensure!(remains(&lab)?.is_empty(), "{:?}", remains(&lab)?);
    ensure!(processes(&lab).is_empty(), "{:?}", processes(&lab));
    Ok(())
}

#[test]
fn down_leaves_nothing_behind_after_everything_was_killed() -> Result<()> {
    let options = WorldOptions::new("killed")?;
    let lab = options.name.clone();
    let world = World::up(options, &cast())?;
    let view = world.lab().view();
    let of_nodes = view.nodes.iter().flat_map(|node| [node.agent, node.wireguard]);
    let of_pods = view.pods.iter().map(|pod| pod.process);
    let others = of_nodes.chain(of_pods).flatten().map(|process| process.pid);
    for pid in view.supervisor.into_iter().chain(others) {
        // Some of them die of another's death.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    drop(world);
    ensure!(remains(&lab)?.is_empty(), "{:?}", remains(&lab)?);
    ensure!(processes(&lab).is_empty(), "{:?}", processes(&lab));
    Ok(())
}

#[test]
fn labs_side_by_side_do_not_disturb_each_other() -> Result<()> {
    let first = World::up(WorldOptions::new("beside1")?, &cast())?;
    let second = World::up(WorldOptions::new("beside2")?, &cast())?;
    let reach = |world: &World, body: &str| -> Result<()> {
        let web = world.place("web")?;
        let _server = Server::start(&web.space, 80, body)?;
        let answer = curl(&world.place("client")?.space, web.address(false)?, 80)?;
        ensure!(answer.exit == 0 && answer.body == body, "{answer:?}");
        Ok(())
    };
    reach(&first, "first")?;
    reach(&second, "second")?;
    drop(first);
    reach(&second, "second again")
}
