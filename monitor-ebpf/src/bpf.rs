//! The programs: the entry, which the interfaces run, and the stages behind it, which tail calls reach.
#![expect(unsafe_code, reason = "the section and symbol of the licence")]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use monitor_common::{abi::stage::StageProgram, engine::stages};

use maps::BpfMaps;
use packet::XdpPacket;

mod log;
mod maps;
mod packet;

/// Declares a program: a stage of [`stages`] on the frame in `$packet`. Declared multi-buffer (`frags`), so that jumbo
/// frames are no obstacle. A macro, since the compiler would leave large closures as calls.
macro_rules! program {
    ($(#[$doc:meta])* $name:ident: |$packet:ident, $settings:ident| $stage:expr) => {
        $(#[$doc])*
        #[xdp(frags)]
        #[inline(always)]
        fn $name(context: XdpContext) -> u32 {
            let next = match maps::settings() {
                Some($settings) => {
                    let $packet = &XdpPacket::new(&context);
                    $stage
                }
                None => None,
            };
            pass(&context, next)
        }
    };
}

program! {
    /// What the interfaces run.
    peertally: |packet, settings| stages::entry(packet, &BpfMaps, settings, packet.interface())
}
program! {
    /// [`StageProgram::Flow`].
    peertally_flow: |packet, settings| stages::flow(packet, &BpfMaps, settings)
}
program! {
    /// [`StageProgram::InspectTcp`].
    peertally_tcp: |packet, settings| stages::inspect_tcp(packet, &BpfMaps, settings)
}
program! {
    /// [`StageProgram::InspectUdp`].
    peertally_udp: |packet, settings| stages::inspect_udp(packet, &BpfMaps, settings)
}
program! {
    /// [`StageProgram::Verdict`].
    peertally_verdict: |_packet, settings| stages::verdict(&BpfMaps, settings)
}

program! {
    /// [`StageProgram::Charge`].
    peertally_charge: |_packet, settings| stages::charge(&BpfMaps, settings)
}

/// Goes on to the stage that the packet needs next, if there is one. Passes the frame on, whatever happens.
#[inline(always)]
fn pass(context: &XdpContext, next: Option<StageProgram>) -> u32 {
    if let Some(next) = next {
        match next {
            StageProgram::Flow => maps::tail_call::<{ StageProgram::Flow as u32 }>(context),
            StageProgram::InspectTcp => maps::tail_call::<{ StageProgram::InspectTcp as u32 }>(context),
            StageProgram::InspectUdp => maps::tail_call::<{ StageProgram::InspectUdp as u32 }>(context),
            StageProgram::Verdict => maps::tail_call::<{ StageProgram::Verdict as u32 }>(context),
            StageProgram::Charge => maps::tail_call::<{ StageProgram::Charge as u32 }>(context),
        }
        stages::abandon(&BpfMaps);
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
