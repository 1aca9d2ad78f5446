//! One row: tables filled, flows settled, then rounds of short runs that take turns, and the median of their
//! differences.
//!
//! Ratios are medians of the rounds' ratios, not ratios of medians: a disturbance slows both parts of a round. Every
//! other round runs backwards, so that no program always runs after one other program. Pairs of builds are compared
//! likewise.

use std::{collections::HashMap, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;

use crate::{
    kernel::Bench,
    layout::{DOWN, Generator, MAX_SPIN, RANDOM, SEQUENTIAL, UP},
    rows::{Row, RowKind},
    subject::Subject,
};

/// Packets of one timed run of settled flows: about ten milliseconds, short compared with disturbances.
const RUN_PACKETS: u32 = 1 << 18;
/// Packets sent before each timed run, to load the program's data into the caches.
const WARM_PACKETS: u32 = 1 << 17;
/// Packets of one timed run of new flows: few against the flows in the table.
const NEW_PACKETS: u32 = 1 << 13;
/// Least packets of one measurement of inspected packets.
const INSPECTED_PACKETS: u32 = 1 << 14;
/// Packets per flow and direction that end every inspection.
const SETTLING_PASSES: u32 = 10;
/// Flows in the tables before a row of new flows begins. Every subscriber then has tallies, and consecutive new flows
/// get table rows far apart. Without them the reference's first rounds cost a third of its later ones.
const FILLED_FLOWS: u32 = 1 << 18;
/// Rounds by which a handicap is found.
const CALIBRATING_ROUNDS: u32 = 9;
/// Salt that keeps [`FILLED_FLOWS`] apart from all measured flows.
const FILLED_SALT: u64 = 1 << 45;

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

/// Role of a program. Programs take turns in this order, so that a pair is measured back to back.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Reference,
    UnderTest,
    Beside,
    First,
}

/// One program that takes its turns.
struct Tested {
    role: Role,
    program: ProgramFd,
    /// Steps of idle arithmetic in front of it.
    spin: u32,
}

/// Samples of the rounds: costs above the empty program of the round, in one order for every program.
#[derive(Default)]
struct Samples {
    above: HashMap<Role, Vec<f64>>,
    empty: Vec<f64>,
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
    subjects: Vec<(Role, Subject)>,
    /// Why the other build does not.
    refused: Option<String>,
}

fn load(row: &Row, subjects: &Subjects<'_>) -> Result<Loaded> {
    let (mut loaded, mut refused) = (Vec::new(), None);
    if subjects.under_test {
        loaded.push((Role::UnderTest, Subject::load(row, subjects.shipped)?));
        if let Some(beside) = subjects.beside {
            // An older build may have other maps than this agent's: that is for the caller to judge.
            match Subject::load(row, Some(beside)) {
                Ok(subject) => loaded.push((Role::Beside, subject)),
                Err(error) => refused = Some(format!("{error:#}")),
            }
        }
        if let Some(first) = subjects.first.filter(|_| row.beside_first) {
            loaded.push((Role::First, Subject::load(row, Some(first))?));
        }
    }
    Ok(Loaded { subjects: loaded, refused })
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
    })
}

/// The steps that make the program under test slower by so many percent. In tables of their own, since new flows fill
/// them.
fn calibrate(row: &Row, object: &Path, subjects: &Subjects<'_>, percent: u32) -> Result<u32> {
    let bench = Bench::load(object, row)?;
    let mut subject = Subject::load(row, subjects.shipped)?;
    let (empty, program) = (bench.program("empty")?, subject.program()?);
    let mut round = Rounds { bench, row, seed: 0x9e37_79b9_7f4a_7c15, spin: 0 };
    round.prepare(&program)?;
    round.steps(&program, &empty, percent)
}

/// Adds the rounds of one load; why the other build did not take part as it should, if so.
fn sample(
    row: &Row,
    object: &Path,
    subjects: &Subjects<'_>,
    spin: u32,
    rounds: u32,
    samples: &mut Samples,
) -> Result<Option<String>> {
    let bench = Bench::load(object, row)?;
    let Loaded { subjects: mut loaded, mut refused } = load(row, subjects)?;
    let empty = bench.program("empty")?;
    let mut tested = vec![Tested { role: Role::Reference, program: bench.program("reference")?, spin: 0 }];
    for (role, subject) in &mut loaded {
        let spin = if *role == Role::UnderTest { spin } else { 0 };
        tested.push(Tested { role: *role, program: subject.program()?, spin });
    }
    let mut round = Rounds { bench, row, seed: 0x9e37_79b9_7f4a_7c15, spin: 0 };
    for tested in &tested {
        round.prepare(&tested.program)?;
    }
    let mut before = round.time(&empty, 0)?;
    for _ in 0..rounds {
        for Tested { role, program, spin } in &tested {
            let ns = round.time(program, *spin)?;
            let after = round.time(&empty, 0)?;
            samples.above.entry(*role).or_default().push(ns - f64::midpoint(before, after));
            samples.empty.push(after);
            before = after;
        }
        tested.reverse();
    }
    for (role, subject) in &loaded {
        match (role, subject.check(row)) {
            (_, Ok(())) => {}
            (Role::Beside, Err(error)) => refused = Some(format!("it does not do the row's work: {error:#}")),
            (_, Err(error)) => return Err(error),
        }
    }
    Ok(refused)
}

struct Rounds<'a> {
    bench: Bench,
    row: &'a Row,
    seed: u64,
    /// Steps of idle arithmetic before each packet.
    spin: u32,
}

