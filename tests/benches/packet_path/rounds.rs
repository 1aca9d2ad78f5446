//! Timed runs of one row: fills tables, opens and settles flows, sends the measured packets, and counts which path they
//! took.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use monitor_common::abi::limits::FRESH_SECONDS;
use peertally_tests::packet_paths::{PacketPath, PathCounts};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    frames::{FIRST_SEQUENCE, tcp_payload_len},
    kernel::Bench,
    layout::{DOWN, Generator, MAX_SPIN, RANDOM, SEQUENTIAL, UP},
    measure::median,
    row::{NEW_PACKETS, Packet, Row, RowKind, TableState, WARM_NEW_PACKETS},
    subject::Subject,
};

/// Packets of one timed run of settled flows: about ten milliseconds, short compared with disturbances.
const RUN_PACKETS: u32 = 1 << 18;
/// Packets sent before each timed run, to load the program's data into the caches.
const WARM_PACKETS: u32 = 1 << 17;
/// Packets per flow and direction that end every inspection.
const SETTLING_PASSES: u32 = 10;
/// Rounds by which a handicap is found.
const CALIBRATING_ROUNDS: u32 = 9;
/// Salt that keeps the filling flows apart from all measured flows.
const FILLING_SALT: u64 = 1 << 45;

/// Role of a program. Programs take turns in this order, so that a pair is measured back to back.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Empty,
    Reference,
    UnderTest,
    Beside,
    First,
}

/// One program that takes its turns.
pub(crate) struct Tested {
    pub(crate) role: Role,
    program: ProgramFd,
    /// The loaded object, of a build of the shipped program.
    subject: Option<Subject>,
    /// Steps of idle arithmetic in front of it.
    pub(crate) spin: u32,
    /// Flows that measurements opened since its tables were filled.
    opened: u32,
    /// Second from which on the filling flows may be evicted.
    evictable_s: u64,
    /// Paths of the measured packets, and of those that opened their flows.
    took: PathCounts,
    /// Paths that they should have taken.
    expected: PathCounts,
    /// Measured packets.
    measured: u64,
    /// Flows opened by all measurements.
    opened_ever: u64,
}

impl Tested {
    /// The empty program, or the reference.
    pub(crate) fn of_bench(bench: &Bench, role: Role, name: &str) -> Result<Self> {
        Ok(Self::new(role, bench.program(name)?, None))
    }

    /// A build of the shipped program, or the shipped one.
    pub(crate) fn of_build(row: &Row, role: Role, build: Option<&Path>) -> Result<Self> {
        let mut subject = Subject::load(row, build)?;
        Ok(Self::new(role, subject.program()?, Some(subject)))
    }

    fn new(role: Role, program: ProgramFd, subject: Option<Subject>) -> Self {
        Self {
            role,
            program,
            subject,
            spin: 0,
            opened: 0,
            evictable_s: 0,
            took: PathCounts::default(),
            expected: PathCounts::default(),
            measured: 0,
            opened_ever: 0,
        }
    }

    /// Paths of the measured packets, for people.
    pub(crate) fn paths(&self) -> String {
        self.took.to_string()
    }

    /// Fails when the row did not measure what it says.
    pub(crate) fn check(&self, row: &Row) -> Result<()> {
        let Some(subject) = &self.subject else { return Ok(()) };
        let checked = self.took.check(&self.expected, self.measured).map_err(anyhow::Error::msg);
        checked.and_then(|()| subject.check(row, self.opened_ever)).with_context(|| row.name())
    }

    /// Events so far, as paths of no packets; nothing for a program without events.
    fn paths_of(&self, before: Option<&[u64]>, packets: u64) -> Result<Option<PathCounts>> {
        let (Some(subject), Some(before)) = (&self.subject, before) else { return Ok(None) };
        subject.paths_since(before, packets).map(Some)
    }

    fn events(&self) -> Result<Option<Vec<u64>>> {
        self.subject.as_ref().map(Subject::counters).transpose()
    }
}

