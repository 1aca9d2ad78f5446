//! Skip reasons: why a frame was not counted as IP traffic. Numbers index a BPF map: append only, never renumber.

labelled_numbers! {
    /// A reason to skip a frame. Each is a label value of `peertally_skipped_packets_total`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    Reason:

    /// The frame ends before its link-layer headers do.
    ShortFrame = 0, "short_frame";
    /// The link layer carries something other than IPv4 or IPv6 (ARP, LLDP, PPP control, ...).
    NotIp = 1, "not_ip";
    /// More than two VLAN tags.
    VlanDepth = 2, "vlan_depth";
    /// More than four MPLS labels.
    MplsDepth = 3, "mpls_depth";
    /// A PPPoE session header with a wrong version, type or code (RFC 2516 section 4).
    BadPppoe = 4, "bad_pppoe";
    /// The IP version field does not agree with the link layer.
    BadIpVersion = 5, "bad_ip_version";
    /// The frame ends before the IP header does.
    ShortIp = 6, "short_ip";
    /// An IPv4 header length below 20 bytes, or above the total length (RFC 791 section 3.1).
    BadIpLength = 7, "bad_ip_length";
    /// An IPv6 packet with an IPv4-mapped address, `::ffff:0:0/96`, which no router may forward (RFC 6890 section
    /// 2.2.3, table 20).
    Ipv4Mapped = 8, "ipv4_mapped";
}

/// Entries of a table indexed by reason, with room to append.
pub const REASON_SLOTS: usize = 32;
