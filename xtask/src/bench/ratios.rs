//! Ratios by which runs are compared: each number relative to a reference that took turns with it in that run.
//!
//! A ratio carries over between hours of one machine and, within limits, between machines; a time does not. A
//! disturbance makes some ratios worse and others better. A bound therefore counts as missed only if the best of
//! several attempts misses it, and the record is the median of several runs.

use super::report::{BenchReport, Drain, Idle, Policies, Row, Scrape};

/// A number with a reference.
pub(super) trait Compared {
    /// Name in the baseline.
    fn name(&self) -> String;
    /// Cost as a part of the reference's.
    fn ratio(&self) -> f64;
}

impl Compared for Row {
    fn name(&self) -> String {
        Row::name(self)
    }

    fn ratio(&self) -> f64 {
        self.ratio
    }
}

impl Compared for Drain {
    fn name(&self) -> String {
        "agent: drain".to_owned()
    }

    fn ratio(&self) -> f64 {
        self.ms / self.batch_ms
    }
}

impl Compared for Scrape {
    fn name(&self) -> String {
        format!("agent: {}", self.what())
    }

    fn ratio(&self) -> f64 {
        self.ms / self.reference_ms
    }
}

impl Compared for Policies {
    fn name(&self) -> String {
        format!("agent: {} policies of {} windows", self.policies, self.windows)
    }

    fn ratio(&self) -> f64 {
        self.ms / self.reference_ms
    }
}

impl Compared for Idle {
    fn name(&self) -> String {
        "agent: without traffic".to_owned()
    }

    fn ratio(&self) -> f64 {
        self.cpu_ms_per_drain / self.reference_ms
    }
}

/// One ratio of a run.
pub(super) struct Ratio {
    /// Name in the baseline.
    pub(super) name: String,
    /// Cost as a part of the reference's.
    pub(super) value: f64,
    /// Whether it is a row of the packet path, which can be measured again alone.
    pub(super) is_row: bool,
    /// Whether another build took turns with it, which says more than the reference does.
    pub(super) in_pairs: bool,
}

/// Every ratio of a run.
pub(super) fn of(report: &BenchReport) -> Vec<Ratio> {
    fn each<'a, T: Compared + 'a>(all: &'a [T]) -> impl Iterator<Item = Ratio> + 'a {
        all.iter().map(|one| Ratio { name: one.name(), value: one.ratio(), is_row: false, in_pairs: false })
    }
    let row = |(row, ratio): (&Row, Ratio)| Ratio { is_row: true, in_pairs: row.beside.is_some(), ..ratio };
    let rows = report.rows.iter().zip(each(&report.rows)).map(row);
    rows.chain(each(report.drain.as_slice()))
        .chain(each(&report.scrape))
        .chain(each(&report.policies))
        .chain(each(report.idle.as_slice()))
        .collect()
}

/// Replaces numbers by those of a later run if their ratio is lower. Pairs stay, because all their attempts count.
pub(super) fn keep_better(report: &mut BenchReport, later: BenchReport) {
    fn each<T: Compared>(all: &mut [T], later: impl IntoIterator<Item = T>) {
        for one in later {
            if let Some(here) = all.iter_mut().find(|here| here.name() == one.name())
                && one.ratio() < here.ratio()
            {
                *here = one;
            }
        }
    }
    fn better<T>(here: &mut Option<T>, other: Option<T>, cost: impl Fn(&T) -> f64) {
        if here.as_ref().zip(other.as_ref()).is_some_and(|(here, other)| cost(other) < cost(here)) {
            *here = other;
        }
    }
    // A row's ratios are best in different attempts.
    for mut other in later.rows {
        let Some(here) = report.rows.iter_mut().find(|here| here.name() == other.name()) else { continue };
        better(&mut here.first_protocols, other.first_protocols.take(), |first| first.rise);
        other.beside = None;
        if other.ratio < here.ratio {
            *here = Row { first_protocols: here.first_protocols.take(), beside: here.beside.take(), ..other };
        }
    }
    each(report.drain.as_mut_slice(), later.drain);
    each(&mut report.scrape, later.scrape);
    each(&mut report.policies, later.policies);
    each(report.idle.as_mut_slice(), later.idle);
}

/// Takes each number from the run in which its ratio is the median of this and the other runs.
pub(super) fn take_median(report: &mut BenchReport, others: &[BenchReport]) {
    fn each<'a, T: Compared + Clone + 'a>(all: &mut [T], others: impl Iterator<Item = &'a [T]> + Clone) {
        for one in all {
            let same = others.clone().flatten().filter(|other| other.name() == one.name());
            let mut runs: Vec<T> = same.cloned().chain([one.clone()]).collect();
            runs.sort_by(|left, right| left.ratio().total_cmp(&right.ratio()));
            *one = runs.swap_remove(runs.len() / 2);
        }
    }
    each(&mut report.rows, others.iter().map(|run| &run.rows[..]));
    each(report.drain.as_mut_slice(), others.iter().map(|run| run.drain.as_slice()));
    each(&mut report.scrape, others.iter().map(|run| &run.scrape[..]));
    each(&mut report.policies, others.iter().map(|run| &run.policies[..]));
    each(report.idle.as_mut_slice(), others.iter().map(|run| run.idle.as_slice()));
}

#[cfg(test)]
mod tests {
    use super::{super::report::FirstProtocols, *};

    fn run(one: f64, other: f64) -> BenchReport {
        BenchReport { rows: vec![Row::for_tests("one", one), Row::for_tests("other", other)], ..BenchReport::default() }
    }

    fn values(report: &BenchReport) -> Vec<f64> {
        of(report).into_iter().map(|ratio| ratio.value).collect()
    }

    #[test]
    fn the_median_run_of_each_row_is_taken() {
        let mut report = run(0.3, 0.01);
        take_median(&mut report, &[run(0.1, 0.02), run(0.2, 0.03)]);
        assert_eq!(values(&report), [0.2, 0.02]);
    }

    #[test]
    fn the_best_of_each_ratio_of_a_row_is_kept() {
        let row = |ratio, rise| {
            let first = FirstProtocols { ns_above_empty: 100.0, spread_ns: 0.0, rise, rise_spread: 0.0 };
            let row =
                Row { first_protocols: Some(first), ..Row::for_tests("inspect-http", ratio).with_beside(2.0 - rise) };
            BenchReport { rows: vec![row], ..BenchReport::default() }
        };
        let mut report = row(0.9, 1.2);
        keep_better(&mut report, row(0.8, 1.4));
        keep_better(&mut report, row(1.0, 1.1));
        assert_eq!(values(&report), [0.8]);
        let row = &report.rows[0];
        assert_eq!(row.first_protocols.as_ref().map(|first| first.rise), Some(1.1));
        assert_eq!(row.beside.as_ref().map(|beside| beside.multiple), Some(2.0 - 1.2), "not of pairs");
    }

    #[test]
    fn the_agents_numbers_are_compared_like_rows() {
        let run = |ms| BenchReport {
            drain: Some(Drain { tallies: 1_000_000, ms, batch_ms: 400.0 }),
            ..BenchReport::default()
        };
        let mut report = run(40.0);
        keep_better(&mut report, run(30.0));
        keep_better(&mut report, run(50.0));
        assert_eq!(values(&report), [0.075]);
    }
}
