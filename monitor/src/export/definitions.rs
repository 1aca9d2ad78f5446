//! The definition of every metric: name, type, unit, labels, help. Nothing else in the agent spells a metric name.

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; restarts of the agent included where the kernel's tables survive.
    Counter,
    /// A value that rises and falls.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl MetricKind {
    /// The word of the exposition format.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Definition of a metric.
#[derive(Debug)]
pub struct Definition {
    /// Full name.
    pub name: &'static str,
    /// Type.
    pub kind: MetricKind,
    /// Unit; empty for a plain count.
    pub unit: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// Meaning, the help text.
    pub help: &'static str,
    /// Where it is served.
    pub endpoint: &'static str,
}

macro_rules! definitions {
    ($($id:ident = $endpoint:literal $kind:ident $name:literal in $unit:literal by [$($label:literal),*]: $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $id: Definition = Definition {
                name: $name,
                kind: MetricKind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
                endpoint: $endpoint,
            };
        )*
        /// Every metric.
        pub static ALL: &[&Definition] = &[$(&$id),*];
    };
}

definitions! {
    TRAFFIC_BYTES = "/metrics" Counter "peertally_traffic_bytes_total" in "bytes" by ["interface", "direction", "protocol", "confidence"]:
        "IP bytes by verdict. Each packet is in exactly one series, or pending.";
    TRAFFIC_PACKETS = "/metrics" Counter "peertally_traffic_packets_total" in "packets" by ["interface", "direction", "protocol", "confidence"]:
        "IP packets by verdict. Each packet is in exactly one series, or pending.";
    TRAFFIC_FLOWS = "/metrics" Counter "peertally_traffic_flows_total" in "flows" by ["interface", "direction", "protocol", "confidence"]:
        "Flows by verdict, and by interface and direction of their first packet.";
    UNANSWERED_BYTES = "/metrics" Counter "peertally_unanswered_bytes_total" in "bytes" by ["interface", "direction", "protocol", "confidence"]:
        "IP bytes that no subscriber is charged for: nobody answered, or the protocol was not the subscriber's doing. Part of peertally_traffic_bytes_total.";
    UNANSWERED_PACKETS = "/metrics" Counter "peertally_unanswered_packets_total" in "packets" by ["interface", "direction", "protocol", "confidence"]:
        "IP packets that no subscriber is charged for. Part of peertally_traffic_packets_total.";
    UNANSWERED_FLOWS = "/metrics" Counter "peertally_unanswered_flows_total" in "flows" by ["interface", "direction", "protocol", "confidence"]:
        "Flows that no subscriber is charged for. Part of peertally_traffic_flows_total.";
    TRAFFIC_AGGREGATED = "/metrics" Gauge "peertally_traffic_aggregated_rows" in "" by []:
        "Combinations of interface, direction and verdict that are added to interface other, which bounds the number of series.";
    SUBSCRIBERS_ACTIVE = "/metrics" Gauge "peertally_subscribers_active" in "" by ["protocol"]:
        "Subscriber blocks with traffic of the protocol between the last two drains.";
    TOP_BYTES = "/metrics" Counter "peertally_top_subscriber_bytes_total" in "bytes" by ["subscriber", "protocol", "direction"]:
        "IP bytes of the subscribers with the most recent P2P traffic. The subscriber is a keyed pseudonym.";
    PENDING_FLOWS = "/metrics" Gauge "peertally_pending_flows" in "flows" by []:
        "Flows under inspection, or not answered yet.";
    PENDING_PACKETS = "/metrics" Gauge "peertally_pending_packets" in "packets" by []:
        "IP packets of flows under inspection, or not answered yet: in no other number.";
    PENDING_BYTES = "/metrics" Gauge "peertally_pending_bytes" in "bytes" by []:
        "IP bytes of flows under inspection, or not answered yet: in no other number.";
    SKIPPED = "/metrics" Counter "peertally_skipped_packets_total" in "packets" by ["reason"]:
        "Frames that were passed but not counted as IP traffic.";
    SPOOFED_PACKETS = "/metrics" Counter "peertally_spoofed_packets_total" in "packets" by ["interface", "reason"]:
        "IP packets in the name of a subscriber who is not behind the interface: charged to nobody as their sender. Part of peertally_unanswered_packets_total.";
    SPOOFED_BYTES = "/metrics" Counter "peertally_spoofed_bytes_total" in "bytes" by ["interface", "reason"]:
        "IP bytes of these packets.";
    SHED_PACKETS = "/metrics" Counter "peertally_shed_packets_total" in "packets" by ["interface"]:
        "IP packets that opened no flow because the slow path was at its bound. They are in peertally_traffic_packets_total, but under no subscriber.";
    SHED_BYTES = "/metrics" Counter "peertally_shed_bytes_total" in "bytes" by ["interface"]:
        "IP bytes of the shed packets. They are in peertally_traffic_bytes_total, but under no subscriber.";
    KERNEL_EVENTS = "/metrics" Counter "peertally_kernel_events_total" in "" by ["event"]:
        "Rare events of the data path: refused inserts, evictions, races between CPUs.";
    RULE_VERDICTS = "/metrics" Counter "peertally_rule_verdicts_total" in "" by ["protocol", "confidence", "rule"]:
        "Flows by the rule that labelled them. A flow first labelled by association and then by its bytes counts under both rules.";
    CATCH_ALL_BYTES = "/metrics" Counter "peertally_catch_all_bytes_total" in "bytes" by ["direction"]:
        "IP bytes counted without a subscriber because the tally table was full.";
    TABLE_ENTRIES = "/metrics" Gauge "peertally_table_entries" in "" by ["table"]:
        "Entries in use of a kernel table.";
    TABLE_CAPACITY = "/metrics" Gauge "peertally_table_capacity" in "" by ["table"]:
        "Entries a kernel table can hold.";
    TABLE_USE = "/metrics" Gauge "peertally_table_use_ratio" in "" by ["table"]:
        "Part of a kernel table that is in use, from 0 to 1. Above 0.8 the log, `status` and `/readyz` warn, but not for `flows` and `reassembly`, which fill without harm.";
    TALLIES_RETIRED = "/metrics" Counter "peertally_tallies_retired_total" in "" by []:
        "Tallies without traffic whose counters went into the store, and whose places in the kernel's table are free again.";
    TALLIES_HELD = "/metrics" Gauge "peertally_tallies_held" in "" by []:
        "Tallies that are to leave the kernel's table, but belong to a flow that goes on.";
    TALLY_AGEING_FAILURES = "/metrics" Counter "peertally_tally_ageing_failures_total" in "" by []:
        "Failed attempts to take a tally out of use, or to write or read its counters in the store. Each is tried again.";
    ATTACHED = "/metrics" Gauge "peertally_xdp_attached" in "" by ["interface", "role", "mode"]:
        "1 for each interface the XDP program is attached to, with the mode read back from the kernel; 0 with mode `none` where it is no longer attached.";
    MERGED = "/metrics" Gauge "peertally_xdp_merged_packets" in "" by ["interface"]:
        "1 for each interface that merges received packets (GRO or LRO) before the program counts them, which happens in generic mode only; else 0. Absent where the kernel does not say.";
    OTHER_PROGRAMS = "/metrics" Gauge "peertally_xdp_other_programs" in "" by ["interface", "mode", "pins"]:
        "1 for each interface with an XDP program of Peertally that this agent does not count for: of another version, or on an interface that is not configured. The label pins has the version of its pins, or none.";
    ATTACHMENT_CHANGES = "/metrics" Counter "peertally_xdp_changes_total" in "" by ["interface", "change"]:
        "Attachments changed by this agent: attached, swapped, mode_changed; taken off because the interface is gone, moved to another network namespace or not_configured; or refused.";
    ATTACHMENT_QUERY_FAILURES = "/metrics" Counter "peertally_xdp_query_failures_total" in "" by []:
        "Times the kernel could not be asked where the program is attached. The other metrics then show its last answer.";
    SNAPSHOT_AGE = "/metrics" Gauge "peertally_snapshot_age_seconds" in "seconds" by []:
        "Time since the drain that this scrape shows.";
    SNAPSHOT_TIME = "/metrics" Gauge "peertally_snapshot_timestamp_seconds" in "seconds" by []:
        "Unix time of the drain that this scrape shows.";
    DRAIN_DURATION = "/metrics" Histogram "peertally_drain_duration_seconds" in "seconds" by []:
        "Time a drain of the kernel's tables took.";
    DRAIN_FAILURES = "/metrics" Counter "peertally_drain_failures_total" in "" by []:
        "Failed drains. The next drain has their counts.";
    EVALUATION_TIME = "/metrics" Gauge "peertally_evaluation_duration_seconds" in "seconds" by []:
        "Time the last evaluation of policies and top subscribers took.";
    POLICY_EVENTS = "/metrics" Counter "peertally_policy_events_total" in "" by ["policy", "kind"]:
        "Events that a policy made: fired (a subscriber reached the threshold) or cleared (it fell below again).";
    POLICY_SUPPRESSED = "/metrics" Counter "peertally_policy_suppressed_total" in "" by ["policy", "reason"]:
        "Evaluations at or above the threshold that made no event: cool_down, pending (an event of that subscriber waits) or allow_list.";
    EVENTS = "/metrics" Gauge "peertally_events" in "" by ["state"]:
        "Events in the store: queued, held (for a person), delivered, dead (every hook failed), discarded, or logged (the policy has no hooks).";
    EVENTS_HELD = "/metrics" Counter "peertally_events_held_total" in "" by ["policy", "reason"]:
        "Events that were held for a person: ceiling (too many of the policy in the interval), or queue_full (too many wait for a hook).";
    EVENTS_UNCOMMITTED = "/metrics" Gauge "peertally_events_uncommitted" in "" by []:
        "Events that fired and are not in the store yet, because it could not be written.";
    EVENTS_LOST = "/metrics" Counter "peertally_events_lost_total" in "" by []:
        "Events that fired, and that the store did not take before the end of the agent.";
    HISTORY_MEASURES = "/metrics" Gauge "peertally_history_measures" in "" by []:
        "Counters of tallies by span of time that the store keeps for the windows of policies, when the latest span began.";
    HISTORY_WAITING = "/metrics" Gauge "peertally_history_uncommitted_seconds" in "seconds" by []:
        "Age of the oldest counter for the windows of policies that is not in the store. A reboot loses what is not there; a restart does not.";
    HISTORY_FAILURES = "/metrics" Counter "peertally_history_failures_total" in "" by []:
        "Commits of what policies measure that failed. The windows go on in memory, and the next commit has what waits.";
    HISTORY_EVICTED = "/metrics" Counter "peertally_history_evicted_spans_total" in "" by []:
        "Spans that were removed because the store would keep too many counters. Windows that reach back to them are shorter after a restart.";
    STORE_FAILURES = "/metrics" Counter "peertally_store_failures_total" in "" by ["reason"]:
        "Writes that the store did not take. They are tried again (see `peertally_events_uncommitted`), unless the reason is damaged or refused: then read the log, which has the next step.";
    STORE_COMMIT_DURATION = "/metrics" Histogram "peertally_store_commit_duration_seconds" in "seconds" by []:
        "Time a commit to the store took, writing included.";
    HOOK_DELIVERIES = "/metrics" Counter "peertally_hook_deliveries_total" in "" by ["hook"]:
        "Events delivered to a hook.";
    HOOK_FAILURES = "/metrics" Counter "peertally_hook_failures_total" in "" by ["hook", "reason"]:
        "Events that a hook failed to deliver after its last attempt.";
    HOOK_REMOVED = "/metrics" Counter "peertally_hook_removed_deliveries_total" in "" by []:
        "Deliveries that failed because their hook was taken out of the configuration (`hook_removed`); the log names the hook.";
    HOOK_ATTEMPT_FAILURES = "/metrics" Counter "peertally_hook_attempt_failures_total" in "" by ["hook", "reason"]:
        "Failed attempts of a hook, including those that were retried.";
    HOOK_IN_FLIGHT = "/metrics" Gauge "peertally_hook_in_flight" in "" by ["hook"]:
        "Deliveries in progress.";
    HOOK_QUEUED = "/metrics" Gauge "peertally_hook_queued" in "" by ["hook"]:
        "Events that wait for an attempt of a hook.";
    HOOK_OLDEST = "/metrics" Gauge "peertally_hook_oldest_age_seconds" in "seconds" by ["hook"]:
        "Age of the oldest event that waits or is in progress; 0 if there is none.";
    INSPECTION = "/metrics" Gauge "peertally_inspection_depth_info" in "" by ["depth"]:
        "1, with the current inspection depth.";
    EVIDENCE = "/metrics" Gauge "peertally_evidence_info" in "" by ["evidence"]:
        "1, with what subscribers are charged on: answered, or one_way, which is weaker.";
    WATCHLIST_HITS = "/metrics" Counter "peertally_watchlist_hits_total" in "" by ["protocol"]:
        "Payloads that named content of the watchlist; only in the inspection depth watchlist.";
    PROTOCOL = "/metrics" Gauge "peertally_protocol_info" in "" by ["protocol", "class"]:
        "1, with the class of each protocol; join it to other metrics by protocol.";
    RECORDS_WRITTEN = "/metrics" Counter "peertally_records_written_total" in "" by ["file"]:
        "Records on the disk: watchlist_hits or audit (files in state_dir), or verdict_records (the store).";
    RECORDS_LOST = "/metrics" Counter "peertally_records_lost_total" in "" by ["file", "reason"]:
        "Records that are not on the disk: rate (more of one subscriber in an hour than are kept), queue_full or shutdown (the disk took nothing), or off_list (a flow named content that a reload took off the watchlist).";
    RECORDS_WAITING = "/metrics" Gauge "peertally_records_waiting" in "" by ["file"]:
        "Records that wait in memory because the disk takes nothing.";
    RECORD_FAILURES = "/metrics" Counter "peertally_record_write_failures_total" in "" by ["file"]:
        "Failed attempts to write records. They are tried again.";
    RECORD_FILES_REMOVED = "/metrics" Counter "peertally_record_files_removed_total" in "" by ["file"]:
        "Oldest files of records that were removed because there were records.files newer ones.";
    RECORDS_REMOVED = "/metrics" Counter "peertally_verdict_records_removed_total" in "" by ["reason"]:
        "Verdict records removed from the store: expired (older than verdict_records.keep) or excess (more than verdict_records.max_records).";
    CONNECTIONS_OPEN = "/metrics" Gauge "peertally_connections_open" in "" by ["listener"]:
        "Open connections of the metrics port and of the control socket.";
    CONNECTIONS_CLOSED = "/metrics" Counter "peertally_connections_given_up_total" in "" by ["listener", "reason"]:
        "Connections that were refused or given up: header_timeout, write_timeout, answer_timeout, displaced by a new one, full, too_many_streams, no_descriptor, foreign_user.";
    PSEUDONYM_KEY = "/metrics" Gauge "peertally_pseudonym_key_info" in "" by ["key"]:
        "1, with the name of the pseudonym key. Pseudonyms under keys of different names cannot be compared.";
    KEY_ROTATIONS = "/metrics" Counter "peertally_pseudonym_key_rotations_total" in "" by ["outcome"]:
        "Rotations of the pseudonym key since the agent's start: done, or failed and to be tried again.";
    RELOADS = "/metrics" Counter "peertally_reloads_total" in "" by ["result"]:
        "Reloads of the configuration: applied, unchanged, checked (nothing applied), invalid, needs_restart, failed. The last three leave the configuration as it was.";
    CONFIGURATION = "/metrics" Gauge "peertally_configuration_info" in "" by ["digest"]:
        "1, with the start of the digest of the configuration file and watchlist in force; `defaults` without a file.";
    CONFIGURATION_TIME = "/metrics" Gauge "peertally_configuration_timestamp_seconds" in "seconds" by []:
        "Unix time since when the configuration is in force: of the start, or of the last reload that was applied.";
    BUILD = "/metrics" Gauge "peertally_build_info" in "" by ["version"]:
        "1, with the version of the agent.";
    START_TIME = "/metrics" Gauge "peertally_start_time_seconds" in "seconds" by []:
        "Unix time of the agent's start.";
    SUBSCRIBER_BYTES = "/metrics/subscribers" Counter "peertally_subscriber_bytes_total" in "bytes" by ["subscriber", "protocol", "confidence", "direction"]:
        "IP bytes of each subscriber. The subscriber is a keyed pseudonym.";
    SUBSCRIBER_PACKETS = "/metrics/subscribers" Counter "peertally_subscriber_packets_total" in "packets" by ["subscriber", "protocol", "confidence", "direction"]:
        "IP packets of each subscriber. The subscriber is a keyed pseudonym.";
    SUBSCRIBER_WATCHLIST_HITS = "/metrics/subscribers" Counter "peertally_subscriber_watchlist_hits_total" in "" by ["subscriber", "protocol", "confidence"]:
        "Payloads of each subscriber's flows that named content of the watchlist. The subscriber is a keyed pseudonym.";
    SUBSCRIBER_FLOWS = "/metrics/subscribers" Counter "peertally_subscriber_flows_total" in "flows" by ["subscriber", "protocol", "confidence"]:
        "Flows of each subscriber. The subscriber is a keyed pseudonym.";
}
