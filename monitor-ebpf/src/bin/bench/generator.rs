//! The prologue: makes one packet of a pseudo-random flow out of the frame, then tail-calls the program under test.
//!
//! Addresses are written with one 64-bit store, ports and sequence numbers with one 32-bit store each, so that the
//! reader's narrower loads are forwarded from the store buffer and do not stall on it, as they would not after a
//! network card's DMA. Checksums are left wrong: no program here reads them.
#![expect(unsafe_code, reason = "pointers into packet memory and map values")]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{PerCpuArray, ProgramArray},
    programs::XdpContext,
};

use crate::layout::{DOWN, Generator, MAX_SPIN, MIXED, POOL_V4, POOL_V6, POOLS_V4, SEQUENTIAL, SKEWED, TRAINS};

/// Slot 0: the program under test. The index is a constant, so the kernel patches in a direct jump.
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Parameters and state.
#[map]
static GENERATOR: PerCpuArray<Generator> = PerCpuArray::with_max_entries(1, 0);

/// Packets of a train ([`TRAINS`]): a power of two.
const TRAIN_PACKETS: u64 = 4;
/// Ethernet header.
const ETHERNET: usize = 14;
/// Ethernet, two VLAN tags, PPPoE session and PPP protocol.
const QINQ_PPPOE: usize = 14 + 8 + 8;

/// IPv4 after the Ethernet header.
#[xdp(frags)]
pub(crate) fn prologue_ipv4(context: XdpContext) -> u32 {
    rewrite::<ETHERNET, false>(&context)
}

/// IPv6 after the Ethernet header.
#[xdp(frags)]
pub(crate) fn prologue_ipv6(context: XdpContext) -> u32 {
    rewrite::<ETHERNET, true>(&context)
}

/// IPv4 in PPPoE in two VLAN tags.
#[xdp(frags)]
pub(crate) fn prologue_qinq_pppoe(context: XdpContext) -> u32 {
    rewrite::<QINQ_PPPOE, false>(&context)
}

/// The packet's random numbers: its flow, whether it comes from the subscriber, and the flow's hash.
struct Draw {
    subscriber: u32,
    hash: u64,
    /// Packets of the flow before, if flows come in their order.
    pass: u64,
    down: bool,
}

#[inline(always)]
fn draw(generator: &mut Generator) -> Draw {
    let mut random = generator.random;
    if generator.order != TRAINS || generator.made & (TRAIN_PACKETS - 1) == 0 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        generator.random = random;
    }
    let number = match generator.order {
        SEQUENTIAL => generator.made,
        SKEWED => skewed(random, generator.flow_mask + 1),
        _ => random >> 20,
    };
    generator.made += 1;
    let flow = number & generator.flow_mask;
    // splitmix64's finaliser: neighbouring flows must not be neighbours in any table.
    let mut hash = flow + generator.salt;
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    Draw {
        subscriber: ((hash >> 20) as u32) & generator.subscriber_mask,
        hash,
        pass: number.checked_div(generator.flow_mask + 1).unwrap_or(0),
        down: generator.direction == DOWN || (generator.direction == MIXED && random & 1 == 1),
    }
}

/// A number below `flows` (at most 2^32), from the product of the random number's four words, each a part of 2^16.
#[inline(always)]
fn skewed(random: u64, flows: u64) -> u64 {
    let word = |shift: u32| (random >> shift) & 0xffff;
    let product = word(0) * word(16) * word(32) * word(48);
    ((product >> 32) * flows) >> 32
}

/// Takes the time of `generator.spin` steps, each of which needs the one before it.
#[inline(always)]
fn spin(generator: &mut Generator) {
    let mut random = generator.random;
    let mut step = 0;
    while step < MAX_SPIN {
        if step >= generator.spin {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        step += 1;
    }
    // Never true, which the compiler does not know, so the steps stay: a xorshift step makes 0 of 0 only.
    if random == 0 {
        generator.made = 0;
    }
}

#[inline(always)]
fn rewrite<const IP: usize, const V6: bool>(context: &XdpContext) -> u32 {
    let Some(generator) = GENERATOR.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: a per-CPU array's element is this CPU's own, and the test runner does not migrate a run.
    let generator = unsafe { &mut *generator };
    let header = if V6 { 40 } else { 20 };
    spin(generator);
    let data = context.data();
    if data + IP + header + 8 > context.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let Draw { subscriber, hash, pass, down } = draw(generator);
    // High ports for the subscriber.
    let local_port = u32::from(((hash >> 48) as u16 | 0x8000).to_be());
    let remote_port = u32::from((generator.remote_port as u16).to_be());
    let ports = if down { remote_port | (local_port << 16) } else { local_port | (remote_port << 16) };
    if V6 {
        let subscriber = u64::from(POOL_V6.to_be()) | (u64::from((subscriber << 8).to_be()) << 32);
        let local = if generator.pooled == 1 { subscriber } else { subscriber | 0x10 };
        let remote = 0x0026 | (hash << 16);
        let (source, destination) = if down { (remote, local) } else { (local, remote) };
        // SAFETY: bounds were tested above; packet memory takes unaligned stores on the targets the bench runs on.
        unsafe {
            *((data + IP + 8) as *mut u64) = source;
            *((data + IP + 24) as *mut u64) = destination;
        }
    } else {
        let local = if generator.pooled == 0 {
            // 208.0.0.0/4 is outside every pool, as the far end is.
            0xd000_0000 | subscriber
        } else if generator.pool_mask == 0 {
            POOL_V4 + subscriber
        } else {
            POOLS_V4 + ((subscriber & generator.pool_mask) << 18) + (subscriber >> generator.pool_bits)
        };
        let remote = 0xc000_0000 | (hash as u32 & 0x0fff_ffff);
        let local = u64::from(local.to_be());
        let remote = u64::from(remote.to_be());
        let addresses = if down { remote | (local << 32) } else { local | (remote << 32) };
        // SAFETY: as above.
        unsafe { *((data + IP + 12) as *mut u64) = addresses };
    }
    // SAFETY: as above.
    unsafe { *((data + IP + header) as *mut u32) = ports };
    if generator.stride != 0 {
        let sequence = generator.sequence.wrapping_add((pass as u32).wrapping_mul(generator.stride));
        // SAFETY: as above.
        unsafe { *((data + IP + header + 4) as *mut u32) = sequence.to_be() };
    }
    // SAFETY: the map holds XDP programs only, checked by the kernel when they are put in. Returns only when slot 0 is
    // empty.
    unsafe { PROGRAMS.tail_call(context, 0) };
    xdp_action::XDP_ABORTED
}
