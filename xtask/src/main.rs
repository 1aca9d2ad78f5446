//! `cargo xtask VERB`: reads the command line and calls the verb's module.
//! Exit code 0 means that the verb has done all its work.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{accuracy, bench, build_ebpf, demo, dist, fuzz, habits, kernels, lab, setup, test};

/// Developer commands of Peertally.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Compare labels with ground truth and with nDPI, and write docs/detection.md
    Accuracy(accuracy::Arguments),
    /// Measure the packet path and the agent, compared with a conventional design
    Bench(bench::Arguments),
    /// Build the eBPF object and its provenance; nothing else builds them
    BuildEbpf(build_ebpf::Arguments),
    /// Run the demonstration (two minutes)
    Demo(demo::Arguments),
    /// Make a Debian package and a tarball, with checksums and a bill of materials
    Dist(dist::Arguments),
    /// Fuzz each target for a bounded time
    Fuzz(fuzz::Arguments),
    /// Check repository rules: comment width, unused dependencies, dead references, commit subjects
    Habits(habits::Arguments),
    /// Boot the supported kernels and load the object in each
    Kernels(kernels::Arguments),
    /// Run real clients between namespaces and compare verdicts with ground truth
    Lab(lab::Arguments),
    /// Install missing packages and tools for the other commands
    Setup(setup::Arguments),
    /// Run every test lane
    Test(test::Arguments),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    match Arguments::parse().verb {
        Verb::Accuracy(arguments) => accuracy::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Dist(arguments) => dist::run(&arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments).map(|_held| ()),
        Verb::Habits(arguments) => habits::run(&arguments),
        Verb::Kernels(arguments) => kernels::run(&arguments),
        Verb::Lab(arguments) => lab::run(&arguments),
        Verb::Setup(arguments) => setup::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
    }
}
