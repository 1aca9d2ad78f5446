//! The programs: the entry, which the interfaces run, and the stages behind it, which tail calls reach.
#![expect(unsafe_code, reason = "the section and symbol of the licence")]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use monitor_common::{
    abi::{settings::Settings, stage::StageProgram},
    engine::stages,
};

use maps::BpfMaps;
use packet::XdpPacket;

mod log;
mod maps;
mod packet;

/// Counts the frame and passes it on. Declared multi-buffer (`frags`), as all stages are, so that jumbo frames are no
/// obstacle.
#[xdp(frags)]
fn peertally(context: XdpContext) -> u32 {
    run(&context, |packet, settings| stages::entry(packet, &BpfMaps, settings, packet.interface()))
}

/// [`StageProgram::Flow`].
#[xdp(frags)]
fn peertally_flow(context: XdpContext) -> u32 {
    run(&context, |packet, settings| stages::flow(packet, &BpfMaps, settings, packet.interface()))
}

/// [`StageProgram::InspectTcp`].
#[xdp(frags)]
fn peertally_tcp(context: XdpContext) -> u32 {
    run(&context, |packet, settings| stages::inspect_tcp(packet, &BpfMaps, settings))
}

/// [`StageProgram::InspectUdp`].
#[xdp(frags)]
fn peertally_udp(context: XdpContext) -> u32 {
    run(&context, |packet, settings| stages::inspect_udp(packet, &BpfMaps, settings))
}

/// [`StageProgram::Verdict`].
#[xdp(frags)]
fn peertally_verdict(context: XdpContext) -> u32 {
    run(&context, |packet, settings| stages::verdict(packet, &BpfMaps, settings))
}

/// Runs a stage, and goes on to the one that the packet needs next. Passes the frame on, whatever happens.
#[inline(always)]
fn run(context: &XdpContext, stage: impl FnOnce(&XdpPacket<'_>, &Settings) -> Option<StageProgram>) -> u32 {
    if let Some(settings) = maps::settings()
        && let Some(next) = stage(&XdpPacket::new(context), settings)
    {
        match next {
            StageProgram::Flow => maps::tail_call::<{ StageProgram::Flow as u32 }>(context),
            StageProgram::InspectTcp => maps::tail_call::<{ StageProgram::InspectTcp as u32 }>(context),
            StageProgram::InspectUdp => maps::tail_call::<{ StageProgram::InspectUdp as u32 }>(context),
            StageProgram::Verdict => maps::tail_call::<{ StageProgram::Verdict as u32 }>(context),
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
