//! The table that people read.

use std::fmt::Write as _;

use super::{
    ratios::Compared,
    report::{BenchReport, NotMeasured, Policies},
};

impl BenchReport {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: std::fmt::Arguments<'_>| {
            let _cannot_fail = writeln!(text, "{cells}");
        };
        let pairs = self.rows.iter().any(|row| row.beside.is_some());
        if !self.rows.is_empty() {
            line(format_args!(
                "ns of CPU time per packet above an empty XDP program, median ± half the quartile distance"
            ));
            line(format_args!(
                "{:<40}{:>8}{:>7}{:>18}{:>18}{:>8}{:>7}{}",
                "path",
                "flows",
                "pools",
                "peertally",
                "reference",
                "ratio",
                "rise",
                if pairs { format!("{:>18}{:>9}", "other build", "new/old") } else { String::new() }
            ));
        }
        for row in &self.rows {
            let pair = row.beside.as_ref().map(|beside| {
                format!("{:>10.1} ±{:>6.1}{:>9.2}", beside.ns_above_empty, beside.spread_ns, beside.multiple)
            });
            let rise = row.first_protocols.as_ref().map(|first| format!("{:.2}", first.rise));
            line(format_args!(
                "{:<40}{:>8}{:>7}{:>10.1} ±{:>6.1}{:>10.1} ±{:>6.1}{:>7.0}%{:>7}{}",
                row.path,
                row.flows,
                row.pools,
                row.ns_above_empty,
                row.spread_ns,
                row.reference_ns_above_empty,
                row.reference_spread_ns,
                row.ratio * 100.0,
                rise.unwrap_or_default(),
                pair.unwrap_or_default()
            ));
        }
        if self.rows.iter().any(|row| row.first_protocols.is_some()) {
            line(format_args!(
                "rise: all protocols compared with the first ones (BitTorrent, eDonkey), in shared rounds"
            ));
        }
        if pairs {
            line(format_args!("new/old: peertally compared with the other build, median of the rounds' ratios"));
        }
        if let Some(drain) = &self.drain {
            line(format_args!(
                "drain of {} tallies: {:.1} ms by mapped memory, {:.1} ms by batch calls ({:.0} times)",
                drain.tallies,
                drain.ms,
                drain.batch_ms,
                drain.batch_ms / drain.ms
            ));
        }
        for scrape in &self.scrape {
            line(format_args!(
                "{} with {} subscribers: {:.1} ms, {} bytes ({:.1} times a plain text)",
                scrape.what(),
                scrape.subscribers,
                scrape.ms,
                scrape.bytes,
                scrape.ratio()
            ));
        }
        for each in &self.policies {
            let Policies { policies, windows, tallies, ms, .. } = each;
            line(format_args!(
                "{policies} policies with {windows} windows over {tallies} tallies that moved: {ms:.1} ms ({:.1} times a plain pass)",
                each.ratio()
            ));
        }
        if let Some(idle) = &self.idle {
            line(format_args!(
                "agent with {} tallies and no traffic: {:.1} ms a drain, {:.2} % of a core; {:.0} MiB without the maps ({:.0} without \
                 tallies, {:.0} bytes a tally)",
                idle.tallies,
                idle.cpu_ms_per_drain,
                idle.core_percent,
                idle.memory_mib,
                idle.memory_empty_mib,
                idle.bytes_per_tally
            ));
        }
        if !self.targets.is_empty() {
            line(format_args!("targets (they fail a run with --targets only):"));
        }
        for target in &self.targets {
            line(format_args!("  {target}"));
        }
        for NotMeasured { path, reason } in &self.not_measured {
            line(format_args!("not measured: {path}: {reason}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::Row, *};

    #[test]
    fn pairs_have_columns_of_their_own() {
        let table = |row| BenchReport { rows: vec![row], ..BenchReport::default() }.table();
        let (alone, pair) =
            (table(Row::for_tests("transit", 0.5)), table(Row::for_tests("transit", 0.5).with_beside(1.25)));
        assert!(!alone.contains("new/old"));
        assert!(pair.contains("new/old") && pair.contains("40.0 ±   0.0     1.25\n"), "{pair}");
    }
}
