use super::{
    cores::{CorePart, PacketKind},
    costs::{INSPECTED, NEW_FLOW_FULL, SETTLED_RANDOM, SETTLED_TRAINS},
    *,
};

const NOTHING: Load = Load { packets_per_second: None, new_flows_per_second: None, subscribers: None };

fn sizing(load: Load) -> Sizing {
    Sizing::new(load, &TableSizes::DEFAULT).expect("a possible load")
}

fn parts(sizing: &Sizing) -> &[CorePart] {
    sizing.cores.as_ref().map_or(&[], |cores| &cores.parts)
}

fn per_second(sizing: &Sizing) -> Vec<u64> {
    parts(sizing).iter().map(|part| part.per_second).collect()
}

fn edge() -> Load {
    Load { packets_per_second: Some(17_400_000), new_flows_per_second: Some(350_000), subscribers: Some(1_000_000) }
}

#[test]
fn an_edge_of_100_gbit_per_second() {
    let sizing = sizing(edge());
    // 350,000 flows a second for 60 s are 21 million ways.
    assert_eq!(sizing.recommended(), TableSizes { flows: 1 << 25, tallies: 3_000_001, peers: 1 << 22 });
    let per_second = per_second(&sizing);
    assert_eq!(per_second, [16_000_000, 350_000, 1_050_000]);
    let costs = |cost: [Cost; 3]| -> f64 {
        per_second.iter().zip(cost).map(|(each, cost)| *each as f64 * f64::from(cost.ns) / 1e9).sum()
    };
    let cores = sizing.cores.as_ref().expect("packets");
    assert!((cores.random - costs([SETTLED_RANDOM, NEW_FLOW_FULL, INSPECTED])).abs() < 1e-9);
    assert!((cores.trains - costs([SETTLED_TRAINS, NEW_FLOW_FULL, INSPECTED])).abs() < 1e-9);
    let flow_table = sizing.flow_table.expect("new flows");
    assert_eq!(flow_table.turnover, Turnover::Refuses);
    assert!((flow_table.turnover_seconds.expect("finite") - 524_288.0 / 350_000.0).abs() < 1e-9);
    assert_eq!(sizing.recommended_flow_table.expect("new flows").turnover, Turnover::EvictsIdle);
    let tally_table = sizing.tally_table.expect("subscribers");
    assert_eq!((tally_table.subscribers, tally_table.suffices), (87_381, false));
}

#[test]
fn turnover_has_four_consequences() {
    let of = |flows, new_flows| FlowTable::new(flows, new_flows).turnover;
    assert_eq!(of(1_199, 600), Turnover::Refuses);
    assert_eq!(of(1_200, 600), Turnover::RefusesSome);
    assert_eq!(of(2_399, 600), Turnover::RefusesSome);
    assert_eq!(of(2_400, 600), Turnover::EvictsPausing);
    assert_eq!(of(35_999, 600), Turnover::EvictsPausing);
    assert_eq!(of(36_000, 600), Turnover::EvictsIdle);
}

#[test]
fn the_recommended_flows_last_for_the_idle_time() {
    for new_flows in [1, 17, 18, 1_000, 8_738, 8_739, 1_118_481] {
        let sizing = sizing(Load { new_flows_per_second: Some(new_flows), ..NOTHING });
        assert_eq!(sizing.recommended_flow_table.expect("new flows").turnover, Turnover::EvictsIdle, "{new_flows}");
        assert!(sizing.flows.entries.is_power_of_two() && !sizing.flows.is_limited, "{new_flows}");
        assert!(sizing.flows.entries == 1 << 10 || sizing.flows.entries < 2 * 60 * new_flows, "{new_flows}");
    }
    // 2^26 ways are the most that a configuration may have.
    let beyond = sizing(Load { new_flows_per_second: Some(1_118_482), ..NOTHING });
    assert_eq!((beyond.flows.entries, beyond.flows.is_limited), (1 << 26, true));
}

#[test]
fn the_recommended_tallies_have_room_for_all() {
    for subscribers in [1, 341, 342, 87_381, 87_382, 5_592_405] {
        let sizing = sizing(Load { subscribers: Some(subscribers), ..NOTHING });
        assert!(!sizing.tallies.is_limited, "{subscribers}");
        assert!(TallyTable::new(sizing.tallies.entries, subscribers).suffices, "{subscribers}");
    }
    let (room, one_more) = (TallyTable::new(262_144, 87_381), TallyTable::new(262_144, 87_382));
    assert!(room.suffices && !one_more.suffices);
    assert!(sizing(Load { subscribers: Some(5_592_406), ..NOTHING }).tallies.is_limited);
}

