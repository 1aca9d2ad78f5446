//! Both engines print equal bytes, except for the engine's name.

use super::support::{ipv4, pcap, run, tcp, udp};

/// Packets of several flows, some skipped, one restarted.
fn sample() -> Vec<u8> {
    let (subscriber, outside) = ([10, 0, 0, 1], [192, 0, 2, 1]);
    let mut handshake = b"\x13BitTorrent protocol".to_vec();
    handshake.resize(68, 7);
    pcap(&[
        ipv4(subscriber, outside, 6, &tcp(50_000, 6881, 0x02, &[])),
        ipv4(outside, subscriber, 6, &tcp(6881, 50_000, 0x12, &[])),
        ipv4(subscriber, outside, 6, &tcp(50_000, 6881, 0x18, &handshake)),
        ipv4(subscriber, outside, 6, &tcp(50_000, 6881, 0x02, &[])),
        ipv4(outside, [198, 51, 100, 1], 17, &udp(1, 2, b"transit")),
        ipv4(outside, subscriber, 1, &[8, 0, 0, 0]),
        [&[0xff; 12][..], &[0x08, 0x06], &[0; 28]].concat(),
        vec![1, 2, 3],
        ipv4(subscriber, outside, 17, &udp(3, 4, &[0; 9_000])),
    ])
}

#[test]
fn both_engines_print_the_same() {
    for format in ["json", "table"] {
        let print = |engine| {
            let arguments = ["--subscribers", "10.0.0.0/8", "--flows", "--format", format, "--engine", engine, "-"];
            run(&arguments, &sample())
        };
        let (host, kernel) = (print("host"), print("kernel"));
        if kernel.code == 77 {
            println!("SKIPPED: both engines: no rights to load the program");
            assert_ne!(std::env::var("PEERTALLY_STRICT").as_deref(), Ok("1"), "strict: a skipped test is a failure");
            return;
        }
        assert_eq!((host.code, kernel.code), (0, 0), "{}", kernel.stderr);
        let renamed = kernel.stdout.replace("\"engine\": \"kernel\"", "\"engine\": \"host\"");
        assert_eq!(renamed.replace("(kernel engine)", "(host engine)"), host.stdout);
    }
}

/// A packet of a captured header, and of this many bytes on the wire: its header states none, as that of merged packets
/// with more than 64 KiB (BIG TCP).
fn merged(host: u8) -> Vec<u8> {
    let mut frame = ipv4([10, 0, 0, host], [192, 0, 2, 1], 17, &udp(3, 4, &[0; 100]));
    frame[16..18].fill(0);
    frame
}

const LENGTHS: [u32; 4] = [262_144, 262_145, 524_294, u32::MAX];

fn merged_pcap() -> Vec<u8> {
    let mut capture = pcap(&[]);
    for (host, length) in (1..).zip(LENGTHS) {
        let frame = merged(host);
        let record = [u32::from(host), 0, frame.len() as u32, length].map(u32::to_le_bytes).concat();
        capture.extend([record, frame].concat());
    }
    capture
}

/// Blocks of a section, an interface of Ethernet, and a packet each (draft-ietf-opsawg-pcapng section 4).
fn merged_pcapng() -> Vec<u8> {
    let block = |block_type: u32, body: Vec<u8>| {
        let length = (body.len() as u32 + 12).to_le_bytes();
        [&block_type.to_le_bytes()[..], &length, &body, &length].concat()
    };
    let mut capture = block(0x0a0d_0d0a, [&[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..], &[0xff; 8]].concat());
    capture.extend(block(1, vec![1, 0, 0, 0, 0, 0, 0, 0]));
    for (host, length) in (1..).zip(LENGTHS) {
        let mut frame = merged(host);
        let fields = [0, 0, u32::from(host) * 1_000_000, frame.len() as u32, length].map(u32::to_le_bytes).concat();
        frame.resize(frame.len().next_multiple_of(4), 0);
        capture.extend(block(6, [fields, frame].concat()));
    }
    capture
}

#[test]
fn merged_packets_of_any_length_count_exactly() {
    for (format, capture) in [("pcap", merged_pcap()), ("pcapng", merged_pcapng())] {
        for engine in ["host", "kernel"] {
            let run = run(&["--one-way", "--format", "json", "--engine", engine, "-"], &capture);
            if run.code == 77 {
                println!("SKIPPED: {engine} engine: no rights to load the program");
                assert_ne!(
                    std::env::var("PEERTALLY_STRICT").as_deref(),
                    Ok("1"),
                    "strict: a skipped test is a failure"
                );
                continue;
            }
            assert_eq!(run.code, 0, "{}", run.stderr);
            let json = run.json();
            let bytes: u64 = LENGTHS.iter().map(|length| u64::from(*length) - 14).sum();
            assert_eq!((&json["packets"], &json["bytes"]), (&4.into(), &bytes.into()), "{format}, {engine}: {json}");
            for (host, length) in (1..).zip(LENGTHS) {
                let name = format!("10.0.0.{host}/32");
                let rows = json["subscribers"].as_array().expect("rows");
                let row =
                    rows.iter().find(|row| row["subscriber"] == name).unwrap_or_else(|| panic!("{name} in {json}"));
                assert_eq!(row["bytes_up"], length - 14, "{format}, {engine}: {name}");
            }
            // What no machine sends is counted as the capture claims, and said.
            assert_eq!(json["implausible"], 1);
            assert!(run.stderr.contains("warning: 1 packets claim more than 1048576 bytes"), "{}", run.stderr);
        }
    }
    assert!(run(&["--format", "json", "--engine", "host", "-"], &sample()).json()["implausible"].is_null());
}
