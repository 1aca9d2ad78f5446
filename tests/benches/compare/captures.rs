//! Runs captures through `ndpiReader` and through both engines.
//!
//! All captures are read into memory first, and written once more as one file, in the same order, for `ndpiReader`. Its
//! time is its process's CPU time without what it takes for a capture of one packet: reading the file is in it, its
//! start is not. Ours is CPU time of the engine alone.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
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
    median,
    stats::{On, Runs},
};

/// Runs of each; medians are taken over them.
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

/// Measures everything over the captures below `folder`.
pub(crate) fn measure(folder: &Path) -> Result<Value> {
    let (packets, captures) = load(folder)?;
    ensure!(!packets.is_empty(), "no captures in {}", folder.display());
    let folder = tempfile::tempdir()?;
    let merged = folder.path().join("merged.pcap");
    write(&merged, &packets)?;
    let count = packets.len() as f64;
    let single = folder.path().join("single.pcap");
    write(&single, &packets[..1])?;
    let ndpi = ndpi_reader(&merged)?.saturating_sub(ndpi_reader(&single)?);
    let host_ns = (0..RUNS).map(|_| host(&packets)).collect::<Result<Vec<_>>>()?;
    let statistics = On::new()?;
    let kernel_ns = (0..RUNS).map(|_| kernel(&packets)).collect::<Result<Vec<_>>>()?;
    drop(statistics);
    let row = |name: &str, ns: f64| {
        eprintln!("{name:<28}{ns:>9.0} ns a packet");
        json!({ "engine": name, "ns_per_packet": ns.round(), "packets_per_second": (1e9 / ns).round() })
    };
    Ok(json!({
        "captures": captures,
        "packets": packets.len(),
        "bytes": packets.iter().map(|packet| packet.wire_len).sum::<usize>(),
        "ndpi": ndpi_version()?,
        "rows": [
            row("ndpiReader", ndpi.as_secs_f64() * 1e9 / count),
            row("host engine", median(host_ns)),
            row("kernel program", median(kernel_ns)),
        ],
    }))
}

/// Every packet below a folder; captures that are damaged give what can be read of them.
fn load(folder: &Path) -> Result<(Vec<Packet>, usize)> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let (mut packets, mut captures, mut second) = (Vec::new(), 0, 0);
    for file in files {
        let Ok(mut capture) = Capture::open(&file) else { continue };
        captures += 1;
        let (begin, mut first) = (second, None);
        while let Ok(Some(item)) = capture.next_item() {
            let Item::Frame(frame) = item else { continue };
            let first = *first.get_or_insert(frame.timestamp_ns);
            let since = frame.timestamp_ns.saturating_sub(first);
            second = second.max(begin + since / 1_000_000_000);
            let micros = (since % 1_000_000_000 / 1000) as u32;
            packets.push(Packet { second, micros, bytes: frame.bytes.to_vec(), wire_len: frame.wire_len });
        }
        second += 1;
    }
    Ok((packets, captures))
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

/// CPU time of one run of `ndpiReader`, the mean of several.
fn ndpi_reader(capture: &Path) -> Result<Duration> {
    let before = children_cpu_time()?;
    for _ in 0..RUNS {
        let output = Command::new("ndpiReader").arg("-i").arg(capture).output().context("start ndpiReader")?;
        ensure!(output.status.success(), "ndpiReader: {}", output.status);
    }
    Ok((children_cpu_time()? - before) / RUNS as u32)
}

/// CPU time of the processes that this one has waited for: fields 16 and 17 of `/proc/self/stat`, in ticks of 10 ms
/// (proc(5)).
fn children_cpu_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("a process status")?;
    // The first of these fields is the third of the line.
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn ndpi_version() -> Result<String> {
    let output = Command::new("ndpiReader").arg("-h").output().context("start ndpiReader")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let version = text.lines().find_map(|line| line.strip_prefix("Welcome to nDPI "));
    Ok(version.unwrap_or("of unknown version").to_owned())
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