#[test]
fn nothing_known_sizes_nothing() {
    let sizing = sizing(NOTHING);
    assert!(NOTHING.is_empty() && !edge().is_empty());
    assert_eq!(sizing.recommended(), TableSizes::DEFAULT);
    assert!(sizing.cores.is_none() && sizing.flow_table.is_none() && sizing.tally_table.is_none());
    assert!(!sizing.flows.by_load && !sizing.tallies.by_load && !sizing.peers.by_load);
}

#[test]
fn a_load_of_zero_takes_the_least() {
    let zero = Load { packets_per_second: Some(0), new_flows_per_second: Some(0), subscribers: Some(0) };
    let sizing = sizing(zero);
    assert_eq!(sizing.recommended(), TableSizes { flows: 1 << 10, tallies: 1 << 10, peers: 1 << 10 });
    let flow_table = sizing.flow_table.expect("given");
    assert_eq!((flow_table.turnover_seconds, flow_table.turnover), (None, Turnover::EvictsIdle));
    assert!(sizing.tally_table.expect("given").suffices);
    let cores = sizing.cores.expect("given");
    assert_eq!((cores.random, cores.random_with_reserve), (0.0, 1));
}

#[test]
fn the_greatest_load_neither_overflows_nor_fits() {
    let most = Some(u64::MAX);
    let sizing = sizing(Load { packets_per_second: most, new_flows_per_second: most, subscribers: most });
    assert_eq!(sizing.recommended(), TableSizes { flows: 1 << 26, tallies: 1 << 24, peers: 1 << 26 });
    assert!(sizing.flows.is_limited && sizing.tallies.is_limited && sizing.peers.is_limited);
    assert_eq!(sizing.recommended_flow_table.expect("given").turnover, Turnover::Refuses);
    let per_second = per_second(&sizing);
    assert_eq!(per_second, [0, u64::MAX, 0]);
    let cores = sizing.cores.expect("given");
    assert!(cores.random.is_finite() && cores.random_with_reserve > 1 << 30);
    let new_flows = Load { new_flows_per_second: most, ..NOTHING };
    let sizing = Sizing::new(new_flows, &TableSizes::DEFAULT).expect("possible");
    assert_eq!(parts(&sizing)[1].per_second, u64::MAX);
}

#[test]
fn tiny_tables_are_always_too_small() {
    let tiny = TableSizes { flows: 0, tallies: 0, peers: 0 };
    let sizing = Sizing::new(edge(), &tiny).expect("possible");
    let flow_table = sizing.flow_table.expect("given");
    assert_eq!((flow_table.turnover_seconds, flow_table.turnover), (Some(0.0), Turnover::Refuses));
    assert_eq!(sizing.tally_table.expect("given").subscribers, 0);
    // Nothing divided by nothing is no time.
    assert_eq!(FlowTable::new(0, 0).turnover_seconds, None);
}

#[test]
fn each_packet_is_in_one_part() {
    for (packets, new_flows) in [(0, 0), (1, 1), (2, 1), (4, 1), (5, 1), (1_000, 250), (1_000, 1_000), (u64::MAX, 7)] {
        let load = Load { packets_per_second: Some(packets), new_flows_per_second: Some(new_flows), ..NOTHING };
        let sum: u64 = per_second(&sizing(load)).iter().sum();
        assert_eq!(sum, packets, "{new_flows} new flows");
    }
    let packets = sizing(Load { packets_per_second: Some(10), ..NOTHING });
    assert_eq!(
        parts(&packets).iter().map(|part| (part.packets, part.per_second)).collect::<Vec<_>>(),
        [(PacketKind::Settled, 10)]
    );
}

#[test]
fn more_flows_than_packets_are_refused() {
    let load = Load { packets_per_second: Some(5), new_flows_per_second: Some(6), ..NOTHING };
    let error = Sizing::new(load, &TableSizes::DEFAULT).expect_err("impossible");
    assert_eq!(error.exit(), Exit::Usage);
    let text = error.to_string();
    assert!(text.contains("--new-flows-per-second 6") && text.contains("correct one of them"), "{text}");
}
