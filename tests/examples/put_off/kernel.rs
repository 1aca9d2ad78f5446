//! BPF programs of a prototype: layouts of the hot part, and counts that are put off. `main.rs` beside this file
//! compiles and loads them.
//!
//! Each variant parses an Ethernet, IPv4, UDP frame, hashes it, finds its flow in a table of sets of 128 bytes, and
//! counts it. Inspection, new flows and the last-seen second are left out.
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(internal_features, non_upper_case_globals)]

use core::{arch::asm, ffi::c_void, intrinsics, mem::transmute, ptr};

#[repr(C)]
struct Map([u32; 7]);

macro_rules! maps {
    ($($name:ident: $kind:literal, $value:expr, $entries:expr;)*) => { $(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "maps")]
        static $name: Map = Map([$kind, 4, $value as u32, $entries, 0, 0, 0]);
    )* };
}

// 2: array, 3: array of programs, 6: per-CPU array. The tables' room in sets is that of 2^19 flows.
maps! {
    SETTINGS: 2, size_of::<Settings>(), 1;
    STATE: 6, size_of::<State>(), 1;
    PROGRAMS: 3, 4, 2;
    FILTER: 2, 8, 1 << 16;
    WIDE: 2, 128, 1 << 18;
    WIDE_TIGHT: 2, 128, 3 << 16;
    SMALL: 2, 128, 209_716;
    SMALL_TIGHT: 2, 128, 157_287;
    PADDED: 2, 128, 1 << 18;
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Written by `main.rs` before each run.
#[repr(C)]
struct Settings {
    /// A random flow for each `mask + 1` packets; all ones: flow after flow.
    train_mask: u64,
    flow_mask: u64,
    /// Sets of the table under test.
    sets: u64,
    verdict: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Pending {
    set: u32,
    second: u32,
    tag: u64,
    word: u64,
    direction: u64,
}

/// One per CPU; `main.rs` reads the first words.
#[repr(C)]
struct State {
    random: u64,
    made: u64,
    seen: u64,
    counted: u64,
    lost: u64,
    position: u64,
    ring: [Pending; DEPTH as usize],
}

const DEPTH: u64 = 8;
const PASS: u32 = 2;
const TX: u32 = 3;
const SETTLED: u64 = 3 << 16;

#[repr(C)]
struct Context {
    data: u32,
    data_end: u32,
}

#[inline(always)]
fn lookup<T>(map: &'static Map, key: u32) -> Option<&'static mut T> {
    // SAFETY: helper 1, `bpf_map_lookup_elem`; the verifier holds accesses to the value's size.
    unsafe {
        let helper: unsafe extern "C" fn(*const Map, *const u32) -> *mut T = transmute(1usize);
        helper(map, &key).as_mut()
    }
}

#[inline(always)]
fn tail_call(context: *mut Context, index: u32) -> u32 {
    // SAFETY: helper 12, `bpf_tail_call`.
    unsafe {
        let helper: unsafe extern "C" fn(*mut c_void, *const Map, u32) -> i64 = transmute(12usize);
        helper(context.cast(), &PROGRAMS, index);
    }
    0
}

/// A range of values that the verifier sees.
macro_rules! bounded {
    ($value:expr, $mask:literal) => {{
        let mut value: u64 = $value;
        // SAFETY: one arithmetic instruction.
        unsafe { asm!(concat!("{0} &= ", $mask), inout(reg) value, options(pure, nomem, nostack)) };
        value
    }};
}

/// Frames of pseudo-random flows, then the program in slot 0: a variant, or `transmit`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn generate(context: *mut Context) -> u32 {
    let (Some(state), Some(settings)) = (lookup::<State>(&STATE, 0), lookup::<Settings>(&SETTINGS, 0)) else {
        return 0;
    };
    // SAFETY: the verifier checks packet accesses.
    let (data, end) = unsafe { ((*context).data as usize, (*context).data_end as usize) };
    if data + 60 > end {
        return 0;
    }
    if state.made & settings.train_mask == 0 {
        let mut random = state.random;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        state.random = random;
    }
    let in_order = settings.train_mask == u64::MAX;
    let mut hash = (if in_order { state.made } else { state.random >> 20 }) & settings.flow_mask;
    state.made += 1;
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let local = u64::from((0x6440_0000 | (hash >> 20) as u32 & 0xffff).to_be());
    let remote = u64::from((0xc000_0000 | hash as u32 & 0x0fff_ffff).to_be());
    let (here, there) = (u32::from(((hash >> 48) as u16 | 0x8000).to_be()), u32::from(443_u16.to_be()));
    let down = !in_order && state.random & 1 == 1;
    // SAFETY: bounds were tested above.
    unsafe {
        *((data + 26) as *mut u64) = if down { remote | local << 32 } else { local | remote << 32 };
        *((data + 34) as *mut u32) = if down { there | here << 16 } else { here | there << 16 };
    }
    tail_call(context, 0)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn transmit(_context: *mut Context) -> u32 {
    TX
}

/// On the receiving interface: the variant in slot 1.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn receive(context: *mut Context) -> u32 {
    tail_call(context, 1)
}

struct Packet {
    hash: u64,
    bytes: u64,
    /// 0 from the lower address, 1 from the higher.
    direction: u64,
}

#[inline(always)]
fn parse(context: *mut Context) -> Option<Packet> {
    // SAFETY: the verifier checks packet accesses; bounds are tested before the first.
    unsafe {
        let (data, end) = ((*context).data as usize, (*context).data_end as usize);
        if data + 54 > end {
            return None;
        }
        let word = |at: usize| u64::from(u32::from_be(ptr::read_unaligned((data + at) as *const u32)));
        let half = |at: usize| u64::from(u16::from_be(*((data + at) as *const u16)));
        if half(12) != 0x0800 || *((data + 14) as *const u8) != 0x45 || half(20) & 0x3fff != 0 {
            return None;
        }
        let (protocol, source, destination) = (u64::from(*((data + 23) as *const u8)), word(26), word(30));
        if protocol != 17 || source == destination {
            return None;
        }
        let difference = destination.wrapping_sub(source);
        let mut from_higher = difference;
        asm!("{0} s>>= 63", inout(reg) from_higher, options(pure, nomem, nostack));
        let (lower, higher) =
            (source.wrapping_add(difference & from_higher), destination.wrapping_sub(difference & from_higher));
        let ports = word(34) << 32 | word(34);
        let ports = ports >> (from_higher & 16) & 0xffff_ffff;
        let one = (lower << 32 | higher ^ 0x5bd1_e995).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let two = (protocol << 32 | ports ^ 0x1b87_3593).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (one ^ one >> 32 ^ two ^ two << 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(Packet { hash: mixed ^ mixed >> 29, bytes: half(16), direction: from_higher & 1 })
    }
}

/// Places in a set: tags from 0 on, then states, and two counters of eight bytes a way.
trait Layout {
    const WAYS: usize;
    /// Tag and state have eight bytes each, else four.
    const WIDE: bool;
    const STATES: usize;
    const COUNTERS: usize;
    /// Words that nothing else uses, one in each line if there is room.
    const PADS: &'static [usize] = &[];
}

/// 32 bytes a flow.
struct Wide;
/// 24 bytes a flow, five ways, a pad in the first line.
struct Small;
/// 24 bytes a flow, four ways, pads in both lines.
struct Padded;

impl Layout for Wide {
    const WAYS: usize = 4;
    const WIDE: bool = true;
    const STATES: usize = 32;
    const COUNTERS: usize = 64;
}

impl Layout for Small {
    const WAYS: usize = 5;
    const WIDE: bool = false;
    const STATES: usize = 24;
    const COUNTERS: usize = 48;
    const PADS: &'static [usize] = &[44];
}

impl Layout for Padded {
    const WAYS: usize = 4;
    const WIDE: bool = false;
    const STATES: usize = 16;
    const COUNTERS: usize = 40;
    const PADS: &'static [usize] = &[36, 120];
}

type Set = [u8; 128];

#[inline(always)]
fn read<L: Layout>(set: &Set, at: usize, way: usize) -> u64 {
    let start = set.as_ptr().wrapping_add(at);
    // SAFETY: aligned and inside the set, as the verifier checks.
    unsafe {
        if L::WIDE {
            ptr::read_volatile(start.wrapping_add(8 * way).cast::<u64>())
        } else {
            u64::from(ptr::read_volatile(start.wrapping_add(4 * way).cast::<u32>()))
        }
    }
}

#[inline(always)]
fn counter<L: Layout>(set: &mut Set, way: usize, direction: u64) -> *mut u64 {
    set.as_mut_ptr().wrapping_add(L::COUNTERS + 16 * way + 8 * direction as usize).cast()
}

#[inline(always)]
fn find<L: Layout>(set: &Set, tag: u64) -> Option<usize> {
    // No tag has a top bit, so only 0 - 1 has it.
    let has = |way: usize| if way < L::WAYS { (read::<L>(set, 0, way) ^ tag).wrapping_sub(1) } else { 0 };
    let (one, two, three, four) = (has(1), has(2), has(3), has(4));
    let number = (two | three) >> 63 << 1 | (one | three) >> 63 | four >> 63 << 2;
    let number = bounded!(number, "7") as usize;
    (((one | two | three | four | has(0)) as i64) < 0 && number < L::WAYS).then_some(number)
}

const EMPTY: u32 = 0;
/// Fills the table.
const INSERT: u32 = 1;
/// As today: one locked addition.
const LOCKED: u32 = 2;
/// For comparison: a plain addition, now.
const PLAIN: u32 = 3;
/// Stores into the first line's pad now; finds and adds by plain addition eight packets later.
const PUT_OFF: u32 = 4;
/// As `PUT_OFF`, for flows of a filter of 512 KiB.
const PUT_OFF_FILTERED: u32 = 5;
/// As `PUT_OFF`, with a locked addition.
const PUT_OFF_LOCKED: u32 = 6;
/// As `PUT_OFF`, with a store into both lines.
const PUT_OFF_BOTH: u32 = 7;

#[inline(always)]
fn run<L: Layout, const HOW: u32>(context: *mut Context, table: &'static Map) -> u32 {
    let (Some(state), Some(settings)) = (lookup::<State>(&STATE, 0), lookup::<Settings>(&SETTINGS, 0)) else {
        return 0;
    };
    state.seen += 1;
    let verdict = settings.verdict as u32;
    if HOW == EMPTY {
        return verdict;
    }
    let Some(packet) = parse(context) else { return PASS };
    let set = |hash: u64| ((hash >> 32) * settings.sets >> 32) as u32;
    let tag_mask = if L::WIDE { (1 << 62) - 1 } else { (1 << 31) - 1 };
    let mut pending = Pending {
        set: set(packet.hash),
        second: set(packet.hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        tag: packet.hash & tag_mask | 1,
        word: 1 << 40 | packet.bytes,
        direction: packet.direction,
    };
    if HOW == INSERT {
        let done = [pending.set, pending.second].into_iter().any(|set| insert::<L>(table, set, &pending));
        (state.counted, state.lost) = (state.counted + u64::from(done), state.lost + u64::from(!done));
        let bit = packet.hash >> 8 & 0x3f_ffff;
        if let Some(word) = lookup::<u64>(&FILTER, (bit >> 6) as u32) {
            *word |= 1 << (bit & 63);
        }
        return verdict;
    }
    if HOW == PUT_OFF_FILTERED {
        let bit = packet.hash >> 8 & 0x3f_ffff;
        let Some(word) = lookup::<u64>(&FILTER, (bit >> 6) as u32) else { return PASS };
        if *word >> (bit & 63) & 1 == 0 {
            state.lost += 1;
            return verdict;
        }
    }
    if HOW >= PUT_OFF {
        let Some(set) = lookup::<Set>(table, pending.set) else { return PASS };
        for pad in L::PADS.iter().take(if HOW == PUT_OFF_BOTH { 2 } else { 1 }) {
            // SAFETY: aligned and inside the set.
            unsafe { ptr::write_volatile(set.as_mut_ptr().wrapping_add(*pad).cast::<u32>(), 1) };
        }
        let place = bounded!(state.position, "7");
        state.position = place + 1;
        let slot = state.ring.as_mut_ptr().wrapping_add(place as usize);
        // SAFETY: inside the ring.
        pending = unsafe { ptr::replace(slot, pending) };
    }
    if count::<L, HOW>(table, &pending).is_some() {
        state.counted += 1;
    } else {
        state.lost += 1;
    }
    verdict
}

#[inline(always)]
fn count<L: Layout, const HOW: u32>(table: &'static Map, pending: &Pending) -> Option<()> {
    let mut set = lookup::<Set>(table, pending.set)?;
    // SAFETY: aligned and inside the set: the second line, early.
    unsafe { ptr::read_volatile(set.as_ptr().wrapping_add(64).cast::<u64>()) };
    let way = match find::<L>(set, pending.tag) {
        Some(way) => way,
        None => {
            set = lookup::<Set>(table, pending.second)?;
            find::<L>(set, pending.tag)?
        }
    };
    if read::<L>(set, L::STATES, way) & SETTLED != SETTLED {
        return None;
    }
    let counter = counter::<L>(set, way, bounded!(pending.direction, "1"));
    // SAFETY: aligned and inside the set.
    unsafe {
        let before = ptr::read_volatile(counter);
        if (before as i64) < 0 {
            return None;
        }
        if HOW == LOCKED || HOW == PUT_OFF_LOCKED {
            intrinsics::atomic_xadd::<u64, u64, { intrinsics::AtomicOrdering::Relaxed }>(counter, pending.word);
        } else {
            ptr::write_volatile(counter, before + pending.word);
        }
    }
    Some(())
}

#[inline(always)]
fn insert<L: Layout>(table: &'static Map, set: u32, pending: &Pending) -> bool {
    let Some(set) = lookup::<Set>(table, set) else { return false };
    for way in 0..L::WAYS {
        if read::<L>(set, 0, way) == 0 {
            let start = set.as_mut_ptr();
            // SAFETY: aligned and inside the set.
            unsafe {
                if L::WIDE {
                    start.wrapping_add(8 * way).cast::<u64>().write_volatile(pending.tag);
                    start.wrapping_add(L::STATES + 8 * way).cast::<u64>().write_volatile(SETTLED);
                } else {
                    start.wrapping_add(4 * way).cast::<u32>().write_volatile(pending.tag as u32);
                    start.wrapping_add(L::STATES + 4 * way).cast::<u32>().write_volatile(SETTLED as u32);
                }
            }
            return true;
        }
    }
    false
}

macro_rules! programs {
    ($($name:ident: $layout:ty, $how:expr, $table:ident;)*) => { $(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "xdp")]
        extern "C" fn $name(context: *mut Context) -> u32 {
            run::<$layout, { $how }>(context, &$table)
        }
    )* };
}

programs! {
    empty: Wide, EMPTY, WIDE;
    fill_wide: Wide, INSERT, WIDE;
    fill_wide_tight: Wide, INSERT, WIDE_TIGHT;
    fill_small: Small, INSERT, SMALL;
    fill_small_tight: Small, INSERT, SMALL_TIGHT;
    fill_padded: Padded, INSERT, PADDED;
    wide: Wide, LOCKED, WIDE;
    wide_plain: Wide, PLAIN, WIDE;
    wide_tight: Wide, LOCKED, WIDE_TIGHT;
    small: Small, LOCKED, SMALL;
    small_tight: Small, LOCKED, SMALL_TIGHT;
    padded: Padded, LOCKED, PADDED;
    put_off: Padded, PUT_OFF, PADDED;
    put_off_both: Padded, PUT_OFF_BOTH, PADDED;
    put_off_filtered: Padded, PUT_OFF_FILTERED, PADDED;
    put_off_locked: Padded, PUT_OFF_LOCKED, PADDED;
    put_off_small: Small, PUT_OFF, SMALL;
    put_off_tight: Small, PUT_OFF, SMALL_TIGHT;
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
