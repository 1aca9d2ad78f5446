//! Which signatures are tried on a payload, and in which order. One row per signature function.
//!
//! Each function takes the payload and the flow's state and answers how sure it is, or `None`. The first answer is final for
//! the flow, so rows go from unmistakable and cheap to structural.

use crate::{
    payload::{FlowState, Payload, Transport},
    protocol::{Confidence, Protocol, Verdict},
    signatures::{
        applejuice, ares, bittorrent, btsync, directconnect, edonkey, fasttrack, gnutella, gnutella2, kademlia, libp2p,
        mute, openft, opennap, soulseek, split, waste, webtorrent, winmx,
    },
};

/// Tries each signature in turn; expands to straight-line code, since the verifier and LLVM like no function tables.
///
/// Rows share no loaded value: what one row's comparisons taught the verifier about a value would make it walk all later
/// rows once more for each outcome, so that the cost is the product of the rows and not their sum.
macro_rules! first_match {
    ($payload:expr, $state:expr; $($function:path => $protocol:expr,)*) => {
        $(if let Some(confidence) = $function($payload.isolated(), $state) {
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
                libp2p::tcp => Protocol::LibP2p,
                edonkey::tcp => Protocol::EDonkey,
                gnutella::tcp => Protocol::Gnutella,
                directconnect::tcp => Protocol::DirectConnect,
                fasttrack::tcp => Protocol::FastTrack,
                webtorrent::tcp => Protocol::WebTorrent,
                soulseek::tcp => Protocol::Soulseek,
                ares::tcp => Protocol::Ares,
                winmx::tcp => Protocol::WinMx,
                opennap::tcp => Protocol::OpenNap,
                applejuice::tcp => Protocol::AppleJuice,
                mute::tcp => Protocol::Mute,
                openft::tcp => Protocol::OpenFt,
                waste::tcp => Protocol::Waste,
                btsync::tcp => Protocol::BtSync,
            );
            let protocol = split::completes(payload.isolated(), state)?;
            Some(Verdict { protocol, confidence: Confidence::Signature })
        }
        Transport::Udp => {
            first_match!(payload, state;
                bittorrent::udp => Protocol::BitTorrent,
                edonkey::udp => Protocol::EDonkey,
                kademlia::udp => Protocol::Kademlia,
                gnutella::udp => Protocol::Gnutella,
                gnutella2::udp => Protocol::Gnutella2,
                directconnect::udp => Protocol::DirectConnect,
                fasttrack::udp => Protocol::FastTrack,
                libp2p::udp => Protocol::LibP2p,
                btsync::udp => Protocol::BtSync,
            );
            None
        }
    }
}
