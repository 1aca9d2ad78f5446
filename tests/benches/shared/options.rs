//! Options of every bench from `cargo xtask bench`, and how they differ from those of `cargo test`.

use std::path::PathBuf;

use clap::Parser;

/// Options of every bench.
#[derive(clap::Args)]
pub(crate) struct Shared {
    /// Benchmark object.
    #[arg(long)]
    pub(crate) object: PathBuf,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The options; `None` when nothing is to be measured: `cargo test --all-targets` runs benches, too.
pub(crate) fn read<T: Parser>() -> Option<T> {
    std::env::args().any(|argument| argument == "--bench").then(T::parse)
}
