//! The programs load, and cost the verifier no more than they may.

mod support;

use countersign_ebpf_loader::common::layout::program;

/// Verified instructions of the programs of one endpoint, in sum. Older kernels see fewer paths that are the same
/// and walk more of them: for those `COUNTERSIGN_VERIFIER_BUDGET` is another number.
const ENDPOINT_BUDGET: u32 = 40_000;

#[test]
fn verified_instructions_are_within_the_budget() {
    let Some(world) = support::World::new() else { return };
    let mut datapath = world.open();
    let mut count = |name| datapath.verified_instructions(name).unwrap();
    for name in program::ALL {
        println!("{name:14} {:7} verified instructions", count(name));
    }
    let endpoint = count(program::FROM_POD) + count(program::TO_POD);
    let given = std::env::var("COUNTERSIGN_VERIFIER_BUDGET").ok();
    let budget = given.map_or(ENDPOINT_BUDGET, |number| number.parse().unwrap());
    assert!(endpoint <= budget, "{endpoint} verified instructions");
}
