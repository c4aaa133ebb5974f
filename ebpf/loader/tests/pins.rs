//! What survives the process: links, maps, endpoints. And what an interface is before and after.

mod support;

use std::fs;

use countersign_ebpf_loader::common::endpoint;
use countersign_ebpf_loader::common::layout::{self, program};
use countersign_ebpf_loader::common::limits;
use countersign_ebpf_loader::{Error, LoadError, OpenConfig};
use support::World;
use support::device;
use support::scene::{C_IPS, Scene};

/// Whether links can be pinned here: with tcx, which came with Linux 6.6.
fn has_tcx() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

/// How many links are pinned where there would be so many with tcx.
fn pinned(with_tcx: usize) -> usize {
    if has_tcx() { with_tcx } else { 0 }
}

fn tc(words: &str) {
    let status = std::process::Command::new("tc").args(words.split_whitespace()).status().unwrap();
    assert!(status.success(), "tc {words}");
}

/// Programs on an interface's hooks, as the kernel sees them.
fn attached(device: &str) -> String {
    ["ingress", "egress"]
        .map(|hook| {
            let output = std::process::Command::new("tc")
                .args(["filter", "show", "dev", device, hook])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
        .concat()
}

#[test]
fn a_process_that_starts_again_takes_over_what_it_left() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.open();
    let (a, b) = (scene.a.ifindex, scene.b.ifindex);
    let frame = scene.craft(&scene.a, C_IPS, false, true).udp(1, 2, b"payload");
    assert_eq!(scene.kernel(program::FROM_POD, a, &frame), -1);
    let links = world.links();
    assert_eq!(links.len(), pinned(4), "{links:?}");
    let before = (scene.datapath.endpoints(), scene.datapath.policy(), scene.datapath.ipcache());
    drop(scene);
    assert_eq!(world.links(), links);
    let mut datapath = world.open();
    assert_eq!((datapath.endpoints(), datapath.policy(), datapath.ipcache()), before);
    assert_eq!(datapath.connections().len(), 1);
    assert!(datapath.config().unwrap().has(countersign_ebpf_loader::common::config::flag::READY));
    // The endpoint is the same: adding it again changes nothing, and its flows go on.
    assert_eq!(before.0[0].ifindex, a);
    let run = datapath.test_run(program::FROM_POD, &frame, &countersign_ebpf_loader::Skb::on(a), 1).unwrap();
    assert_eq!(run.action, -1);
    assert_eq!(datapath.connections()[0].entry.packets, 2);
    // One pod's interface goes while nobody looks.
    drop(datapath);
    device::ip("link del csb");
    datapath = world.open();
    assert_eq!(datapath.endpoints().iter().map(|endpoint| endpoint.ifindex).collect::<Vec<_>>(), [a]);
    assert!(world.links().iter().all(|link| !link.starts_with(&format!("{b}-"))));
    assert!(datapath.take_events().is_some() && datapath.take_events().is_none());
}

#[test]
fn an_endpoint_that_is_removed_stays_closed() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    scene.open();
    let frame = scene.craft(&scene.a, C_IPS, false, true).udp(1, 2, b"payload");
    assert_eq!(scene.kernel(program::FROM_POD, scene.a.ifindex, &frame), -1);
    scene.datapath.remove_endpoint(1).unwrap();
    assert_eq!(world.links().len(), pinned(4));
    assert_eq!(scene.kernel(program::FROM_POD, scene.a.ifindex, &frame), 2);
    // The next one in the slot starts with nothing of it.
    scene.datapath.add_endpoint(&scene.a).unwrap();
    assert_eq!(scene.kernel(program::FROM_POD, scene.a.ifindex, &frame), -1);
    assert_eq!(scene.datapath.connections()[0].entry.packets, 1);
    device::ip("link del csa");
    scene.datapath.remove_endpoint(1).unwrap();
    assert_eq!(world.links().len(), pinned(2));
}

