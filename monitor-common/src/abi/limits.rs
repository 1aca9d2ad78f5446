//! Every capacity, bound and window of the data path, in one place.
//!
//! A bound here is a promise to the kernel's verifier and to the operator: loops, tables and inspected bytes are all
//! limited by a constant of this file.

/// Layout version of all pinned and mapped data; part of the pin path. Bump it with any change of a shared type, of a
/// map's name or of the meaning of a bit: a program of an older version counts into its pinned maps as long as an
/// interface keeps it.
pub const SCHEMA_VERSION: u32 = 12;

/// VLAN tags that are parsed (IEEE 802.1ad: one service tag and one customer tag).
pub const MAX_VLAN_TAGS: u32 = 2;
/// MPLS labels that are parsed (RFC 3032); deeper stacks are a counted reason.
pub const MAX_MPLS_LABELS: u32 = 4;
/// IPv6 extension headers that are parsed (RFC 8200 section 4.1 names six kinds, each at most once or twice). More
/// would hide a payload.
pub const MAX_IPV6_EXTENSIONS: u32 = 10;
/// GTP-U extension headers that are stepped over (3GPP TS 29.281 section 5.2; a 5G user plane sends one or two).
pub const MAX_GTPU_EXTENSIONS: usize = 8;
/// No header may start beyond this offset of a frame, in bytes; keeps packet offsets small for the verifier.
pub const MAX_HEADER_OFFSET: usize = 1023;

/// No single read of a header may start beyond this offset, in bytes: header start plus the longest header.
pub const MAX_READ_OFFSET: usize = MAX_HEADER_OFFSET + 64;
/// No offset that the parser computes reaches this: the longest step, an IPv6 extension header of 2,056 bytes, starts
/// at most at [`MAX_HEADER_OFFSET`]. Power of two, so that a mask states the bound.
pub const OFFSET_BOUND: usize = 4096;

const _: () = assert!(MAX_HEADER_OFFSET + 257 * 8 < OFFSET_BOUND);

/// Bytes of a payload that may be inspected (an HTTP tracker announce shows `info_hash=` within about 300). Power of
/// two.
pub const WINDOW: usize = 512;
/// Bytes inspected of a payload whose first byte starts no rule: enough for the rules for any first byte. The longest
/// is OpenNap's, 164 bytes.
pub const SHALLOW: usize = 192;
/// Bytes kept from the end of a payload, for signatures with a fixed tail.
pub const TAIL: usize = 8;
/// Payload packets inspected per direction of a flow; nearly all P2P flows are recognised by the first few.
pub const INSPECTED_PER_DIRECTION: u8 = 8;

/// Bytes held of a stream's first segments until the next segment of that direction. The rule with the furthest last
/// byte is WebTorrent's: 106 bytes into the frame of a real client.
pub const HELD_BYTES: usize = 112;
/// Held bytes expire after this time, in seconds: a sender may wait for an acknowledgement, including retransmissions.
pub const HOLD_SECONDS: u16 = 5;
/// Reassembly slots of 128 bytes, one for a TCP direction; a power of two. A slot is in use for one round trip, and few
/// streams start with a short segment that may be part of a signature.
pub const REASSEMBLY_SLOTS: u32 = 1 << 12;
/// Reassembly slots that a CPU looks at when its clock has moved, to zero those that have expired: one cache line each.
pub const SWEPT_SLOTS: u32 = 8;

/// Packets of a direction after which the inspection of its flow no longer waits for its payloads, if the other
/// direction has used up its budget or sent nothing at all.
pub const PENDING_PACKETS: u64 = 64;
/// Packets of a direction after which inspection ends, if they are without payload or that direction has used up its
/// budget, whatever the other direction sends: a download must leave the slow path.
pub const PENDING_PACKETS_MAX: u64 = 256;
/// Segments and datagrams of a direction that cost no budget: junk, out of order, or cut into fragments. With the last
/// of them the direction has used up its budget.
pub const JUNK_PER_DIRECTION: u32 = 64;
/// Largest distance in bytes of a segment, or of an acknowledgement, from where a stream goes on. No receiver has so
/// large a window in the first round trips.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes of the shortest message of any rule for UDP (eMule's, an opcode after a header byte).
pub const SHORTEST_DATAGRAM: u32 = 2;
/// A packet of a stream may have taken so many hops more than its SYN. One that is to die behind this router, and in
/// front of the receiver, takes many more.
pub const HOP_SLACK: u8 = 8;
/// A flow under inspection without packets for this long, in seconds, ends as unclassified at the next drain.
pub const PENDING_IDLE_SECONDS: u16 = 15;

