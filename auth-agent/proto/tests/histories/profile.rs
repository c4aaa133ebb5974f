//! What kind of world a history plays in.

use countersign_auth_proto::limits::{MS, SECOND};
use countersign_auth_proto::{Config, Pair, ParkLimits};

/// SplitMix64, as simple as randomness gets.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `0..below`.
    pub fn below(&mut self, below: u64) -> u64 {
        if below == 0 { 0 } else { self.next() % below }
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[derive(Clone, Debug)]
pub struct Profile {
    /// Limits are small and are met.
    pub tight: bool,
    /// Everything works, always and soon: nothing may be lost and no entry may end.
    pub honest: bool,
    /// Handshakes that succeed, in percent.
    pub success: u64,
    /// Handshakes without a result (or with one that comes too late), in percent.
    pub lost: u64,
    /// The longest that a handshake takes.
    pub latency: u64,
    /// The life of certificates.
    pub life: u64,
    pub events: u64,
    pub pairs: Vec<Pair>,
    pub config: Config,
    pub parking: ParkLimits,
}

const LOCALS: [u32; 4] = [300, 301, 302, 303];
const REMOTES: [u32; 7] = [300, 301, 302, 400, 401, 402, 403];

impl Profile {
    pub fn new(rng: &mut Rng) -> Self {
        let honest = rng.percent(10);
        let tight = !honest && rng.percent(30);
        let life = rng.pick(&[2 * SECOND, 5 * SECOND, 30 * SECOND, 30 * SECOND, 3_600 * SECOND]);
        let count = 2 + rng.below(10);
        let pairs = (0..count)
            .map(|_| Pair::new(rng.pick(&LOCALS), rng.pick(&REMOTES), rng.pick(&[0, 1, 1, 2])).canonical())
            .collect();
        Self {
            tight,
            honest,
            success: if honest { 100 } else { rng.pick(&[0, 30, 70, 95, 100]) },
            lost: if honest { 0 } else { rng.pick(&[0, 0, 5, 30]) },
            latency: rng.pick(&[MS, 5 * MS, 50 * MS]) * if honest { 1 } else { rng.pick(&[1, 1, 40]) },
            life,
            events: 20 + rng.below(60),
            pairs,
            config: if tight { tight_config(rng) } else { roomy_config(rng) },
            parking: if tight { tight_parking() } else { ParkLimits::default() },
        }
    }
}

fn roomy_config(rng: &mut Rng) -> Config {
    Config { max_age: rng.pick(&[3_600 * SECOND, 20 * SECOND]), ..Config::default() }
}

fn tight_config(rng: &mut Rng) -> Config {
    Config {
        max_pairs: 2 + rng.below(6) as usize,
        max_unproven_per_identity: 1 + rng.below(4) as usize,
        max_live_per_identity: 1 + rng.below(4) as usize,
        max_queued: 1 + rng.below(4) as usize,
        max_in_flight: 1 + rng.below(3) as usize,
        max_in_flight_per_identity: 1 + rng.below(2) as usize,
        max_in_flight_per_node: 1 + rng.below(2) as usize,
        renew_unused: rng.percent(50),
        ..Config::default()
    }
}

fn tight_parking() -> ParkLimits {
    ParkLimits {
        frames_per_pair: 4,
        frames_per_source: 6,
        frames: 8,
        bytes: 2_000,
        reserved_frames: 2,
        sources: 2,
        ..ParkLimits::default()
    }
}
