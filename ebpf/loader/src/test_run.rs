//! Running a program on a packet without sending it (`BPF_PROG_TEST_RUN`), for tests and benchmarks.

use std::os::fd::OwnedFd;
use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};

use crate::Datapath;
use crate::error::Error;
use crate::open;

/// The kernel's `struct __sk_buff`, of which interface and mark can be set. The interface must exist in this
/// network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Skb {
    head: [u32; 2],
    mark: u32,
    queue: [u32; 5],
    priority: u32,
    ingress_ifindex: u32,
    ifindex: u32,
    tail: [u32; 37],
}

impl Skb {
    /// A packet on the interface.
    #[must_use]
    pub const fn on(ifindex: u32) -> Self {
        Self { head: [0; 2], mark: 0, queue: [0; 5], priority: 0, ingress_ifindex: 0, ifindex, tail: [0; 37] }
    }

    /// The same with a mark.
    #[must_use]
    pub const fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct TestRun {
    /// What the program returned: -1 (next), 2 (drop), 7 (redirect).
    pub action: i32,
    /// Mean time of one run in nanoseconds.
    pub nanoseconds: u64,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// `skb->mark` afterwards.
    pub mark: u32,
}

impl Datapath {
    /// Runs a program on a packet, `repeat` times.
    pub fn test_run(
        &self,
        program: &'static str,
        packet: &[u8],
        skb: &Skb,
        repeat: u32,
    ) -> Result<TestRun, Error> {
        let failed = |reason: String| Error::TestRun { program, reason };
        let found = self.bpf.program(program).ok_or_else(|| failed("no such program".to_owned()))?;
        let classifier: &aya::programs::SchedClassifier =
            found.try_into().map_err(|error: aya::programs::ProgramError| failed(error.to_string()))?;
        let mut out = vec![0; packet.len() + 256];
        let mut after = *skb;
        let result = classifier
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ctx_in: Some(bytes(skb)),
                ctx_out: Some(bytes_mut(&mut after)),
                repeat,
                ..TestRunOptions::default()
            })
            .map_err(|error| failed(format!("{error:?}")))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRun {
            action: result.return_value as i32,
            nanoseconds: result.duration.as_nanos() as u64,
            packet: out,
            mark: after.mark,
        })
    }

    /// Has the kernel keep the time of every run of every program, as long as what this returns is alive. That
    /// costs each run two readings of the clock.
    pub fn time_runs() -> Result<OwnedFd, Error> {
        aya::sys::enable_stats(aya::sys::Stats::RunTime)
            .map_err(|error| Error::TestRun { program: "any", reason: error.to_string() })
    }

    /// How often the program has run while runs were timed, and for how long in all.
    pub fn timed_runs(&mut self, program: &'static str) -> Result<(u64, Duration), Error> {
        let failed = |reason: String| Error::TestRun { program, reason };
        let classifier =
            open::classifier(&mut self.bpf, program).map_err(|error| failed(error.to_string()))?;
        let info = classifier.info().map_err(|error| failed(error.to_string()))?;
        Ok((info.run_count(), info.run_time()))
    }

    /// How many instructions the verifier looked at for the program; the measure of what it costs to load.
    pub fn verified_instructions(&mut self, program: &'static str) -> Result<u32, Error> {
        let failed = |reason: String| Error::TestRun { program, reason };
        let classifier =
            open::classifier(&mut self.bpf, program).map_err(|error| failed(error.to_string()))?;
        let info = classifier.info().map_err(|error| failed(error.to_string()))?;
        Ok(info.verified_instruction_count().unwrap_or(0))
    }
}

fn bytes(skb: &Skb) -> &[u8] {
    // SAFETY: `Skb` is `repr(C)` of integers without padding; the slice lives as long as the reference.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(skb).cast(), size_of::<Skb>()) }
}

fn bytes_mut(skb: &mut Skb) -> &mut [u8] {
    // SAFETY: as above, and every bit pattern written is a valid `Skb`.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(skb).cast(), size_of::<Skb>()) }
}
