//! A running agent with a million tallies and no traffic: the cost of its drains, and its memory without the maps.
//!
//! The agent is the real one, on a lab's router. The tallies are written into its pinned maps, as a program that has
//! seen a million subscribers would have left them, and drained every second; the share of a core is given for the
//! default pace. The reference is a plain reading of the agent's maps, once a second, so its caches are as cold as the
//! agent's.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData};
use monitor_common::abi::{
    key::Address,
    limits::SCHEMA_VERSION,
    protocol::{Confidence, Protocol},
    settings::Settings,
    tally::{KeyWords, SlotKey, Tally},
};
use peertally_datapath::mapped::MappedArray;
use peertally_lab::{Agent, Lab, wait_for};
use peertally_tests::executable;
use serde_json::{Value, json};

use crate::{TALLIES, clock::cpu_time, median};

/// Drains that are measured, at one a second.
const DRAINS: f64 = 10.0;
/// The default time between drains, in seconds.
const INTERVAL_S: f64 = 10.0;
/// Ticks a second in `/proc/PID/stat` (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;
/// Why the numbers of one reading are `f64`: shares and means are made of them.
const MIB: f64 = 1024.0 * 1024.0;

/// Measures the agent.
pub(crate) fn measure() -> Result<Value> {
    let lab = Lab::new(1)?;
    let toml = format!("drain_interval = \"1s\"\n\n[capacity]\ntallies = {}\n", TALLIES + 1);
    let mut agent = Agent::start(&lab, &executable()?, &toml)?;
    let process = agent.process().id();
    let empty = anonymous_bytes(process)?;
    let tables = Tables::open(&pins(process))?;
    tables.fill();
    wait_for("a drain of every tally", Duration::from_secs(60), Duration::from_millis(100), || {
        Ok(tallies(&agent)? > f64::from(TALLIES) - 1.0)
    })?;
    // The first drain after that makes everything the agent keeps for a tally.
    let settled = drains(&agent)? + 2.0;
    wait_until(&agent, settled)?;
    let (begun, before, first) = (Instant::now(), cpu_ticks(process)?, drains(&agent)?);
    let (mut peak, mut plain) = (0.0_f64, Vec::new());
    wait_for("ten drains", Duration::from_secs(60), Duration::from_millis(5), || {
        peak = peak.max(anonymous_bytes(process)?);
        if begun.elapsed().as_secs() >= plain.len() as u64 {
            plain.push(tables.read()?);
        }
        // Asking the agent costs it as much as a scrape does: only about as often as it is scraped.
        Ok(begun.elapsed().as_secs_f64() >= DRAINS)
    })?;
    let (ticks, drained) = (cpu_ticks(process)? - before, drains(&agent)? - first);
    ensure!(drained >= DRAINS - 1.0, "only {drained} drains in {DRAINS} s");
    let ms = ticks / TICKS_PER_SECOND * 1000.0 / drained;
    let round = |value: f64| (value * 100.0).round() / 100.0;
    Ok(json!({
        "tallies": TALLIES,
        "cpu_ms_per_drain": round(ms),
        "reference_ms": crate::ms(median(plain)),
        "core_percent": round(ms / 1000.0 / INTERVAL_S * 100.0),
        "memory_mib": round(peak / MIB),
        "memory_empty_mib": round(empty / MIB),
        "bytes_per_tally": ((peak - empty) / f64::from(TALLIES)).round(),
    }))
}

/// The agent's pins, through its own mounts.
fn pins(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/root/sys/fs/bpf/peertally/v{SCHEMA_VERSION}"))
}

/// The agent's pinned maps.
struct Tables {
    keys: MappedArray<SlotKey>,
    counts: MappedArray<Tally>,
    settings: MappedArray<Settings>,
}

impl Tables {
    fn open(folder: &Path) -> Result<Self> {
        let open = |name: &str| -> Result<Map> {
            let path = folder.join(name);
            Ok(Map::Array(MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?))
        };
        Ok(Self {
            keys: MappedArray::new("TALLY_KEYS", &open("TALLY_KEYS")?)?,
            counts: MappedArray::new("TALLIES", &open("TALLIES")?)?,
            settings: MappedArray::new("SETTINGS", &open("SETTINGS")?)?,
        })
    }

    /// Writes the tallies.
    fn fill(&self) {
        let verdict = (Protocol::BitTorrent as u8, Confidence::Signature as u8);
        for slot in 1..=TALLIES {
            let address = Address::v4(0x1000_0000 + slot);
            self.keys.values()[slot as usize].write(Some(&KeyWords::new(address, 0, 128, verdict.0, verdict.1)));
            self.counts.values()[slot as usize].packets_up.add(1);
        }
        self.settings.values()[0].next_slot.store(u64::from(TALLIES) + 1);
    }

    /// Reads all tallies once; the CPU time that took.
    fn read(&self) -> Result<Duration> {
        let start = cpu_time();
        // Into no memory of its own: new pages cost more than the reading, or less where the kernel has large ones at
        // hand.
        let all = self.counts.values().iter().map(Tally::totals);
        let sum = all.fold(0, |sum, of| sum + of.packets_up + of.bytes_up + of.packets_down + of.bytes_down + of.flows);
        let took = cpu_time() - start;
        ensure!(sum == u64::from(TALLIES), "a plain reading found {sum} in place of {TALLIES}");
        Ok(took)
    }
}

fn tallies(agent: &Agent<'_>) -> Result<f64> {
    Ok(agent.metrics()?.sum("peertally_table_entries", &[("table", "tallies")]) as f64)
}

fn drains(agent: &Agent<'_>) -> Result<f64> {
    Ok(agent.metrics()?.sum("peertally_drain_duration_seconds_count", &[]) as f64)
}

fn wait_until(agent: &Agent<'_>, count: f64) -> Result<()> {
    wait_for("drains", Duration::from_secs(60), Duration::from_millis(100), || Ok(drains(agent)? >= count))
}

/// CPU time of a process in user space and in the kernel: fields 14 and 15 of its `stat` (proc(5)).
fn cpu_ticks(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a process status")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64)
}

/// Resident memory that is the process's own: the maps, mapped into it, are not (`RssAnon` of proc(5)).
fn anonymous_bytes(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib as f64 * 1024.0)
}
