use std::path::Path;

use peertally_datapath::TableSizes;

use super::*;
use crate::{
    config::{self, Overrides},
    generated::assert_block_current,
    verbs::plan::sizing::{Load, Sizing},
};

fn sizing(load: Load) -> Sizing {
    Sizing::new(load, &TableSizes::DEFAULT).expect("possible")
}

/// A load of packets a second, new flows a second and subscribers.
fn load(packets_per_second: Option<u64>, new_flows_per_second: Option<u64>, subscribers: Option<u64>) -> Load {
    Load { packets_per_second, new_flows_per_second, subscribers }
}

fn planned(load: Load) -> LoadPlan {
    let resolved = config::parse(Path::new("p.toml"), "", &Overrides::default()).expect("valid");
    LoadPlan::new(sizing(load), &resolved).expect("the object")
}

/// The output for a load and the default configuration.
fn shown(packets: Option<u64>, new_flows: Option<u64>, subscribers: Option<u64>) -> String {
    show(&planned(load(packets, new_flows, subscribers)))
}

/// The output as one line, since a line may end anywhere in a sentence.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_example_of_the_documentation_is_current() {
    let (packets, new_flows, subscribers) = (17_400_000, 350_000, 1_000_000);
    let text = shown(Some(packets), Some(new_flows), Some(subscribers));
    let command = format!(
        "peertally plan --packets-per-second {packets} --new-flows-per-second {new_flows} \\\n    \
         --subscriber-count {subscribers}"
    );
    assert_block_current("docs/performance.md", "sizing", &format!("```\n$ {command}\n...\n{text}```\n"));
}

#[test]
fn no_line_is_longer_than_80_columns() {
    let values = [None, Some(0), Some(1), Some(20_000), Some(350_000), Some(10_000_000_000)];
    // The memory of the largest tables: reading the object for each load takes long.
    let largest = planned(load(None, values[5], values[5]));
    for new_flows in values {
        for subscribers in values {
            for packets in [None, values[5]] {
                let load = load(packets, new_flows, subscribers);
                if load.is_empty() {
                    continue;
                }
                let text = show(&LoadPlan { sizing: sizing(load), ..largest.clone() });
                for line in text.lines() {
                    assert!(line.len() <= COLUMNS && line.trim_end() == line, "{line:?}");
                }
                assert!(!text.contains("\n\n\n"), "{text}");
            }
        }
    }
}

#[test]
fn each_consequence_of_a_turnover_is_explained() {
    for (new_flows, part) in [
        (350_000, "less than the 2 s in which a flow is never evicted"),
        (200_000, "less than twice the 2 s in which a flow is never evicted"),
        (100_000, "An unclassified flow that pauses for about 5.2 s is evicted (event `evicted_unclassified`)"),
    ] {
        let text = words(&shown(None, Some(new_flows), None));
        assert!(text.contains(part) && text.contains("Set capacity.flows to "), "{text}");
    }
    let text = shown(None, Some(8_000), Some(80_000));
    assert!(!text.contains("WARNING"), "{text}");
}

#[test]
fn full_tallies_are_explained() {
    let text = words(&shown(None, None, Some(1_000_000)));
    assert!(text.contains("The tallies will be full after 87381 subscribers"), "{text}");
    assert!(text.contains("Set capacity.tallies to 3000001."), "{text}");
    let text = words(&shown(None, None, Some(10_000_000)));
    assert!(text.contains("(capacity.tallies is at most 16777216): share it among boxes"), "{text}");
}

#[test]
fn what_is_not_sized_is_named() {
    let text = words(&shown(Some(1), None, None));
    for option in ["--new-flows-per-second", "--subscriber-count"] {
        assert!(text.contains(option), "{text}");
    }
    assert!(!text.contains("--packets-per-second"), "{text}");
    assert!(!shown(Some(1), Some(1), Some(1)).contains("Not sized"));
}

#[test]
fn spans_have_a_unit_that_suits_them() {
    for (seconds, text) in [
        (0.0, "less than 0.1 s"),
        (1.5, "1.5 s"),
        (119.0, "119.0 s"),
        (120.0, "2.0 minutes"),
        (7_200.0, "2.0 hours"),
        (172_800.0, "2.0 days"),
    ] {
        assert_eq!(span(seconds), text);
    }
}

#[test]
fn a_load_beyond_the_bound_of_the_slow_path_is_warned_of() {
    let flows = "Shedding lets 131072 new flows/s through, a quarter of capacity.flows.";
    let packets = "Shedding lets 500000 packets/s that open flows or are inspected through on each CPU.";
    let loads = [(None, 100_000), (None, 200_000), (Some(17_400_000), 200_000), (Some(80_000_000), 20_000_000)];
    for ((all, new_flows), warned) in
        loads.into_iter().zip([[false, false], [true, false], [true, false], [true, true]])
    {
        let text = words(&shown(all, Some(new_flows), None));
        assert_eq!([flows, packets].map(|warning| text.contains(warning)), warned, "{new_flows}: {text}");
    }
    let unbounded = LoadPlan { shedding: None, ..planned(load(None, Some(20_000_000), None)) };
    assert!(!show(&unbounded).contains("Shedding"), "shedding is off");
}
