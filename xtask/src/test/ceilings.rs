//! Time limits of lanes. All lanes together have 50 minutes on a fresh machine with two cores.

use std::time::Duration;

use super::Lane;

/// Time limit of one or several lanes together, without set-up.
#[derive(Debug)]
struct Ceiling {
    lanes: &'static [Lane],
    minutes: u64,
}

/// Every lane is in one row. A lane above its ceiling is reported, and does not fail: machines differ.
const CEILINGS: &[Ceiling] = &[
    Ceiling { lanes: &[Lane::Format, Lane::Habits, Lane::Lints, Lane::Docs, Lane::Deny, Lane::Object], minutes: 6 },
    Ceiling { lanes: &[Lane::Kernels], minutes: 7 },
    Ceiling { lanes: &[Lane::Demo], minutes: 4 },
    Ceiling { lanes: &[Lane::Package], minutes: 4 },
    Ceiling { lanes: &[Lane::Accuracy], minutes: 4 },
    Ceiling { lanes: &[Lane::Fuzz], minutes: 2 },
    Ceiling { lanes: &[Lane::Unit, Lane::Tests], minutes: 8 },
    Ceiling { lanes: &[Lane::Adversarial], minutes: 2 },
    Ceiling { lanes: &[Lane::E2e], minutes: 6 },
    Ceiling { lanes: &[Lane::Bench], minutes: 2 },
];

/// Time limit of the quick lanes together, with everything compiled.
pub(super) const QUICK: Duration = Duration::from_secs(3 * 60);

/// One line for each row of the table that took longer than it may.
pub(super) fn exceeded(times: &[(Lane, Duration)]) -> Vec<String> {
    let mut lines = Vec::new();
    for Ceiling { lanes, minutes } in CEILINGS {
        let taken: Duration = times.iter().filter(|(lane, _)| lanes.contains(lane)).map(|(_, time)| *time).sum();
        if taken > Duration::from_secs(minutes * 60) {
            let names = lanes.iter().map(|lane| lane.word()).collect::<Vec<_>>().join(", ");
            lines.push(format!("{names}: {:.1} minutes, ceiling {minutes}", super::minutes(taken)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_one_ceiling() {
        for lane in Lane::ALL {
            assert_eq!(CEILINGS.iter().filter(|row| row.lanes.contains(lane)).count(), 1, "{}", lane.word());
        }
    }

    #[test]
    fn lanes_of_a_row_are_added_up() {
        let minute = Duration::from_secs(60);
        assert_eq!(exceeded(&[(Lane::Lints, 3 * minute), (Lane::Docs, 3 * minute)]), Vec::<String>::new());
        let lines = exceeded(&[(Lane::Lints, 4 * minute), (Lane::Docs, 3 * minute), (Lane::Demo, minute)]);
        assert_eq!(lines, ["format, habits, lints, docs, deny, object: 7.0 minutes, ceiling 6"]);
    }
}