/// Packets of a flow that nobody has answered are pending for this long after its first one, in seconds. Then they
/// count for the interface, and stay there.
pub const ANSWER_SECONDS: u16 = 15;
/// Seconds more until the agent counts them so: two CPUs' clocks may differ, and no counter may go down.
pub const ANSWER_GRACE_SECONDS: u16 = 2;
/// Changes of direction, the first packet included, that answer a flow without a value that one side could repeat:
/// three packets each way that alternate. A blind sender cannot see when the other side's turn has come.
pub const ANSWER_TURNS: u64 = 6;
/// Largest distance in bytes of an acknowledgement from the first sequence number seen of the other side. A blind
/// sender hits so small a part of the sequence numbers with one guess of 256.
pub const ACKNOWLEDGED_BYTES: u32 = 1 << 24;

/// Flows in one set of the flow table: their tags and states fill exactly one 64-byte cache line.
pub const WAYS: usize = 4;
/// A flow without packets for this long, in seconds, may be evicted whatever its verdict.
pub const IDLE_SECONDS: u16 = 60;
/// A flow with packets in the last seconds is never evicted: a CPU may be about to add to its counter, and that packet
/// must not count for another flow. New flows of a set that is full of such flows are refused.
pub const FRESH_SECONDS: u16 = 2;
/// Largest difference between the clocks of two CPUs, in seconds: a time so little ahead is no great age.
pub const CLOCK_SKEW_SECONDS: u16 = 16;
/// Packets in a flow counter at which it is flushed into its tally: half of what 24 bits hold, so that adders on many
/// CPUs cannot overflow it meanwhile. 2^23 packets of at most [`STATED_BYTES_MAX`] are half of 2^40 bytes.
pub const FLUSH_PACKETS: u64 = 1 << 23;
/// Most IP bytes of a packet whose header states its length: an IPv6 header of 40 bytes, and 16 bits of payload.
/// Merged packets have more, and state none (BIG TCP, up to 512 KiB: `GSO_MAX_SIZE` of include/linux/netdevice.h).
pub const STATED_BYTES_MAX: u32 = 40 + 65_535;
/// Bytes in a flow counter at which a merged packet has it flushed before it is added. Together with what
/// [`FLUSH_PACKETS`] ordinary packets add, and a merged packet of 2^32 bytes on each of many CPUs, that is below 2^40.
pub const FLUSH_BYTES: u64 = 1 << 38;

/// Credit that a CPU's bucket of the slow path holds, in nanoseconds. Half of it is reserved; the other half must be
/// longer than the kernel's longest tick, 10 ms (`CONFIG_HZ=100`), by which the bucket is refilled.
pub const SHED_BUCKET_NS: u64 = 100_000_000;
/// Ways for each new flow that shedding allows in a second, by all CPUs together. A new flow keeps its way for at least
/// [`FRESH_SECONDS`], so a flood that lasts protects half of the ways from eviction, and its begin a quarter more.
pub const SHED_WAYS: u64 = 4;
/// Credit that the bucket of new flows of all CPUs holds, in nanoseconds. Half of it is reserved.
pub const SHED_OPENINGS_NS: u64 = 1_000_000_000;
/// New flows that a CPU takes from that bucket at a time, so that CPUs seldom write one cache line.
pub const SHED_BATCH: u32 = 32;

const _: () = assert!(SHED_WAYS == 2 * FRESH_SECONDS as u64);

