//! One function per fuzz target, which panics when an invariant does not hold.
//!
//! Separate from libFuzzer, so that `cargo test` replays every seed and finding on stable Rust
//! (`tests/tests/fuzz_cases.rs` includes these files).

pub mod capture;
pub mod classify;
pub mod engine;
pub mod parse;

/// A target by its name.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [FuzzTarget; 4] =
    [("capture", capture::run), ("classify", classify::run), ("engine", engine::run), ("parse", parse::run)];
