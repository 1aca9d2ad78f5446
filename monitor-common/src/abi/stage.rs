//! The later programs of the data path, which tail calls reach.

labelled_numbers! {
    /// A stage behind the entry program. The number is its index in the map `STAGES`, the label its program's name.
    ///
    /// A packet passes them in this order, and skips those that it does not need.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    StageProgram:

    /// Finds or installs the packet's flow, counts the packet, and decides whether its payload is inspected.
    Flow = 0, "peertally_flow";
    /// Joins, copies and classifies a TCP payload.
    InspectTcp = 1, "peertally_tcp";
    /// Copies and classifies a UDP payload.
    InspectUdp = 2, "peertally_udp";
    /// Commits the flow's verdict, and learns peers from the payload.
    Verdict = 3, "peertally_verdict";
    /// Gives the flow to the subscribers who have taken part in it.
    Charge = 4, "peertally_charge";
}