impl Rounds<'_> {
    /// A generator for this row.
    fn generator(&mut self, order: u32, direction: u32, flow_mask: u64, salt: u64) -> Generator {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Generator {
            random: self.seed | 1,
            made: 0,
            flow_mask,
            subscriber_mask: self.row.subscribers - 1,
            pool_mask: self.row.pools - 1,
            pool_bits: self.row.pools.trailing_zeros(),
            order,
            direction,
            pooled: u32::from(!matches!(self.row.kind, RowKind::Transit)),
            salt,
            remote_port: u32::from(self.row.remote_port),
            spin: self.spin,
        }
    }

    /// Fills a program's tables with the row's initial flows.
    fn prepare(&mut self, program: &ProgramFd) -> Result<()> {
        match self.row.kind {
            RowKind::Settled => self.settle(program),
            RowKind::New | RowKind::Inspected { .. } => self.fill(program),
            RowKind::Transit => Ok(()),
        }
    }

    /// Sends every flow of the row enough packets that its inspection is over.
    fn settle(&mut self, program: &ProgramFd) -> Result<()> {
        self.bench.select(program)?;
        let mask = u64::from(self.row.flows - 1);
        let directions: &[u32] = match self.row.direction {
            UP => &[UP],
            DOWN => &[UP, DOWN],
            _ => &[UP, DOWN],
        };
        for direction in directions {
            let generator = self.generator(SEQUENTIAL, *direction, mask, 0);
            self.bench.generate(generator)?;
            self.bench.run(self.row.framing.prologue(), &self.row.frame, self.row.flows * SETTLING_PASSES)?;
        }
        Ok(())
    }

    /// Opens flows that are never measured: at most half of what the tables are sized for.
    fn fill(&mut self, program: &ProgramFd) -> Result<()> {
        self.bench.select(program)?;
        let flows = FILLED_FLOWS.min(self.row.table_flows() / 2);
        let generator = self.generator(SEQUENTIAL, UP, u64::from(flows - 1), FILLED_SALT);
        self.bench.generate(generator)?;
        self.bench.run(self.row.framing.prologue(), &self.row.frame, flows)?;
        Ok(())
    }

    /// The number of steps that make a program slower by this part of its cost, in percent: by ratios within a round,
    /// since a virtual processor is now faster, now slower.
    fn steps(&mut self, program: &ProgramFd, empty: &ProgramFd, percent: u32) -> Result<u32> {
        // The first verdicts of a subscriber cost more or less than later ones.
        self.time(program, 0)?;
        let limited = |steps: f64| steps.round().clamp(1.0, f64::from(MAX_SPIN));
        let (wanted, mut guesses, mut factors) = (f64::from(percent) / 100.0, Vec::new(), Vec::new());
        for _ in 0..CALIBRATING_ROUNDS {
            let (nothing, spun, plain) = (self.time(empty, 0)?, self.time(empty, MAX_SPIN)?, self.time(program, 0)?);
            guesses.push(wanted * (plain - nothing) / (spun - nothing) * f64::from(MAX_SPIN));
        }
        let guess = limited(median(&mut guesses).context("no round")?.median);
        // Steps in front of a program that waits for memory partly take place while it waits.
        for _ in 0..CALIBRATING_ROUNDS {
            let (nothing, plain, spun) =
                (self.time(empty, 0)?, self.time(program, 0)?, self.time(program, guess as u32)?);
            factors.push(wanted * (plain - nothing) / (spun - plain));
        }
        let factor = median(&mut factors).context("no round")?.median.clamp(0.5, 2.0);
        Ok(limited(guess * factor) as u32)
    }

    /// One timed run.
    fn time(&mut self, program: &ProgramFd, spin: u32) -> Result<f64> {
        self.bench.select(program)?;
        self.spin = spin;
        let row = self.row;
        let prologue = row.framing.prologue();
        let mask = u64::from(row.flows - 1);
        match &row.kind {
            RowKind::Settled | RowKind::Transit => {
                let generator = self.generator(RANDOM, row.direction, mask, 0);
                self.bench.generate(generator)?;
                self.bench.run_on(row.cpus, prologue, &row.frame, WARM_PACKETS)?;
                self.bench.run_on(row.cpus, prologue, &row.frame, RUN_PACKETS)
            }
            RowKind::New => {
                let generator = self.generator(RANDOM, row.direction, (1 << 40) - 1, 1 << 41);
                self.bench.generate(generator)?;
                self.bench.run(prologue, &row.frame, NEW_PACKETS / 8)?;
                self.bench.run(prologue, &row.frame, NEW_PACKETS)
            }
            RowKind::Inspected { opening, passes } => {
                // Few flows are too short a run alone; more of them at once would not be in the caches.
                let batches = (INSPECTED_PACKETS / (row.flows * passes)).max(1);
                let mut sum_ns = 0.0;
                for _ in 0..batches {
                    let salt = self.seed >> 8;
                    for packet in opening {
                        let generator = self.generator(SEQUENTIAL, packet.direction, mask, salt);
                        self.bench.generate(generator)?;
                        self.bench.run(prologue, &packet.frame, row.flows)?;
                    }
                    let generator = self.generator(SEQUENTIAL, row.direction, mask, salt);
                    self.bench.generate(generator)?;
                    sum_ns += self.bench.run(prologue, &row.frame, row.flows * passes)?;
                }
                Ok(sum_ns / f64::from(batches))
            }
        }
    }
}

/// Median and half the range between the quartiles, if there are values.
fn median(values: &mut [f64]) -> Option<Measured> {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    (!values.is_empty()).then(|| Measured { median: at(2), spread: (at(3) - at(1)) / 2.0 })
}
