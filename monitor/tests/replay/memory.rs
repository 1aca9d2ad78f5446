//! A gigabyte of capture takes no more memory than the first part of it.

use std::{
    fs,
    io::Write,
    process::{Child, Stdio},
};

use super::support::{command, ipv4, pcap_header, pcap_record, udp};

const MIB: usize = 1 << 20;
/// The program's tables are all in use by then.
const WARM_UP_MIB: usize = 64;
const TOTAL_MIB: usize = 1024;

/// Highest resident memory of a process so far, in KiB (proc(5), `VmHWM`).
fn peak_kib(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells VmHWM");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn a_gigabyte_takes_no_more_memory_than_its_first_part() {
    let mut child = command(&["--engine", "host", "--flows", "--format", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("piped");
    // 512 flows, again and again.
    let mut block = Vec::new();
    for port in 0..512 {
        let packet = ipv4([10, 0, 0, 1], [192, 0, 2, 1], 17, &udp(1000 + port, 53, &[0xa5; 1450]));
        block.extend(pcap_record(u32::from(port), &packet));
    }
    let blocks = TOTAL_MIB * MIB / block.len() + 1;
    let warm = WARM_UP_MIB * MIB / block.len();
    input.write_all(&pcap_header()).expect("the program reads");
    let mut early_kib = 0;
    for index in 0..blocks {
        if index == warm {
            early_kib = peak_kib(&child);
        }
        input.write_all(&block).expect("the program reads");
    }
    let late_kib = peak_kib(&child);
    drop(input);
    let output = child.wait_with_output().expect("the program ends");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["packets"].as_u64(), Some(blocks as u64 * 512));
    assert!(
        late_kib <= early_kib + 1024,
        "{early_kib} KiB after {WARM_UP_MIB} MiB, {late_kib} KiB after {TOTAL_MIB} MiB"
    );
    eprintln!("{early_kib} KiB after {WARM_UP_MIB} MiB, {late_kib} KiB after {TOTAL_MIB} MiB");
}
