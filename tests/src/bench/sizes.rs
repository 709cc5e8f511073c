//! How big the binaries are.

use std::fs;

use super::experiments::subjects;
use super::figures::{Figure, megabytes};
use super::unit::Unit;
use super::{Bench, BenchError};

/// The VMM's.
pub const VMM: &str = "size of the VMM's binary";
/// The agent's.
pub const AGENT: &str = "size of the agent's binary";
/// The runtime's and the shim's.
pub const RUNTIME: &str = "size of the runtime's binary";
/// What the guest boots.
pub const KERNEL: &str = "size of the guest's kernel";
/// And from.
pub const INITRAMFS: &str = "size of the guest's initramfs";

/// All of them.
pub fn figures(bench: &Bench) -> Result<Vec<Figure>, BenchError> {
    let files = [
        (VMM, bench.binaries.join("bulkhead-vmm")),
        (AGENT, bench.binaries.join("bulkhead-agent")),
        (RUNTIME, bench.binaries.join("bulkhead")),
        (KERNEL, bench.kernel.clone()),
        (INITRAMFS, bench.initramfs.clone()),
    ];
    let mut figures = Vec::new();
    for (row, path) in files {
        let size = fs::metadata(&path).map_err(BenchError::file(&path))?.len();
        let samples = vec![megabytes(size)];
        figures.extend(Figure::new(row, subjects::BULKHEAD, Unit::Megabytes, samples));
    }
    Ok(figures)
}
