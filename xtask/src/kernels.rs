//! `cargo xtask kernels`: boots Debian's kernels in an emulator and tries the shipped object in each.
//!
//! An older verifier may refuse a program that the newest accepts, so every supported series is booted under
//! `qemu-system-x86_64` without hardware virtualisation, with a small file system in memory that holds busybox, the
//! veth module and the probe of the tests crate. Nothing is installed on this machine but the emulator; the images are
//! unpacked under the target folder. A kernel counts as passed only when its success line was read from the guest's
//! console.

mod baseline;
mod guest;
mod image;

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::setup::{self, Need};
use crate::workspace::target;
use baseline::Baseline;

/// A series of kernels that is supported.
#[derive(Clone, Copy, Debug)]
struct Series {
    /// `MAJOR.MINOR`, the key in the baseline.
    name: &'static str,
    /// The Debian 12 package that depends on the newest image of the series.
    package: &'static str,
}

/// The oldest supported series and the newer one that Debian 12 offers.
const SERIES: &[Series] = &[
    Series { name: "6.1", package: "linux-image-cloud-amd64" },
    Series { name: "6.12", package: "linux-image-6.12-cloud-amd64" },
];

/// Arguments of `kernels`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Only this series, such as 6.1; all when not given
    #[arg(long, value_name = "SERIES")]
    pub kernel: Vec<String>,
    /// Write the measured instruction counts to the baseline in place of comparing
    #[arg(long)]
    pub bless: bool,
}

/// Boots each kernel and tries the object in it.
///
/// # Errors
/// When a kernel cannot be had, does not boot, refuses the object, or a count leaves its bound.
pub fn run(arguments: &Arguments) -> Result<()> {
    let series: Vec<&Series> = SERIES
        .iter()
        .filter(|series| arguments.kernel.is_empty() || arguments.kernel.iter().any(|name| name == series.name))
        .collect();
    if series.is_empty() || arguments.kernel.iter().any(|name| SERIES.iter().all(|series| series.name != name)) {
        bail!("unknown series: choose from {}", SERIES.map_names());
    }
    setup::ensure(&[Need::Kernels])?;
    let probe = build_probe()?;
    let mut baseline = Baseline::read()?;
    let mut lines = Vec::new();
    let mut failures = Vec::new();
    for series in series {
        let result = image::unpacked(series.name, series.package)
            .and_then(|image| guest::boot(series.name, &image, &probe))
            .and_then(|report| {
                if arguments.bless {
                    baseline.set(series.name, &report.instructions);
                } else {
                    baseline.check(series.name, &report.instructions)?;
                }
                Ok(report.line)
            });
        match result {
            Ok(line) => lines.push(line),
            Err(error) => failures.push(format!("KERNEL {}: FAILED: {error:#}", series.name)),
        }
    }
    if arguments.bless && failures.is_empty() {
        baseline.write()?;
        println!("kernels: wrote {}", baseline::PATH);
    }
    println!();
    for line in lines.iter().chain(&failures) {
        println!("{line}");
    }
    if failures.is_empty() { Ok(()) } else { bail!("{} kernels failed", failures.len()) }
}

trait Names {
    fn map_names(&self) -> String;
}

impl Names for &[Series] {
    fn map_names(&self) -> String {
        self.iter().map(|series| series.name).collect::<Vec<_>>().join(", ")
    }
}

/// Builds the program that runs inside each kernel; returns its path.
fn build_probe() -> Result<std::path::PathBuf> {
    println!("kernels: building the probe");
    let mut build = command::cargo(&["build", "--locked", "--package", "peertally-tests", "--bin", "kernel_probe"]);
    command::run(build.env("CARGO_TARGET_DIR", target())).context("cannot build the probe")?;
    Ok(target().join("debug/kernel_probe"))
}
