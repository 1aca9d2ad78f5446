//! The benchmark object in the kernel, and one timed run of the test runner.
#![expect(unsafe_code, reason = "the generator's record is plain old data; a network namespace of the thread")]

use std::{fs, path::Path, thread};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{
        HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp, XdpMode},
    util::nr_cpus,
};
use rustix::thread::{CpuSet, UnshareFlags, sched_setaffinity, unshare_unsafe};

use crate::{
    clock::cpu_time,
    layout::{Generator, POOL_V4, POOL_V6, POOLS_V4},
    row::Row,
};

/// `XDP_PASS`, the only verdict there is.
const XDP_PASS: u32 = 2;

// SAFETY: `Generator` is `repr(C)`, made of integers, without padding (its size is asserted at the type).
unsafe impl aya::Pod for Generator {}

/// Index of the loopback device, in every network namespace.
const LOOPBACK: u32 = 1;

/// Takes this thread, and those it starts, into a network namespace of its own, whose loopback device nobody else uses.
pub(crate) fn leave_network() -> Result<()> {
    // SAFETY: of the flags only `FILES` takes something away from code that relies on it; this is another one.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("making a network namespace: it needs root")
}

/// The loaded benchmark object.
pub(crate) struct Bench {
    object: Ebpf,
    programs: ProgramArray<MapData>,
    generator: PerCpuArray<MapData, Generator>,
    cpus: usize,
}

impl Bench {
    /// Loads the object with reference tables for a row's flows and subscribers, and its pools in the tries.
    pub(crate) fn load(path: &Path, row: &Row) -> Result<Self> {
        let (flows, subscribers, pools) = (row.table_flows(), row.subscribers, row.pools);
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let capacity = (flows * 2).max(1 << 12);
        let mut object = EbpfLoader::new()
            .map_max_entries("FLOWS_V4", capacity)
            .map_max_entries("FLOWS_V6", capacity)
            .map_max_entries("TALLIES_V4", subscribers * 2)
            .map_max_entries("TALLIES_V6", subscribers * 2)
            .load(&bytes)
            .context("loading the benchmark object")?;
        for name in ["empty", "reference", "prologue_ipv4", "prologue_ipv6", "prologue_qinq_pppoe"] {
            let program: &mut Xdp = object.program_mut(name).context("program of the benchmark object")?.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        let prologue: &mut Xdp = object.program_mut(row.framing.prologue()).context("prologue")?.try_into()?;
        // An attached program is in the kernel's dispatcher already. For any other one the test runner patches the
        // dispatcher before and after each run, and waits for the other CPUs each time (`bpf_prog_change_xdp` in
        // net/bpf/test_run.c): half a millisecond of CPU time and 35 ms of waiting, in which the caches cool, around
        // runs of a millisecond.
        prologue.attach_to_if_index(LOOPBACK, XdpMode::Skb).context("attaching the prologue to the loopback device")?;
        let mut trie: LpmTrie<_, u32, u32> = LpmTrie::try_from(object.take_map("POOLS_V4").context("POOLS_V4")?)?;
        if pools == 1 {
            trie.insert(&Key::new(10, POOL_V4.to_be()), 32, 0)?;
        } else {
            for pool in 0..pools {
                trie.insert(&Key::new(14, (POOLS_V4 + (pool << 18)).to_be()), 32, 0)?;
            }
        }
        let mut trie: LpmTrie<_, u128, u32> = LpmTrie::try_from(object.take_map("POOLS_V6").context("POOLS_V6")?)?;
        trie.insert(&Key::new(32, (u128::from(POOL_V6) << 96).to_be()), 56, 0)?;
        let programs = ProgramArray::try_from(object.take_map("PROGRAMS").context("PROGRAMS")?)?;
        let generator = PerCpuArray::try_from(object.take_map("GENERATOR").context("GENERATOR")?)?;
        let cpus = nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
        Ok(Self { object, programs, generator, cpus })
    }

    /// The fd of a program of the object.
    pub(crate) fn program(&self, name: &str) -> Result<ProgramFd> {
        let program: &Xdp = self.object.program(name).context("program of the benchmark object")?.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }

    /// Forgets every flow of the reference.
    pub(crate) fn empty_flow_tables(&mut self) -> Result<()> {
        // Keys and values of `monitor-ebpf/src/bin/bench/reference.rs`.
        self.forget::<[u8; 16], [u8; 16]>("FLOWS_V4")?;
        self.forget::<[u8; 40], [u64; 3]>("FLOWS_V6")
    }

    fn forget<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Result<()> {
        let mut flows: HashMap<_, K, V> = self.object.map_mut(name).context("flows of the reference")?.try_into()?;
        for key in flows.keys().collect::<Result<Vec<_>, _>>()? {
            flows.remove(&key)?;
        }
        Ok(())
    }

    /// Makes the prologue tail-call a program under test.
    pub(crate) fn select(&mut self, program: &ProgramFd) -> Result<()> {
        self.programs.set(0, program, 0).context(
            "putting the program into the tail-call table: it must be an XDP program with frags support, JIT-compiled",
        )
    }

    /// Sets the generator of every CPU; each gets random numbers of its own.
    pub(crate) fn generate(&mut self, generator: Generator) -> Result<()> {
        let of_cpu = |cpu: usize| Generator { random: generator.random ^ ((cpu as u64) << 32), ..generator };
        self.generator.set(0, PerCpuValues::try_from((0..self.cpus).map(of_cpu).collect::<Vec<_>>())?, 0)?;
        Ok(())
    }

    /// As [`Self::run`], on the first `cpus` CPUs at once; the mean of their times.
    pub(crate) fn run_on(&self, cpus: usize, prologue: &str, frame: &[u8], packets: u32) -> Result<f64> {
        if cpus == 1 {
            return self.run(prologue, frame, packets);
        }
        ensure!(cpus <= self.cpus, "a row of {cpus} CPUs on a machine with {}", self.cpus);
        let times: Vec<Result<f64>> = thread::scope(|scope| {
            let run = |cpu| {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set).context("pinning a thread")?;
                self.run(prologue, frame, packets)
            };
            let threads: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || run(cpu))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        Ok(times.into_iter().sum::<Result<f64>>()? / cpus as f64)
    }

    /// Sends `packets` packets; the CPU time per packet of this thread, in ns. Time lost to other processes does not
    /// count.
    pub(crate) fn run(&self, prologue: &str, frame: &[u8], packets: u32) -> Result<f64> {
        let program: &Xdp = self.object.program(prologue).context("prologue")?.try_into()?;
        let start = cpu_time();
        let result = program
            .test_run(TestRunOptions { data_in: Some(frame), repeat: packets, ..TestRunOptions::new() })
            .context("BPF_PROG_TEST_RUN")?;
        let took = cpu_time() - start;
        ensure!(result.return_value == XDP_PASS, "{prologue}: returned {} instead of XDP_PASS", result.return_value);
        if packets == 0 {
            bail!("no packets");
        }
        Ok(took.as_secs_f64() * 1e9 / f64::from(packets))
    }
}
