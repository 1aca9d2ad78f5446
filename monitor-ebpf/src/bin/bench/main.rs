//! Benchmark programs for the kernel's test runner: a packet generator, an empty program and a conventional-design
//! reference.
//!
//! A prologue program rewrites the addresses and ports of the frame it is given from a generator and tail-calls the
//! program in slot 0 of `PROGRAMS`, so one system call measures millions of packets of random flows. Never attached to
//! an interface, not part of the shipped object. `cargo xtask bench` loads it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(not(target_arch = "bpf"), allow(dead_code, reason = "the host build is empty"))]

mod layout;

#[cfg(target_arch = "bpf")]
mod generator;
#[cfg(target_arch = "bpf")]
mod reference;

#[cfg(target_arch = "bpf")]
mod bpf {
    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

    /// Baseline of every measurement: the cost of the prologue and of the test runner.
    #[xdp(frags)]
    pub(crate) fn empty(_context: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    /// Behind the prologue in the live-frame test runner: sends the packet out of the interface it claims to have
    /// arrived on.
    #[xdp(frags)]
    pub(crate) fn transmit(_context: XdpContext) -> u32 {
        xdp_action::XDP_TX
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
