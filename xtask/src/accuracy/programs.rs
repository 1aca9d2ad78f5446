//! Runs `peertally replay` and nDPI's `ndpiReader` over a capture and reads their labels of each flow.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::flow::{Key, Ndpi, peer_labels};
use crate::command::{cargo, find, output, run, shown};
use crate::workspace::target;

/// Options of `ndpiReader`: quiet, but listing flows without a label, too, and looking into GTP tunnels.
pub(super) const NDPI_OPTIONS: [&str; 4] = ["-q", "-v", "2", "-t"];
/// The option with which it does not guess by ports and addresses.
const NDPI_NO_GUESS: &str = "-d";
/// Columns of its table that are read, with their names in its first line.
const NDPI_COLUMNS: [(usize, &str); 6] =
    [(1, "protocol"), (5, "src_ip"), (6, "src_port"), (7, "dst_ip"), (8, "dst_port"), (10, "ndpi_proto")];
/// Exit code of a replay that reported the readable part of a damaged capture (`docs/architecture.md#command-line`).
const DAMAGED: i32 = 65;

/// Both programs, ready to run.
pub(super) struct Programs {
    peertally: PathBuf,
    ndpi_reader: PathBuf,
    /// For nDPI's tables, which it writes to files only.
    scratch: tempfile::TempDir,
}

/// Our program's label of a flow.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct OurFlow {
    pub(super) l4: String,
    a: IpAddr,
    a_port: u16,
    b: IpAddr,
    b_port: u16,
    pub(super) protocol: String,
    pub(super) confidence: String,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl OurFlow {
    pub(super) fn key(&self) -> Key {
        Key::new(&self.l4, (self.a, self.a_port), (self.b, self.b_port))
    }
}

#[derive(Deserialize)]
struct Replay {
    flows: Vec<OurFlow>,
}

impl Programs {
    /// Builds ours and finds the other.
    pub(super) fn new() -> Result<Self> {
        run(&mut cargo(&["build", "--quiet", "--locked", "--package", "monitor", "--bin", "peertally"]))?;
        Ok(Self {
            peertally: target().join("debug/peertally"),
            ndpi_reader: find("ndpiReader")
                .context("ndpiReader is not installed: `cargo xtask setup --with accuracy`")?,
            scratch: tempfile::tempdir().context("cannot create a scratch folder")?,
        })
    }

    /// nDPI's version, as it prints it: `4.2.0`.
    pub(super) fn ndpi_version(&self) -> Result<String> {
        let said = output(Command::new(&self.ndpi_reader).arg("-h"))?;
        let version = said.lines().find_map(|line| line.strip_prefix("Welcome to nDPI "));
        version.map(|version| version.trim().to_owned()).context("ndpiReader -h names no version")
    }

    /// Every flow of the capture, as the host engine labels it with these pools; without any, every address is a
    /// subscriber.
    pub(super) fn ours(&self, capture: &Path, pools: &[&str]) -> Result<Vec<OurFlow>> {
        let mut command = Command::new(&self.peertally);
        command.args(["replay", "--engine", "host", "--flows", "--format", "json"]);
        command.args(pools.iter().flat_map(|pool| ["--subscribers", pool])).arg(capture).stdin(Stdio::null());
        let ended = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
        if !ended.status.success() && ended.status.code() != Some(DAMAGED) {
            bail!("`{}`: {}\n{}", shown(&command), ended.status, String::from_utf8_lossy(&ended.stderr));
        }
        let replay: Replay = serde_json::from_slice(&ended.stdout)
            .with_context(|| format!("`{}` printed something else", shown(&command)))?;
        Ok(replay.flows)
    }

    /// nDPI's label of every flow it lists.
    pub(super) fn ndpi(&self, capture: &Path) -> Result<BTreeMap<Key, Ndpi>> {
        let inspected = self.ndpi_labels(capture, Some(NDPI_NO_GUESS))?;
        let labels = self.ndpi_labels(capture, None)?;
        Ok(labels
            .into_iter()
            .map(|(key, name)| {
                let inspected = inspected.get(&key) == Some(&name);
                (key, Ndpi { name, inspected })
            })
            .collect())
    }

