//! The classifier, and the reading of sources, over the packets of one flow.

use monitor_common::{
    classify::classify,
    limits::WINDOW,
    payload::{FlowState, Payload, Transport},
    protocol::{Confidence, Protocol},
    sources::{self, Context, Walk},
};

/// See the module.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut states = [FlowState::default(); 2];
    let mut rest = data;
    while let Some(([header, high, low], packets)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(packets.len());
        let (bytes, next) = packets.split_at(length);
        rest = next;
        let from_lower = header & 1 == 1;
        let (transport, state) = match header & 2 {
            0 => (Transport::Tcp, &mut states[0]),
            _ => (Transport::Udp, &mut states[1]),
        };
        let mut payload = Payload::from_bytes(bytes, 6881, 6346, from_lower);
        for (protocol, ipv6) in
            [(Protocol::BitTorrent, false), (Protocol::BitTorrent, true), (Protocol::EDonkey, false)]
        {
            let context = Context { transport, protocol: protocol as u8, ipv6, announces: false, asked: true };
            let mut walk = Walk::NONE;
            sources::begin(&context, &payload, &mut walk);
            let most = WINDOW / 6;
            for step in 0..=most + 1 {
                if walk.is_over() {
                    break;
                }
                assert!(step <= most, "a list ends with its payload");
                sources::next(&payload, &mut walk);
            }
        }
        if let Some(verdict) = classify(transport, &mut payload, state) {
            assert_ne!(verdict.confidence, Confidence::None, "a verdict says how sure it is");
        }
    }
}
