//! Arguments, inputs and exit codes.

use std::{fs, io::Write};

use flate2::{Compression, write::GzEncoder};
use tempfile::TempDir;

use super::support::{ipv4, pcap, run, udp};

/// A folder that goes away with the test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("a temporary file");
        path.display().to_string()
    }
}

fn sample() -> Vec<u8> {
    pcap(&[
        ipv4([10, 0, 0, 1], [192, 0, 2, 1], 17, &udp(1, 2, b"one")),
        ipv4([10, 0, 0, 1], [192, 0, 2, 1], 17, &udp(1, 2, b"two")),
    ])
}

#[test]
fn bad_usage_is_64_and_says_why() {
    let folder = Folder::new();
    let good = folder.file("good.pcap", &sample());
    let folder_path = folder.0.path().display().to_string();
    for (arguments, part) in [
        (vec![], "CAPTURE"),
        (vec!["--frob", "-"], "--frob"),
        (vec!["--subscribers", "10.0.0.1/8", "-"], "write 10.0.0.0/8"),
        (vec!["--tunnel-endpoints", "192.0.2.1/24", "-"], "write 192.0.2.0/24"),
        (vec!["--tunnel-endpoints", "here", "-"], "not an address or prefix"),
        (vec!["--engine", "magic", "-"], "magic"),
        (vec!["--format", "xml", "-"], "xml"),
        (vec![&good, "/nonexistent/x.pcap"], "/nonexistent/x.pcap"),
        (vec![&folder_path], "cannot open"),
        (vec!["-", "-"], "only once"),
    ] {
        let run = run(&arguments, b"");
        assert_eq!(run.code, 64, "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(part), "{arguments:?}: {run:?}");
        assert_eq!(run.stdout, "", "{arguments:?}");
    }
    assert_eq!(run(&["--help"], b"").code, 0);
}

#[test]
fn damage_is_65_after_the_result_of_what_was_readable() {
    let folder = Folder::new();
    let whole = folder.file("whole.pcap", &sample());
    let cut = folder.file("cut.pcap", &sample()[..sample().len() - 1]);
    let other = folder.file("other.pcap", b"#!/bin/sh\n");
    let run = run(&["--engine", "host", "--format", "json", &cut, &whole, &other], b"");
    assert_eq!(run.code, 65, "{run:?}");
    assert_eq!((run.json()["captures"].as_u64(), run.json()["packets"].as_u64()), (Some(3), Some(3)));
    assert!(run.stderr.contains("cut.pcap: the capture ends inside packet 2"), "{}", run.stderr);
    assert!(run.stderr.contains("other.pcap: not a pcap or pcapng capture"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 2);
}

#[test]
fn a_replay_that_read_nothing_prints_no_table() {
    let folder = Folder::new();
    let empty = folder.file("empty.pcap", b"");
    let other = folder.file("other.pcap", b"#!/bin/sh\n");
    let run_table = run(&["--engine", "host", &empty, &other], b"");
    assert_eq!((run_table.code, run_table.stdout.as_str()), (65, ""), "{run_table:?}");
    assert!(run_table.stderr.contains("empty.pcap: the file is empty"), "{}", run_table.stderr);
    let run_json = run(&["--engine", "host", "--format", "json", &empty], b"");
    assert_eq!((run_json.code, run_json.json()["packets"].as_u64()), (65, Some(0)), "{run_json:?}");
}

#[test]
fn several_captures_standard_input_and_gzip_are_one_stream() {
    let folder = Folder::new();
    let plain = folder.file("plain.pcap", &sample());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&sample()).expect("writing to memory");
    let packed = folder.file("packed.pcap.gz", &encoder.finish().expect("writing to memory"));
    let arguments = ["--engine", "host", "--flows", "--format", "json", &plain, "-", &packed];
    let run = run(&arguments, &sample());
    let json = run.json();
    assert_eq!((run.code, json["captures"].as_u64(), json["packets"].as_u64()), (0, Some(3), Some(6)), "{run:?}");
    assert_eq!(json["flows"].as_array().map(Vec::len), Some(1), "the flow goes on in the next capture");
}

#[test]
fn the_table_is_for_people_and_equal_runs_are_equal() {
    let arguments = ["--engine", "host", "--flows", "-"];
    let first = run(&arguments, &sample());
    assert_eq!(first.code, 0);
    assert!(first.stdout.starts_with("2 IP packets, 62 IP bytes in 1 capture (host engine)\n"), "{}", first.stdout);
    assert!(first.stdout.contains("10.0.0.1:1"), "{}", first.stdout);
    assert_eq!(first.stdout, run(&arguments, &sample()).stdout);
}
