//! The capture reader against an independent one, `pcap-parser`, over every capture of the corpus.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader, traits::PcapNGPacketBlock};
use peertally_capture::{Capture, Item};

/// Every capture below the corpus folder, or nothing, loudly, when there is no corpus next to the repository.
fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    let mut captures: Vec<PathBuf> = ["p2p", "negative"]
        .iter()
        .filter_map(|set| fs::read_dir(root.join(set)).ok())
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension != "tsv"))
        .collect();
    captures.sort();
    if captures.is_empty() {
        println!("SKIPPED: no captures in {}", root.display());
    }
    captures
}

/// Captured bytes of each Ethernet packet, as `pcap-parser` reads them; `None` where it finds damage.
fn oracle(path: &Path) -> Option<Vec<Vec<u8>>> {
    let file = File::open(path).ok()?;
    let mut reader = create_reader(1 << 20, file).ok()?;
    let (mut packets, mut link_types) = (Vec::new(), Vec::new());
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => link_types = vec![header.network.0],
                    PcapBlockOwned::Legacy(packet) if link_types == [1] => packets.push(packet.data.to_vec()),
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => link_types.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => link_types.push(interface.linktype.0),
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) if link_types[packet.if_id as usize] == 1 => {
                        packets.push(packet.packet_data().to_vec());
                    }
                    _ => {}
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return Some(packets),
            Err(PcapError::Incomplete(_)) => reader.refill().ok()?,
            Err(_) => return None,
        }
    }
}

#[test]
fn agrees_with_pcap_parser_on_every_ethernet_capture() {
    let mut compared = 0;
    for path in corpus() {
        let Some(expected) = oracle(&path).filter(|packets| !packets.is_empty()) else { continue };
        let mut capture = Capture::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut read = 0;
        while let Some(item) = capture.next_item().unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let Item::Frame(frame) = item else { panic!("{}: an unknown link type", path.display()) };
            let packet = expected.get(read).unwrap_or_else(|| panic!("{}: packet {read} too many", path.display()));
            assert_eq!(frame.bytes, packet, "{} packet {read}", path.display());
            read += 1;
        }
        assert_eq!(read, expected.len(), "{}", path.display());
        compared += 1;
    }
    eprintln!("compared {compared} captures");
}

#[test]
fn every_capture_of_the_corpus_reads_to_its_end() {
    for path in corpus() {
        let mut capture = Capture::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        loop {
            match capture.next_item() {
                Ok(Some(Item::Frame(_))) => {}
                Ok(Some(Item::UnsupportedLinkType(link_type))) => panic!("{}: {link_type}", path.display()),
                Ok(None) => break,
                // The one capture a fuzzer made: two bytes follow its only packet.
                Err(error) => assert!(path.ends_with("ndpi_fuzz-2021-10-13.pcap"), "{}: {error}", path.display()),
            }
        }
    }
}
