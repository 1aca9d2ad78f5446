//! Which signatures are tried on a payload, and in which order. One row per signature function.
//!
//! Each function takes the payload and the flow's state and answers how sure it is, or `None`. The first answer is final for
//! the flow, so rows go from unmistakable and cheap to structural.

use crate::{
    payload::{FlowState, Payload, Transport},
    protocol::{Protocol, Verdict},
    signatures::{bittorrent, edonkey, gnutella, gnutella2, kademlia},
};

/// Tries each signature in turn; expands to straight-line code, since the verifier and LLVM like no function tables.
macro_rules! first_match {
    ($payload:expr, $state:expr; $($function:path => $protocol:expr,)*) => {
        $(if let Some(confidence) = $function($payload, $state) {
            return Some(Verdict { protocol: $protocol, confidence });
        })*
    };
}

/// The verdict that this payload gives its flow, if it shows one.
#[inline(always)]
pub fn classify(transport: Transport, payload: &Payload, state: &mut FlowState) -> Option<Verdict> {
    match transport {
        Transport::Tcp => {
            first_match!(payload, state;
                bittorrent::tcp => Protocol::BitTorrent,
                edonkey::tcp => Protocol::EDonkey,
                gnutella::tcp => Protocol::Gnutella,
            );
        }
        Transport::Udp => {
            first_match!(payload, state;
                bittorrent::udp => Protocol::BitTorrent,
                edonkey::udp => Protocol::EDonkey,
                kademlia::udp => Protocol::Kademlia,
                gnutella::udp => Protocol::Gnutella,
                gnutella2::udp => Protocol::Gnutella2,
            );
        }
    }
    None
}
