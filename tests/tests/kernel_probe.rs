//! The kernel lane's probe on the running kernel, and its instruction count against the limit.

use std::process::Command;

use peertally_tests::kernel::may_use_kernel;

/// Half of the verifier's bound (`BPF_COMPLEXITY_LIMIT_INSNS`, 1,000,000): twice the head room.
const LIMIT: u64 = 500_000;

#[test]
fn running_kernel_takes_the_object() {
    if !may_use_kernel("kernel probe").expect("rights") {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_kernel_probe")).output().expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().any(|line| line.starts_with("KERNEL ") && line.contains(": ok, ")), "{text}");
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("INSTRUCTIONS peertally ")?.parse::<u64>().ok())
        .expect("an instruction count");
    assert!(count <= LIMIT, "{count} verified instructions, above {LIMIT}");
}
