//! Documents that tests generate from the code. `UPDATE_DOCS=1 cargo test -p monitor --lib` writes them.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

const HOW: &str = "UPDATE_DOCS=1 cargo test -p monitor --lib";

fn update() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compares a committed file with its generated text, or writes it.
pub(crate) fn assert_current(path: &str, generated: &str) {
    let file = in_repository(path);
    if update() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("folder made");
        fs::write(&file, generated).expect("written");
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == generated, "{path} is not current: run {HOW}");
}

/// Compares one generated block of a page with its text, or writes it. Two comments enclose the block.
pub(crate) fn assert_block_current(path: &str, block: &str, generated: &str) {
    // Two tests may write blocks of one page.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let file = in_repository(path);
    let (begin, end) = (format!("<!-- generated: {block} -->\n"), format!("<!-- end: {block} -->\n"));
    let page = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (head, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{path} has no line {begin}"));
    let (committed, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{path} has no line {end}"));
    if update() {
        fs::write(&file, format!("{head}{begin}{generated}{end}{tail}")).expect("written");
    } else {
        assert!(committed == generated, "block `{block}` of {path} is not current: run {HOW}");
    }
}

#[test]
fn the_readme_lists_every_protocol() {
    use monitor_common::abi::protocol::{Protocol, ProtocolClass};
    let mut table = String::from("| class | label | protocol |\n|---|---|---|\n");
    for class in ProtocolClass::ALL {
        for protocol in Protocol::ALL.iter().filter(|protocol| protocol.class() == Some(*class)) {
            let meaning = protocol.meaning().trim().trim_end_matches('.');
            table += &format!("| `{}` | `{}` | {meaning} |\n", class.label(), protocol.label());
        }
    }
    assert_block_current("README.md", "protocols", &table);
}
