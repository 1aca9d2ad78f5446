//! One file per protocol, one shape: what is matched with its source, the guard against look-alikes, tests beside it.

pub mod bittorrent;
