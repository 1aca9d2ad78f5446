//! Exports of the agent: metrics, streams of subscribers, and status.
//!
//! All metrics are defined in [`definitions`], once; the documentation is generated from it and a test compares what is
//! scraped with it. Each scrape builds the families from the last drain, so ended series disappear. A counter never
//! goes down.

pub mod collector;
pub mod definitions;
mod family;
mod pieces;
#[cfg(test)]
mod reference;
pub mod status;
pub mod subscribers;
pub mod tally_stream;
#[cfg(test)]
mod tests;
