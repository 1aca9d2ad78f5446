//! The benchmark object in the kernel, and one timed run of the test runner.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{
        MapData, PerCpuArray, PerCpuValues, ProgramArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};

use crate::{
    clock::cpu_time,
    layout::{Generator, POOL_V4, POOL_V6, POOLS_V4},
    rows::SUBSCRIBERS,
};

/// `XDP_PASS`, the only verdict there is.
const XDP_PASS: u32 = 2;

// SAFETY: `Generator` is `repr(C)`, made of integers, without padding (its size is asserted beside it).
unsafe impl aya::Pod for Generator {}

/// The loaded benchmark object.
pub(crate) struct Bench {
    object: Ebpf,
    programs: ProgramArray<MapData>,
    generator: PerCpuArray<MapData, Generator>,
    cpus: usize,
}

impl Bench {
    /// Loads the object with reference tables for `flows` flows, and `pools` pools in its tries.
    pub(crate) fn load(path: &Path, flows: u32, pools: u32) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let capacity = (flows * 2).max(1 << 12);
        let mut object = EbpfLoader::new()
            .map_max_entries("FLOWS_V4", capacity)
            .map_max_entries("FLOWS_V6", capacity)
            .map_max_entries("TALLIES_V4", SUBSCRIBERS * 2)
            .map_max_entries("TALLIES_V6", SUBSCRIBERS * 2)
            .load(&bytes)
            .context("loading the benchmark object")?;
        for name in ["empty", "reference", "prologue_ipv4", "prologue_ipv6", "prologue_qinq_pppoe"] {
            let program: &mut Xdp = object.program_mut(name).context("program of the benchmark object")?.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
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

    /// Puts a program under test behind the prologue.
    pub(crate) fn select(&mut self, program: &ProgramFd) -> Result<()> {
        self.programs.set(0, program, 0).context(
            "putting the program into the tail-call table: it must be an XDP program with frags support, JIT-compiled",
        )
    }

    /// Sets the generator of every CPU.
    pub(crate) fn generate(&mut self, generator: Generator) -> Result<()> {
        self.generator.set(0, PerCpuValues::try_from(vec![generator; self.cpus])?, 0)?;
        Ok(())
    }

    /// Sends `packets` packets; the CPU time per packet of this thread, in ns. Time lost to other processes does not count.
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
