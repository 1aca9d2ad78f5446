//! One row: tables filled, flows settled, then rounds of short runs that take turns, and the median of their differences.

use std::path::Path;

use anyhow::Result;
use aya::programs::ProgramFd;

use crate::{
    kernel::Bench,
    layout::{DOWN, Generator, RANDOM, SEQUENTIAL, UP},
    rows::{Kind, Row},
    subject::Subject,
};

/// Packets of one timed run of settled flows: some ten milliseconds, short against what else the machine does.
const RUN_PACKETS: u32 = 1 << 18;
/// Packets sent before each timed run, so that caches hold what the program itself uses.
const WARM_PACKETS: u32 = 1 << 17;
/// Packets of one timed run of new flows: few against the flows in the table.
const NEW_PACKETS: u32 = 1 << 13;
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
    /// Median of the rounds.
    pub(crate) ns: f64,
    /// Half the distance between the quartiles.
    pub(crate) spread_ns: f64,
}

/// A row's numbers.
pub(crate) struct Costs {
    /// Program under test, above empty.
    pub(crate) subject: Option<Measured>,
    /// Reference, above empty.
    pub(crate) reference: Measured,
    /// The empty program itself, with the prologue.
    pub(crate) empty: Measured,
}

/// Measures a row.
pub(crate) fn measure(row: &Row, object: &Path, subject: bool, rounds: u32) -> Result<Costs> {
    let bench = Bench::load(object, row)?;
    let mut subject = if subject { Some(Subject::load(row, row.table_flows())?) } else { None };
    let empty = bench.program("empty")?;
    let mut tested: Vec<ProgramFd> = vec![bench.program("reference")?];
    if let Some(subject) = &mut subject {
        tested.push(subject.program()?);
    }
    let mut round = Rounds { bench, row, seed: 0x9e37_79b9_7f4a_7c15 };
    for program in &tested {
        match row.kind {
            Kind::Settled => round.settle(program)?,
            Kind::New | Kind::Inspected { .. } => round.fill(program)?,
            Kind::Transit => {}
        }
    }
    let mut above = vec![Vec::new(); tested.len()];
    let mut empties = Vec::new();
    let mut before = round.time(&empty)?;
    for _ in 0..rounds {
        for (program, above) in tested.iter().zip(&mut above) {
            let ns = round.time(program)?;
            let after = round.time(&empty)?;
            above.push(ns - f64::midpoint(before, after));
            empties.push(after);
            before = after;
        }
    }
    if let Some(subject) = &subject {
        subject.check(row)?;
    }
    Ok(Costs {
        reference: median(&mut above[0]),
        subject: above.get_mut(1).map(|above| median(above)),
        empty: median(&mut empties),
    })
}

struct Rounds<'a> {
    bench: Bench,
    row: &'a Row,
    seed: u64,
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

    /// Opens flows that are never measured.
    fn fill(&mut self, program: &ProgramFd) -> Result<()> {
        self.bench.select(program)?;
        let generator = self.generator(SEQUENTIAL, UP, u64::from(FILLED_FLOWS - 1), FILLED_SALT);
        self.bench.generate(generator)?;
        self.bench.run(self.row.framing.prologue(), &self.row.frame, FILLED_FLOWS)?;
        Ok(())
    }

    /// One timed run.
    fn time(&mut self, program: &ProgramFd) -> Result<f64> {
        self.bench.select(program)?;
        let prologue = self.row.framing.prologue();
        let mask = u64::from(self.row.flows - 1);
        let direction = self.row.direction;
        match &self.row.kind {
            Kind::Settled | Kind::Transit => {
                let generator = self.generator(RANDOM, direction, mask, 0);
                self.bench.generate(generator)?;
                self.bench.run_on(self.row.cpus, prologue, &self.row.frame, WARM_PACKETS)?;
                self.bench.run_on(self.row.cpus, prologue, &self.row.frame, RUN_PACKETS)
            }
            Kind::New => {
                let generator = self.generator(RANDOM, direction, (1 << 40) - 1, 1 << 41);
                self.bench.generate(generator)?;
                self.bench.run(prologue, &self.row.frame, NEW_PACKETS / 8)?;
                self.bench.run(prologue, &self.row.frame, NEW_PACKETS)
            }
            Kind::Inspected { opening, passes } => {
                let salt = self.seed >> 8;
                let generator = self.generator(SEQUENTIAL, direction, mask, salt);
                self.bench.generate(generator)?;
                self.bench.run(prologue, opening, self.row.flows)?;
                self.bench.run(prologue, &self.row.frame, self.row.flows * passes)
            }
        }
    }
}

/// Median and half the range between the quartiles.
fn median(values: &mut [f64]) -> Measured {
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values[(values.len() - 1) * part / 4];
    Measured { ns: at(2), spread_ns: (at(3) - at(1)) / 2.0 }
}