    fn ndpi_labels(&self, capture: &Path, option: Option<&str>) -> Result<BTreeMap<Key, String>> {
        let table = self.scratch.path().join("flows.csv");
        let mut command = Command::new(&self.ndpi_reader);
        command.args(NDPI_OPTIONS).args(option).arg("-C").arg(&table).arg("-i").arg(capture).stdin(Stdio::null());
        output(&mut command)?;
        let text = std::fs::read(&table).with_context(|| format!("`{}` wrote no table", shown(&command)))?;
        read_table(&String::from_utf8_lossy(&text)).with_context(|| shown(&command))
    }
}

/// Labels by flow. The columns after the label hold free text with commas and are not read.
fn read_table(text: &str) -> Result<BTreeMap<Key, String>> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().trim_start_matches('#').split(',').collect();
    for (index, name) in NDPI_COLUMNS {
        if head.get(index) != Some(&name) {
            bail!("ndpiReader's table has another shape: column {index} is {:?}, not {name}", head.get(index));
        }
    }
    let mut labels = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        let [l4, a, a_port, b, b_port, label] =
            NDPI_COLUMNS.map(|(index, _)| fields.get(index).copied().unwrap_or_default());
        let l4 = match l4 {
            "6" => "tcp",
            "17" => "udp",
            _ => continue,
        };
        let port = |text: &str| text.parse::<u16>().with_context(|| format!("no port: {text:?} in {line}"));
        for (a, b) in pairs(a, b).with_context(|| format!("no addresses in {line}"))? {
            let label = label.to_owned();
            // Of two connections between the same ports, the one with a P2P label decides, as with our own.
            match labels.entry(Key::new(l4, (a, port(a_port)?), (b, port(b_port)?))) {
                Entry::Vacant(entry) => {
                    entry.insert(label);
                }
                Entry::Occupied(mut entry) => {
                    if peer_labels(entry.get()).is_empty() {
                        entry.insert(label);
                    }
                }
            }
        }
    }
    Ok(labels)
}

/// Every reading of both addresses.
fn pairs(a: &str, b: &str) -> Result<Vec<(IpAddr, IpAddr)>> {
    let (a, b) = (addresses(a), addresses(b));
    if a.is_empty() || b.is_empty() {
        bail!("no address");
    }
    Ok(a.iter().flat_map(|a| b.iter().map(|b| (*a, *b))).collect())
}

/// The addresses that a text may stand for: `ndpiReader` shortens `:0:` to `::` even where there is a `::` already.
fn addresses(text: &str) -> Vec<IpAddr> {
    if let Ok(address) = text.parse() {
        return vec![address];
    }
    let places = text.match_indices("::").map(|(place, _)| place);
    let others_restored = |place: usize| {
        let (before, behind) = (&text[..place], &text[place + 2..]);
        format!("{}::{}", before.replace("::", ":0:"), behind.replace("::", ":0:")).parse().ok()
    };
    places.filter_map(others_restored).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_shortened_twice_are_read() {
        let wanted: IpAddr = "302e::3d00:0:8001".parse().expect("an address");
        assert!(addresses("302e::3d00::8001").contains(&wanted));
        assert_eq!(addresses("2001:db8::1").len(), 1);
        assert!(addresses("no address").is_empty());
    }

    const HEAD: &str = "#flow_id,protocol,first_seen,last_seen,duration,src_ip,src_port,dst_ip,dst_port,ndpi_proto_num,ndpi_proto,server_name_sni\n";

    #[test]
    fn labels_are_read_by_flow() {
        let rows = "1,17,1.0,2.0,1.0,2001:db8::1,51413,2001:db8::2,51414,37,BitTorrent,,518\n\
                    2,6,1.0,2.0,1.0,192.0.2.1,50000,192.0.2.2,80,7.37,HTTP.BitTorrent,a,b\n\
                    3,58,1.0,2.0,1.0,fe80::1,0,fe80::2,0,102,ICMPV6,\n\
                    4,6,1.0,2.0,1.0,192.0.2.2,80,192.0.2.1,50000,7,HTTP,\n";
        let labels = read_table(&format!("{HEAD}{rows}")).expect("a table");
        let names: Vec<&str> = labels.values().map(String::as_str).collect();
        assert_eq!(labels.len(), 2);
        assert!(names.contains(&"BitTorrent") && names.contains(&"HTTP.BitTorrent"), "{names:?}");
    }

    #[test]
    fn another_shape_is_refused() {
        assert!(read_table("#flow_id,l4,first_seen\n").is_err());
        assert!(read_table("").is_err());
    }
}
