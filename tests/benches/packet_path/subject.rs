//! The program under test: the shipped object, loaded as the agent loads it.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
    programs::{ProgramFd, Xdp},
};

use crate::{
    layout::{POOL_V4, POOL_V6, POOLS_V4},
    rows::Row,
};

/// The loaded program.
pub(crate) struct Subject(Ebpf);

impl Subject {
    /// Loads the shipped object with tables for a row.
    pub(crate) fn load(row: &Row) -> Result<Self> {
        let path = std::env::var("SUBJECT")?;
        let factor: u32 = std::env::var("FACTOR").map_or(4, |f| f.parse().unwrap());
        let sets = (row.flows * factor / 4).max(1024);
        let slots = 1u32 << 18;
        let replaying = 0u8;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOWS", sets)
            .map_max_entries("COLD_FLOWS", sets)
            .map_max_entries("TALLIES", slots)
            .map_max_entries("TALLY_KEYS", slots)
            .map_max_entries("TALLY_SLOTS", slots)
            .override_global("REPLAYING", &replaying, false)
            .load(&std::fs::read(path)?)?;
        let program: &mut Xdp =
            ebpf.program_mut(&std::env::var("PROGRAM").unwrap_or("peertally".into())).context("p")?.try_into()?;
        program.load()?;
        let mut a: Array<_, [u64; 8]> = Array::try_from(ebpf.map_mut("SETTINGS").context("s")?)?;
        a.set(
            0,
            [
                0x1234_5678_9abc_def1,
                0x9e37_79b9_7f4a_7c15,
                0xbf58_476d_1ce4_e5b9,
                u64::from(sets - 1),
                0,
                1,
                u64::from(slots),
                1,
            ],
            0,
        )?;
        if ebpf.map("POOLS").is_none() {
            return Ok(Self(ebpf));
        }
        let mut i: HashMap<_, u32, u32> = HashMap::try_from(ebpf.map_mut("INTERFACES").context("s")?)?;
        i.insert(1, 0, 0)?;
        let mut trie: LpmTrie<_, u128, u32> = LpmTrie::try_from(ebpf.map_mut("POOLS").context("POOLS")?)?;
        let v4 = |a: u32| (0xffff_0000_0000u128 | u128::from(a)).to_be();
        if row.pools == 1 {
            trie.insert(&Key::new(96 + 10, v4(POOL_V4)), 128, 0)?;
        } else {
            for pool in 0..row.pools {
                trie.insert(&Key::new(96 + 14, v4(POOLS_V4 + (pool << 18))), 128, 0)?;
            }
        }
        trie.insert(&Key::new(32, (u128::from(POOL_V6) << 96).to_be()), 56, 0)?;
        Ok(Self(ebpf))
    }

    /// The program's fd.
    pub(crate) fn program(&self) -> Result<ProgramFd> {
        let program: &Xdp =
            self.0.program(&std::env::var("PROGRAM").unwrap_or("peertally".into())).context("p")?.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }

    pub(crate) fn events(&self) -> Result<Vec<(u32, u64)>> {
        if self.0.map("POOLS").is_none() {
            return Ok(Vec::new());
        }
        let a: aya::maps::PerCpuArray<_, u64> = self.0.map("EVENTS").context("e")?.try_into()?;
        Ok((0..11).map(|i| (i, a.get(&i, 0).unwrap().iter().sum())).filter(|x: &(u32, u64)| x.1 > 0).collect())
    }
}
