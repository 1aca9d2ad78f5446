//! Numbers under which interfaces are counted. A name keeps its number for all lives of its interface, whatever index
//! the kernel gives it, and restarts included: each number is recorded beside the pinned counters.

use std::{io, path::Path, sync::Arc};

use monitor_common::abi::limits::MAX_MONITORED_INTERFACES;
use peertally_core::analysis::node::OTHER;

use super::records;

/// Prefix of the names of the records.
const PREFIX: &str = "interface_";

/// Names by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InterfaceNumbers(Vec<Option<Arc<str>>>);

impl InterfaceNumbers {
    /// Reads the numbers recorded in a folder of pins.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let mut numbers = Self::default();
        for number in 0..MAX_MONITORED_INTERFACES {
            if let Some(name) = records::read(folder, &format!("{PREFIX}{number}"))? {
                numbers.set(number, Arc::from(name));
            }
        }
        Ok(numbers)
    }

    /// Number of the interface with this name.
    pub(super) fn of(&self, name: &str) -> Option<u32> {
        let found = self.0.iter().position(|other| other.as_deref() == Some(name));
        found.map(|number| number as u32)
    }

    /// Name of the interface with this number.
    pub(super) fn name(&self, number: u32) -> Option<&Arc<str>> {
        self.0.get(number as usize)?.as_ref()
    }

    /// Gives each of these names a number, and records it. The number of a name that is not among them is given away
    /// only if none is free otherwise, and if `is_used` knows nothing that was counted under it. Returns the names that
    /// found no number.
    ///
    /// # Errors
    /// A record cannot be written.
    pub(super) fn assign(
        &mut self,
        folder: &Path,
        names: &[Arc<str>],
        mut is_used: impl FnMut(u32) -> io::Result<bool>,
    ) -> io::Result<Vec<Arc<str>>> {
        let mut without = Vec::new();
        for name in names {
            if self.of(name).is_some() {
                continue;
            }
            let mut number = (0..MAX_MONITORED_INTERFACES as u32).find(|number| self.name(*number).is_none());
            if number.is_none() {
                for candidate in 0..MAX_MONITORED_INTERFACES as u32 {
                    if !self.name(candidate).is_some_and(|name| names.contains(name)) && !is_used(candidate)? {
                        number = Some(candidate);
                        break;
                    }
                }
            }
            let Some(number) = number else {
                without.push(Arc::clone(name));
                continue;
            };
            records::write(folder, &format!("{PREFIX}{number}"), name)?;
            self.set(number as usize, Arc::clone(name));
        }
        Ok(without)
    }

    /// Records the name of a number that an earlier build gave.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(super) fn adopt(&mut self, folder: &Path, number: u32, name: Arc<str>) -> io::Result<()> {
        records::write(folder, &format!("{PREFIX}{number}"), &name)?;
        self.set(number as usize, name);
        Ok(())
    }

    /// Names by number, for labels; the last number is that of all others.
    pub(super) fn labels(&self) -> Vec<Arc<str>> {
        self.0.iter().map(|name| name.clone().unwrap_or_else(|| Arc::from(OTHER))).collect()
    }

    fn set(&mut self, number: usize, name: Arc<str>) {
        if self.0.len() <= number {
            self.0.resize(number + 1, None);
        }
        self.0[number] = Some(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("peertally-numbers-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    #[test]
    fn a_name_keeps_its_number_and_the_records_have_it() {
        let folder = folder("keep");
        let mut numbers = InterfaceNumbers::default();
        assert!(numbers.assign(&folder, &names(&["a", "b"]), |_| Ok(true)).expect("written").is_empty());
        assert!(numbers.assign(&folder, &names(&["b", "c"]), |_| Ok(false)).expect("written").is_empty());
        assert_eq!(
            (numbers.of("a"), numbers.of("b"), numbers.of("c"), numbers.of("d")),
            (Some(0), Some(1), Some(2), None)
        );
        assert_eq!(InterfaceNumbers::read(&folder).expect("read"), numbers);
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_number_is_given_away_only_if_nothing_was_counted_under_it() {
        let folder = folder("give");
        let mut numbers = InterfaceNumbers::default();
        let all: Vec<Arc<str>> = (0..MAX_MONITORED_INTERFACES).map(|number| Arc::from(format!("i{number}"))).collect();
        assert!(numbers.assign(&folder, &all, |_| Ok(true)).expect("written").is_empty());
        let wanted = names(&["i3", "new"]);
        assert_eq!(numbers.assign(&folder, &wanted, |_| Ok(true)).expect("written"), names(&["new"]));
        // Nothing was counted under 3 and 4, but 3 is wanted.
        let used = |number: u32| Ok(number != 3 && number != 4);
        assert!(numbers.assign(&folder, &wanted, used).expect("written").is_empty());
        assert_eq!((numbers.of("i3"), numbers.of("new"), numbers.of("i4")), (Some(3), Some(4), None));
        assert_eq!(InterfaceNumbers::read(&folder).expect("read"), numbers);
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
