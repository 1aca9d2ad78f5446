//! Tests the shipped object in the running kernel; the only program of the kernel lane's guests.
//!
//! Loads it as the agent does, runs the packet table through the kernel's test runner in both modes, attaches natively
//! to a veth pair and sees a real packet counted. Prints what the lane reads: `INSTRUCTIONS PROGRAM COUNT` and, only
//! when all of that went well, one `KERNEL RELEASE: ok, ..` line.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::programs::XdpMode;
use clap::Parser;
use monitor_common::tables::flow_table::unpack;
use peertally_datapath::{
    object::{LoadOptions, LoadedObject},
    test_run::TestRunner,
};
use peertally_tests::{kernel::load_options, packet_table::run};

/// Arguments of the probe.
#[derive(Debug, Parser)]
struct Arguments {
    /// Both ends of a veth pair to attach to; attaching is left out when not given
    #[arg(long, value_delimiter = ',')]
    attach: Vec<String>,
    /// Address of the first end, in a /24 whose broadcasts leave through it
    #[arg(long, requires = "attach")]
    address: Option<Ipv4Addr>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let release = release.trim();
    let mut object = LoadedObject::load(&load_options())?;
    let instructions = object.verified_instructions()?;
    for (program, count) in &instructions {
        println!("INSTRUCTIONS {program} {count}");
    }
    let most = instructions.iter().map(|(_, count)| *count).max().unwrap_or_default();
    let mut packets = run(&mut object)?;
    println!("packet table as attached: ok");
    packets += run(&mut TestRunner::new(&LoadOptions { replaying: true, ..load_options() })?)?;
    println!("packet table replaying: ok");
    for name in &arguments.attach {
        let attached = object.program()?.attach(name, XdpMode::Driver);
        attached.with_context(|| format!("cannot attach natively to {name}"))?;
        println!("attached natively to {name}");
    }
    if let Some(address) = arguments.address {
        sees_real_traffic(&object, address)?;
        println!("counts what comes in");
        packets += 1;
    }
    println!("KERNEL {release}: ok, {packets} packets, at most {most} verified instructions in a stage");
    Ok(())
}

/// Broadcasts a datagram and waits until the other end's program has counted it.
fn sees_real_traffic(object: &LoadedObject, address: Ipv4Addr) -> Result<()> {
    let counted = || -> u64 {
        let sets = object.view().flows;
        sets.iter().flat_map(|set| set.counters.iter().map(|cell| unpack(cell.load()).0)).sum()
    };
    let before = counted();
    let [a, b, c, _] = address.octets();
    let socket = UdpSocket::bind((address, 40_000)).with_context(|| format!("cannot bind to {address}"))?;
    socket.set_broadcast(true).context("cannot broadcast")?;
    socket.send_to(&[0x55; 64], (Ipv4Addr::new(a, b, c, 255), 40_001)).context("cannot send")?;
    let started = Instant::now();
    while counted() == before {
        if started.elapsed() > Duration::from_secs(20) {
            bail!("the attached program did not count a packet that came in");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
