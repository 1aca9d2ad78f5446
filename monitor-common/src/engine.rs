//! Processes one frame: parse, look up the flow, count; inspect only the first packets of a flow.
//!
//! Invariants (`docs/architecture.md#counting`):
//! * each IP packet is counted exactly once at node level, and once per subscriber end;
//! * packets before a verdict stay in their flow's own counters, so they count for the verdict; nothing is ever
//!   subtracted;
//! * the fast path reads one set, or two if the first lacks the flow, adds to one counter, and reads no clock but the
//!   shared `clock_s`; it touches no pool or tally.

use crate::{
    abi::{
        event::KernelEvent,
        key::{FlowKey, Seed},
        limits::WAYS,
        outcome::PacketOutcome,
        settings::{InspectionDepth, Settings},
    },
    bpf::branchless::bound,
    parse::{self, FastHeaders, packet::Packet},
    tables::{
        context::{Lookup, PacketContext, Scratch, Task},
        flow_table::{FlowState, is_full, pack},
        maps::Maps,
    },
};

mod account;
mod associate;
mod flow_table;
mod inspect;
mod learn;
mod peer_keys;
mod reassembly;
mod server_flow;
mod source_requests;
mod subscribers;
mod tally_slots;
mod watchlist;

pub use account::settle_idle;

/// Counts one frame that arrived on the interface with index `interface` (its low 16 bits).
#[inline(always)]
pub fn process<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings, interface: u16) {
    let counted = match parse::fast_headers(packet, || realm_seed(maps, settings, interface)) {
        Some(fast) => match count_settled(&fast, maps, settings, interface) {
            Ok(()) => true,
            Err(place) => {
                // Prefetch the cold set now. Recompute the index: reading it from `place` would make this load wait for
                // the flow set.
                maps.prefetch_cold_set(FlowKey::set_index(fast.tag, settings.set_mask));
                if place.way() >= WAYS as u32 {
                    step(maps, |ctx| {
                        record_lookup(ctx, &fast, place, settings, maps.realm(interface));
                        subscribers::prefetch_subscribers(packet, maps, settings, ctx);
                    });
                } else {
                    step(maps, |ctx| record_lookup(ctx, &fast, place, settings, maps.realm(interface)));
                }
                false
            }
        },
        None => parse_and_count(packet, maps, settings, interface),
    };
    if !counted {
        slow_path(packet, maps, settings, interface);
    }
}

/// The seed of the realm of an interface.
#[inline(always)]
fn realm_seed<M: Maps>(maps: &M, settings: &Settings, interface: u16) -> Seed {
    settings.seed.of_realm(settings.seed.realm_mask(maps.realm(interface)))
}

/// Parses any frame in full and counts it as [`count_settled`] does; `true` if it is counted or skipped. Leaves the
/// headers in the context.
#[inline(never)]
fn parse_and_count<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings, interface: u16) -> bool {
    let counted = maps.with_scratch(|scratch| {
        let ctx = &mut scratch.ctx;
        if let Err(reason) = parse::all_headers(packet, &mut ctx.frame.headers) {
            maps.count_skip(reason);
            maps.report_outcome(PacketOutcome::skipped(reason));
            return true;
        }
        let fast = FastHeaders::of(&ctx.frame.headers, &realm_seed(maps, settings, interface));
        match count_settled(&fast, maps, settings, interface) {
            Ok(()) => true,
            Err(place) => {
                record_lookup(ctx, &fast, place, settings, maps.realm(interface));
                ctx.frame.headers_parsed = 1;
                false
            }
        }
    });
    counted.unwrap_or(false)
}

/// The place of a flow: its way in bits 0..3, [`WAYS`] when no set holds it; bit 3 is set for the second set.
///
/// Kept in one register, since it is live on the fast path. The set's index is recomputed from the tag.
#[derive(Clone, Copy)]
struct Place(u32);

const _: () = assert!(WAYS < 8);

impl Place {
    const NOWHERE: Self = Self(WAYS as u32);
    const SECOND: u32 = 8;

    #[inline(always)]
    const fn set_index(self, tag: u64, set_mask: u64) -> u32 {
        if self.0 & Self::SECOND == 0 {
            FlowKey::set_index(tag, set_mask)
        } else {
            FlowKey::second_set_index(tag, set_mask)
        }
    }

    #[inline(always)]
    const fn way(self) -> u32 {
        self.0 & 7
    }
}

