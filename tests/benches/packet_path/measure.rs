//! One row: tables filled, flows settled, then rounds of short runs that take turns, and the median of their
//! differences.
//!
//! Ratios are medians of the rounds' ratios, not ratios of medians: a disturbance slows both parts of a round. Every
//! other round runs backwards behind the reference, so that no program always runs after one other program, and none
//! after itself: it would find its own tables in the caches. Pairs of builds are compared likewise.

use std::{collections::HashMap, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    kernel::Bench,
    rounds::{Role, Rounds, Tested},
    row::Row,
};

/// A median and half the range between the quartiles.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    /// Median of the rounds: ns, or a ratio.
    pub(crate) median: f64,
    /// Half the distance between the quartiles.
    pub(crate) spread: f64,
}

/// A row's numbers.
pub(crate) struct Costs {
    /// Program under test, above empty, and as a part of the reference.
    pub(crate) subject: Option<(Measured, Measured)>,
    /// Cost of the other build above empty, and the ratio; or why it failed the row.
    pub(crate) beside: Option<Result<(Measured, Measured), String>>,
    /// Cost of the program with the first protocols only above empty, and the ratio.
    pub(crate) first: Option<(Measured, Measured)>,
    /// Reference, above empty.
    pub(crate) reference: Measured,
    /// The empty program itself, with the prologue.
    pub(crate) empty: Measured,
    /// Paths of the program under test's packets in the latest load, for people.
    pub(crate) paths: String,
}

/// Programs that are measured in addition to the reference.
#[derive(Clone, Copy)]
pub(crate) struct Subjects<'a> {
    /// Not only the reference.
    pub(crate) under_test: bool,
    /// The object of the program under test, in place of the shipped one.
    pub(crate) shipped: Option<&'a Path>,
    /// The object of another build, measured in pairs with the program under test.
    pub(crate) beside: Option<&'a Path>,
    /// The object of the program that knows the first protocols only, for the rows that ask for it.
    pub(crate) first: Option<&'a Path>,
    /// Percent of its own cost by which the program under test is made slower.
    pub(crate) handicap: Option<u32>,
}

/// Samples of the rounds: costs above the empty program of the round, in one order for every program.
#[derive(Default)]
struct Samples {
    above: HashMap<Role, Vec<f64>>,
    empty: Vec<f64>,
    /// Paths of the measured packets of the program under test, in the latest load.
    paths: String,
}

impl Samples {
    fn cost(&self, role: Role) -> Option<Measured> {
        self.above.get(&role).and_then(|above| median(&mut above.clone()))
    }

    /// The rounds' costs as multiples of another program's.
    fn multiple(&self, one: Role, of: Role) -> Option<Measured> {
        let (one, of) = (self.above.get(&one)?, self.above.get(&of)?);
        median(&mut one.iter().zip(of).map(|(one, of)| one / of).collect::<Vec<_>>())
    }
}

/// Programs that take turns with the reference.
struct Loaded {
    builds: Vec<Tested>,
    /// Why the other build does not.
    refused: Option<String>,
}

fn load(row: &Row, subjects: &Subjects<'_>) -> Result<Loaded> {
    let (mut builds, mut refused) = (Vec::new(), None);
    if subjects.under_test {
        builds.push(Tested::of_build(row, Role::UnderTest, subjects.shipped)?);
        if let Some(beside) = subjects.beside {
            // An older build may have other maps than this agent's: that is for the caller to judge.
            match Tested::of_build(row, Role::Beside, Some(beside)) {
                Ok(build) => builds.push(build),
                Err(error) => refused = Some(format!("{error:#}")),
            }
        }
        if let Some(first) = subjects.first.filter(|_| row.beside_first) {
            builds.push(Tested::of_build(row, Role::First, Some(first))?);
        }
    }
    Ok(Loaded { builds, refused })
}

/// Measures a row with several loads of programs and tables: the place of tables in memory changes from load to load.
pub(crate) fn measure(row: &Row, object: &Path, subjects: &Subjects<'_>, rounds: u32, loads: u32) -> Result<Costs> {
    let (mut samples, mut refused) = (Samples::default(), None);
    let spin = subjects.handicap.map_or(Ok(0), |percent| calibrate(row, object, subjects, percent))?;
    for _ in 0..loads {
        refused = sample(row, object, subjects, spin, rounds, &mut samples)?.or(refused);
    }
    let pair = |other| Some((samples.cost(other)?, samples.multiple(Role::UnderTest, other)?));
    Ok(Costs {
        reference: samples.cost(Role::Reference).context("no round")?,
        subject: samples.cost(Role::UnderTest).zip(samples.multiple(Role::UnderTest, Role::Reference)),
        beside: match refused {
            Some(reason) => Some(Err(reason)),
            None => pair(Role::Beside).map(Ok),
        },
        first: pair(Role::First),
        empty: median(&mut samples.empty.clone()).context("no round")?,
        paths: samples.paths,
    })
}

/// The steps that make the program under test slower by so many percent. In tables of their own, since new flows fill
/// them.
fn calibrate(row: &Row, object: &Path, subjects: &Subjects<'_>, percent: u32) -> Result<u32> {
    let bench = Bench::load(object, row)?;
    let mut empty = Tested::of_bench(&bench, Role::Empty, "empty")?;
    let mut tested = Tested::of_build(row, Role::UnderTest, subjects.shipped)?;
    let mut rounds = Rounds::new(bench, row);
    rounds.prepare(&mut tested)?;
    rounds.steps(&mut tested, &mut empty, percent)
}

/// Adds the rounds of one load; why the other build did not take part as it should, if so.
fn sample(
    row: &Row,
    object: &Path,
    subjects: &Subjects<'_>,
    spin: u32,
    count: u32,
    samples: &mut Samples,
) -> Result<Option<String>> {
    let bench = Bench::load(object, row)?;
    let Loaded { builds, mut refused } = load(row, subjects)?;
    let mut empty = Tested::of_bench(&bench, Role::Empty, "empty")?;
    let mut tested = vec![Tested::of_bench(&bench, Role::Reference, "reference")?];
    tested.extend(builds);
    let mut rounds = Rounds::new(bench, row);
    for tested in &mut tested {
        tested.spin = if tested.role == Role::UnderTest { spin } else { 0 };
        rounds.prepare(tested)?;
    }
    let mut before = rounds.time(&mut empty, 0)?;
    for _ in 0..count {
        for tested in &mut tested {
            let ns = rounds.time(tested, tested.spin)?;
            let after = rounds.time(&mut empty, 0)?;
            samples.above.entry(tested.role).or_default().push(ns - f64::midpoint(before, after));
            samples.empty.push(after);
            before = after;
        }
        tested[1..].reverse();
    }
    for tested in &tested {
        match (tested.role, tested.check(row)) {
            (Role::UnderTest, Ok(())) => samples.paths = tested.paths(),
            (_, Ok(())) => {}
            (Role::Beside, Err(error)) => refused = Some(format!("it does not do the row's work: {error:#}")),
            (_, Err(error)) => return Err(error),
        }
    }
    Ok(refused)
}

/// Median and half the range between the quartiles, if there are values.
pub(crate) fn median(values: &mut [f64]) -> Option<Measured> {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    (!values.is_empty()).then(|| Measured { median: at(2), spread: (at(3) - at(1)) / 2.0 })
}
