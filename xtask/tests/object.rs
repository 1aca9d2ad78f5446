//! The committed BPF objects are what their provenance says and what the sources give. Host only: needs no BPF
//! toolchain. `cargo xtask build-ebpf --check` does the byte-for-byte comparison.

use xtask::provenance::{OBJECTS, stale};

#[test]
fn committed_objects_match_their_sources() {
    assert!(!OBJECTS.is_empty());
    let reasons: Vec<String> = OBJECTS.iter().filter_map(|object| stale(object).expect("readable sources")).collect();
    assert!(reasons.is_empty(), "{}: run `cargo xtask build-ebpf` and commit the result", reasons.join("; "));
}

#[test]
fn objects_hold_no_debug_sections_and_no_paths_of_the_builder() {
    for object in OBJECTS {
        let bytes = std::fs::read(object.file()).expect("committed object");
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert_eq!(&bytes[..4], b"\x7fELF", "{}", object.path);
        assert!(holds(".BTF"), "{} has no BTF: aya cannot relocate it", object.path);
        for unwanted in [".debug_info", "/home/", "/root/", "/tmp/", "index.crates.io"] {
            assert!(!holds(unwanted), "{} contains `{unwanted}`", object.path);
        }
    }
}
