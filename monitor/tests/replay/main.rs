//! `peertally replay` as people run it: output, exit codes, totals that add up, memory that stays bounded.

mod corpus;
mod counting;
mod engines;
mod memory;
mod support;
mod usage;
