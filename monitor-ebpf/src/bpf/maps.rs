//! The BPF maps, and the shared code's view of them.
//!
//! Array maps are memory-mapped by the agent (`BPF_F_MMAPABLE`): draining a million tallies takes no system call.
//! Capacities here are the smallest that load; the agent sets the real ones.
#![expect(unsafe_code, reason = "pointers into map values, and kernel functions")]

use core::{arch::asm, ops::DerefMut};

use super::log;
use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf, lpm_trie::Key},
    programs::XdpContext,
};
use monitor_common::{
    abi::{
        event::{EVENT_SLOTS, KernelEvent},
        interface::{INTERFACE_ENTRIES, InterfaceEntry},
        key::Address,
        limits::{
            self, MAX_ALLOWED_PREFIXES, MAX_INTERFACES, MAX_POOLS, MAX_TUNNEL_ENDPOINTS, MAX_VLAN_ENTRIES,
            WATCH_BUFFER_BYTES, WATCH_TALLIES_MAX,
        },
        outcome::PacketOutcome,
        reason::{REASON_SLOTS, Reason},
        record::VerdictRecord,
        rule::RULE_SLOTS,
        settings::Settings,
        spoofing::{IN_SET, SPOOFED_ENTRIES, SpoofReason, spoofed_index},
        stage::StageProgram,
        tally::{KeyWords, NODE_ENTRIES_PER_INTERFACE, NodeTally, SlotKey, Tally},
        watch::{ContentHash, WatchHit},
    },
    bpf::shared_u64::SharedU64,
    tables::{
        context::{CpuClock, Scratch},
        flow_table::{ColdSet, FlowSet},
        maps::{CounterMaps, Maps},
        peer_cache::PeerSet,
        pool_table,
        reassembly::ReassemblySlot,
        tally_cache::TallyLine,
        token_bucket::PacketTally,
        vlan_table,
    },
};

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static FLOWS: Array<FlowSet> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static COLD_FLOWS: Array<ColdSet> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static PEERS: Array<PeerSet> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// First bytes of TCP directions, held for the next segment.
#[map]
static REASSEMBLY: Array<ReassemblySlot> = Array::with_max_entries(limits::REASSEMBLY_SLOTS, BPF_F_MMAPABLE);
#[map]
static TALLIES: Array<Tally> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TALLY_KEYS: Array<SlotKey> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TALLY_SLOTS: HashMap<KeyWords, u64> = HashMap::with_max_entries(1, 0);
/// Caches slots of `TALLY_SLOTS`.
#[map]
static TALLY_CACHE: Array<TallyLine> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Ring of free slots.
#[map]
static FREE_SLOTS: Array<SharedU64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static NODE: Array<NodeTally> =
    Array::with_max_entries((MAX_INTERFACES * NODE_ENTRIES_PER_INTERFACE) as u32, BPF_F_MMAPABLE);
