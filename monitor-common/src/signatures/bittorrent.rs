//! BitTorrent: peer wire (BEP 3), uTP (BEP 29), DHT (BEP 5), trackers (BEP 3, 15, 48), local service discovery (BEP 14).

use crate::{
    payload::{FlowState, Payload},
    protocol::Confidence,
};

/// The peer wire handshake: a length byte of 19 and the protocol's name (BEP 3).
#[inline(always)]
pub fn tcp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    payload.has(0, b"\x13BitTorrent protocol").then_some(Confidence::Signature)
}

/// DHT queries and answers (BEP 5).
#[inline(always)]
pub fn udp(payload: &Payload, _state: &mut FlowState) -> Option<Confidence> {
    (payload.has(0, b"d1:ad2:id20:") || payload.has(0, b"d1:rd2:id20:")).then_some(Confidence::Signature)
}
