//! What the agent shows: metrics, streams of subscribers, and its status.
//!
//! All metrics are defined in [`definitions`], once; the documentation is generated from it and a test compares what is
//! scraped with it. Families are built afresh from the last drain at each scrape, so what has gone is gone. A counter
//! never goes down.

pub mod collector;
pub mod definitions;
mod family;
#[cfg(test)]
mod reference;
pub mod status;
pub mod subscribers;
pub mod tally_stream;
#[cfg(test)]
mod tests;