/// Which entry of `VLAN_ENTRIES` a tagged frame has ([`vlan_table`]).
#[map]
static VLANS: Array<SharedU64> = Array::with_max_entries(vlan_table::WORDS as u32, BPF_F_MMAPABLE);
/// Entries of VLANs, by their numbers from 1 on.
#[map]
static VLAN_ENTRIES: Array<SharedU64> = Array::with_max_entries(MAX_VLAN_ENTRIES + 1, BPF_F_MMAPABLE);
#[map]
static INTERFACES: Array<SharedU64> = Array::with_max_entries(INTERFACE_ENTRIES, BPF_F_MMAPABLE);
/// As [`TUNNEL_ENDS`], it holds the old and the new prefixes while the agent writes it.
#[map]
static POOLS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(2 * (MAX_POOLS + 1), 0);
/// Answers most lookups in front of `POOLS`.
#[map]
static POOL_TABLE: Array<SharedU64> = Array::with_max_entries(pool_table::WORDS as u32, BPF_F_MMAPABLE);
/// Prefixes of tunnel endpoints that the operator named. While the agent writes it, it holds the old and the new ones.
#[map]
static TUNNEL_ENDS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(2 * (MAX_TUNNEL_ENDPOINTS + 1), 0);
#[map]
static SKIPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_SLOTS as u32, 0);
#[map]
static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(EVENT_SLOTS as u32, 0);
/// Flows by the number of the rule that labelled them.
#[map]
static RULE_VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(RULE_SLOTS as u32, 0);
/// Packets and bytes that were shed, by interface number.
#[map]
static SHED: PerCpuArray<PacketTally> = PerCpuArray::with_max_entries(MAX_INTERFACES as u32, 0);
/// Packets and bytes in the name of a subscriber who is not there, by [`spoofed_index`].
#[map]
static SPOOFED: PerCpuArray<PacketTally> = PerCpuArray::with_max_entries(SPOOFED_ENTRIES as u32, 0);
/// Sets of prefixes, each by its number in front of the address ([`monitor_common::abi::spoofing`]). While the agent
/// writes it, it holds the old and the new ones.
#[map]
static PREFIX_SETS: LpmTrie<[u8; 20], u32> =
    LpmTrie::with_max_entries(2 * (MAX_POOLS + 1 + 2 * MAX_ALLOWED_PREFIXES), 0);
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// Content hashes of the operator's list, with their numbers.
#[map]
static WATCHLIST: HashMap<ContentHash, u32> = HashMap::with_max_entries(1, 0);
/// Watchlist hits by subscriber block, protocol and confidence.
#[map]
static WATCH_TALLIES: HashMap<KeyWords, u64> = HashMap::with_max_entries(WATCH_TALLIES_MAX, 0);
/// Watchlist hits, as messages to the agent.
#[map]
static WATCH_HITS: RingBuf = RingBuf::with_byte_size(WATCH_BUFFER_BYTES, 0);
/// Verdict records, as messages to the agent. Pinned, so that records wait for the next agent.
#[map]
static VERDICT_RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);
/// Entry 0: wire length of the frame being replayed; entry 1: the packet's outcome.
#[map]
static REPLAY: Array<SharedU64> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// The programs behind the entry, by the numbers of [`StageProgram`].
#[map]
static STAGES: ProgramArray = ProgramArray::with_max_entries(StageProgram::ALL.len() as u32, 0);

/// 1 in a program that replays captures through the test runner; else 0, and the verifier removes the replay code.
#[unsafe(no_mangle)]
static REPLAYING: Global<u8> = Global::new(0);

/// Bytes of unread verdict records at which the agent is woken. 0 if it wants none; then the verifier removes the code.
#[unsafe(no_mangle)]
static RECORDS_WAKE_BYTES: Global<u32> = Global::new(0);

