//! The conventional design that every ratio is taken against, written as well as its kind allows.
//!
//! An LRU hash of full 5-tuples holds the flows, a per-CPU hash by (subscriber, protocol) holds the counts. It looks
//! pools up only on a flow's first packet (LPM trie), reads the coarse clock only, keeps IPv4 keys short in tables of
//! their own (16 and 8 bytes), never copies payload, and looks at the first bytes of a flow's first packets for the
//! BitTorrent handshake alone: far less than what it is compared with. Counts of packets before the verdict stay under
//! `unclassified`.
#![expect(unsafe_code, reason = "pointers into packet memory and map values")]

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::{map, xdp},
    maps::{HashMap, LpmTrie, LruHashMap, PerCpuHashMap, lpm_trie},
    programs::XdpContext,
};

/// Flows of IPv4.
#[map]
static FLOWS_V4: LruHashMap<FlowKey<u32>, Flow<u32>> = LruHashMap::with_max_entries(1 << 20, 0);
/// Flows of IPv6.
#[map]
static FLOWS_V6: LruHashMap<FlowKey<[u64; 2]>, Flow<u64>> = LruHashMap::with_max_entries(1 << 20, 0);
/// Counts of IPv4 subscribers.
#[map]
static TALLIES_V4: PerCpuHashMap<TallyKey<u32>, Tally> = PerCpuHashMap::with_max_entries(1 << 18, 0);
/// Counts of IPv6 subscribers.
#[map]
static TALLIES_V6: PerCpuHashMap<TallyKey<u64>, Tally> = PerCpuHashMap::with_max_entries(1 << 18, 0);
/// IPv4 pools; the value is the length of a subscriber's block.
#[map]
static POOLS_V4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(1024, 1);
/// IPv6 pools.
#[map]
static POOLS_V6: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(1024, 1);

/// A flow's 5-tuple, lower endpoint first, as the wire has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct FlowKey<A> {
    lower: A,
    higher: A,
    lower_port: u16,
    higher_port: u16,
    protocol: u32,
}

