//! What the program costs on this node.

use std::{thread, time::Duration};

use peertally_datapath::run_cost::{CostError, Measurement, RunCost};

use super::Finding;

/// Part of one CPU beyond which the cost is worth a second look.
const MUCH: f64 = 0.5;

/// Measures for `time`.
#[must_use]
pub fn measure(time: Duration) -> Finding {
    match run(time) {
        Ok(cost) => judge(cost),
        Err(error) => Finding::note("cost", format!("{error}; the cost of the program was not measured")),
    }
}

fn run(time: Duration) -> Result<RunCost, CostError> {
    let measurement = Measurement::start()?;
    thread::sleep(time);
    measurement.end()
}

fn judge(cost: RunCost) -> Finding {
    let seconds = cost.wall.as_secs_f64();
    let Some(nanoseconds) = cost.nanoseconds_a_frame() else {
        return Finding::note("cost", format!("no frame reached the program within {seconds:.0} s"));
    };
    let found = format!(
        "{nanoseconds:.0} ns a frame, {:.0} frames/s, {:.1} % of one CPU, for {seconds:.0} s (the measurement itself adds some \
         tens of ns a frame)",
        cost.frames as f64 / seconds.max(1e-9),
        cost.cpus() * 100.0
    );
    if cost.cpus() > MUCH {
        return Finding::warning(
            "cost",
            found,
            "spread the receive queues over more CPUs, or lower `shedding.packets_per_second`",
        );
    }
    Finding::ok("cost", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::doctor::Severity;

    #[test]
    fn cost_is_told_in_nanoseconds_and_parts_of_a_cpu() {
        let wall = Duration::from_secs(5);
        let cost = RunCost { frames: 1_000_000, busy: Duration::from_millis(100), wall };
        let finding = judge(cost);
        assert_eq!(finding.severity, Severity::Ok);
        assert!(finding.found.starts_with("100 ns a frame, 200000 frames/s, 2.0 % of one CPU"), "{}", finding.found);
        assert_eq!(judge(RunCost { busy: Duration::from_secs(4), ..cost }).severity, Severity::Warning);
        assert_eq!(judge(RunCost { frames: 0, ..cost }).severity, Severity::Note);
    }
}
