//! Verified instructions per kernel series and program: the recorded numbers and the gate on them.
//!
//! Each stage of the data path is a program with a number of its own. The kernel's limit is 1,000,000
//! (`BPF_COMPLEXITY_LIMIT_INSNS` in `include/linux/bpf.h`). More than half of that stays as head room for later rules,
//! and a jump against the recorded number must be examined even below.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::workspace::root;

/// The recorded numbers, from the repository's root.
pub(super) const PATH: &str = "tests/baselines/verifier.json";

/// Verified instructions a program may cost on any kernel.
const LIMIT: u64 = 600_000;

/// Growth over the recorded number that is let pass, in percent.
const GROWTH_PERCENT: u64 = 20;

/// Verified instructions by program.
pub(super) type Counts = BTreeMap<String, u64>;

/// The recorded numbers by kernel series.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Baseline(BTreeMap<String, Counts>);

impl Baseline {
    pub(super) fn read() -> Result<Self> {
        let path = root().join(PATH);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {PATH}"))?;
        Ok(Self(serde_json::from_str(&text).with_context(|| format!("{PATH} is no baseline"))?))
    }

    pub(super) fn write(&self) -> Result<()> {
        let path = root().join(PATH);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&path, serde_json::to_string_pretty(&self.0)? + "\n").with_context(|| format!("cannot write {PATH}"))
    }

    pub(super) fn set(&mut self, series: &str, counts: &Counts) {
        self.0.insert(series.to_owned(), counts.clone());
    }

    /// Compares measured numbers with the recorded ones.
    pub(super) fn check(&self, series: &str, counts: &Counts) -> Result<()> {
        if counts.is_empty() {
            bail!("no instruction count was reported");
        }
        if let Some(missing) =
            self.0.get(series).and_then(|recorded| recorded.keys().find(|program| !counts.contains_key(*program)))
        {
            bail!(
                "{missing} has a recorded count, but none was reported: is it gone? Run `cargo xtask kernels --bless`"
            );
        }
        for (program, &count) in counts {
            if count > LIMIT {
                bail!("{program} costs {count} verified instructions, above the limit of {LIMIT}");
            }
            let Some(&recorded) = self.0.get(series).and_then(|counts| counts.get(program)) else {
                bail!("{program} has no recorded count ({count} measured): run `cargo xtask kernels --bless`");
            };
            if count * 100 > recorded * (100 + GROWTH_PERCENT) {
                bail!(
                    "{program} costs {count} verified instructions, {recorded} are recorded: if that is worth it, run \
                     `cargo xtask kernels --bless`"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u64) -> Counts {
        [("peertally".to_owned(), count)].into()
    }

    #[test]
    fn gate() {
        let mut baseline = Baseline::default();
        assert!(baseline.check("6.1", &counts(1)).is_err(), "nothing recorded");
        baseline.set("6.1", &counts(1000));
        assert!(baseline.check("6.1", &counts(1200)).is_ok());
        assert!(baseline.check("6.1", &counts(1201)).is_err(), "grown");
        assert!(baseline.check("6.1", &Counts::new()).is_err(), "nothing measured");
        baseline.set("6.1", &counts(500_000));
        assert!(baseline.check("6.1", &counts(600_001)).is_err(), "above the limit");
        let stages = [("peertally".to_owned(), 1), ("peertally_flow".to_owned(), 1)].into();
        baseline.set("6.1", &stages);
        assert!(baseline.check("6.1", &stages).is_ok());
        assert!(baseline.check("6.1", &counts(1)).is_err(), "a stage is gone");
    }
}
