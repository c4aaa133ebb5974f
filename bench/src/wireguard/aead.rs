//! What the cores could do if a tunnel were nothing but its cipher.

use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::limits::ALONE;

/// A packet of a TCP stream in a tunnel with an MTU of 1,420.
const PACKET: usize = 1_420;

/// Gbit/s of payload when all cores seal and open each packet once, as both ends of a tunnel do.
pub fn limit_gbps() -> Result<f64> {
    let cores = thread::available_parallelism()?.get();
    let rates: Result<Vec<f64>> = thread::scope(|scope| {
        let running: Vec<_> = (0..cores).map(|_| scope.spawn(per_second)).collect();
        running
            .into_iter()
            .map(|one| one.join().map_err(|_| anyhow!("a measuring thread panicked"))?)
            .collect()
    });
    Ok(rates?.iter().sum::<f64>() * PACKET as f64 * 8.0 / 1e9)
}

fn per_second() -> Result<f64> {
    let unusable = |_| anyhow!("the cipher does not work");
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).map_err(unusable)?);
    let mut packet = vec![0; PACKET];
    let (began, mut done) = (Instant::now(), 0_u32);
    while began.elapsed() < ALONE {
        for _ in 0..64 {
            packet.truncate(PACKET);
            let nonce = || Nonce::assume_unique_for_key([0; 12]);
            key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut packet).map_err(unusable)?;
            key.open_in_place(nonce(), Aad::empty(), &mut packet).map_err(unusable)?;
            done += 1;
        }
    }
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}
