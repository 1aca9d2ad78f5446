//! Frames, captures and runs of the program.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

/// Result of one run of the program.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The JSON result.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program with `replay` and arguments.
pub(crate) fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peertally"));
    command.arg("replay").args(arguments);
    command
}

/// Runs `peertally replay` with `input` on standard input.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A], input: &[u8]) -> Run {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The program may end before it has read everything.
    let _ = child.stdin.take().expect("piped").write_all(input);
    let output = child.wait_with_output().expect("the program ends");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Replays frames through the host engine; a clean run's JSON.
pub(crate) fn host(packets: &[Vec<u8>], arguments: &[&str]) -> Value {
    let run = run(&[arguments, &["--engine", "host", "--format", "json", "-"]].concat(), &pcap(packets));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    run.json()
}

/// Rows of one array of the result.
pub(crate) fn rows<'a>(json: &'a Value, name: &str) -> &'a [Value] {
    json[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Packets and bytes by protocol and confidence.
fn sums(rows: &[Value]) -> BTreeMap<(String, String), (u64, u64)> {
    let mut sums = BTreeMap::new();
    for row in rows {
        let sum: &mut (u64, u64) =
            sums.entry((row["protocol"].to_string(), row["confidence"].to_string())).or_default();
        sum.0 += row["packets"].as_u64().unwrap_or_default();
        sum.1 += row["bytes"].as_u64().unwrap_or_default();
    }
    sums
}

/// Flow rows add up to protocol rows, and those to the whole; what nobody answered is a part of them.
pub(crate) fn assert_adds_up(json: &Value, what: &str) {
    let protocols = sums(rows(json, "protocols"));
    assert_eq!(protocols, sums(rows(json, "flows")), "{what}");
    let total = protocols.values().fold((0, 0), |total, sum| (total.0 + sum.0, total.1 + sum.1));
    let whole = (json["packets"].as_u64().unwrap_or_default(), json["bytes"].as_u64().unwrap_or_default());
    assert_eq!(total, whole, "{what}");
    for (verdict, part) in sums(rows(json, "unanswered")) {
        let all = protocols.get(&verdict).copied().unwrap_or_default();
        assert!(part.0 <= all.0 && part.1 <= all.1, "{what}: {verdict:?}");
    }
}

/// A pcap of Ethernet frames, one a second.
pub(crate) fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = pcap_header();
    for (second, packet) in packets.iter().enumerate() {
        out.extend(pcap_record(second as u32, packet));
    }
    out
}

/// The header of a little-endian pcap of Ethernet frames.
pub(crate) fn pcap_header() -> Vec<u8> {
    [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1].iter().flat_map(|field| field.to_le_bytes()).collect()
}

/// One record of such a pcap.
pub(crate) fn pcap_record(second: u32, packet: &[u8]) -> Vec<u8> {
    let length = packet.len() as u32;
    let header = [second, 0, length, length];
    header.iter().flat_map(|field| field.to_le_bytes()).chain(packet.iter().copied()).collect()
}

/// An Ethernet frame with an IPv4 packet.
pub(crate) fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len() as u16).to_be_bytes();
    let header = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    [&[2; 12][..], &[0x08, 0x00], &header, &source, &destination, payload].concat()
}

/// A TCP segment.
pub(crate) fn tcp(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    tcp_at(source, destination, flags, (0, 0), payload)
}

/// A TCP segment with these sequence and acknowledgement numbers.
pub(crate) fn tcp_at(source: u16, destination: u16, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let numbers = [numbers.0, numbers.1].map(u32::to_be_bytes).concat();
    [&ports[..], &numbers, &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0], payload].concat()
}

/// A UDP datagram.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [source, destination, length, 0];
    header.iter().flat_map(|field| field.to_be_bytes()).chain(payload.iter().copied()).collect()
}
