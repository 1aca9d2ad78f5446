//! The processor, as the kernel describes it.

use std::fs;

use anyhow::{Context as _, Result};

/// Content of `/proc/cpuinfo` (proc_cpuinfo(5)).
pub(super) struct Processor(String);

impl Processor {
    /// Reads it.
    pub(super) fn read() -> Result<Self> {
        fs::read_to_string("/proc/cpuinfo").map(Self).context("cannot read /proc/cpuinfo")
    }

    /// A field of the first CPU.
    pub(super) fn field(&self, name: &str) -> &str {
        let line = self.0.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim())
    }

    /// CPUs that are online.
    pub(super) fn count(&self) -> usize {
        self.0.lines().filter(|line| line.starts_with("processor")).count()
    }

    /// Name, family and model.
    pub(super) fn kind(&self) -> String {
        format!("{}, family {} model {}", self.field("model name"), self.field("cpu family"), self.field("model"))
    }
}
