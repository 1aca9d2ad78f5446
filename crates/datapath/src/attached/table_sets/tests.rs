//! Sets that are replaced in an ordinary folder, by starts that are killed before each step.

use std::{cell::Cell, collections::BTreeMap};

use super::*;

thread_local! {
    /// Steps until the kill.
    static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// Counts a step; fails if the test kills the start here.
pub(super) fn step() -> io::Result<()> {
    let left = LEFT.get();
    if left == 0 {
        return Err(io::Error::other("killed by the test"));
    }
    LEFT.set(left - 1);
    Ok(())
}

/// Runs with a kill before the step with this number; whether it was killed.
fn killed_at(number: u32, start: impl FnOnce() -> io::Result<()>) -> bool {
    LEFT.set(number);
    let ended = start();
    LEFT.set(u32::MAX);
    ended.is_err()
}

const NAMES: [&str; 4] = ["NODE", "FLOWS", "TALLIES", SETTINGS];

/// A folder with a set whose pins hold `text`, as well as a link and a record.
fn present(test: &str, text: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("peertally-sets-{}-{test}", std::process::id()));
    let _absent = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    for name in NAMES {
        fs::write(folder.join(name), if name == "NODE" { "shared" } else { text }).expect("written");
    }
    fs::write(folder.join("link_7"), "link").expect("written");
    records::write(&folder, "attached_7", "acc1").expect("written");
    records::set_complete(&folder, "net").expect("written");
    folder
}

/// Makes the next set, and swaps the program; then it may have counts.
fn swap(folder: &Path, text: &str) -> io::Result<()> {
    let next = make_next(folder)?;
    for name in NAMES.iter().filter(|name| **name != "NODE") {
        fs::write(next.join(name), text)?;
    }
    step()?;
    records::set_complete(&next, "net")?;
    step()
}

/// Text of the pins of a set.
fn set(folder: &Path) -> BTreeMap<String, String> {
    let text = |name: String| {
        let text = fs::read_to_string(folder.join(&name)).expect("read");
        (name, text)
    };
    tables(folder).expect("listed").into_iter().map(text).collect()
}

fn whole(text: &str) -> BTreeMap<String, String> {
    let text_of = |name: &str| if name == "NODE" { "shared".to_owned() } else { text.to_owned() };
    NAMES.iter().map(|name| ((*name).to_owned(), text_of(name))).collect()
}

/// What must hold between two starts: the present set is whole, and each other one that may have counts is, too.
fn sets(folder: &Path) -> (BTreeMap<String, String>, Vec<BTreeMap<String, String>>) {
    assert!(!folder.join(NEXT).exists() && !folder.join(LAST).exists(), "a folder is left");
    assert!(folder.join("link_7").exists() && records::complete(folder).expect("read").is_some(), "pins are lost");
    (set(folder), replaced(folder).expect("listed").iter().map(|each| set(each)).collect())
}

#[test]
fn a_start_that_is_killed_before_any_step_leaves_whole_sets() {
    let mut ends = Vec::new();
    for number in 0.. {
        let folder = present("kill", "old");
        let killed = killed_at(number, || swap(&folder, "new").and_then(|()| replace(&folder)));
        // The kill of the start after that one, at each of its steps.
        for again in 0.. {
            if !killed_at(again, || recover(&folder)) {
                break;
            }
        }
        let end = match sets(&folder) {
            (now, before) if now == whole("old") && before.is_empty() => "as it was",
            (now, before) if now == whole("old") && before == [whole("new")] => "both have counts",
            (now, before) if now == whole("new") && before == [whole("old")] => "replaced",
            other => panic!("killed before step {number}: {other:?}"),
        };
        fs::remove_dir_all(folder).expect("removed");
        ends.push(end);
        if !killed {
            break;
        }
    }
    println!("{ends:?}");
    assert_eq!((ends[0], ends.last()), ("as it was", Some(&"replaced")));
    ends.dedup();
    assert_eq!(ends, ["as it was", "both have counts", "replaced"], "a later kill never ends earlier");
}

#[test]
fn a_set_of_an_older_schema_has_its_own_names_and_gives_them_up() {
    let folder = present("older", "old");
    fs::write(folder.join("OLD_ONLY"), "old").expect("written");
    records::write(&folder, SCHEMA, "10").expect("written");
    for number in 0.. {
        // Each start is killed one step later than the one before.
        let start = || {
            recover(&folder)?;
            if records::read(&folder, SCHEMA)?.is_some() {
                swap(&folder, "new").and_then(|()| replace(&folder))?;
            }
            Ok(())
        };
        if !killed_at(number, start) {
            break;
        }
    }
    assert_eq!(records::read(&folder, SCHEMA).expect("read"), None);
    let (now, before) = sets(&folder);
    assert_eq!(now, whole("new"));
    let old: Vec<_> = before.iter().filter(|each| each.contains_key("OLD_ONLY")).collect();
    let mut expected = whole("old");
    expected.insert("OLD_ONLY".to_owned(), "old".to_owned());
    assert_eq!(old, [&expected]);
    assert!(before.iter().all(|each| *each == expected || *each == whole("new")), "{before:?}");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_replaced_set_is_removed_and_no_other() {
    let folder = present("remove", "old");
    swap(&folder, "new").and_then(|()| replace(&folder)).expect("replaced");
    swap(&folder, "newer").and_then(|()| replace(&folder)).expect("replaced");
    let [first, second] = replaced(&folder).expect("listed").try_into().expect("two sets");
    for number in 0.. {
        if !killed_at(number, || remove(&first)) {
            break;
        }
        // The start after the kill removes what is left, or books it once more.
        let left = replaced(&folder).expect("listed");
        assert!(left == [second.clone()] || number == 0 || !first.join(SETTINGS).exists(), "{number}: {left:?}");
    }
    recover(&folder).expect("recovered");
    assert_eq!(replaced(&folder).expect("listed"), [second]);
    assert_eq!(set(&folder), whole("newer"));
    fs::remove_dir_all(folder).expect("removed");
}
