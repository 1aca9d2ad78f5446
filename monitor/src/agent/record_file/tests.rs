//! Chains through crashes, rotations by us and by others, and a disk that is full.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("records.jsonl")
    }

    fn open(&self, file_bytes: u64, files: usize) -> RecordFile {
        RecordFile::open(self.path(), Rotation { file_bytes, files }).expect("opens")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("reads")
    }

    fn chain(&self) -> Result<Chain, ChainError> {
        verify(&self.path(), |_| {})
    }
}

fn append(file: &mut RecordFile, numbers: std::ops::Range<u32>) {
    let records: Vec<String> = numbers.map(|number| format!("{{\"number\":{number}}}")).collect();
    let appended = file.append(records.iter().map(String::as_str));
    assert!(appended.error.is_none() && appended.written == records.len(), "{appended:?}");
}

fn numbers(scratch: &Scratch) -> Vec<u64> {
    let mut numbers = Vec::new();
    let read = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        numbers.push(record["number"].as_u64().expect("a number"));
    };
    verify(&scratch.path(), read).expect("whole");
    numbers
}

#[test]
fn records_are_chained_over_restarts_and_tampering_shows() {
    let scratch = Scratch::new();
    append(&mut scratch.open(1 << 20, 2), 0..2);
    append(&mut scratch.open(1 << 20, 2), 2..3);
    assert_eq!(numbers(&scratch), [0, 1, 2]);
    let text = scratch.text();
    assert!(text.starts_with(&format!("{{\"number\":0,\"previous\":\"{FIRST}\"}}\n")), "{text}");
    assert_eq!(fs::metadata(scratch.path()).expect("there").permissions().mode() & 0o777, 0o600);
    let chain = scratch.chain().expect("whole");
    assert!(chain.is_from_the_first && !chain.is_torn && chain.unchained == 0);

    for (tampered, line) in [
        (text.replace("\"number\":1", "\"number\":7"), ":3:"),
        (text.lines().step_by(2).map(|line| format!("{line}\n")).collect(), ":2:"),
        (text.replacen('{', "", 1), ":1:"),
    ] {
        fs::write(scratch.path(), tampered).expect("writes");
        let error = scratch.chain().expect_err("tampered with").to_string();
        assert!(error.contains(line) && error.contains("chain is broken"), "{error}");
    }
}

#[test]
fn a_torn_line_is_mended_and_the_next_record_is_whole() {
    let scratch = Scratch::new();
    append(&mut scratch.open(1 << 20, 2), 0..2);
    fs::write(scratch.path(), scratch.text() + "{\"number\":2,\"prev").expect("writes");
    assert!(scratch.chain().expect("torn, not broken").is_torn);
    append(&mut scratch.open(1 << 20, 2), 2..4);
    assert_eq!(numbers(&scratch), [0, 1, 2, 3]);
    // A file with nothing but a torn line.
    fs::write(scratch.path(), "{\"num").expect("writes");
    append(&mut scratch.open(1 << 20, 2), 0..1);
    assert_eq!(numbers(&scratch), [0]);
}

#[test]
fn lines_of_earlier_versions_may_stand_in_front_only() {
    let scratch = Scratch::new();
    fs::write(scratch.path(), "{\"number\":0}\n{\"number\":1}\n").expect("writes");
    append(&mut scratch.open(1 << 20, 2), 2..4);
    assert_eq!(scratch.chain().expect("whole").unchained, 2);
    fs::write(scratch.path(), scratch.text() + "{\"number\":4}\n").expect("writes");
    assert!(scratch.chain().is_err(), "a line without a chain at the end");
}

#[test]
fn files_are_rotated_by_size_and_their_number_is_bounded() {
    let scratch = Scratch::new();
    let mut file = scratch.open(300, 2);
    let mut removed = 0;
    for number in 0..20 {
        let record = format!("{{\"number\":{number}}}");
        removed += file.append([record.as_str()]).removed_files;
    }
    let kept = numbers(&scratch);
    assert!(kept.len() < 20 && kept.ends_with(&[17, 18, 19]), "{kept:?}");
    assert!(removed > 0 && !scratch.chain().expect("whole").is_from_the_first);
    assert_eq!(fs::read_dir(scratch.folder.path()).expect("a folder").count(), 3);
    // The chain goes on through a restart right after a rotation.
    drop(file);
    fs::rename(older(&scratch.path(), 1), older(&scratch.path(), 2)).expect("moved");
    fs::rename(scratch.path(), older(&scratch.path(), 1)).expect("moved");
    append(&mut scratch.open(1 << 20, 2), 20..21);
    assert!(numbers(&scratch).ends_with(&[19, 20]));
}

#[test]
fn a_rotation_by_another_program_is_followed() {
    let scratch = Scratch::new();
    let mut file = scratch.open(1 << 20, 2);
    append(&mut file, 0..2);
    fs::rename(scratch.path(), older(&scratch.path(), 1)).expect("moved");
    append(&mut file, 2..4);
    assert_eq!(numbers(&scratch), [0, 1, 2, 3]);
    // Copied away and emptied in place.
    fs::copy(scratch.path(), older(&scratch.path(), 1)).expect("copied");
    fs::write(scratch.path(), "").expect("emptied");
    append(&mut file, 4..6);
    assert_eq!(numbers(&scratch), [2, 3, 4, 5]);
    // Removed with all before it.
    fs::remove_file(scratch.path()).expect("removed");
    fs::remove_file(older(&scratch.path(), 1)).expect("removed");
    append(&mut file, 6..7);
    assert_eq!(numbers(&scratch), [6]);
}
