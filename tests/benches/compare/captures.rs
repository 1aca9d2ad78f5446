//! Runs captures through `ndpiReader`, `peertally replay` and both engines.
//!
//! The Ethernet frames of all captures are written as one file, in order, which both programs read as whole processes
//! (`processes.rs`). The engines alone then count the same frames from memory.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, TestRunOptions};
use monitor_common::abi::{
    key::Seed,
    limits::{DEFAULT_FLOWS, DEFAULT_PEERS, DEFAULT_TALLIES},
    settings::InspectionDepth,
};
use peertally_capture::{Capture, Item};
use peertally_core::pool::Pool;
use peertally_datapath::{
    TableSizes,
    host::HostDataPath,
    object::{LoadOptions, LoadedObject},
};
use peertally_tests::{kernel::load_options, tables::Tables};
use serde_json::{Value, json};

use crate::{
    clock::cpu_time,
    named,
    processes::{self, Files},
    spread::Spread,
    stats::{On, Runs},
};

/// Link type of Ethernet (<https://www.tcpdump.org/linktypes.html>).
const ETHERNET: u32 = 1;

/// Runs of each engine with frames in memory.
const RUNS: usize = 9;

/// Shortest frame the test runner takes (net/bpf/test_run.c).
const SHORTEST_FRAME: usize = 14;

/// One packet of the captures.
struct Packet {
    /// Seconds since the first packet, never going back.
    second: u64,
    micros: u32,
    bytes: Vec<u8>,
    wire_len: usize,
}

/// What a folder of captures holds.
#[derive(Default)]
struct Loaded {
    packets: Vec<Packet>,
    /// Captures with Ethernet frames.
    captures: usize,
    /// Captures without Ethernet frames, but with packets of another link type.
    skipped_captures: usize,
    /// Packets of another link type.
    skipped_packets: usize,
}

/// Measures everything over the captures below `folder`.
pub(crate) fn measure(folder: &Path, peertally: &Path) -> Result<Value> {
    let loaded = load(folder)?;
    let packets = &loaded.packets;
    ensure!(packets.len() > 1, "no captures of Ethernet frames in {}: name a folder with some", folder.display());
    if loaded.skipped_packets != 0 {
        eprintln!(
            "SKIPPED: {} packets that are no Ethernet frames; {} captures have no others",
            loaded.skipped_packets, loaded.skipped_captures
        );
    }
    let folder = tempfile::tempdir()?;
    let files = Files { merged: folder.path().join("merged.pcap"), single: folder.path().join("single.pcap") };
    write(&files.merged, packets)?;
    write(&files.single, &packets[..1])?;
    let named = named::all(peertally, &files.merged)?;
    let processes = processes::measure(peertally, &files, packets.len() - 1)?;
    let host_ns = (0..RUNS).map(|_| host(packets)).collect::<Result<Vec<_>>>()?;
    let statistics = On::new()?;
    let kernel_ns = (0..RUNS).map(|_| kernel(packets)).collect::<Result<Vec<_>>>()?;
    drop(statistics);
    let row = |name: &str, ns: Vec<f64>| {
        let spread = Spread::of(ns);
        eprintln!("{name:<40}{spread} ns a packet, frames in memory");
        json!({ "engine": name, "ns_per_packet": spread.json() })
    };
    Ok(json!({
        "captures": loaded.captures,
        "packets": packets.len(),
        "bytes": packets.iter().map(|packet| packet.wire_len).sum::<usize>(),
        "skipped_captures": loaded.skipped_captures,
        "skipped_packets": loaded.skipped_packets,
        "ndpi": processes::ndpi_version()?,
        "processes": processes,
        "frames_in_memory": {
            "runs": RUNS,
            "rows": [row("host engine", host_ns), row("kernel engine", kernel_ns)],
        },
        "named": named,
    }))
}

/// Every Ethernet frame below a folder; captures that are damaged give what can be read of them.
fn load(folder: &Path) -> Result<Loaded> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let (mut loaded, mut second) = (Loaded::default(), 0);
    for file in files {
        let Ok(mut capture) = Capture::open(&file) else { continue };
        let (begin, mut first) = (second, None);
        let (packets, mut skipped) = (loaded.packets.len(), 0);
        while let Ok(Some(item)) = capture.next_item() {
            let packet = match item {
                Item::Frame(frame) => {
                    let first = *first.get_or_insert(frame.timestamp_ns);
                    let since = frame.timestamp_ns.saturating_sub(first);
                    let micros = (since % 1_000_000_000 / 1000) as u32;
                    let second = second.max(begin + since / 1_000_000_000);
                    Some(Packet { second, micros, bytes: frame.bytes.to_vec(), wire_len: frame.wire_len })
                }
                Item::UnsupportedLinkType(_) => None,
            };
            match packet.filter(|_| capture.link_type() == Some(ETHERNET)) {
                Some(packet) => {
                    second = packet.second;
                    loaded.packets.push(packet);
                }
                None => skipped += 1,
            }
        }
        second += 1;
        let ethernet = loaded.packets.len() > packets;
        loaded.captures += usize::from(ethernet);
        loaded.skipped_captures += usize::from(!ethernet && skipped != 0);
        loaded.skipped_packets += skipped;
    }
    Ok(loaded)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Writes a pcap file (draft-ietf-opsawg-pcap, little endian, Ethernet).
fn write(path: &Path, packets: &[Packet]) -> Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.write_all(&word.to_le_bytes())?;
    }
    for packet in packets {
        let lengths = [packet.bytes.len() as u32, packet.wire_len as u32];
        for word in [1_700_000_000 + packet.second as u32, packet.micros, lengths[0], lengths[1]] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&packet.bytes)?;
    }
    Ok(file.flush()?)
}

/// Every address is a subscriber, as `replay` has it without pools.
fn pools() -> Result<Vec<Pool>> {
    Ok(vec!["0.0.0.0/0/32".parse()?, "::/0/64".parse()?])
}

const SIZES: TableSizes = TableSizes { flows: DEFAULT_FLOWS, tallies: DEFAULT_TALLIES, peers: DEFAULT_PEERS };

/// The shared source on the host, ns a packet.
fn host(packets: &[Packet]) -> Result<f64> {
    let seed = Seed::from_random([1, 2, 3]);
    let mut path = HostDataPath::new(&SIZES, &pools()?, seed, InspectionDepth::Framing);
    let begun = cpu_time();
    for packet in packets {
        path.frame(&packet.bytes, packet.wire_len, packet.second);
    }
    Ok((cpu_time() - begun).as_secs_f64() * 1e9 / packets.len() as f64)
}

/// The program in the kernel, ns a packet by the kernel's own statistics.
fn kernel(packets: &[Packet]) -> Result<f64> {
    let options = LoadOptions { sizes: SIZES, pools: pools()?, seed: None, replaying: true, ..load_options() };
    let mut object = LoadedObject::load(&options)?;
    let tables = Tables::new(&object)?;
    let program = &*object.program()?;
    for packet in packets.iter().filter(|packet| packet.bytes.len() >= SHORTEST_FRAME) {
        tables.clock().store(packet.second);
        tables.replay_wire_len(packet.wire_len as u64);
        let run = TestRunOptions { data_in: Some(&packet.bytes), ..TestRunOptions::new() };
        program.test_run(run).context("BPF_PROG_TEST_RUN")?;
    }
    Ok(Runs::of(program)?.ns_per_packet())
}