/// Fast path: counts a packet of a settled flow that needs only its counter.
///
/// # Errors
/// The place of the flow, if there is more to do.
#[inline(always)]
fn count_settled<M: Maps>(fast: &FastHeaders, maps: &M, settings: &Settings, interface: u16) -> Result<(), Place> {
    let tag = fast.tag;
    let Some(mut set) = maps.flow_set(FlowKey::set_index(tag, settings.set_mask)) else { return Err(Place::NOWHERE) };
    // Prefetch the counters' line before the way is known.
    let _early = set.counters[0].load();
    let (way, which) = match set.find(tag) {
        Some(way) => (way, 0),
        None => {
            let second = maps.flow_set(FlowKey::second_set_index(tag, settings.set_mask));
            set = second.ok_or(Place::NOWHERE)?;
            (set.find(tag).ok_or(Place::NOWHERE)?, Place::SECOND)
        }
    };
    let way = bound::<{ WAYS - 1 }>(way);
    let place = Place(way as u32 | which);
    // While two CPUs install one flow, two ways have its tag; the search over both may name a third way.
    if set.tags[way].load() != tag {
        return Err(Place::NOWHERE);
    }
    let state = FlowState(set.states[way].load());
    if state.unsettled_bits(fast.direction_shift, interface) != 0 {
        return Err(place);
    }
    if fast.opens() {
        return Err(place);
    }
    let counter = &set.counters[(2 * way + (fast.direction_shift >> 4) as usize) & (2 * WAYS - 1)];
    if is_full(counter.load()) {
        return Err(place);
    }
    let now_s = settings.clock_s.load();
    if state.second() != now_s as u16 {
        // The first packet of a second updates the last-seen second. If another CPU was first, the slow path sees the
        // change.
        let seen = state.seen(now_s as u16, fast.from_lower(), interface);
        let unclassified = state.protocol_number() == 0;
        let due = (unclassified && fast.has_peer_ports() || state.is_server_flow()) && state.is_due(now_s);
        if due || (unclassified && state.has_paused(now_s)) {
            return Err(place);
        }
        if !set.states[way].replace(state.0, seen.0) {
            return Err(place);
        }
    }
    counter.add(pack(1, u64::from(fast.ip_bytes)));
    maps.report_outcome(PacketOutcome::flow(Lookup::KNOWN.0, state.protocol_number(), state.confidence_number()));
    Ok(())
}

/// The slow path: every packet except those that [`count_settled`] counts.
///
/// Each step is a function that takes its input from [`PacketContext`], in per-CPU memory. The verifier does not track
/// values through a map, so it verifies each step once, and not once for each path that leads there.
#[inline(never)]
fn slow_path<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings, interface: u16) {
    if maps.with_scratch(|scratch| slow_steps(packet, maps, settings, interface, scratch)) != Some(true) {
        maps.count_event(KernelEvent::InternalError);
    }
}

/// Runs the steps; `false` if the frame has no headers, which is an internal error: the fast path has parsed them
/// before.
#[inline(always)]
fn slow_steps<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    settings: &Settings,
    interface: u16,
    scratch: &mut Scratch,
) -> bool {
    let ctx = &mut scratch.ctx;
    if !read_headers(packet, ctx) {
        return false;
    }
    reset_context(ctx, maps, settings, interface);
    if !flow_table::lookup(maps, ctx) {
        if !subscribers::find_subscribers(maps, ctx) {
            account::transit(maps, ctx);
            return true;
        }
        if !flow_table::select_victim(maps, settings, ctx) || !flow_table::install(maps, settings, ctx) {
            account::count_uncached(maps, settings, ctx);
            return true;
        }
    }
    if !account::count(maps, ctx) {
        return true;
    }
    let task = ctx.flow.task;
    if task == Task::ASSOCIATE {
        if associate::associate(maps, settings, ctx) {
            associate::relabel(maps, settings, ctx);
        }
        return true;
    }
    scratch.ctx.inspection.ended = u32::from(inspect::inspect(packet, settings, maps, scratch));
    let ctx = &mut scratch.ctx;
    if ctx.inspection.ended == 0 && !(task == Task::INSPECT && associate::is_early(ctx)) {
        return true;
    }
    if task == Task::INSPECT {
        if !associate::associate(maps, settings, ctx) && ctx.inspection.ended == 0 {
            return true;
        }
        inspect::commit_verdict(maps, settings, ctx);
        if ctx.inspection.ended == 0 {
            return true;
        }
    }
    learn::learn(maps, settings, ctx);
    if settings.inspection.load() == InspectionDepth::Watchlist as u64 && ctx.inspection.content.is_some() {
        watchlist::compare(maps, settings, ctx);
    }
    true
}

/// Parses the frame unless its headers are in the context; `false` if [`parse::plain_headers`] has none.
#[inline(never)]
fn read_headers<P: Packet>(packet: &P, ctx: &mut PacketContext) -> bool {
    if ctx.frame.headers_parsed != 0 {
        return true;
    }
    match parse::plain_headers(packet) {
        Some(headers) => {
            ctx.frame.headers = headers;
            true
        }
        None => false,
    }
}

/// Runs one step on this CPU's context.
#[inline(always)]
fn step<M: Maps>(maps: &M, step: impl FnOnce(&mut PacketContext)) {
    if maps.with_scratch(|scratch| step(&mut scratch.ctx)).is_none() {
        maps.count_event(KernelEvent::InternalError);
    }
}

/// Records where the packet's flow was found.
#[inline(always)]
fn record_lookup(ctx: &mut PacketContext, fast: &FastHeaders, place: Place, settings: &Settings, realm: u32) {
    ctx.frame.headers_parsed = 0;
    ctx.subscribers.lookup_stage = 0;
    (ctx.frame.realm, ctx.frame.realm_mask) = (realm, settings.seed.realm_mask(realm));
    ctx.flow.tag = fast.tag;
    ctx.flow.from_lower = fast.from_lower() as u32;
    ctx.flow.set_index = place.set_index(fast.tag, settings.set_mask);
    ctx.flow.way = place.way();
}

/// Resets the context for a packet of the slow path, except for its headers.
#[inline(never)]
fn reset_context<M: Maps>(ctx: &mut PacketContext, maps: &M, settings: &Settings, interface: u16) {
    ctx.frame.interface = u32::from(interface);
    ctx.frame.now_s = maps.now_s(settings, &mut ctx.frame.tick);
    ctx.clear();
}
