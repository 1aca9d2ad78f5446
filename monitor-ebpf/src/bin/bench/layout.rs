//! Shared by the benchmark object and `cargo xtask bench`: the generator's record in the map `GENERATOR`, one per CPU.

/// Parameters and state of the packet generator of one CPU.
///
/// Flow `i` always gets one 5-tuple: subscriber, remote address and port come from a hash of `i + salt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Generator {
    /// State of the xorshift generator; never zero.
    pub(crate) random: u64,
    /// Packets made so far; in sequential order this is the next flow.
    pub(crate) made: u64,
    /// Number of flows less one; the number is a power of two.
    pub(crate) flow_mask: u64,
    /// Number of subscribers less one; the number is a power of two.
    pub(crate) subscriber_mask: u32,
    /// Number of pools less one; the number is a power of two, at most 64.
    pub(crate) pool_mask: u32,
    /// Bits of `pool_mask`.
    pub(crate) pool_bits: u32,
    /// Order of flows: [`SEQUENTIAL`], [`RANDOM`], [`TRAINS`] or [`SKEWED`].
    pub(crate) order: u32,
    /// Direction of packets: [`UP`], [`DOWN`] or [`MIXED`].
    pub(crate) direction: u32,
    /// Subscriber's end: 1 = an address of a pool, 0 = an address outside (transit).
    pub(crate) pooled: u32,
    /// Makes different flows of equal numbers.
    pub(crate) salt: u64,
    /// Port of the far end.
    pub(crate) remote_port: u32,
    /// Steps of idle arithmetic before the program under test, at most [`MAX_SPIN`]: makes it artificially slower.
    pub(crate) spin: u32,
    /// TCP sequence number of the first packet of each flow, if `stride` is not 0.
    pub(crate) sequence: u32,
    /// Bytes of payload by which the next packet of a flow is further in its stream; 0 leaves the frame's number.
    pub(crate) stride: u32,
}

const _: () = assert!(core::mem::size_of::<Generator>() == 72);

/// Bound of [`Generator::spin`], for the verifier.
pub(crate) const MAX_SPIN: u32 = 2048;

/// Flow `n` for the n-th packet.
pub(crate) const SEQUENTIAL: u32 = 0;
/// A random flow for each packet.
pub(crate) const RANDOM: u32 = 1;
/// A random flow for each four packets, as a sender's bursts make them.
pub(crate) const TRAINS: u32 = 2;
/// A random flow for each packet, some more often than others: the flow's number is the product of four uniform numbers
/// between 0 and 1, times the number of flows. The share of packets of the top `x` of all flows is the probability that
/// such a product is below `x`, which is `x * (1 + l + l^2 / 2 + l^3 / 6)` with `l = -ln x`: 32 % for the top 1 %, 80 %
/// for the top 10 %.
pub(crate) const SKEWED: u32 = 3;
/// Packets from the subscriber.
pub(crate) const UP: u32 = 0;
/// Packets to the subscriber.
pub(crate) const DOWN: u32 = 1;
/// A random direction for each packet.
pub(crate) const MIXED: u32 = 2;

/// First address of the IPv4 subscribers when there is one pool: `100.64.0.0/10` (RFC 6598).
pub(crate) const POOL_V4: u32 = 0x6440_0000;
/// First address of the first of 64 IPv4 pools, each a `/14`: `16.0.0.0`, `16.4.0.0`, ...
pub(crate) const POOLS_V4: u32 = 0x1000_0000;
/// First address of the IPv6 subscribers, `2001:db8::/32`; each has a `/56`.
pub(crate) const POOL_V6: u32 = 0x2001_0db8;
