//! Load of the host during a run: processor time that other programs and other guests took.

use std::fs;

use anyhow::{Context as _, Result};

/// Part of one processor that other programs may use. Above it, a timing is unreliable.
pub(super) const QUIET: f64 = 0.15;

/// Processor time since boot, in ticks (proc_stat(5)), with the part of this program and of the children that it waited
/// for (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    all: u64,
    busy: u64,
    own: u64,
}

impl Ticks {
    /// Reads both.
    pub(super) fn read() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        parse(&read("/proc/stat")?, &read("/proc/self/stat")?).context("/proc/stat is not as proc_stat(5) has it")
    }

    /// Processors' worth of time that others took until `now`, of so many processors.
    pub(super) fn host_load_until(self, now: Self, processors: usize) -> f64 {
        let others = (now.busy - self.busy).saturating_sub(now.own - self.own);
        others as f64 / (now.all - self.all).max(1) as f64 * processors as f64
    }
}

fn parse(stat: &str, own: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guests' time is in the first two.
    let times: Vec<u64> = line.split_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
    let [.., idle, iowait, _irq, _softirq, _steal] = times[..] else { return None };
    let all = times.iter().sum();
    // After the name, which may hold blanks: field 3 is the first; utime, stime, cutime and cstime are fields 14 to 17.
    let fields = own.rsplit_once(')')?.1;
    let own = fields.split_whitespace().skip(11).take(4).map_while(|time| time.parse::<u64>().ok()).sum();
    Some(Ticks { all, busy: all - idle - iowait, own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_time_is_what_neither_we_nor_nobody_took() {
        let own = |ticks| format!("7 (a ) b) S 1 7 7 0 -1 0 1 2 3 4 {ticks} 10 20 30 20 0 1 0 99\n");
        let before = parse("cpu  100 0 50 800 10 0 5 35 0 0\ncpu0 1 1 1\n", &own(5)).expect("well formed");
        assert_eq!(before, Ticks { all: 1000, busy: 190, own: 65 });
        // 200 ticks of two processors went by: 60 idle, 100 ours, 40 others', 10 of which were stolen.
        let after = parse("cpu  200 0 70 850 20 0 15 45 0 0\n", &own(105)).expect("well formed");
        assert!((before.host_load_until(after, 2) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn this_machine_says_it() {
        let ticks = Ticks::read().expect("readable");
        assert!(ticks.busy <= ticks.all && ticks.own <= ticks.busy);
    }
}
