//! Runs the fuzz targets over their named seeds and findings, on stable Rust and without libFuzzer.
//!
//! Seeds are small and made here, from the packet table and from the conversations of `peertally_tests::p2p`; the files
//! in `fuzz/seeds` are their copies for libFuzzer. `PEERTALLY_BLESS=1` rewrites them. A finding is a file in
//! `fuzz/findings/TARGET`, named after the fault.

#[expect(unreachable_pub, reason = "the files are a library of their own, too")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use peertally_tests::{
    p2p::{Exchange, captures, exchanges},
    packet_table::cases,
};
use targets::TARGETS;

/// Input by name.
type Inputs = BTreeMap<String, Vec<u8>>;

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(kind).join(target)
}

/// The files of a folder; none when it is not there.
fn files(folder: &Path) -> Inputs {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let paths = entries.map(|entry| entry.expect("a folder that can be listed").path()).filter(|path| path.is_file());
    paths.map(|path| (name(&path), fs::read(&path).expect("a file that can be read"))).collect()
}

/// A case's name as a file's.
fn slug(name: &str) -> String {
    let kept: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' })
        .collect();
    kept.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn frames(exchange: &Exchange) -> Vec<Vec<u8>> {
    let [subscriber, peer]: [IpAddr; 2] = ["10.0.0.1", "192.0.2.7"].map(|address| address.parse().expect("an address"));
    exchange.frames(subscriber, peer)
}

/// Packets as the target `engine` reads them: length, bytes.
fn packets(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().flat_map(|frame| [&(frame.len() as u16).to_be_bytes(), frame.as_slice()].concat()).collect()
}

/// The seeds of a target.
fn seeds(target: &str) -> Inputs {
    match target {
        // Two bytes of extra length on the wire, then the frame.
        "parse" => {
            cases().into_iter().map(|case| (slug(case.name), [&[0, 0], case.frame.as_slice()].concat())).collect()
        }
        "classify" => exchanges().iter().map(|exchange| (exchange.name.to_owned(), exchange.payloads())).collect(),
        "engine" => exchanges().iter().map(|exchange| (exchange.name.to_owned(), packets(&frames(exchange)))).collect(),
        "capture" => {
            let some: Vec<Vec<u8>> = exchanges().iter().take(2).flat_map(frames).collect();
            captures(&some).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
        }
        other => panic!("no seeds for {other}"),
    }
}

#[test]
fn seeds_are_current() {
    let bless = std::env::var_os("PEERTALLY_BLESS").is_some_and(|value| value == "1");
    for (target, _) in TARGETS {
        let (folder, wanted) = (folder("seeds", target), seeds(target));
        assert!(!wanted.is_empty(), "{target} has no seeds");
        if bless {
            if folder.is_dir() {
                fs::remove_dir_all(&folder).expect("removed");
            }
            fs::create_dir_all(&folder).expect("created");
            for (name, bytes) in &wanted {
                fs::write(folder.join(name), bytes).expect("written");
            }
        }
        let found = files(&folder);
        let names = |inputs: &Inputs| inputs.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&wanted), "{target}: PEERTALLY_BLESS=1 rewrites the seeds");
        for (name, bytes) in &wanted {
            assert!(found.get(name) == Some(bytes), "{target}/{name} differs: PEERTALLY_BLESS=1 rewrites the seeds");
        }
    }
}

#[test]
fn every_seed_and_finding_holds() {
    for (target, run) in TARGETS {
        let (seeds, findings) = (seeds(target), files(&folder("findings", target)));
        println!("{target}: {} seeds, {} findings", seeds.len(), findings.len());
        for (name, input) in seeds.iter().chain(&findings) {
            if let Err(panic) = std::panic::catch_unwind(|| run(input)) {
                eprintln!("{target}/{name}");
                std::panic::resume_unwind(panic);
            }
            // libFuzzer also starts with cut inputs.
            for len in [input.len() / 2, input.len().saturating_sub(1)] {
                run(&input[..len]);
            }
        }
    }
}
