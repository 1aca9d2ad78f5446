//! Every capture of the corpus: totals equal an independent count, and rows add up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader, traits::PcapNGPacketBlock};

use super::support::{assert_adds_up, rows, run};

/// Every capture, with its number of packets as the corpus' manifest has it.
fn manifest() -> Vec<(PathBuf, u64)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let Ok(manifest) = fs::read_to_string(root.join("MANIFEST.tsv")) else {
        println!("SKIPPED: no corpus in {}", root.display());
        return Vec::new();
    };
    let rows = manifest.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        Some((root.join(fields.first()?).join(fields.get(1)?), fields.get(8)?.parse().ok()?))
    });
    rows.filter(|(path, _)| path.is_file()).collect()
}

/// IP packets and bytes of a capture of plain Ethernet frames, counted without this project's code; `None` for others.
fn independent_count(path: &Path) -> Option<(u64, u64)> {
    let mut reader = create_reader(1 << 20, fs::File::open(path).ok()?).ok()?;
    let (mut count, mut link_types) = ((0, 0), Vec::new());
    loop {
        let (offset, packet) = match reader.next() {
            Ok((offset, block)) => match block {
                PcapBlockOwned::LegacyHeader(header) => {
                    link_types = vec![header.network.0];
                    (offset, None)
                }
                PcapBlockOwned::Legacy(packet) => (offset, Some((0, packet.data.to_vec(), packet.origlen))),
                PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                    link_types.clear();
                    (offset, None)
                }
                PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                    link_types.push(interface.linktype.0);
                    (offset, None)
                }
                PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                    (offset, Some((packet.if_id as usize, packet.packet_data().to_vec(), packet.origlen)))
                }
                PcapBlockOwned::NG(_) => (offset, None),
            },
            Err(PcapError::Eof) => return Some(count),
            Err(PcapError::Incomplete(_)) => {
                reader.refill().ok()?;
                continue;
            }
            Err(_) => return None,
        };
        reader.consume(offset);
        if let Some((interface, bytes, wire_len)) = packet {
            if *link_types.get(interface)? != 1 {
                return None;
            }
            let ip_bytes = ip_bytes(&bytes, u64::from(wire_len).max(bytes.len() as u64))?;
            if ip_bytes > 0 {
                count = (count.0 + 1, count.1 + ip_bytes);
            }
        }
    }
}

/// IP bytes of a frame, 0 for another EtherType; `None` for what this count leaves out: tags, tunnels below IP, short
/// frames.
fn ip_bytes(frame: &[u8], wire_len: u64) -> Option<u64> {
    let on_wire = wire_len.checked_sub(14)?;
    let length = match (u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]), frame.get(14..54)) {
        (0x0800, _) if frame.get(14)? >> 4 == 4 => u64::from(u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?])),
        (0x86dd, Some(ip)) if ip[0] >> 4 == 6 => 40 + u64::from(u16::from_be_bytes([ip[4], ip[5]])),
        (0x0800 | 0x86dd | 0x8100 | 0x88a8 | 0x8847 | 0x8864, _) => return None,
        _ => return Some(0),
    };
    Some(if length == 0 { on_wire } else { length.min(on_wire) })
}

#[test]
fn totals_equal_an_independent_count_and_rows_add_up() {
    let (mut replayed, mut counted) = (0, 0);
    for (path, packets) in manifest() {
        let name = path.display().to_string();
        let replay =
            |more: &[&str]| run(&[&["--engine", "host", "--flows", "--format", "json", &name], more].concat(), b"");
        let run = replay(&["--one-way"]);
        // The one capture that a fuzzer made: two bytes follow its only packet.
        let clean = if name.ends_with("ndpi_fuzz-2021-10-13.pcap") { 65 } else { 0 };
        assert_eq!(run.code, clean, "{name}: {}", run.stderr);
        let json = run.json();
        let skipped: u64 = rows(&json, "skipped").iter().filter_map(|row| row["packets"].as_u64()).sum();
        assert_eq!(json["packets"].as_u64().map(|counted| counted + skipped), Some(packets), "{name}");
        assert_adds_up(&json, &name);
        let (up, down) = rows(&json, "subscribers").iter().fold((0, 0), |(up, down), row| {
            (
                up + row["packets_up"].as_u64().unwrap_or_default(),
                down + row["packets_down"].as_u64().unwrap_or_default(),
            )
        });
        assert_eq!((Some(up), Some(down)), (json["packets"].as_u64(), json["packets"].as_u64()), "{name}");
        // Without the flag, a packet counts for one or two of its ends, or for nobody.
        let two_way = replay(&[]).json();
        assert_adds_up(&two_way, &name);
        let charged: u64 = rows(&two_way, "subscribers")
            .iter()
            .filter_map(|row| Some(row["packets_up"].as_u64()? + row["packets_down"].as_u64()?))
            .sum();
        let nobodys: u64 = rows(&two_way, "unanswered").iter().filter_map(|row| row["packets"].as_u64()).sum();
        let all = json["packets"].as_u64().unwrap_or_default();
        assert!(
            (all - nobodys..=2 * (all - nobodys)).contains(&charged),
            "{name}: {charged} of {all}, {nobodys} nobody's"
        );
        if let Some((packets, bytes)) = independent_count(&path) {
            assert_eq!((json["packets"].as_u64(), json["bytes"].as_u64()), (Some(packets), Some(bytes)), "{name}");
            counted += 1;
        }
        replayed += 1;
    }
    eprintln!("{replayed} captures replayed, {counted} compared with an independent count");
}
