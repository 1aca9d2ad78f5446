//! The kernel lane's probe on the running kernel, and its instruction count against the limit.

use std::process::Command;

use monitor_common::abi::stage::StageProgram;
use peertally_tests::kernel::may_use_kernel;

/// Most verified instructions of a stage, of the 1,000,000 that the verifier allows (`BPF_COMPLEXITY_LIMIT_INSNS`).
const LIMIT: u64 = 600_000;

#[test]
fn running_kernel_takes_the_object() {
    if !may_use_kernel("kernel probe").expect("rights") {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_kernel_probe")).output().expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().any(|line| line.starts_with("KERNEL ") && line.contains(": ok, ")), "{text}");
    let counts: Vec<(&str, u64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("INSTRUCTIONS ")?.split_once(' '))
        .map(|(program, count)| (program, count.parse().expect("a number")))
        .collect();
    assert_eq!(counts.len(), 1 + StageProgram::ALL.len(), "one count a program: {counts:?}");
    for (program, count) in counts {
        assert!(count <= LIMIT, "{program}: {count} verified instructions, above {LIMIT}");
    }
}
