//! Tries the shipped object in the kernel it runs on; the first and only program of the kernel lane's guests.
//!
//! Loads every program through aya, attaches natively on a veth pair, runs the packet table through the kernel's test
//! runner, and prints what the lane reads: `INSTRUCTIONS PROGRAM COUNT` and one `KERNEL RELEASE: ok, ..` line.

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use clap::Parser;

/// The object that the agent embeds.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../monitor/ebpf/peertally.bpf.o");

/// `XDP_PASS` of `enum xdp_action` in the kernel's `include/uapi/linux/bpf.h`.
const XDP_PASS: u32 = 2;

/// What the probe is told.
#[derive(Debug, Parser)]
struct Arguments {
    /// One end of a veth pair to attach to; attaching is left out when not given
    #[arg(long)]
    interface: Option<String>,
    /// The other end
    #[arg(long, requires = "interface")]
    peer: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let release = release.trim();
    let mut object = EbpfLoader::new().load(OBJECT).context("cannot load the object")?;
    let instructions = load(&mut object)?;
    if let Some(interface) = &arguments.interface {
        let program = xdp(&mut object)?;
        for name in [Some(interface), arguments.peer.as_ref()].into_iter().flatten() {
            program.attach(name, XdpMode::Driver).with_context(|| format!("cannot attach natively to {name}"))?;
        }
        println!("attached natively to {interface}");
    }
    let packets = run(xdp(&mut object)?)?;
    println!("KERNEL {release}: ok, {packets} packets, {instructions} verified instructions");
    Ok(())
}

fn load(object: &mut Ebpf) -> Result<u64> {
    let mut total = 0;
    for (name, program) in object.programs_mut() {
        let Program::Xdp(program) = program else { bail!("{name} is no XDP program") };
        program.load().with_context(|| format!("the kernel refuses {name}"))?;
        let count = program.info().context("no program information")?.verified_instruction_count();
        let count = count.context("the kernel does not tell verified instructions")?;
        println!("INSTRUCTIONS {name} {count}");
        total += u64::from(count);
    }
    Ok(total)
}

fn xdp(object: &mut Ebpf) -> Result<&mut Xdp> {
    object
        .program_mut("peertally")
        .context("the object has no program peertally")?
        .try_into()
        .context("not an XDP program")
}

/// Frames from the shortest to the longest that the test runner takes; every verdict must be XDP_PASS.
fn run(program: &Xdp) -> Result<usize> {
    let mut packets = 0;
    for length in [14, 15, 60, 64, 1514, 4000, 9014, 66_000] {
        let frame = vec![0; length];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let result = program.test_run(options).with_context(|| format!("cannot run a frame of {length} bytes"))?;
        if result.return_value != XDP_PASS {
            bail!("a frame of {length} bytes got verdict {}, not XDP_PASS", result.return_value);
        }
        packets += 1;
    }
    Ok(packets)
}