/// Record of a flow. `lower` and `higher` are the subscribers' blocks.
#[derive(Clone, Copy)]
#[repr(C)]
struct Flow<B> {
    lower: B,
    higher: B,
    lower_pooled: u8,
    higher_pooled: u8,
    verdict: u8,
    /// Inspected payload packets; [`SETTLED`] when done.
    inspected: u8,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct TallyKey<B> {
    block: B,
    verdict: B,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Tally {
    packets: [u64; 2],
    bytes: [u64; 2],
    flows: u64,
    last_seen_ns: u64,
}

const SETTLED: u8 = 8;
const UNCLASSIFIED: u8 = 0;
const BITTORRENT: u8 = 2;

const ETH_P_IP: u16 = 0x0800u16.to_be();
const ETH_P_IPV6: u16 = 0x86ddu16.to_be();
const ETH_P_8021Q: u16 = 0x8100u16.to_be();
const ETH_P_8021AD: u16 = 0x88a8u16.to_be();
const ETH_P_PPP_SES: u16 = 0x8864u16.to_be();
const PPP_IP: u16 = 0x0021u16.to_be();
const PPP_IPV6: u16 = 0x0057u16.to_be();
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The fields of one packet.
struct Headers<A> {
    source: A,
    destination: A,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    ip_bytes: u64,
    payload: usize,
}

/// A load from packet memory, which takes unaligned loads on the targets the bench runs on.
#[inline(always)]
fn load<T: Copy>(context: &XdpContext, offset: usize) -> Option<T> {
    let start = context.data() + offset;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: the line above tested the bounds.
    Some(unsafe { *(start as *const T) })
}

/// The reference program.
#[xdp(frags)]
pub(crate) fn reference(context: XdpContext) -> u32 {
    let _counted = process(&context);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn process(context: &XdpContext) -> Option<()> {
    let mut ethertype: u16 = load(context, 12)?;
    let mut offset = 14;
    for _ in 0..2 {
        if ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD {
            ethertype = load(context, offset + 2)?;
            offset += 4;
        }
    }
    if ethertype == ETH_P_PPP_SES {
        ethertype = match load::<u16>(context, offset + 6)? {
            PPP_IP => ETH_P_IP,
            PPP_IPV6 => ETH_P_IPV6,
            _ => return None,
        };
        offset += 8;
    }
    match ethertype {
        ETH_P_IP => ipv4(context, offset),
        ETH_P_IPV6 => ipv6(context, offset),
        _ => None,
    }
}

#[inline(always)]
fn transport(context: &XdpContext, protocol: u8, offset: usize) -> Option<(u16, u16, usize)> {
    let header = match protocol {
        TCP => usize::from(load::<u8>(context, offset + 12)? >> 4) * 4,
        UDP => 8,
        _ => return Some((0, 0, 0)),
    };
    Some((load(context, offset)?, load(context, offset + 2)?, offset + header))
}

#[inline(always)]
fn ipv4(context: &XdpContext, offset: usize) -> Option<()> {
    let version: u8 = load(context, offset)?;
    let source: u32 = load(context, offset + 12)?;
    let destination: u32 = load(context, offset + 16)?;
    if version >> 4 != 4 || version & 15 < 5 {
        return None;
    }
    let fragment = u16::from_be(load(context, offset + 6)?);
    if fragment & 0x1fff != 0 {
        return None;
    }
    let protocol = load(context, offset + 9)?;
    let (source_port, destination_port, payload) =
        transport(context, protocol, offset + usize::from(version & 15) * 4)?;
    let ip_bytes = u64::from(u16::from_be(load(context, offset + 2)?));
    let headers = Headers { source, destination, source_port, destination_port, protocol, ip_bytes, payload };
    let lower_first = (u32::from_be(source), source_port) <= (u32::from_be(destination), destination_port);
    count(context, &headers, lower_first, &FLOWS_V4, &TALLIES_V4, |address| {
        let bits = *POOLS_V4.get(lpm_trie::Key::new(32, address))?;
        Some(u32::from_be(address) & u32::MAX.wrapping_shl(32 - bits))
    })
}

#[inline(always)]
fn ipv6(context: &XdpContext, offset: usize) -> Option<()> {
    let version: u8 = load(context, offset)?;
    let source: [u64; 2] = load(context, offset + 8)?;
    let destination: [u64; 2] = load(context, offset + 24)?;
    if version >> 4 != 6 {
        return None;
    }
    let protocol = load(context, offset + 6)?;
    let (source_port, destination_port, payload) = transport(context, protocol, offset + 40)?;
    let ip_bytes = 40 + u64::from(u16::from_be(load(context, offset + 4)?));
    let headers = Headers { source, destination, source_port, destination_port, protocol, ip_bytes, payload };
    let lower_first = (source[0], source[1], source_port) <= (destination[0], destination[1], destination_port);
    count(context, &headers, lower_first, &FLOWS_V6, &TALLIES_V6, |address| {
        // Prefix length in the upper half of the first word, so that the stores on the stack are aligned, as the
        // verifier wants them.
        let words = [128 << 32, address[0], address[1]];
        // SAFETY: the key is packed, 20 bytes, and the words hold 20 bytes from byte 4 on.
        let key = unsafe { &*words.as_ptr().cast::<u8>().add(4).cast::<lpm_trie::Key<[u64; 2]>>() };
        let bits = *POOLS_V6.get(key)?;
        Some(u64::from_be(address[0]) & u64::MAX.wrapping_shl(64 - bits))
    })
}

#[inline(always)]
fn count<A: Copy, B: Copy + Default + From<u8>>(
    context: &XdpContext,
    headers: &Headers<A>,
    lower_first: bool,
    flows: &LruHashMap<FlowKey<A>, Flow<B>>,
    tallies: &PerCpuHashMap<TallyKey<B>, Tally>,
    block: impl Fn(A) -> Option<B>,
) -> Option<()> {
    let (lower, higher, lower_port, higher_port) = if lower_first {
        (headers.source, headers.destination, headers.source_port, headers.destination_port)
    } else {
        (headers.destination, headers.source, headers.destination_port, headers.source_port)
    };
    let key = FlowKey { lower, higher, lower_port, higher_port, protocol: u32::from(headers.protocol) };
    let mut new = 0;
    let flow = match flows.get_ptr_mut(key) {
        Some(flow) => flow,
        None => {
            new = 1;
            let (lower, higher) = (block(lower), block(higher));
            if lower.is_none() && higher.is_none() {
                return None;
            }
            let flow = Flow {
                lower: lower.unwrap_or_default(),
                higher: higher.unwrap_or_default(),
                lower_pooled: u8::from(lower.is_some()),
                higher_pooled: u8::from(higher.is_some()),
                verdict: UNCLASSIFIED,
                inspected: 0,
                reserved: 0,
            };
            flows.insert(key, flow, 0).ok()?;
            flows.get_ptr_mut(key)?
        }
    };
    // SAFETY: the kernel keeps the element readable until the program ends; racing writers at worst repeat an
    // inspection.
    let flow = unsafe { &mut *flow };
    if flow.inspected < SETTLED {
        inspect(context, headers.payload, flow);
    }
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    if flow.lower_pooled == 1 {
        add(tallies, flow.lower, flow.verdict, !lower_first, headers.ip_bytes, new, now_ns);
    }
    if flow.higher_pooled == 1 {
        add(tallies, flow.higher, flow.verdict, lower_first, headers.ip_bytes, new, now_ns);
    }
    Some(())
}

/// Looks at the first bytes of a payload: the handshake of BEP 3, or a TLS record, which ends the search.
#[inline(always)]
fn inspect<B>(context: &XdpContext, payload: usize, flow: &mut Flow<B>) {
    if payload == 0 || payload > 255 {
        flow.inspected = SETTLED;
        return;
    }
    let Some(first) = load::<[u32; 5]>(context, payload) else { return };
    flow.inspected += 1;
    let handshake: [u32; 5] = [
        u32::from_le_bytes(*b"\x13Bit"),
        u32::from_le_bytes(*b"Torr"),
        u32::from_le_bytes(*b"ent "),
        u32::from_le_bytes(*b"prot"),
        u32::from_le_bytes(*b"ocol"),
    ];
    if first[0] == handshake[0]
        && first[1] == handshake[1]
        && first[2] == handshake[2]
        && first[3] == handshake[3]
        && first[4] == handshake[4]
    {
        flow.verdict = BITTORRENT;
        flow.inspected = SETTLED;
    } else if first[0] & 0xffff == 0x0316 {
        flow.inspected = SETTLED;
    }
}

#[inline(always)]
fn add<B: Copy + From<u8>>(
    tallies: &PerCpuHashMap<TallyKey<B>, Tally>,
    block: B,
    verdict: u8,
    down: bool,
    ip_bytes: u64,
    new: u64,
    now_ns: u64,
) {
    let key = TallyKey { block, verdict: verdict.into() };
    let tally = match tallies.get_ptr_mut(key) {
        Some(tally) => tally,
        None => {
            let empty = Tally { packets: [0; 2], bytes: [0; 2], flows: 0, last_seen_ns: 0 };
            if tallies.insert(key, empty, 0).is_err() {
                return;
            }
            match tallies.get_ptr_mut(key) {
                Some(tally) => tally,
                None => return,
            }
        }
    };
    // SAFETY: a per-CPU element is this CPU's own while the program runs.
    let tally = unsafe { &mut *tally };
    let direction = usize::from(down) & 1;
    tally.packets[direction] += 1;
    tally.bytes[direction] += ip_bytes;
    tally.flows += new;
    tally.last_seen_ns = now_ns;
}

/// Tallies as a conventional agent drains them: in a hash, as many as the shipped program has in an array. No program
/// uses it.
#[map]
static DRAINED: HashMap<[u64; 3], [u64; 6]> = HashMap::with_max_entries(1, 0);
