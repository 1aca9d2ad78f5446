//! Tests that need a program which may be missing.

/// Says that a test is skipped because `program` is missing. The package `package` has it.
///
/// # Panics
/// In strict mode, in which a skip is a failure.
pub(crate) fn skip(program: &str, package: &str) {
    let strict = std::env::var("PEERTALLY_STRICT").is_ok_and(|value| value == "1");
    assert!(!strict, "{program} is missing: apt-get install {package}");
    eprintln!("SKIPPED: {program} is not installed (apt-get install {package})");
}
