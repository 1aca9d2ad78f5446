//! Rare events that the program counts, each a label value of `peertally_kernel_events_total`.

labelled_numbers! {
    /// A rare event with a counter. Append only, never renumber.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    KernelEvent:

    /// A way of the flow table was selected for a new flow; `flow_busy` counts too if another CPU was first.
    FlowNew = 0, "flow_new";
    /// A flow that was in the flow table restarted: by a TCP SYN, or by a packet after a pause.
    FlowRestarted = 1, "flow_restarted";
    /// An idle flow was evicted.
    EvictedIdle = 2, "evicted_idle";
    /// A flow without a P2P verdict was evicted after a pause of some seconds, because its set was full.
    EvictedUnclassified = 3, "evicted_unclassified";
    /// A new flow found its set full of P2P flows or of flows with packets in the last seconds; its packets count as
    /// unclassified.
    FlowRefused = 4, "flow_refused";
    /// A packet met a way that another CPU was changing; it counts as unclassified.
    FlowBusy = 5, "flow_busy";
    /// The tally table was full: the traffic counts under the catch-all tally.
    TallyRefused = 6, "tally_refused";
    /// Two CPUs made the same tally at once; one slot stays unused.
    TallyRaced = 7, "tally_raced";
    /// A flow counter was flushed because it neared its capacity.
    FlushedOverflow = 8, "flushed_overflow";
    /// A table lookup that cannot fail did fail, and traffic was not counted. 0 unless there is a bug.
    InternalError = 9, "internal_error";
    /// A packet between two addresses that are no subscribers.
    Transit = 10, "transit";
    /// The tally table was nearly full: traffic without a P2P verdict counts under the catch-all tally, so that
    /// verdicts find room.
    TallyReserved = 11, "tally_reserved";
    /// A P2P peer (an endpoint or subscriber) was learned.
    PeerLearned = 12, "peer_learned";
    /// A peer that had not expired was evicted: the peer cache is too small for the traffic.
    PeerEvicted = 13, "peer_evicted";
    /// A packet with a subscriber's address arrived on a core interface: no peer was learned from it, since it may be
    /// spoofed.
    PeerSpoofed = 14, "peer_spoofed";
    /// Traffic of a flow that had ended as unclassified counts under a protocol from now on, as its endpoint became
    /// known.
    FlowRelabelled = 15, "flow_relabelled";
    /// A TCP flow opened like an MSE connection (heuristic tier only).
    MseCandidate = 16, "mse_candidate";
    /// A payload named content that is on the watchlist.
    WatchlistHit = 17, "watchlist_hit";
    /// The message buffer was full, so the agent does not get the time and addresses of a hit; the hit is still
    /// counted.
    WatchlistEventLost = 18, "watchlist_event_lost";
    /// The table of hits was full: a hit is counted at node level only.
    WatchlistTallyRefused = 19, "watchlist_tally_refused";
    /// Another stream evicted the held first bytes of a stream, or another CPU was writing their slot, so they were not
    /// held: a signature that is split there is not found.
    ReassemblyEvicted = 20, "reassembly_evicted";
    /// A stage of the program could not be called. The packet passed. It was not counted if that was the first stage
    /// behind the entry, else not inspected to its end. 0 unless the pinned table of stages was removed.
    StageMissing = 21, "stage_missing";
    /// A new flow in a tunnel has a subscriber's address inside, and the outer ends of the tunnel are not named in
    /// `[[tunnels]]`: nobody is charged for it.
    TunnelUnvouched = 22, "tunnel_unvouched";
    /// A packet of a flow under inspection found no token of the slow path: it counts for its flow, but its payload was
    /// not inspected.
    InspectionShed = 23, "inspection_shed";
    /// A direction of a flow under inspection had so many payloads that cost no budget (junk, out of order, or cut into
    /// fragments) that no more of it are inspected.
    ExhaustedJunk = 25, "exhausted_junk";
    /// A payload of a flow under inspection was not inspected: its receiver does not take it (outside the window, sent
    /// before, or too few hops left), or it is too short for any rule.
    JunkSegment = 26, "junk_segment";
    /// A P2P endpoint was learned beyond its subscriber's share of the peer cache: it is evicted before others.
    PeerShareUsed = 27, "peer_share_used";
    /// A P2P flow was evicted, because its subscriber held more than one way of a full set.
    EvictedCrowding = 28, "evicted_crowding";
    /// The message buffer was full, so the agent does not get the verdict record of a flow; the flow still counts.
    RecordLost = 29, "record_lost";
}

/// Entries of a table indexed by event, with room to append.
pub const EVENT_SLOTS: usize = 32;