/// The settings. The entry exists as soon as the map does.
#[inline(always)]
pub(super) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Continues with the stage of this number. Returns only if the kernel cannot call it.
///
/// By hand, so that each call keeps a constant index in front of it: the compiler would merge the calls of several
/// stages into one with a variable index, for which the kernel's JIT compilers have no direct jump
/// (`bpf_arch_poke_desc_update` in the kernel's `arch/`).
#[inline(always)]
pub(super) fn tail_call<const STAGE: u32>(context: &XdpContext) {
    // SAFETY: the helper `bpf_tail_call` with the context, a map of programs and an index; it clobbers the registers of
    // a call.
    unsafe {
        asm!(
            "r3 = {stage}",
            "call 12",
            stage = const STAGE,
            inlateout("r1") context.ctx => _,
            inlateout("r2") &raw const STAGES => _,
            lateout("r0") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
}

/// Wire length of a replayed frame; `None` in a program that is attached.
#[inline(always)]
pub(super) fn replayed_wire_len() -> Option<usize> {
    if REPLAYING.load() == 0 {
        return None;
    }
    REPLAY.get(0).map(|word| word.load() as usize)
}

/// Adds 1 to a counter of this CPU; returns the new value.
#[inline(always)]
fn increment(counters: &PerCpuArray<u64>, index: u32) -> Option<u64> {
    let counter = counters.get_ptr_mut(index)?;
    // SAFETY: a per-CPU value; nothing else writes it while this program runs on the CPU.
    unsafe {
        *counter += 1;
        Some(*counter)
    }
}

/// Counts a packet on this CPU.
#[inline(always)]
fn count_apart(tallies: &PerCpuArray<PacketTally>, index: u32, ip_bytes: u64) {
    match tallies.get_ptr_mut(index) {
        // SAFETY: a per-CPU value; nothing else writes it while this program runs on the CPU.
        Some(tally) => unsafe {
            (*tally).packets += 1;
            (*tally).bytes += ip_bytes;
        },
        None => BpfMaps.count_event(KernelEvent::InternalError),
    }
}

/// A trie key with an aligned address: the verifier demands aligned 64-bit stores to the stack.
#[repr(C)]
struct PaddedKey {
    padding: u32,
    prefix_len: u32,
    high: u64,
    low: u64,
}

/// A key of `PREFIX_SETS` with an aligned address.
#[repr(C)]
struct SetKey {
    prefix_len: u32,
    set: u32,
    high: u64,
    low: u64,
}

/// The value of the longest prefix that holds an address.
#[inline(always)]
fn longest_prefix(trie: &LpmTrie<[u8; 16], u32>, address: Address) -> Option<u32> {
    let key = PaddedKey { padding: 0, prefix_len: 128, high: address.high.to_be(), low: address.low.to_be() };
    // SAFETY: from `prefix_len` on, the bytes are those of `Key<[u8; 16]>`, which needs no alignment.
    let key = unsafe { &*core::ptr::from_ref(&key).cast::<u8>().add(4).cast::<Key<[u8; 16]>>() };
    trie.get(key).copied()
}

/// The kernel's maps behind the engine's traits.
pub(super) struct BpfMaps;

impl CounterMaps for BpfMaps {
    #[inline(always)]
    fn tally(&self, slot: u32) -> Option<&Tally> {
        TALLIES.get(slot)
    }

    #[inline(always)]
    fn node(&self, index: u32) -> Option<&NodeTally> {
        NODE.get(index)
    }

    #[inline(always)]
    fn count_event(&self, event: KernelEvent) {
        let logged = matches!(
            event,
            KernelEvent::FlowRefused
                | KernelEvent::TallyRefused
                | KernelEvent::TallyRaced
                | KernelEvent::InternalError
                | KernelEvent::StageMissing
        );
        if let Some(count) = increment(&EVENTS, event as u32)
            && logged
        {
            log::peertally_rare(event as u32, count);
        }
    }
}

impl Maps for BpfMaps {
    #[inline(always)]
    fn flow_set(&self, index: u32) -> Option<&FlowSet> {
        FLOWS.get(index)
    }

    #[inline(always)]
    fn cold_set(&self, index: u32) -> Option<&ColdSet> {
        COLD_FLOWS.get(index)
    }

    #[inline(always)]
    fn prefetch_cold_set(&self, index: u32) {
        if let Some(set) = COLD_FLOWS.get(index) {
            // One load from each of its lines. Nothing waits for them: the processor goes on until it needs them.
            let _first = set.flows[0].progress.load();
            let _second = set.flows[1].progress.load();
            let _third = set.flows[2].progress.load();
            let _fourth = set.flows[3].progress.load();
        }
    }

    #[inline(always)]
    fn peer_set(&self, index: u32) -> Option<&PeerSet> {
        PEERS.get(index)
    }

    #[inline(always)]
    fn reassembly_slot(&self, index: u32) -> Option<&ReassemblySlot> {
        REASSEMBLY.get(index)
    }

    #[inline(always)]
    fn interface(&self, index: u16) -> Option<InterfaceEntry> {
        INTERFACES.get(u32::from(index)).map(|entry| InterfaceEntry(entry.load()))
    }

    #[inline(always)]
    fn vlan_word(&self, index: u32) -> Option<u64> {
        VLANS.get(index).map(SharedU64::load)
    }

    #[inline(always)]
    fn vlan_entry(&self, number: u32) -> Option<InterfaceEntry> {
        VLAN_ENTRIES.get(number).map(|entry| InterfaceEntry(entry.load()))
    }

    #[inline(always)]
    fn pool_word(&self, index: u32) -> Option<u64> {
        POOL_TABLE.get(index).map(SharedU64::load)
    }

    #[inline(always)]
    fn pool(&self, address: Address) -> Option<u8> {
        longest_prefix(&POOLS, address).map(|block_len| block_len as u8)
    }

    #[inline(always)]
    fn is_tunnel_endpoint(&self, address: Address) -> bool {
        longest_prefix(&TUNNEL_ENDS, address).is_some_and(|value| value != 0)
    }

    #[inline(always)]
    fn tally_line(&self, index: u32) -> Option<&TallyLine> {
        TALLY_CACHE.get(index)
    }

    #[inline(always)]
    fn prefetch_tally_line(&self, index: u32) {
        if let Some(line) = TALLY_CACHE.get(index) {
            line.touch();
        }
    }

    #[inline(always)]
    fn find_slot(&self, key: &KeyWords) -> Option<u64> {
        // SAFETY: the value is read in one load. Its memory may go to another key meanwhile, which its check tells.
        unsafe { TALLY_SLOTS.get(key) }.copied()
    }

    #[inline(always)]
    fn enter_slot(&self, key: &KeyWords, checked_slot: u64) -> bool {
        TALLY_SLOTS.insert(key, checked_slot, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn free_slot(&self, index: u32) -> Option<u64> {
        FREE_SLOTS.get(index).map(SharedU64::load)
    }

    #[inline(always)]
    fn slot_key(&self, slot: u32) -> Option<&SlotKey> {
        TALLY_KEYS.get(slot)
    }

    #[inline(always)]
    fn count_rule(&self, rule: u32) {
        increment(&RULE_VERDICTS, rule);
    }

    #[inline(always)]
    fn count_skip(&self, reason: Reason) {
        increment(&SKIPS, reason as u32);
    }

    #[inline(always)]
    fn count_shed(&self, interface: InterfaceEntry, ip_bytes: u64) {
        count_apart(&SHED, interface.shared_number(), ip_bytes);
    }

    #[inline(always)]
    fn set_holds(&self, set: u32, address: Address) -> bool {
        let (high, low) = (address.high.to_be(), address.low.to_be());
        let key = SetKey { prefix_len: 32 + 128, set: set.to_be(), high, low };
        // SAFETY: the bytes are those of `Key<[u8; 20]>`, which needs no alignment.
        let key = unsafe { &*core::ptr::from_ref(&key).cast::<Key<[u8; 20]>>() };
        PREFIX_SETS.get(key) == Some(&IN_SET)
    }

    #[inline(always)]
    fn count_spoofed(&self, reason: SpoofReason, interface: InterfaceEntry, ip_bytes: u64) {
        count_apart(&SPOOFED, spoofed_index(reason, interface.shared_number()), ip_bytes);
    }

    #[inline(always)]
    fn now_s(&self, settings: &Settings, clock: &mut CpuClock) -> u64 {
        let second = settings.clock_s.load();
        if REPLAYING.load() != 0 {
            clock.ns = second * 1_000_000_000;
            return second;
        }
        // The coarse time moves with the kernel's ticks only, and reading the tick count takes no call.
        // SAFETY: a helper without arguments.
        let tick = unsafe { bpf_jiffies64() };
        if tick == clock.tick {
            return second;
        }
        // SAFETY: a helper without arguments.
        *clock = CpuClock { tick, ns: unsafe { bpf_ktime_get_coarse_ns() } };
        let now = clock.ns / 1_000_000_000;
        if now != second {
            settings.clock_s.store(now);
        }
        now
    }

    #[inline(always)]
    fn now_ns(&self, settings: &Settings) -> u64 {
        if REPLAYING.load() != 0 {
            return settings.clock_s.load() * 1_000_000_000;
        }
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn watched(&self, content: &ContentHash) -> Option<u32> {
        // SAFETY: only the agent writes this map; a number is read in one load.
        unsafe { WATCHLIST.get(content) }.copied()
    }

    #[inline(always)]
    fn count_hit(&self, key: &KeyWords) -> bool {
        let counter = match WATCH_TALLIES.get_ptr(key) {
            Some(counter) => counter,
            None => {
                // Another CPU may be first; the counter is there then.
                let _raced = WATCH_TALLIES.insert(key, 0, u64::from(BPF_NOEXIST));
                match WATCH_TALLIES.get_ptr(key) {
                    Some(counter) => counter,
                    None => return false,
                }
            }
        };
        // SAFETY: a map value of eight bytes, aligned, that the program accesses atomically and the agent only reads.
        unsafe { &*counter.cast::<SharedU64>() }.add(1);
        true
    }

    #[inline(always)]
    fn report_hit(&self, hit: &WatchHit) -> bool {
        WATCH_HITS.output::<WatchHit>(hit, 0).is_ok()
    }

    #[inline(always)]
    fn records(&self) -> bool {
        RECORDS_WAKE_BYTES.load() != 0
    }

    #[inline(always)]
    fn report_record(&self, record: &VerdictRecord) -> bool {
        // Each drain reads the records. Waking the agent for each would cost more than the record.
        let waiting = VERDICT_RECORDS.query(u64::from(BPF_RB_AVAIL_DATA));
        let wakes = waiting >= u64::from(RECORDS_WAKE_BYTES.load());
        let flags = if wakes { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
        VERDICT_RECORDS.output::<VerdictRecord>(record, u64::from(flags)).is_ok()
    }

    #[inline(always)]
    fn scratch(&self) -> Option<impl DerefMut<Target = Scratch>> {
        // SAFETY: per-CPU scratch; XDP programs are not re-entered on a CPU, and each stage borrows it once.
        SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    fn report_outcome(&self, outcome: PacketOutcome) {
        if REPLAYING.load() == 0 {
            return;
        }
        if let Some(word) = REPLAY.get(1) {
            word.store(outcome.0);
        }
    }
}
