//! Entry: parses the frame, and counts it if it belongs to a settled flow or to nobody.

use super::scratch;
use crate::{
    abi::{
        event::KernelEvent,
        interface::InterfaceEntry,
        key::{FlowKey, Seed},
        limits::{STATED_BYTES_MAX, WAYS},
        outcome::PacketOutcome,
        protocol::Verdict,
        settings::Settings,
        stage::StageProgram,
    },
    bpf::branchless::bound,
    engine::{account, spoofing, subscribers},
    parse::{self, FastHeaders, packet::Packet},
    tables::{
        context::{Lookup, PacketContext},
        flow_table::{FlowState, is_full, pack},
        maps::Maps,
        vlan_table,
    },
};

/// Counts a packet of a settled flow, a transit packet, or a frame that is skipped; all others go on to
/// [`StageProgram::Flow`].
#[inline(always)]
pub fn entry<P: Packet, M: Maps>(packet: &P, maps: &M, settings: &Settings, index: u16) -> Option<StageProgram> {
    let Some(interface) = maps.interface(index) else {
        maps.count_event(KernelEvent::InternalError);
        return None;
    };
    let Some(fast) = parse::fast_headers(packet, || seed(settings, interface)) else {
        return parse_and_count(packet, maps, settings, interface);
    };
    let place = look_up(&fast, maps, settings, interface)?;
    // Prefetch the cold set as early as possible, but not for transit. Recompute the index: reading it from `place`
    // would make this load wait for the flow set.
    let prefetch = || maps.prefetch_cold_set(FlowKey::set_index(fast.tag, settings.set_mask));
    let ends = if place.way() < WAYS as u32 {
        prefetch();
        None
    } else {
        let ends = subscribers::plain_ends(packet, maps);
        if ends.as_ref().is_some_and(|ends| !ends.has_subscriber()) {
            account::transit(maps, interface, fast.ip_bytes, Verdict::UNCLASSIFIED.numbers());
            // Without an agent, the clock of settled flows moves by the other packets only.
            maps.now_s(settings, &mut scratch(maps)?.ctx.frame.clock);
            return None;
        }
        ends
    };
    let scratch = &mut *scratch(maps)?;
    record_lookup(&mut scratch.ctx, &fast, place, settings, interface);
    if let Some(ends) = &ends {
        subscribers::store_ends(&mut scratch.ctx, ends);
        // A packet that is shed needs none of these lines, and would wait for them.
        if scratch.bucket.refuses == 0 {
            prefetch();
        }
    }
    Some(StageProgram::Flow)
}

/// The seed of the realm of an interface.
#[inline(always)]
fn seed(settings: &Settings, interface: InterfaceEntry) -> Seed {
    settings.seed.of_realm(settings.seed.realm_mask(interface.realm()))
}

/// The place of a packet's flow; `None` if that is settled and the packet is counted.
///
/// A SYN may open a flow whatever its entry says.
#[inline(always)]
fn look_up<M: Maps>(fast: &FastHeaders, maps: &M, settings: &Settings, interface: InterfaceEntry) -> Option<Place> {
    if fast.opens() { Some(find(fast, maps, settings)) } else { count_settled(fast, maps, settings, interface).err() }
}

/// Parses any frame in full and counts it as [`count_settled`] does. Leaves the headers in the context.
#[inline(never)]
fn parse_and_count<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    settings: &Settings,
    interface: InterfaceEntry,
) -> Option<StageProgram> {
    let scratch = &mut *scratch(maps)?;
    let ctx = &mut scratch.ctx;
    if let Err(reason) = parse::all_headers(packet, &mut ctx.frame.headers) {
        maps.count_skip(reason);
        maps.report_outcome(PacketOutcome::skipped(reason));
        return None;
    }
    let vlans = ctx.frame.headers.vlans;
    let tagged = interface.has_vlans() && vlans != 0;
    let interface = if tagged { vlan_table::find(maps, interface, vlans) } else { interface };
    let fast = FastHeaders::of(&ctx.frame.headers, &seed(settings, interface));
    let merged = fast.ip_bytes > STATED_BYTES_MAX;
    let place = if merged || interface.is_of_vlan() && spoofing::is_outside(maps, &ctx.frame.headers, interface) {
        // The flow's state tells interfaces apart, and roles, but not the VLANs of an interface. Only the next stage
        // flushes a counter whose bytes would overflow.
        find(&fast, maps, settings)
    } else {
        look_up(&fast, maps, settings, interface)?
    };
    record_lookup(ctx, &fast, place, settings, interface);
    ctx.frame.headers_parsed = 1;
    Some(StageProgram::Flow)
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

/// The place of a flow, whose sets are loaded at once: the flow of a packet that opens a connection is usually in
/// neither.
#[inline(always)]
fn find<M: Maps>(fast: &FastHeaders, maps: &M, settings: &Settings) -> Place {
    let (Some(first), Some(second)) = (
        maps.flow_set(FlowKey::set_index(fast.tag, settings.set_mask)),
        maps.flow_set(FlowKey::second_set_index(fast.tag, settings.set_mask)),
    ) else {
        return Place::NOWHERE;
    };
    let _early = second.tags[0].load();
    match (first.find(fast.tag), second.find(fast.tag)) {
        (Some(way), _) => Place(way as u32),
        (None, Some(way)) => Place(way as u32 | Place::SECOND),
        (None, None) => Place::NOWHERE,
    }
}

/// Fast path: counts a packet of a settled flow that needs only its counter.
///
/// # Errors
/// The place of the flow, if there is more to do.
#[inline(always)]
fn count_settled<M: Maps>(
    fast: &FastHeaders,
    maps: &M,
    settings: &Settings,
    interface: InterfaceEntry,
) -> Result<(), Place> {
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
    let counter = &set.counters[(2 * way + (fast.direction_shift >> 4) as usize) & (2 * WAYS - 1)];
    if is_full(counter.load()) {
        return Err(place);
    }
    let now_s = settings.clock_s.load();
    if state.second() != now_s as u16 {
        // The first packet of a second updates the last-seen second. If another CPU was first, the slow path sees the
        // change.
        // The interface is that of the packet before.
        let seen = state.at_second(now_s as u16);
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
    let outcome = PacketOutcome::flow(Lookup::KNOWN.0, state.protocol_number(), state.confidence_number());
    maps.report_outcome(outcome.with_charge(!state.is_pending()));
    Ok(())
}

/// Records where the packet's flow was found.
#[inline(always)]
fn record_lookup(
    ctx: &mut PacketContext,
    fast: &FastHeaders,
    place: Place,
    settings: &Settings,
    interface: InterfaceEntry,
) {
    let realm = interface.realm();
    ctx.frame.headers_parsed = 0;
    ctx.frame.interface = interface.without_realm();
    ctx.subscribers.lookup_done = 0;
    (ctx.frame.realm, ctx.frame.realm_mask) = (realm, settings.seed.realm_mask(realm));
    ctx.flow.tag = fast.tag;
    ctx.flow.from_lower = fast.from_lower() as u32;
    ctx.flow.set_index = place.set_index(fast.tag, settings.set_mask);
    ctx.flow.way = place.way();
}
