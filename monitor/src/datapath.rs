//! The data path as the agent sees it: its tables, whether they are BPF maps or plain memory, and the ways to fill them.
//!
//! * [`view`]: the tables as slices, and what a drain reads from them;
//! * [`host`]: the shared engine over plain memory, for `replay --engine host` and tests;
//! * [`object`]: the BPF object, loaded and configured;
//! * [`mapped`]: memory mappings of its array maps;
//! * [`attached`]: the object attached to interfaces, for `run`;
//! * [`test_run`]: the object driven by the kernel's test runner, for `replay --engine kernel` and tests.

pub mod attached;
pub mod host;
pub mod mapped;
pub mod object;
pub mod test_run;
pub mod view;