/// The runs of one load.
pub(crate) struct Rounds<'a> {
    pub(crate) bench: Bench,
    row: &'a Row,
    seed: u64,
    /// Steps of idle arithmetic before each packet.
    spin: u32,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(bench: Bench, row: &'a Row) -> Self {
        Self { bench, row, seed: 0x9e37_79b9_7f4a_7c15, spin: 0 }
    }

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
            sequence: 0,
            stride: 0,
        }
    }

    /// Fills a program's tables with the row's initial flows.
    pub(crate) fn prepare(&mut self, tested: &mut Tested) -> Result<()> {
        self.bench.select(&tested.program)?;
        let shed_all = |all| tested.subject.iter().for_each(|subject| subject.shed_all(all));
        shed_all(false);
        match self.row.kind {
            RowKind::Settled => self.settle()?,
            RowKind::New(_) | RowKind::Inspected { .. } => self.fill()?,
            RowKind::Transit => {}
        }
        shed_all(self.row.takes == PacketPath::Shed);
        tested.opened = 0;
        tested.evictable_s = coarse_seconds() + u64::from(FRESH_SECONDS);
        Ok(())
    }

    /// Sends every flow of the row enough packets that its inspection is over.
    fn settle(&mut self) -> Result<()> {
        let mask = u64::from(self.row.flows - 1);
        // The first hello of both sides ends an inspection: the next ones repeat its bytes.
        for direction in [UP, DOWN] {
            let generator = self.generator(SEQUENTIAL, direction, mask, 0);
            self.bench.generate(generator)?;
            self.bench.run(self.row.framing.prologue(), &self.row.frame, self.row.flows * SETTLING_PASSES)?;
        }
        Ok(())
    }

    /// Sends one packet of each filling flow.
    fn fill(&mut self) -> Result<()> {
        let flows = self.row.filling_flows();
        let generator = self.generator(SEQUENTIAL, UP, u64::from(flows - 1), FILLING_SALT);
        self.bench.generate(generator)?;
        self.bench.run(self.row.framing.prologue(), &self.row.frame, flows)?;
        Ok(())
    }

    /// Empties and fills the tables of a program when the next measurement would find too few ways; waits until flows
    /// that it is to evict are old enough.
    fn make_room(&mut self, tested: &mut Tested) -> Result<()> {
        if tested.role == Role::Empty {
            return Ok(());
        }
        if tested.opened + self.row.opened_flows() > self.row.room() && tested.opened > 0 {
            match &tested.subject {
                Some(subject) => subject.empty_flow_table(),
                None => self.bench.empty_flow_tables()?,
            }
            self.prepare(tested)?;
        }
        tested.opened += self.row.opened_flows();
        tested.opened_ever += u64::from(self.row.opened_flows());
        while matches!(self.row.kind, RowKind::New(TableState::FullOfOld)) && coarse_seconds() < tested.evictable_s {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The number of steps that make a program slower by this part of its cost, in percent: by ratios within a round,
    /// since a virtual processor is now faster, now slower.
    pub(crate) fn steps(&mut self, tested: &mut Tested, empty: &mut Tested, percent: u32) -> Result<u32> {
        // The first verdicts of a subscriber cost more or less than later ones.
        self.time(tested, 0)?;
        let limited = |steps: f64| steps.round().clamp(1.0, f64::from(MAX_SPIN));
        let (wanted, mut guesses, mut factors) = (f64::from(percent) / 100.0, Vec::new(), Vec::new());
        for _ in 0..CALIBRATING_ROUNDS {
            let (nothing, spun, plain) = (self.time(empty, 0)?, self.time(empty, MAX_SPIN)?, self.time(tested, 0)?);
            guesses.push(wanted * (plain - nothing) / (spun - nothing) * f64::from(MAX_SPIN));
        }
        let guess = limited(median(&mut guesses).context("no round")?.median);
        // Steps in front of a program that waits for memory partly take place while it waits.
        for _ in 0..CALIBRATING_ROUNDS {
            let (nothing, plain, spun) =
                (self.time(empty, 0)?, self.time(tested, 0)?, self.time(tested, guess as u32)?);
            factors.push(wanted * (plain - nothing) / (spun - plain));
        }
        let factor = median(&mut factors).context("no round")?.median.clamp(0.5, 2.0);
        Ok(limited(guess * factor) as u32)
    }

    /// One timed run.
    pub(crate) fn time(&mut self, tested: &mut Tested, spin: u32) -> Result<f64> {
        self.make_room(tested)?;
        self.bench.select(&tested.program)?;
        self.spin = spin;
        match &self.row.kind {
            RowKind::Settled | RowKind::Transit => self.time_settled(tested),
            RowKind::New(table) => self.time_new(tested, *table),
            RowKind::Inspected { opening, passes } => self.time_inspected(tested, opening, *passes),
        }
    }

    fn time_settled(&mut self, tested: &mut Tested) -> Result<f64> {
        let row = self.row;
        let generator = self.generator(row.order, row.direction, u64::from(row.flows - 1), 0);
        self.bench.generate(generator)?;
        self.bench.run_on(row.cpus, row.framing.prologue(), &row.frame, WARM_PACKETS)?;
        let before = tested.events()?;
        let ns = self.bench.run_on(row.cpus, row.framing.prologue(), &row.frame, RUN_PACKETS)?;
        note(tested, before.as_deref(), &[(row.takes, u64::from(RUN_PACKETS) * row.cpus as u64)])?;
        Ok(ns)
    }

    fn time_new(&mut self, tested: &mut Tested, table: TableState) -> Result<f64> {
        let row = self.row;
        if table == TableState::FullOfFresh && tested.role != Role::Empty {
            self.fill()?;
        }
        let generator = self.generator(RANDOM, row.direction, (1 << 40) - 1, 1 << 41);
        self.bench.generate(generator)?;
        self.bench.run(row.framing.prologue(), &row.frame, WARM_NEW_PACKETS)?;
        let before = tested.events()?;
        let ns = self.bench.run(row.framing.prologue(), &row.frame, NEW_PACKETS)?;
        note(tested, before.as_deref(), &[(row.takes, u64::from(NEW_PACKETS))])?;
        Ok(ns)
    }

    fn time_inspected(&mut self, tested: &mut Tested, opening: &[Packet], passes: u32) -> Result<f64> {
        let row = self.row;
        let (prologue, mask, mut sum_ns) = (row.framing.prologue(), u64::from(row.flows - 1), 0.0);
        // Around the opening, too: reading counters in between would disturb the caches.
        let before = tested.events()?;
        for _ in 0..row.batches() {
            let salt = self.seed >> 8;
            for packet in opening {
                let generator = self.generator(SEQUENTIAL, packet.direction, mask, salt);
                self.bench.generate(generator)?;
                self.bench.run(prologue, &packet.frame, row.flows)?;
            }
            let generator = self.generator(SEQUENTIAL, row.direction, mask, salt);
            // Segments that repeat one another are not inspected.
            let sent = opening.iter().filter(|packet| packet.direction == row.direction);
            let sent: u32 = sent.map(|packet| tcp_payload_len(&packet.frame)).sum();
            self.bench.generate(Generator {
                sequence: FIRST_SEQUENCE + sent,
                stride: tcp_payload_len(&row.frame),
                ..generator
            })?;
            sum_ns += self.bench.run(prologue, &row.frame, row.flows * passes)?;
        }
        let flows = u64::from(row.flows * row.batches());
        let expected = [
            (PacketPath::New, flows),
            (PacketPath::Known, flows * (opening.len() as u64 - 1)),
            (row.takes, flows * u64::from(passes)),
        ];
        note(tested, before.as_deref(), &expected)?;
        Ok(sum_ns / f64::from(row.batches()))
    }
}

/// Notes which paths packets took, and should have taken; the last ones are the measured ones.
fn note(tested: &mut Tested, before: Option<&[u64]>, expected: &[(PacketPath, u64)]) -> Result<()> {
    let packets = expected.iter().map(|(_, packets)| packets).sum();
    let Some(took) = tested.paths_of(before, packets)? else { return Ok(()) };
    tested.took.add_all(&took);
    for (path, packets) in expected {
        tested.expected.add(*path, *packets);
    }
    tested.measured += expected.last().map_or(0, |(_, packets)| *packets);
    Ok(())
}

/// Seconds of the kernel's coarse monotonic clock, by which the packet path dates flows (`bpf_ktime_get_coarse_ns`).
fn coarse_seconds() -> u64 {
    clock_gettime(ClockId::MonotonicCoarse).tv_sec as u64
}
