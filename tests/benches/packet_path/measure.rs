//! One row: tables filled, flows settled, then rounds of short runs that take turns, and the median of their differences.
//!
//! Ratios are medians of the rounds' ratios, not ratios of medians: what slows the machine for a while slows both parts of a
//! round. Every other round goes backwards, so that no program always runs behind the same other one.

use std::path::Path;

use anyhow::Result;
use aya::programs::ProgramFd;

use crate::{
    kernel::Bench,
    layout::{DOWN, Generator, MAX_SPIN, RANDOM, SEQUENTIAL, UP},
    rows::{Kind, Row},
    subject::Subject,
};

/// Packets of one timed run of settled flows: some ten milliseconds, short against what else the machine does.
const RUN_PACKETS: u32 = 1 << 18;
/// Packets sent before each timed run, so that caches hold what the program itself uses.
const WARM_PACKETS: u32 = 1 << 17;
/// Packets of one timed run of new flows: few against the flows in the table.
const NEW_PACKETS: u32 = 1 << 13;
/// Least packets of one measurement of inspected packets.
const INSPECTED_PACKETS: u32 = 1 << 14;
/// Packets per flow and direction that end every inspection.
const SETTLING_PASSES: u32 = 10;
/// Flows that are in the tables before rows of new flows begin: every subscriber has tallies, and no row of a table lies
/// beside the one made before it. Without them the reference's first rounds cost a third of its later ones.
const FILLED_FLOWS: u32 = 1 << 18;
/// Keeps those flows apart from all measured ones.
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
    /// The program that knows the first protocols only, above empty, and the program under test as a multiple of it.
    pub(crate) first: Option<(Measured, Measured)>,
    /// Reference, above empty.
    pub(crate) reference: Measured,
    /// The empty program itself, with the prologue.
    pub(crate) empty: Measured,
}

/// What is measured beside the reference.
pub(crate) struct Subjects<'a> {
    /// The shipped program.
    pub(crate) shipped: bool,
    /// The object of the program that knows the first protocols only, for the rows that ask for it.
    pub(crate) first: Option<&'a Path>,
    /// Percent of its own cost by which the shipped program is made slower.
    pub(crate) handicap: Option<u32>,
}

/// One program that takes its turns.
struct Tested {
    program: ProgramFd,
    /// Steps of idle arithmetic in front of it.
    spin: u32,
    above: Vec<f64>,
}

impl Tested {
    fn new(program: ProgramFd) -> Self {
        Self { program, spin: 0, above: Vec::new() }
    }

    /// The rounds' costs as multiples of another program's.
    fn ratio(&self, other: &Self) -> Measured {
        median(&mut self.above.iter().zip(&other.above).map(|(one, other)| one / other).collect::<Vec<_>>())
    }

    fn cost(&self) -> Measured {
        median(&mut self.above.clone())
    }
}

/// Measures a row.
pub(crate) fn measure(row: &Row, object: &Path, subjects: &Subjects<'_>, rounds: u32) -> Result<Costs> {
    let bench = Bench::load(object, row)?;
    let mut loaded = Vec::new();
    if subjects.shipped {
        loaded.push(Subject::load(row, None)?);
        if let Some(first) = subjects.first.filter(|_| row.beside_first) {
            loaded.push(Subject::load(row, Some(first))?);
        }
    }
    let empty = bench.program("empty")?;
    let mut tested = vec![Tested::new(bench.program("reference")?)];
    for subject in &mut loaded {
        tested.push(Tested::new(subject.program()?));
    }
    let mut round = Rounds { bench, row, seed: 0x9e37_79b9_7f4a_7c15, spin: 0 };
    for tested in &tested {
        match row.kind {
            Kind::Settled => round.settle(&tested.program)?,
            Kind::New | Kind::Inspected { .. } => round.fill(&tested.program)?,
            Kind::Transit => {}
        }
    }
    if let (Some(percent), Some(shipped)) = (subjects.handicap, tested.get_mut(1)) {
        shipped.spin = round.steps(&shipped.program, &empty, percent)?;
    }
    let mut empties = Vec::new();
    let mut before = round.time(&empty, 0)?;
    for number in 0..rounds {
        if number > 0 {
            tested.reverse();
        }
        for tested in &mut tested {
            let ns = round.time(&tested.program, tested.spin)?;
            let after = round.time(&empty, 0)?;
            tested.above.push(ns - f64::midpoint(before, after));
            empties.push(after);
            before = after;
        }
    }
    if rounds.is_multiple_of(2) {
        tested.reverse();
    }
    for subject in &loaded {
        subject.check(row)?;
    }
    let (reference, shipped, first) = (&tested[0], tested.get(1), tested.get(2));
    Ok(Costs {
        reference: reference.cost(),
        subject: shipped.map(|shipped| (shipped.cost(), shipped.ratio(reference))),
        first: first.zip(shipped).map(|(first, shipped)| (first.cost(), shipped.ratio(first))),
        empty: median(&mut empties),
    })
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
            pooled: u32::from(!matches!(self.row.kind, Kind::Transit)),
            salt,
            remote_port: u32::from(self.row.remote_port),
            spin: self.spin,
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

    /// The number of steps that take this part of what a program costs.
    fn steps(&mut self, program: &ProgramFd, empty: &ProgramFd, percent: u32) -> Result<u32> {
        let (plain, spun) = (self.time(empty, 0)?, self.time(empty, MAX_SPIN)?);
        let step_ns = (spun - plain) / f64::from(MAX_SPIN);
        // The first verdicts of a subscriber cost more or less than later ones.
        let costs = [self.time(program, 0)?, self.time(program, 0)?, self.time(program, 0)?];
        let wanted_ns = (costs[2] - plain) * f64::from(percent) / 100.0;
        Ok((wanted_ns / step_ns).round().clamp(1.0, f64::from(MAX_SPIN)) as u32)
    }

    /// One timed run.
    fn time(&mut self, program: &ProgramFd, spin: u32) -> Result<f64> {
        self.bench.select(program)?;
        self.spin = spin;
        let row = self.row;
        let prologue = row.framing.prologue();
        let mask = u64::from(row.flows - 1);
        match &row.kind {
            Kind::Settled | Kind::Transit => {
                let generator = self.generator(RANDOM, row.direction, mask, 0);
                self.bench.generate(generator)?;
                self.bench.run_on(row.cpus, prologue, &row.frame, WARM_PACKETS)?;
                self.bench.run_on(row.cpus, prologue, &row.frame, RUN_PACKETS)
            }
            Kind::New => {
                let generator = self.generator(RANDOM, row.direction, (1 << 40) - 1, 1 << 41);
                self.bench.generate(generator)?;
                self.bench.run(prologue, &row.frame, NEW_PACKETS / 8)?;
                self.bench.run(prologue, &row.frame, NEW_PACKETS)
            }
            Kind::Inspected { opening, passes } => {
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

/// Median and half the range between the quartiles.
fn median(values: &mut [f64]) -> Measured {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    Measured { median: at(2), spread: (at(3) - at(1)) / 2.0 }
}