/// Default number of flows in the flow table.
pub const DEFAULT_FLOWS: u32 = 1 << 19;
/// Default number of tallies, one per subscriber block, protocol and confidence.
pub const DEFAULT_TALLIES: u32 = 1 << 18;
/// Share of the tallies, in quarters, that traffic without a P2P verdict may take. A scan of every address of a pool
/// makes a tally for each; the rest is kept for verdicts.
pub const UNCLASSIFIED_QUARTERS: u64 = 3;
/// Address pools that can be configured. IPv4 may be cut out of them, which takes an entry more.
pub const MAX_POOLS: u32 = 1024;
/// Prefixes of tunnel endpoints that can be configured; as for pools, one entry more.
pub const MAX_TUNNEL_ENDPOINTS: u32 = 1024;
/// Prefixes that all access interfaces and VLANs together may allow; as for pools, each set of them may take one entry
/// more.
pub const MAX_ALLOWED_PREFIXES: u32 = 1024;
/// Interface numbers of the node counters.
pub const MAX_INTERFACES: usize = 32;
/// VLANs of a tag, those that no frame may have included (IEEE 802.1Q).
pub const VLAN_IDS: usize = 1 << 12;
/// VLANs, or ranges of them, that can have an entry of their own.
pub const MAX_VLAN_ENTRIES: u32 = 1024;
/// Tables of VLANs: one for the outer VLANs of each interface, the others for inner VLANs.
pub const VLAN_TABLES: usize = 128;
/// The first table of inner VLANs.
pub const FIRST_INNER_TABLE: usize = MAX_INTERFACES;
/// Tables of inner VLANs. Outer VLANs with the same inner ones share one.
pub const MAX_INNER_TABLES: usize = VLAN_TABLES - FIRST_INNER_TABLE;
/// Interfaces that can be monitored at a time. All other interfaces share the last number.
pub const MAX_MONITORED_INTERFACES: usize = MAX_INTERFACES - 1;

/// Default number of entries of the peer cache, 16 bytes each.
pub const DEFAULT_PEERS: u32 = 1 << 18;
/// A learned peer expires after this long without a certain flow, in seconds: trackers ask for an announce every 30
/// minutes (opentracker's default interval), and one may be late.
pub const PEER_SECONDS: u16 = 2_400;
/// A flow that ended as unclassified is compared with the peer cache again in every period of this many seconds in
/// which it has packets. Power of two.
pub const ASSOCIATION_SECONDS: u64 = 8;

/// Packets of a direction of a server flow that are inspected in each such period: requests and answers come in bursts
/// of about ten segments.
pub const SERVER_FLOW_PACKETS: u8 = 32;
/// Peers that are learned from one packet, including skipped messages. Each costs the verifier instructions. Later
/// answers of a tracker add more peers.
pub const PEERS_PER_PACKET: u32 = 16;

/// Tallies that one subscriber block can have: each verdict that a rule gives, unclassified and fragments.
pub const TALLIES_PER_BLOCK: usize = 48;
/// One subscriber may teach remote endpoints for this part of the peer cache, for one protocol in a period.
pub const REMOTE_ENDPOINTS_PART: u64 = 64;
/// Remote endpoints that it may teach in a small cache.
pub const REMOTE_ENDPOINTS_LEAST: u64 = 16;
/// One subscriber may teach endpoints of its own for this part of the peer cache. They outlive remote ones, and a
/// subscriber has few.
pub const OWN_ENDPOINTS_PART: u64 = 8_192;
/// Endpoints of its own that it may teach in a small cache.
pub const OWN_ENDPOINTS_LEAST: u64 = 8;
/// A period of these shares has `1 << SHARE_PERIOD_BITS` seconds, which is less than [`PEER_SECONDS`].
pub const SHARE_PERIOD_BITS: u32 = 11;

/// Remote endpoints that the heuristic tier can distinguish: they are hashed into the bits of half a word.
pub const MSE_CANDIDATE_BUCKETS: u32 = 32;
/// Shortest and longest first payload of either side of an MSE connection, in bytes: 96 bytes of key and up to 512 of
/// padding.
pub const MSE_OPENING: core::ops::RangeInclusive<u32> = 96..=608;
/// Peers listen on ports from here on; below are the system ports (RFC 6335 section 6), which belong to services.
pub const FIRST_PEER_PORT: u16 = 1024;

/// Maximum number of tallies of watchlist hits, by subscriber block, protocol and confidence.
pub const WATCH_TALLIES_MAX: u32 = 1 << 16;
/// Room for watchlist hits between two drains, in bytes: 16,384 hits of 56 bytes and the buffer's own 8 each. Power of
/// two.
pub const WATCH_BUFFER_BYTES: u32 = 1 << 20;
/// Default room for verdict records between two drains, in bytes: 13,107 records of 72 bytes and the buffer's own 8
/// each. Power of two.
pub const DEFAULT_RECORD_BUFFER_BYTES: u32 = 1 << 20;
