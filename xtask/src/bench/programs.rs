//! The blessed program, kept in the repository: it takes turns with the shipped one, on any processor.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{provenance::OBJECTS, workspace::root};

/// Path of the blessed object.
pub(super) const BASELINE: &str = "tests/baselines/peertally.bpf.o";

/// Rows that stand for all if the object is unchanged, and in which the gate must detect a slower program: a settled, a
/// new and an inspected packet.
pub(super) const CONTROL: [&str; 3] = ["settled-ipv4/1024", "new-flow/131072", "inspect-http/16384"];

/// The builds that a run measures.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs {
    /// In place of the committed object.
    pub(super) shipped: Option<PathBuf>,
    /// In pairs with it.
    pub(super) beside: Option<PathBuf>,
}

impl Programs {
    /// The requested builds; the baseline is the default for pairs.
    pub(super) fn new(shipped: Option<&Path>, beside: Option<&Path>, pairs: bool) -> Result<Self> {
        // The benches run in another folder.
        let absolute =
            |path: &Path| path.canonicalize().with_context(|| format!("cannot find the object {}", path.display()));
        let baseline = || Some(root().join(BASELINE)).filter(|path| pairs && path.exists());
        Ok(Self {
            shipped: shipped.map(absolute).transpose()?,
            beside: beside.map(absolute).transpose()?.or_else(baseline),
        })
    }

    /// Whether both programs have equal bytes, so that no row can be slower.
    pub(super) fn are_one(&self) -> Result<bool> {
        let Some(beside) = &self.beside else { return Ok(false) };
        let shipped = self.shipped.clone().map_or_else(committed, Ok)?;
        Ok(read(&shipped)? == read(beside)?)
    }

    /// A control: the program of `--beside` on both sides.
    pub(super) fn control(&self) -> Option<Self> {
        let beside = self.beside.clone()?;
        Some(Self { shipped: Some(beside.clone()), beside: Some(beside) })
    }
}

/// The committed object.
fn committed() -> Result<PathBuf> {
    let [shipped] = OBJECTS else { bail!("more than one object is shipped: which one is the packet path?") };
    Ok(shipped.file())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Makes the committed object the one that later ones are compared with.
pub(super) fn bless() -> Result<()> {
    let to = root().join(BASELINE);
    fs::write(&to, read(&committed()?)?).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_one_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).expect("written");
            Some(path)
        };
        let of = |shipped, beside| Programs { shipped, beside }.are_one().expect("readable");
        assert!(of(file("one", b"1"), file("other", b"1")));
        assert!(!of(file("one", b"1"), file("other", b"2")));
        assert!(!of(file("one", b"1"), None));
    }

    #[test]
    fn an_object_that_is_not_there_is_told() {
        assert!(Programs::new(Some(Path::new("/nowhere.o")), None, false).is_err());
    }
}
