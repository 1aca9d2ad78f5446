//! Entry point.
#![expect(unsafe_code, reason = "the section and symbol of the licence")]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use monitor_common::engine::process;

mod log;
mod maps;
mod packet;

/// Counts the frame and passes it on. Declared multi-buffer (`frags`) so that jumbo frames are no obstacle.
#[xdp(frags)]
fn peertally(context: XdpContext) -> u32 {
    if let Some(settings) = maps::settings() {
        let packet = packet::XdpPacket::new(&context);
        process(&packet, &maps::BpfMaps, settings, packet.interface());
    }
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
