//! The parts of countersign-wg that are no program: functions over bytes, and the system calls on a TUN device.
//! What measures them, and what throws noise at them, needs them without a tunnel.
//!
//! What they promise:
//! - No packet and no header makes them panic, and none is read or written outside of its bytes.
//! - What is joined for the kernel is what its own cutting would give back byte for byte, and every flow keeps its
//!   order.

pub mod checksum;
pub mod offload;
pub mod tun_sys;
