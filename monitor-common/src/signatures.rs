//! One file per protocol, one shape: what is matched with its source, the guard against look-alikes, tests beside it.
//!
//! A signature function runs in the kernel on every inspected packet. So it rejects on the first few bytes or the length
//! before anything else, reads through [`crate::payload::Payload`]'s wrapping accessors only, and loops to constants only.

pub mod applejuice;
pub mod ares;
pub mod bittorrent;
pub mod btsync;
pub mod directconnect;
pub mod edonkey;
pub mod fasttrack;
pub mod gnutella;
pub mod gnutella2;
pub mod kademlia;
pub mod libp2p;
pub mod mute;
pub mod opennap;
pub mod soulseek;
pub mod waste;
pub mod webtorrent;
pub mod winmx;

pub(crate) mod headers;
pub(crate) mod hold_rules;
#[cfg(test)]
mod lookalikes;
mod openft;
#[cfg(test)]
mod testing;
pub(crate) mod text;
mod websocket;
