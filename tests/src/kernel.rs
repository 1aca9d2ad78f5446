//! The kernel in tests: the rights to load a program, and how most tests load it.

use anyhow::{Context as _, Result, bail};
use monitor_common::abi::limits::DEFAULT_RECORD_BUFFER_BYTES;
use peertally_core::pool::Pool;
use peertally_datapath::{
    TableSizes,
    object::{LoadOptions, MonitoredInterface},
};
use peertally_lab::{STRICT_VARIABLE, strict};

use crate::packet_table::SEED;

/// Whether the process may load a program. Without the rights, a test says that it skips the kernel; in strict mode it
/// fails.
///
/// # Errors
/// In strict mode without rights.
pub fn may_use_kernel(test: &str) -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    // CapEff, bit 39: CAP_BPF (capabilities(7)).
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim).unwrap_or("0");
    let has = u64::from_str_radix(effective, 16).is_ok_and(|bits| bits >> 39 & 1 == 1);
    if has {
        return Ok(true);
    }
    if strict() {
        bail!("{test} needs CAP_BPF, and {STRICT_VARIABLE}=1 forbids skipping: run as root");
    }
    println!("SKIPPED: {test}: needs CAP_BPF, run as root");
    Ok(false)
}

/// Has the calling thread run on this CPU. Where there is one only, the threads interleave instead.
pub fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        println!("CPU {cpu}: {error}");
    }
}

/// Small tables, `10.0.0.0/8/32` and `2001:db8::/32/56` as subscribers, and tunnel endpoints in `203.0.113.0/28` and
/// `2001:db9:1::/64`. Most tests send packets of one side only, so every flow counts as
/// answered.
///
/// # Panics
/// Never: the prefixes are constants.
#[must_use]
pub fn load_options() -> LoadOptions {
    LoadOptions {
        sizes: TableSizes { flows: 1024, tallies: 1024, peers: 1024 },
        pools: ["10.0.0.0/8/32", "2001:db8::/32/56"].map(|pool| pool.parse::<Pool>().expect("a valid pool")).into(),
        tunnel_endpoints: ["203.0.113.0/28", "2001:db9:1::/64"].map(|prefix| prefix.parse().expect("a prefix")).into(),
        seed: Some(SEED),
        interfaces: vec![MonitoredInterface::access(1)],
        one_way: true,
        record_bytes: DEFAULT_RECORD_BUFFER_BYTES,
        ..LoadOptions::default()
    }
}
