//! The stages of one frame's way, each a BPF program: the entry program, and those of [`StageProgram`] behind it.
//!
//! A stage returns the stage that the packet needs next, always a later one, and the kernel reaches it by a tail call.
//! That costs less than a call and its return on processors that cannot predict returns, and the verifier walks each
//! stage by itself. What a stage leaves for the next one is in [`PacketContext`](crate::tables::context::PacketContext)
//! and in the payload's window, in per-CPU memory.
//!
//! The verifier does not track values through a map, so it verifies each stage once, and not once for each path that
//! leads there.

use core::ops::DerefMut;

use crate::{
    abi::{event::KernelEvent, settings::Settings, stage::StageProgram},
    parse::packet::Packet,
    tables::{context::Scratch, maps::Maps},
};

mod charge;
mod entry;
mod flow;
mod inspect;
mod verdict;

pub use charge::charge;
pub use entry::entry;
pub use flow::flow;
pub use inspect::{inspect_tcp, inspect_udp};
pub use verdict::verdict;

/// Counts one frame that arrived on the interface with this index (its low 16 bits), through all its stages.
///
/// For the host: in the kernel each stage is a program of its own.
pub fn process<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings, index: u16) {
    let mut next = entry(packet, maps, settings, index);
    while let Some(stage) = next {
        next = match stage {
            StageProgram::Flow => flow(packet, maps, settings),
            StageProgram::InspectTcp => inspect_tcp(packet, maps, settings),
            StageProgram::InspectUdp => inspect_udp(packet, maps, settings),
            StageProgram::Verdict => verdict(maps, settings),
            StageProgram::Charge => charge(maps, settings),
        };
    }
}

/// Counts a stage that could not be called, and clears what the stage before left in the payload's window.
#[inline(always)]
pub fn abandon<M: Maps>(maps: &M) {
    maps.count_event(KernelEvent::StageMissing);
    if let Some(mut scratch) = maps.scratch() {
        scratch.payload.wipe();
    }
}

/// The scratch memory of this CPU; `None` is an internal error.
///
/// No closure gets it: the compiler would leave the larger ones as calls.
#[inline(always)]
fn scratch<M: Maps>(maps: &M) -> Option<impl DerefMut<Target = Scratch>> {
    let scratch = maps.scratch();
    if scratch.is_none() {
        maps.count_event(KernelEvent::InternalError);
    }
    scratch
}
