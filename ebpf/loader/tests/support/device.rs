//! Interfaces for tests, made with `ip`.

use std::process::Command;

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command in a named network namespace; what it prints, if it succeeds.
pub fn within(namespace: &str, words: &str) -> Option<String> {
    let output = Command::new("ip")
        .args(["netns", "exec", namespace])
        .args(words.split_whitespace())
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The index of an interface.
pub fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// A pair of veth devices; the index of the first.
pub fn veth(name: &str, peer: &str, mac: [u8; 6], peer_mac: [u8; 6]) -> u32 {
    let (mac, peer_mac) = (text(mac), text(peer_mac));
    ip(&format!("link add {name} address {mac} type veth peer name {peer} address {peer_mac}"));
    index(name)
}

/// A MAC for people.
pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