#[test]
fn what_cannot_be_attached_is_taken_down_and_stays_closed() {
    let Some(world) = World::new() else { return };
    let mut scene = Scene::new(world.open());
    let mut ghost = scene.a;
    (ghost.slot, ghost.ifindex) = (3, 4711);
    assert!(matches!(scene.datapath.add_endpoint(&ghost), Err(Error::NoInterface(4711))));
    for slot in [0, limits::SLOTS as u16] {
        let bad = countersign_ebpf_loader::EndpointConfig { slot, ..scene.a };
        assert!(matches!(scene.datapath.add_endpoint(&bad), Err(Error::BadSlot(_))));
    }
    let third = device::veth("csc", "cscp", [2; 6], [4; 6]);
    device::ip("link set csc up");
    if has_tcx() {
        // Somebody else's file where the pin of the second program should go.
        fs::create_dir(world.pins().join(format!("links/{third}-{}", program::FROM_POD))).unwrap();
    } else {
        // Somebody else's qdisc, which has no place for filters on the way out.
        tc("qdisc add dev csc ingress");
    }
    let pod = countersign_ebpf_loader::EndpointConfig { slot: 3, ifindex: third, ..scene.a };
    assert!(matches!(scene.datapath.add_endpoint(&pod), Err(Error::Attach { .. })));
    let flags = fs::read_to_string("/sys/class/net/csc/flags");
    let down = flags.map_or(true, |flags| {
        u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap() & 1 == 0
    });
    assert!(down);
    assert!(scene.datapath.endpoints().iter().all(|endpoint| endpoint.slot != 3));
}

#[test]
fn maps_of_another_layout_are_not_read() {
    let Some(world) = World::new() else { return };
    let scene = Scene::new(world.open());
    drop(scene);
    let pins = world.pins();
    let (now, old) = (pins.join(format!("maps-v{}", layout::VERSION)), pins.join("maps-v0"));
    fs::create_dir(&old).unwrap();
    for pin in fs::read_dir(&now).unwrap() {
        let pin = pin.unwrap();
        fs::rename(pin.path(), old.join(pin.file_name())).unwrap();
    }
    // The links are taken over with the new programs, whose maps know nobody: closed, and no gap.
    let datapath = world.open();
    assert!(datapath.endpoints().is_empty() && datapath.ipcache().is_empty());
    assert_eq!(world.links().len(), pinned(4));
    assert!(!old.exists());
    // A map of another shape under our name is an error that says so.
    drop(datapath);
    fs::remove_file(now.join("cs_epochs")).unwrap();
    fs::hard_link(now.join("cs_config"), now.join("cs_epochs")).unwrap_or_else(|_| {
        fs::rename(now.join("cs_config"), now.join("cs_epochs")).unwrap();
    });
    let config = OpenConfig { pin_dir: pins, ..world.config.clone() };
    let error = countersign_ebpf_loader::Datapath::open(&config).unwrap_err();
    assert!(matches!(&error, LoadError::Shape { map, .. } if map == "cs_epochs"), "{error}");
}

#[test]
fn a_qdisc_that_would_run_the_programs_on_the_wrong_side_is_refused() {
    let Some(mut world) = World::new() else { return };
    world.config.force_clsact = true;
    let mut scene = Scene::new(world.open());
    let third = device::veth("csc", "cscp", [2; 6], [4; 6]);
    tc("qdisc add dev csc ingress");
    let pod = countersign_ebpf_loader::EndpointConfig { slot: 3, ifindex: third, ..scene.a };
    let error = scene.datapath.add_endpoint(&pod).unwrap_err();
    assert!(error.to_string().contains("clsact"), "{error}");
    assert!(!attached("csc").contains("cs_"), "{}", attached("csc"));
}

#[test]
fn without_tcx_the_clsact_qdisc_does_it() {
    let Some(mut world) = World::new() else { return };
    world.config.force_clsact = true;
    let mut scene = Scene::new(world.open());
    assert!(world.links().is_empty());
    for name in [program::FROM_POD, program::TO_POD] {
        assert!(attached("csa").contains(name), "{}", attached("csa"));
    }
    let ifindex = scene.a.ifindex;
    scene.datapath.attach_uplink(ifindex).unwrap();
    drop(scene);
    let mut datapath = world.open();
    let filters = attached("csa");
    assert_eq!(filters.matches("handle 0x1 cs_from_pod").count(), 1, "{filters}");
    assert_eq!(datapath.endpoints().len(), 2);
    assert!(datapath.endpoints().iter().all(|endpoint| endpoint.flags & endpoint::flag::READY != 0));
    datapath.detach(ifindex);
    assert!(!attached("csa").contains("cs_"), "{}", attached("csa"));
}
